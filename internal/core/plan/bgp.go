package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// route is a prefix and the advertisements that want it.
type route struct {
	prefix netip.Prefix
	advs   *advSet
	// weight is the number of ready endpoints on this node, if one of advs asks for it.
	weight uint32
}

// advSet is a set of BGPAdvertisements, by their places in Config.BGP, so oldest
// first. There is one advSet for each set: equal sets have equal pointers.
type advSet struct{ places []int }

// intern returns the set of the given places, which are in order.
func (p *Planner) intern(places []int) *advSet {
	key := setKey(places)
	s := p.advSets[key]
	if s == nil {
		s = &advSet{places}
		p.advSets[key] = s
	}
	return s
}

// derivePeers finds the peers that this node has a session with. Of two with one
// address and port, the younger is set aside: the router would refuse it.
func (p *Planner) derivePeers() {
	p.peers, p.problems = nil, nil
	seen := map[string]string{}
	for _, peer := range p.cfg.Peers {
		if !p.covers(peer.NodeSelectors, p.opts.Node) {
			continue
		}
		at := peer.Endpoint()
		if first, dup := seen[at]; dup {
			p.problems = append(p.problems, config.Problem{
				Kind: config.KindBGPPeer, Name: peer.Name, Field: "spec.peerAddress", Reason: lb.Conflict,
				Message: fmt.Sprintf("node %s already has a session with %s for BGPPeer %q, which is older", p.opts.Node, at, first),
			})
			continue
		}
		seen[at] = peer.Name
		p.peers = append(p.peers, peer)
	}
	slices.SortFunc(p.peers, func(a, b *config.Peer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(p.problems, func(a, b config.Problem) int { return strings.Compare(a.Name, b.Name) })
}

// decideBGP finds the routes of a Service on this node. Other nodes do not matter.
func (p *Planner) decideBGP(d *decision) {
	var advs []int
	for _, i := range p.bgpAdvs[d.pool] {
		if lb.MatchesAny(p.cfg.BGP[i].ServiceSelectors, d.svc.Labels) {
			advs = append(advs, i)
		}
	}
	if d.BGP = p.whyNoRoute(d, len(advs)); d.BGP.Reason != "" {
		return
	}
	d.routes = p.routes(d.svc, advs)
	for _, peer := range p.peers {
		if slices.ContainsFunc(d.routes, func(r route) bool { return p.tellsAny(peer, r) }) {
			d.Peers = append(d.Peers, peer.Name)
		}
	}
	switch leaving := p.whyLeaving(); {
	case len(d.Peers) == 0:
		d.BGP = Outcome{lb.NoPeer, "no BGPPeer on this node takes its routes"}
	case p.excluded():
		d.BGP = Outcome{lb.NodeExcluded, "this node carries node.kubernetes.io/exclude-from-external-load-balancers; routers are told to prefer others, and then to forget it"}
	case leaving != "":
		d.BGP = Outcome{lb.NodeLeaving, "this node is leaving: " + leaving + "; routers are told to prefer others, and then to forget it"}
	default:
		d.BGP = Outcome{lb.Announced, "told to " + strings.Join(d.Peers, ", ")}
		if p.proxies[p.opts.Node] {
			d.BGP.Message += ", although kube-proxy on this node is not healthy: too few others could serve it"
		}
	}
}

// routes returns the prefixes of a Service's addresses, as advs aggregate them.
func (p *Planner) routes(svc *Service, advs []int) []route {
	var prefixes []netip.Prefix
	var wantedBy [][]int
	for _, addr := range svc.Addrs {
		for _, i := range advs {
			pfx := netip.PrefixFrom(addr, p.cfg.BGP[i].Length(lb.FamilyOf(addr))).Masked()
			at := slices.Index(prefixes, pfx)
			if at < 0 {
				at = len(prefixes)
				prefixes, wantedBy = append(prefixes, pfx), append(wantedBy, nil)
			}
			if !slices.Contains(wantedBy[at], i) {
				wantedBy[at] = append(wantedBy[at], i)
			}
		}
	}
	out := make([]route, len(prefixes))
	for at, pfx := range prefixes {
		slices.Sort(wantedBy[at])
		out[at] = route{prefix: pfx, advs: p.intern(wantedBy[at])}
		if slices.ContainsFunc(wantedBy[at], func(i int) bool { return p.cfg.BGP[i].Weigh }) {
			out[at].weight = svc.weight(p.opts.Node, lb.FamilyOf(pfx.Addr()))
		}
	}
	return out
}

func (p *Planner) whyNoRoute(d *decision, advs int) Outcome {
	if advs == 0 {
		return Outcome{lb.NoMatchingAdvertisement, "no BGPAdvertisement is for IPAddressPool " + d.pool + ", this Service and this node"}
	}
	return p.whyNotServe(d)
}

// whyNotServe says why this node cannot serve what routers send it for the Service.
func (p *Planner) whyNotServe(d *decision) Outcome {
	me := p.nodes[p.opts.Node]
	switch {
	case me == nil:
		return Outcome{lb.NotAnnounced, "this node is not known"}
	case me.NetworkUnavailable:
		return Outcome{lb.NodeNetworkUnavailable, "this node's condition NetworkUnavailable is True"}
	case !d.backends.some:
		return Outcome{lb.NoEndpoint, "no endpoint is ready"}
	case d.svc.TrafficLocal && !d.backends.nodes[p.opts.Node]:
		return Outcome{lb.NoLocalEndpoint, "externalTrafficPolicy is Local and no endpoint on this node is ready"}
	case p.proxies[p.opts.Node] && p.othersServe(d):
		return Outcome{lb.ProxyUnhealthy, "kube-proxy on this node is not healthy, and other nodes announce it"}
	}
	return Outcome{}
}

// othersServe reports whether a node other than this one can be counted on to announce
// the Service by BGP, and has a kube-proxy that is healthy; and whether at least half of
// the nodes have.
func (p *Planner) othersServe(d *decision) bool {
	down := 0
	for name := range p.nodes {
		if p.proxies[name] {
			down++
		}
	}
	return 2*down <= len(p.nodes) && p.othersAnnounce(d)
}

// othersAnnounce reports whether a node other than this one can be counted on to announce
// the Service by BGP, and has a kube-proxy that is healthy.
func (p *Planner) othersAnnounce(d *decision) bool {
	for name, n := range p.nodes {
		if name != p.opts.Node && !p.proxies[name] && p.standsOff(n) == "" && p.member(name) &&
			(d.backends.nodes == nil || d.backends.nodes[name]) && p.announces(n, d) {
			return true
		}
	}
	return false
}

// Yields reports whether this node could serve an address in pfx still, as of the last plan,
// and another announces it: so that, if the plan does not ask for a route any more, it is by choice.
func (p *Planner) Yields(pfx netip.Prefix) bool {
	if pfx.IsSingleIP() {
		return p.yields(pfx.Addr())
	}
	for addr := range p.holders {
		if pfx.Contains(addr) && p.yields(addr) {
			return true
		}
	}
	return false
}

func (p *Planner) yields(addr netip.Addr) bool {
	for key := range p.holders[addr] {
		d := decision{svc: p.services[key], backends: p.services[key].backends()}
		var no Outcome
		if d.pool, no = p.poolOf(&d.svc.Service); no.Reason == "" && p.whyNotServe(&d).Reason == "" && p.othersAnnounce(&d) {
			return true
		}
	}
	return false
}

// announces reports whether n has a BGPAdvertisement for the Service and a BGPPeer that
// takes its routes.
func (p *Planner) announces(n *lb.Node, d *decision) bool {
	for i, a := range p.cfg.BGP {
		if !a.Pools[d.pool] || !lb.MatchesAny(a.NodeSelectors, n.Labels) || !lb.MatchesAny(a.ServiceSelectors, d.svc.Labels) {
			continue
		}
		if slices.ContainsFunc(p.cfg.Peers, func(peer *config.Peer) bool {
			return lb.MatchesAny(peer.NodeSelectors, n.Labels) && p.tells(peer, i)
		}) {
			return true
		}
	}
	return false
}

// tells reports whether an advertisement does not leave peer out.
func (p *Planner) tells(peer *config.Peer, adv int) bool {
	only := p.cfg.BGP[adv].Peers
	_, named := slices.BinarySearch(only, peer.Name)
	return len(only) == 0 || named
}

// tellsAny reports whether peer is told of a route: its session carries the family,
// and one of the advertisements does not leave it out.
func (p *Planner) tellsAny(peer *config.Peer, r route) bool {
	return slices.Contains(peer.Families, lb.FamilyOf(r.prefix.Addr())) &&
		slices.ContainsFunc(r.advs.places, func(i int) bool { return p.tells(peer, i) })
}

// sameRoutes reports whether s and o want the same routes. Either may be nil.
func (s *state) sameRoutes(o *state) bool {
	var a, b []route
	if s != nil {
		a = s.routes
	}
	if o != nil {
		b = o.routes
	}
	return slices.Equal(a, b)
}

// bgp puts together all sessions and routes. Sessions that are told the same share
// one map.
func (p *Planner) bgp() lb.BGP {
	p.conflicts = nil
	wanted := p.wanted()
	made := map[string]map[netip.Prefix]lb.Attrs{}
	out := make(lb.BGP, 0, len(p.peers))
	for _, peer := range p.peers {
		var told []int
		for i := range p.cfg.BGP {
			if p.tells(peer, i) {
				told = append(told, i)
			}
		}
		alike := fmt.Sprint(string(peer.Families), told)
		if made[alike] == nil {
			made[alike] = p.told(peer, wanted)
		}
		out = append(out, lb.Session{Peer: peer.Peer, Routes: made[alike]})
	}
	return out
}

// wanted returns all routes, with the advertisements and endpoints of all Services
// that share a prefix.
func (p *Planner) wanted() map[netip.Prefix]route {
	wanted := make(map[netip.Prefix]route, len(p.states))
	for _, st := range p.states {
		for _, r := range st.routes {
			if have, ok := wanted[r.prefix]; ok {
				if have.advs != r.advs {
					both := slices.Concat(have.advs.places, r.advs.places)
					slices.Sort(both)
					r.advs = p.intern(slices.Compact(both))
				}
				r.weight += have.weight
			}
			wanted[r.prefix] = r
		}
	}
	return wanted
}

// told returns the routes that peer is told, with their attributes.
func (p *Planner) told(peer *config.Peer, wanted map[netip.Prefix]route) map[netip.Prefix]lb.Attrs {
	merged := map[*advSet]lb.Attrs{}
	out := make(map[netip.Prefix]lb.Attrs, len(wanted))
	for pfx, r := range wanted {
		if !p.tellsAny(peer, r) {
			continue
		}
		a, ok := merged[r.advs]
		if !ok {
			a = p.merge(peer, r.advs)
			merged[r.advs] = a
		}
		if r.weight > 0 && slices.ContainsFunc(r.advs.places, func(i int) bool { return p.tells(peer, i) && p.cfg.BGP[i].Weigh }) {
			a.Bandwidth = r.weight
		}
		out[pfx] = a
	}
	return out
}

// merge puts together the attributes of the advertisements that tell peer: the
// communities of all of them, and of what a route has one of, that of the oldest which
// has it. Younger ones that contradict are reported.
func (p *Planner) merge(peer *config.Peer, set *advSet) lb.Attrs {
	out := lb.Attrs{GracefulShutdown: p.whyLeaving() != "" || p.excluded()}
	for _, i := range set.places {
		if p.tells(peer, i) {
			a := p.cfg.BGP[i].Attrs
			p.contradicts(i, &out, &a)
			out.LocalPref = cmp.Or(out.LocalPref, a.LocalPref)
			out.Prepend = cmp.Or(out.Prepend, a.Prepend)
			if !out.HasMED {
				out.MED, out.HasMED = a.MED, a.HasMED
			}
			out.Communities = append(out.Communities, a.Communities...)
			out.LargeCommunities = append(out.LargeCommunities, a.LargeCommunities...)
		}
	}
	out.Normalize()
	return out
}

// contradicts reports where an advertisement would give routes another attribute than
// older ones.
func (p *Planner) contradicts(adv int, older, a *lb.Attrs) {
	for _, c := range []struct {
		field       string
		theirs, own uint32
		both        bool
	}{
		{"localPref", older.LocalPref, a.LocalPref, older.LocalPref != 0 && a.LocalPref != 0},
		{"med", older.MED, a.MED, older.HasMED && a.HasMED},
		{"asPathPrepend", uint32(older.Prepend), uint32(a.Prepend), older.Prepend != 0 && a.Prepend != 0},
	} {
		if !c.both || c.theirs == c.own {
			continue
		}
		p.conflicts = append(p.conflicts, config.Problem{
			Kind: config.KindBGPAdvertisement, Name: p.cfg.BGP[adv].Name, Field: "spec." + c.field, Reason: lb.ConflictingAdvertisements, InForce: true,
			Message: fmt.Sprintf("an older BGPAdvertisement gives some of the same routes %s %d, which is used in place of %d", c.field, c.theirs, c.own),
		})
	}
}

// allProblems returns what this node finds wrong with peers and advertisements, sorted.
func (p *Planner) allProblems() []config.Problem {
	all := slices.Concat(p.problems, p.conflicts)
	slices.SortFunc(all, func(a, b config.Problem) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name), strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(all)
}
