package liveness

import (
	"slices"
	"time"
)

// linkState says whether this node is cut off on a link.
type linkState uint8

const (
	connected linkState = iota
	isCut
	returning // a frame was heard; the owners are being asked
)

// link is a link of this node.
type link struct {
	name    string
	segs    []Segment
	carrier bool
	history history // of all probes on it

	heard   time.Time // anything, last
	answer  time.Time // to a probe of a node
	gateway time.Time
	foreign time.Time // a frame of no speaker's node

	state linkState
	since time.Time // of isCut
	until time.Time // of returning
}

// heard takes a frame on a link.
func (m *Machine) heard(e Heard) {
	l := m.linkNamed(e.Link)
	if l == nil {
		return
	}
	n := m.macs[e.MAC]
	if n == m.self {
		return
	}
	if n == nil {
		l.foreign = later(l.foreign, e.At)
	}
	m.heardOn(l, e.At)
}

// heardOn notes that something was heard on l, which ends being cut off.
func (m *Machine) heardOn(l *link, at time.Time) {
	l.heard = later(l.heard, at)
	if l.state == isCut && l.carrier && at.After(l.since) {
		l.state = returning
		l.until = m.now.Add(m.opts.SettleTimeout)
		m.do(AskOwners{})
	}
}

// cut notes that this node may be cut off on l.
func (m *Machine) cut(l *link) {
	if l.state == isCut {
		return
	}
	if l.state == connected {
		m.do(Report{Kind: Cut, Link: l.name, By: m.opts.Self})
		l.since = m.now
	}
	l.state = isCut
	m.viewStale, m.ringMoved = true, true
	for _, p := range m.paths {
		if p.link == l {
			p.suspicion = nil
		}
	}
}

// regain ends being cut off on l.
func (m *Machine) regain(l *link) {
	l.state = connected
	m.awake = m.now // what was not heard while cut off proves nothing
	m.viewStale = true
	m.do(Report{Kind: Regained, Link: l.name, By: m.opts.Self, After: m.now.Sub(l.since)})
	for _, a := range m.self.atts {
		if m.linkNamed(a.link) == l {
			m.refute(a)
		}
	}
}

// carriers cuts the links that have lost their carrier.
func (m *Machine) carriers() {
	for _, l := range m.links {
		if !l.carrier {
			m.cut(l)
		}
	}
}

// settle ends the waiting for owners.
func (m *Machine) settle() {
	m.settleBy = time.Time{}
	for _, l := range m.links {
		if l.state == returning {
			m.regain(l)
		}
	}
}

// stall forgives what this process missed while it did not run.
func (m *Machine) stall(from, to time.Time) {
	late := to.Sub(from)
	if late <= m.opts.Interval || !to.After(m.awake) {
		return
	}
	m.awake = to
	if !m.next.IsZero() {
		m.next = later(m.next, to)
	}
	for _, p := range m.paths {
		if p.answered.Before(p.sentAt) {
			p.void = true
		}
		if c := p.check; c != nil && c.restarts < 2 {
			c.restarts++
			c.next, c.sent, c.end = m.now, 0, m.now.Add(checkTime)
		}
	}
	if late > 3*m.opts.Interval {
		m.do(Report{Kind: Stalled, After: late, By: m.opts.Self})
		m.do(AskOwners{})
		m.settleBy = m.now.Add(m.opts.SettleTimeout)
	}
}

// lookAfterLinks finds out whether this node is cut off.
func (m *Machine) lookAfterLinks() {
	for _, l := range m.links {
		peers, least := false, maxMultiplier
		for _, p := range m.paths {
			if p.link == l && p.watched && !p.att.dead() {
				peers = true
				least = min(least, m.multiplier(p))
			}
		}
		least = max(least, multiplier(l.history.loss(), m.opts.Multiplier))
		silent := m.now.Sub(later(l.heard, m.awake))
		switch {
		case !l.carrier || !peers && l.state == connected:
			continue
		case l.state == connected && silent > time.Duration(least)*m.opts.Interval:
			m.cut(l)
		}
		if silent > m.recent() || l.state == isCut {
			m.do(ProbeGateway{Link: l.name})
		}
	}
	for _, a := range m.self.atts {
		if !a.dead() {
			continue
		}
		m.refute(a)
		if a.dead() {
			m.do(ProbeGateway{Link: a.link})
		}
	}
}

// tick does what is due.
func (m *Machine) tick() {
	if !m.next.IsZero() {
		m.stall(m.next, m.now)
	}
	for _, p := range m.paths { // paths may be added meanwhile, not removed
		if !p.next.IsZero() && !p.next.After(m.now) {
			m.due(p)
		}
		if p.check != nil {
			m.runCheck(p)
		}
		if s := p.suspicion; s != nil && s.checked {
			m.weigh(p)
		}
	}
	m.again()
	if !m.settleBy.IsZero() && !m.settleBy.After(m.now) {
		m.settle()
	}
	for _, l := range m.links {
		if l.state == returning && !l.until.After(m.now) {
			m.regain(l)
		}
	}
	if !m.house.IsZero() && !m.house.After(m.now) {
		m.house = time.Time{}
		m.lookAfterLinks()
		m.lookAfterSpeakers()
		m.lookAfterDead()
	}
}

// schedule finds out when the next Tick is due.
func (m *Machine) schedule() {
	m.next = m.settleBy
	busy := !m.settleBy.IsZero()
	for _, p := range m.paths {
		m.wake(p.next)
		if c := p.check; c != nil {
			m.wake(c.next)
			if c.next.IsZero() {
				m.wake(c.end)
			}
		}
		if s := p.suspicion; s != nil && s.checked {
			m.wake(s.end)
			if s.ripe.After(m.now) {
				m.wake(s.ripe)
			}
		}
	}
	for _, r := range m.repeats {
		m.wake(r.at)
	}
	for _, l := range m.links {
		busy = busy || l.state != connected
		if l.state == returning {
			m.wake(l.until)
		}
	}
	if m.house.IsZero() && (busy || len(m.paths)+len(m.corpses)+len(m.downs) > 0 || m.selfDead()) {
		m.house = m.now.Add(m.opts.Interval)
	}
	m.wake(m.house)
}

func (m *Machine) wake(t time.Time) {
	if !t.IsZero() && (m.next.IsZero() || t.Before(m.next)) {
		m.next = t
	}
}

func (m *Machine) selfDead() bool {
	return slices.ContainsFunc(m.self.atts, (*attachment).dead)
}
