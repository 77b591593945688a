package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watch prints the state at the start and then each change, until told to stop.
type watch struct {
	groups   uint32
	duration time.Duration
	// initial and resync return what to print of the whole state: all of it at
	// the start, what differs when messages were lost.
	initial, resync func() ([]any, error)
	// observe returns what to print after messages of the kernel.
	observe func([]message) ([]any, error)
}

func (w watch) run(ctx context.Context, std Stdio) error {
	out := newEmitter(std.Out)
	ctx, cancel := session{out: out}.follow(ctx, std.In, w.duration)
	defer cancel()
	// Subscribe first: what changes after the first look is then not missed.
	sock, err := subscribe(w.groups)
	if err != nil {
		return err
	}
	defer func() { _ = sock.Close() }()
	defer context.AfterFunc(ctx, func() { _ = sock.SetReadDeadline(time.Unix(1, 0)) })()
	if err := printChanges(out, w.initial); err != nil {
		return err
	}
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	buf := make([]byte, netlinkBuffer)
	for {
		n, err := sock.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.ENOBUFS):
			err = printChanges(out, w.resync)
		case err == nil:
			err = printChanges(out, func() ([]any, error) { return w.parse(buf[:n]) })
		}
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
}

func (w watch) parse(b []byte) ([]any, error) {
	parsed, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("parse netlink message: %w", err)
	}
	msgs := make([]message, len(parsed))
	for i, m := range parsed {
		msgs[i] = message{kind: m.Header.Type, body: m.Data}
	}
	return w.observe(msgs)
}

func printChanges(out *emitter, look func() ([]any, error)) error {
	changes, err := look()
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := out.emit(event{Event: eventChange, Data: c}); err != nil {
			return err
		}
	}
	return nil
}
