package e2e_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// holdTime is what the peers of the tests ask for; the lab's router offers the same.
const holdTime = 9 * time.Second

// withRouter makes the lab's router a peer of all nodes, by IPv4 and IPv6.
func withRouter(t *testing.T, l *lab) {
	t.Helper()
	hold := "holdTime: " + holdTime.String()
	l.apply(t, peer("router1-v4", router4, routerAS, hold), peer("router1-v6", router6, routerAS, hold))
	l.awaitSessions(t, 4, l.c.Nodes()...)
	l.awaitSessions(t, 6, l.c.Nodes()...)
}

func TestBGP(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	t.Run("next hops", l.bgpNextHops)
	t.Run("communities", l.bgpCommunities)
	t.Run("aggregation", l.bgpAggregation)
	t.Run("node selectors", l.bgpNodeSelectors)
	t.Run("nodes that must not", l.bgpNodeState)
	t.Run("kube-proxy is not healthy", l.bgpProxy)
	t.Run("traffic policy Local", l.bgpLocal)
	t.Run("selectors and attributes", l.bgpAttributes)
	t.Run("two routers", l.bgpTwoRouters)
	t.Run("speaker stopped", l.bgpStop)
	t.Run("speaker killed", l.bgpKill)
	t.Run("link cut", l.bgpCut)
	t.Run("peer nodeSelectors", l.bgpPeerSelectors)
}

// advertise makes a pool of both families and a BGPAdvertisement of it.
func advertise(t *testing.T, l *lab, name string, addresses []string, more ...string) {
	t.Helper()
	l.apply(t, pool(name, addresses), object("BGPAdvertisement", name, append([]string{"ipAddressPools: [" + name + "]"}, more...)...))
}

// everywhere makes a Service with the one address of a pool, which every node announces.
func (l *lab) everywhere(t *testing.T, name, addresses string) netip.Addr {
	t.Helper()
	advertise(t, l, name, []string{addresses})
	addr := l.serve(t, system.Service{Name: name}, name)
	l.wantHops(t, host(addr), l.c.Nodes()...)
	return addr
}

// bgpNextHops wants every node as a next hop, of both families, as long as the
// Service lives; and that Services that come and go leave the sessions alone.
func (l *lab) bgpNextHops(t *testing.T) {
	before, err := l.sessions(t.Context())
	must(t, err)
	advertise(t, l, "bgp", []string{"198.51.100.0/30", "2001:db8:51::/126"})
	addrs := l.serveAll(t, dualStack(system.Service{Name: "bgp"}), "bgp", 2)
	for _, a := range addrs {
		l.wantHops(t, host(a), l.c.Nodes()...)
	}
	l.reachable(t, addrs...)

	other := l.serve(t, system.Service{Name: "bgp-other"}, "bgp")
	l.wantHops(t, host(other), l.c.Nodes()...)
	l.delete(t, "bgp-other")
	l.wantHops(t, host(other))
	l.delete(t, "bgp")
	for _, a := range addrs {
		l.wantHops(t, host(a))
	}
	after, err := l.sessions(t.Context())
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("sessions have changed:\n%s", diff)
	}
}

// bgpCommunities wants the union of what all advertisements say, and that a change
// of it takes effect in the running sessions.
func (l *lab) bgpCommunities(t *testing.T) {
	before, err := l.sessions(t.Context())
	must(t, err)
	l.apply(t, object("Community", "e2e", "communities: [{name: blue, value: '64500:20'}]"))
	advertise(t, l, "comm", []string{"198.51.100.4/30", "2001:db8:51::4/126"}, "communities: ['64500:10', blue, 'large:64500:1:2']")
	addrs := l.serveAll(t, dualStack(system.Service{Name: "comm"}), "comm", 2)
	for _, a := range addrs {
		l.awaitCommunities(t, host(a), "64500:10 64500:20", "64500:1:2")
	}
	l.apply(t, object("BGPAdvertisement", "comm-too", "ipAddressPools: [comm]", "communities: ['64500:30']"))
	l.awaitCommunities(t, host(addrs[0]), "64500:10 64500:20 64500:30", "64500:1:2")
	l.apply(t, object("BGPAdvertisement", "comm", "ipAddressPools: [comm]", "communities: [blue]"))
	l.awaitCommunities(t, host(addrs[0]), "64500:20 64500:30", "")
	l.remove(t, "BGPAdvertisement", "comm-too")
	l.awaitCommunities(t, host(addrs[0]), "64500:20", "")
	after, err := l.sessions(t.Context())
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("sessions have changed:\n%s", diff)
	}
}

