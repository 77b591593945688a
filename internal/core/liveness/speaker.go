package liveness

import (
	"slices"
	"strings"
	"time"
)

const (
	tellDead = time.Second      // how often each observer of a dead node tells another of it
	askDead  = 20 * time.Second // how often those who do not probe a dead node ask after it
	askDown  = 2 * time.Second  // how often one who holds a speaker down asks another whether it is
)

// speaker is what is known of a node's speaker.
type speaker struct {
	incarnation uint64
	epoch       uint32 // of that incarnation; odd if it is down, as an observer found

	connected bool // this node's own connection to it
	connInc   uint64
	beat      time.Time
	missed    bool // beats, and this node has said so
	vouched   bool // for itself, since memberlist lost it

	heard     time.Time // a frame of it, or that another is in touch with it
	downSince time.Time
	askAt     time.Time // when to ask another whether it is down
	asked     int       // whom last, in its ring
}

// incarnate notes that the speaker says to be of an incarnation.
func (s *speaker) incarnate(inc uint64) {
	if inc > s.incarnation {
		s.incarnation, s.epoch, s.missed = inc, 0, false
		if s.connInc != 0 && s.connInc < inc {
			s.connected = false // that was its forerunner
		}
	}
}

// serving reports whether n's speaker says that its plan is in force.
func (n *node) serving() bool {
	return n.facts != nil && n.facts.Phase == Serving && n.facts.Incarnation >= n.speaker.incarnation
}

// judgeSpeaker finds out, from all that is known, whether n's speaker is down, and n gone.
func (m *Machine) judgeSpeaker(n *node) {
	if n == m.self {
		return
	}
	down, gone := false, n.gone && n.facts != nil
	if n.facts != nil {
		s := &n.speaker
		down = s.epoch%2 == 1 || !n.member && !s.vouched
		switch n.facts.Phase {
		case Restarting:
			down = true
		case Starting:
			down = down || n.down
		case Leaving:
			gone = true
		case Serving:
			if !down && n.serving() {
				gone = false
			}
			// Its forerunner was down, and it has not told of itself yet.
			down = down || n.down && !n.serving()
		}
		if n.remote {
			gone = !n.member || n.facts.Phase == Leaving
		}
	}
	m.setSpeaker(n, standing{down: down, gone: gone})
}

// setSpeaker notes what has become of n's speaker, and tells of it.
func (m *Machine) setSpeaker(n *node, now standing) {
	was := n.standing
	if was == now {
		return
	}
	n.standing = now
	m.viewStale, m.ringMoved = true, true
	if now.down && !was.down {
		n.speaker.downSince, n.speaker.askAt = m.now, m.now.Add(askDown)
		m.downs = append(m.downs, n)
		m.do(Report{Kind: Down, Node: n.name, By: m.opts.Self})
	}
	if was.down && !now.down {
		m.downs = deleteOne(m.downs, n)
		up := Report{Kind: Up, Node: n.name, By: m.opts.Self}
		if since := n.speaker.downSince; !since.IsZero() {
			up.After = m.now.Sub(since)
		}
		m.do(up)
	}
	if now.gone && !was.gone {
		m.do(Report{Kind: GoneAway, Node: n.name, By: m.opts.Self})
	}
}

// connection takes news of the connection to a speaker.
func (m *Machine) connection(e Connection) {
	n := m.nodes[e.Node]
	if n == nil || n == m.self || n.facts == nil {
		return
	}
	s := &n.speaker
	if e.Incarnation != 0 && e.Incarnation < s.incarnation {
		return // of its forerunner
	}
	switch e.State {
	case ConnUp, ConnBeat:
		if e.Incarnation != 0 {
			s.connInc = e.Incarnation
		}
		s.connected, s.missed = true, false
		s.beat = later(s.beat, e.At)
		if s.epoch%2 == 1 && n.serving() && e.At.After(s.downSince) && (e.Incarnation == 0 || e.Incarnation == s.incarnation) {
			m.saySpeaker(n)
		}
	case ConnEnded:
		if s.connected && s.epoch%2 == 0 && (s.connInc == 0 || s.connInc >= s.incarnation) {
			m.saySpeaker(n)
		}
		s.connected = false
	case ConnFailed:
		s.connected = false
	}
}

// saySpeaker says the contrary of what was said of n's speaker last.
func (m *Machine) saySpeaker(n *node) {
	n.speaker.epoch++
	m.judgeSpeaker(n)
	m.announce(speakerVerdictOf(n))
}

func speakerVerdictOf(n *node) Message {
	return Message{Kind: SpeakerVerdict, Node: n.name, Epoch: n.speaker.epoch, Incarnation: n.speaker.incarnation}
}

