// Package link watches the kernel's links, their addresses and their gateways by netlink and hands
// them on as immutable snapshots. It polls nothing.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/barelb/barelb/internal/core/links"
)

type (
	// Link is one kernel link.
	Link = links.Link
	// Snapshot is what a Watcher hands on.
	Snapshot = links.Snapshot
)

const (
	// minGap is the least time between two listings: on a node that starts many
	// pods every one makes several events, and each listing costs milliseconds.
	// The first event after a pause is acted on at once.
	minGap = 50 * time.Millisecond
	// retryAfter is the pause before netlink is tried again after an error.
	retryAfter = time.Second
)

// Watcher holds the latest snapshot of this node's links. Its methods may be called
// by any goroutine.
type Watcher struct {
	log *slog.Logger
	cur atomic.Pointer[state]
}

// state is one snapshot. replaced is closed when the next one is there.
type state struct {
	snapshot Snapshot
	replaced chan struct{}
}

// New returns a Watcher that knows no links until Run has listed them.
func New(log *slog.Logger) *Watcher {
	w := &Watcher{log: log}
	w.cur.Store(&state{replaced: make(chan struct{})})
	return w
}

// Snapshot returns the links as they are now. It is nil until the first listing.
func (w *Watcher) Snapshot() Snapshot { return w.cur.Load().snapshot }

// Changed returns a channel that is closed when the present snapshot is replaced;
// then call Changed again for the next. Any number of callers may wait. To miss
// nothing, call Changed first and Snapshot second.
func (w *Watcher) Changed() <-chan struct{} { return w.cur.Load().replaced }

// Run watches until ctx ends, and then returns nil. Errors of netlink, such as a
// receive buffer that overflowed (ENOBUFS), are logged; it subscribes and lists
// again. The last snapshot stays valid meanwhile.
func (w *Watcher) Run(ctx context.Context) error {
	epochs := map[int]uint64{}
	for {
		err := w.watch(ctx, epochs)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the error is that we were told to stop
		}
		w.log.WarnContext(ctx, "link watch interrupted", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter):
		}
	}
}

// watch subscribes, lists, and then lists again after events, until ctx ends or a
// subscription breaks. epochs counts, by link index, the events that [Link.Epoch]
// tells of; list adds what the kernel has counted.
func (w *Watcher) watch(ctx context.Context, epochs map[int]uint64) error {
	sub, err := subscribe()
	if err != nil {
		return err
	}
	defer sub.close()

	// Subscribed first, listed second: a change between the two makes an event.
	var (
		listedAt time.Time
		due      = time.After(0) // nil while nothing has changed since the last listing
		routes   = routes{changed: true}
	)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-sub.links:
			if !ok {
				return sub.err("links")
			}
			if lostCarrier(ev) {
				epochs[int(ev.Index)]++
				routes.lose(int(ev.Index))
			}
		case ev, ok := <-sub.addrs:
			if !ok {
				return sub.err("addresses")
			}
			if lostLinkLocal(ev) {
				epochs[ev.LinkIndex]++
			}
		case ev, ok := <-sub.routes:
			if !ok {
				return sub.err("routes")
			}
			if !isDefault(ev) {
				continue
			}
			routes.changed = true
		case <-due:
			due, listedAt = nil, time.Now()
			switch err := w.relist(epochs, &routes); {
			case err == nil:
				continue
			case !errors.Is(err, netlink.ErrDumpInterrupted):
				return err
			} // else it changed while it was read: once more
		}
		if due == nil {
			due = time.After(time.Until(listedAt.Add(minGap)))
		}
	}
}

// relist lists and publishes.
func (w *Watcher) relist(epochs map[int]uint64, r *routes) error {
	if err := r.list(); err != nil {
		return err
	}
	snap, err := list(epochs)
	if err != nil {
		return err
	}
	for i := range snap {
		snap[i].Gateways = r.gateways[snap[i].Index]
	}
	w.publish(snap)
	return nil
}

// publish makes snap the present snapshot, unless it says nothing new.
func (w *Watcher) publish(snap Snapshot) {
	old := w.cur.Load()
	if old.snapshot != nil && old.snapshot.Equal(snap) {
		return
	}
	w.cur.Store(&state{snapshot: snap, replaced: make(chan struct{})})
	close(old.replaced)
}

// subscription is the netlink sockets that events come from. The channels
// are closed when a socket breaks.
type subscription struct {
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
	done   chan struct{}
	failed atomic.Pointer[error]
}

func subscribe() (*subscription, error) {
	s := &subscription{
		links:  make(chan netlink.LinkUpdate, 64),
		addrs:  make(chan netlink.AddrUpdate, 64),
		routes: make(chan netlink.RouteUpdate, 64),
		done:   make(chan struct{}),
	}
	// The callback tells of a broken socket and of messages that the library cannot
	// read. The channel is closed after the former only.
	fail := func(err error) { s.failed.Store(&err) }
	if err := netlink.LinkSubscribeWithOptions(s.links, s.done, netlink.LinkSubscribeOptions{ErrorCallback: fail}); err != nil {
		return nil, fmt.Errorf("subscribe to links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(s.addrs, s.done, netlink.AddrSubscribeOptions{ErrorCallback: fail}); err != nil {
		close(s.done)
		go drain(s.links)
		return nil, fmt.Errorf("subscribe to addresses: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(s.routes, s.done, netlink.RouteSubscribeOptions{ErrorCallback: fail}); err != nil {
		close(s.done)
		go drain(s.links)
		go drain(s.addrs)
		return nil, fmt.Errorf("subscribe to routes: %w", err)
	}
	return s, nil
}

// err says why the subscription to what has ended.
func (s *subscription) err(what string) error {
	if err := s.failed.Load(); err != nil {
		return fmt.Errorf("receive %s: %w", what, *err)
	}
	return fmt.Errorf("receive %s: subscription ended", what)
}

// close ends the subscriptions. The library's goroutines may be about to send, so
// what they send is thrown away until they have gone.
func (s *subscription) close() {
	close(s.done)
	go drain(s.links)
	go drain(s.addrs)
	go drain(s.routes)
}

func drain[T any](ch <-chan T) {
	for range ch {
	}
}
