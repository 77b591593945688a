package liveness

import (
	"maps"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/links"
)

// Machine decides for one node who is alive. It belongs to one goroutine; the Views that
// it returns may be handed on.
type Machine struct {
	opts Options
	now  time.Time
	out  []Action

	nodes     map[string]*node
	self      *node
	rings     map[Segment][]*attachment // nil before the first World
	macs      map[links.MAC]*node
	links     []*link
	bySegment map[Segment]*link

	paths   []*path // those that are probed, in the order in which they came
	probeID uint64
	repeats []repeat
	corpses []*attachment // the dead of other nodes
	downs   []*node       // whose speakers are down

	next       time.Time // when the next Tick is due; zero if never
	house      time.Time // when to look after links, beats and the dead; zero if never
	awake      time.Time // when the last stall ended
	settleBy   time.Time // when to stop waiting for owners; zero if not waiting
	beaconAt   time.Time
	ringMoved  bool // who probes whom has to be found out anew
	viewStale  bool
	view       *View
	watched    []string
	everywhere map[Segment]bool // every segment, for those whom memberlist alone judges
}

// New returns a Machine that knows nobody yet.
func New(o Options) *Machine {
	self := &node{name: o.Self, rank: rank(o.Self), member: true}
	return &Machine{opts: o.withDefaults(), self: self, nodes: map[string]*node{o.Self: self}, view: &View{}}
}

// Step tells the Machine what happened, and returns what is to be done now. now never goes
// back. The cost does not depend on the number of nodes, except for a World.
func (m *Machine) Step(now time.Time, ev Event) []Action {
	if now.After(m.now) {
		m.now = now
	}
	m.out = nil
	switch e := ev.(type) {
	case World:
		m.world(e)
	case Answer:
		m.answer(e)
	case GatewayAnswer:
		if l := m.linkNamed(e.Link); l != nil {
			l.gateway = later(l.gateway, e.At)
			m.heardOn(l, e.At)
		}
	case Heard:
		m.heard(e)
	case SpeakerHeard:
		if n := m.nodes[e.Node]; n != nil {
			n.speaker.heard = later(n.speaker.heard, e.At)
		}
	case ProbesSeen:
		m.probesSeen(e)
	case Connection:
		m.connection(e)
	case Received:
		m.received(e)
	case Stall:
		m.stall(e.From, e.To)
	case OwnersAnswered:
		m.settle()
	case Tick:
		m.tick()
	}
	if m.ringMoved {
		m.watch(quickProbes)
	}
	m.schedule()
	return m.out
}

// Next returns when to give the next Tick, if ever. It may change with every Step.
func (m *Machine) Next() (time.Time, bool) { return m.next, !m.next.IsZero() }

// Watched returns the names of the nodes to whose speakers a connection shall be held,
// sorted. The slice is not changed later, and is the same while nothing changed.
func (m *Machine) Watched() []string { return m.watched }

// Settled reports whether this node may answer for what it owns: it is false for a short
// while after a stall, until the present owners are known.
func (m *Machine) Settled() bool { return m.settleBy.IsZero() }

// View returns what is known now: the same pointer while nothing changed. It costs work
// for every node if something did.
func (m *Machine) View() *View {
	if !m.viewStale {
		return m.view
	}
	m.viewStale = false
	v := &View{Nodes: make(map[string]Node, len(m.nodes)), CutOff: map[Segment]bool{}}
	for name, n := range m.nodes {
		v.Nodes[name] = Node{Facts: n.facts, Member: n.member, Dead: m.deadOn(n), SpeakerDown: n.down, Gone: n.gone}
	}
	for _, l := range m.links {
		if l.state != connected {
			for _, s := range l.segs {
				v.CutOff[s] = true
			}
		}
	}
	if !v.Equal(m.view) {
		m.view = v
	}
	return m.view
}

func (m *Machine) deadOn(n *node) map[Segment]bool {
	if n.facts == nil && !n.member {
		return m.everywhere
	}
	var out map[Segment]bool
	for _, a := range n.atts {
		if !a.dead() {
			continue
		}
		if out == nil {
			out = map[Segment]bool{}
		}
		for _, s := range a.segs {
			out[s] = true
		}
	}
	return out
}

