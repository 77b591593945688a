package liveness

import "time"

const (
	roundTime = 40 * time.Millisecond // a check, and the messages
	maxRounds = 3
	// manyWitnesses are asked at once whether they reach a suspect: where some pairs of nodes
	// do not hear each other, all observers of one may be among those. Who reaches it says so
	// at once, who does not only after a check, so one of many is heard in time.
	manyWitnesses = 8
	// enoughDoubts is how often in a row this node may hold another for unreachable that
	// lives, before that says something of this node. One who reached it just before it died
	// rejects one suspicion.
	enoughDoubts = 2
)

// suspicion is the time from when this node believes that another is dead until enough
// others agree, or one does not.
type suspicion struct {
	checked bool      // our own fresh probes stayed unanswered
	ripe    time.Time // when those who reach it have had the time to say so
	agreed  string
	round   int
	end     time.Time // of the round
	asked   map[*node]bool
}

// repeat is a message to all that is said again.
type repeat struct {
	msg  Message
	at   time.Time
	left int
}

// suspect begins a suspicion.
func (m *Machine) suspect(p *path) {
	if p.suspectAt.IsZero() {
		p.suspectAt = m.now
	}
	p.suspicion = &suspicion{asked: map[*node]bool{}, ripe: m.now.Add(checkTime)}
	m.ringMoved = true
	m.send(p.att.node.name, m.question(p))
	m.ask(p, manyWitnesses)
	m.startCheck(p, "")
}

func (m *Machine) question(p *path) Message {
	return Message{Kind: Suspect, Node: p.att.node.name, Segment: p.att.primary, Epoch: p.att.epoch}
}

// ask asks the next n living nodes of the ring, and reports whether there are any.
func (m *Machine) ask(p *path, n int) bool {
	s := p.suspicion
	s.end = m.now.Add(roundTime)
	others := m.observers(p.att, n, func(o *node) bool { return o == m.self || s.asked[o] })
	for _, o := range others {
		s.asked[o] = true
		m.send(o.name, m.question(p))
	}
	return len(others) > 0
}

// weigh decides what becomes of a suspicion, if it can.
func (m *Machine) weigh(p *path) {
	s := p.suspicion
	if s == nil || !s.checked || m.now.Before(s.ripe) {
		return
	}
	if s.agreed != "" {
		m.declare(p, false)
		return
	}
	if m.now.Before(s.end) && len(s.asked) > 0 {
		return
	}
	s.round++
	if s.round < maxRounds && (m.ask(p, m.opts.Observers) || m.waits(p)) {
		return
	}
	// Nobody else is there. We may say it alone if we hear anything at all, and nobody who is
	// there has heard what we do not.
	l := p.link
	if !p.att.deaf() && (!l.gateway.Before(p.suspectAt) || !l.foreign.Before(p.suspectAt) || !l.answer.Before(p.suspectAt)) {
		m.declare(p, true)
		return
	}
	p.suspicion = nil
	m.ringMoved = true
}

// waits reports whether one of those who were asked lives, and may have an answer on the way.
func (m *Machine) waits(p *path) bool {
	for o := range p.suspicion.asked {
		if a := o.on(p.att.primary); a != nil && a.path != nil && !a.suspected() && m.now.Sub(a.path.answered) < m.recent() {
			return true
		}
	}
	return false
}

// declare declares a node dead.
func (m *Machine) declare(p *path, alone bool) {
	a := p.att
	if p.link.state != connected || a.dead() {
		p.suspicion = nil
		return
	}
	by := m.opts.Self
	if p.suspicion.agreed != "" {
		by = p.suspicion.agreed
	}
	m.do(Report{
		Kind: NodeDead, Node: a.node.name, Segment: a.primary, By: by,
		After: m.now.Sub(later(p.answered, p.started)), Alone: alone,
	})
	m.verdict(a, a.epoch+1, m.opts.Self)
	m.announce(verdictOf(a))
}

// clear ends a suspicion for which there was no reason, as by found.
func (m *Machine) clear(p *path, by string) {
	p.suspicion = nil
	m.ringMoved = true
	if by != m.opts.Self {
		m.do(Report{Kind: Rejected, Node: p.att.node.name, Segment: p.att.primary, By: by})
		for range p.misses {
			p.history.push(1)
		}
		p.misses, p.suspectAt = 0, time.Time{}
		if n := m.nodes[by]; n != nil && n != p.att.node {
			p.att.doubts, p.att.rejecter = p.att.doubts+1, n
		}
	}
}

func verdictOf(a *attachment) Message {
	return Message{Kind: Verdict, Node: a.node.name, Segment: a.primary, Epoch: a.epoch}
}

// verdict takes over a verdict, of this node or another, that is later than what is known.
func (m *Machine) verdict(a *attachment, epoch uint32, by string) {
	was := a.dead()
	if (epoch+1)/2 > (a.epoch+1)/2 { // it died in between, even if it lives again
		if !a.aliveAt.IsZero() && m.now.Sub(a.aliveAt) > flapForgotten {
			a.flaps = 0
		}
		a.flaps++
		a.refuteAt = m.now.Add(hold(a.flaps))
		a.aliveAt = m.now
	}
	a.epoch = epoch
	if was == a.dead() {
		return
	}
	m.viewStale, m.ringMoved = true, true
	report := Report{Kind: NodeAlive, Node: a.node.name, Segment: a.primary, By: by}
	if a.dead() {
		report.Kind = NodeTold
		if a.node != m.self {
			m.corpses = append(m.corpses, a)
			a.tellAt = m.now.Add(tellDead)
		}
	} else {
		a.aliveAt = m.now
		m.corpses = deleteOne(m.corpses, a)
	}
	if p := a.path; p != nil {
		p.suspicion, p.suspectAt, p.misses = nil, time.Time{}, 0
		p.returning, p.returned = time.Time{}, 0
	}
	if a.node == m.self {
		m.refute(a)
	}
	if !a.dead() || by != m.opts.Self {
		m.do(report)
	}
	if !a.dead() && a.node != m.self {
		m.introduce(a.node)
	}
}

