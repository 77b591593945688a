package liveness_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/liveness"
)

var (
	rosterStart = time.Unix(1_700_000_000, 0)
	rosterVIP   = netip.MustParseAddr("192.0.2.250")
	sameAddr    = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	samePrefix  = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
)

func rosterLinks(last byte) []liveness.Link {
	return []liveness.Link{
		{Name: "eth0", MAC: [6]byte{2, 0, 0, 0, 0, last}, Carrier: true, IPv4: true, Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 24), netip.MustParsePrefix("2001:db8::1/64")}},
		{Name: "eth1", IPv6: true},
	}
}

func claim(addr netip.Addr, term uint32) liveness.Change {
	return liveness.Change{Claim: liveness.Claim{Addr: addr, Term: term}}
}

func withdraw(addr netip.Addr) liveness.Change {
	return liveness.Change{Claim: liveness.Claim{Addr: addr}, Withdrawn: true}
}

// exchange is memberlist's push/pull.
func exchange(t *testing.T, a, b *liveness.Roster, now time.Time) {
	t.Helper()
	for _, way := range [][2]*liveness.Roster{{a, b}, {b, a}} {
		if err := way[1].Merge(way[0].State(now), now); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	want := liveness.Record{
		Facts: &liveness.Facts{Node: "node1", Version: 1, Incarnation: 1 << 60, Phase: liveness.Serving, Links: rosterLinks(1), ProxyDown: true}, Seq: 300,
		Claims: map[netip.Addr]uint32{rosterVIP: 7, netip.MustParseAddr("2001:db8::250"): 1 << 31}, Absent: 90 * time.Second,
	}
	b := want.Append(nil)
	got, err := liveness.ParseRecord(append(b, "what a later version adds"...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameAddr, samePrefix); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	first := len(b) - 1 // bytes of it that the first speakers sent
	for i := range first {
		if _, err := liveness.ParseRecord(b[:i]); err == nil {
			t.Errorf("the first %d of %d bytes are a record", i, len(b))
		}
	}
	want.Facts.ProxyDown = false
	if got, err = liveness.ParseRecord(b[:first]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameAddr, samePrefix); diff != "" {
		t.Errorf("of a first speaker (-want +got):\n%s", diff)
	}
}

// TestProxyDownIsTold to those who hear of changes, and to those who come later.
func TestProxyDownIsTold(t *testing.T) {
	a, b, c := liveness.NewRoster("a", 1), liveness.NewRoster("b", 2), liveness.NewRoster("c", 3)
	a.SetFacts(rosterLinks(1), liveness.Serving)
	exchange(t, a, b, rosterStart)
	b.DrainFacts()
	if !a.SetProxyDown(true) || a.SetProxyDown(true) {
		t.Error("SetProxyDown does not know what is news")
	}
	a.SetFacts(rosterLinks(1), liveness.Serving)
	for _, msg := range a.Tell(1200) {
		if _, _, err := b.Apply(msg); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, b, c, rosterStart)
	for name, r := range map[string]*liveness.Roster{"b": b, "c": c} {
		if f := r.DrainFacts()["a"]; f == nil || !f.ProxyDown || f.Phase != liveness.Serving {
			t.Errorf("%s knows of a: %+v", name, f)
		}
	}
}

func TestAJoiningSpeakerLearnsAllAtOnce(t *testing.T) {
	a, b, c := liveness.NewRoster("a", 1), liveness.NewRoster("b", 2), liveness.NewRoster("c", 3)
	a.SetFacts(rosterLinks(1), liveness.Serving)
	a.SetClaims([]liveness.Change{claim(rosterVIP, 4)})
	exchange(t, a, b, rosterStart)
	exchange(t, b, c, rosterStart) // which never met a
	facts, claims := c.DrainFacts(), c.DrainClaims()
	if f := facts["a"]; f == nil || f.Phase != liveness.Serving || len(f.Links) != 2 || facts["b"] == nil || len(facts) != 2 {
		t.Errorf("c knows %v", facts)
	}
	if want := map[netip.Addr][]liveness.Claimant{rosterVIP: {{Node: "a", Term: 4}}}; !maps.EqualFunc(claims, want, slices.Equal) {
		t.Errorf("c hears of %v, want %v", claims, want)
	}
	if !c.Claims("a", rosterVIP) || c.Claims("b", rosterVIP) {
		t.Error("it is not a who claims it")
	}
	if n := len(c.DrainClaims()) + len(c.DrainFacts()); n != 0 {
		t.Errorf("%d changes are told twice", n)
	}
}

func TestDeltasAndGaps(t *testing.T) {
	a, b := liveness.NewRoster("a", 1), liveness.NewRoster("b", 2)
	exchange(t, a, b, rosterStart)
	b.DrainClaims()
	apply := func(deltas [][]byte, wantGap bool) {
		t.Helper()
		for _, d := range deltas {
			if from, gap, err := b.Apply(d); err != nil || from != "a" || gap != wantGap {
				t.Errorf("from %q, gap %t, %v; want a gap: %t", from, gap, err, wantGap)
			}
		}
	}
	apply(a.Tell(1200), false) // its facts
	a.SetClaims([]liveness.Change{claim(rosterVIP, 1), claim(rosterVIP.Next(), 1)})
	told := a.Tell(1200)
	apply(told, false)
	apply(told, false) // again, as UDP may do
	if got := b.DrainClaims(); len(got) != 2 {
		t.Errorf("b hears of %v", got)
	}
	if a.SetClaims([]liveness.Change{claim(rosterVIP, 1), withdraw(netip.MustParseAddr("192.0.2.1"))}) {
		t.Error("nothing is news")
	}
	a.SetClaims([]liveness.Change{withdraw(rosterVIP)})
	a.Tell(1200) // is lost
	apply([][]byte{a.Head()}, true)
	if err := b.Merge(a.OwnState(), rosterStart); err != nil {
		t.Fatal(err)
	}
	apply([][]byte{a.Head()}, false)
	if got := b.DrainClaims(); len(got) != 1 || got[rosterVIP] != nil {
		t.Errorf("b hears of %v, want that %s is free", got, rosterVIP)
	}
	again := liveness.NewRoster("a", 9)
	apply(again.Tell(1200), true) // started anew
}

func TestFactsThatDoNotFitAreAskedFor(t *testing.T) {
	a, b := liveness.NewRoster("a", 1), liveness.NewRoster("b", 2)
	exchange(t, a, b, rosterStart)
	a.SetFacts(slices.Repeat(rosterLinks(1), 50), liveness.Serving)
	for _, d := range a.Tell(1200) {
		if _, gap, err := b.Apply(d); !gap || err != nil || len(d) > 1200 {
			t.Errorf("gap %t, %v, %d bytes", gap, err, len(d))
		}
	}
}

func TestWhoStartsAnewLearnsWhatItClaimed(t *testing.T) {
	for name, incarnation := range map[string]uint64{"later": 200, "by a clock that went back": 50} {
		t.Run(name, func(t *testing.T) {
			before, other := liveness.NewRoster("a", 100), liveness.NewRoster("b", 1)
			before.SetClaims([]liveness.Change{claim(rosterVIP, 3)})
			exchange(t, before, other, rosterStart)
			after := liveness.NewRoster("a", incarnation)
			if after.Former() != nil {
				t.Error("nobody has said anything yet")
			}
			exchange(t, other, after, rosterStart)
			if want := map[netip.Addr]uint32{rosterVIP: 3}; !maps.Equal(after.Former(), want) {
				t.Errorf("it claimed %v, want %v", after.Former(), want)
			}
			exchange(t, after, other, rosterStart)
			if !other.Claims("a", rosterVIP) {
				t.Error("what it said before does not count although it has no plan yet")
			}
			second := netip.MustParseAddr("192.0.2.99")
			after.SetClaims([]liveness.Change{claim(second, 1)})
			after.SetFacts(nil, liveness.Serving)
			for _, d := range after.Tell(1200) {
				if _, gap, err := other.Apply(d); gap || err != nil {
					t.Errorf("gap %t, %v", gap, err)
				}
			}
			if other.Claims("a", rosterVIP) || !other.Claims("a", second) {
				t.Error("what it said before still counts although its plan is in force")
			}
		})
	}
}

func TestThoseWhoAreGoneAreForgottenEverywhere(t *testing.T) {
	a, b, c := liveness.NewRoster("a", 1), liveness.NewRoster("b", 2), liveness.NewRoster("c", 3)
	a.SetClaims([]liveness.Change{claim(rosterVIP, 1)})
	exchange(t, a, b, rosterStart)
	b.SetMembers(map[string]bool{"a": true, "b": true, "c": true}, rosterStart)
	b.SetMembers(map[string]bool{"b": true, "c": true}, rosterStart)
	later := rosterStart.Add(9 * time.Minute)
	exchange(t, b, c, later)
	if !c.Claims("a", rosterVIP) {
		t.Fatal("it was forgotten at once")
	}
	c.DrainClaims()
	later = rosterStart.Add(11 * time.Minute) // of which c has known it for two
	b.SetMembers(map[string]bool{"b": true, "c": true}, later)
	exchange(t, b, c, later)
	c.SetMembers(map[string]bool{"b": true, "c": true}, later)
	exchange(t, b, c, later)
	for name, r := range map[string]*liveness.Roster{"b": b, "c": c} {
		if r.Claims("a", rosterVIP) {
			t.Errorf("%s still knows it", name)
		}
		if f, told := r.DrainFacts()["a"]; !told || f != nil {
			t.Errorf("%s does not say that it is gone: %v", name, f)
		}
	}
	if got, told := c.DrainClaims()[rosterVIP]; !told || got != nil {
		t.Errorf("c says that it is claimed by %v", got)
	}
}

// Whatever is lost and however it is ordered, two rosters agree in the end, and who
// drains the changes knows what there is.
func TestRostersAgree(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		a, b := liveness.NewRoster("a", 1), liveness.NewRoster("b", 2)
		exchange(t, a, b, rosterStart)
		want, got := map[netip.Addr]uint32{}, map[netip.Addr]uint32{}
		drain := func() {
			for addr, by := range b.DrainClaims() {
				if delete(got, addr); len(by) == 1 {
					got[addr] = by[0].Term
				}
			}
		}
		var air [][]byte
		for range 200 {
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(40))})
			if rnd.IntN(3) == 0 {
				a.SetClaims([]liveness.Change{withdraw(addr)})
				delete(want, addr)
			} else {
				term := rnd.Uint32N(3)
				a.SetClaims([]liveness.Change{claim(addr, term)})
				want[addr] = term
			}
			if rnd.IntN(4) == 0 {
				air = append(air, a.Tell(60+rnd.IntN(200))...)
			}
			if len(air) == 0 {
				continue
			}
			i := rnd.IntN(len(air)) // out of order
			if rnd.IntN(5) > 0 {    // or lost
				if _, gap, err := b.Apply(air[i]); err != nil {
					t.Fatal(err)
				} else if gap && rnd.IntN(2) == 0 {
					_ = b.Merge(a.OwnState(), rosterStart)
				}
			}
			air = slices.Delete(air, i, i+1)
			if rnd.IntN(10) == 0 {
				drain()
			}
		}
		a.Tell(1200)
		if _, gap, _ := b.Apply(a.Head()); gap {
			_ = b.Merge(a.OwnState(), rosterStart)
		}
		drain()
		if !maps.Equal(want, got) {
			t.Fatalf("seed %d: b knows %v, want %v", seed, got, want)
		}
	}
}

