package liveness_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/liveness"
)

// seedsOr returns few seeds in a short run, else many.
func seedsOr(many, few int) int {
	if short() {
		return few
	}
	return many
}

// TestCorrelatedCuts cuts 1 to 4 of 9 nodes at once, and two of three.
func TestCorrelatedCuts(t *testing.T) {
	for _, c := range []struct{ n, cut int }{{9, 1}, {9, 2}, {9, 3}, {9, 4}, {3, 2}, {20, 10}} {
		t.Run(fmt.Sprintf("%d of %d", c.cut, c.n), func(t *testing.T) {
			var all []time.Duration
			for seed := range seedsOr(50, 5) {
				s := newSim(t, c.n, uint64(seed), liveness.Options{})
				s.run(3*time.Second + time.Duration(s.rng.Int64N(int64(time.Second))))
				victims := s.rng.Perm(c.n)[:c.cut]
				at := s.now
				s.cut(victims...)
				s.run(1500 * ms)
				all = append(all, s.knownAfter(at, victims...)...)
				if s.wrong != 0 {
					t.Errorf("seed %d: %d false verdicts", seed, s.wrong)
				}
				for _, v := range victims {
					if !s.cutOff(v) {
						t.Errorf("seed %d: node%d does not know that it is cut off", seed, v)
					}
				}
				if t.Failed() {
					s.dump()
					return
				}
			}
			sortDurations(all)
			t.Logf("known after p50 %v p95 %v max %v", quantile(all, .5), quantile(all, .95), quantile(all, 1))
			if got := all[len(all)-1]; got > 800*ms {
				t.Errorf("known after %v, want at most 800ms", got)
			}
		})
	}
}

// TestLoss has 9 nodes live with lossy links for 10 minutes.
func TestLoss(t *testing.T) {
	for _, c := range []struct {
		name string
		loss func(from, to int) float64
	}{
		{"both ways", func(int, int) float64 { return .2 }},
		{"one way", func(from, to int) float64 {
			if from < to {
				return .2
			}
			return 0
		}},
		{"to one node", func(_, to int) float64 {
			if to == 3 {
				return .3
			}
			return 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range seedsOr(2, 1) {
				s := newSim(t, 9, uint64(seed), liveness.Options{})
				s.quiet = true
				s.run(3 * time.Second)
				s.loss = c.loss
				d := 10 * time.Minute
				if short() {
					d = time.Minute
				}
				s.run(d)
				count := map[liveness.ReportKind]int{}
				for _, r := range s.reports {
					count[r.Kind]++
				}
				t.Logf("seed %d: %d false verdicts, %d suspicions rejected, %d times cut off", seed, s.wrong,
					count[liveness.Rejected], count[liveness.Cut])
				if s.wrong != 0 {
					t.Errorf("%d false verdicts", s.wrong)
				}
				at := s.now
				s.cut(0)
				s.run(12 * time.Second)
				all := s.knownAfter(at, 0)
				t.Logf("a death under loss is known after %v to %v", all[0], all[len(all)-1])
				if t.Failed() {
					s.dump()
				}
			}
		})
	}
}

// TestLossSets has loss begin suddenly, many times.
func TestLossSets(t *testing.T) {
	wrong := 0
	for seed := range seedsOr(50, 8) {
		s := newSim(t, 9, uint64(seed), liveness.Options{})
		s.quiet = true
		s.run(5 * time.Second)
		s.loss = func(int, int) float64 { return .2 }
		s.run(10 * time.Second)
		wrong += s.wrong
	}
	if wrong != 0 {
		t.Errorf("%d false verdicts", wrong)
	}
}

// TestStalls has processes stand still at random, for up to 500 ms.
func TestStalls(t *testing.T) {
	for seed := range seedsOr(10, 2) {
		s := newSim(t, 9, uint64(seed), liveness.Options{})
		s.every(100*ms, func() {
			if h := s.hosts[s.rng.IntN(9)]; h.runs() {
				h.stall(time.Duration(s.rng.Int64N(int64(500 * ms))))
			}
		})
		s.run(time.Minute)
		if s.wrong != 0 {
			t.Errorf("seed %d: %d false verdicts", seed, s.wrong)
			s.dump()
		}
		if s.hosts[0].asks == 0 {
			t.Errorf("seed %d: the owners were never asked after a stall", seed)
		}
		at := s.now
		s.cut(4)
		s.run(2 * time.Second)
		all := s.knownAfter(at, 4)
		t.Logf("a death is known after %v to %v", all[0], all[len(all)-1])
	}
}

