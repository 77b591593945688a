package plan

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/owner"
)

// decideL2 elects the owner of a Service's addresses. All of them are answered
// for by one node, which the first of them elects, as in MetalLB.
func (p *Planner) decideL2(svc *Service, pool string, v *Verdict) {
	var advs []*config.L2Adv
	for _, a := range p.cfg.L2 {
		if a.Pools[pool] && lb.MatchesAny(a.ServiceSelectors, svc.Labels) {
			advs = append(advs, a)
		}
	}
	if len(advs) == 0 {
		v.L2 = Outcome{lb.NoMatchingAdvertisement, "no L2Advertisement is for IPAddressPool " + pool + " and this Service"}
		return
	}
	for _, a := range advs {
		if svc.HasSharing && len(a.ServiceSelectors) > 0 {
			v.L2 = Outcome{lb.SharedIPWithServiceSelector, "L2Advertisement " + a.Name + " has serviceSelectors, which exclude Services with allow-shared-ip"}
			return
		}
	}
	endpoints, anyServes := svc.serving()
	if !anyServes {
		v.L2 = Outcome{lb.NoEndpoint, "no endpoint is ready"}
		return
	}
	var cands []owner.Candidate
	for _, name := range p.candidates {
		if svc.TrafficLocal && !endpoints[name] {
			continue
		}
		if score, ok := p.score(advs, name); ok {
			cands = append(cands, owner.Candidate{Node: name, Score: score})
		}
	}
	v.Owner = owner.Elect(svc.Addrs[0], cands)
	if v.Owner != p.opts.Node {
		v.L2 = p.whyNotOwner(svc, advs, endpoints, v.Owner)
		return
	}
	v.L2 = Outcome{lb.Announced, "this node answers for it"}
	v.Links = p.links(advs)
}

// score sums a node's preferences over the advertisements that cover it.
func (p *Planner) score(advs []*config.L2Adv, node string) (score int, covered bool) {
	for _, a := range advs {
		if !p.covers(a.NodeSelectors, node) {
			continue
		}
		covered = true
		for _, pref := range a.Preferred {
			if pref.Selector.Matches(p.nodes[node].Labels) {
				score += pref.Weight
			}
		}
	}
	return score, covered
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

func (p *Planner) whyNotOwner(svc *Service, advs []*config.L2Adv, endpoints map[string]bool, own string) Outcome {
	me := p.nodes[p.opts.Node]
	_, covered := p.score(advs, p.opts.Node)
	switch {
	case me != nil && me.NetworkUnavailable:
		return Outcome{lb.NodeNetworkUnavailable, "this node's condition NetworkUnavailable is True"}
	case me != nil && me.Excluded && !p.opts.IgnoreExcluded:
		return Outcome{lb.NodeExcluded, "this node carries node.kubernetes.io/exclude-from-external-load-balancers"}
	case !covered:
		return Outcome{lb.NoMatchingAdvertisement, "no L2Advertisement for it selects this node"}
	case svc.TrafficLocal && !endpoints[p.opts.Node]:
		return Outcome{lb.NoLocalEndpoint, "externalTrafficPolicy is Local and no endpoint on this node is ready"}
	case own == "":
		return Outcome{lb.NotOwner, "no node can own it"}
	}
	return Outcome{lb.NotOwner, "node " + own + " owns it"}
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
			out[a] = merge(out, a, v.Links)
		}
	}
	return out
}

func merge(have lb.L2, addr netip.Addr, links []string) lb.L2Announcement {
	old, ok := have[addr]
	switch {
	case !ok:
		return lb.L2Announcement{Links: links}
	case len(old.Links) == 0 || len(links) == 0:
		return lb.L2Announcement{}
	}
	both := slices.Concat(old.Links, links)
	slices.Sort(both)
	return lb.L2Announcement{Links: slices.Compact(both)}
}