func deleteOne[T comparable](s []T, v T) []T {
	for i := range s {
		if s[i] == v {
			return append(s[:i], s[i+1:]...)
		}
	}
	return s
}

// refute says, of this node, that it is not dead, if it has reason to: it is answered.
func (m *Machine) refute(a *attachment) {
	l := m.linkNamed(a.link)
	if !a.dead() || l == nil || m.now.Before(a.refuteAt) || !m.answeredOn(l) {
		return
	}
	a.epoch++
	a.aliveAt = m.now
	m.viewStale = true
	m.do(Report{Kind: Refuted, Node: m.opts.Self, Segment: a.primary, By: m.opts.Self})
	m.announce(verdictOf(a))
}

// answeredOn reports whether what this node sends on l is answered now.
func (m *Machine) answeredOn(l *link) bool {
	return l.state == connected && m.now.Sub(later(l.answer, l.gateway)) < m.recent()
}

// recent is how old news of now may be.
func (m *Machine) recent() time.Duration { return m.opts.Interval + m.opts.Interval/2 }

// announce tells all of a verdict, and does so again.
func (m *Machine) announce(msg Message) {
	m.do(Broadcast{Message: msg})
	m.repeats = append(m.repeats, repeat{msg: msg, at: m.now.Add(m.opts.Interval), left: 3})
}

// again sends the repeats that are due and still true.
func (m *Machine) again() {
	kept := m.repeats[:0]
	for _, r := range m.repeats {
		if !m.holds(r.msg) {
			continue
		}
		if !r.at.After(m.now) {
			m.do(Broadcast{Message: r.msg})
			r.left--
			gap := time.Second
			if r.left == 1 {
				gap = 5 * time.Second
			}
			r.at = m.now.Add(gap)
		}
		if r.left > 0 {
			kept = append(kept, r)
		}
	}
	m.repeats = kept
}

// holds reports whether a verdict is the latest known.
func (m *Machine) holds(msg Message) bool {
	n := m.nodes[msg.Node]
	if n == nil {
		return false
	}
	if msg.Kind == SpeakerVerdict {
		return n.speaker.incarnation == msg.Incarnation && n.speaker.epoch == msg.Epoch
	}
	a := n.on(msg.Segment)
	return a != nil && a.epoch == msg.Epoch
}

// received takes a message of another speaker.
func (m *Machine) received(e Received) {
	n := m.nodes[e.Message.Node]
	if n == nil {
		return
	}
	if e.Message.Kind == SpeakerVerdict {
		m.speakerVerdict(n, e.Message, e.From)
		return
	}
	a := n.on(e.Message.Segment)
	if a == nil {
		return
	}
	switch {
	case e.Message.Epoch > a.epoch:
		m.verdict(a, e.Message.Epoch, e.From)
	case e.Message.Epoch < a.epoch:
		m.send(e.From, verdictOf(a)) // it missed something
	}
	switch e.Message.Kind {
	case Suspect:
		m.asked(a, e.From)
	case Opinion:
		m.opinion(a, e)
	case Verdict, SpeakerVerdict:
	}
}

// asked answers whether a is reachable from here.
func (m *Machine) asked(a *attachment, from string) {
	if a.dead() {
		return // it has been told
	}
	yes := Message{Kind: Opinion, Node: a.node.name, Segment: a.primary, Epoch: a.epoch, Reachable: true}
	if a.node == m.self {
		if l := m.linkNamed(a.link); l != nil && m.answeredOn(l) {
			m.send(from, yes)
		}
		return
	}
	p := a.path
	if p == nil {
		if p = m.probe(a); p == nil {
			return
		}
	}
	if p.link.state != connected || !p.link.carrier {
		return // nobody here can tell
	}
	if m.now.Sub(p.answered) <= m.opts.Interval {
		m.send(from, yes)
		return
	}
	if p.suspicion != nil && p.suspicion.checked {
		m.deny(a, from)
		return
	}
	m.startCheck(p, from)
}

// deny says to others that a is not reachable from here. One who never reached it says
// nothing, nor one who has said so again and again of a node that lives.
func (m *Machine) deny(a *attachment, to ...string) {
	if !a.heard || a.doubts >= enoughDoubts {
		return
	}
	a.doubts++
	for _, o := range to {
		m.send(o, Message{Kind: Opinion, Node: a.node.name, Segment: a.primary, Epoch: a.epoch})
	}
}

// deaf reports whether this node does not hear a, while one who is there still does: that
// it has no answer says nothing of a.
func (a *attachment) deaf() bool {
	if a.doubts < enoughDoubts || a.rejecter == nil {
		return false
	}
	r := a.rejecter.on(a.primary)
	return r != nil && !r.dead()
}

// opinion takes the answer of one who was asked.
func (m *Machine) opinion(a *attachment, e Received) {
	p := a.path
	if p == nil || p.suspicion == nil || e.Message.Epoch != a.epoch {
		return
	}
	if e.Message.Reachable {
		m.clear(p, e.From)
		return
	}
	if n := m.nodes[e.From]; n != nil && n != a.node && p.suspicion.asked[n] {
		p.suspicion.agreed = e.From
		m.weigh(p)
	}
}
