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
)

// bgpDrain is the drain time in these tests: longer than it takes here for a session to come up,
// or for a speaker to find the API server again.
const bgpDrain = 6 * time.Second

// TestBGPPlannedMoves has other nodes announce an address than before, by selectors. No
// probe may be lost, be it that next hops go, or that others take the place of all: the
// router is told to prefer others, and keeps the former ones until the drain time is over.
func TestBGPPlannedMoves(t *testing.T) {
	l := frr(t)
	l.speakersWith(t, "--drain-time="+bgpDrain.String())
	withRouter(t, l)
	all := l.c.Nodes()
	addr := l.everywhere(t, "bgpmove", "198.51.100.60/32")
	l.balanced(t, []netip.Addr{addr}, all...)
	adv := func(nodes ...string) {
		l.apply(t, object("BGPAdvertisement", "bgpmove", "ipAddressPools: [bgpmove]", onNodes(nodes...)))
	}
	via := func(nodes ...string) {
		l.apply(t, peer("router1-v4", router4, routerAS, "holdTime: "+holdTime.String(), onNodes(nodes...)))
	}
	for _, m := range []bgpMove{
		{"nodes leave an advertisement", adv, all, []string{"node3"}, ""},
		{"an advertisement goes to other nodes", adv, []string{"node3"}, []string{"node1", "node2"}, ""},
		{"an advertisement goes to a node that hears of it late", adv, []string{"node1", "node2"}, []string{"node3"}, "node3"},
		{"an advertisement gains nodes", adv, []string{"node3"}, all, ""},
		{"nodes leave a peer", via, all, []string{"node3"}, ""},
		{"a peer goes to other nodes", via, []string{"node3"}, []string{"node1"}, ""},
		{"a peer gains nodes", via, []string{"node1"}, all, ""},
	} {
		t.Run(m.name, func(t *testing.T) { m.run(t, l, addr) })
	}
	t.Run("nobody can serve", func(t *testing.T) {
		told := time.Now()
		l.endpointsOn(t, "bgpmove")
		l.wantHops(t, host(addr))
		if took := time.Since(told); took > bgpDrain/2 {
			t.Errorf("the routes were withdrawn after %s", took)
		}
	})
}

// bgpMove is a change of the nodes that announce an address.
type bgpMove struct {
	name     string
	act      func(nodes ...string)
	from, to []string
	late     string // a node that does not hear the API server until the others have acted
}

func (m bgpMove) run(t *testing.T, l *lab, addr netip.Addr) {
	t.Helper()
	pfx := host(addr)
	l.wantHops(t, pfx, m.from...)
	p := l.probe(t, cluster.Remote, addr)
	w, err := measure.StartWatchRoute(t.Context(), l.c.Box(cluster.Router1), l.self, measure.RouteWatchOpts{Prefix: pfx})
	must(t, err)
	restore := func(ctx context.Context) error { return l.c.StopDropping(ctx, m.late) }
	if m.late != "" {
		l.undo(t, "filter nothing", restore)
		must(t, l.c.DropInput(t.Context(), m.late, "tcp sport 6443"))
	}
	told := time.Now()
	m.act(m.to...)
	former := slices.DeleteFunc(slices.Clone(m.from), func(n string) bool { return slices.Contains(m.to, n) })
	if len(former) > 0 {
		eventually(t, "paths that say that they go", func() error { return l.departing(t.Context(), pfx, len(former)) })
	}
	if m.late != "" {
		must(t, l.hopsAre(t.Context(), pfx, m.from...))
		must(t, restore(t.Context()))
	}
	l.wantHops(t, pfx, m.to...)
	if took := time.Since(told); took > bgpDrain {
		t.Errorf("the router uses the others after %s", took)
	}
	eventually(t, "the paths of those selected alone", func() error {
		paths, err := l.paths(t.Context(), pfx)
		if err == nil && len(paths) != len(m.to) {
			err = fmt.Errorf("there are %d", len(paths))
		}
		return err
	})
	if took := time.Since(told); len(former) > 0 && took < bgpDrain {
		t.Errorf("the last former path is gone after %s, want %s at least", took, bgpDrain)
	}
	must(t, l.hopsAre(t.Context(), pfx, m.to...))
	changes, err := w.Stop()
	must(t, err)
	for _, c := range changes {
		if c.Usable() == 0 {
			t.Error("the route had no next hop for a moment")
		}
	}
	if n, longest := l.lost(t, p); n > 0 {
		t.Errorf("%d probes lost within %s, want none", n, longest)
	}
}
