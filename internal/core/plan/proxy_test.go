package plan_test

import (
	"testing"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// TestProxiesDown: a node whose kube-proxy is not healthy announces by BGP what no other
// can. Layer 2 does not depend on it.
func TestProxiesDown(t *testing.T) {
	mine := ownedBy(me)
	for name, c := range map[string]struct {
		down []string
		edit func(w *world, s *plan.Service)
		want lb.Reason
	}{
		"of this node": {[]string{"node1"}, nil, lb.ProxyUnhealthy},
		"of another":   {[]string{"node2"}, nil, lb.Announced},
		"of most":      {[]string{"node1", "node2"}, nil, lb.Announced},
		"of all":       {[]string{"node1", "node2", "node3"}, nil, lb.Announced},
		"others with a peer": {[]string{"node1"}, func(w *world, _ *plan.Service) {
			w.objs.Peers[0].NodeSelectors = on("node1", "node2")
		}, lb.ProxyUnhealthy},
		"no other has a peer": {[]string{"node1"}, func(w *world, _ *plan.Service) {
			w.objs.Peers[0].NodeSelectors = on("node1")
		}, lb.Announced},
		"no other is told to": {[]string{"node1"}, func(w *world, _ *plan.Service) {
			w.objs.BGP[0].NodeSelectors = on("node1")
		}, lb.Announced},
		"others may not": {[]string{"node1"}, func(w *world, _ *plan.Service) {
			w.nodes[1].Excluded, w.nodes[2].Leaving = true, "annotation barelb.io/drain"
		}, lb.Announced},
		"others are away": {[]string{"node1"}, func(w *world, _ *plan.Service) {
			w.alive = map[string]bool{"node1": true}
		}, lb.Announced},
		"Local": {[]string{"node1"}, func(_ *world, s *plan.Service) {
			s.TrafficLocal = true
		}, lb.ProxyUnhealthy},
		"Local, here alone": {[]string{"node1"}, func(_ *world, s *plan.Service) {
			s.TrafficLocal, s.Endpoints = true, s.Endpoints[:1]
		}, lb.Announced},
	} {
		w := newWorld()
		w.services[0] = service("s", mine)
		w.proxies = map[string]bool{}
		for _, n := range c.down {
			w.proxies[n] = true
		}
		if c.edit != nil {
			c.edit(w, w.services[0])
		}
		d, v := w.plan(t, me)
		if v.BGP.Reason != c.want || (len(d.BGP[0].Routes) > 0) != (c.want == lb.Announced) {
			t.Errorf("%s: %+v", name, v.BGP)
		}
		if v.L2.Reason != lb.Announced {
			t.Errorf("%s: layer2: %+v", name, v.L2)
		}
	}
}
