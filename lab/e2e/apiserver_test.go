package e2e_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

const (
	// cutFor is how long a node is cut off: TCP sends again 6.2 s after the first time,
	// and next after 12.6 s (RFC 6298, with a first timeout of 200 ms).
	cutFor = 7 * time.Second
	// heardOf bounds the time in which a node that is back has the news.
	heardOf = 3 * time.Second
)

// TestAPIServerAway takes the API server away in three ways. What is announced must
// stay announced meanwhile, and changes must work again afterwards.
func TestAPIServerAway(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	l.apply(t, pool("away-l2", []string{"192.168.1.228/30"}), object("L2Advertisement", "away-l2", "ipAddressPools: [away-l2]"))
	advertise(t, l, "away-bgp", []string{"198.51.100.56/30"})
	arp := l.serve(t, system.Service{Name: "away-l2"}, "away-l2")
	route := l.serve(t, system.Service{Name: "away-bgp"}, "away-bgp")
	first := l.owner(t, arp)
	l.endpointsOn(t, "away-l2", l.without(first)...) // the outage of a pod is not that of the address
	l.balanced(t, []netip.Addr{arp}, l.without(first)...)
	l.wantHops(t, host(route), l.c.Nodes()...)

	t.Run("hangs", func(t *testing.T) {
		stays(t, l, arp, route, 3*time.Second, func() {
			must(t, l.signalAPI(t.Context(), "STOP"))
		}, func() {
			must(t, l.signalAPI(t.Context(), "CONT"))
		})
	})
	t.Run("cannot be reached", func(t *testing.T) {
		stays(t, l, arp, route, 3*time.Second, func() {
			must(t, l.c.Cut(cluster.Control))
		}, func() {
			must(t, l.c.Restore(cluster.Control))
		})
	})
	t.Run("killed and started", func(t *testing.T) {
		args := l.argsOfAPI(t)
		stays(t, l, arp, route, time.Second, func() {
			must(t, l.signalAPI(t.Context(), "KILL"))
		}, func() {
			_, err := l.c.Box(cluster.Control).Start("kube-apiserver", args...)
			must(t, err)
			eventually(t, "the API server", func() error {
				return l.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()
			})
		})
	})
	// Speakers need no API server to agree who takes over, nor to start again.
	t.Run("owner fails meanwhile", func(t *testing.T) {
		l.undo(t, "let the API server go on", func(ctx context.Context) error { return l.signalAPI(ctx, "CONT") })
		p := l.probe(t, cluster.Client, arp)
		must(t, l.signalAPI(t.Context(), "STOP"))
		must(t, l.c.Cut(first))
		l.ownerIs(t, arp, l.without(first)...)
		l.wantHops(t, host(route), l.without(first)...)
		must(t, l.c.Restore(first))
		l.ownerIs(t, arp, first)
		l.wantHops(t, host(route), l.c.Nodes()...)
		must(t, l.signalAPI(t.Context(), "CONT"))
		if n, longest := l.lost(t, p); longest > failover {
			t.Errorf("%d probes lost within %s, want %s at most", n, longest, failover)
		}
	})
	t.Run("all speakers are restarted meanwhile", func(t *testing.T) {
		l.undo(t, "let the API server go on", func(ctx context.Context) error { return l.signalAPI(ctx, "CONT") })
		p := l.probe(t, cluster.Client, arp)
		held := l.hold(t, cluster.Client, arp)
		a := l.ask(t, quiet, arp)
		must(t, l.signalAPI(t.Context(), "STOP"))
		must(t, a.Mark("restarts"))
		for _, node := range l.c.Nodes() {
			must(t, l.sys.RestartSpeaker(t.Context(), node, 0))
			within(t, patience/3, "the speaker of "+node+", by what another knows", func() error { return l.ready(t.Context(), node) })
			l.ownerIs(t, arp, first)
		}
		m := asked(t, a, "restarts")
		must(t, l.signalAPI(t.Context(), "CONT"))
		l.wantHops(t, host(route), l.c.Nodes()...)
		if nodes := l.nodesOf(m.MACs()); !slices.Equal(nodes, []string{first}) || m.Silence.Max.Duration() > speechless {
			t.Errorf("answers name %q, and for %s there was none; want %s alone, and %s at most", nodes, m.Silence.Max.Duration(), first, speechless)
		}
		if n, longest := l.lost(t, p); n > 0 {
			t.Errorf("%d probes lost within %s, want none", n, longest)
		}
		wantHeld(t, held)
	})
	t.Run("one node is cut off from it", func(t *testing.T) {
		hearsSoon(t, l, "away-l2", arp, func() error { return l.c.Cut(first) }, func() error { return l.c.Restore(first) })
	})
}

