package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// cut cuts the link of the owner, and mends it.
func (b *bench) cut(ctx context.Context) error {
	return b.cuts(ctx, "link cut", b.web.first)
}

// pair cuts two of three nodes.
func (b *bench) pair(ctx context.Context) error {
	others := b.without(b.web.first)
	if err := b.sys.PlaceBackends(ctx, others[1:]...); err != nil {
		return err
	}
	err := b.cuts(ctx, "two links cut at once", b.web.first, others[0])
	return errors.Join(err, b.sys.PlaceBackends(ctx, others...))
}

// cuts cuts nodes, the owner among them, and mends them, again and again.
func (b *bench) cuts(ctx context.Context, what string, nodes ...string) error {
	p, err := b.probes(ctx)
	if err != nil {
		return err
	}
	away, back := kind{title: b.name + ": " + what}, kind{title: b.name + ": nodes return"}
	for i := range b.trials {
		if b.way != layer2 && i > 0 { // the more often BFD goes down, the longer a session waits
			if err := errors.Join(p.mark("sessions anew"), b.speak(ctx)); err != nil {
				p.drop()
				return err
			}
		}
		if err := errors.Join(b.settled(ctx), p.steady(ctx), p.mark(away.next())); err != nil {
			p.drop()
			return err
		}
		for _, n := range nodes {
			err = errors.Join(err, b.c.Cut(n))
		}
		// The outage has begun, and ended where the one who asks is: what was answered
		// before it does not count. By BGP flows use the node to the last.
		if err == nil && b.way == layer2 {
			_, err = b.owner(ctx, b.web.list[0], strings.Join(slices.DeleteFunc(b.c.Nodes(), func(n string) bool { return slices.Contains(nodes, n) }), ","))
		}
		err = errors.Join(err, p.steady(ctx), p.mark(back.next()))
		for _, n := range nodes {
			err = errors.Join(err, b.c.Restore(n))
		}
		if err := errors.Join(err, b.settled(ctx)); err != nil {
			p.drop()
			return err
		}
	}
	if err := p.steady(ctx); err != nil {
		p.drop()
		return err
	}
	return p.report(b.t, away, back)
}

// kill kills the owner's speaker, and starts it.
func (b *bench) kill(ctx context.Context) error {
	return b.interrupt(ctx, "speaker killed (SIGKILL)", "speaker starts again", func(ctx context.Context) error {
		return b.sys.KillSpeaker(ctx, b.web.first)
	}, func(ctx context.Context) error {
		return b.sys.StartSpeaker(ctx, b.web.first)
	})
}

// restart ends the owner's speaker as an upgrade does, and starts it after a while.
func (b *bench) restart(ctx context.Context) error {
	return b.interrupt(ctx, "speaker restarted (SIGTERM)", "", func(ctx context.Context) error {
		return b.sys.RestartSpeaker(ctx, b.web.first, b.o.pause)
	}, nil)
}

func (b *bench) upgrade(ctx context.Context) error {
	return b.interrupt(ctx, "speaker replaced by another Pod's", "", func(ctx context.Context) error {
		return b.sys.UpgradeSpeaker(ctx, b.web.first, b.o.pause)
	}, nil)
}

// rolling replaces all speakers as a rolling update of a DaemonSet does: by those of the
// other version, and back the next time.
func (b *bench) rolling(ctx context.Context) error {
	updated := false
	return b.interrupt(ctx, "all speakers replaced, one after the other", "", func(ctx context.Context) error {
		updated = !updated
		var command []string // of the former version, as everywhere
		if updated {
			command = strings.Fields(b.o.next)
		}
		for _, node := range b.c.Nodes() {
			b.sys.SetSpeakerCommand(node, command...)
			if err := errors.Join(b.sys.UpgradeSpeaker(ctx, node, b.o.pause), b.settled(ctx)); err != nil {
				return err
			}
		}
		return nil
	}, nil)
}

