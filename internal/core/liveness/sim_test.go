package liveness_test

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/liveness"
)

// The simulation: a virtual clock and a queue of events; each node has a kernel, which
// answers probes, and a speaker's process, which runs a Machine and may stand still.

type item struct {
	at  time.Time
	seq int
	do  func()
}

type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(q[i].at.Compare(q[j].at), cmp.Compare(q[i].seq, q[j].seq)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	o := *q
	x := o[len(o)-1]
	*q = o[:len(o)-1]
	return x
}

type host struct {
	sim     *sim
	i       int
	name    string
	mac     links.MAC
	addr    netip.Addr
	facts   *liveness.Facts
	machine *liveness.Machine
	opts    liveness.Options

	kernel  bool // it answers
	process bool // its speaker exists
	stalled time.Time
	paused  bool // SIGSTOP
	inbox   []func()
	token   int
	members map[string]bool
	beaten  map[string]bool // connections that are up

	packets, messages int
	asks              int
	spins             int // ticks that were followed by another at once
}

type report struct {
	at time.Time
	on string
	liveness.Report
}

type sim struct {
	t       *testing.T
	now     time.Time
	start   time.Time
	q       queue
	seq     int
	rng     *rand.Rand
	hosts   []*host
	byName  map[string]*host
	known   map[string]*liveness.Facts
	loss    func(from, to int) float64
	side    []int // hosts of one side hear one another
	gateway int   // its side; -1 if there is none
	client  int   // the side of a client that makes broadcasts each 50 ms; -1 if there is none
	proxy   func(from, to int) bool
	reports []report
	wrong   int
	quiet   bool // Heard events for probes are left out
	mute    bool // no message arrives
}

var segment = netip.MustParsePrefix("10.0.0.0/16")

func macOf(i int) links.MAC { return links.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)} }

func factsOf(i int, phase liveness.Phase, inc uint64) *liveness.Facts {
	addr := netip.AddrFrom4([4]byte{10, 0, byte(1 + i>>8), byte(i)})
	return &liveness.Facts{
		Node: fmt.Sprintf("node%d", i), Version: 1, Incarnation: inc, Phase: phase,
		Links: []liveness.Link{{
			Name: "eth0", MAC: macOf(i), Carrier: true, IPv4: true,
			Addrs: []netip.Prefix{netip.PrefixFrom(addr, 16)},
		}},
	}
}

func newSim(t *testing.T, n int, seed uint64, o liveness.Options) *sim {
	t.Helper()
	s := &sim{
		t: t, now: time.Unix(1000, 0), rng: rand.New(rand.NewPCG(seed, uint64(n))), byName: map[string]*host{},
		loss: func(int, int) float64 { return 0 }, side: make([]int, n), client: -1,
		proxy: func(int, int) bool { return false },
	}
	s.start = s.now
	for i := range n {
		f := factsOf(i, liveness.Serving, 1)
		o.Self, o.Seed = f.Node, seed
		h := &host{
			sim: s, i: i, name: f.Node, mac: macOf(i), addr: f.Links[0].Addrs[0].Addr(), facts: f,
			machine: liveness.New(o), opts: o, kernel: true, process: true, members: map[string]bool{}, beaten: map[string]bool{},
		}
		s.hosts = append(s.hosts, h)
		s.byName[h.name] = h
	}
	for _, h := range s.hosts {
		for _, o := range s.hosts {
			h.members[o.name] = true
		}
		s.at(time.Duration(s.rng.Int64N(int64(100*time.Millisecond))), func() { h.world() })
	}
	s.every(50*time.Millisecond, func() {
		for _, h := range s.hosts {
			if s.client >= 0 && s.side[h.i] == s.client && !s.lost(-1, h.i) {
				at := s.now
				h.give(func() { h.step(liveness.Heard{Link: "eth0", MAC: links.MAC{6}, At: at}) })
			}
		}
	})
	return s
}

func (s *sim) at(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.q, item{s.now.Add(max(0, d)), s.seq, do})
}

func (s *sim) every(d time.Duration, do func()) {
	s.at(d, func() { do(); s.every(d, do) })
}

func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for len(s.q) > 0 && !s.q[0].at.After(end) {
		it := heap.Pop(&s.q).(item)
		s.now = it.at
		it.do()
	}
	s.now = end
}

func (s *sim) delay() time.Duration {
	return 200*time.Microsecond + time.Duration(s.rng.Int64N(int64(1800*time.Microsecond)))
}

func (s *sim) lost(from, to int) bool {
	if from >= 0 && to >= 0 && s.side[from] != s.side[to] {
		return true
	}
	p := s.loss(from, to)
	return p > 0 && s.rng.Float64() < p
}

