package box

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program that runs in a box and dies with it. It is safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // valid once done is closed
}

// Pid is the program's process id as the machine sees it.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is the path of the file with the program's output.
func (p *Process) Log() string { return p.log }

// Signal sends a signal to the program.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal process: %w", err)
	}
	return nil
}

// Done closes when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program's end and returns how it ended (nil for exit status 0), or the context's error.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for process: %w", ctx.Err())
	}
}

// Stop sends SIGTERM and, if the program is still there after grace, SIGKILL; it returns how the program ended.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
	}
	_ = p.Signal(unix.SIGKILL)
	<-p.done
	return p.err
}