func (l *lab) bgpAggregation(t *testing.T) {
	advertise(t, l, "aggr", []string{"198.51.100.16/28", "2001:db8:52::/120"}, "aggregationLength: 28", "aggregationLengthV6: 124")
	addrs := l.serveAll(t, dualStack(system.Service{Name: "aggr"}), "aggr", 2)
	net4, net6 := netip.MustParsePrefix("198.51.100.16/28"), netip.MustParsePrefix("2001:db8:52::/124")
	l.wantHops(t, net4, l.c.Nodes()...)
	l.wantHops(t, net6, l.c.Nodes()...)
	for _, a := range addrs {
		must(t, l.hopsAre(t.Context(), host(a)))
	}
	l.reachable(t, addrs...)
	// The aggregate stays as long as one Service needs it.
	l.serve(t, system.Service{Name: "aggr-too"}, "aggr")
	l.delete(t, "aggr")
	l.wantHops(t, net6)
	l.wantHops(t, net4, l.c.Nodes()...)
	l.delete(t, "aggr-too")
	l.wantHops(t, net4)
}

func (l *lab) bgpNodeSelectors(t *testing.T) {
	advertise(t, l, "bgpnodes", []string{"198.51.100.32/32"}, onNodes("node1", "node2"))
	addr := l.serve(t, system.Service{Name: "bgpnodes"}, "bgpnodes")
	l.wantHops(t, host(addr), "node1", "node2")
	l.apply(t, object("BGPAdvertisement", "bgpnodes", "ipAddressPools: [bgpnodes]", "nodeSelectors: [{matchLabels: {e2e: here}}]"))
	l.wantHops(t, host(addr))
	l.changeNode(t, "node3", `{"metadata":{"labels":{"e2e":"here"}}}`, `{"metadata":{"labels":{"e2e":null}}}`)
	l.wantHops(t, host(addr), "node3")
}

// bgpNodeState wants nodes left out that their administrator or network takes out.
func (l *lab) bgpNodeState(t *testing.T) {
	addr := l.everywhere(t, "bgpstate", "198.51.100.33/32")
	l.changeNode(t, "node1", exclude, include)
	l.wantHops(t, host(addr), "node2", "node3")
	l.changeNode(t, "node2", unavailable, available, "status")
	l.wantHops(t, host(addr), "node3")
	must(t, l.patchNode(t.Context(), "node1", include))
	must(t, l.patchNode(t.Context(), "node2", available, "status"))
	l.wantHops(t, host(addr), l.c.Nodes()...)
}

// bgpProxy has the kube-proxy of a node say that the node is to take no traffic any more,
// as it does once the cluster autoscaler is about to delete the node.
func (l *lab) bgpProxy(t *testing.T) {
	addr := l.everywhere(t, "bgpproxy", "198.51.100.45/32")
	l.changeNode(t, "node1", doomed, spared)
	l.wantHops(t, host(addr), "node2", "node3")
	must(t, l.patchNode(t.Context(), "node1", spared))
	l.wantHops(t, host(addr), l.c.Nodes()...)
}

func (l *lab) bgpLocal(t *testing.T) {
	advertise(t, l, "bgplocal", []string{"198.51.100.34/32", "2001:db8:53::1/128"})
	addrs := l.serveAll(t, dualStack(system.Service{Name: "bgplocal", Local: true}), "bgplocal", 2)
	l.endpointsOn(t, "bgplocal", "node2")
	l.wantHops(t, host(addrs[0]), "node2")
	l.wantHops(t, host(addrs[1]), "node2")
	l.reachable(t, addrs...)
	l.endpointsOn(t, "bgplocal", "node1", "node3")
	l.wantHops(t, host(addrs[0]), "node1", "node3")
	l.endpointsOn(t, "bgplocal")
	l.wantHops(t, host(addrs[0]))
}

