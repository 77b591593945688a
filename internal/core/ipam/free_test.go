package ipam

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/barelb/barelb/internal/core/config"
)

func mustRange(t *testing.T, text string) config.Range {
	t.Helper()
	r, err := config.ParseRange(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestFreeSetAgainstOracle compares with a plain set under random operations,
// also at the ends of the address space, where there is no next address.
func TestFreeSetAgainstOracle(t *testing.T) {
	const seed = 11
	rng := rand.New(rand.NewPCG(seed, seed))
	for _, text := range []string{"10.0.0.0/26", "0.0.0.0/26", "255.255.255.192/26", "fd00::/122", "::/122", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0/122", "10.0.0.7/32"} {
		r := mustRange(t, text)
		var all []netip.Addr
		for a := r.First; a.IsValid() && r.Contains(a); a = a.Next() {
			all = append(all, a)
		}
		fast, slow := freeSet{r}, map[netip.Addr]bool{}
		for _, a := range all {
			slow[a] = true
		}
		for range 800 {
			if a := all[rng.IntN(len(all))]; rng.IntN(2) == 0 {
				fast.take(a)
				slow[a] = false
			} else {
				fast.give(a)
				slow[a] = true
			}
			for i, s := range fast {
				if s.Last.Less(s.First) || i > 0 && !fast[i-1].Last.Next().Less(s.First) {
					t.Fatalf("seed %d: %s: spans %v", seed, text, fast)
				}
			}
			for _, a := range all {
				if got := slices.ContainsFunc(fast, func(s config.Range) bool { return s.Contains(a) }); got != slow[a] {
					t.Fatalf("seed %d: %s: free(%s) = %v in %v", seed, text, a, got, fast)
				}
			}
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"10.0.0.7/32": 1, "10.0.0.0/24": 256, "0.0.0.0/0": 1 << 32, "fd00::/128": 1, "fd00::/66": 1 << 62,
		"fd00::/65": math.MaxInt64, "fd00::/16": math.MaxInt64, "::/0": math.MaxInt64, "fd00::/64": math.MaxInt64,
		"fd00::-fd00::7fff:ffff:ffff:fffd":       math.MaxInt64 - 1,
		"fd00::-fd00::7fff:ffff:ffff:fffe":       math.MaxInt64,
		"fd00::ffff:ffff:ffff:ffff-fd00:0:0:1::": 2, // across the middle
		"fd00::8000:0:0:0-fd00:0:0:1::":          math.MaxInt64,
		"fd00::8000:0:0:3-fd00:0:0:1::":          math.MaxInt64 - 1,
	} {
		if got := size(mustRange(t, text)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
	if got := addSizes(math.MaxInt64-1, 2); got != math.MaxInt64 {
		t.Errorf("sum is %d", got)
	}
}

func TestBuggyIn(t *testing.T) {
	const seed = 12
	rng := rand.New(rand.NewPCG(seed, seed))
	for _, base := range []string{"0.0.0.0", "10.0.0.200", "255.255.252.0"} {
		for range 200 {
			first := netip.MustParseAddr(base)
			for range rng.IntN(300) {
				first = first.Next()
			}
			var want int64
			last := first
			for n := rng.IntN(700); ; n-- {
				if buggy(last) {
					want++
				}
				if n == 0 || !last.Next().IsValid() {
					break
				}
				last = last.Next()
			}
			if r := (config.Range{First: first, Last: last}); buggyIn(r) != want {
				t.Fatalf("seed %d: %v: %d, want %d", seed, r, buggyIn(r), want)
			}
		}
	}
	if got := buggyIn(mustRange(t, "fd00::/64")); got != 0 {
		t.Errorf("IPv6: %d", got)
	}
}
