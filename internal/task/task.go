// Package task runs the parts of a process and stops them in order.
package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// Group is a list of running tasks. Each runs under a context of its own, so that
// they can be stopped one after the other: the last started is stopped first.
type Group struct {
	log    *slog.Logger
	tasks  []*running
	failed chan error
}

type running struct {
	name string
	stop context.CancelFunc
	done chan struct{}
	err  error // valid when done is closed
}

// New returns an empty Group.
func New(log *slog.Logger) *Group { return &Group{log: log, failed: make(chan error, 1)} }

// Go starts fn under a context that carries the values of ctx but not its end:
// Wait ends it.
func (g *Group) Go(ctx context.Context, name string, fn func(context.Context) error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	t := &running{name: name, stop: stop, done: make(chan struct{})}
	g.tasks = append(g.tasks, t)
	go func() {
		defer close(t.done)
		err := fn(ctx)
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil
		}
		switch {
		case err != nil:
			t.err = fmt.Errorf("%s: %w", name, err)
		case ctx.Err() == nil:
			t.err = fmt.Errorf("%s: ended by itself", name)
		}
		if ctx.Err() == nil {
			select {
			case g.failed <- t.err:
			default:
			}
		}
	}()
}

// Wait blocks until ctx ends or a task does, then stops all tasks in reverse
// order, each after the one before has ended. It returns what went wrong.
func (g *Group) Wait(ctx context.Context) error {
	var first error
	select {
	case <-ctx.Done():
	case first = <-g.failed:
	}
	errs := []error{first}
	for _, t := range slices.Backward(g.tasks) {
		g.log.Debug("stop", "task", t.name)
		t.stop()
		<-t.done
		if t.err != nil && (first == nil || t.err.Error() != first.Error()) {
			errs = append(errs, t.err)
		}
	}
	return errors.Join(errs...)
}
