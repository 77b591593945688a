package e2e_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

const (
	// failover bounds the outage when nodes are dead, on a machine that has other things
	// to do. What it is on an idle one, `lab failover` measures.
	failover = time.Second
	// speechless bounds the time in which a client that knows no MAC has no answer when
	// a speaker dies whose node is well.
	speechless = 500 * time.Millisecond
)

// TestLayer2Failover takes the owner of an address away in every way that there is.
func TestLayer2Failover(t *testing.T) {
	l := frr(t)
	o := l.rivals(t, "l2fail", []string{"192.168.1.208/32", "fd00:1::2:20/128"})
	t.Run("link cut", func(t *testing.T) { o.cut(t, o.first) })
	t.Run("speaker killed", o.kill)
	t.Run("speaker replaced", o.replace)
	t.Run("condition NetworkUnavailable", o.unavailable)
	t.Run("two of three cut", func(t *testing.T) {
		second, third := l.without(o.first)[0], l.without(o.first)[1]
		l.endpointsOn(t, o.name, third)
		l.balanced(t, []netip.Addr{o.addr, o.addr6}, third)
		o.cut(t, o.first, second)
	})
}

// pause is how long a node has no speaker while it is restarted.
const pause = 500 * time.Millisecond

// cut pulls the cables of nodes, the owner's among them, and plugs them in again.
func (o owned) cut(t *testing.T, nodes ...string) {
	t.Helper()
	l, addr, addr6 := o.l, o.addr, o.addr6
	p := l.probe(t, cluster.Client, addr)
	p6 := l.probe(t, cluster.Remote, addr6)
	l.steady(t, p) // still
	must(t, p.Mark("cut"))
	must(t, p6.Mark("cut"))
	for _, n := range nodes {
		must(t, l.c.Cut(n))
	}
	rest := slices.DeleteFunc(l.c.Nodes(), func(n string) bool { return slices.Contains(nodes, n) })
	second := l.ownerIs(t, addr, rest...)
	l.ownerIs(t, addr6, second)
	l.steady(t, p)
	l.steady(t, p6)
	must(t, p.Mark("restored"))
	must(t, p6.Mark("restored"))
	for _, n := range nodes {
		must(t, l.c.Restore(n))
	}
	l.ownerIs(t, addr, o.first)
	l.ownerIs(t, addr6, o.first)
	l.steady(t, p)
	l.steady(t, p6)
	for from, p := range map[string]*measure.Probe{cluster.Client: p, cluster.Remote: p6} {
		r, err := p.Stop()
		must(t, err)
		m, err := r.After("cut")
		must(t, err)
		t.Logf("%s from %s: %d lost within %s; the prober itself was late by up to %s", r.Target, from, m.Lost, m.LongestDisturbance.Duration(), m.MaxGap.Duration())
		if m.OpenEnd || m.LongestDisturbance.Duration() > failover {
			t.Errorf("%s from %s: away for %s, want %s at most; outages: %+v; answered by %+v", r.Target, from, m.LongestDisturbance.Duration(), failover, r.Outages, r.Backends)
		}
		m, err = r.After("restored")
		must(t, err)
		if m.Lost > 0 {
			t.Errorf("%s from %s: %d probes lost within %s when the node returned, want none", r.Target, from, m.Lost, m.LongestDisturbance.Duration())
		}
	}
}

// kill kills the speaker of a node that is well otherwise: it still forwards, so who
// knows its MAC loses nothing, and who does not has an answer soon, with that same MAC.
func (o owned) kill(t *testing.T) {
	l := o.l
	p := l.probe(t, cluster.Client, o.addr)
	p6 := l.probe(t, cluster.Remote, o.addr6)
	held := l.hold(t, cluster.Client, o.addr)
	a := l.ask(t, quiet, o.addr)
	must(t, a.Mark("killed"))
	l.killSpeaker(t, o.first)
	must(t, a.AwaitTaken(limited(t, patience)))
	l.steady(t, p)
	l.steady(t, p6)
	must(t, a.Mark("started"))
	l.startSpeaker(t, o.first)
	must(t, a.AwaitTaken(limited(t, patience))) // by the owner itself
	l.ownerIs(t, o.addr, o.first)
	r, err := a.Stop()
	must(t, err)
	for _, mark := range []string{"killed", "started"} {
		m, err := r.After(mark)
		must(t, err)
		t.Logf("%s: no answer for up to %s; answers %+v", mark, m.Silence.Max.Duration(), m.Answers)
		if m.Silence.Max.Duration() > speechless {
			t.Errorf("%s: no answer for %s, want %s at most", mark, m.Silence.Max.Duration(), speechless)
		}
		if nodes := l.nodesOf(m.MACs()); !slices.Equal(nodes, []string{o.first}) {
			t.Errorf("%s: answers name %q, want %s alone, whose kernel forwards", mark, nodes, o.first)
		}
	}
	o.wantNothingLost(t, p, p6)
	wantHeld(t, held)
}

