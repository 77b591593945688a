package bfd_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

// world is two sessions, a cable and a clock.
type world struct {
	now   time.Time
	sides [2]*bfd.Session
	wake  [2]time.Time
	wire  []flight
	cut   bool
	story []string
	sent  [2]int
}

type flight struct {
	to     int
	at     time.Time
	packet bfd.Packet
}

func newWorld(a, b lb.BFDProfile) *world {
	n := 0
	random := func() float64 { n++; return float64(n*7%10) / 10 }
	w := &world{now: start, wake: [2]time.Time{start, start.Add(123 * ms)}}
	w.sides = [2]*bfd.Session{bfd.New(a, 1, 1, random), bfd.New(b, 2, 2, random)}
	return w
}

func (w *world) step(side int, ev bfd.Event) {
	out := w.sides[side].Step(w.now, ev)
	w.wake[side] = out.Next
	w.sent[side] += len(out.Send)
	if out.Change != nil {
		w.story = append(w.story, fmt.Sprintf("%c %s", 'a'+side, out.Change.To))
	}
	for _, p := range out.Send {
		if !w.cut {
			w.wire = append(w.wire, flight{1 - side, w.now.Add(ms), p})
		}
	}
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for {
		next, side, fly := end, -1, -1
		for i, at := range w.wake {
			if !at.IsZero() && at.Before(next) {
				next, side = at, i
			}
		}
		for i, f := range w.wire {
			if f.at.Before(next) {
				next, side, fly = f.at, f.to, i
			}
		}
		if next.After(w.now) {
			w.now = next
		}
		if side < 0 {
			return
		}
		if fly >= 0 {
			f := w.wire[fly]
			w.wire = slices.Delete(w.wire, fly, fly+1)
			w.step(side, bfd.Received{Packet: f.packet, At: w.now})
			continue
		}
		w.step(side, bfd.Tick{})
	}
}