// interrupt takes the owner's speaker away and, if undo is not nil, waits until somebody
// else answers before it brings it back.
func (b *bench) interrupt(ctx context.Context, what, back string, act, undo func(context.Context) error) error {
	p, err := b.probes(ctx)
	if err != nil {
		return err
	}
	asks, err := b.asks(ctx)
	if err != nil {
		p.drop()
		return err
	}
	i := interruption{
		act: act, undo: undo, away: kind{title: b.name + ": " + what}, again: kind{title: b.name + ": " + back}, n: tally{trials: b.o.trials},
	}
	for range b.trials {
		if err := b.interruptOnce(ctx, p, asks, &i); err != nil {
			p.drop()
			return err
		}
	}
	kinds := []kind{i.away}
	if undo != nil {
		kinds = append(kinds, i.again)
	}
	if err := p.report(b.t, kinds...); err != nil {
		return err
	}
	b.t.connections(i.away.title, i.n)
	for i, a := range asks {
		r, err := a.Stop()
		if err != nil {
			return err
		}
		for _, k := range kinds {
			if err := b.silence(k, family(b.web.list[i]), r); err != nil {
				return err
			}
		}
	}
	return nil
}

// interruption is what is done in each trial, and what came of all so far.
type interruption struct {
	act, undo   func(context.Context) error
	away, again kind
	n           tally
}

func (b *bench) interruptOnce(ctx context.Context, p *probes, asks []*measure.Ask, i *interruption) error {
	if err := b.settled(ctx); err != nil {
		return err
	}
	h, err := b.hold(ctx)
	if err != nil {
		return err
	}
	mark := i.away.next()
	if err := errors.Join(p.steady(ctx), p.mark(mark), markAll(asks, mark), i.act(ctx)); err != nil {
		return err
	}
	if i.undo != nil {
		limit, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for _, a := range asks {
			if err := a.AwaitTaken(limit); err != nil {
				return err
			}
		}
		mark = i.again.next()
		if err := errors.Join(p.steady(ctx), p.mark(mark), markAll(asks, mark), i.undo(ctx)); err != nil {
			return err
		}
	}
	if err := errors.Join(b.settled(ctx), p.steady(ctx)); err != nil {
		return err
	}
	r, err := h.Stop()
	i.n.opened, i.n.before = i.n.opened+r.Opened, i.n.before+r.Broken
	return err
}

func markAll(asks []*measure.Ask, name string) error {
	var errs []error
	for _, a := range asks {
		errs = append(errs, a.Mark(name))
	}
	return errors.Join(errs...)
}

// hold opens connections from the first client.
func (b *bench) hold(ctx context.Context) (*measure.Hold, error) {
	return measure.StartHold(ctx, b.c.Box(b.clients()[0]), b.self, measure.HoldOpts{Target: netip.AddrPortFrom(b.web.list[0], system.HoldPort), Conns: conns})
}

// silence adds how long nobody answered after marks, and when another sender did.
func (b *bench) silence(k kind, who string, r measure.AskReport) error {
	var silent, taken []time.Duration
	var late measure.Millis
	for _, mark := range k.marks {
		m, err := r.After(mark)
		if err != nil {
			return err
		}
		silent = append(silent, m.Silence.Max.Duration())
		if m.Untaken == 0 {
			taken = append(taken, m.Taken.Max.Duration())
		}
		late = max(late, m.MaxGap)
	}
	b.t.answer(k.title, who+": no answer", silent, late)
	if len(taken) > 0 {
		b.t.answer(k.title, who+": first answer of another sender, after the action began", taken, late)
	}
	return nil
}

// The patches of the owner.
const (
	exclude = `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`
	include = `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":null}}}`
	drain   = `{"metadata":{"annotations":{"barelb.io/drain":""}}}`
	undrain = `{"metadata":{"annotations":{"barelb.io/drain":null}}}`
)

func (b *bench) label(ctx context.Context) error {
	return b.planned(ctx, "exclude label", b.patching(exclude), b.patching(include))
}

func (b *bench) drain(ctx context.Context) error {
	return b.planned(ctx, "drain annotation", b.patching(drain), b.patching(undrain))
}

