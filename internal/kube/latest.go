package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// latest hands the newest value from one goroutine to another. Older values that
// were not taken yet are forgotten.
type latest[T any] struct {
	mu   sync.Mutex
	v    T
	has  bool
	wake chan struct{}
}

func newLatest[T any]() *latest[T] { return &latest[T]{wake: make(chan struct{}, 1)} }

func (l *latest[T]) set(v T) {
	l.mu.Lock()
	l.v, l.has = v, true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns the newest value and forgets it.
//
//nolint:ireturn // T is what the owner says
func (l *latest[T]) take() (v T, has bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, has = l.v, l.has
	var zero T
	l.v, l.has = zero, false
	return v, has
}

// publish calls write with the newest value when there is one, and again with it when
// touched signals (nil never does), but no more often than each interval. What fails is
// tried again for ever, with growing pauses, and logged as what. It returns when ctx ends.
func (l *latest[T]) publish(
	ctx context.Context, log *slog.Logger, what string, interval time.Duration, touched <-chan struct{}, write func(context.Context, T) error,
) {
	var (
		last  *T
		retry <-chan time.Time // nil unless something failed
	)
	for pause := interval; ; {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-touched:
		case <-retry:
		}
		if v, ok := l.take(); ok {
			last = &v
		}
		if last == nil {
			continue // nothing was said yet
		}
		retry = nil
		if err := write(ctx, *last); err == nil {
			pause = interval
		} else if ctx.Err() == nil {
			log.Warn("write to the API server", "what", what, "err", err)
			pause = min(2*pause, lastRetry)
			retry = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