func (s *sim) facts() map[string]*liveness.Facts {
	if s.known == nil {
		s.known = map[string]*liveness.Facts{}
		for _, h := range s.hosts {
			s.known[h.name] = h.facts
		}
	}
	return s.known
}

// runs reports whether h's process runs now.
func (h *host) runs() bool { return h.process && !h.paused && !h.sim.now.Before(h.stalled) }

// give has the process do something, when it runs.
func (h *host) give(do func()) {
	if !h.process {
		return
	}
	if h.runs() {
		do()
		return
	}
	h.inbox = append(h.inbox, do)
}

// stall makes h's process stand still.
func (h *host) stall(d time.Duration) {
	from := h.sim.now
	h.stalled = from.Add(d)
	h.sim.at(d, func() { h.resume(from) })
}

// resume has h's process go on: it learns of the stall, drains, and ticks.
func (h *host) resume(from time.Time) {
	if !h.runs() {
		return
	}
	box := h.inbox
	h.inbox = nil
	if h.sim.rng.IntN(2) == 0 { // else it has to see that by itself
		h.step(liveness.Stall{From: from, To: h.sim.now})
	}
	for _, do := range box {
		do()
	}
	h.step(liveness.Tick{})
}

func (h *host) world() {
	h.give(func() { h.step(liveness.World{Members: h.members, Facts: h.sim.facts()}) })
}

func (h *host) step(ev liveness.Event) {
	for _, a := range h.machine.Step(h.sim.now, ev) {
		h.act(a)
	}
	h.token++
	token := h.token
	if next, ok := h.machine.Next(); ok {
		if _, tick := ev.(liveness.Tick); !tick || next.After(h.sim.now) {
			h.spins = 0
		} else if h.spins++; h.spins > 2 { // one may have begun to probe others at once
			h.sim.t.Fatal("tick after tick is due at once")
		}
		h.sim.at(next.Sub(h.sim.now), func() { h.wakeUp(token) })
	}
}

func (h *host) wakeUp(token int) {
	if token == h.token && h.runs() {
		h.step(liveness.Tick{})
	}
}

func (h *host) act(a liveness.Action) {
	s := h.sim
	switch a := a.(type) {
	case liveness.Probe:
		h.probe(a)
	case liveness.ProbeGateway:
		h.packets++
		if s.gateway == s.side[h.i] && s.gateway >= 0 && !s.lost(h.i, -1) && !s.lost(-1, h.i) {
			s.at(s.delay()+s.delay(), func() {
				at := s.now
				h.give(func() { h.step(liveness.GatewayAnswer{Link: a.Link, At: at}) })
			})
		}
	case liveness.Send:
		h.send(a.To, a.Message)
	case liveness.Broadcast:
		for _, o := range s.hosts {
			if o != h {
				h.send(o.name, a.Message)
			}
		}
	case liveness.AskOwners:
		h.asks++
		for _, o := range s.hosts {
			if o != h && o.runs() && s.side[o.i] == s.side[h.i] {
				s.at(2*s.delay(), func() { h.give(func() { h.step(liveness.OwnersAnswered{}) }) })
				break
			}
		}
	case liveness.Beacon:
		for _, o := range s.hosts {
			if o != h && !s.lost(h.i, o.i) {
				at := s.now
				s.at(s.delay(), func() { o.give(func() { o.step(liveness.SpeakerHeard{Node: h.name, At: at}) }) })
			}
		}
	case liveness.Report:
		s.reports = append(s.reports, report{s.now, h.name, a})
		if o := s.byName[a.Node]; a.Kind == liveness.NodeDead && o.kernel && s.side[o.i] == s.side[h.i] {
			s.wrong++
		}
	}
}

func (h *host) probe(a liveness.Probe) {
	s, o := h.sim, h.sim.byName[a.Node]
	h.packets++
	mac, proxied := o.mac, s.proxy(h.i, o.i) && a.Method != liveness.ICMP
	if proxied {
		mac = links.MAC{4}
	}
	if s.lost(h.i, o.i) && !proxied {
		return
	}
	s.at(s.delay(), func() {
		if !o.kernel && !proxied {
			return
		}
		if !s.quiet && o.kernel {
			at := s.now
			o.give(func() {
				o.step(liveness.Heard{Link: "eth0", MAC: h.mac, At: at})
				o.step(liveness.SpeakerHeard{Node: h.name, At: at})
			})
		}
		o.packets++
		if s.lost(o.i, h.i) && !proxied {
			return
		}
		s.at(s.delay(), func() {
			at := s.now
			h.give(func() {
				h.step(liveness.Answer{Node: a.Node, Segment: a.Segment, MAC: mac, Method: a.Method, At: at})
			})
		})
	})
}

