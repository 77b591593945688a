package liveness_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/liveness"
)

// seedsOr returns few seeds in a short run, else many.
func seedsOr(many, few int) int {
	if testing.Short() {
		return few
	}
	return many
}

// TestCorrelatedCuts cuts 1 to 4 of 9 nodes at once, and two of three.
func TestCorrelatedCuts(t *testing.T) {
	for _, c := range []struct{ n, cut int }{{9, 1}, {9, 2}, {9, 3}, {9, 4}, {3, 2}, {20, 10}} {
		t.Run(fmt.Sprintf("%d of %d", c.cut, c.n), func(t *testing.T) {
			var all []time.Duration
			for seed := range seedsOr(80, 8) {
				s := newSim(t, c.n, uint64(seed), liveness.Options{})
				s.run(3*time.Second + time.Duration(s.rng.Int64N(int64(time.Second))))
				victims := s.rng.Perm(c.n)[:c.cut]
				at := s.now
				s.cut(victims...)
				s.run(1500 * ms)
				all = append(all, s.knownAfter(at, victims...)...)
				if s.false_ != 0 {
					t.Errorf("seed %d: %d false verdicts", seed, s.false_)
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
			for seed := range seedsOr(3, 1) {
				s := newSim(t, 9, uint64(seed), liveness.Options{})
				s.quiet = true
				s.run(3 * time.Second)
				s.loss = c.loss
				d := 10 * time.Minute
				if testing.Short() {
					d = time.Minute
				}
				s.run(d)
				count := map[liveness.ReportKind]int{}
				for _, r := range s.reports {
					count[r.Kind]++
				}
				t.Logf("seed %d: %d false verdicts, %d suspicions rejected, %d times cut off", seed, s.false_,
					count[liveness.Rejected], count[liveness.Cut])
				if s.false_ != 0 {
					t.Errorf("%d false verdicts", s.false_)
				}
				at := s.now
				s.cut(0)
				s.run(4 * time.Second)
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
	for seed := range seedsOr(150, 15) {
		s := newSim(t, 9, uint64(seed), liveness.Options{})
		s.quiet = true
		s.run(5 * time.Second)
		s.loss = func(int, int) float64 { return .2 }
		s.run(10 * time.Second)
		wrong += s.false_
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
		if s.false_ != 0 {
			t.Errorf("seed %d: %d false verdicts", seed, s.false_)
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
