package liveness_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/liveness"
)

// TestAnyEvents: whatever a Machine is told, it neither panics nor spins, never changes a
// View that it returned, and never holds itself down.
func TestAnyEvents(t *testing.T) {
	for seed := range uint64(seedsOr(300, 50)) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := newOne(liveness.Options{})
		for range 400 {
			v := o.View()
			nodes, cut := len(v.Nodes), len(v.CutOff)
			o.any(r)
			for range 3 {
				if at, ok := o.Next(); ok && !at.After(o.now) {
					o.Step(o.now, liveness.Tick{})
				}
			}
			if at, ok := o.Next(); ok && !at.After(o.now) {
				t.Fatalf("seed %d: a tick is due after three", seed)
			}
			if len(v.Nodes) != nodes || len(v.CutOff) != cut {
				t.Fatalf("seed %d: a view was changed", seed)
			}
			if n := o.View().Nodes["node0"]; n.SpeakerDown || n.Gone {
				t.Fatalf("seed %d: it holds itself %+v", seed, n)
			}
			o.now = o.now.Add(time.Duration(r.Int64N(int64(60 * ms))))
		}
	}
}

func anyFacts(r *rand.Rand, i int) *liveness.Facts {
	f := factsOf(i, liveness.Phase(r.IntN(4)), uint64(1+r.IntN(3)))
	f.Links = nil
	for k := range r.IntN(3) {
		l := liveness.Link{Name: fmt.Sprintf("eth%d", k), MAC: macOf(r.IntN(9)), Carrier: r.IntN(5) > 0}
		for _, p := range []string{"10.0.0.%d/16", "10.1.0.%d/16", "2001:db8::%d/64", "fe80::%d/64", "10.0.0.%d/32"} {
			if r.IntN(2) == 0 {
				l.Addrs = append(l.Addrs, netip.MustParsePrefix(fmt.Sprintf(p, i+1)))
			}
		}
		f.Links = append(f.Links, l)
	}
	return f
}

// any tells o of an event at random.
func (o *one) any(r *rand.Rand) {
	now := o.now
	name := fmt.Sprintf("node%d", r.IntN(7))
	segments := []liveness.Segment{segment, netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/64"), {}}
	s := segments[r.IntN(len(segments))]
	at := now.Add(-time.Duration(r.Int64N(int64(time.Second))))
	link := fmt.Sprintf("eth%d", r.IntN(3))
	switch r.IntN(14) {
	case 0:
		w := liveness.World{Members: map[string]bool{}, Facts: map[string]*liveness.Facts{}}
		for i := range 6 {
			if n := fmt.Sprintf("node%d", i); r.IntN(5) > 0 {
				w.Members[n] = r.IntN(4) > 0
				if r.IntN(5) > 0 {
					w.Facts[n] = anyFacts(r, i)
				}
			}
		}
		o.Step(now, w)
	case 1, 2, 3:
		o.Step(now, liveness.Answer{Node: name, Segment: s, MAC: macOf(r.IntN(9)), Method: liveness.Method(r.IntN(3)), At: at})
	case 4:
		o.Step(now, liveness.GatewayAnswer{Link: link, At: at})
	case 5:
		o.Step(now, liveness.Heard{Link: link, MAC: links.MAC{byte(r.IntN(3))}, At: at})
	case 6:
		o.Step(now, liveness.SpeakerHeard{Node: name, At: at})
	case 7:
		o.Step(now, liveness.ProbesSeen{Node: name, Segment: s, Seen: uint32(r.IntN(2))})
	case 8:
		o.Step(now, liveness.Connection{Node: name, State: liveness.ConnState(r.IntN(4)), Incarnation: uint64(r.IntN(4)), At: at})
	case 9, 10, 11:
		o.Step(now, liveness.Received{From: fmt.Sprintf("node%d", r.IntN(7)), Message: liveness.Message{
			Kind: liveness.Kind(1 + r.IntN(4)), Node: name, Segment: s, Epoch: uint32(r.IntN(6)),
			Incarnation: uint64(r.IntN(4)), Reachable: r.IntN(2) == 0,
		}})
	case 12:
		o.Step(now, liveness.Stall{From: at, To: now})
	default:
		o.Step(now, liveness.OwnersAnswered{})
	}
}

// BenchmarkStep is what one answer and one tick cost, in fleets of different sizes.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{3, 64, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			o := newOne(liveness.Options{})
			var facts []*liveness.Facts
			for i := range n {
				facts = append(facts, serving(i))
			}
			o.world(facts...)
			o.run(time.Second, always)
			b.ReportAllocs()
			for b.Loop() {
				o.now, _ = o.Next()
				for _, p := range pick[liveness.Probe](o.Step(o.now, liveness.Tick{})) {
					o.answer(p, p.MAC)
				}
			}
		})
	}
}
