// Package liveness decides which nodes are dead, whose speakers are, and whether it is
// we who are cut off.
//
// Two signals are kept apart, because a dead node and a dead process are different
// things: whether a node's kernel answers on the link that carries the addresses, and
// whether its speaker does. A Machine is told what was heard and returns what to do;
// it reads no clock and no socket. internal/liveness runs it.
package liveness

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/links"
)

// Segment is one Layer 2 network that nodes share, named by the prefix that is on-link
// there, masked. A link with several prefixes is several segments, which fail together.
type Segment = netip.Prefix

// Phase is what a speaker says that it is about.
type Phase uint8

// The phases of a speaker.
const (
	Starting   Phase = iota // it has no plan yet, and answers for nothing
	Serving                 // its plan is in force
	Restarting              // it ends, and another comes: keep its addresses for it
	Leaving                 // its node shall carry nothing: take over
)

// Link is what a node's speaker tells the others of one of its links that can carry
// announcements, or could if it had carrier.
type Link struct {
	Name    string
	MAC     links.MAC
	Carrier bool
	IPv4    bool           // IPv4 can be announced on it
	IPv6    bool           // IPv6 can be announced on it
	Addrs   []netip.Prefix // sorted
}

// Facts is what a speaker tells of itself and its node. It is never changed.
type Facts struct {
	Node        string
	Version     uint16 // of the messages that it speaks
	Incarnation uint64 // when the process started, in Unix nanoseconds; the higher is the later
	Phase       Phase
	Links       []Link // sorted by name
	// ProxyDown reports that the node's kube-proxy is not healthy.
	ProxyDown bool
}

// Equal reports whether f and o, of which either may be nil, say the same.
func (f *Facts) Equal(o *Facts) bool {
	if f == nil || o == nil {
		return f == o
	}
	return f.Node == o.Node && f.Version == o.Version && f.Incarnation == o.Incarnation && f.Phase == o.Phase && f.ProxyDown == o.ProxyDown &&
		slices.EqualFunc(f.Links, o.Links, Link.Equal)
}

// Equal reports whether l and o say the same.
func (l Link) Equal(o Link) bool {
	return l.Name == o.Name && l.MAC == o.MAC && l.Carrier == o.Carrier && l.IPv4 == o.IPv4 && l.IPv6 == o.IPv6 &&
		slices.Equal(l.Addrs, o.Addrs)
}

// View is what is known of all nodes at one moment. It is never changed.
type View struct {
	// Nodes are all whose speakers are, or lately were, known, by name; this node too.
	Nodes map[string]Node
	// CutOff are the segments on which this node may be cut off from all others: it
	// keeps there what it owns and claims nothing new.
	CutOff map[Segment]bool
}

// Node is what is known of one node.
type Node struct {
	// Facts is what its speaker told last; nil for a speaker that tells nothing, such as
	// MetalLB's. It outlives the speaker.
	Facts *Facts
	// Member reports whether memberlist counts it among the living.
	Member bool
	// Dead are the segments on which its kernel does not answer.
	Dead map[Segment]bool
	// SpeakerDown reports whether its speaker does not work, for a while yet: another
	// takes care of its addresses with its MAC.
	SpeakerDown bool
	// Gone reports whether its addresses are for others to own: its speaker is leaving, or
	// has been down for longer than the caretaker's timeout.
	Gone bool
}

// Equal reports whether v and o, of which either may be nil, say the same.
func (v *View) Equal(o *View) bool {
	if v == nil || o == nil {
		return v == o
	}
	return maps.Equal(v.CutOff, o.CutOff) && maps.EqualFunc(v.Nodes, o.Nodes, Node.Equal)
}

// Equal reports whether n and o say the same.
func (n Node) Equal(o Node) bool {
	return n.Member == o.Member && n.SpeakerDown == o.SpeakerDown && n.Gone == o.Gone &&
		n.Facts.Equal(o.Facts) && maps.Equal(n.Dead, o.Dead)
}

// Claim is an address that a speaker says it answers for as its owner.
type Claim struct {
	Addr netip.Addr
	// Term counts the owners of the address: whoever takes it from another claims the
	// next term. Of two claims of one address that rank does not decide, the higher wins.
	Term uint32
}

// Segments returns the segments of a link: those of its prefixes that others can be on.
func (l Link) Segments() []Segment {
	var out []Segment
	for _, a := range l.Addrs {
		if a.IsValid() && !a.IsSingleIP() && a.Addr().IsGlobalUnicast() && !slices.Contains(out, a.Masked()) {
			out = append(out, a.Masked())
		}
	}
	return out
}

// DeadAt reports whether the node's kernel does not answer where certain addresses are:
// on one of its segments that at is true of or, if there is none, on all of them.
func (n Node) DeadAt(at func(Segment) bool) bool {
	if len(n.Dead) == 0 || n.Facts == nil {
		return false
	}
	return lost(n.Facts, n.Dead, at)
}

// ProxiesDown returns the nodes whose kube-proxy is not healthy, by what their speakers
// told last.
func (v *View) ProxiesDown() map[string]bool {
	down := map[string]bool{}
	for name, n := range v.Nodes {
		if n.Facts != nil && n.Facts.ProxyDown {
			down[name] = true
		}
	}
	return down
}

// CutOffAt reports whether the node of this View's owner may be cut off where addr is.
func (v *View) CutOffAt(addr netip.Addr, self string) bool {
	if v == nil || len(v.CutOff) == 0 {
		return false
	}
	f := v.Nodes[self].Facts
	return f != nil && lost(f, v.CutOff, func(s Segment) bool { return s.Contains(addr) })
}

// lost reports whether one of the segments of f that at is true of is bad or, if there is
// no such segment, all are.
func lost(f *Facts, bad map[Segment]bool, at func(Segment) bool) bool {
	on, good := false, false
	for _, l := range f.Links {
		for _, s := range l.Segments() {
			if at(s) {
				on = true
				if bad[s] {
					return true
				}
			}
			good = good || !bad[s]
		}
	}
	return !on && !good
}

// Alive returns the nodes whose speakers are there, or are known to come back.
func (v *View) Alive() map[string]bool {
	alive := make(map[string]bool, len(v.Nodes))
	for name, n := range v.Nodes {
		if n.Member || n.SpeakerDown && !n.Gone && len(n.Dead) == 0 {
			alive[name] = true
		}
	}
	return alive
}
