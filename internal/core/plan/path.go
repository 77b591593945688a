package plan

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/owner"
)

// place is where an address is in the network: all that the fitness of a node to own it
// depends on. Addresses of one place share their slates.
type place struct {
	family   lb.Family
	segments []liveness.Segment // that contain the address, sorted
	key      string             // of all that
}

// deriveSegments finds the segments that nodes are on. It reports whether they changed.
func (p *Planner) deriveSegments() bool {
	seen := map[liveness.Segment]bool{}
	if p.view != nil {
		for _, n := range p.view.Nodes {
			if n.Facts == nil {
				continue
			}
			for _, l := range n.Facts.Links {
				for _, s := range l.Segments() {
					seen[s] = true
				}
			}
		}
	}
	now := make([]liveness.Segment, 0, len(seen))
	for s := range seen {
		now = append(now, s)
	}
	slices.SortFunc(now, liveness.Segment.Compare)
	if slices.Equal(now, p.segments) {
		return false
	}
	p.segments = now
	return true
}

// placeOf returns where addr is.
func (p *Planner) placeOf(addr netip.Addr) place {
	at := place{family: lb.FamilyOf(addr)}
	var key strings.Builder
	key.WriteString(at.family.String())
	for _, s := range p.segments {
		if s.Contains(addr) {
			at.segments = append(at.segments, s)
			key.WriteString(s.String())
		}
	}
	at.key = key.String()
	return at
}

// deriveCandidates finds the nodes that may own addresses, wherever those are.
func (p *Planner) deriveCandidates() {
	p.candidates = nil
	for name, n := range p.nodes {
		if p.standsOff(n) == "" && (p.lives(name) || p.member(name)) {
			p.candidates = append(p.candidates, name)
		}
	}
	slices.Sort(p.candidates)
}

// standsOff says why a node may not own anything whether it lives or not, or "".
func (p *Planner) standsOff(n *lb.Node) lb.Reason {
	switch {
	case n.NetworkUnavailable:
		return lb.NodeNetworkUnavailable
	case n.Excluded && !p.opts.IgnoreExcluded:
		return lb.NodeExcluded
	case n.Leaving != "", n.Name == p.opts.Node && p.leaving != "":
		return lb.NodeLeaving
	}
	return ""
}

// whyLeaving says why this node shall carry nothing any more, or "".
func (p *Planner) whyLeaving() string {
	if me := p.nodes[p.opts.Node]; me != nil && me.Leaving != "" {
		return me.Leaving
	}
	return p.leaving
}

// excluded reports whether this node is excluded from load balancers, and that counts.
func (p *Planner) excluded() bool {
	me := p.nodes[p.opts.Node]
	return me != nil && me.Excluded && !p.opts.IgnoreExcluded
}

// lives reports whether a node's speaker can be counted on, be it that another takes
// care of its addresses for a while.
func (p *Planner) lives(name string) bool {
	if p.view == nil {
		return true
	}
	n, known := p.view.Nodes[name]
	switch {
	case !known || n.Gone:
		return false
	case n.Facts == nil:
		return n.Member
	case name == p.opts.Node:
		return true
	}
	return n.Facts.Phase != liveness.Starting || n.SpeakerDown
}

// member reports whether memberlist counts a node among the living.
func (p *Planner) member(name string) bool { return p.view == nil || p.view.Nodes[name].Member }

// open reports whether a node's speaker tells others of itself. MetalLB's does not.
func (p *Planner) open(name string) bool { return p.view == nil || p.view.Nodes[name].Facts != nil }

// dead reports whether a node's kernel does not answer where the addresses of a place are.
func (p *Planner) dead(name string, at place) bool {
	return p.view != nil && name != p.opts.Node &&
		p.view.Nodes[name].DeadAt(func(s liveness.Segment) bool { return slices.Contains(at.segments, s) })
}

// fitLinks returns those links of a node that may carry addresses of the place for
// advs, and have carrier. known is false if the node's speaker does not tell.
func (p *Planner) fitLinks(advs []*config.L2Adv, name string, at place) (fit []liveness.Link, known bool) {
	if p.view == nil || p.view.Nodes[name].Facts == nil {
		return nil, false
	}
	only := p.linksOf(advs, name)
	for _, l := range p.view.Nodes[name].Facts.Links {
		carries := at.family == lb.IPv4 && l.IPv4 || at.family == lb.IPv6 && l.IPv6
		if l.Carrier && carries && (only == nil || slices.Contains(only, l.Name)) {
			fit = append(fit, l)
		}
	}
	return fit, true
}

// onLink reports whether one of links has a prefix that is one of segments.
func onLink(fit []liveness.Link, segments []liveness.Segment) bool {
	for _, l := range fit {
		if slices.ContainsFunc(l.Segments(), func(s liveness.Segment) bool { return slices.Contains(segments, s) }) {
			return true
		}
	}
	return false
}

// Words for conditions that would have left no node, and were set aside.
const (
	asideCarrier = "no candidate tells of a usable link with carrier"
	asideReady   = "no candidate is Ready"
)

