package bfd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/lb"
)

// childFD is where a process that runs Serve finds the connection to its parent.
const childFD = 3

// mostBehind is how many frames may wait for a parent that does not read: hours of
// sessions that go up and down.
const mostBehind = 10_000

var (
	// errNoParent is returned by Serve when it was not started by a Runner.
	errNoParent = errors.New("bfd: this is started by the speaker alone: barelb speaker --realtime")
	// errOrphan is returned by Serve when its parent is gone.
	errOrphan = errors.New("bfd: the speaker is gone")
	errBehind = errors.New("bfd: the speaker does not read what it is told")
)

// Serve keeps sessions as the Runner that started this process says, and tells it what
// becomes of them. It returns when told to stop, after the sessions were taken down
// administratively; and at once when its parent is gone, as the sessions of a Runner
// without a process are gone with it (C=0).
func Serve() error {
	kind, err := unix.GetsockoptInt(childFD, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return errNoParent
	}
	unix.CloseOnExec(childFD)
	if err := unix.SetNonblock(childFD, true); err != nil {
		return fmt.Errorf("use the connection to the speaker: %w", err)
	}
	runtime.GOMAXPROCS(cores)
	conn := os.NewFile(childFD, "parent")
	defer func() { _ = conn.Close() }()
	return serve(conn, guard)
}

// server is one life of Serve.
type server struct {
	out    *outbox
	runner *Runner
	asked  atomic.Uint64 // the last number
	ask    chan struct{} // it has changed
}

// serve does the work of Serve. watch is guard.
func serve(conn io.ReadWriter, watch func(tell func(realTime bool), stop <-chan struct{}) error) error {
	var first order
	if err := readFrame(conn, &first); err != nil {
		return orphan(err)
	}
	ended := make(chan error, 1) // with the first that matters
	end := func(err error) {
		select {
		case ended <- err:
		default:
		}
	}
	s := &server{out: newOutbox(conn, end), ask: make(chan struct{}, 1)}
	s.runner = New(Config{
		Log:      slog.New(lines{s.out}),
		OnChange: func(c lb.BFDChange) { s.out.put(report{Change: &c}) },
		resume:   first.Resume,
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	watched, ran := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		if err := watch(func(real bool) { s.out.put(report{RealTime: &real}) }, ctx.Done()); err != nil {
			end(err)
		}
	}()
	s.obey(first, stop)
	go s.out.run()
	go func() {
		defer close(ran)
		end(s.runner.Run(ctx))
	}()
	go func() {
		if err := s.listen(conn, stop); err != nil {
			end(err)
		}
	}()
	go s.answer(ran)
	if err := <-ended; err != nil {
		return err
	}
	<-watched
	s.out.close()
	return nil
}

// listen obeys what the parent says until it says stop.
func (s *server) listen(conn io.Reader, stop func()) error {
	for {
		var o order
		if err := readFrame(conn, &o); err != nil {
			return orphan(err)
		}
		if s.obey(o, stop); o.Stop {
			return nil
		}
	}
}

func orphan(err error) error {
	if errors.Is(err, errFrame) {
		return err
	}
	return fmt.Errorf("%w: %w", errOrphan, err)
}

func (s *server) obey(o order, stop func()) {
	if o.Want != nil {
		// The parent has refused what cannot be.
		if err := s.runner.Apply(context.Background(), desired(*o.Want)); err != nil {
			s.runner.cfg.Log.Error("apply bfd sessions", "err", err.Error())
		}
	}
	if o.Ask > 0 {
		s.asked.Store(o.Ask)
		select {
		case s.ask <- struct{}{}:
		default:
		}
	}
	if o.Stop {
		stop()
	}
}

// answer tells the parent how the sessions are, when that has changed and when asked.
func (s *server) answer(end <-chan struct{}) {
	for {
		changed := false
		select {
		case <-end:
			return
		case <-s.runner.Changed():
			changed = true
		case <-s.ask:
		}
		number := s.asked.Load()
		s.out.put(report{Snapshot: &snapshot{Answers: number, Changed: changed, Sessions: s.runner.Status()}})
	}
}

// outbox is what waits to be sent, so that nobody has to wait for the parent.
type outbox struct {
	w      io.Writer
	failed func(error)
	bell   chan struct{}
	done   chan struct{} // closed when nothing is sent any more

	mu     sync.Mutex
	frames []report
	last   bool // nothing more comes
}

func newOutbox(w io.Writer, failed func(error)) *outbox {
	return &outbox{w: w, failed: failed, bell: make(chan struct{}, 1), done: make(chan struct{})}
}

func (o *outbox) put(r report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.frames) >= mostBehind {
		o.frames = nil // they are of no use any more
		o.failed(errBehind)
	}
	o.frames = append(o.frames, r)
	o.ring()
}

func (o *outbox) ring() {
	select {
	case o.bell <- struct{}{}:
	default:
	}
}

// run sends until that fails, or close is called.
func (o *outbox) run() {
	defer close(o.done)
	for range o.bell {
		o.mu.Lock()
		frames, last := o.frames, o.last
		o.frames = nil
		o.mu.Unlock()
		for i := range frames {
			if err := writeFrame(o.w, &frames[i]); err != nil {
				o.failed(orphan(err))
				return
			}
		}
		if last {
			return
		}
	}
}

// close waits until all is sent.
func (o *outbox) close() {
	o.mu.Lock()
	o.last = true
	o.mu.Unlock()
	o.ring()
	<-o.done
}

// lines is a slog.Handler that has the parent write the log.
type lines struct{ out *outbox }

func (l lines) Enabled(context.Context, slog.Level) bool { return true }

func (l lines) Handle(_ context.Context, r slog.Record) error {
	out := line{Level: r.Level, Message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		var value any = a.Value.String()
		if a.Value.Kind() == slog.KindBool {
			value = a.Value.Bool()
		}
		out.Attrs = append(out.Attrs, attr{a.Key, value})
		return true
	})
	l.out.put(report{Line: &out})
	return nil
}

// Nobody here makes logs of logs.

func (l lines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l lines) WithGroup(string) slog.Handler      { return l }
