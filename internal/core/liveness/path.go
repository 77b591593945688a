package liveness

import (
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/links"
)

const (
	quickProbes = 3 // in short order, of a node whose observers were lost
	quickGap    = 10 * time.Millisecond

	freshProbes = 5 // of a check
	freshGap    = 5 * time.Millisecond
	checkTime   = 30 * time.Millisecond

	deadProbing  = time.Minute // how long a dead node is probed each Interval
	slowInterval = time.Second // later
	// enoughUnseen is how often in a row the node must say so: a speaker that has just
	// started does not know yet whose probes it sees.
	enoughUnseen  = 2
	enoughAnswers = 5 // of a node that saw no probe, to believe that another answers
)

// path is how this node probes one attachment of another.
type path struct {
	att        *attachment
	link       *link // own
	watched    bool  // this node is one of its observers; else it is probed for others
	wasWatched bool

	next     time.Time // when to probe; zero if only a check does
	quick    int       // probes to come in short order
	sentAt   time.Time // the last probe of next
	void     bool      // what comes of it proves nothing, for this process did not run
	started  time.Time
	answered time.Time // the last answer; zero if there was none
	misses   int       // probes in a row that were not answered in time
	history  history

	answers   int  // since the observed last said how many probes it saw
	unseen    int  // how often in a row it said that it saw none, although there were answers
	proxied   bool // something else answers for it
	suspectAt time.Time

	returning time.Time // since when it, being dead, answers again
	returned  int       // how often it did
	counted   time.Time

	check     *check
	suspicion *suspicion
}

// check is a short run of probes, to know at once.
type check struct {
	sent     int
	next     time.Time // of the next probe; zero if all are sent
	end      time.Time
	askers   []string // who wants to know
	restarts int
}

// probe makes a path to a; nil if there is none.
func (m *Machine) probe(a *attachment) *path {
	l := m.bySegment[a.primary]
	if l == nil || m.opts.Method == Off || !a.addr.IsValid() {
		return nil
	}
	p := &path{att: a, link: l, started: m.now}
	if l.history.n >= enoughProbes {
		p.history = l.history
	}
	a.path = p
	m.paths = append(m.paths, p)
	return p
}

func (m *Machine) drop(p *path) {
	if p.att.path == p {
		p.att.path = nil
	}
	if i := slices.Index(m.paths, p); i >= 0 {
		m.paths = slices.Delete(m.paths, i, i+1)
	}
}

// multiplier returns how many probes in a row have to be lost on p.
func (m *Machine) multiplier(p *path) int {
	h := &p.history
	if h.n < enoughProbes && p.link.history.n >= enoughProbes {
		h = &p.link.history
	}
	return multiplier(h.loss(), m.opts.Multiplier)
}

// due sends p's next probe, after judging the one before.
func (m *Machine) due(p *path) {
	if !p.sentAt.IsZero() && p.answered.Before(p.sentAt) && !p.void {
		p.misses++
	}
	p.void = false
	every := m.opts.Interval
	if p.quick > 0 {
		p.quick--
		every = quickGap
	}
	needed := m.multiplier(p)
	if p.att.dead() {
		if p.misses >= needed {
			p.returning, p.returned = time.Time{}, 0
		}
		if p.returning.IsZero() && m.now.Sub(later(p.answered, p.started)) > deadProbing {
			every = max(every, slowInterval)
		}
	}
	p.next = p.next.Add(every)
	if !p.next.After(m.now) {
		p.next = m.now.Add(every)
	}
	if !p.link.carrier {
		p.sentAt = time.Time{}
		return
	}
	p.sentAt = m.now
	m.sendProbe(p)
	if !p.att.dead() && p.misses >= needed-1 && p.suspicion == nil && p.link.state == connected {
		m.suspect(p)
	}
}

func (m *Machine) sendProbe(p *path) {
	method := m.opts.Method
	switch {
	case p.proxied:
		method = ICMP
	case method == ARP && p.att.addr.Is6():
		method = NS
	}
	m.probeID++
	m.do(Probe{
		ID: m.probeID, Node: p.att.node.name, Segment: p.att.primary, Link: p.link.name,
		Addr: p.att.addr, MAC: p.att.mac, Method: method,
	})
}

// pathTo returns the path by which a node is probed on a segment; nil if it is not.
func (m *Machine) pathTo(name string, s Segment) *path {
	n := m.nodes[name]
	if n == nil {
		return nil
	}
	a := n.on(s)
	if a == nil {
		return nil
	}
	return a.path
}

