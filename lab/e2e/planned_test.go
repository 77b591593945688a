package e2e_test

import (
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
)

// drainTime is how long a former owner goes on forwarding in these tests.
const drainTime = time.Second

const (
	drain   = `{"metadata":{"annotations":{"barelb.io/drain":""}}}`
	undrain = `{"metadata":{"annotations":{"barelb.io/drain":null}}}`
)

// TestLayer2PlannedMoves moves an address away from a node that is well, and back, for
// every reason that there is. No packet and no new connection may be lost, and no open
// connection before the drain time is over.
func TestLayer2PlannedMoves(t *testing.T) {
	l := frr(t)
	l.speakersWith(t, "--drain-time="+drainTime.String())
	o := l.rivals(t, "l2plan", []string{"192.168.1.211/32", "fd00:1::2:24/128"})
	adv := func(spec ...string) func() error {
		return func() error {
			l.apply(t, object("L2Advertisement", o.name, append([]string{"ipAddressPools: [" + o.name + "]"}, spec...)...))
			return nil
		}
	}
	node := func(patch string) func() error {
		return func() error { return l.patchNode(t.Context(), o.first, patch) }
	}
	for _, move := range []struct {
		name       string
		away, back func() error
	}{
		{"label exclude-from-external-load-balancers", node(exclude), node(include)},
		{"annotation drain", node(drain), node(undrain)},
		{"node selectors", adv(onNodes(l.without(o.first)...)), adv()},
		{"node away and back", func() error { return l.c.Cut(o.first) }, func() error { return l.c.Restore(o.first) }},
	} {
		t.Run(move.name, func(t *testing.T) {
			t.Cleanup(func() { // a test that failed half-way leaves it to nobody else
				if err := move.back(); err != nil {
					t.Error(err)
				}
			})
			if move.name == "node away and back" { // which is no planned move on the way out
				must(t, move.away())
				second := l.ownerIs(t, o.addr, l.without(o.first)...)
				o.move(t, "back", move.back, second, o.first)
				return
			}
			second := o.move(t, "away", move.away, o.first, l.without(o.first)...)
			o.move(t, "back", move.back, second, o.first)
		})
	}
}

// exchange is how long both the former owner of an address and the new one may answer
// everybody: neither may be silent before it has heard of the other.
const exchange = 400 * time.Millisecond

// move moves the address from a node to one of others, and returns to which.
func (o owned) move(t *testing.T, what string, act func() error, from string, to ...string) string {
	t.Helper()
	l := o.l
	p := l.probe(t, cluster.Client, o.addr)
	p6 := l.probe(t, cluster.Remote, o.addr6)
	held := l.hold(t, cluster.Client, o.addr)
	served := l.open(t, cluster.Client, o.addr)
	entry, err := measure.StartWatchNeigh(t.Context(), l.c.Box(cluster.Client), l.self, measure.NeighWatchOpts{Addr: o.addr})
	must(t, err)
	a := l.ask(t, quiet, o.addr)
	must(t, a.Mark(what))
	must(t, held.Mark(what))
	began := time.Now()
	must(t, act())
	must(t, a.AwaitTaken(limited(t, patience)))
	must(t, a.Mark("taken"))

	// Whoever has an entry uses the former owner until it is told.
	old := l.mac(t, from)
	told, err := entry.Await(limited(t, patience), func(c measure.NeighChange) bool { return c.MAC != "" && c.MAC != old })
	must(t, err)
	if took := told.At.Sub(began); took < drainTime {
		t.Errorf("%s: the client was told of another MAC %s after the change, want the drain time of %s to pass", what, took, drainTime)
	}
	l.steady(t, p)
	l.steady(t, p6)
	if _, err := entry.Stop(); err != nil {
		t.Error(err)
	}
	o.wantNothingLost(t, p, p6)
	served()
	r, err := held.Stop()
	must(t, err)
	early, last := 0, time.Duration(0)
	for _, b := range r.Breaks {
		if b.Mark != what || b.After.Duration() < drainTime {
			early++
		}
		last = b.After.Duration()
	}
	if early > 0 {
		t.Errorf("%s: %d of %d open connections broke before the drain time of %s was over, the first %s after the change (%s)",
			what, early, r.Opened, drainTime, r.Breaks[0].After.Duration(), r.Breaks[0].Reason)
	}
	t.Logf("%s: of %d open connections %d broke after the drain time; the last, %s after the change", what, r.Opened, len(r.Breaks)-early, last)

	m := asked(t, a, "taken")
	nodes := l.nodesOf(m.MACsAfter(exchange))
	if len(nodes) != 1 || !slices.Contains(to, nodes[0]) {
		t.Fatalf("%s: answers to everybody name %q, want one of %q alone", what, nodes, to)
	}
	if now := l.macs[told.MAC]; now != nodes[0] {
		t.Errorf("%s: the client was told of %q, but %q answers", what, now, nodes[0])
	}
	return nodes[0]
}
