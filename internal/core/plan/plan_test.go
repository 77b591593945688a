package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/owner"
	"github.com/barelb/barelb/internal/core/plan"
)

// me is the node whose plans are looked at.
const me = "node1"

var opts = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

// world is all that a Planner is told. The zero fields of its parts are good.
type world struct {
	objs     config.Objects
	prev     *config.Config
	nodes    []lb.Node
	alive    map[string]bool
	view     *liveness.View // instead of alive
	claims   map[netip.Addr][]liveness.Claimant
	unready  map[string]bool
	proxies  map[string]bool // nodes whose kube-proxy is not healthy
	services []*plan.Service
	ignore   bool // IgnoreExcluded
}

// newWorld has three nodes, a dual-stack pool that is advertised in both modes, a
// peer of both families, and one Service with an endpoint on every node.
func newWorld() *world {
	w := &world{
		objs: config.Objects{
			Pools: []config.IPAddressPool{{Meta: config.Meta{Name: "p"}, Addresses: []string{"192.168.1.0/24", "fd00::/120"}}},
			L2:    []config.L2Advertisement{{Meta: config.Meta{Name: "l2"}}},
			BGP:   []config.BGPAdvertisement{bgpAdv("bgp", 0)},
			Peers: []config.BGPPeer{peer("router1", 0, "192.168.1.1")},
		},
	}
	for _, n := range []string{"node1", "node2", "node3"} {
		w.nodes = append(w.nodes, lb.Node{Name: n, Labels: map[string]string{"name": n}})
	}
	w.services = []*plan.Service{service("s", "192.168.1.250")}
	return w
}

func created(name string, age int) config.Meta {
	return config.Meta{Name: name, Created: time.Unix(int64(age), 0)}
}

func bgpAdv(name string, age int, edits ...func(*config.BGPAdvertisement)) config.BGPAdvertisement {
	a := config.BGPAdvertisement{Meta: created(name, age), AggregationLength: 32, AggregationLengthV6: 128}
	for _, e := range edits {
		e(&a)
	}
	return a
}

func peer(name string, age int, addr string, nodes ...string) config.BGPPeer {
	return config.BGPPeer{Meta: created(name, age), MyASN: 64512, PeerASN: 64513, PeerAddress: addr, DualStack: true, NodeSelectors: on(nodes...)}
}

// on selects nodes by name.
func on(nodes ...string) []lb.Selector {
	var out []lb.Selector
	for _, n := range nodes {
		out = append(out, lb.Selector{MatchLabels: map[string]string{"name": n}})
	}
	return out
}

func label(k, v string) lb.Selector { return lb.Selector{MatchLabels: map[string]string{k: v}} }

func service(name string, addrs ...string) *plan.Service {
	s := &plan.Service{Service: lb.Service{Key: lb.Key{Namespace: "default", Name: name}, Pool: "p"}}
	for _, a := range addrs {
		s.Addrs = append(s.Addrs, netip.MustParseAddr(a))
	}
	for _, n := range []string{"node1", "node2", "node3"} {
		s.Endpoints = append(s.Endpoints, lb.Endpoint{Node: n, Serving: true})
	}
	return s
}

// ownedBy returns an address of the pool that node owns if all three stand.
func ownedBy(node string) string {
	for i := 10; ; i++ {
		text := fmt.Sprint("192.168.1.", i)
		if owner.Elect(netip.MustParseAddr(text), []owner.Candidate{{Node: "node1"}, {Node: "node2"}, {Node: "node3"}}) == node {
			return text
		}
	}
}

// view is what is known of nodes whose speakers tell nothing but that they live; nil if
// nobody watches.
func view(alive map[string]bool) *liveness.View {
	if alive == nil {
		return nil
	}
	v := &liveness.View{Nodes: map[string]liveness.Node{}}
	for n := range alive {
		v.Nodes[n] = liveness.Node{Member: true}
	}
	return v
}

func (w *world) seen() *liveness.View {
	if w.view != nil {
		return w.view
	}
	return view(w.alive)
}

// planner returns a Planner on a node that was told of w.
func (w *world) planner(node string) *plan.Planner {
	p := plan.New(plan.Options{Node: node, IgnoreExcluded: w.ignore})
	p.SetConfig(config.Parse(w.objs, w.prev))
	p.SetNodes(w.nodes)
	p.SetLiveness(w.seen())
	p.SetUnready(w.unready)
	p.SetProxiesDown(w.proxies)
	p.SetClaims(w.claims)
	for _, s := range w.services {
		p.SetService(s.Key, s)
	}
	return p
}

