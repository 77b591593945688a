package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/barelb/barelb/lab/measure/backend"
)

// argv is what start and runOnce take: the binary, the command, its options.
func argv(self, name string, opts flagged) []string {
	return append([]string{self, name}, arguments(opts)...)
}

// Probe is a probe that runs in a host.
type Probe struct {
	i       *instrument
	timeout time.Duration
}

// StartProbe starts a probe in the host of r; self is the lab's binary as that
// host sees it. ctx bounds the probe's life: its end kills it without a report.
func StartProbe(ctx context.Context, r Runner, self string, opts ProbeOpts) (*Probe, error) {
	i, err := start(ctx, r, argv(self, "probe", &opts), nil)
	if err != nil {
		return nil, err
	}
	return &Probe{i: i, timeout: opts.Timeout}, nil
}

// Mark notes the time; when it returns, the action of that name may begin.
func (p *Probe) Mark(name string) error { return p.i.mark(name) }

// Status returns what the probe knows by now.
func (p *Probe) Status() (ProbeStatus, error) {
	var s ProbeStatus
	err := p.i.status(&s)
	return s, err
}

// Await returns when the condition holds.
func (p *Probe) Await(ctx context.Context, condition func(ProbeStatus) bool) error {
	return awaitStatus(ctx, "probe", p.Status, condition)
}

// AwaitAnswers returns once the latest n probes were answered, as far as their
// answers can have arrived; those sent before the last mark do not count. With as many probes as source ports each flow has
// been tried: after an action that breaks the flows of one node of several, ask
// for no less.
func (p *Probe) AwaitAnswers(ctx context.Context, n int) error {
	const underway = 10 // probes whose answers may be on their way
	return p.Await(ctx, func(s ProbeStatus) bool { return s.Streak >= n && s.Pending <= underway })
}

// AwaitOutage returns once the latest n probes were not answered.
func (p *Probe) AwaitOutage(ctx context.Context, n int) error {
	return p.Await(ctx, func(s ProbeStatus) bool { return s.Pending >= n })
}

// Stop ends the probe, waits for the answers still due, and returns its report.
func (p *Probe) Stop() (ProbeReport, error) {
	var r ProbeReport
	err := p.i.stop(p.timeout, &r)
	return r, err
}

// RunFlows opens flows from the host of r and returns when all have ended.
func RunFlows(ctx context.Context, r Runner, self string, opts FlowsOpts) (FlowsReport, error) {
	var report FlowsReport
	err := runOnce(ctx, r, argv(self, "flows", &opts), &report)
	return report, err
}

// WhoHas asks for an address from the host of r.
func WhoHas(ctx context.Context, r Runner, self string, opts WhoHasOpts) (WhoHasReport, error) {
	var report WhoHasReport
	err := runOnce(ctx, r, argv(self, "who-has", &opts), &report)
	return report, err
}

// Entry is a counter of flows that runs in a node.
type Entry struct{ i *instrument }

// StartEntry starts to count the flows that come in at the host of r.
func StartEntry(ctx context.Context, r Runner, self string, opts EntryOpts) (*Entry, error) {
	i, err := start(ctx, r, argv(self, "entry", &opts), nil)
	if err != nil {
		return nil, err
	}
	return &Entry{i: i}, nil
}

// Status returns the counts by now.
func (e *Entry) Status() (EntryReport, error) {
	var r EntryReport
	err := e.i.status(&r)
	return r, err
}

// Stop ends the count and returns it.
func (e *Entry) Stop() (EntryReport, error) {
	var r EntryReport
	err := e.i.stop(0, &r)
	return r, err
}

// Hold is a set of long-lived connections from a host.
type Hold struct {
	i       *instrument
	timeout time.Duration
}

// StartHold opens the connections and returns when each has been served once or
// has failed to open; Status and the report tell which.
func StartHold(ctx context.Context, r Runner, self string, opts HoldOpts) (*Hold, error) {
	i, err := start(ctx, r, argv(self, "tcp-hold", &opts), nil)
	if err != nil {
		return nil, err
	}
	return &Hold{i: i, timeout: opts.Timeout}, nil
}

// Mark notes the time; when it returns, the action of that name may begin.
func (h *Hold) Mark(name string) error { return h.i.mark(name) }

