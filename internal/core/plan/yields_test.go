package plan_test

import (
	"net/netip"
	"testing"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/plan"
)

// TestYields: a route that is not asked for any more is yielded to others where the node could
// serve it, and others announce it.
func TestYields(t *testing.T) {
	const addr = "192.168.1.250"
	for name, c := range map[string]struct {
		edit func(w *world, s *plan.Service)
		want bool
	}{
		"advertised by others": {func(w *world, _ *plan.Service) { w.objs.BGP[0].NodeSelectors = on("node2") }, true},
		"told by others":       {func(w *world, _ *plan.Service) { w.objs.Peers[0].NodeSelectors = on("node3") }, true},
		"Local, and an endpoint here": {func(w *world, s *plan.Service) {
			s.TrafficLocal, w.objs.BGP[0].NodeSelectors = true, on("node2")
		}, true},
		"advertised by nobody": {func(w *world, _ *plan.Service) { w.objs.BGP = nil }, false},
		"told by nobody":       {func(w *world, _ *plan.Service) { w.objs.Peers = nil }, false},
		"for other Services": {func(w *world, _ *plan.Service) {
			w.objs.BGP = []config.BGPAdvertisement{bgpAdv("a", 0, services(label("a", "1")))}
		}, false},
		"others are away": {func(w *world, _ *plan.Service) {
			w.objs.BGP[0].NodeSelectors, w.alive = on("node2"), map[string]bool{me: true}
		}, false},
		"others are excluded": {func(w *world, _ *plan.Service) {
			w.objs.BGP[0].NodeSelectors, w.nodes[1].Excluded = on("node2"), true
		}, false},
		"their kube-proxy is not healthy": {func(w *world, _ *plan.Service) {
			w.objs.BGP[0].NodeSelectors, w.proxies = on("node2"), map[string]bool{"node2": true}
		}, false},
		"nor is ours": {func(w *world, _ *plan.Service) {
			w.objs.BGP[0].NodeSelectors, w.proxies = on("node2"), map[string]bool{me: true}
		}, false},
		"no endpoint": {func(_ *world, s *plan.Service) { s.Endpoints = nil }, false},
		"Local, and none here": {func(_ *world, s *plan.Service) {
			s.TrafficLocal, s.Endpoints = true, s.Endpoints[1:]
		}, false},
		"Local, and here alone": {func(w *world, s *plan.Service) {
			s.TrafficLocal, s.Endpoints, w.objs.BGP[0].NodeSelectors = true, s.Endpoints[:1], on("node2")
		}, false},
		"the network does not work": {func(w *world, _ *plan.Service) { w.nodes[0].NetworkUnavailable = true }, false},
		"the node is gone":          {func(w *world, _ *plan.Service) { w.nodes = w.nodes[1:] }, false},
		"of no pool":                {func(w *world, _ *plan.Service) { w.objs.Pools = nil }, false},
	} {
		w := newWorld()
		w.services[0] = service("s", addr)
		c.edit(w, w.services[0])
		p := w.planner(me)
		p.Plan()
		for _, pfx := range []string{addr + "/32", "192.168.1.0/24"} {
			if got := p.Yields(netip.MustParsePrefix(pfx)); got != c.want {
				t.Errorf("%s: %s: %t, want %t", name, pfx, got, c.want)
			}
		}
		if p.Yields(netip.MustParsePrefix("192.168.1.7/32")) || p.Yields(netip.MustParsePrefix("10.0.0.0/8")) {
			t.Errorf("%s: what no Service has is yielded", name)
		}
		p.SetService(w.services[0].Key, nil)
		p.Plan()
		if p.Yields(netip.MustParsePrefix(addr + "/32")) {
			t.Errorf("%s: a deleted Service is yielded", name)
		}
	}
}
