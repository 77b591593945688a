package plan

import (
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// decideL2 elects the owner of a Service's addresses. All of them are answered
// for by one node, which the first of them elects, as in MetalLB.
func (p *Planner) decideL2(d *decision) {
	var places []int
	for i, a := range p.l2Advs[d.pool] {
		if lb.MatchesAny(a.ServiceSelectors, d.svc.Labels) {
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		d.L2 = Outcome{lb.NoMatchingAdvertisement, "no L2Advertisement is for IPAddressPool " + d.pool + " and this Service"}
		return
	}
	slate := p.slateOf(d.pool, places)
	for _, a := range slate.advs {
		if d.svc.HasSharing && len(a.ServiceSelectors) > 0 {
			d.L2 = Outcome{lb.SharedIPWithServiceSelector, "L2Advertisement " + a.Name + " has serviceSelectors, which exclude Services with allow-shared-ip"}
			return
		}
	}
	if !d.backends.some {
		d.L2 = Outcome{lb.NoEndpoint, "no endpoint is ready"}
		return
	}
	d.ballot = p.elect(d.svc, slate, d.last)
	d.Owner = d.ballot.owner
	if d.Owner != p.opts.Node {
		d.L2 = p.whyNotOwner(d, slate.advs)
		return
	}
	d.L2 = Outcome{lb.Announced, "this node answers for it"}
	d.Links = p.links(slate.advs)
}

// links returns where this node answers: the union of what the advertisements
// that cover it name, or nil for everywhere if one of them names nothing.
func (p *Planner) links(advs []*config.L2Adv) []string {
	var links []string
	for _, a := range advs {
		if !p.covers(a.NodeSelectors, p.opts.Node) {
			continue
		}
		if len(a.Links) == 0 {
			return nil
		}
		links = append(links, a.Links...)
	}
	slices.Sort(links)
	return slices.Compact(links)
}

func (p *Planner) whyNotOwner(d *decision, advs []*config.L2Adv) Outcome {
	me := p.nodes[p.opts.Node]
	_, covered := p.score(advs, p.opts.Node)
	switch {
	case me != nil && me.NetworkUnavailable:
		return Outcome{lb.NodeNetworkUnavailable, "this node's condition NetworkUnavailable is True"}
	case me != nil && me.Excluded && !p.opts.IgnoreExcluded:
		return Outcome{lb.NodeExcluded, "this node carries node.kubernetes.io/exclude-from-external-load-balancers"}
	case !covered:
		return Outcome{lb.NoMatchingAdvertisement, "no L2Advertisement for it selects this node"}
	case d.svc.TrafficLocal && !d.backends.nodes[p.opts.Node]:
		return Outcome{lb.NoLocalEndpoint, "externalTrafficPolicy is Local and no endpoint on this node is ready"}
	case d.Owner == "":
		return Outcome{lb.NotOwner, "no node can own it"}
	}
	return Outcome{lb.NotOwner, "node " + d.Owner + " owns it"}
}

// sameL2 reports whether v and o announce the same in Layer 2 mode. Either may be nil.
func (v *Verdict) sameL2(o *Verdict) bool {
	here := v != nil && v.L2.Reason == lb.Announced
	if there := o != nil && o.L2.Reason == lb.Announced; !here || !there {
		return here == there
	}
	return slices.Equal(v.Addrs, o.Addrs) && slices.Equal(v.Links, o.Links)
}

// l2 puts together what all Services need. An address that several of them share
// is answered wherever one of them asks for it.
func (p *Planner) l2() lb.L2 {
	out := lb.L2{}
	for _, v := range p.verdicts {
		if v.L2.Reason != lb.Announced {
			continue
		}
		for _, a := range v.Addrs {
			if old, ok := out[a]; ok {
				out[a] = mergeLinks(old, v.Links)
			} else {
				out[a] = lb.L2Announcement{Links: v.Links}
			}
		}
	}
	return out
}

func mergeLinks(old lb.L2Announcement, links []string) lb.L2Announcement {
	if len(old.Links) == 0 || len(links) == 0 {
		return lb.L2Announcement{}
	}
	both := slices.Concat(old.Links, links)
	slices.Sort(both)
	return lb.L2Announcement{Links: slices.Compact(both)}
}