// plan makes the plan of a node and returns it with the verdict on the Service "s".
func (w *world) plan(t *testing.T, node string) (plan.Desired, *plan.Verdict) {
	t.Helper()
	p := w.planner(node)
	d := p.Plan()
	v := p.Verdict(lb.Key{Namespace: "default", Name: "s"})
	if v == nil {
		t.Fatal("no verdict on the Service")
	}
	for _, o := range []plan.Outcome{v.L2, v.BGP} {
		if o.Reason == "" || o.Message == "" {
			t.Errorf("an outcome without reason or message: %+v", v)
		}
	}
	return d, v
}

// owners returns who answers for the Service "s", by all nodes' own plans.
func (w *world) owners(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, n := range w.nodes {
		if _, v := w.plan(t, n.Name); v.L2.Reason == lb.Announced {
			out = append(out, n.Name)
		}
	}
	return out
}

// TestReasons goes through everything that decides whether a Service is announced
// from this node, which would own it if all is well.
func TestReasons(t *testing.T) {
	mine := ownedBy(me)
	type reasons struct{ L2, BGP lb.Reason }
	for name, c := range map[string]struct {
		edit func(w *world, s *plan.Service)
		want reasons
	}{
		"all is well":     {func(*world, *plan.Service) {}, reasons{lb.Announced, lb.Announced}},
		"another node's":  {func(_ *world, s *plan.Service) { s.Addrs[0] = netip.MustParseAddr(ownedBy("node2")) }, reasons{lb.NotOwner, lb.Announced}},
		"no address":      {func(_ *world, s *plan.Service) { s.Addrs = nil }, reasons{lb.NoAddress, lb.NoAddress}},
		"unknown address": {func(_ *world, s *plan.Service) { s.Addrs[0] = netip.MustParseAddr("10.0.0.1") }, reasons{lb.AddressUnknown, lb.AddressUnknown}},
		"addresses of two pools": {func(w *world, s *plan.Service) {
			w.objs.Pools = append(w.objs.Pools, config.IPAddressPool{Meta: created("q", 1), Addresses: []string{"fd01::/120"}})
			s.Addrs = append(s.Addrs, netip.MustParseAddr("fd01::1"))
		}, reasons{lb.AddressUnknown, lb.AddressUnknown}},
		"pool deleted":      {func(w *world, _ *plan.Service) { w.objs.Pools = nil }, reasons{lb.AddressUnknown, lb.AddressUnknown}},
		"no advertisements": {func(w *world, _ *plan.Service) { w.objs.L2, w.objs.BGP = nil, nil }, reasons{lb.NoMatchingAdvertisement, lb.NoMatchingAdvertisement}},
		"for another pool": {func(w *world, _ *plan.Service) {
			w.objs.Pools = append(w.objs.Pools, config.IPAddressPool{Meta: created("q", 1), Addresses: []string{"10.0.0.0/24"}})
			w.objs.L2[0].Pools, w.objs.BGP[0].Pools = []string{"q"}, []string{"q"}
		}, reasons{lb.NoMatchingAdvertisement, lb.NoMatchingAdvertisement}},
		"for other nodes": {func(w *world, _ *plan.Service) {
			w.objs.L2[0].NodeSelectors, w.objs.BGP[0].NodeSelectors = on("node2"), on("node2")
		}, reasons{lb.NoMatchingAdvertisement, lb.NoMatchingAdvertisement}},
		"for other services": {func(w *world, _ *plan.Service) {
			w.objs.L2[0].ServiceSelectors, w.objs.BGP[0].ServiceSelectors = []lb.Selector{label("a", "b")}, []lb.Selector{label("a", "b")}
		}, reasons{lb.NoMatchingAdvertisement, lb.NoMatchingAdvertisement}},
		"for this service": {func(w *world, s *plan.Service) {
			w.objs.L2[0].ServiceSelectors, w.objs.BGP[0].ServiceSelectors = []lb.Selector{label("a", "b")}, []lb.Selector{label("a", "b")}
			s.Labels = map[string]string{"a": "b"}
		}, reasons{lb.Announced, lb.Announced}},
		"sharing and service selectors": {func(w *world, s *plan.Service) {
			w.objs.L2 = append(w.objs.L2, config.L2Advertisement{Meta: created("m2", 1), ServiceSelectors: []lb.Selector{label("a", "b")}})
			s.Labels, s.HasSharing = map[string]string{"a": "b"}, true // the annotation is there, though empty
		}, reasons{lb.SharedIPWithServiceSelector, lb.Announced}},
		"sharing and selectors for others": {func(w *world, s *plan.Service) {
			w.objs.L2 = append(w.objs.L2, config.L2Advertisement{Meta: created("m2", 1), ServiceSelectors: []lb.Selector{label("a", "b")}})
			s.SharingKey, s.HasSharing = "k", true
		}, reasons{lb.Announced, lb.Announced}},
		"no endpoint": {func(_ *world, s *plan.Service) { s.Endpoints = nil }, reasons{lb.NoEndpoint, lb.NoEndpoint}},
		"none that serves": {func(_ *world, s *plan.Service) {
			for i := range s.Endpoints {
				s.Endpoints[i].Serving = false
			}
		}, reasons{lb.NoEndpoint, lb.NoEndpoint}},
		"elsewhere":                    {func(_ *world, s *plan.Service) { s.Endpoints = s.Endpoints[1:] }, reasons{lb.Announced, lb.Announced}},
		"of unknown node":              {func(_ *world, s *plan.Service) { s.Endpoints = []lb.Endpoint{{Serving: true}} }, reasons{lb.Announced, lb.Announced}},
		"Local":                        {func(_ *world, s *plan.Service) { s.TrafficLocal = true }, reasons{lb.Announced, lb.Announced}},
		"Local, elsewhere":             {func(_ *world, s *plan.Service) { s.TrafficLocal, s.Endpoints = true, s.Endpoints[1:] }, reasons{lb.NoLocalEndpoint, lb.NoLocalEndpoint}},
		"Local, none that serves here": {func(_ *world, s *plan.Service) { s.TrafficLocal, s.Endpoints[0].Serving = true, false }, reasons{lb.NoLocalEndpoint, lb.NoLocalEndpoint}},
		"Local, of unknown node":       {func(_ *world, s *plan.Service) { s.TrafficLocal, s.Endpoints = true, []lb.Endpoint{{Serving: true}} }, reasons{lb.NoLocalEndpoint, lb.NoLocalEndpoint}},
		"network unavailable":          {func(w *world, _ *plan.Service) { w.nodes[0].NetworkUnavailable = true }, reasons{lb.NodeNetworkUnavailable, lb.NodeNetworkUnavailable}},
		"excluded":                     {func(w *world, _ *plan.Service) { w.nodes[0].Excluded = true }, reasons{lb.NodeExcluded, lb.NodeExcluded}},
		"excluded, ignored":            {func(w *world, _ *plan.Service) { w.nodes[0].Excluded, w.ignore = true, true }, reasons{lb.Announced, lb.Announced}},
		"this node is not known":       {func(w *world, _ *plan.Service) { w.nodes = w.nodes[1:] }, reasons{lb.NoMatchingAdvertisement, lb.NoMatchingAdvertisement}},
		"not alive":                    {func(w *world, _ *plan.Service) { w.alive = map[string]bool{"node2": true} }, reasons{lb.NotOwner, lb.Announced}},
		"nobody is alive":              {func(w *world, _ *plan.Service) { w.alive = map[string]bool{} }, reasons{lb.NotOwner, lb.Announced}},
		"no peer":                      {func(w *world, _ *plan.Service) { w.objs.Peers = nil }, reasons{lb.Announced, lb.NoPeer}},
		"peer of other nodes":          {func(w *world, _ *plan.Service) { w.objs.Peers[0].NodeSelectors = on("node2") }, reasons{lb.Announced, lb.NoPeer}},
		"peer of the other family": {func(w *world, _ *plan.Service) {
			w.objs.Peers[0].DualStack, w.objs.Peers[0].PeerAddress = false, "fd00::1"
		}, reasons{lb.Announced, lb.NoPeer}},
		"not told to this peer": {func(w *world, _ *plan.Service) {
			w.objs.Peers = append(w.objs.Peers, peer("router2", 1, "192.168.1.2", "node2"))
			w.objs.BGP[0].Peers = []string{"router2"}
		}, reasons{lb.Announced, lb.NoPeer}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.services[0] = service("s", mine)
			c.edit(w, w.services[0])
			d, v := w.plan(t, me)
			if got := (reasons{v.L2.Reason, v.BGP.Reason}); got != c.want {
				t.Errorf("got %v, want %v: %+v", got, c.want, v)
			}
			if got := len(d.L2); (got > 0) != (c.want.L2 == lb.Announced) {
				t.Errorf("%d addresses answered for", got)
			}
			routes := 0
			leaving := c.want.BGP == lb.NodeExcluded // its routes stay for a while
			for _, s := range d.BGP {
				routes += len(s.Routes)
				for pfx, attrs := range s.Routes {
					if attrs.GracefulShutdown != leaving {
						t.Errorf("the route to %s says that it leaves: %t", pfx, attrs.GracefulShutdown)
					}
				}
			}
			if leaving && routes > 0 && len(v.Peers) > 0 {
				return
			}
			if (routes > 0) != (c.want.BGP == lb.Announced) || (len(v.Peers) > 0) != (c.want.BGP == lb.Announced) {
				t.Errorf("%d routes, told to %v", routes, v.Peers)
			}
		})
	}
}

