package liveness_test

import (
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/liveness"
)

func (s *sim) node(on, of int) liveness.Node {
	return s.hosts[on].machine.View().Nodes[s.hosts[of].name]
}

// wantSpeaker checks what all others hold of a node's speaker.
func (s *sim) wantSpeaker(of int, down, gone bool) {
	s.t.Helper()
	for _, h := range s.hosts {
		if h.i == of || !h.runs() {
			continue
		}
		n := s.node(h.i, of)
		if n.SpeakerDown != down || n.Gone != gone || n.Dead[segment] {
			s.t.Errorf("%v: %s holds node%d: down %v, gone %v, dead %v; want %v, %v, false", s.now.Sub(s.start), h.name, of,
				n.SpeakerDown, n.Gone, n.Dead[segment], down, gone)
		}
	}
}

func (s *sim) since(at time.Time, kind liveness.ReportKind, of int) []time.Duration {
	var out []time.Duration
	for _, r := range s.reports {
		if r.Kind == kind && r.Node == s.hosts[of].name && !r.at.Before(at) {
			out = append(out, r.at.Sub(at))
		}
	}
	slices.Sort(out)
	return out
}

func TestSpeakerCrash(t *testing.T) {
	s := newSim(t, 9, 1, liveness.Options{})
	s.connections()
	s.run(3 * time.Second)
	h := s.hosts[4]
	at := s.now
	h.process = false
	s.end(h)
	s.run(50 * ms)
	s.wantSpeaker(4, true, false)
	down := s.since(at, liveness.Down, 4)
	if len(down) != 8 || down[7] > 10*ms {
		t.Errorf("down after %v; want 8 of at most 10ms", down)
	}
	// It comes back as another process, which shall be down until it serves.
	s.run(5 * time.Second)
	s.tell(4, liveness.Starting, 2)
	s.run(time.Second)
	s.wantSpeaker(4, true, false)
	s.restart(4, 2)
	s.run(time.Second)
	s.wantSpeaker(4, false, false)
}

func TestSpeakerStopped(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		gone bool
	}{{20 * time.Second, false}, {90 * time.Second, true}} {
		s := newSim(t, 9, 1, liveness.Options{})
		s.connections()
		s.run(3 * time.Second)
		h, at := s.hosts[4], s.now
		h.paused = true
		s.run(time.Second)
		s.wantSpeaker(4, true, false)
		down := s.since(at, liveness.Down, 4)
		if len(down) != 8 || down[0] < 300*ms || down[7] > 710*ms {
			t.Errorf("down after %v; want 8 of 300 to 710ms", down)
		}
		s.run(9 * time.Second)
		s.membership("node4", false)
		s.run(c.d - 10*time.Second)
		s.wantSpeaker(4, true, c.gone)
		h.paused = false
		h.resume(at)
		s.membership("node4", true)
		if h.machine.Settled() {
			t.Error("it is settled at once")
		}
		s.run(time.Second)
		s.wantSpeaker(4, false, false)
		if s.wrong != 0 || !h.machine.Settled() || h.asks == 0 {
			t.Errorf("%d false verdicts, settled %v, asked %d times", s.wrong, h.machine.Settled(), h.asks)
		}
	}
}

func TestSpeakerRestartAndLeave(t *testing.T) {
	s := newSim(t, 3, 1, liveness.Options{})
	s.connections()
	s.run(3 * time.Second)
	s.tell(1, liveness.Restarting, 1)
	s.run(10 * ms)
	s.wantSpeaker(1, true, false)
	s.hosts[1].process = false
	s.end(s.hosts[1])
	s.run(3 * time.Second)
	s.tell(1, liveness.Starting, 2)
	s.run(time.Second)
	s.wantSpeaker(1, true, false)
	s.restart(1, 2)
	s.run(time.Second)
	s.wantSpeaker(1, false, false)

	s.tell(1, liveness.Leaving, 2)
	s.run(10 * ms)
	s.wantSpeaker(1, false, true)
	s.hosts[1].process = false
	s.end(s.hosts[1])
	s.membership("node1", false)
	s.run(time.Second)
	s.wantSpeaker(1, true, true)
	s.membership("node1", true)
	s.tell(1, liveness.Starting, 3)
	s.run(10 * ms)
	s.wantSpeaker(1, true, true)
	s.restart(1, 3)
	s.run(time.Second)
	s.wantSpeaker(1, false, false)
}

// TestSpeakerGoneOnlyIfSilent: while frames of a speaker are heard, or memberlist counts it
// in, its addresses stay its own.
func TestSpeakerGoneOnlyIfSilent(t *testing.T) {
	for _, c := range []struct {
		name                string
		frames, member, out bool
	}{
		{"silent and no member", false, false, true},
		{"heard", true, false, false},
		{"a member", false, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, 3, 1, liveness.Options{CaretakerTimeout: 5 * time.Second})
			s.quiet = true
			s.connections()
			s.run(3 * time.Second)
			s.hosts[1].process = false
			s.end(s.hosts[1])
			if !c.member {
				s.membership("node1", false)
			}
			for range 10 {
				s.run(time.Second)
				for _, h := range s.hosts {
					if c.frames {
						h.give(func() { h.step(liveness.SpeakerHeard{Node: "node1", At: s.now}) })
					}
				}
			}
			s.wantSpeaker(1, true, c.out)
		})
	}
}

