package plan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

func benchService(i int) *plan.Service {
	return &plan.Service{
		Service: lb.Service{
			Key: lb.Key{Namespace: "default", Name: fmt.Sprint("s", i)}, Pool: "p",
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
		},
		Endpoints: []lb.Endpoint{{Node: "node-0", Serving: true}, {Node: "node-1", Serving: true}},
	}
}

// benchPlanner knows 10,000 Services, announced in both modes, to four peers.
func benchPlanner(b *testing.B, nodes int) (*plan.Planner, []lb.Node, map[string]bool) {
	b.Helper()
	objs := config.Objects{
		Pools: []config.IPAddressPool{{Meta: config.Meta{Name: "p"}, Addresses: []string{"10.0.0.0/16"}}},
		L2:    []config.L2Advertisement{{Meta: config.Meta{Name: "l2"}}},
		BGP:   []config.BGPAdvertisement{{Meta: config.Meta{Name: "bgp"}, AggregationLength: 32, AggregationLengthV6: 128, Communities: []string{"1:2"}}},
	}
	for i := range 4 {
		objs.Peers = append(objs.Peers, config.BGPPeer{Meta: config.Meta{Name: fmt.Sprint("r", i)}, MyASN: 1, PeerASN: 2, PeerAddress: fmt.Sprint("192.168.1.", i+1)})
	}
	cfg := config.Parse(objs, nil)
	if len(cfg.Problems) > 0 {
		b.Fatal(cfg.Problems)
	}
	p := plan.New(plan.Options{Node: "node-0"})
	p.SetConfig(cfg)
	var all []lb.Node
	alive := map[string]bool{}
	for i := range nodes {
		name := fmt.Sprint("node-", i)
		all = append(all, lb.Node{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}})
		alive[name] = true
	}
	p.SetNodes(all)
	p.SetLiveness(view(alive))
	for i := range 10_000 {
		svc := benchService(i)
		p.SetService(svc.Key, svc)
	}
	d := p.Plan()
	if len(d.BGP) != 4 || len(d.BGP[3].Routes) != 10_000 || len(d.L2) == 0 {
		b.Fatal("the plan is not what this is about")
	}
	return p, all, alive
}

var sizes = []int{3, 1000}

// BenchmarkOneServiceChanged: its endpoints go and come.
func BenchmarkOneServiceChanged(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n, "nodes"), func(b *testing.B) {
			p, _, _ := benchPlanner(b, n)
			svcs := [2]*plan.Service{benchService(7), benchService(7)}
			svcs[1].Endpoints = nil
			for i := 0; b.Loop(); i++ {
				p.SetService(svcs[0].Key, svcs[(i+1)%2])
				if d := p.Plan(); len(d.Changed) != 1 {
					b.Fatal(d.Changed)
				}
			}
		})
	}
}

// BenchmarkNothingChanged: a Service is told anew as it was.
func BenchmarkNothingChanged(b *testing.B) {
	p, _, _ := benchPlanner(b, 3)
	svc := benchService(7)
	for b.Loop() {
		p.SetService(svc.Key, svc)
		p.Plan()
	}
}

// BenchmarkNodeGone and back: two plans.
func BenchmarkNodeGone(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n, "nodes"), func(b *testing.B) {
			p, _, alive := benchPlanner(b, n)
			without := maps.Clone(alive)
			delete(without, "node-2")
			for b.Loop() {
				p.SetLiveness(view(without))
				p.Plan()
				p.SetLiveness(view(alive))
				p.Plan()
			}
		})
	}
}

// BenchmarkNodeRelabelled with a label that no selector asks for: it moves nothing.
func BenchmarkNodeRelabelled(b *testing.B) {
	p, nodes, _ := benchPlanner(b, 1000)
	for i := 0; b.Loop(); i++ {
		next := append([]lb.Node(nil), nodes...)
		next[2].Labels = map[string]string{"i": fmt.Sprint(i)}
		p.SetNodes(next)
		p.Plan()
	}
}

// BenchmarkStart: everything is told to a new Planner.
func BenchmarkStart(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n, "nodes"), func(b *testing.B) {
			for b.Loop() {
				benchPlanner(b, n)
			}
		})
	}
}