// replace ends a speaker so that another follows, as an upgrade does. Nothing may be lost, not even for
// clients whose kernels forget the MAC all the time, and no connection may break.
func (o owned) replace(t *testing.T) {
	l := o.l
	p := l.probe(t, cluster.Client, o.addr)
	p6 := l.probe(t, cluster.Remote, o.addr6)
	held := l.hold(t, cluster.Client, o.addr)
	f, err := measure.StartForget(t.Context(), l.c.Box(cluster.Router1), l.self, measure.ForgetOpts{Addr: o.addr6})
	must(t, err)
	a := l.ask(t, quiet, o.addr)
	must(t, a.Mark("replaced"))
	must(t, l.sys.UpgradeSpeaker(t.Context(), o.first, pause))
	l.awaitReady(t, o.first)
	l.steady(t, p)
	l.steady(t, p6)
	l.ownerIs(t, o.addr, o.first)
	if _, err := f.Stop(); err != nil {
		t.Error(err)
	}
	m := asked(t, a, "replaced")
	t.Logf("no answer for up to %s; answers %+v", m.Silence.Max.Duration(), m.Answers)
	if nodes := l.nodesOf(m.MACs()); !slices.Equal(nodes, []string{o.first}) || m.Silence.Max.Duration() > speechless {
		t.Errorf("answers name %q, and for %s there was none; want %s alone, and %s at most", nodes, m.Silence.Max.Duration(), o.first, speechless)
	}
	o.wantNothingLost(t, p, p6)
	wantHeld(t, held)
}

// unavailable has the node be without a network, as its object says, for a while.
func (o owned) unavailable(t *testing.T) {
	p := o.l.probe(t, cluster.Client, o.addr)
	o.l.changeNode(t, o.first, unavailable, available, "status")
	o.l.ownerIs(t, o.addr, o.l.without(o.first)...)
	must(t, o.l.patchNode(t.Context(), o.first, available, "status"))
	o.l.ownerIs(t, o.addr, o.first)
	o.wantNothingLost(t, p)
}

// wantNothingLost ends probes and wants every one of them answered.
func (o owned) wantNothingLost(t *testing.T, probes ...*measure.Probe) {
	t.Helper()
	for _, p := range probes {
		if n, longest := o.l.lost(t, p); n > 0 {
			t.Errorf("%d probes lost within %s, want none", n, longest)
		}
	}
}

func TestLayer2NodeSelectors(t *testing.T) {
	l := frr(t)
	adv := func(nodes ...string) string {
		return object("L2Advertisement", "l2nodes", "ipAddressPools: [l2nodes]", onNodes(nodes...))
	}
	l.apply(t, pool("l2nodes", []string{"192.168.1.209/32"}), adv("node2"))
	addr := l.serve(t, system.Service{Name: "l2nodes"}, "l2nodes")
	l.ownerIs(t, addr, "node2")
	l.apply(t, adv("node1", "node3"))
	l.ownerIs(t, addr, "node1", "node3")
	l.apply(t, adv("node7"))
	l.awaitSilence(t, addr)

	// A node that gets the label later.
	l.apply(t, object("L2Advertisement", "l2nodes", "ipAddressPools: [l2nodes]", "nodeSelectors: [{matchLabels: {e2e: here}}]"))
	l.changeNode(t, "node3", `{"metadata":{"labels":{"e2e":"here"}}}`, `{"metadata":{"labels":{"e2e":null}}}`)
	l.ownerIs(t, addr, "node3")
	l.reachable(t, addr)
}

func TestLayer2TrafficLocal(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2local", []string{"192.168.1.210/32"}), object("L2Advertisement", "l2local", "ipAddressPools: [l2local]"))
	addr := l.serve(t, system.Service{Name: "l2local", Local: true}, "l2local")
	for _, node := range l.c.Nodes() {
		l.endpointsOn(t, "l2local", node)
		l.ownerIs(t, addr, node)
	}
	l.reachable(t, addr)
	l.endpointsOn(t, "l2local")
	l.awaitSilence(t, addr)
}
