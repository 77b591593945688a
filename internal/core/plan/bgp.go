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

// route is a prefix and the advertisement, by its place in Config.BGP, that wants it.
type route struct {
	prefix netip.Prefix
	adv    int
}

// derivePeers finds the peers that this node has a session with. Of two with one
// address and port, the younger is set aside: the router would refuse it.
func (p *Planner) derivePeers() {
	p.peers, p.problems = nil, nil
	seen := map[netip.AddrPort]string{}
	for _, peer := range p.cfg.Peers {
		if !p.covers(peer.NodeSelectors, p.opts.Node) {
			continue
		}
		at := netip.AddrPortFrom(peer.Addr, peer.Port)
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
}

// decideBGP finds the routes of a Service on this node. Other nodes do not matter.
func (p *Planner) decideBGP(svc *Service, pool string, v *Verdict) {
	var advs []int
	for i, a := range p.cfg.BGP {
		if a.Pools[pool] && lb.MatchesAny(a.ServiceSelectors, svc.Labels) && p.covers(a.NodeSelectors, p.opts.Node) {
			advs = append(advs, i)
		}
	}
	if v.BGP = p.whyNoRoute(svc, pool, len(advs)); v.BGP.Reason != "" {
		return
	}
	for _, i := range advs {
		for _, addr := range svc.Addrs {
			pfx := netip.PrefixFrom(addr, p.cfg.BGP[i].Length(lb.FamilyOf(addr))).Masked()
			if r := (route{pfx, i}); !slices.Contains(v.routes, r) {
				v.routes = append(v.routes, r)
			}
		}
	}
	for _, peer := range p.peers {
		if slices.ContainsFunc(v.routes, func(r route) bool { return p.tells(peer, r) }) {
			v.Peers = append(v.Peers, peer.Name)
		}
	}
	v.BGP = Outcome{lb.Announced, "told to " + strings.Join(v.Peers, ", ")}
	if len(v.Peers) == 0 {
		v.BGP = Outcome{lb.NoPeer, "no BGPPeer on this node takes its routes"}
	}
}

func (p *Planner) whyNoRoute(svc *Service, pool string, advs int) Outcome {
	me := p.nodes[p.opts.Node]
	endpoints, anyServes := svc.serving()
	switch {
	case advs == 0:
		return Outcome{lb.NoMatchingAdvertisement, "no BGPAdvertisement is for IPAddressPool " + pool + ", this Service and this node"}
	case me.NetworkUnavailable:
		return Outcome{lb.NodeNetworkUnavailable, "this node's condition NetworkUnavailable is True"}
	case me.Excluded && !p.opts.IgnoreExcluded:
		return Outcome{lb.NodeExcluded, "this node carries node.kubernetes.io/exclude-from-external-load-balancers"}
	case !anyServes:
		return Outcome{lb.NoEndpoint, "no endpoint is ready"}
	case svc.TrafficLocal && !endpoints[p.opts.Node]:
		return Outcome{lb.NoLocalEndpoint, "externalTrafficPolicy is Local and no endpoint on this node is ready"}
	}
	return Outcome{}
}

// tells reports whether peer is told of a route: its session carries the family,
// and the advertisement does not leave it out.
func (p *Planner) tells(peer *config.Peer, r route) bool {
	only := p.cfg.BGP[r.adv].Peers
	if len(only) > 0 {
		if _, named := slices.BinarySearch(only, peer.Name); !named {
			return false
		}
	}
	return slices.Contains(peer.Families, lb.FamilyOf(r.prefix.Addr()))
}

// bgp puts together all sessions and routes. A prefix that several
// advertisements want carries the communities of all of them and the local
// preference of the oldest.
func (p *Planner) bgp() lb.BGP {
	wanted := map[netip.Prefix][]int{} // advertisements, oldest first
	for _, v := range p.verdicts {
		for _, r := range v.routes {
			if at, found := slices.BinarySearch(wanted[r.prefix], r.adv); !found {
				wanted[r.prefix] = slices.Insert(wanted[r.prefix], at, r.adv)
			}
		}
	}
	out := make(lb.BGP, 0, len(p.peers))
	for _, peer := range p.peers {
		s := lb.Session{Peer: peer.Peer, Routes: make(map[netip.Prefix]lb.Attrs, len(wanted))}
		for pfx, advs := range wanted {
			if a, ok := p.attrs(peer, pfx, advs); ok {
				s.Routes[pfx] = a
			}
		}
		out = append(out, s)
	}
	return out
}

// attrs merges the attributes of the advertisements that tell peer of pfx.
func (p *Planner) attrs(peer *config.Peer, pfx netip.Prefix, advs []int) (lb.Attrs, bool) {
	var out lb.Attrs
	told := 0
	for _, i := range advs {
		if !p.tells(peer, route{pfx, i}) {
			continue
		}
		a := p.cfg.BGP[i].Attrs
		if told++; told == 1 {
			out = a // shared: it is immutable
			continue
		}
		out = lb.Attrs{
			LocalPref:        cmp.Or(out.LocalPref, a.LocalPref),
			Communities:      slices.Concat(out.Communities, a.Communities),
			LargeCommunities: slices.Concat(out.LargeCommunities, a.LargeCommunities),
		}
		out.Normalize()
	}
	return out, told > 0
}