func (h *host) send(to string, m liveness.Message) {
	s, o := h.sim, h.sim.byName[to]
	h.messages++
	m, err := liveness.Parse(liveness.Append(nil, m))
	if err != nil {
		s.t.Fatalf("message of %s: %v", h.name, err)
	}
	if s.mute || s.lost(h.i, o.i) {
		return
	}
	s.at(s.delay(), func() {
		o.give(func() { o.step(liveness.Received{From: h.name, Message: m}) })
	})
}

// restart begins a new process of a speaker, which knows nothing.
func (s *sim) restart(i int, inc uint64) {
	h := s.hosts[i]
	h.machine, h.process, h.inbox = liveness.New(h.opts), true, nil
	s.tell(i, liveness.Serving, inc)
}

// tell gives all the Facts of a node anew.
func (s *sim) tell(of int, phase liveness.Phase, inc uint64) {
	s.hosts[of].facts = factsOf(of, phase, inc)
	s.known = nil
	for _, h := range s.hosts {
		h.world()
	}
}

// connections has the speakers hold connections with beats each 200 ms.
func (s *sim) connections() {
	s.every(200*time.Millisecond, func() {
		for _, h := range s.hosts {
			for _, name := range h.machine.Watched() {
				o := s.byName[name]
				if !o.runs() || s.side[o.i] != s.side[h.i] || !o.kernel {
					continue
				}
				state := liveness.ConnBeat
				if !h.beaten[name] {
					state, h.beaten[name] = liveness.ConnUp, true
				}
				at, inc := s.now, o.facts.Incarnation
				h.give(func() {
					h.step(liveness.Connection{Node: name, State: state, Incarnation: inc, At: at})
				})
			}
		}
	})
}

// end ends the connections to o's speaker, as the kernel does when its process ends.
func (s *sim) end(o *host) {
	for _, h := range s.hosts {
		if h.beaten[o.name] {
			h.beaten[o.name] = false
			at, inc := s.now, o.facts.Incarnation
			s.at(s.delay(), func() {
				h.give(func() {
					h.step(liveness.Connection{Node: o.name, State: liveness.ConnEnded, Incarnation: inc, At: at})
				})
			})
		}
	}
}

// membership has memberlist say of name that it is (not) a member, everywhere but there.
func (s *sim) membership(name string, member bool) {
	for _, h := range s.hosts {
		if h.name != name {
			h.members[name] = member
			h.world()
		}
	}
}

// cut takes hosts off the network.
func (s *sim) cut(is ...int) {
	for k, i := range is {
		s.side[i] = 100 + k
	}
}

// knownAfter returns how long after at each host of side 0 knew that each of dead is dead.
func (s *sim) knownAfter(at time.Time, dead ...int) []time.Duration {
	s.t.Helper()
	var out []time.Duration
	for _, i := range dead {
		name := s.hosts[i].name
		for _, h := range s.hosts {
			if s.side[h.i] != 0 {
				continue
			}
			k := slices.IndexFunc(s.reports, func(r report) bool {
				return r.on == h.name && r.Node == name && !r.at.Before(at) &&
					(r.Kind == liveness.NodeDead || r.Kind == liveness.NodeTold)
			})
			if k < 0 {
				s.t.Errorf("%s does not know that %s is dead", h.name, name)
				continue
			}
			out = append(out, s.reports[k].at.Sub(at))
		}
	}
	slices.Sort(out)
	return out
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))].Round(time.Millisecond)
}

func (s *sim) dump() {
	s.t.Helper()
	for _, r := range s.reports[:min(len(s.reports), 60)] {
		s.t.Logf("%8s %s: %s %s by %s after %s", r.at.Sub(s.start), r.on, r.Kind, r.Node, r.By, r.After)
	}
}

func (s *sim) dead(on, of int) bool {
	return s.hosts[on].machine.View().Nodes[s.hosts[of].name].Dead[segment]
}

func (s *sim) cutOff(i int) bool { return s.hosts[i].machine.View().CutOff[segment] }

func (s *sim) packets() int {
	n := 0
	for _, h := range s.hosts {
		n += h.packets
	}
	return n
}

func (s *sim) messages() int {
	n := 0
	for _, h := range s.hosts {
		n += h.messages
	}
	return n
}

func sortDurations(d []time.Duration) { slices.Sort(d) }
