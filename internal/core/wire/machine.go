package wire

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// Timing. A round of probes is that of RFC 5227 §1.1 and §2.1.1: PROBE_WAIT,
// PROBE_NUM, PROBE_MIN, PROBE_MAX, ANNOUNCE_WAIT; for IPv6, where RFC 4862 §5.1 would
// have one solicitation, it is the same.
//
// Load on a link, whatever the number of nodes: two nodes ask about 16 free addresses
// of a pool and family, one probe a minute: 0.5 packets a second, twice that after
// many were released. 64 conflicts, each asked about by one node and answered at the
// first probe: 1.1 a second.
const (
	probeWait    = time.Second
	probeNum     = 3
	probeMin     = time.Second
	probeMax     = 2 * time.Second
	announceWait = 2 * time.Second

	// roundInterval is the time between two rounds about an address. Who begins to use
	// one meanwhile is as a rule heard announcing it.
	roundInterval = time.Minute

	// minGap is the least time between two packets of this node. Switches that police
	// ARP shut a port at rates from 15 a second. With very many pools rounds then
	// come later than the intervals say.
	minGap = 200 * time.Millisecond

	// blindTime is how long a conflict lasts that cannot be asked about because its
	// link is away: a flap shall not make the address free.
	blindTime = 10 * time.Minute
)

// Ask is a packet to send: who uses Addr?
type Ask struct {
	Addr netip.Addr
	Link int // index
}

// Machine asks about addresses and weighs the answers:
//
//	    every 60 s ┌────────┐ 3 probes unanswered, later 1
//	       ┌──────►│ asking ├──────────► free ─┐
//	       │       └───┬────┘                  │
//	       │           │ two claims, of which  │
//	       └───────────│─ one answers a probe ◄┘
//	                   ▼
//	              who is it? ──── this node, a node of the cluster, a recent one ──► as if unanswered
//	                   │ nobody that we know
//	                   ▼
//	every 60 s ┌►  in use  ──── 3 probes unanswered ──► free
//	           └──────┘ answered
//
// One claim alone counts for nothing: an owner that was withdrawn a moment ago may
// still answer.
type Machine struct {
	node   string
	jitter func(limit time.Duration) time.Duration // random, from 0 to below limit
	states map[netip.Addr]*state
	own    map[MAC]bool
	peers  neighbours
	next   time.Time // no packet before
}

type state struct {
	Target
	mac      string // by which it is in use; "" for by nobody that we know of
	free     bool   // the last round went unanswered to its end
	first    bool   // no round was brought to its end yet
	evidence int    // claims of this round, at most one for each probe
	silent   int    // probes since the last of them, or since the round began
	claimant MAC    // of the last claim
	waiting  bool   // for who the claimant is
	due      time.Time
	blind    time.Time // since when it is on no link
}

// NewMachine returns a Machine without targets for a node. jitter returns a random
// time from 0 to below its argument.
func NewMachine(node string, jitter func(time.Duration) time.Duration) *Machine {
	return &Machine{node: node, jitter: jitter, states: map[netip.Addr]*state{}, peers: newNeighbours()}
}

// Set replaces the targets, the addresses of other nodes, and the MACs of this node.
// What is known of targets that stay is kept.
func (m *Machine) Set(targets []Target, peers []Peer, own map[MAC]bool, now time.Time) {
	m.own = own
	m.peers.set(peers, now)
	old := m.states
	m.states = make(map[netip.Addr]*state, len(targets))
	for _, t := range targets {
		m.states[t.Addr] = m.follow(old[t.Addr], t, now)
	}
}

// follow returns what is known of t, of which s was known.
func (m *Machine) follow(s *state, t Target, now time.Time) *state {
	switch {
	case s == nil || m.foreign(t) && !m.foreign(s.Target):
		// A conflict that is known is in force until it is found to be over. That is
		// nothing to hurry with: at the start of a speaker they are many.
		s = &state{mac: t.Conflict.MAC, first: true, due: now.Add(m.jitter(probeWait))}
		if s.mac != "" {
			s.first, s.due = false, now.Add(m.jitter(roundInterval))
		}
	case s.Link != t.Link:
		s.free, s.evidence, s.silent, s.waiting = false, 0, 0, false
		s.due = now.Add(m.jitter(probeWait))
	}
	if t.Link == 0 && (s.Addr != t.Addr || s.Link != 0) {
		s.blind = now
	}
	s.Target = t
	return s
}

// foreign reports whether t's conflict is reported by another node.
func (m *Machine) foreign(t Target) bool { return t.Conflict.Node != "" && t.Conflict.Node != m.node }

// Hear takes a claim.
func (m *Machine) Hear(c Claim, now time.Time) {
	m.peers.learn(c, now)
	s := m.states[c.Addr]
	if s == nil || s.Link == 0 || s.Link != c.Link || m.own[c.MAC] || m.peers.has(c.MAC, now) {
		return
	}
	s.free = false
	switch {
	case s.mac != "":
		s.silent, s.due = 0, now.Add(roundInterval)
	case s.waiting: // others that claim it change nothing
	case s.evidence > 0 && s.silent == 0: // one probe was answered twice
	default:
		s.evidence++
		s.silent, s.claimant = 0, c.MAC
		s.due = now.Add(m.pause())
		s.waiting = s.evidence > 1
	}
}