func (b *bench) selector(ctx context.Context) error {
	apply := func(nodes ...string) func(context.Context) error {
		return func(ctx context.Context) error { return b.c.ApplyYAML(ctx, advertisement(nodes...)) }
	}
	return b.planned(ctx, "node selectors", apply(b.without(b.web.first)...), apply())
}

func (b *bench) patching(patch string) func(context.Context) error {
	return func(ctx context.Context) error { return b.patch(ctx, b.web.first, patch) }
}

// planned moves the addresses away from their owner and back, again and again.
func (b *bench) planned(ctx context.Context, what string, act, undo func(context.Context) error) error {
	p, err := b.probes(ctx)
	if err != nil {
		return err
	}
	away, back := kind{title: b.name + ": " + what + ", away"}, kind{title: b.name + ": " + what + ", back"}
	there, here := tally{trials: b.o.trials}, tally{trials: b.o.trials}
	for range b.trials {
		err := b.move(ctx, p, away.next(), act, false, &there)
		if err == nil {
			err = b.move(ctx, p, back.next(), undo, true, &here)
		}
		if err != nil {
			p.drop()
			return err
		}
	}
	b.t.connections(away.title, there)
	b.t.connections(back.title, here)
	return p.report(b.t, away, back)
}

// move moves the addresses once, away or back, and waits until clients use the new owner.
func (b *bench) move(ctx context.Context, p *probes, mark string, act func(context.Context) error, back bool, n *tally) error {
	h, err := b.hold(ctx)
	if err != nil {
		return err
	}
	opening := measure.StartOpening(ctx, b.c.Box(b.clients()[0]), b.self, measure.FlowsOpts{
		Target: netip.AddrPortFrom(b.web.list[0], system.Port), Count: conns, Interval: 10 * time.Millisecond,
	})
	moved, err := b.follow(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(p.steady(ctx), p.mark(mark), h.Mark(mark)); err != nil {
		return err
	}
	began := time.Now()
	if err := act(ctx); err != nil {
		return err
	}
	told, err := moved(ctx, back)
	if err != nil {
		return err
	}
	if err := p.steady(ctx); err != nil {
		return err
	}
	flows, ferr := opening.Stop()
	r, herr := h.Stop()
	n.opened, n.flows = n.opened+r.Opened, n.flows+flows.Flows
	// That clients moved is read a moment after they did, but never before this is over.
	var stay time.Duration
	if b.way == layer2 {
		stay = b.o.drain
	}
	for _, f := range flows.Lost {
		// A connection that was being opened when they moved was open, in part.
		ended := f.Began.Add(f.Took.Duration())
		b.say("a new connection failed, %s after %q and %s after they moved: %s", f.Began.Sub(began), mark, f.Began.Sub(told), f.Reason)
		if f.Began.Before(told) && ended.Sub(began) >= stay {
			n.under++
		} else {
			n.failed++
		}
	}
	for _, c := range r.Breaks {
		if c.At.Before(told) && (stay == 0 || c.At.Sub(began) < stay) {
			n.before++
			b.say("a connection broke %s after %q: %s", c.After.Duration(), c.Mark, c.Reason)
			continue
		}
		n.after++
		n.last = max(n.last, c.At.Sub(began))
	}
	return errors.Join(ferr, herr)
}

// follow begins to watch the way of the first client. What it returns waits until that
// has moved away from the node, or back, and tells when it did.
func (b *bench) follow(ctx context.Context) (func(ctx context.Context, back bool) (time.Time, error), error) {
	if b.way != layer2 {
		return b.followRoute(ctx)
	}
	entry, err := measure.StartWatchNeigh(ctx, b.c.Box(b.clients()[0]), b.self, measure.NeighWatchOpts{Addr: b.web.list[0]})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, back bool) (time.Time, error) {
		to := b.web.first
		if !back {
			to = strings.Join(b.without(b.web.first), ",")
		}
		node, err := b.owner(ctx, b.web.list[0], to)
		if err != nil {
			return time.Time{}, err
		}
		limit, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		told, err := entry.Await(limit, func(c measure.NeighChange) bool { return b.macs[c.MAC] == node })
		if err != nil {
			return time.Time{}, err
		}
		if err := b.used(ctx, node); err != nil {
			return time.Time{}, err
		}
		_, err = entry.Stop()
		return told.At, err
	}, nil
}