// bgpAttributes wants what is selected by labels announced with what the advertisement
// says, and nothing else.
func (l *lab) bgpAttributes(t *testing.T) {
	label := func(kind, namespace, how string) {
		t.Helper()
		_, err := l.c.Kubectl(t.Context(), "-n", namespace, "label", kind, "bgpattrs", how)
		must(t, err)
	}
	l.apply(t, pool("bgpattrs", []string{"198.51.100.44/32", "2001:db8:53::44/128"}), object("BGPAdvertisement", "bgpattrs",
		"ipAddressPoolSelectors: [{matchLabels: {e2e: attributes}}]", "serviceSelectors: [{matchLabels: {tier: front}}]",
		"med: 7", "asPathPrepend: 2", "weightByEndpoints: true"))
	addrs := l.serveAll(t, dualStack(system.Service{Name: "bgpattrs", Local: true}), "bgpattrs", 2)
	label("ipaddresspool", system.Namespace, "e2e=attributes")
	label("service", namespace, "tier=front")
	want := path{MED: 7}
	want.ASPath.String = strings.TrimSpace(strings.Repeat(fmt.Sprint(nodeAS, " "), 3))
	want.ExtCommunity.String = fmt.Sprintf("LB:%d:125000 (1.000 Mbps)", nodeAS) // a pod, which has an endpoint in each family
	for _, a := range addrs {
		l.wantHops(t, host(a), l.c.Nodes()...)
		paths, err := l.paths(t.Context(), host(a))
		must(t, err)
		for _, got := range paths {
			if got != want {
				t.Errorf("%s: FRR has %+v, want %+v", a, got, want)
			}
		}
	}
	label("service", namespace, "tier-")
	l.wantHops(t, host(addrs[0]))
	label("service", namespace, "tier=front")
	l.wantHops(t, host(addrs[0]), l.c.Nodes()...)
	label("ipaddresspool", system.Namespace, "e2e-")
	l.wantHops(t, host(addrs[1]))
	l.wantHops(t, host(addrs[0]))
}

// bgpTwoRouters wants passwords to be kept to, and each router to hear what is
// meant for it.
func (l *lab) bgpTwoRouters(t *testing.T) {
	s := l.startSecond(t)
	advertise(t, l, "two-a", []string{"198.51.100.36/32"}, "peers: [router1-v4]")
	advertise(t, l, "two-b", []string{"198.51.100.37/32"}, "peers: [second]")
	advertise(t, l, "two-both", []string{"198.51.100.38/32"})
	a := l.serve(t, system.Service{Name: "two-a"}, "two-a")
	b := l.serve(t, system.Service{Name: "two-b"}, "two-b")
	both := l.serve(t, system.Service{Name: "two-both"}, "two-both")

	refused, err := s.refused()
	must(t, err)
	l.apply(t, peer("second", secondAddr, secondAS, "password: wrong", "connectTime: 1s"))
	eventually(t, "segments with a wrong password", func() error {
		now, err := s.refused()
		if err == nil && now == refused {
			err = fmt.Errorf("there were %d", now)
		}
		return err
	})
	l.wantHops(t, host(both), l.c.Nodes()...)
	s.wantHops(t, l, host(both))

	l.apply(t, peer("second", secondAddr, secondAS, "password: "+secondPassword, "connectTime: 1s"))
	s.wantHops(t, l, host(both), l.c.Nodes()...)
	s.wantHops(t, l, host(b), l.c.Nodes()...)
	s.wantHops(t, l, host(a))
	l.wantHops(t, host(a), l.c.Nodes()...)
	l.wantHops(t, host(b))

	// The same password out of a Secret.
	l.remove(t, "BGPPeer", "second")
	s.wantHops(t, l, host(both))
	l.apply(t, "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/basic-auth\nmetadata: {name: e2e-second, namespace: "+system.Namespace+"}\n"+
		"stringData: {username: any, password: "+secondPassword+"}",
		peer("second", secondAddr, secondAS, "passwordSecret: {name: e2e-second}", "connectTime: 1s"))
	s.wantHops(t, l, host(both), l.c.Nodes()...)
}

