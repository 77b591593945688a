package demo

import (
	"fmt"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
)

// rows are the README's comparison with what was measured.
func (d *Demo) rows(l2, bgp result) []measure.Row {
	nodes := len(d.c.Nodes())
	least := measure.Smallest(bgp.entry)
	return []measure.Row{
		{
			Title: "Node responsibility", Layer2: l2.responsible, BGP: bgp.responsible,
			Threshold: fmt.Sprintf("exactly one MAC; %d next hops", nodes), OK: l2.single && bgp.single,
		},
		{
			Title: "Reachability", Layer2: l2.reached, BGP: bgp.reached,
			Threshold: "every flow, from both clients", OK: l2.reachable && bgp.reachable,
		},
		{
			Title: "Traffic distribution", Layer2: shares(l2.entry), BGP: shares(bgp.entry),
			Threshold: fmt.Sprintf("L2: one node; BGP: each node %.0f %% of %d flows", leastShare, flows),
			OK:        entered(l2.entry) == 1 && entered(bgp.entry) == nodes && least.Percent >= leastShare,
		},
		{
			Title: "Load balancing", Layer2: "kube-proxy of one node: " + shares(l2.spread), BGP: "router (ECMP), then kube-proxy: " + shares(bgp.spread),
			Threshold: "every pod serves", OK: l2.everyPod && bgp.everyPod,
		},
		{
			Title: "Failover time (link cut)", Layer2: l2.cut.String(), BGP: bgp.cut.String(),
			Threshold: fmt.Sprintf("L2 %s; BGP %s", l2Cut, bgpCut),
			OK:        l2.cut.within(l2Cut) && bgp.cut.within(bgpCut),
		},
		{
			Title: "Node drained (exclude label)", Layer2: l2.drain.String(), BGP: bgp.drain.String(),
			Threshold: plannedLimit.String(), OK: l2.drain.within(plannedLimit) && bgp.drain.within(plannedLimit),
		},
		{
			Title: "Node returns", Layer2: l2.back.String(), BGP: bgp.back.String(),
			Threshold: plannedLimit.String(), OK: l2.back.within(plannedLimit) && bgp.back.within(plannedLimit),
		},
		{
			Title: fmt.Sprintf("Speaker restart under %d open connections", held), Layer2: broken(l2.restart), BGP: broken(bgp.restart),
			Threshold: "none broken; BGP with BIRD: as measured",
			OK:        l2.restart.Opened == held && l2.restart.Broken == 0 && (d.c.Config().Router == cluster.BIRD || bgp.restart.Opened == held && bgp.restart.Broken == 0),
		},
		{
			Title: "Needs of the network", Layer2: "nodes and clients' router in one subnet", BGP: "a router that speaks BGP",
			Threshold: "the lab has both", OK: true,
		},
	}
}

// entered counts the nodes at which flows came in.
func entered(list []measure.Share) int {
	n := 0
	for _, s := range list {
		if s.Count > 0 {
			n++
		}
	}
	return n
}