// TestPortsFiltered: nobody is a member any more and no message arrives, but kernels answer.
func TestPortsFiltered(t *testing.T) {
	s := newSim(t, 16, 1, liveness.Options{})
	s.quiet, s.mute = true, true
	s.run(3 * time.Second)
	for i := range s.hosts {
		s.membership(s.hosts[i].name, false)
	}
	s.run(time.Second)
	before := s.packets()
	s.run(3 * time.Minute)
	if got := float64(s.packets()-before) / 180 / 16; got > 4*62 {
		t.Errorf("%.0f packets per node and second", got)
	}
	for _, h := range s.hosts {
		for name, n := range h.machine.View().Nodes {
			if n.Gone || len(n.Dead) > 0 {
				t.Fatalf("%s holds %s: %+v", h.name, name, n)
			}
		}
	}
	at := s.now
	s.cut(7)
	s.run(2 * time.Second)
	names := 0
	for _, r := range s.reports {
		if r.Kind == liveness.NodeDead && r.Node == "node7" && r.at.Sub(at) < 345*ms && r.Alone {
			names++
		}
	}
	if names < 3 || s.wrong != 0 {
		t.Errorf("%d declared it dead in time; %d false verdicts", names, s.wrong)
	}
}

// TestConnectionThatWasNeverUp says nothing.
func TestConnectionThatWasNeverUp(t *testing.T) {
	s := newSim(t, 3, 1, liveness.Options{})
	s.run(2 * time.Second)
	for range 3 {
		for _, state := range []liveness.ConnState{liveness.ConnFailed, liveness.ConnEnded} {
			s.hosts[0].step(liveness.Connection{Node: "node1", State: state, At: s.now})
		}
		s.run(time.Second)
	}
	s.wantSpeaker(1, false, false)
}

// TestConnectionOfForerunner: the end of the connection to the old process, heard of late,
// is none of the new one's.
func TestConnectionOfForerunner(t *testing.T) {
	s := newSim(t, 3, 1, liveness.Options{})
	s.run(2 * time.Second)
	h := s.hosts[0]
	h.step(liveness.Connection{Node: "node1", State: liveness.ConnUp, Incarnation: 1, At: s.now})
	s.tell(1, liveness.Serving, 2)
	h.step(liveness.Connection{Node: "node1", State: liveness.ConnEnded, Incarnation: 1, At: s.now})
	s.run(10 * ms)
	s.wantSpeaker(1, false, false)
	h.step(liveness.Connection{Node: "node1", State: liveness.ConnUp, Incarnation: 2, At: s.now})
	h.step(liveness.Connection{Node: "node1", State: liveness.ConnEnded, Incarnation: 2, At: s.now})
	if !s.node(0, 1).SpeakerDown {
		t.Error("the end of its own is not heard")
	}
	// It hears of that, and refutes.
	s.run(100 * ms)
	s.wantSpeaker(1, false, false)
}

// TestRefutationUnheard: a speaker that was held for down says that it is not, and one who
// does not hear it hears so from others.
func TestRefutationUnheard(t *testing.T) {
	s := newSim(t, 9, 1, liveness.Options{})
	s.connections()
	s.run(3 * time.Second)
	s.loss = func(from, to int) float64 { return float64(btoi(from == 4 && to == 0)) }
	said := false
	for _, h := range s.hosts[1:] { // a connection to it breaks
		if !said && slices.Contains(h.machine.Watched(), s.hosts[4].name) {
			said = true
			h.step(liveness.Connection{Node: s.hosts[4].name, State: liveness.ConnEnded, At: s.now})
		}
	}
	s.run(time.Second)
	if !said || !s.node(0, 4).SpeakerDown {
		t.Fatal("it is not held for down by the one who does not hear it")
	}
	s.run(20 * time.Second)
	s.wantSpeaker(4, false, false)
}

// TestLostByOneAlone: one node hears nothing of another, and memberlist has lost that one for
// it; others are in touch with it, so it is not gone, until they lose it too.
func TestLostByOneAlone(t *testing.T) {
	s := newSim(t, 9, 1, liveness.Options{CaretakerTimeout: 20 * time.Second})
	s.connections()
	s.run(3 * time.Second)
	s.loss = func(from, to int) float64 { return float64(btoi(from == 4 && to == 0)) }
	s.hosts[0].members["node4"] = false
	s.hosts[0].world()
	s.run(2 * time.Minute)
	if n := s.node(0, 4); !n.SpeakerDown || n.Gone {
		t.Fatalf("who lost it holds %+v", n)
	}
	s.hosts[4].process = false
	s.end(s.hosts[4])
	s.membership("node4", false)
	s.run(30 * time.Second)
	s.wantSpeaker(4, true, true)
}