func FuzzRecords(f *testing.F) {
	r := liveness.NewRoster("node1", 5)
	r.SetFacts(rosterLinks(1), liveness.Serving)
	r.SetClaims([]liveness.Change{claim(rosterVIP, 1), claim(netip.MustParseAddr("2001:db8::250"), 3)})
	for _, d := range r.Tell(1200) {
		f.Add(d)
	}
	f.Add(r.OwnState())
	f.Add(liveness.Record{Facts: r.Own()}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := liveness.ParseDelta(b); err == nil {
			if again, err := liveness.ParseDelta(d.Append(nil)); err != nil || !cmp.Equal(d, again, sameAddr, samePrefix) {
				t.Errorf("%+v became %+v, %v", d, again, err)
			}
		}
		if rec, err := liveness.ParseRecord(b); err == nil {
			if again, err := liveness.ParseRecord(rec.Append(nil)); err != nil || !cmp.Equal(rec, again, sameAddr, samePrefix) {
				t.Errorf("%+v became %+v, %v", rec, again, err)
			}
		}
		other := liveness.NewRoster("other", 1)
		_ = other.Merge(b, rosterStart)
		_, _, _ = other.Apply(b)
		other.DrainClaims()
		other.State(rosterStart)
	})
}

// A change of one claim costs the same however many there are.
func BenchmarkOneChangeAmongMany(b *testing.B) {
	r := liveness.NewRoster("self", 1)
	for n := range 1000 {
		o := liveness.NewRoster(fmt.Sprintf("node%d", n), 1)
		for i := range 10 {
			o.SetClaims([]liveness.Change{claim(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(i)}), 1)})
		}
		_ = r.Merge(o.OwnState(), rosterStart)
	}
	r.DrainClaims()
	a := liveness.NewRoster("a", 1)
	_ = r.Merge(a.OwnState(), rosterStart)
	term := uint32(0)
	for b.Loop() {
		term++
		a.SetClaims([]liveness.Change{claim(rosterVIP, term)})
		for _, d := range a.Tell(1200) {
			_, _, _ = r.Apply(d)
		}
		r.DrainClaims()
	}
}
