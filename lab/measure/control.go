package measure

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stdio is what a command talks to. In may be nil.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// event is a line that an instrument prints. Data is the report, the change or
// the status.
type event struct {
	Event string    `json:"event"`
	At    time.Time `json:"at"`
	Name  string    `json:"name,omitempty"` // of a mark
	Data  any       `json:"data,omitempty"`
}

// The values of event.Event; doc.go says what they mean.
const (
	eventReady  = "ready"
	eventChange = "change"
	eventMark   = "mark"
	eventStatus = "status"
	eventReport = "report"
)

// emitter prints events, one line each, from any goroutine.
type emitter struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func newEmitter(w io.Writer) *emitter { return &emitter{enc: json.NewEncoder(w)} }

func (e *emitter) emit(ev event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev.At.IsZero() {
		ev.At = time.Now()
	}
	if err := e.enc.Encode(ev); err != nil {
		return fmt.Errorf("print %s: %w", ev.Event, err)
	}
	return nil
}

// session is the life of an instrument that runs until told to stop.
type session struct {
	out    *emitter
	mark   func(name string, at time.Time) // may be nil
	status func() any                      // may be nil
}

// follow obeys stdin until it ends. The context that it returns ends with the
// parent, after duration unless that is 0, and at the end of stdin. Its
// goroutine may stay behind in a read of stdin until the process ends.
func (s session) follow(parent context.Context, in io.Reader, duration time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	if duration > 0 {
		timer := time.AfterFunc(duration, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	}
	if in == nil || isDevNull(in) {
		return ctx, cancel
	}
	go func() {
		defer cancel()
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			at := time.Now()
			if err := s.obey(lines.Text(), at); err != nil {
				return
			}
		}
	}()
	return ctx, cancel
}

// obey answers a line from stdin; unknown ones are ignored, so that an older
// instrument survives a newer driver.
func (s session) obey(line string, at time.Time) error {
	verb, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch {
	case verb == "mark" && s.mark != nil:
		name := strings.TrimSpace(arg)
		s.mark(name, at)
		return s.out.emit(event{Event: eventMark, At: at, Name: name})
	case verb == "status" && s.status != nil:
		return s.out.emit(event{Event: eventStatus, At: at, Data: s.status()})
	}
	return nil
}

// isDevNull reports whether in is /dev/null, which is what a program gets that
// was started without anybody to talk to: its end says nothing.
func isDevNull(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Rdev == unix.Mkdev(1, 3)
}

// flagged is a set of options that flags set; fields hold the defaults.
type flagged interface{ flags(fs *flag.FlagSet) }

// parse sets opts from args.
func parse(name string, opts flagged, args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	opts.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("parse arguments of %s: unexpected %q", name, fs.Arg(0))
	}
	return nil
}

// arguments is the inverse of parse.
func arguments(opts flagged) []string {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	opts.flags(fs)
	var args []string
	fs.VisitAll(func(f *flag.Flag) { args = append(args, "--"+f.Name+"="+f.Value.String()) })
	return args
}

// raisePriority gives this process more of a busy machine, so that what is
// measured is the network and not the scheduler. Where that is not permitted the
// reports' own lateness figures tell the difference.
func raisePriority() {
	const niceness = -10
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		var tid int
		if _, err := fmt.Sscan(t.Name(), &tid); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, niceness) // new threads inherit it
		}
	}
}