// newSlate finds who can own addresses of a place for advs.
//
// While one of them is a speaker that tells nothing of itself, MetalLB's rule alone
// holds: whoever memberlist counts. Otherwise the dead are out, and then, unless that
// leaves nobody, those without a link that carries, those without a prefix that
// contains the address while others have one, and those that are not Ready.
func (p *Planner) newSlate(advs []*config.L2Adv, at place) *slate {
	s := &slate{advs: advs, at: at}
	var all []owner.Candidate
	for _, name := range p.candidates {
		if score, covered := p.score(advs, name); covered {
			all = append(all, owner.Candidate{Node: name, Score: score})
			s.plain = s.plain || !p.open(name)
		}
	}
	if p.view == nil {
		s.plain = true
	}
	for _, a := range advs {
		s.sticky = s.sticky || a.Failback == config.FailbackNever
	}
	if s.plain {
		s.sticky = false
		s.candidates = keep(all, func(c owner.Candidate) bool { return p.member(c.Node) })
		return s
	}
	all = keep(all, func(c owner.Candidate) bool { return p.lives(c.Node) && !p.dead(c.Node, at) })
	for i := range all {
		all[i].Down = p.view.Nodes[all[i].Node].SpeakerDown && all[i].Node != p.opts.Node
	}
	var carry, on []owner.Candidate
	for _, c := range all {
		fit, known := p.fitLinks(advs, c.Node, at)
		if !known || len(fit) > 0 {
			carry = append(carry, c)
		}
		if onLink(fit, at.segments) {
			on = append(on, c)
		}
	}
	all = s.unless(carry, all, asideCarrier)
	if len(on) > 0 {
		all = on
	}
	ready := keep(all, func(c owner.Candidate) bool { return !p.unready[c.Node] })
	s.candidates = s.unless(ready, all, asideReady)
	return s
}

// unless returns fit, or all with a note of why if nobody is fit.
func (s *slate) unless(fit, all []owner.Candidate, why string) []owner.Candidate {
	if len(fit) > 0 || len(all) == 0 {
		return fit
	}
	s.aside = append(s.aside, why)
	return all
}

func keep(all []owner.Candidate, fit func(owner.Candidate) bool) []owner.Candidate {
	out := make([]owner.Candidate, 0, len(all))
	for _, c := range all {
		if fit(c) {
			out = append(out, c)
		}
	}
	return out
}

// caretaker elects who takes care of an address whose owner's speaker is down: the
// next in rank or, if nobody else may own it, any node on a segment of the owner's.
func (p *Planner) caretaker(addr netip.Addr, s *slate, of string) string {
	others := keep(s.candidates, func(c owner.Candidate) bool { return !c.Down && c.Node != of })
	if len(others) == 0 {
		for _, name := range p.candidates {
			if n := p.view.Nodes[name]; name != of && (!n.SpeakerDown || name == p.opts.Node) && n.Facts != nil && p.lives(name) && p.common(name, of) {
				others = append(others, owner.Candidate{Node: name})
			}
		}
	}
	return owner.Elect(addr, others)
}

// Caretakers returns the nodes, sorted, that would take care of this node's addresses
// if its speaker were down.
func (p *Planner) Caretakers() []string {
	found := map[string]bool{}
	for key, v := range p.verdicts {
		if b := p.states[key].ballot; v.Owner == p.opts.Node && !b.slate.plain {
			if n := p.caretaker(b.addr, b.slate, v.Owner); n != "" {
				found[n] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// common reports whether two nodes share a segment.
func (p *Planner) common(a, b string) bool {
	return len(sharedMACs(p.view.Nodes[a].Facts, p.view.Nodes[b].Facts, nil)) > 0
}

// sharedMACs returns, by the name of a link of mine, the hardware address of the link
// of theirs that is on one of its segments; only names theirs, nil for all.
func sharedMACs(mine, theirs *liveness.Facts, only []string) map[string][6]byte {
	if mine == nil || theirs == nil {
		return nil
	}
	bySegment := map[liveness.Segment][6]byte{}
	for _, l := range theirs.Links {
		if only != nil && !slices.Contains(only, l.Name) {
			continue
		}
		for _, s := range l.Segments() {
			bySegment[s] = l.MAC
		}
	}
	out := map[string][6]byte{}
	for _, l := range mine.Links {
		for _, s := range l.Segments() {
			if mac, ok := bySegment[s]; ok {
				out[l.Name] = mac
			}
		}
	}
	return out
}

// UnreadyGrace is how long a node may be not Ready before others own its addresses.
const UnreadyGrace = 10 * time.Second

// Unready returns the nodes that are not Ready for grace or longer, and when the next
// one will be (zero if none). It is nil if less than half of the nodes are Ready: then
// it is the control plane that fails, not the nodes.
func Unready(nodes []lb.Node, now time.Time, grace time.Duration) (map[string]bool, time.Time) {
	out := map[string]bool{}
	notReady := 0
	var next time.Time
	for _, n := range nodes {
		if n.NotReadySince.IsZero() {
			continue
		}
		notReady++
		if at := n.NotReadySince.Add(grace); !at.After(now) {
			out[n.Name] = true
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if 2*notReady > len(nodes) {
		return nil, next
	}
	return out, next
}