// answer takes an answer to a probe.
func (m *Machine) answer(e Answer) {
	p := m.pathTo(e.Node, e.Segment)
	if p == nil {
		return
	}
	m.heardOn(p.link, e.At)
	if e.Method != ICMP {
		if e.MAC != (links.MAC{}) && m.macs[e.MAC] != p.att.node {
			m.proxied(p)
		}
		if p.proxied {
			return
		}
	}
	if !e.At.After(p.answered) {
		return
	}
	p.answered, p.att.heard, p.att.doubts, p.att.rejecter = e.At, true, 0, nil
	p.link.answer = later(p.link.answer, e.At)
	p.answers++
	if p.att.dead() {
		m.returned(p)
	} else {
		m.quiet(p)
	}
	p.misses, p.suspectAt = 0, time.Time{}
	if p.suspicion != nil {
		m.clear(p, m.opts.Self)
	}
	if p.check != nil {
		m.checked(p)
	}
}

// quiet adds to the history that probes were lost by chance, and one was not.
func (m *Machine) quiet(p *path) {
	for range p.misses {
		p.history.push(1)
		p.link.history.push(1)
	}
	p.history.push(0)
	p.link.history.push(0)
}

// returned notes that a dead node answers.
func (m *Machine) returned(p *path) {
	if p.answered.Sub(p.counted) < m.opts.Interval/2 {
		return
	}
	p.counted = p.answered
	if p.returning.IsZero() {
		p.returning = p.answered
		p.next = m.now.Add(min(m.opts.Interval, max(0, p.next.Sub(m.now))))
	}
	p.returned++
	if p.returned < cleanReturn || p.answered.Sub(p.returning) < hold(p.att.flaps) || p.link.state != connected {
		return
	}
	m.verdict(p.att, p.att.epoch+1, m.opts.Self)
	m.announce(verdictOf(p.att))
}

// proxied notes that something else answers for a node.
func (m *Machine) proxied(p *path) {
	if p.proxied {
		return
	}
	p.proxied = true
	m.do(Report{Kind: ProxiedNode, Node: p.att.node.name, Segment: p.att.primary, By: m.opts.Self})
}

// probesSeen compares what the observed saw of our probes with the answers to them.
func (m *Machine) probesSeen(e ProbesSeen) {
	p := m.pathTo(e.Node, e.Segment)
	if p == nil {
		return
	}
	switch {
	case e.Seen > 0:
		p.unseen = 0
	case p.answers >= enoughAnswers && m.opts.Method == ARP:
		if p.unseen++; p.unseen >= enoughUnseen {
			m.proxied(p)
		}
	}
	p.answers = 0
}

// startCheck begins a run of probes on p, or joins the one that runs.
func (m *Machine) startCheck(p *path, asker string) {
	if p.check == nil {
		p.check = &check{}
		m.restartCheck(p)
	}
	if asker != "" && !slices.Contains(p.check.askers, asker) {
		p.check.askers = append(p.check.askers, asker)
	}
}

func (m *Machine) restartCheck(p *path) {
	p.check.sent, p.check.next, p.check.end = 0, m.now, m.now.Add(checkTime)
	m.runCheck(p)
}

// runCheck sends the probes of a check that are due, and ends it in its time.
func (m *Machine) runCheck(p *path) {
	c := p.check
	if !c.next.IsZero() && !c.next.After(m.now) {
		m.sendProbe(p)
		c.sent++
		c.next = m.now.Add(freshGap)
		if c.sent == freshProbes {
			c.next = time.Time{}
		}
		if p.suspicion != nil && c.sent%2 == 1 {
			m.do(ProbeGateway{Link: p.link.name})
		}
	}
	if m.now.Before(c.end) || c.sent < freshProbes {
		return
	}
	p.check = nil
	m.ringMoved = m.ringMoved || !p.watched
	if p.link.state == connected && len(c.askers) > 0 {
		m.deny(p.att, c.askers...)
	}
	if p.suspicion != nil {
		p.suspicion.checked = true
		m.weigh(p)
	}
}

// checked ends a check with an answer.
func (m *Machine) checked(p *path) {
	for _, to := range p.check.askers {
		m.send(to, Message{Kind: Opinion, Node: p.att.node.name, Segment: p.att.primary, Epoch: p.att.epoch, Reachable: true})
	}
	p.check = nil
	m.ringMoved = m.ringMoved || !p.watched
}
