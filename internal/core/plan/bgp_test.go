package plan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// told returns what each peer is told, in words.
func told(d plan.Desired) map[string][]string {
	out := map[string][]string{}
	for _, s := range d.BGP {
		out[s.Peer.Name] = []string{}
		for _, pfx := range slices.SortedFunc(maps.Keys(s.Routes), netip.Prefix.Compare) {
			text := pfx.String()
			a := s.Routes[pfx]
			if a.LocalPref != 0 {
				text += fmt.Sprint(" pref=", a.LocalPref)
			}
			if a.HasMED {
				text += fmt.Sprint(" med=", a.MED)
			}
			for _, n := range []struct {
				name  string
				value uint32
			}{{"prepend", uint32(a.Prepend)}, {"bandwidth", a.Bandwidth}} {
				if n.value > 0 {
					text += fmt.Sprint(" ", n.name, "=", n.value)
				}
			}
			if a.GracefulShutdown {
				text += " leaving"
			}
			for _, c := range a.Communities {
				text += " " + c.String()
			}
			for _, c := range a.LargeCommunities {
				text += " " + c.String()
			}
			out[s.Peer.Name] = append(out[s.Peer.Name], text)
		}
	}
	return out
}

func checkTold(t *testing.T, d plan.Desired, want map[string][]string) {
	t.Helper()
	if diff := cmp.Diff(want, told(d)); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func with(communities ...string) func(*config.BGPAdvertisement) {
	return func(a *config.BGPAdvertisement) { a.Communities = communities }
}

func pref(n uint32) func(*config.BGPAdvertisement) {
	return func(a *config.BGPAdvertisement) { a.LocalPref = n }
}

func lengths(v4, v6 int) func(*config.BGPAdvertisement) {
	return func(a *config.BGPAdvertisement) { a.AggregationLength, a.AggregationLengthV6 = v4, v6 }
}

func peers(names ...string) func(*config.BGPAdvertisement) {
	return func(a *config.BGPAdvertisement) { a.Peers = names }
}

func nodes(names ...string) func(*config.BGPAdvertisement) {
	return func(a *config.BGPAdvertisement) { a.NodeSelectors = on(names...) }
}

func services(s lb.Selector) func(*config.BGPAdvertisement) {
	return func(a *config.BGPAdvertisement) { a.ServiceSelectors = []lb.Selector{s} }
}

// TestRoutes: what the two routers are told by two advertisements.
func TestRoutes(t *testing.T) {
	type rs = map[string][]string
	adv := bgpAdv
	for name, c := range map[string]struct {
		advs []config.BGPAdvertisement
		want rs
	}{
		"plain":      {[]config.BGPAdvertisement{adv("a", 0)}, rs{"r1": {"192.168.1.250/32", "fd00::9/128"}, "r2": {"192.168.1.250/32", "fd00::9/128"}}},
		"attributes": {[]config.BGPAdvertisement{adv("a", 0, pref(200), with("1:2", "large:1:2:3"), peers("r1"))}, rs{"r1": {"192.168.1.250/32 pref=200 1:2 large:1:2:3", "fd00::9/128 pref=200 1:2 large:1:2:3"}, "r2": {}}},
		"communities are united": {
			[]config.BGPAdvertisement{adv("a", 0, with("1:3", "large:1:1:1")), adv("b", 1, with("1:2", "1:3")), adv("c", 2, with("1:4"), peers("r2"))},
			rs{"r1": {"192.168.1.250/32 1:2 1:3 large:1:1:1", "fd00::9/128 1:2 1:3 large:1:1:1"}, "r2": {"192.168.1.250/32 1:2 1:3 1:4 large:1:1:1", "fd00::9/128 1:2 1:3 1:4 large:1:1:1"}},
		},
		"the oldest local preference": {
			[]config.BGPAdvertisement{adv("a", 3, pref(300)), adv("b", 2, pref(200)), adv("c", 1), adv("d", 0, pref(100), peers("r2"))},
			rs{"r1": {"192.168.1.250/32 pref=200", "fd00::9/128 pref=200"}, "r2": {"192.168.1.250/32 pref=100", "fd00::9/128 pref=100"}},
		},
		"aggregates": {
			[]config.BGPAdvertisement{adv("a", 0, lengths(24, 120), with("1:1")), adv("b", 1, peers("r2"), with("1:2"))},
			rs{"r1": {"192.168.1.0/24 1:1", "fd00::/120 1:1"}, "r2": {"192.168.1.0/24 1:1", "192.168.1.250/32 1:2", "fd00::/120 1:1", "fd00::9/128 1:2"}},
		},
		"aggregates of one family": {
			[]config.BGPAdvertisement{adv("a", 0, lengths(24, 128), with("1:1")), adv("b", 1, with("1:2"))},
			rs{
				"r1": {"192.168.1.0/24 1:1", "192.168.1.250/32 1:2", "fd00::9/128 1:1 1:2"},
				"r2": {"192.168.1.0/24 1:1", "192.168.1.250/32 1:2", "fd00::9/128 1:1 1:2"},
			},
		},
		"one peer each":   {[]config.BGPAdvertisement{adv("a", 0, peers("r1"), with("1:1")), adv("b", 1, peers("r2"), with("1:2"))}, rs{"r1": {"192.168.1.250/32 1:1", "fd00::9/128 1:1"}, "r2": {"192.168.1.250/32 1:2", "fd00::9/128 1:2"}}},
		"for other nodes": {[]config.BGPAdvertisement{adv("a", 0, nodes("node2"), with("1:1")), adv("b", 1, nodes("node2", me), with("1:2"))}, rs{"r1": {"192.168.1.250/32 1:2", "fd00::9/128 1:2"}, "r2": {"192.168.1.250/32 1:2", "fd00::9/128 1:2"}}},
		"none":            {nil, rs{"r1": {}, "r2": {}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.objs.BGP = c.advs
			w.objs.Peers = []config.BGPPeer{peer("r2", 0, "192.168.1.2"), peer("r1", 1, "192.168.1.1")}
			w.services[0] = service("s", "192.168.1.250", "fd00::9")
			d, v := w.plan(t, me)
			checkTold(t, d, c.want)
			var want []string
			for n, routes := range c.want {
				if len(routes) > 0 {
					want = append(want, n)
				}
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, v.Peers, opts); diff != "" {
				t.Errorf("peers of the verdict (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFamiliesOfSession: a session without dualStackAddressFamily carries its own.
func TestFamiliesOfSession(t *testing.T) {
	w := newWorld()
	four, six := peer("four", 0, "192.168.1.1"), peer("six", 0, "fd00::1")
	four.DualStack, six.DualStack = false, false
	w.objs.Peers = []config.BGPPeer{four, six, peer("both", 0, "fd00::2")}
	w.services[0] = service("s", "192.168.1.250", "fd00::9")
	d, _ := w.plan(t, me)
	checkTold(t, d, map[string][]string{"four": {"192.168.1.250/32"}, "six": {"fd00::9/128"}, "both": {"192.168.1.250/32", "fd00::9/128"}})
}

// TestAggregateStaysWhileOneServiceWantsIt.
func TestAggregateStaysWhileOneServiceWantsIt(t *testing.T) {
	w := newWorld()
	w.objs.BGP = []config.BGPAdvertisement{bgpAdv("a", 0, lengths(24, 120))}
	w.services = []*plan.Service{service("s", "192.168.1.1"), service("t", "192.168.1.2")}
	p := w.planner(me)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.0/24"}})
	p.SetService(w.services[0].Key, nil)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.0/24"}})
	idle := *w.services[1]
	idle.Endpoints = nil
	p.SetService(idle.Key, &idle)
	checkTold(t, p.Plan(), map[string][]string{"router1": {}})
}

// TestServicesOfOnePrefixUniteTheirCommunities: by sharing or by aggregation.
func TestServicesOfOnePrefixUniteTheirCommunities(t *testing.T) {
	w := newWorld()
	w.objs.BGP = []config.BGPAdvertisement{bgpAdv("a", 1, services(label("a", "1")), with("1:1"), pref(10)), bgpAdv("b", 0, services(label("b", "1")), with("1:2"), pref(20))}
	w.services = []*plan.Service{service("s", "192.168.1.250"), service("t", "192.168.1.250")}
	w.services[0].Labels, w.services[1].Labels = map[string]string{"a": "1"}, map[string]string{"b": "1"}
	d, _ := w.plan(t, me)
	checkTold(t, d, map[string][]string{"router1": {"192.168.1.250/32 pref=20 1:1 1:2"}})
}

// TestPeersOfThisNode: node selectors, and of two with one address the older.
func TestPeersOfThisNode(t *testing.T) {
	w := newWorld()
	port := peer("other-port", 5, "192.168.1.1")
	port.PeerPort = 1179
	w.objs.Peers = []config.BGPPeer{
		peer("young", 2, "192.168.1.1"), peer("old", 1, "192.168.1.1"), peer("elsewhere", 0, "192.168.1.1", "node2"), port,
		peer("here", 3, "192.168.1.9", me, "node3"), peer("mapped", 4, "::ffff:192.168.1.9"),
	}
	d, v := w.plan(t, me)
	want := []string{"192.168.1.250/32"}
	checkTold(t, d, map[string][]string{"old": want, "other-port": want, "here": want})
	if diff := cmp.Diff([]string{"here", "old", "other-port"}, v.Peers); diff != "" {
		t.Errorf("peers of the verdict (-want +got):\n%s", diff)
	}
	var problems []string
	for _, p := range d.Problems {
		problems = append(problems, fmt.Sprint(p.Kind, " ", p.Name, " ", p.Field, " ", p.Reason, " ", p.InForce))
	}
	if diff := cmp.Diff([]string{"BGPPeer mapped spec.peerAddress Conflict false", "BGPPeer young spec.peerAddress Conflict false"}, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	d, _ = w.plan(t, "node2")
	checkTold(t, d, map[string][]string{"elsewhere": want, "other-port": want, "mapped": want})
}

// TestSessionsAreSorted and carry what their peers are.
func TestSessionsAreSorted(t *testing.T) {
	w := newWorld()
	w.objs.Peers = []config.BGPPeer{peer("b", 0, "192.168.1.1"), peer("c", 1, "192.168.1.2"), peer("a", 2, "192.168.1.3")}
	cfg := config.Parse(w.objs, nil)
	d, _ := w.plan(t, me)
	var got []lb.Peer
	for _, s := range d.BGP {
		got = append(got, s.Peer)
	}
	want := []lb.Peer{cfg.Peers[2].Peer, cfg.Peers[0].Peer, cfg.Peers[1].Peer}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWeights: endpoints on this node count, where an advertisement asks for it and the
// Service's traffic stays on the node; those of Services with one prefix add up.
func TestWeights(t *testing.T) {
	weigh := func(a *config.BGPAdvertisement) { a.WeightByEndpoints = true }
	at := func(nodes ...string) (all []lb.Endpoint) {
		for _, n := range nodes {
			all = append(all, lb.Endpoint{Node: n, Serving: n != "not"})
		}
		return all
	}
	for name, c := range map[string]struct {
		advs  []config.BGPAdvertisement
		local bool
		ends  []lb.Endpoint
		want  string
	}{
		"three here":    {[]config.BGPAdvertisement{bgpAdv("a", 0, weigh)}, true, at(me, me, "node2", me, "not"), "192.168.1.250/32 bandwidth=3"},
		"one here":      {[]config.BGPAdvertisement{bgpAdv("a", 0, weigh)}, true, at("node2", me), "192.168.1.250/32 bandwidth=1"},
		"of cluster":    {[]config.BGPAdvertisement{bgpAdv("a", 0, weigh)}, false, at(me, me), "192.168.1.250/32"},
		"not asked for": {[]config.BGPAdvertisement{bgpAdv("a", 0)}, true, at(me, me), "192.168.1.250/32"},
		"by the other":  {[]config.BGPAdvertisement{bgpAdv("a", 0), bgpAdv("b", 1, weigh)}, true, at(me, me), "192.168.1.250/32 bandwidth=2"},
		"another peer":  {[]config.BGPAdvertisement{bgpAdv("a", 0), bgpAdv("b", 1, weigh, peers("r9"))}, true, at(me, me), "192.168.1.250/32"},
	} {
		w := newWorld()
		w.objs.BGP = c.advs
		w.services[0] = service("s", "192.168.1.250")
		w.services[0].TrafficLocal, w.services[0].Endpoints = c.local, c.ends
		p := w.planner(me)
		d := p.Plan()
		if diff := cmp.Diff(map[string][]string{"router1": {c.want}}, told(d)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	dual := newWorld()
	dual.objs.BGP = []config.BGPAdvertisement{bgpAdv("a", 0, weigh)}
	dual.services[0] = service("s", "192.168.1.250", "fd00::9")
	dual.services[0].TrafficLocal = true
	dual.services[0].Endpoints = []lb.Endpoint{{Node: me, Family: lb.IPv4, Serving: true}, {Node: me, Family: lb.IPv6, Serving: true}, {Node: me, Family: lb.IPv4, Serving: true}}
	checkTold(t, dual.planner(me).Plan(), map[string][]string{"router1": {"192.168.1.250/32 bandwidth=2", "fd00::9/128 bandwidth=1"}})
	w := newWorld()
	w.objs.BGP = []config.BGPAdvertisement{bgpAdv("a", 0, weigh, lengths(24, 120))}
	w.services = []*plan.Service{service("s", "192.168.1.1"), service("t", "192.168.1.2")}
	for _, s := range w.services {
		s.TrafficLocal, s.Endpoints = true, at(me, me)
	}
	p := w.planner(me)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.0/24 bandwidth=4"}})
	less := *w.services[0]
	less.Endpoints = at(me)
	p.SetService(less.Key, &less)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.0/24 bandwidth=3"}})
}

// TestContradictions: the older advertisement wins, and the younger is told so.
func TestContradictions(t *testing.T) {
	med := func(n uint32) func(*config.BGPAdvertisement) {
		return func(a *config.BGPAdvertisement) { a.MED = &n }
	}
	prepend := func(n uint8) func(*config.BGPAdvertisement) {
		return func(a *config.BGPAdvertisement) { a.Prepend = n }
	}
	for name, c := range map[string]struct {
		young []func(*config.BGPAdvertisement)
		want  string
		field string // "" if there is no contradiction
	}{
		"same":          {[]func(*config.BGPAdvertisement){pref(100), med(0), prepend(2)}, "192.168.1.250/32 pref=100 med=0 prepend=2", ""},
		"silent":        {nil, "192.168.1.250/32 pref=100 med=0 prepend=2", ""},
		"localPref":     {[]func(*config.BGPAdvertisement){pref(200)}, "192.168.1.250/32 pref=100 med=0 prepend=2", "spec.localPref"},
		"med":           {[]func(*config.BGPAdvertisement){med(7)}, "192.168.1.250/32 pref=100 med=0 prepend=2", "spec.med"},
		"asPathPrepend": {[]func(*config.BGPAdvertisement){prepend(1)}, "192.168.1.250/32 pref=100 med=0 prepend=2", "spec.asPathPrepend"},
		"other prefix":  {[]func(*config.BGPAdvertisement){pref(200), lengths(24, 120)}, "192.168.1.0/24 pref=200", ""},
		"other peer":    {[]func(*config.BGPAdvertisement){pref(200), peers("r9")}, "192.168.1.250/32 pref=100 med=0 prepend=2", ""},
	} {
		w := newWorld()
		w.objs.BGP = []config.BGPAdvertisement{bgpAdv("young", 2, c.young...), bgpAdv("old", 1, pref(100), med(0), prepend(2))}
		w.services[0] = service("s", "192.168.1.250")
		p := w.planner(me)
		d := p.Plan()
		if got := told(d)["router1"]; !slices.Contains(got, c.want) {
			t.Errorf("%s: told %v, want %s", name, got, c.want)
		}
		var want []config.Problem
		if c.field != "" {
			want = []config.Problem{{Kind: "BGPAdvertisement", Name: "young", Field: c.field, Reason: lb.ConflictingAdvertisements, InForce: true}}
		}
		for i := range d.Problems {
			d.Problems[i].Message = ""
		}
		if diff := cmp.Diff(want, d.Problems, opts); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", name, diff)
		}
		p.SetService(w.services[0].Key, nil)
		if d := p.Plan(); len(d.Problems) != 0 {
			t.Errorf("%s: problems without a route: %v", name, d.Problems)
		}
	}
}

// TestLeavingNodeSaysSo: its routes stay for now, as the last choice.
func TestLeavingNodeSaysSo(t *testing.T) {
	w := newWorld()
	w.services[0] = service("s", "192.168.1.250")
	p := w.planner(me)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.250/32"}})
	leaving := slices.Clone(w.nodes)
	i := slices.IndexFunc(leaving, func(n lb.Node) bool { return n.Name == me })
	leaving[i].Leaving = "annotation barelb.io/drain"
	p.SetNodes(leaving)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.250/32 leaving"}})
	v := p.Verdict(w.services[0].Key)
	if v.BGP.Reason != lb.NodeLeaving || !slices.Equal(v.Peers, []string{"router1"}) {
		t.Errorf("verdict %+v", v)
	}
	p.SetNodes(w.nodes)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.250/32"}})
	excluded := slices.Clone(w.nodes)
	excluded[i].Excluded = true
	p.SetNodes(excluded)
	checkTold(t, p.Plan(), map[string][]string{"router1": {"192.168.1.250/32 leaving"}})
	if v := p.Verdict(w.services[0].Key); v.BGP.Reason != lb.NodeExcluded {
		t.Errorf("verdict %+v", v)
	}
}
