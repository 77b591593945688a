package plan

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
)

// decideL2 elects the owner of a Service's addresses. All of them are answered
// for by one node, which their leader elects: the first of them, as in MetalLB.
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
	slate := p.slateOf(d.pool, places, p.leader(d.svc))
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
	d.Owner, d.Caretaker = d.ballot.owner, d.ballot.caretaker
	d.Aside = strings.Join(slate.aside, ", ")
	if d.Owner != p.opts.Node {
		d.L2 = p.whyNotOwner(d, slate)
		return
	}
	d.L2 = Outcome{lb.Announced, "this node answers for it"}
	if d.Aside != "" {
		d.L2.Message += ", although " + d.Aside
	}
	d.Links = p.linksOf(slate.advs, p.opts.Node)
	if d.Mute = p.lacks(d.Links); d.Mute {
		d.L2.Message += ", but has none of the links that its L2Advertisements name"
	}
}

// lacks reports whether this node has none of the links that are named, if any are, as far as
// it is known which it has.
func (p *Planner) lacks(names []string) bool {
	if len(names) == 0 || p.view == nil {
		return false
	}
	facts := p.view.Nodes[p.opts.Node].Facts
	return facts != nil && len(facts.Links) > 0 &&
		!slices.ContainsFunc(facts.Links, func(l liveness.Link) bool { return slices.Contains(names, l.Name) })
}

// linksOf returns where a node answers: the union of what the advertisements that
// cover it name, or nil for everywhere if one of them names nothing.
func (p *Planner) linksOf(advs []*config.L2Adv, node string) []string {
	var links []string
	for _, a := range advs {
		if !p.covers(a.NodeSelectors, node) {
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

func (p *Planner) whyNotOwner(d *decision, s *slate) Outcome {
	me := p.nodes[p.opts.Node]
	_, covered := p.score(s.advs, p.opts.Node)
	if me != nil {
		switch p.standsOff(me) { //nolint:exhaustive // it knows three reasons
		case lb.NodeNetworkUnavailable:
			return Outcome{lb.NodeNetworkUnavailable, "this node's condition NetworkUnavailable is True"}
		case lb.NodeExcluded:
			return Outcome{lb.NodeExcluded, "this node carries node.kubernetes.io/exclude-from-external-load-balancers"}
		case lb.NodeLeaving:
			return Outcome{lb.NodeLeaving, "this node is leaving: " + p.whyLeaving()}
		}
	}
	_, stands := s.find(p.opts.Node)
	switch {
	case d.Caretaker == p.opts.Node:
		return Outcome{lb.Caretaker, "node " + d.Owner + " owns it, and this node answers for it while the speaker there does not"}
	case !covered:
		return Outcome{lb.NoMatchingAdvertisement, "no L2Advertisement for it selects this node"}
	case d.svc.TrafficLocal && !d.backends.nodes[p.opts.Node]:
		return Outcome{lb.NoLocalEndpoint, "externalTrafficPolicy is Local and no endpoint on this node is ready"}
	case d.Owner == "":
		return Outcome{lb.NotOwner, "no node can own it"}
	case !stands && p.lives(p.opts.Node):
		return Outcome{lb.NodeUnfit, "node " + d.Owner + " owns it: " + p.whyUnfit(s)}
	}
	return Outcome{lb.NotOwner, "node " + d.Owner + " owns it"}
}

// whyUnfit says what this node lacks that candidates of the slate have.
func (p *Planner) whyUnfit(s *slate) string {
	fit, known := p.fitLinks(s.advs, p.opts.Node, s.at)
	switch {
	case known && len(fit) == 0:
		return "this node has no usable link with carrier for it"
	case known && !onLink(fit, s.at.segments):
		return "this node has no prefix on its links that contains the address"
	}
	return "this node is not Ready"
}

// sameL2 reports whether v and o ask the same of this node in Layer 2 mode. Either may
// be nil.
func (p *Planner) sameL2(v, o *Verdict) bool {
	if v.mine(p.opts.Node) != o.mine(p.opts.Node) {
		return false
	}
	return v.mine(p.opts.Node) == nobody || slices.Equal(v.Addrs, o.Addrs) && slices.Equal(v.Links, o.Links) && v.Owner == o.Owner
}

// duty is what this node has to do for a Service in Layer 2 mode.
type duty uint8

const (
	nobody duty = iota
	answer
	takeCare
)

func (v *Verdict) mine(node string) duty {
	switch {
	case v == nil:
		return nobody
	case v.L2.Reason == lb.Announced:
		return answer
	case v.Caretaker == node && node != "":
		return takeCare
	}
	return nobody
}

// l2 puts together what all Services need. An address that several of them share
// is answered wherever one of them asks for it.
func (p *Planner) l2() handover.Wants {
	out := handover.Wants{}
	for key, v := range p.verdicts {
		switch v.mine(p.opts.Node) {
		case answer:
			plain := p.states[key].ballot.slate.plain
			for _, a := range v.Addrs {
				w := handover.Want{Links: v.Links, Plain: plain}
				if old, ok := out[a]; ok && !old.Caretake {
					w.Links = mergeLinks(old.Links, w.Links)
				}
				out[a] = w
			}
		case takeCare:
			s := p.states[key].ballot.slate
			macs := sharedMACs(p.view.Nodes[p.opts.Node].Facts, p.view.Nodes[v.Owner].Facts, p.linksOf(s.advs, v.Owner))
			for _, a := range v.Addrs {
				if _, ok := out[a]; !ok {
					out[a] = handover.Want{Caretake: true, Of: v.Owner, MACs: macs}
				}
			}
		case nobody:
		}
	}
	return out
}

func mergeLinks(a, b []string) []string {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	both := slices.Concat(a, b)
	slices.Sort(both)
	return slices.Compact(both)
}

// Holders returns the Services that hold addr. It must not be changed, and is valid
// until the next change of a Service.
func (p *Planner) Holders(addr netip.Addr) map[lb.Key]bool { return p.holders[addr] }

// Elsewhere returns which node owns addr by the last plan, and whether node may go on
// carrying its traffic until that one is known to its users: false if its endpoints
// are elsewhere. The owner is "" if there is none.
func (p *Planner) Elsewhere(addr netip.Addr, node string) (owner string, lingers bool) {
	for key := range p.holders[addr] {
		v := p.verdicts[key]
		if v == nil || v.Owner == "" {
			continue
		}
		b := p.services[key].backends()
		return v.Owner, !p.states[key].ballot.slate.plain && (b.nodes == nil || b.nodes[node])
	}
	return "", false
}
