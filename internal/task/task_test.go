package task_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/task"
)

// diary is what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) check(t *testing.T, want string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if diff := cmp.Diff(want, strings.Join(d.lines, " ")); diff != "" {
		t.Errorf("wrong order (-want +got):\n%s", diff)
	}
}

// obedient returns a task that runs until it is stopped, and takes a second to stop.
func (d *diary) obedient(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		d.write(name + ":told")
		time.Sleep(time.Second)
		d.write(name + ":ended")
		return nil
	}
}

func TestTasksStopOneAfterTheOtherInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithCancel(t.Context())
		g := task.New(slog.New(slog.DiscardHandler))
		for _, name := range []string{"watch", "bgp", "members"} {
			g.Go(ctx, name, d.obedient(name))
		}
		cancel()
		synctest.Wait()
		d.check(t, "") // the end of ctx alone stops none
		if err := g.Wait(ctx); err != nil {
			t.Errorf("ctx ended: %v, want no error", err)
		}
		d.check(t, "members:told members:ended bgp:told bgp:ended watch:told watch:ended")
	})
}

func TestFirstFailureStopsAll(t *testing.T) {
	errBroken := errors.New("broken")
	tests := []struct {
		name string
		fail func(context.Context) error
		want string
		is   error
	}{
		{"a task fails", func(context.Context) error { return errBroken }, "b: broken", errBroken},
		{"a task ends by itself", func(context.Context) error { return nil }, "b: ended by itself", nil},
		{"a task says that it was cancelled, which it was not", func(context.Context) error { return context.Canceled }, "b: context canceled", nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				g := task.New(slog.New(slog.DiscardHandler))
				g.Go(t.Context(), "a", d.obedient("a"))
				g.Go(t.Context(), "b", tc.fail)
				g.Go(t.Context(), "c", d.obedient("c"))
				err := g.Wait(t.Context())
				if err == nil || err.Error() != tc.want || tc.is != nil && !errors.Is(err, tc.is) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				d.check(t, "c:told c:ended a:told a:ended")
			})
		})
	}
}

func TestErrorsWhileStoppingAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errFirst, errLater := errors.New("first"), errors.New("later")
		g := task.New(slog.New(slog.DiscardHandler))
		g.Go(t.Context(), "a", func(ctx context.Context) error { <-ctx.Done(); return errLater })
		g.Go(t.Context(), "b", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Go(t.Context(), "c", func(context.Context) error { return errFirst })
		err := g.Wait(t.Context())
		if err == nil || err.Error() != "c: first\na: later" || !errors.Is(err, errFirst) || !errors.Is(err, errLater) {
			t.Errorf("got %v, want both failures and not the obedient task's", err)
		}
	})
}

func TestTasksKeepTheValuesOfTheirContext(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	g := task.New(slog.New(slog.DiscardHandler))
	got := make(chan any, 1)
	g.Go(ctx, "a", func(ctx context.Context) error {
		got <- ctx.Value(key{})
		<-ctx.Done()
		return nil
	})
	if v := <-got; v != "value" {
		t.Errorf("got %v", v)
	}
	cancel()
	if err := g.Wait(ctx); err != nil {
		t.Error(err)
	}
}