// speakerVerdict takes over what another says of n's speaker, if it is news.
func (m *Machine) speakerVerdict(n *node, msg Message, from string) {
	s := &n.speaker
	switch {
	case msg.Incarnation == s.incarnation && msg.Epoch == s.epoch:
		switch {
		case msg.Reachable && s.epoch%2 == 0:
			s.heard = later(s.heard, m.now)
		case msg.Asks && m.inTouch(n):
			answer := speakerVerdictOf(n)
			answer.Reachable = true
			m.send(from, answer)
		}
		return
	case msg.Incarnation < s.incarnation || msg.Incarnation == s.incarnation && msg.Epoch < s.epoch:
		m.send(from, speakerVerdictOf(n))
		return
	}
	if n == m.self {
		if msg.Incarnation != s.incarnation {
			return // of the future: not ours to answer for
		}
		s.epoch = msg.Epoch
		if s.epoch%2 == 1 && n.facts != nil && n.facts.Phase != Restarting {
			s.epoch++
			m.do(Report{Kind: Refuted, Node: n.name, By: from})
			m.announce(speakerVerdictOf(n))
		}
		return
	}
	s.incarnate(msg.Incarnation)
	s.epoch = msg.Epoch
	s.vouched = s.vouched || from == n.name // whatever memberlist says, it works
	m.judgeSpeaker(n)
}

// lookAfterSpeakers judges missed beats, and how long speakers have been down.
func (m *Machine) lookAfterSpeakers() {
	for _, name := range m.watched {
		n := m.nodes[name]
		s := &n.speaker
		if !s.connected || s.missed || m.now.Sub(later(s.beat, m.awake)) < m.opts.SpeakerTimeout || m.cutFrom(n) {
			continue
		}
		s.missed = true
		if s.epoch%2 == 0 {
			m.saySpeaker(n)
		}
	}
	mute := false
	for _, n := range slices.Clone(m.downs) {
		s := &n.speaker
		mute = mute || !n.member && !n.remote && n.facts.Phase == Serving
		m.askAfter(n)
		if !n.gone && !n.member && m.now.Sub(later(s.downSince, s.heard)) >= m.opts.CaretakerTimeout {
			m.setSpeaker(n, standing{down: true, gone: true})
		}
	}
	if mute && m.now.Sub(m.beaconAt) >= m.opts.CaretakerTimeout/4 {
		m.beaconAt = m.now
		m.do(Beacon{})
	}
}

// inTouch reports whether n's speaker is not down, and this node knows so by itself: by
// memberlist or by its own connection.
func (m *Machine) inTouch(n *node) bool {
	return n == m.self || !n.down && (n.member || n.speaker.connected)
}

// askAfter asks one node after the other whether n's speaker is down: whoever does not hear n
// has not heard it say that it is not, and memberlist loses it for that one alone. Who knows
// better says so, and so does who is in touch with it (see speakerVerdict): it is not gone then.
func (m *Machine) askAfter(n *node) {
	s := &n.speaker
	if m.now.Before(s.askAt) || len(n.atts) == 0 {
		return
	}
	s.askAt = m.now.Add(askDown)
	ring := m.rings[n.atts[0].primary]
	for range ring {
		s.asked = (s.asked + 1) % len(ring)
		if o := ring[s.asked]; o.node != m.self && m.observes(o) {
			question := speakerVerdictOf(n)
			question.Asks = true
			m.send(o.node.name, question)
			return
		}
	}
}

// cutFrom reports whether this node may be cut off on a link on which n is probed.
func (m *Machine) cutFrom(n *node) bool {
	for _, a := range n.atts {
		if a.path != nil && a.path.link.state != connected {
			return true
		}
	}
	return false
}

// lookAfterDead mends what lost messages leave: the observers of a dead node tell one node
// after the other of it (each, for there may be some who do not hear one of them), and those who do not probe it ask one that does, now and then.
func (m *Machine) lookAfterDead() {
	for _, a := range m.corpses {
		if m.now.Before(a.tellAt) {
			continue
		}
		if m.observerOf(a, m.opts.Observers) {
			a.tellAt = m.now.Add(tellDead)
			ring := m.rings[a.primary]
			a.told = (a.told + 1) % max(1, len(ring))
			if len(ring) > 0 && m.observes(ring[a.told]) && ring[a.told].node != m.self {
				m.send(ring[a.told].node.name, verdictOf(a))
			}
			continue
		}
		a.tellAt = m.now.Add(askDead)
		if a.path != nil && a.path.watched {
			continue
		}
		for _, o := range m.observers(a, 1, func(n *node) bool { return n == m.self }) {
			m.send(o.name, verdictOf(a))
		}
	}
}

// compareNames orders nodes.
func compareNames(a, b *node) int { return strings.Compare(a.name, b.name) }
