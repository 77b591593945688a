package liveness

import "testing"

func TestMultiplier(t *testing.T) {
	for _, c := range []struct {
		name        string
		probes      int
		lost        func(i int) bool
		least, most int
	}{
		{"nothing known", 0, func(int) bool { return false }, 6, 6},
		{"none lost", 64, func(int) bool { return false }, 3, 3},
		{"one lost", 64, func(i int) bool { return i == 60 }, 3, 3},
		{"two lost long ago", 64, func(i int) bool { return i < 2 }, 4, 4},
		{"three of the last ten", 64, func(i int) bool { return i > 54 && i%3 == 0 }, 8, 10},
		{"each third", 64, func(i int) bool { return i%3 == 0 }, 13, 15},
		{"all", 64, func(int) bool { return true }, 15, 15},
		{"forgotten", 128, func(i int) bool { return i < 64 }, 3, 3},
	} {
		var h history
		for i := range c.probes {
			if c.lost(i) {
				h.push(1)
			} else {
				h.push(0)
			}
		}
		if got := multiplier(h.loss(), 3); got < c.least || got > c.most {
			t.Errorf("%s: loss %.2f, multiplier %d, want %d to %d", c.name, h.loss(), got, c.least, c.most)
		}
	}
	if got := multiplier(1, 20); got != 20 {
		t.Errorf("what the user asks for is %d, want 20", got)
	}
}

func TestHold(t *testing.T) {
	for flaps, seconds := range []int{0, 0, 0, 0, 1, 2, 4, 8, 10, 10} {
		if got := hold(flaps).Seconds(); got != float64(seconds) {
			t.Errorf("after %d deaths: %vs, want %ds", flaps, got, seconds)
		}
	}
	if got := hold(1 << 30); got != longestHold {
		t.Errorf("after very many: %v", got)
	}
}