// TestPartition divides fleets, with the gateway on either side and a client in each.
func TestPartition(t *testing.T) {
	for _, c := range []struct{ n, small, gateway int }{
		{2, 1, 0}, {2, 1, 1}, {3, 1, 0}, {3, 1, 1}, {3, 1, -1}, {5, 2, 0}, {5, 2, 1},
	} {
		t.Run(fmt.Sprintf("%d|%d gateway %d", c.n-c.small, c.small, c.gateway), func(t *testing.T) {
			for seed := range seedsOr(20, 4) {
				s := newSim(t, c.n, uint64(seed), liveness.Options{})
				s.gateway, s.client = 0, 0
				s.run(3 * time.Second)
				for i := range c.small {
					s.side[i] = 1
				}
				s.gateway, s.client = c.gateway, -1
				s.run(2 * time.Second)
				for on := range c.n {
					// A side is alive to the network if it has more than one node, or the gateway.
					side := s.side[on]
					size := c.small
					if side == 0 {
						size = c.n - c.small
					}
					free := size > 1 || side == c.gateway
					for of := range c.n {
						if want := free && s.side[of] != side; s.dead(on, of) != want {
							t.Errorf("node%d holds node%d dead: %v, want %v", on, of, !want, want)
						}
					}
					if s.cutOff(on) == free {
						t.Errorf("node%d is cut off: %v", on, !free)
					}
				}
				if t.Failed() {
					s.dump()
					return
				}
				clear(s.side)
				s.gateway = 0
				healed := s.now
				s.run(time.Second)
				s.wantAllWell(healed)
				if t.Failed() {
					s.dump()
					return
				}
			}
		})
	}
}

func (s *sim) wantAllWell(healed time.Time) {
	s.t.Helper()
	for on, h := range s.hosts {
		for of := range s.hosts {
			if s.dead(on, of) {
				s.t.Errorf("%s holds node%d dead %v after", h.name, of, s.now.Sub(healed))
			}
		}
		if s.cutOff(on) {
			s.t.Errorf("%s is cut off %v after", h.name, s.now.Sub(healed))
		}
		if !h.machine.Settled() {
			s.t.Errorf("%s is not settled %v after", h.name, s.now.Sub(healed))
		}
	}
}

// TestLastOne has all others die, without a gateway: the survivor waits for a frame.
func TestLastOne(t *testing.T) {
	for _, n := range []int{2, 3} {
		s := newSim(t, n, 1, liveness.Options{})
		s.gateway = -1
		s.run(3 * time.Second)
		for _, h := range s.hosts[1:] {
			h.kernel, h.process = false, false
		}
		s.run(5 * time.Second)
		if !s.cutOff(0) || s.dead(0, 1) {
			t.Fatalf("%d nodes: cut off %v, holds node1 dead: %v; want true, false", n, s.cutOff(0), s.dead(0, 1))
		}
		asks := s.hosts[0].asks
		at := s.now
		s.hosts[0].step(liveness.Heard{Link: "eth0", MAC: macOf(999), At: s.now})
		if s.hosts[0].asks != asks+1 {
			t.Errorf("%d nodes: the owners were not asked", n)
		}
		s.run(800 * ms)
		if s.cutOff(0) || !s.dead(0, 1) {
			t.Errorf("%d nodes: after a frame: cut off %v, holds node1 dead: %v; want false, true", n, s.cutOff(0), s.dead(0, 1))
		}
		s.side[1], s.side[n-1] = 1, 1 // the dead know nothing
		for i := 1; i < n; i++ {
			all := s.knownAfter(at, i)
			t.Logf("%d nodes: declared %v after the frame", n, all)
		}
	}
}

// TestProxied has something else answer for nodes.
func TestProxied(t *testing.T) {
	s := newSim(t, 3, 1, liveness.Options{})
	s.gateway = 0
	s.proxy = func(_, to int) bool { return to == 1 }
	s.run(3 * time.Second)
	at := s.now
	s.cut(1)
	s.run(time.Second)
	all := s.knownAfter(at, 1)
	t.Logf("known after %v", all)
	if all[len(all)-1] > 345*ms {
		t.Errorf("known after %v", all)
	}
}