// pause returns the time between two probes.
func (m *Machine) pause() time.Duration { return probeMin + m.jitter(probeMax-probeMin) }

// Step judges what is due and returns the packet to send now, if there is one. Call it
// again until there is none, then at the Deadline.
func (m *Machine) Step(now time.Time) (Ask, bool) {
	m.judge(now)
	if now.Before(m.next) {
		return Ask{}, false
	}
	if a, ok := m.peers.ask(m.waitsOn(), now); ok {
		m.next = now.Add(minGap)
		return a, true
	}
	s := m.mostUrgent(now)
	if s == nil {
		return Ask{}, false
	}
	if s.silent++; s.silent < s.enough() {
		s.due = now.Add(m.pause())
	} else {
		s.due = now.Add(announceWait)
	}
	m.next = now.Add(minGap)
	return Ask{s.Addr, s.Link}, true
}

// enough returns how many probes must stay unanswered. One is enough to see that an
// address is still free.
func (s *state) enough() int {
	if s.free && s.evidence == 0 {
		return 1
	}
	return probeNum
}

// Unsent takes back that a packet was sent: silence proves nothing then.
func (m *Machine) Unsent(a Ask, now time.Time) {
	if p := m.peers.byAddr[a.Addr]; p != nil && p.tries > 0 {
		p.tries--
	}
	if s := m.states[a.Addr]; s != nil && s.silent > 0 {
		s.silent--
		s.due = now.Add(probeMax)
	}
}

// judge ends the rounds that are to end.
func (m *Machine) judge(now time.Time) {
	for _, s := range m.states {
		switch {
		case s.Link == 0:
			if now.Sub(s.blind) >= blindTime {
				s.mac = ""
			}
		case s.waiting && m.peers.has(s.claimant, now):
			m.rest(s, now)
		case s.waiting && m.peers.known(s.Link, now):
			s.mac = format(s.claimant)
			m.rest(s, now)
			s.due = now.Add(roundInterval)
		case !s.waiting && s.silent >= s.enough() && !now.Before(s.due):
			m.rest(s, now)
			s.mac, s.free = "", true
		}
	}
}

// rest ends a round; the next one is that of an address which nobody uses.
func (m *Machine) rest(s *state, now time.Time) {
	s.first, s.evidence, s.silent, s.waiting = false, 0, 0, false
	s.due = now.Add(roundInterval + m.jitter(probeMax))
}

// mostUrgent returns the target to ask about now: first those of which nothing is
// known yet, or that were claimed once; then who waits longest.
func (m *Machine) mostUrgent(now time.Time) *state {
	var best *state
	for _, s := range m.states {
		if s.Link == 0 || s.waiting || now.Before(s.due) {
			continue
		}
		if best == nil || s.before(best) {
			best = s
		}
	}
	return best
}

func (s *state) before(o *state) bool {
	if a, b := s.first || s.evidence > 0, o.first || o.evidence > 0; a != b {
		return a
	}
	if c := s.due.Compare(o.due); c != 0 {
		return c < 0
	}
	return s.Addr.Less(o.Addr)
}

// waitsOn returns the links on which it is to be found out who somebody is.
func (m *Machine) waitsOn() map[int]bool {
	var out map[int]bool
	for _, s := range m.states {
		if s.waiting {
			if out == nil {
				out = map[int]bool{}
			}
			out[s.Link] = true
		}
	}
	return out
}

// Deadline returns when Step, which has nothing to do now, has to be called next; false
// if there is nothing to do at all.
func (m *Machine) Deadline(now time.Time) (time.Time, bool) {
	var (
		at  time.Time
		has bool
	)
	consider := func(t time.Time) {
		if t.Before(m.next) {
			t = m.next
		}
		if !has || t.Before(at) {
			at, has = t, true
		}
	}
	for _, s := range m.states {
		switch {
		case s.Link == 0 && s.mac != "":
			consider(s.blind.Add(blindTime))
		case s.Link != 0 && !s.waiting:
			consider(s.due)
		}
	}
	if t, ok := m.peers.deadline(m.waitsOn(), now); ok {
		consider(t)
	}
	return at, has
}

// Report returns what was found out so far.
func (m *Machine) Report() Report {
	var r Report
	for _, s := range m.states {
		if s.mac != "" {
			r.InUse = append(r.InUse, lb.WireConflict{Addr: s.Addr, MAC: s.mac, Node: m.node, Link: s.LinkName})
		}
		if s.free && m.foreign(s.Target) {
			r.Over = append(r.Over, s.Addr)
		}
	}
	slices.SortFunc(r.InUse, func(a, b lb.WireConflict) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(r.Over, netip.Addr.Compare)
	return r
}

// format returns the customary text of m.
func format(m MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