// TestElection: by all nodes' own plans exactly one answers, the right one.
func TestElection(t *testing.T) {
	all := []owner.Candidate{{Node: "node1"}, {Node: "node2"}, {Node: "node3"}}
	first := owner.Rank(netip.MustParseAddr("192.168.1.250"), all)
	prefer := func(w *world, adv int, node string, weight int) {
		w.objs.L2[adv].Preferred = append(w.objs.L2[adv].Preferred, config.Preference{Weight: weight, Selector: label("name", node)})
	}
	second := func(w *world) *config.L2Advertisement {
		w.objs.L2 = append(w.objs.L2, config.L2Advertisement{Meta: created("m2", 1)})
		return &w.objs.L2[1]
	}
	nodeOf := func(w *world, name string) *lb.Node {
		for i := range w.nodes {
			if w.nodes[i].Name == name {
				return &w.nodes[i]
			}
		}
		panic(name)
	}
	for name, c := range map[string]struct {
		edit func(w *world)
		want []string
	}{
		"first in rank":       {func(*world) {}, first[:1]},
		"it is not alive":     {func(w *world) { w.alive = map[string]bool{first[1]: true, first[2]: true} }, first[1:2]},
		"it is excluded":      {func(w *world) { nodeOf(w, first[0]).Excluded = true }, first[1:2]},
		"its network is down": {func(w *world) { nodeOf(w, first[0]).NetworkUnavailable = true }, first[1:2]},
		"it is not selected":  {func(w *world) { w.objs.L2[0].NodeSelectors = on(first[2], first[1]) }, first[1:2]},
		"one advertisement or another": {func(w *world) {
			w.objs.L2[0].NodeSelectors = on(first[2])
			second(w).NodeSelectors = on(first[1])
		}, first[1:2]},
		"Local": {func(w *world) {
			s := w.services[0]
			s.TrafficLocal, s.Endpoints = true, []lb.Endpoint{{Node: first[2], Serving: true}, {Node: first[0]}, {Serving: true}, {Node: "gone", Serving: true}}
		}, first[2:]},
		"preferred":                  {func(w *world) { prefer(w, 0, first[2], 1) }, first[2:]},
		"preferred, but not alive":   {func(w *world) { prefer(w, 0, first[2], 1); w.alive = map[string]bool{first[0]: true, first[1]: true} }, first[:1]},
		"preferred, but not covered": {func(w *world) { prefer(w, 0, first[2], 1); w.objs.L2[0].NodeSelectors = on(first[0], first[1]) }, first[:1]},
		"weights add up":             {func(w *world) { prefer(w, 0, first[1], 3); prefer(w, 0, first[2], 2); prefer(w, 0, first[2], 2) }, first[2:]},
		"over advertisements": {func(w *world) {
			prefer(w, 0, first[1], 3)
			prefer(w, 0, first[2], 2)
			second(w)
			prefer(w, 1, first[2], 2)
		}, first[2:]},
		"equal weights": {func(w *world) { prefer(w, 0, first[1], 3); prefer(w, 0, first[2], 3) }, first[1:2]},
		"weights of an advertisement for others": {func(w *world) {
			second(w).ServiceSelectors = []lb.Selector{label("a", "b")}
			prefer(w, 1, first[2], 9)
		}, first[:1]},
		"weights of an advertisement for other nodes": {func(w *world) {
			second(w).NodeSelectors = on(first[0])
			prefer(w, 1, first[2], 9)
		}, first[:1]},
		"nobody": {func(w *world) { w.objs.L2[0].NodeSelectors = on("x") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.edit(w)
			if d := cmp.Diff(c.want, w.owners(t), opts); d != "" {
				t.Errorf("rank is %v (-want +got):\n%s", first, d)
			}
		})
	}
}