// partition has the owner with one other node, and the gateway with the three.
func (b *bench) partition(ctx context.Context) error {
	const half = 2
	away, back := kind{title: b.name + ": split"}, kind{title: b.name + ": one again"}
	here, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: b.web.list[0]})
	if err != nil {
		return err
	}
	there, err := measure.StartAsk(ctx, b.c.Box(cluster.Router1), b.self, measure.AskOpts{First: b.web.list[0]})
	if err != nil {
		return err
	}
	both := []*measure.Ask{here, there}
	for range b.trials {
		if _, err := b.owner(ctx, b.web.list[0], b.web.first); err != nil {
			return err
		}
		limit, cancel := context.WithTimeout(ctx, patience)
		err := errors.Join(markAll(both, away.next()),
			b.c.Split(append([]string{quiet, b.web.first}, b.without(b.web.first)[:half-1]...)...),
			there.AwaitTaken(limit), here.AwaitRequests(limit, ports), markAll(both, back.next()), b.c.Join())
		if err == nil {
			_, err = b.owner(ctx, b.web.list[0], b.web.first)
		}
		cancel()
		if err != nil {
			return errors.Join(err, b.c.Join())
		}
	}
	h, err := here.Stop()
	if err != nil {
		return err
	}
	r, err := there.Stop()
	if err != nil {
		return err
	}
	var healed []time.Duration
	for _, mark := range back.marks {
		m, err := r.After(mark)
		if err != nil {
			return err
		}
		last := measure.Millis(0)
		for _, a := range m.Answers {
			if b.macs[a.MAC] != b.web.first {
				last = max(last, a.Last)
			}
		}
		healed = append(healed, last.Duration())
	}
	b.t.answer(back.title, "the last answer of the other half's owner", healed, r.MaxGap)
	return errors.Join(b.silence(away, "the half with the owner", h), b.silence(away, "the half without", r), b.count(away, h, r))
}

// count says how many MACs answered in each half.
func (b *bench) count(k kind, halves ...measure.AskReport) error {
	wrong := 0
	for _, r := range halves {
		for _, mark := range k.marks {
			m, err := r.After(mark)
			if err != nil {
				return err
			}
			if len(m.MACs()) > 2 { // the owner of before, and that of the half
				wrong++
			}
		}
	}
	b.say("%s: in %d of %d halves more than one node followed the owner", k.title, wrong, len(halves)*len(k.marks))
	return nil
}

// nine cuts one to four nodes at once.
func (b *bench) nine(ctx context.Context) error {
	k := kind{title: b.name + ": one to four links cut"}
	a, err := b.askRow(ctx)
	if err != nil {
		return err
	}
	for range b.trials {
		nodes := b.c.Nodes()
		b.rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		dead := nodes[:1+b.rng.IntN(4)]
		err := a.Mark(k.next())
		for _, n := range dead {
			err = errors.Join(err, b.c.Cut(n))
		}
		limit, cancel := context.WithTimeout(ctx, patience)
		err = errors.Join(err, a.AwaitAnswers(limit), a.AwaitRequests(limit, len(b.row.list)*ports), a.Mark("mended"))
		for _, n := range dead {
			err = errors.Join(err, b.c.Restore(n))
		}
		cancel()
		for _, addr := range b.row.list {
			if err == nil {
				_, err = b.owner(ctx, addr, "")
			}
		}
		if err != nil {
			return fmt.Errorf("%q cut: %w", dead, err)
		}
	}
	r, err := a.Stop()
	if err != nil {
		return err
	}
	return b.silence(k, fmt.Sprintf("%d addresses", len(b.row.list)), r)
}

// askRow asks for the addresses in a row.
func (b *bench) askRow(ctx context.Context) (*measure.Ask, error) {
	return measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: b.row.list[0], Count: len(b.row.list), Interval: time.Millisecond})
}