// world takes over what memberlist and the speakers tell.
func (m *Machine) world(w World) {
	moved := m.rings == nil
	for name := range m.nodes {
		_, member := w.Members[name]
		if !member && w.Facts[name] == nil && name != m.opts.Self {
			m.forget(m.nodes[name])
			moved = true
		}
	}
	var changed, newcomers []*node
	for _, name := range namesIn(w) {
		n := m.nodes[name]
		if n == nil {
			n = &node{name: name, rank: rank(name)}
			m.nodes[name] = n
			moved, m.viewStale = true, true
		}
		was := *n
		links, newcomer := m.adopt(n, w)
		moved = moved || links
		if newcomer || n.member && !was.member && n != m.self {
			newcomers = append(newcomers, n)
		}
		if was.facts != n.facts || was.member != n.member {
			changed = append(changed, n)
		}
	}
	if moved {
		m.rebuild(m.now)
		m.viewStale = true
		m.everywhere = make(map[Segment]bool, len(m.rings))
		for s := range m.rings {
			m.everywhere[s] = true
		}
		changed = slices.Collect(maps.Values(m.nodes))
		slices.SortFunc(changed, compareNames)
	}
	for _, n := range changed {
		m.viewStale, m.ringMoved = true, true
		m.judgeSpeaker(n)
	}
	m.carriers()
	if m.ringMoved {
		quick := quickProbes
		if moved {
			quick = 0
		}
		m.watch(quick)
	}
	m.introduce(newcomers...)
}

// namesIn returns the names of all nodes in w, sorted.
func namesIn(w World) []string {
	names := slices.AppendSeq(make([]string, 0, len(w.Members)+len(w.Facts)), maps.Keys(w.Members))
	names = slices.AppendSeq(names, maps.Keys(w.Facts))
	slices.Sort(names)
	return slices.Compact(names)
}

// adopt gives n what the World says of it. links says whether its links have changed,
// newcomer whether its speaker is a new process.
func (m *Machine) adopt(n *node, w World) (links, newcomer bool) {
	member := w.Members[n.name] || n == m.self
	if n.member && !member {
		n.speaker.vouched = false
	}
	n.member = member
	f := w.Facts[n.name]
	if f.Equal(n.facts) {
		return false, false
	}
	if f == nil { // a speaker that tells nothing has taken its place
		n.facts, n.speaker = nil, speaker{}
		n.attach()
		return true, false
	}
	if n.facts != nil && f.Incarnation < n.facts.Incarnation {
		return false, false // it is late
	}
	links = n.facts == nil || !slices.EqualFunc(f.Links, n.facts.Links, Link.Equal)
	newcomer = n != m.self && (n.facts == nil || f.Incarnation > n.facts.Incarnation)
	n.facts = f
	if links {
		n.attach()
	}
	n.speaker.incarnate(f.Incarnation)
	return links, newcomer
}

// forget drops all that is known of a node.
func (m *Machine) forget(n *node) {
	delete(m.nodes, n.name)
	n.atts = nil
	m.viewStale = true
	m.corpses = slices.DeleteFunc(m.corpses, func(a *attachment) bool { return a.node == n })
	m.downs = slices.DeleteFunc(m.downs, func(d *node) bool { return d == n })
}

// introduce tells speakers that are new, or were away, of the dead and of those whose
// speakers are down.
func (m *Machine) introduce(newcomers ...*node) {
	for _, to := range newcomers {
		for _, p := range m.paths {
			a := p.att
			down := a.node.speaker.epoch%2 == 1
			if a.node == to || !a.dead() && !down || !m.firstObserver(a) {
				continue
			}
			if a.dead() {
				m.send(to.name, verdictOf(a))
			}
			if down {
				m.send(to.name, speakerVerdictOf(a.node))
			}
		}
	}
}

// watch brings the paths in line with who has to be probed. Those of whom nothing is
// known yet are probed quick times at once: they may have died with their observers.
func (m *Machine) watch(quick int) {
	m.ringMoved = false
	for _, p := range m.paths {
		p.watched = false
	}
	for _, a := range m.targets() {
		p := a.path
		if p == nil {
			if p = m.probe(a); p == nil {
				continue
			}
			p.next = m.now.Add(time.Duration(mix(m.opts.Seed^a.node.rank^m.self.rank) % uint64(m.opts.Interval)))
			if quick > 0 && !a.dead() {
				p.next, p.quick = m.now, quick
			}
		}
		if p.next.IsZero() { // so far it was probed for others
			p.next = m.now.Add(m.opts.Interval)
		}
		p.watched, p.wasWatched = true, true
	}
	for _, p := range slices.Clone(m.paths) {
		if !p.watched && p.check == nil {
			m.drop(p)
		}
		if !p.watched && p.wasWatched {
			p.wasWatched, p.suspicion, p.next = false, nil, time.Time{}
		}
	}
	var names []string
	for _, p := range m.paths {
		if p.watched {
			names = append(names, p.att.node.name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if slices.Equal(names, m.watched) {
		return
	}
	for _, name := range m.watched {
		if n := m.nodes[name]; n != nil && !slices.Contains(names, name) {
			n.speaker.connected = false
		}
	}
	m.watched = names
}

func (m *Machine) do(a Action) { m.out = append(m.out, a) }

func (m *Machine) send(to string, msg Message) { m.do(Send{To: to, Message: msg}) }

func (m *Machine) linkNamed(name string) *link {
	for _, l := range m.links {
		if l.name == name {
			return l
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