// TestAllAddressesHaveOneOwner: the first of the status elects, and the order of
// the status matters to nothing else.
func TestAllAddressesHaveOneOwner(t *testing.T) {
	w := newWorld()
	w.services[0] = service("s", ownedBy("node2"), "fd00::9")
	d, v := w.plan(t, "node2")
	want := handover.Wants{w.services[0].Addrs[0]: {Plain: true}, w.services[0].Addrs[1]: {Plain: true}}
	if diff := cmp.Diff(want, d.L2, opts); diff != "" || v.Owner != "node2" {
		t.Errorf("owner %s (-want +got):\n%s", v.Owner, diff)
	}
	d, v = w.plan(t, me)
	if len(d.L2) != 0 || v.Owner != "node2" {
		t.Errorf("%s answers too: %v, %+v", me, d.L2, v)
	}
}

// TestLostNodeMovesOnlyItsOwn, and so does its return.
func TestLostNodeMovesOnlyItsOwn(t *testing.T) {
	w := newWorld()
	w.services = nil
	for i := range 200 {
		w.services = append(w.services, service(fmt.Sprint("s", i), fmt.Sprint("192.168.1.", i)))
	}
	w.alive = map[string]bool{"node1": true, "node2": true, "node3": true}
	p := w.planner(me)
	p.Plan()
	before := map[lb.Key]string{}
	owned := map[string]int{}
	for k, v := range p.Verdicts() {
		before[k] = v.Owner
		owned[v.Owner]++
	}
	if owned["node1"] < 30 || owned["node2"] < 30 || owned["node3"] < 30 {
		t.Errorf("the election does not spread: %v", owned)
	}
	p.SetLiveness(view(map[string]bool{"node1": true, "node3": true}))
	d := p.Plan()
	if len(d.Changed) != owned["node2"] {
		t.Errorf("%d Services changed, the node owned %d", len(d.Changed), owned["node2"])
	}
	for k, v := range p.Verdicts() {
		if was := before[k]; was != v.Owner && was != "node2" || v.Owner == "node2" {
			t.Errorf("%s moved from %s to %s", k, was, v.Owner)
		}
	}
	p.SetLiveness(w.seen())
	p.SetUnready(w.unready)
	p.SetClaims(w.claims)
	p.Plan()
	for k, v := range p.Verdicts() {
		if before[k] != v.Owner {
			t.Errorf("%s did not return to %s but to %s", k, before[k], v.Owner)
		}
	}
}

