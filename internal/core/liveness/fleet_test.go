package liveness_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/liveness"
)

const ms = time.Millisecond

var fast = liveness.Options{Interval: 50 * ms}

// TestCut measures how long it takes until all know that one node is dead.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		n, seeds int
		o        liveness.Options
		bound    time.Duration
	}{
		{2, 200, liveness.Options{}, 345 * ms},
		{2, 200, fast, 195 * ms},
		{3, 200, liveness.Options{}, 345 * ms},
		{3, 200, fast, 195 * ms},
		{9, 40, liveness.Options{}, 345 * ms},
		{64, 5, liveness.Options{}, 345 * ms},
		{64, 5, fast, 195 * ms},
		{1000, 1, liveness.Options{}, 345 * ms},
	} {
		t.Run(fmt.Sprintf("%d nodes %v", c.n, c.o.Interval), func(t *testing.T) {
			seeds := c.seeds
			if short() {
				seeds = max(1, seeds/10)
				if c.n == 1000 {
					t.Skip("long")
				}
			}
			var all []time.Duration
			packets, messages, wrong := 0.0, 0.0, 0
			for seed := range seeds {
				s := newSim(t, c.n, uint64(seed), c.o)
				s.quiet = c.n > 64
				s.run(4 * time.Second)
				before := s.packets()
				s.run(time.Second)
				packets += float64(s.packets()-before) / float64(c.n)
				s.run(time.Duration(s.rng.Int64N(int64(time.Second / 2))))
				at, victim := s.now, s.rng.IntN(c.n)
				s.cut(victim)
				m := s.messages()
				s.run(time.Second)
				messages += float64(s.messages()-m) / float64(c.n)
				if t.Failed() {
					s.dump()
					return
				}
				all = append(all, s.knownAfter(at, victim)...)
				wrong += s.wrong
			}
			sortDurations(all)
			t.Logf("%.1f packets sent by a node per second, %.1f messages per node for a death; known after p50 %v p95 %v max %v; %d false verdicts",
				packets/float64(seeds), messages/float64(seeds), quantile(all, .5), quantile(all, .95), quantile(all, 1), wrong)
			if wrong != 0 {
				t.Errorf("%d false verdicts", wrong)
			}
			if got := all[len(all)-1]; got > c.bound {
				t.Errorf("known after %v, want at most %v", got, c.bound)
			}
		})
	}
}

// short reports whether fewer seeds shall do.
func short() bool { return testing.Short() || raceOn }
