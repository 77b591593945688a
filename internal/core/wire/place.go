package wire

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/owner"
)

// Target is an address that this node asks about, and where.
type Target struct {
	Candidate
	// Link is the index of the link to ask on; 0 if the address is on none now. Such
	// a target is a conflict that this node reported.
	Link     int
	LinkName string
}

// Peer is an address of another node on a link of this one.
type Peer struct {
	Node string
	Addr netip.Addr
	Link int // index
}

// Placer decides which candidates are for this node. It remembers what it decided,
// for as long as nodes and links stay as they are.
type Placer struct {
	want  Want // whose nodes are the present ones
	snap  links.Snapshot
	byFam map[lb.Family]links.Snapshot // links that can carry the family
	peers []Peer

	rivals map[netip.Prefix]rivals
	mine   map[netip.Addr]bool
}

const (
	// askers is how many nodes of a link ask about an address: one might not hear the
	// answer.
	askers = 2
	// strangerAskers is the same where nobody knows which nodes are on the link: more,
	// for some of them may not be, but not all nodes of a large cluster.
	strangerAskers = 8
)

// rivals are the other nodes that may ask about addresses of a prefix, and how many of
// all shall.
type rivals struct {
	nodes  []owner.Candidate
	asking int
}

// SetWorld tells who else there is, and the links of this node; excluded names links
// that are left alone. It returns the addresses of the other nodes on these links.
func (p *Placer) SetWorld(want Want, snap links.Snapshot, excluded func(string) bool) []Peer {
	same := p.byFam != nil && p.want.Node == want.Node && p.snap.Equal(snap) && maps.Equal(p.want.Alive, want.Alive) &&
		(p.want.Alive == nil) == (want.Alive == nil) && slices.EqualFunc(p.want.Nodes, want.Nodes, sameNode)
	p.want, p.snap = want, snap
	if same {
		return p.peers
	}
	p.rivals, p.mine, p.peers = map[netip.Prefix]rivals{}, map[netip.Addr]bool{}, nil
	p.byFam = map[lb.Family]links.Snapshot{}
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		p.byFam[f] = snap.Usable(f, excluded)
	}
	for _, n := range want.Nodes {
		for _, addr := range n.Addrs {
			if l, _, ok := p.onLink(addr); ok && n.Name != want.Node {
				p.peers = append(p.peers, Peer{n.Name, addr, l.Index})
			}
		}
	}
	return p.peers
}

// sameNode reports whether a and b are the same to a Placer.
func sameNode(a, b lb.Node) bool { return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs) }

// onLink returns the link and its prefix that contain addr: the longest prefix, of
// the first link by name. A prefix that is one address says nothing about others.
func (p *Placer) onLink(addr netip.Addr) (links.Link, netip.Prefix, bool) {
	var (
		link links.Link
		best netip.Prefix
	)
	for _, l := range p.byFam[lb.FamilyOf(addr)] {
		for _, pfx := range l.Addrs {
			pfx = pfx.Masked()
			if !pfx.IsSingleIP() && pfx.Contains(addr) && (!best.IsValid() || pfx.Bits() > best.Bits()) {
				link, best = l, pfx
			}
		}
	}
	return link, best, best.IsValid()
}

// Place returns what this node asks about, in the candidates' order.
//
// Of the nodes on the prefix of an address the first ones by the owner's rank ask. A
// conflict is asked about by the node that reported it, for as long as that is there:
// it alone takes it back.
func (p *Placer) Place(candidates []Candidate) []Target {
	var out []Target
	for _, c := range candidates {
		l, pfx, on := p.onLink(c.Addr)
		switch by := c.Conflict.Node; {
		case by == p.want.Node:
			t := Target{c, l.Index, l.Name}
			if !on {
				t.LinkName = c.Conflict.Link
			}
			out = append(out, t)
		case !on || by != "" && p.want.lives(by) || !p.first(c.Addr, pfx):
		default:
			out = append(out, Target{c, l.Index, l.Name})
		}
	}
	return out
}

// first reports whether this node is one of the first that ask about addr.
func (p *Placer) first(addr netip.Addr, pfx netip.Prefix) bool {
	mine, known := p.mine[addr]
	if !known {
		r := p.rivalsOn(pfx)
		mine = !p.want.lost() && owner.Ahead(addr, r.nodes, p.want.Node) < r.asking
		p.mine[addr] = mine
	}
	return mine
}

// rivalsOn returns the other living nodes on pfx. Where Kubernetes does not know even
// this node's address on pfx, as of a second network, it is all living nodes.
func (p *Placer) rivalsOn(pfx netip.Prefix) rivals {
	r, known := p.rivals[pfx]
	if known {
		return r
	}
	r = rivals{asking: askers}
	described := slices.ContainsFunc(p.want.Nodes, func(n lb.Node) bool {
		return n.Name == p.want.Node && slices.ContainsFunc(n.Addrs, pfx.Contains)
	})
	if !described {
		r.asking = strangerAskers
	}
	for _, n := range p.want.Nodes {
		alive := p.want.Alive == nil || p.want.Alive[n.Name]
		if alive && n.Name != p.want.Node && (!described || slices.ContainsFunc(n.Addrs, pfx.Contains)) {
			r.nodes = append(r.nodes, owner.Candidate{Node: n.Name})
		}
	}
	p.rivals[pfx] = r
	return r
}