// TestScoreThatFalls: the owner stays a candidate, and still another is better.
func TestScoreThatFalls(t *testing.T) {
	w := newWorld()
	w.objs.L2[0].Preferred = []config.Preference{{Weight: 1, Selector: label("fast", "yes")}}
	w.services[0] = service("s", ownedBy("node2"))
	w.nodes[2].Labels = map[string]string{"name": "node3", "fast": "yes"}
	p := w.planner(me)
	for _, want := range []string{"node3", "node2", "node3"} {
		p.Plan()
		if got := p.Verdict(w.services[0].Key).Owner; got != want {
			t.Errorf("owner is %s, want %s: node3 has %v", got, want, w.nodes[2].Labels)
		}
		w.nodes = slices.Clone(w.nodes)
		if w.nodes[2].Labels["fast"] == "" {
			w.nodes[2].Labels = map[string]string{"name": "node3", "fast": "yes"}
		} else {
			w.nodes[2].Labels = map[string]string{"name": "node3"}
		}
		p.SetNodes(w.nodes)
	}
}

func TestLinks(t *testing.T) {
	adv := func(nodes []string, links ...string) config.L2Advertisement {
		return config.L2Advertisement{NodeSelectors: on(nodes...), Interfaces: links}
	}
	for name, c := range map[string]struct {
		advs []config.L2Advertisement
		want []string
	}{
		"all":                      {[]config.L2Advertisement{adv(nil)}, nil},
		"named":                    {[]config.L2Advertisement{adv(nil, "eth1", "eth0")}, []string{"eth0", "eth1"}},
		"union":                    {[]config.L2Advertisement{adv(nil, "eth1", "eth0"), adv(nil, "eth2", "eth1")}, []string{"eth0", "eth1", "eth2"}},
		"all and some":             {[]config.L2Advertisement{adv(nil, "eth1"), adv(nil)}, nil},
		"those of other nodes not": {[]config.L2Advertisement{adv(nil, "eth1"), adv([]string{"node2"}), adv([]string{"node3"}, "eth3")}, []string{"eth1"}},
	} {
		w := newWorld()
		w.objs.L2 = c.advs
		for i := range c.advs {
			w.objs.L2[i].Meta = created(fmt.Sprint("adv", i), i)
		}
		w.services[0] = service("s", ownedBy(me))
		d, v := w.plan(t, me)
		if diff := cmp.Diff(c.want, v.Links, opts); diff != "" {
			t.Errorf("%s: verdict (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(handover.Wants{w.services[0].Addrs[0]: {Links: c.want, Plain: true}}, d.L2, opts); diff != "" {
			t.Errorf("%s: plan (-want +got):\n%s", name, diff)
		}
	}
}

// TestLinksFollowTheLabels of the Service, though it keeps address and owner.
func TestLinksFollowTheLabels(t *testing.T) {
	w := newWorld()
	w.objs.L2[0].Interfaces = []string{"eth0"}
	w.objs.L2 = append(w.objs.L2, config.L2Advertisement{Meta: created("m2", 1), ServiceSelectors: []lb.Selector{label("a", "b")}, Interfaces: []string{"eth1"}})
	s := service("s", ownedBy(me))
	w.services[0] = s
	p := w.planner(me)
	check := func(want ...string) {
		t.Helper()
		if d := cmp.Diff(handover.Wants{s.Addrs[0]: {Links: want, Plain: true}}, p.Plan().L2, opts); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	check("eth0")
	labelled := *s
	labelled.Labels = map[string]string{"a": "b"}
	p.SetService(s.Key, &labelled)
	check("eth0", "eth1")
	p.SetService(s.Key, s)
	check("eth0")
}

// TestSharedAddressIsAnsweredForBoth, where either needs it, and until both are gone.
func TestSharedAddressIsAnsweredForBoth(t *testing.T) {
	w := newWorld()
	mine := netip.MustParseAddr(ownedBy(me))
	w.services = []*plan.Service{service("s", mine.String()), service("t", mine.String())}
	p := w.planner(me)
	if d := cmp.Diff(handover.Wants{mine: {Plain: true}}, p.Plan().L2, opts); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	p.SetService(w.services[0].Key, nil)
	d := p.Plan()
	if diff := cmp.Diff(handover.Wants{mine: {Plain: true}}, d.L2, opts); diff != "" || len(d.BGP[0].Routes) != 1 {
		t.Errorf("one is gone (-want +got):\n%s", diff)
	}
	p.SetService(w.services[1].Key, nil)
	if d := p.Plan(); len(d.L2) != 0 || len(d.BGP[0].Routes) != 0 {
		t.Errorf("both are gone: %v", d)
	}
}

// TestSetAsidePoolStaysAnnounced, by the Services' own record, with and without an
// earlier Config, also where an older pool claims the address now.
func TestSetAsidePoolStaysAnnounced(t *testing.T) {
	good := newWorld()
	good.services[0] = service("s", ownedBy(me))
	want, _ := good.plan(t, me)
	for name, edit := range map[string]func(*world){
		"junk":    func(w *world) { w.objs.Pools[0].Addresses = []string{"junk"} },
		"emptied": func(w *world) { w.objs.Pools[0].Addresses = nil },
		"shrunk, and guarded": func(w *world) {
			w.objs.Pools[0].Addresses, w.objs.Pools[0].Guarded = []string{"203.0.113.0/24"}, true
		},
		"overlapped": func(w *world) {
			w.objs.Pools[0].Created = time.Unix(9, 0)
			w.objs.Pools = append(w.objs.Pools, config.IPAddressPool{Meta: created("older", 1), Addresses: []string{"192.168.0.0/16"}})
			w.objs.L2[0].Pools, w.objs.BGP[0].Pools = []string{"p"}, []string{"p"}
		},
	} {
		w := newWorld()
		w.services[0] = service("s", ownedBy(me))
		prev := config.Parse(w.objs, nil)
		edit(w)
		for _, w.prev = range []*config.Config{nil, prev} {
			got, v := w.plan(t, me)
			if d := cmp.Diff(want, got, opts); d != "" {
				t.Errorf("%s: %+v (-before +after):\n%s", name, v, d)
			}
		}
		w.prev = nil
		w.services[0].Pool = ""
		if _, v := w.plan(t, me); v.L2.Reason == lb.Announced {
			t.Errorf("%s: announced without a record: %+v", name, v)
		}
	}
}
