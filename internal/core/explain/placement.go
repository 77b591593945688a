package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// Placement is from where a Service is announced.
type Placement struct {
	Owner    string   // in Layer 2 mode; "" if none
	NextHops []string // nodes that tell at least one peer, sorted
	// L2 and BGP say why not, as one node sees it; the reason is Announced if it is.
	L2, BGP plan.Outcome
}

// placements decides on all Services at once: one plan says who owns each in Layer 2
// mode. By BGP nodes do not depend on each other, so those that are alike but for their
// names are planned for once; but for Services with externalTrafficPolicy Local, of which
// each node is planned for that has an endpoint.
func (w *World) placements() map[lb.Key]Placement {
	out := make(map[lb.Key]Placement, len(w.services))
	for _, key := range w.keys {
		none := plan.Outcome{Reason: lb.NotAnnounced, Message: "there is no node"}
		out[key] = Placement{L2: none, BGP: none}
	}
	if len(w.nodes) == 0 {
		return out
	}
	p := w.planner(w.judge(), w.cfg, w.all())
	p.Plan()
	for _, key := range w.keys {
		v, at := p.Verdict(key), out[key]
		at.Owner, at.L2 = v.Owner, v.L2
		if v.Owner != "" {
			at.L2.Reason = lb.Announced
		}
		at.BGP = v.BGP
		if v.BGP.Reason == lb.Announced {
			at.BGP.Reason = lb.NotAnnounced // which is for all nodes to say
		}
		out[key] = at
	}
	if len(w.cfg.BGP) > 0 {
		w.placeBGP(out)
	}
	return out
}

func (w *World) placeBGP(out map[lb.Key]Placement) {
	noElections := *w.cfg
	noElections.L2 = nil
	alike := map[string]*plan.Planner{}
	local := w.localByNode()
	for i := range w.nodes {
		n := &w.nodes[i]
		key := w.likeness(n)
		p := alike[key]
		if p == nil {
			p = w.planner(n.Name, &noElections, w.all())
			p.Plan()
			alike[key] = p
		}
		own := w.planner(n.Name, &noElections, local[n.Name])
		own.Plan()
		for _, key := range w.keys {
			v := p.Verdict(key)
			if w.services[key].TrafficLocal {
				if o := own.Verdict(key); o != nil {
					v = o
				} else if v.BGP.Reason == lb.Announced { // on the node that p is for
					continue
				}
			}
			at := out[key]
			w.takeBGP(&at, n.Name, v.BGP)
			out[key] = at
		}
	}
}

// localByNode returns the Services with externalTrafficPolicy Local by the nodes that
// have an endpoint of theirs.
func (w *World) localByNode() map[string][]*plan.Service {
	out := map[string][]*plan.Service{}
	for _, key := range w.keys {
		svc := w.services[key]
		seen := map[string]bool{}
		for _, e := range svc.Endpoints {
			if svc.TrafficLocal && e.Serving && !seen[e.Node] {
				seen[e.Node] = true
				out[e.Node] = append(out[e.Node], svc)
			}
		}
	}
	return out
}

// likeness returns the same for nodes that are alike in all that plans look at but their
// names and addresses: their own state, and the labels that a selector names.
func (w *World) likeness(n *lb.Node) string {
	named := map[string]bool{}
	add := func(sels []lb.Selector) {
		for _, s := range sels {
			for k := range s.MatchLabels {
				named[k] = true
			}
			for _, r := range s.MatchExpressions {
				named[r.Key] = true
			}
		}
	}
	for _, a := range w.cfg.BGP {
		add(a.NodeSelectors)
	}
	for _, p := range w.cfg.Peers {
		add(p.NodeSelectors)
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(named)) {
		v, has := n.Labels[k]
		fmt.Fprintf(&b, "%q=%q,%t ", k, v, has)
	}
	fmt.Fprint(&b, n.NetworkUnavailable, n.Excluded, n.Unschedulable, n.NotReadySince, n.Leaving, w.runs(n.Name), w.proxiesDown()[n.Name])
	return b.String()
}

// takeBGP adds what one node makes of a Service to a Placement.
func (w *World) takeBGP(at *Placement, node string, o plan.Outcome) {
	announced := o.Reason == lb.Announced
	switch {
	case announced && w.runs(node):
		at.NextHops, at.BGP = append(at.NextHops, node), o
	case len(at.NextHops) > 0: // others do
	case announced:
		at.BGP = plan.Outcome{Reason: SpeakerNotRunning, Message: "the speaker of node " + node + " does not run"}
	case at.BGP.Reason == lb.NotAnnounced, at.BGP.Reason == lb.NoMatchingAdvertisement: // it may be for other nodes
		at.BGP = o
	}
}

func (p Placement) up() bool { return p.Owner != "" || len(p.NextHops) > 0 }

// String says from where a Service is announced.
func (p Placement) String() string {
	hops := ""
	if len(p.NextHops) > 0 {
		hops = "BGP from " + list(p.NextHops)
	}
	if p.Owner != "" && hops != "" {
		return p.Owner + "; " + hops
	}
	return cmp.Or(p.Owner, hops)
}
