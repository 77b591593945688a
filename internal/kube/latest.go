package kube

import "sync"

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
