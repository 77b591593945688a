package liveness

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/links"
)

// node is what the Machine knows of one node.
type node struct {
	name    string
	rank    uint64
	facts   *Facts
	member  bool
	remote  bool // it shares no segment with this node
	atts    []*attachment
	speaker speaker
	standing
}

// standing is what is decided of a node's speaker.
type standing struct{ down, gone bool }

// attachment is a link of a node, with the segments that it is on. It lives or dies as one.
type attachment struct {
	node    *node
	link    string // the node's own name for it
	mac     links.MAC
	carrier bool
	segs    []Segment
	primary Segment // where it is probed: that with the most nodes
	addr    netip.Addr

	epoch    uint32 // odd if it is dead; the highest heard of is right
	flaps    int    // deaths in short order
	aliveAt  time.Time
	refuteAt time.Time // of this node's own: when it may say that it is not dead
	tellAt   time.Time // of a dead one: when to tell others of it
	told     int       // whom last, in its ring
	path     *path     // nil if this node does not probe it

	heard    bool  // it answered this node once
	doubts   int   // how often this node held it for unreachable since it answered last
	rejecter *node // who said the contrary last, and is not the node itself
}

func (a *attachment) dead() bool { return a.epoch%2 == 1 }

// on returns the node's attachment to a segment; nil if there is none.
func (n *node) on(s Segment) *attachment {
	for _, a := range n.atts {
		if slices.Contains(a.segs, s) {
			return a
		}
	}
	return nil
}

// attach makes the attachments of n from its facts, and keeps what is known of the former.
func (n *node) attach() {
	former := n.atts
	n.atts = nil
	if n.facts == nil {
		return
	}
	for _, l := range n.facts.Links {
		segs := l.Segments()
		if len(segs) == 0 {
			continue
		}
		a := &attachment{node: n, link: l.Name, mac: l.MAC, carrier: l.Carrier, segs: segs}
		for _, f := range former {
			if slices.ContainsFunc(f.segs, func(s Segment) bool { return slices.Contains(segs, s) }) {
				a.epoch, a.flaps, a.aliveAt, a.refuteAt = f.epoch, f.flaps, f.aliveAt, f.refuteAt
				a.heard, a.doubts, a.rejecter = f.heard, f.doubts, f.rejecter
				if f.path != nil && f.mac == a.mac && f.carrier == a.carrier {
					a.path, f.path = f.path, nil
					a.path.att = a
				}
				break
			}
		}
		n.atts = append(n.atts, a)
	}
	// Where two links of a node are on one segment, the one with carrier stands for it.
	slices.SortStableFunc(n.atts, func(x, y *attachment) int {
		switch {
		case x.carrier == y.carrier:
			return 0
		case x.carrier:
			return -1
		}
		return 1
	})
}

// rebuild makes the rings anew, after links or nodes have changed.
func (m *Machine) rebuild(now time.Time) {
	m.rings = map[Segment][]*attachment{}
	for _, n := range m.nodes {
		for _, a := range n.atts {
			for _, s := range a.segs {
				if a.carrier && n.on(s) == a {
					m.rings[s] = append(m.rings[s], a)
				}
			}
		}
	}
	for _, r := range m.rings {
		slices.SortFunc(r, compareSeats)
	}
	m.macs = map[links.MAC]*node{}
	m.ownLinks(now)
	for _, n := range m.nodes {
		n.remote = true
		for _, a := range n.atts {
			m.choosePrimary(a)
			if m.bySegment[a.primary] != nil {
				n.remote = false
			}
		}
		if n.facts != nil {
			for _, l := range n.facts.Links {
				m.macs[l.MAC] = n
			}
		}
	}
	m.rebind()
}

// rebind brings the paths and the list of the dead in line with new attachments.
func (m *Machine) rebind() {
	for _, p := range slices.Clone(m.paths) {
		a := p.att
		if p.link = m.bySegment[a.primary]; p.link == nil || m.nodes[a.node.name] != a.node || !slices.Contains(a.node.atts, a) {
			m.drop(p)
		}
	}
	m.corpses = nil
	for _, n := range m.nodes {
		for _, a := range n.atts {
			if n != m.self && a.dead() {
				m.corpses = append(m.corpses, a)
			}
		}
	}
	slices.SortFunc(m.corpses, compareSeats)
}