// TestHalfIsCutOffFromAPI has two nodes reach each other, but neither the third nor the API server.
func TestHalfIsCutOffFromAPI(t *testing.T) {
	l := frr(t)
	o := l.rivals(t, "halfapi", []string{"192.168.1.220/32"})
	other, third := l.without(o.first)[0], l.without(o.first)[1]
	l.endpointsOn(t, o.name, third)
	l.balanced(t, []netip.Addr{o.addr}, third)
	hearsSoon(t, l, o.name, o.addr, func() error { return l.c.Split(o.first, other) }, l.c.Join)
}

// hearsSoon cuts the owner of an address off from the API server for a while, and wants it
// to know soon afterwards that the Service is gone. What changes meanwhile is sent again
// ever more rarely: next when the network has been well for as long as it had not been.
func hearsSoon(t *testing.T, l *lab, service string, addr netip.Addr, cut, mend func() error) {
	t.Helper()
	l.undo(t, "mend the network", func(context.Context) error { return mend() })
	first := l.owner(t, addr)
	p := l.probe(t, cluster.Client, addr)
	must(t, cut())
	must(t, p.Mark("cut"))
	l.annotate(t, service, "example.org/news", "for all nodes")
	must(t, p.AwaitAnswers(limited(t, patience), int(cutFor/probeInterval)))
	must(t, mend())
	l.ownerIs(t, addr, first)
	l.delete(t, service)
	within(t, heardOf, first+" to hear of it", func() error { return l.silent(t.Context(), addr, 1) })
}

// stays wants two addresses to stay announced while the API server is away, which it
// is for some time, and a new Service to be announced when it is back.
func stays(t *testing.T, l *lab, arp, route netip.Addr, long time.Duration, away, back func()) {
	t.Helper()
	near, far := l.probe(t, cluster.Client, arp), l.probe(t, cluster.Remote, route)
	away()
	for _, p := range []*measure.Probe{near, far} {
		must(t, p.Mark("away"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, near.AwaitAnswers(ctx, int(long/probeInterval)))
	must(t, far.AwaitAnswers(ctx, int(long/probeInterval)))
	l.owner(t, arp)
	must(t, l.hopsAre(t.Context(), host(route), l.c.Nodes()...))
	back()

	l2 := l.serve(t, system.Service{Name: "away-l2-new"}, "away-l2")
	bgp := l.serve(t, system.Service{Name: "away-bgp-new"}, "away-bgp")
	l.owner(t, l2)
	l.wantHops(t, host(bgp), l.c.Nodes()...)
	l.delete(t, "away-l2-new")
	l.delete(t, "away-bgp-new")
	l.awaitSilence(t, l2)
	l.wantHops(t, host(bgp))
	for what, p := range map[string]*measure.Probe{"Layer 2": near, "BGP": far} {
		if n, longest := l.lost(t, p); n > 0 {
			t.Errorf("%s: %d probes lost within %s", what, n, longest)
		}
	}
}

// argsOfAPI is the API server's command line.
func (l *lab) argsOfAPI(t *testing.T) []string {
	t.Helper()
	script := `for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = kube-apiserver ] && tr '\0' '\n' <$p/cmdline; done; true`
	out, err := l.c.Box(cluster.Control).Command(t.Context(), "sh", "-c", script).Output()
	must(t, err)
	args := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(args) < 2 {
		t.Fatalf("the API server's command line is %q", args)
	}
	return args
}
