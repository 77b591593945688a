package liveness

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	core "github.com/barelb/barelb/internal/core/liveness"
)

// batch bounds the events that are taken before the sockets are looked at again.
const batch = 256

// observedAge is how old metrics of what is observed may be.
const observedAge = time.Second

// loop owns the machine.
type loop struct {
	*Runner
	wire       *wire // nil where no link is looked at
	m          *core.Machine
	ran        time.Time // the last time
	planned    time.Time // when it was to run next
	observedAt time.Time // when the metrics of what is observed were made
	watching   map[string]context.CancelFunc
	watched    []string
	facts      map[string]*core.Facts
	silent     map[string]bool // nodes whose speakers tell nothing, as memberlist last said
}

// loop drives the machine until ctx ends.
func (r *Runner) loop(ctx context.Context, w *wire) error {
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(r.cfg.NodeName))
	l := &loop{
		Runner: r, wire: w, watching: map[string]context.CancelFunc{}, facts: map[string]*core.Facts{}, silent: map[string]bool{},
		m: core.New(core.Options{
			Self: r.cfg.NodeName, Interval: r.cfg.Interval, Multiplier: r.cfg.Multiplier,
			CaretakerTimeout: r.cfg.CaretakerTimeout, Method: r.cfg.Probe, Seed: seed.Sum64(),
		}),
	}
	var linksChanged <-chan struct{}
	if r.cfg.Links != nil {
		linksChanged = r.cfg.Links.Changed() // before the snapshot is looked at, so that nothing is missed
		l.followLinks()
	}
	ready, err := w.listen(ctx)
	l.ran = time.Now()
	l.plan()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(l.planned))
		select {
		case <-ctx.Done():
			return nil
		case e := <-err:
			return e
		case <-timer.C:
			l.wake(ctx)
		case s := <-ready:
			l.wake(ctx)
			s <- struct{}{}
		case <-linksChanged:
			linksChanged = r.cfg.Links.Changed()
			l.wake(ctx)
			l.followLinks()
		case <-r.members:
			l.wake(ctx)
			l.world(ctx)
		case <-r.book.facts:
			l.wake(ctx)
			l.world(ctx)
		case <-r.book.claims:
			signal(r.changed)
		case <-r.book.answered:
			l.wake(ctx)
			l.step(ctx, core.OwnersAnswered{})
		case e := <-r.inbox:
			l.wake(ctx)
			l.step(ctx, e)
			for range min(len(r.inbox), batch) {
				l.step(ctx, <-r.inbox)
			}
		}
		l.finish(ctx)
	}
}

// wake tells the machine what time it is: first that it is late, if so, then what the
// sockets hold, then that its time has come.
func (l *loop) wake(ctx context.Context) {
	now := time.Now() // one time for all of it, so that it is late only once
	if now.Sub(l.planned) > l.cfg.Interval {
		l.settled.Store(false) // before anybody can think that we ran
		l.stepAt(ctx, now, core.Stall{From: l.planned, To: now})
	}
	l.wire.drain(func(e core.Event) { l.stepAt(ctx, now, e) })
	if next, ok := l.m.Next(); ok && !next.After(now) {
		l.stepAt(ctx, now, core.Tick{})
	}
}

// finish publishes what is known, and notes that we ran.
func (l *loop) finish(ctx context.Context) {
	l.watchSpeakers(ctx)
	if v := l.m.View(); v != l.view.Load() {
		l.view.Store(v)
		signal(l.changed)
	}
	l.settled.Store(l.m.Settled())
	l.ran = time.Now()
	if l.ran.Sub(l.observedAt) >= observedAge {
		now := l.m.Observed()
		l.observed.Store(&now)
		l.observedAt = l.ran
	}
	l.lastRun.Store(int64(l.ran.Sub(l.began)))
	l.plan()
}

// plan decides when to run next: when the machine wants to, and each interval at least.
func (l *loop) plan() {
	l.planned = l.ran.Add(l.cfg.Interval)
	if next, ok := l.m.Next(); ok && next.Before(l.planned) {
		l.planned = next
		if next.Before(l.ran) {
			l.planned = l.ran
		}
	}
}

// step tells the machine of one event, and does what it wants.
func (l *loop) step(ctx context.Context, e core.Event) { l.stepAt(ctx, time.Now(), e) }

func (l *loop) stepAt(ctx context.Context, now time.Time, e core.Event) {
	for _, a := range l.m.Step(now, e) {
		l.do(ctx, a)
	}
}