// bgpStop wants a speaker that ends as in an upgrade to withdraw its node, and no other.
func (l *lab) bgpStop(t *testing.T) {
	addr := l.everywhere(t, "bgpstop", "198.51.100.40/32")
	p := l.probe(t, cluster.Remote, addr)
	w, err := measure.StartWatchRoute(t.Context(), l.c.Box(cluster.Router1), l.self, measure.RouteWatchOpts{Prefix: host(addr)})
	must(t, err)
	const node = "node1"
	told := time.Now()
	must(t, l.sys.StopSpeaker(t.Context(), node))
	l.wantHops(t, host(addr), l.without(node)...)
	changes, err := w.Stop()
	must(t, err)
	const withdrawal = 2 * time.Second
	if last := changes[len(changes)-1]; last.At.Sub(told) > withdrawal {
		t.Errorf("the route was withdrawn after %s, want %s at most", last.At.Sub(told), withdrawal)
	}
	for _, c := range changes {
		if c.Usable() < len(l.c.Nodes())-1 {
			t.Errorf("the route had only %d next hops for a moment", c.Usable())
		}
	}
	<-l.sys.Speaker(node).Done()
	l.startSpeaker(t, node)
	l.wantHops(t, host(addr), l.c.Nodes()...)
	// Kernels move flows between next hops at once, and every node serves every flow.
	if n, longest := l.lost(t, p); longest > time.Second {
		t.Errorf("%d probes lost within %s, want a second at most", n, longest)
	}
}

func (l *lab) bgpKill(t *testing.T) {
	addr := l.everywhere(t, "bgpkill", "198.51.100.41/32")
	l.killSpeaker(t, "node2")
	l.wantHops(t, host(addr), l.without("node2")...) // its kernel closes the session
	l.startSpeaker(t, "node2")
	l.wantHops(t, host(addr), l.c.Nodes()...)
}

func (l *lab) bgpCut(t *testing.T) {
	advertise(t, l, "bgpcut", []string{"198.51.100.42/32"})
	addr := l.serve(t, system.Service{Name: "bgpcut"}, "bgpcut")
	l.endpointsOn(t, "bgpcut", "node1", "node2")
	l.balanced(t, []netip.Addr{addr}, "node1", "node2")
	l.wantHops(t, host(addr), l.c.Nodes()...)
	p := l.probe(t, cluster.Remote, addr)
	must(t, l.c.Cut("node3"))
	within(t, holdTime+patience, "the route without node3", func() error { return l.hopsAre(t.Context(), host(addr), "node1", "node2") })
	l.steady(t, p)
	must(t, l.c.Restore("node3"))
	l.wantHops(t, host(addr), l.c.Nodes()...)
	n, longest := l.lost(t, p)
	t.Logf("%d lost within %s", n, longest)
	if limit := holdTime + 2*time.Second; longest > limit { // the time to notice, and some to compute
		t.Errorf("%d probes lost within %s, want %s at most", n, longest, limit)
	}
}

// bgpPeerSelectors wants sessions from the nodes that a peer selects, and no others.
func (l *lab) bgpPeerSelectors(t *testing.T) {
	advertise(t, l, "bgppeer", []string{"198.51.100.43/32", "2001:db8:53::2/128"})
	addrs := l.serveAll(t, dualStack(system.Service{Name: "bgppeer"}), "bgppeer", 2)
	l.wantHops(t, host(addrs[0]), l.c.Nodes()...)
	l.apply(t, peer("router1-v4", router4, routerAS, "holdTime: "+holdTime.String(), onNodes("node1", "node3")))
	l.awaitSessions(t, 4, "node1", "node3")
	l.wantHops(t, host(addrs[0]), "node1", "node3")
	l.wantHops(t, host(addrs[1]), l.c.Nodes()...)
	l.apply(t, peer("router1-v4", router4, routerAS, "holdTime: "+holdTime.String()))
	l.wantHops(t, host(addrs[0]), l.c.Nodes()...)
}
