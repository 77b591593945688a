package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// TestLayer2MixedFleet has speakers of MetalLB and of BareLB in one fleet. By MetalLB's rule
// both must always agree who owns what, and no address may be without an owner for longer
// than in a fleet of MetalLB's alone.
func TestLayer2MixedFleet(t *testing.T) {
	l := frr(t)
	mlb := realMetalLB(t)
	l.grantMetalLB(t, mlb)
	l.apply(t, pool("l2mixed", []string{"192.168.1.240/30"}, "avoidBuggyIPs: false"), object("L2Advertisement", "l2mixed", "ipAddressPools: [l2mixed]"))
	m := &mixed{l: l, first: netip.MustParseAddr("192.168.1.240"), count: 4}
	for i := range m.count {
		l.serve(t, system.Service{Name: fmt.Sprintf("l2mixed-%d", i)}, "l2mixed")
	}
	for _, theirs := range [][]string{{"node3"}, {"node2", "node3"}} {
		t.Run(fmt.Sprintf("%d of MetalLB's", len(theirs)), func(t *testing.T) {
			m.theirs = theirs
			for _, node := range theirs {
				l.metallbOn(t, mlb, node)
			}
			m.awaitOwners(t, l.c.Nodes()...)
			m.events(t)
		})
	}
}

// events has happen to a node of each kind what can.
func (m *mixed) events(t *testing.T) {
	t.Helper()
	l := m.l
	ours, theirs := m.owner(t, false), m.owner(t, true)
	nothing := func() error { return nil }
	for _, event := range []struct {
		name  string
		limit time.Duration
		act   func() error
		nodes []string // that are left
		undo  func() error
	}{
		{
			"theirs excluded", told, func() error { return l.patchNode(t.Context(), theirs, exclude) }, l.without(theirs),
			func() error { return l.patchNode(t.Context(), theirs, include) },
		},
		{
			"ours excluded", told, func() error { return l.patchNode(t.Context(), ours, exclude) }, l.without(ours),
			func() error { return l.patchNode(t.Context(), ours, include) },
		},
		{"ours restarted", told, func() error { return l.sys.RestartSpeaker(t.Context(), ours, pause) }, l.c.Nodes(), nothing},
		{"theirs restarted", told, func() error { return l.sys.RestartSpeaker(t.Context(), theirs, pause) }, l.c.Nodes(), nothing},
		{
			"theirs killed", detection, func() error { return l.sys.KillSpeaker(t.Context(), theirs) }, l.without(theirs),
			func() error {
				if !ended(l.sys.Speaker(theirs)) {
					return nil
				}
				return l.sys.StartSpeaker(context.WithoutCancel(t.Context()), theirs)
			},
		},
		// The last: who was cut off hears late from the API server, theirs at least.
		{"link of theirs cut", detection, func() error { return l.c.Cut(theirs) }, l.without(theirs), func() error { return l.c.Restore(theirs) }},
		{"link of ours cut", detection, func() error { return l.c.Cut(ours) }, l.without(ours), func() error { return l.c.Restore(ours) }},
	} {
		t.Run(event.name, func(t *testing.T) {
			m.during(t, event.limit, event.act, event.nodes, event.undo)
		})
	}
}

// owner is a node of one kind that owns an address.
func (m *mixed) owner(t *testing.T, theirs bool) string {
	t.Helper()
	for _, a := range m.addrs() {
		if n := byFormula(a, m.l.c.Nodes()); slices.Contains(m.theirs, n) == theirs {
			return n
		}
	}
	t.Fatalf("nobody of that kind owns an address: theirs are %v", m.theirs)
	return ""
}

const (
	// detection bounds the time that memberlist takes, with MetalLB's parameters, to call
	// a member dead that says nothing: 5.0 to 7.3 s with three members, and a busy machine.
	detection = 10 * time.Second
	// told bounds the time until another answers when a speaker says that it leaves.
	told = 4 * time.Second
)

// mixed is a fleet of both kinds, and addresses in a row.
type mixed struct {
	l      *lab
	theirs []string
	first  netip.Addr
	count  int
}

func (m *mixed) addrs() []netip.Addr {
	all := []netip.Addr{m.first}
	for range m.count - 1 {
		all = append(all, all[len(all)-1].Next())
	}
	return all
}

// awaitOwners waits until the first of nodes by MetalLB's formula answers for each address,
// itself, and nobody else does: neither is there one who takes care of it for another.
func (m *mixed) awaitOwners(t *testing.T, nodes ...string) {
	t.Helper()
	l := m.l
	for _, a := range m.addrs() {
		want := byFormula(a, nodes)
		eventually(t, fmt.Sprintf("%s to answer for %s", want, a), func() error {
			r, err := measure.WhoHas(t.Context(), l.c.Box(cluster.Client), l.self, measure.WhoHasOpts{Addr: a, Tries: 1, Interval: 100 * time.Millisecond})
			if err != nil {
				return err
			}
			var from, of []string
			for _, h := range r.Answers {
				from, of = append(from, l.macs[h.From]), append(of, l.macs[h.MAC])
			}
			if !slices.Equal(from, []string{want}) || !slices.Equal(of, from) {
				return fmt.Errorf("%q answer, with the MACs of %q", from, of)
			}
			return nil
		})
	}
}

// during wants every address to be answered for soon after an event, by the nodes that
// are left, and after its end by those of before.
func (m *mixed) during(t *testing.T, limit time.Duration, act func() error, nodes []string, undo func() error) {
	t.Helper()
	l := m.l
	t.Cleanup(func() { // a test that failed half-way leaves it to nobody else
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
	a := l.askAll(t, quiet, measure.AskOpts{First: m.first, Count: m.count})
	must(t, a.Mark("event"))
	must(t, act())
	m.awaitOwners(t, nodes...)
	must(t, a.Mark("over"))
	must(t, undo())
	m.awaitOwners(t, l.c.Nodes()...)
	must(t, a.Mark("end"))
	r, err := a.Stop()
	must(t, err)
	for mark, most := range map[string]time.Duration{"event": limit, "over": told} {
		after, err := r.After(mark)
		must(t, err)
		t.Logf("%s: nobody answered for up to %s, half of the addresses for %s", mark, after.Silence.Max.Duration(), after.Silence.P50.Duration())
		if after.Silence.Count != m.count || after.Silence.Max.Duration() > most {
			t.Errorf("%s: nobody answered for %s, want %s at most", mark, after.Silence.Max.Duration(), most)
		}
		for _, h := range after.Answers {
			// Ours may take care of each other's addresses, but not of theirs.
			if of := l.macs[h.MAC]; !slices.Contains(l.c.Nodes(), of) || h.MAC != h.From && slices.Contains(m.theirs, of) {
				t.Errorf("%s: %s answers with %s, which is no owner's answer", mark, h.From, h.MAC)
			}
		}
	}
}