// TestOneWay: what one node sends arrives nowhere, but it hears everything.
func TestOneWay(t *testing.T) {
	s := newSim(t, 5, 1, liveness.Options{})
	s.run(3 * time.Second)
	s.loss = func(from, _ int) float64 { return float64(btoi(from == 2)) }
	at := s.now
	s.run(time.Second)
	for on := range 5 {
		if !s.dead(on, 2) {
			t.Errorf("node%d does not hold node2 dead", on)
		}
	}
	s.run(time.Minute)
	if n := len(s.since(at, liveness.NodeDead, 2)); n > 3 {
		t.Errorf("it was declared dead %d times", n)
	}
	if n := len(s.since(at, liveness.NodeAlive, 2)); n > 0 {
		t.Errorf("it was held alive again %d times", n)
	}
	for of := range 5 {
		if of != 2 && s.dead(0, of) {
			t.Errorf("node%d is held dead", of)
		}
	}
	s.loss = func(int, int) float64 { return 0 }
	healed := s.now
	s.run(time.Second)
	s.wantAllWell(healed)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestBlindObserver: one path fails, all others work. Nobody is dead.
func TestBlindObserver(t *testing.T) {
	s := newSim(t, 5, 1, liveness.Options{})
	s.run(3 * time.Second)
	from := 0
	to := s.byName[s.hosts[from].machine.Watched()[0]].i
	s.loss = func(f, t int) float64 { return float64(btoi(f == from && t == to || f == to && t == from)) }
	s.run(time.Minute)
	if s.wrong != 0 {
		t.Errorf("%d false verdicts", s.wrong)
	}
	if n := len(s.since(s.start, liveness.Rejected, to)); n == 0 || n > 100 {
		t.Errorf("%d suspicions were rejected; want some, and fewer as time goes by", n)
	}
}

// TestFlap: a node that comes and goes has to answer longer each time; the first returns
// are believed at once.
func TestFlap(t *testing.T) {
	s := newSim(t, 5, 1, liveness.Options{})
	s.run(3 * time.Second)
	var waits []time.Duration
	for range 9 {
		s.cut(3)
		s.run(time.Second)
		if !s.dead(0, 3) {
			t.Fatal("it is not held dead")
		}
		s.side[3] = 0
		at := s.now
		for s.dead(0, 3) && s.now.Sub(at) < 20*time.Second {
			s.run(10 * ms)
		}
		waits = append(waits, s.now.Sub(at))
	}
	t.Logf("waits: %v", waits)
	if max(waits[0], waits[1], waits[2]) > 500*ms || waits[3] < 900*ms || waits[8] < 9*time.Second || waits[8] > 11*time.Second {
		t.Errorf("a returning node waits %v", waits)
	}
	s.run(2 * time.Minute)
	s.cut(3)
	s.run(time.Second)
	s.side[3] = 0
	s.run(500 * ms)
	if s.dead(0, 3) {
		t.Error("what was long ago is not forgotten")
	}
}

// TestNewcomersAreTold of the dead, and those who missed a verdict learn it.
func TestNewcomersAreTold(t *testing.T) {
	s := newSim(t, 9, 1, liveness.Options{})
	s.run(3 * time.Second)
	s.loss = func(_, to int) float64 { return float64(btoi(to == 5)) } // it hears nothing
	s.cut(3)
	s.run(7 * time.Second)
	s.loss = func(int, int) float64 { return 0 }
	s.run(time.Second)
	s.restart(6, 2)
	s.run(100 * ms)
	if !s.dead(6, 3) {
		t.Error("a newcomer does not know of the dead")
	}
	s.run(15 * time.Second)
	if !s.dead(5, 3) {
		t.Error("one who was away does not know of the dead")
	}
	// It returns, which one does not hear of.
	s.side[3] = 0
	s.mute = true
	s.run(20 * time.Second)
	s.mute = false
	s.run(25 * time.Second)
	for on := range s.hosts {
		if s.dead(on, 3) {
			t.Errorf("node%d does not know that it is back", on)
		}
	}
}

// TestPartlyDeaf: each of nine nodes hears nothing of two others, which hear it, so every
// second pair exchanges nothing. Nobody is dead, and who dies then is found out.
func TestPartlyDeaf(t *testing.T) {
	for seed := range uint64(10) {
		s := newSim(t, 9, seed, liveness.Options{})
		s.run(3 * time.Second)
		s.loss = func(from, to int) float64 { return float64(btoi(from == (to+1)%9 || from == (to+2)%9)) }
		s.run(time.Minute)
		if s.wrong != 0 {
			t.Errorf("seed %d: %d false verdicts", seed, s.wrong)
		}
		at := s.now
		s.cut(4)
		s.run(10 * time.Second) // some hear of it from the third they ask only
		all := s.knownAfter(at, 4)
		if len(all) != 8 {
			t.Fatalf("seed %d: %d of 8 know of a death", seed, len(all))
		}
		t.Logf("seed %d: known after %v to %v", seed, all[0], all[len(all)-1])
	}
}

// TestPartlyDeafAndBusy is the same where every process waits for a core all the time: who
// reaches a node is often too late to say so to one who does not.
func TestPartlyDeafAndBusy(t *testing.T) {
	for seed := range seedsOr(5, 2) {
		s := newSim(t, 9, uint64(seed), liveness.Options{})
		s.quiet = true
		s.run(3 * time.Second)
		s.loss = func(from, to int) float64 { return float64(btoi(from == (to+1)%9 || from == (to+2)%9)) }
		s.run(10 * time.Second)
		s.every(50*ms, func() {
			for _, h := range s.hosts {
				if h.runs() && s.rng.IntN(3) == 0 {
					h.stall(time.Duration(s.rng.Int64N(int64(300 * ms))))
				}
			}
		})
		s.run(10 * time.Minute)
		t.Logf("seed %d: %d false verdicts", seed, s.wrong)
		if s.wrong != 0 {
			t.Errorf("seed %d: %d false verdicts", seed, s.wrong)
		}
		at := s.now
		s.cut(4)
		s.run(12 * time.Second)
		all := s.knownAfter(at, 4)
		if len(all) != 8 {
			t.Fatalf("seed %d: %d of 8 know of a death", seed, len(all))
		}
		t.Logf("seed %d: known after %v to %v", seed, all[0], all[len(all)-1])
	}
}