// Status returns what is known by now.
func (h *Hold) Status() (HoldStatus, error) {
	var s HoldStatus
	err := h.i.status(&s)
	return s, err
}

// Stop waits for the requests under way, closes the connections and returns the report.
func (h *Hold) Stop() (HoldReport, error) {
	var r HoldReport
	err := h.i.stop(h.timeout, &r)
	return r, err
}

// Watch follows changes in a host: T is RouteChange, NeighChange or Update. It keeps
// every change; it is not safe for use by several goroutines.
type Watch[T any] struct {
	i    *instrument
	seen []T
	next int // index in seen of what Await has not looked at
	more chan answer
	err  error
}

// StartWatchRoute watches a route in the host of r. The state at the start comes first.
func StartWatchRoute(ctx context.Context, r Runner, self string, opts RouteWatchOpts) (*Watch[RouteChange], error) {
	return startWatch[RouteChange](ctx, r, argv(self, "watch-route", &opts))
}

// StartWatchNeigh watches neighbour entries in the host of r. The state at the
// start comes first.
func StartWatchNeigh(ctx context.Context, r Runner, self string, opts NeighWatchOpts) (*Watch[NeighChange], error) {
	return startWatch[NeighChange](ctx, r, argv(self, "watch-neigh", &opts))
}

// StartWatchBGP watches the UPDATEs that the router r receives.
func StartWatchBGP(ctx context.Context, r Runner, self string, opts BGPWatchOpts) (*Watch[Update], error) {
	return startWatch[Update](ctx, r, argv(self, "watch-bgp", &opts))
}

func startWatch[T any](ctx context.Context, r Runner, argv []string) (*Watch[T], error) {
	in, out := make(chan answer), make(chan answer)
	go queue(in, out)
	i, err := start(ctx, r, argv, in)
	if err != nil {
		for range out {
		}
		return nil, err
	}
	return &Watch[T]{i: i, more: out}, nil
}

// queue passes on what comes in, holding back any number, until in is closed
// and all is passed on; then it closes out.
func queue(in <-chan answer, out chan<- answer) {
	defer close(out)
	var held []answer
	for in != nil || len(held) > 0 {
		var to chan<- answer
		var first answer
		if len(held) > 0 {
			to, first = out, held[0]
		}
		select {
		case a, ok := <-in:
			if !ok {
				in = nil
				continue
			}
			held = append(held, a)
		case to <- first:
			held = held[1:]
		}
	}
}

// Await returns the first change that satisfies the condition, beginning after
// the one that the last Await returned, or at the state at the start.
func (w *Watch[T]) Await(ctx context.Context, condition func(T) bool) (T, error) {
	for {
		for w.next < len(w.seen) {
			w.next++
			if c := w.seen[w.next-1]; condition(c) {
				return c, nil
			}
		}
		select {
		case a, ok := <-w.more:
			if !ok {
				var zero T
				return zero, w.i.ended()
			}
			w.note(a)
		case <-ctx.Done():
			var zero T
			return zero, fmt.Errorf("await change after %+v: %w", w.seen, ctx.Err())
		}
	}
}

func (w *Watch[T]) note(a answer) {
	var c T
	if err := json.Unmarshal(a.Data, &c); err != nil {
		w.err = fmt.Errorf("decode change: %w", err)
		return
	}
	w.seen = append(w.seen, c)
}

// Stop ends the watch and returns all changes since its start.
func (w *Watch[T]) Stop() ([]T, error) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for a := range w.more {
			w.note(a)
		}
	}()
	err := w.i.stop(0, nil)
	<-drained
	if err == nil {
		err = w.err
	}
	return slices.Clone(w.seen), err
}

// Backend is a server that runs in a host.
type Backend struct {
	i     *instrument
	drain time.Duration
}

// StartBackend starts a server in the host of r and returns when it listens.
func StartBackend(ctx context.Context, r Runner, self string, opts backend.Options) (*Backend, error) {
	i, err := start(ctx, r, argv(self, "backend", &backendOpts{opts}), nil)
	if err != nil {
		return nil, err
	}
	return &Backend{i: i, drain: opts.Drain}, nil
}

// Stop tells the server to stop and returns when it has, after its drain time.
func (b *Backend) Stop() error { return b.i.stop(b.drain, nil) }
