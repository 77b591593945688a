package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Runner prepares commands that run inside one host of the lab.
type Runner interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
}

const (
	// readyTimeout bounds the start of an instrument, answerTimeout what it is asked.
	readyTimeout  = 30 * time.Second
	answerTimeout = 10 * time.Second
	// endGrace is how long an instrument may take to report beyond what its
	// options make it wait for.
	endGrace = 10 * time.Second
)

// answer is an event as it comes back from an instrument.
type answer struct {
	Event string          `json:"event"`
	At    time.Time       `json:"at"`
	Name  string          `json:"name"`
	Data  json.RawMessage `json:"data"`
}

// instrument is a command that runs in a host until it is stopped. Its reader
// goroutine ends with the process, which ends with its stdin.
type instrument struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stderr  *bytes.Buffer // read after done only
	answers chan answer   // to marks and status
	changes chan answer   // nil where nobody watches
	ready   chan struct{}

	done   chan struct{} // closed when the process has ended
	report json.RawMessage
	err    error

	mu sync.Mutex // one question at a time
}

// start runs `self tool name …` and waits until it measures. changes, if not
// nil, receives change events and is closed at the end; it must be read.
func start(ctx context.Context, r Runner, argv []string, changes chan answer) (*instrument, error) {
	reading := false
	defer func() {
		if !reading && changes != nil {
			close(changes)
		}
	}()
	self, args := argv[0], append([]string{ToolWord}, argv[1:]...)
	i := &instrument{
		name: argv[1], cmd: r.Command(ctx, self, args...), stderr: new(bytes.Buffer),
		answers: make(chan answer, 1), changes: changes,
		ready: make(chan struct{}), done: make(chan struct{}),
	}
	i.cmd.Stderr = i.stderr
	var err error
	if i.stdin, err = i.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", i.name, err)
	}
	stdout, err := i.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", i.name, err)
	}
	if err := i.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", i.name, err)
	}
	reading = true
	go i.read(stdout)
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-i.ready:
		return i, nil
	case <-i.done:
		return nil, i.ended()
	case <-timeout.C:
		err = errors.New("not ready in time")
	case <-ctx.Done():
		err = ctx.Err()
	}
	i.kill()
	return nil, fmt.Errorf("start %s: %w", i.name, err)
}

// read takes events until the process closes its stdout, then collects it.
func (i *instrument) read(stdout io.Reader) {
	defer close(i.done)
	if i.changes != nil {
		defer close(i.changes)
	}
	var broken error
	for dec := json.NewDecoder(stdout); ; {
		var a answer
		if err := dec.Decode(&a); err != nil {
			if !errors.Is(err, io.EOF) {
				broken = fmt.Errorf("read output: %w", err)
				_, _ = io.Copy(io.Discard, stdout)
			}
			break
		}
		i.take(a)
	}
	i.err = errors.Join(broken, i.cmd.Wait())
}

func (i *instrument) take(a answer) {
	switch a.Event {
	case eventReady:
		close(i.ready)
	case eventMark, eventStatus:
		select {
		case <-i.answers: // nobody waited for the last one any more
		default:
		}
		i.answers <- a
	case eventChange:
		if i.changes != nil {
			i.changes <- a
		}
	case eventReport:
		i.report = a.Data
	}
}

// ask writes a line and waits for its answer. Where the line cannot be written,
// the process is about to end and will say why.
func (i *instrument) ask(line, event, name string) (answer, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, writeErr := io.WriteString(i.stdin, line+"\n")
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	for {
		select {
		case a := <-i.answers:
			if a.Event == event && a.Name == name {
				return a, nil
			}
		case <-i.done:
			return answer{}, i.ended()
		case <-timeout.C:
			return answer{}, errors.Join(fmt.Errorf("tell %s %q: no answer in time", i.name, line), writeErr)
		}
	}
}

// mark returns once the instrument has noted the time: the action may begin.
func (i *instrument) mark(name string) error {
	name = strings.Join(strings.Fields(name), " ")
	_, err := i.ask("mark "+name, eventMark, name)
	return err
}

func (i *instrument) status(into any) error {
	a, err := i.ask("status", eventStatus, "")
	if err != nil {
		return err
	}
	return json.Unmarshal(a.Data, into)
}

// stop ends the instrument, which may take wait before it reports, and decodes
// its report into report unless that is nil.
func (i *instrument) stop(wait time.Duration, report any) error {
	_ = i.stdin.Close()
	timeout := time.NewTimer(wait + endGrace)
	defer timeout.Stop()
	select {
	case <-i.done:
	case <-timeout.C:
		i.kill()
		return fmt.Errorf("stop %s: no report in time", i.name)
	}
	if i.err != nil {
		return i.ended()
	}
	if report == nil {
		return nil
	}
	if i.report == nil {
		return fmt.Errorf("stop %s: it ended without a report", i.name)
	}
	if err := json.Unmarshal(i.report, report); err != nil {
		return fmt.Errorf("decode report of %s: %w", i.name, err)
	}
	return nil
}

// kill ends the process at once and waits for it.
func (i *instrument) kill() {
	_ = i.cmd.Process.Kill()
	<-i.done
}

// ended is why the process is no more.
func (i *instrument) ended() error {
	return commandError(i.name, i.err, i.stderr.String())
}

func commandError(name string, err error, stderr string) error {
	said := strings.TrimSpace(stderr)
	if err == nil {
		err = errors.New("ended early")
	}
	if said == "" {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return fmt.Errorf("run %s: %w: %s", name, err, said)
}

// runOnce runs an instrument that ends by itself and decodes what it prints.
func runOnce(ctx context.Context, r Runner, argv []string, report any) error {
	cmd := r.Command(ctx, argv[0], append([]string{ToolWord}, argv[1:]...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return commandError(argv[1], err, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), report); err != nil {
		return fmt.Errorf("decode report of %s: %w", argv[1], err)
	}
	return nil
}