func compareSeats(x, y *attachment) int {
	return cmp.Or(cmp.Compare(x.node.rank, y.node.rank), strings.Compare(x.node.name, y.node.name))
}

// choosePrimary decides on which of its segments a is probed. All nodes decide the same.
func (m *Machine) choosePrimary(a *attachment) {
	a.primary = slices.MinFunc(a.segs, func(x, y Segment) int {
		return cmp.Or(cmp.Compare(len(m.rings[y]), len(m.rings[x])), x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
	})
	for _, l := range a.node.facts.Links {
		if l.Name != a.link {
			continue
		}
		for _, p := range l.Addrs {
			if p.Masked() == a.primary {
				a.addr = p.Addr()
				return
			}
		}
	}
}

// ownLinks brings the links of this node up to date.
func (m *Machine) ownLinks(now time.Time) {
	former := m.links
	m.links, m.bySegment = nil, map[Segment]*link{}
	for _, a := range m.self.atts {
		i := slices.IndexFunc(former, func(l *link) bool { return l.name == a.link })
		l := &link{name: a.link, heard: now}
		if i >= 0 {
			l = former[i]
		}
		if a.carrier && !l.carrier && l.state != isCut {
			l.heard = now
		}
		l.segs, l.carrier = a.segs, a.carrier
		m.links = append(m.links, l)
		for _, s := range a.segs {
			if m.bySegment[s] == nil {
				m.bySegment[s] = l
			}
		}
	}
}

// seat returns where a sits in a ring, or would.
func seat(ring []*attachment, a *attachment) int {
	i, _ := slices.BinarySearchFunc(ring, a, compareSeats)
	return i
}

// observes reports whether the speaker of a's node can be an observer, as far as is known.
func (m *Machine) observes(a *attachment) bool {
	n := a.node
	return n == m.self || n.member && !n.down && !n.gone && !a.dead() && !a.suspected()
}

func (a *attachment) suspected() bool { return a.path != nil && a.path.suspicion != nil }

// targets returns the attachments that this node has to probe: those that have it among
// the next living nodes of their ring.
func (m *Machine) targets() []*attachment {
	var out []*attachment
	if m.opts.Method == Off {
		return nil
	}
	for _, own := range m.self.atts {
		if !own.carrier {
			continue
		}
		for _, s := range own.segs {
			if m.self.on(s) != own {
				continue
			}
			ring := m.rings[s]
			at := seat(ring, own)
			observers, kernels := 0, 0
			for i := 1; i < len(ring) && observers < m.opts.Observers && kernels < 4*m.opts.Observers; i++ {
				a := ring[(at-i+len(ring))%len(ring)]
				if a.primary == s {
					out = append(out, a)
				}
				if m.observes(a) {
					observers++
				}
				if !a.dead() && !a.suspected() {
					kernels++
				}
			}
		}
	}
	return out
}

// observers returns the next living nodes of a's ring, at most n, of which skip is not true.
func (m *Machine) observers(a *attachment, n int, skip func(*node) bool) []*node {
	ring := m.rings[a.primary]
	at := seat(ring, a)
	var out []*node
	far := 16 * m.opts.Observers
	for i := 0; i < len(ring) && len(out) < n && far > 0; i++ {
		o := ring[(at+i)%len(ring)]
		if o.node == a.node {
			continue
		}
		if !o.dead() {
			far--
		}
		if m.observes(o) && !skip(o.node) {
			out = append(out, o.node)
		}
	}
	return out
}

// firstObserver reports whether this node is the first of a's observers: the one who tells
// newcomers of it.
func (m *Machine) firstObserver(a *attachment) bool { return m.observerOf(a, 1) }

// observerOf reports whether this node is among the first n of a's observers.
func (m *Machine) observerOf(a *attachment, n int) bool {
	others := m.observers(a, n, func(*node) bool { return false })
	return slices.Contains(others, m.self)
}
