package failover

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// stop stops the owner's speaker for so short that another only answers for it.
func (b *bench) stop(ctx context.Context) error { return b.paused(ctx, 20*time.Second) }

// stopLong stops it for so long that another takes over.
func (b *bench) stopLong(ctx context.Context) error { return b.paused(ctx, 90*time.Second) }

// paused stops the owner's speaker for some time, once, and counts its answers after.
func (b *bench) paused(ctx context.Context, long time.Duration) error {
	resume := func() error { return b.sys.ResumeSpeaker(b.web.first) }
	a, m, lost, err := b.underFault(ctx, long, func(context.Context) error { return b.sys.PauseSpeaker(b.web.first) })
	if err != nil {
		return errors.Join(err, resume())
	}
	b.t.fault(b.name+": speaker stopped (SIGSTOP)", long, 1, m, lost)
	if err := errors.Join(a.Mark("resumed"), resume()); err != nil {
		return err
	}
	if _, err := b.owner(ctx, b.web.list[0], b.web.first); err != nil {
		return err
	}
	r, err := a.Stop()
	if err != nil {
		return err
	}
	after, err := r.After("resumed")
	if err != nil {
		return err
	}
	for _, h := range after.Answers {
		b.say("after it was resumed: %d answers with the MAC of %s from %s, from %s to %s", h.Count, b.macs[h.MAC], b.macs[h.From], h.First.Duration(), h.Last.Duration())
	}
	return nil
}

// underFault probes and asks for the first address of web for some time after act. It
// returns the asking, which goes on, and what it saw.
func (b *bench) underFault(ctx context.Context, long time.Duration, act func(context.Context) error) (*measure.Ask, measure.AskMark, int, error) {
	var none measure.AskMark
	p, err := b.probes(ctx)
	if err != nil {
		return nil, none, 0, err
	}
	a, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: b.web.list[0]})
	if err != nil {
		p.drop()
		return nil, none, 0, err
	}
	limit, cancel := context.WithTimeout(ctx, long+patience)
	defer cancel()
	err = errors.Join(a.AwaitAnswers(limit), p.mark("fault"), a.Mark("fault"))
	if err == nil {
		err = errors.Join(act(ctx), system.Rest(ctx, long), p.steady(limit))
	}
	if err != nil {
		p.drop()
		return nil, none, 0, err
	}
	lost, err := p.lost("fault")
	if err != nil {
		return nil, none, 0, err
	}
	// What it saw so far is in the report of one that asks on.
	next, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: b.web.list[0]})
	if err != nil {
		return nil, none, 0, err
	}
	r, err := a.Stop()
	if err != nil {
		return nil, none, 0, err
	}
	m, err := r.After("fault")
	return next, m, lost, err
}

// api stops the API server, and cuts the owner's link meanwhile.
func (b *bench) api(ctx context.Context) error {
	a, m, lost, err := b.underFault(ctx, b.o.long, func(ctx context.Context) error { return b.c.SignalAPI(ctx, "STOP") })
	resume := func() error { return b.c.SignalAPI(ctx, "CONT") }
	if err != nil {
		return errors.Join(err, resume())
	}
	if _, err := a.Stop(); err != nil {
		return errors.Join(err, resume())
	}
	b.t.fault(b.name+": API server stopped", b.o.long, 1, m, lost)
	return errors.Join(b.cuts(ctx, "link cut without an API server", b.web.first), resume())
}

// port drops what the speakers tell each other.
func (b *bench) port(ctx context.Context) error {
	a, m, lost, err := b.underFault(ctx, b.o.long, func(ctx context.Context) error {
		var errs []error
		for _, n := range b.c.Nodes() {
			errs = append(errs, b.c.DropInput(ctx, n, "tcp dport 7946", "udp dport 7946"))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return errors.Join(err, b.hearAll(ctx))
	}
	_, err = a.Stop()
	b.t.fault(b.name+": speakers' port filtered on every node", b.o.long, 1, m, lost)
	return errors.Join(err, b.hearAll(ctx))
}

// hearAll ends all filters.
func (b *bench) hearAll(ctx context.Context) error {
	var errs []error
	for _, n := range b.c.Nodes() {
		errs = append(errs, b.c.StopDropping(ctx, n))
	}
	return errors.Join(errs...)
}

// loss loses every fifth frame at each node.
func (b *bench) loss(ctx context.Context) error {
	return b.rowUnder(ctx, "20 % loss at every node", func(ctx context.Context) (func() error, error) {
		return b.deaf(ctx, func(int) string { return "numgen random mod 100 < 20" })
	})
}

// oneWay has each node hear nothing of the next two, which hear it.
func (b *bench) oneWay(ctx context.Context) error {
	nodes := b.c.Nodes()
	return b.rowUnder(ctx, "each node deaf to two others", func(ctx context.Context) (func() error, error) {
		return b.deaf(ctx, func(i int) string {
			next := nodes[(i+1)%len(nodes)] + " " + nodes[(i+2)%len(nodes)]
			var macs []string
			for mac, n := range b.macs {
				if slices.Contains(strings.Fields(next), n) {
					macs = append(macs, mac)
				}
			}
			return "ether saddr { " + strings.Join(macs, ", ") + " }"
		})
	})
}

// deaf has each node drop what comes in by a rule of its own.
func (b *bench) deaf(ctx context.Context, rule func(int) string) (func() error, error) {
	var errs []error
	for i, n := range b.c.Nodes() {
		errs = append(errs, b.c.DropIngress(ctx, n, []string{"eth0"}, rule(i)))
	}
	return func() error { return b.hearAll(ctx) }, errors.Join(errs...)
}

// load keeps every core busy, twice over.
func (b *bench) load(ctx context.Context) error {
	return b.rowUnder(ctx, "every core busy, twice over", func(ctx context.Context) (func() error, error) {
		ctx, cancel := context.WithCancel(ctx)
		for range 2 * runtime.NumCPU() {
			cmd := b.c.Box(cluster.Remote).Command(ctx, "sh", "-c", "while :; do :; done")
			if err := cmd.Start(); err != nil {
				cancel()
				return nil, err
			}
			go func() { _ = cmd.Wait() }() // it is killed
		}
		return func() error { cancel(); return nil }, nil
	})
}

// rowUnder asks for the addresses in a row while a fault lasts.
func (b *bench) rowUnder(ctx context.Context, what string, act func(context.Context) (func() error, error)) error {
	a, err := b.askRow(ctx)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := errors.Join(a.AwaitAnswers(limit), a.Mark("fault")); err != nil {
		return err
	}
	undo, err := act(ctx)
	if err == nil {
		err = errors.Join(system.Rest(ctx, b.o.long), a.Mark("end"))
	}
	if undo != nil {
		err = errors.Join(err, undo())
	}
	r, serr := a.Stop()
	if err = errors.Join(err, serr); err != nil {
		return err
	}
	m, err := r.After("fault")
	if err != nil {
		return err
	}
	b.t.fault(b.name+": "+what, b.o.long, len(b.row.list), m, 0)
	return nil
}
