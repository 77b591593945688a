package liveness

import (
	"math"
	"math/bits"
	"time"
)

const (
	falseAlarm     = 1e-6 // how likely a row of losses may be that is taken for a death
	maxMultiplier  = 15
	enoughProbes   = 20  // of a history, to believe that nothing is lost
	priorLoss      = 0.1 // as long as there are fewer
	flapForgotten  = time.Minute
	cleanReturn    = 3 // answers in a row
	freeFlaps      = 3 // deaths in short order that cost nothing: they happen
	firstHold      = time.Second
	longestHold    = 10 * time.Second
	shortHistory   = 16
	lossesByChance = 1 // in one history
)

// history remembers which of the last probes were lost in times when their target lived.
type history struct {
	bits uint64 // 1 is lost; the lowest is the last
	n    int    // how many bits count, at most 64
}

// push adds what became of a probe: lost is 1, or 0.
func (h *history) push(lost uint64) {
	h.bits = h.bits<<1 | lost
	h.n = min(h.n+1, 64)
}

// loss returns the share of probes that are lost, judged by the worst of the long and the
// short run, so that it rises fast and falls slowly.
func (h *history) loss() float64 {
	p := 0.0
	for _, n := range [...]int{64, shortHistory} {
		n = min(n, h.n)
		if n == 0 {
			continue
		}
		lost := bits.OnesCount64(h.bits & (math.MaxUint64 >> (64 - n)))
		if lost > lossesByChance {
			p = max(p, float64(lost)/float64(n))
		}
	}
	if h.n < enoughProbes {
		p = max(p, priorLoss)
	}
	return p
}

// multiplier returns how many losses in a row are no chance any more, at loss p.
func multiplier(p float64, least int) int {
	if p <= 0 {
		return least
	}
	if p >= 1 {
		return max(least, maxMultiplier)
	}
	return max(least, min(maxMultiplier, int(math.Ceil(math.Log(falseAlarm)/math.Log(p)))))
}

// hold returns how long a node that died flaps times in short order has to answer before it
// counts as alive.
func hold(flaps int) time.Duration {
	if flaps <= freeFlaps {
		return 0
	}
	return min(longestHold, firstHold<<min(flaps-freeFlaps-1, 8))
}

// rank places a node in the rings.
func rank(name string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return mix(h)
}

// mix spreads the bits of h (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