func (l *loop) do(ctx context.Context, a core.Action) {
	switch a := a.(type) {
	case core.Probe:
		l.metrics.probes.WithLabelValues(a.Method.String()).Inc()
		l.wire.probe(a)
	case core.ProbeGateway:
		l.wire.probeGateways(a.Link)
	case core.Beacon:
		l.wire.beacon()
	case core.Send:
		l.sendTo(l.peers.Load(), a.To, l.message(a.Message))
	case core.Broadcast:
		l.broadcast(l.message(a.Message))
	case core.AskOwners:
		l.askOwners()
	case core.Report:
		l.report(ctx, a)
	}
}

func (l *loop) message(m core.Message) []byte {
	return core.Append(appendText([]byte{userMachine}, l.cfg.NodeName), m)
}

// askOwners asks all speakers for their records.
func (l *loop) askOwners() {
	p := l.peers.Load()
	var asked []string
	for name, n := range p.nodes {
		if speaksBareLB(n) && name != l.cfg.NodeName {
			asked = append(asked, name)
		}
	}
	l.book.await(asked)
	for _, name := range asked {
		l.sendTo(p, name, l.question())
	}
}

// reacquaint asks speakers for their records, and tells them which is ours now: what was
// said while we did not hear each other is lost.
func (l *loop) reacquaint(names ...string) {
	p := l.peers.Load()
	head := append([]byte{userDelta}, l.book.head()...)
	for _, name := range names {
		if n := p.nodes[name]; n != nil && speaksBareLB(n) && name != l.cfg.NodeName {
			l.sendTo(p, name, l.question())
			l.sendTo(p, name, head)
		}
	}
}

// report logs and counts what the machine found worth it.
func (l *loop) report(ctx context.Context, a core.Report) {
	l.metrics.report(a)
	switch a.Kind { //nolint:exhaustive // after the others nothing is to be caught up with
	case core.NodeAlive:
		l.reacquaint(a.Node)
	case core.Refuted:
		l.reacquaint(slices.Collect(maps.Keys(l.peers.Load().nodes))...)
	}
	if l.cfg.Healed != nil && slices.Contains([]core.ReportKind{core.NodeAlive, core.Refuted, core.Regained}, a.Kind) {
		l.cfg.Healed()
	}
	log := l.cfg.Log.With("what", a.Kind.String())
	for key, value := range map[string]string{"node": a.Node, "link": a.Link, "by": a.By} {
		if value != "" {
			log = log.With(key, value)
		}
	}
	if a.Segment.IsValid() {
		log = log.With("segment", a.Segment.String())
	}
	if a.After > 0 {
		log = log.With("after", a.After.Round(time.Millisecond).String())
	}
	log.InfoContext(ctx, "liveness")
}

// world tells the machine who there is.
func (l *loop) world(ctx context.Context) {
	changed, own := l.book.drainFacts()
	for name, f := range changed {
		if f == nil {
			delete(l.facts, name)
		} else {
			l.facts[name] = f
		}
	}
	l.facts[l.cfg.NodeName] = own
	l.wire.setFacts(l.facts)
	if len(l.Alive()) == 0 {
		return // nothing is known of anybody yet
	}
	// Facts may be here before memberlist's event of their node.
	p := l.refresh()
	w := core.World{Members: make(map[string]bool, len(p.addrs)), Facts: l.told(p)}
	for name := range p.addrs {
		w.Members[name] = p.nodes[name] != nil
	}
	l.step(ctx, w)
}

// told returns the facts of all speakers but those whose place another took, such as
// MetalLB's, which tells nothing: that one is known by what memberlist last said of it.
func (l *loop) told(p *peers) map[string]*core.Facts {
	for name, n := range p.nodes {
		if speaksBareLB(n) {
			delete(l.silent, name)
		} else if name != l.cfg.NodeName {
			l.silent[name] = true
		}
	}
	if len(l.silent) == 0 {
		return l.facts
	}
	facts := maps.Clone(l.facts)
	for name := range l.silent {
		delete(facts, name)
	}
	return facts
}

// followLinks takes over this node's links as they are now.
func (l *loop) followLinks() {
	snap := l.cfg.Links.Snapshot()
	if snap == nil {
		return
	}
	told := core.LinksOf(snap, l.excluded)
	l.wire.setLinks(snap, told)
	l.book.setLinks(told) // which signals that facts changed, if any did
}

// watchSpeakers holds connections to those whom the machine wants to watch.
func (l *loop) watchSpeakers(ctx context.Context) {
	now := l.m.Watched()
	if len(now) == len(l.watched) && (len(now) == 0 || &now[0] == &l.watched[0]) {
		return
	}
	l.watched = now
	want := make(map[string]bool, len(now))
	for _, name := range now {
		want[name] = true
		if l.watching[name] == nil {
			watch, stop := context.WithCancel(ctx)
			l.watching[name] = stop
			l.tasks.Go(func() { l.watch(watch, name) })
		}
	}
	for name, stop := range l.watching {
		if !want[name] {
			stop()
			delete(l.watching, name)
		}
	}
}
