package owner_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/owner"
)

// TestRankIsMetalLBsFormula compares with the formula written down plainly: a
// fleet of both kinds of speakers depends on it.
func TestRankIsMetalLBsFormula(t *testing.T) {
	nodes := []string{"node1", "node2", "node3", "worker-0.example.org"}
	for _, text := range []string{"192.168.1.250", "10.0.0.1", "fd00:1::250"} {
		addr := netip.MustParseAddr(text)
		want := slices.Clone(nodes)
		slices.SortFunc(want, func(a, b string) int {
			ha, hb := sha256.Sum256([]byte(a+"#"+text)), sha256.Sum256([]byte(b+"#"+text))
			return slices.Compare(ha[:], hb[:])
		})
		var cands []owner.Candidate
		for _, n := range nodes {
			cands = append(cands, owner.Candidate{Node: n})
		}
		if d := cmp.Diff(want, owner.Rank(addr, cands)); d != "" {
			t.Errorf("%s: rank (-want +got):\n%s", text, d)
		}
	}
}

func TestScoreComesFirst(t *testing.T) {
	addr := netip.MustParseAddr("192.168.1.250")
	cands := []owner.Candidate{{Node: "node1"}, {Node: "node2", Score: 5}, {Node: "node3", Score: 4}}
	if d := cmp.Diff([]string{"node2", "node3", "node1"}, owner.Rank(addr, cands)); d != "" {
		t.Errorf("rank (-want +got):\n%s", d)
	}
}

func TestNobodyToElect(t *testing.T) {
	if got := owner.Elect(netip.MustParseAddr("10.0.0.1"), nil); got != "" {
		t.Errorf("owner of no candidates is %q", got)
	}
}

// TestElectIsFirstOfRank holds the fast path against the plain one, in any order
// of candidates, and checks that only addresses of a lost node move.
func TestElectIsFirstOfRank(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	for range 200 {
		var cands []owner.Candidate
		for i := range 1 + rng.IntN(30) {
			cands = append(cands, owner.Candidate{Node: fmt.Sprint("n", i), Score: rng.IntN(3)})
		}
		addr := netip.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
		want := owner.Rank(addr, cands)
		rng.Shuffle(len(cands), func(i, j int) { cands[i], cands[j] = cands[j], cands[i] })
		got := owner.Elect(addr, cands)
		if got != want[0] {
			t.Fatalf("seed %d: %s: elected %s, first in rank is %s", seed, addr, got, want[0])
		}
		lost := cands[rng.IntN(len(cands))].Node
		rest := slices.DeleteFunc(slices.Clone(cands), func(c owner.Candidate) bool { return c.Node == lost })
		if next := owner.Elect(addr, rest); lost != got && next != got {
			t.Fatalf("seed %d: %s moved from %s to %s although %s was lost", seed, addr, got, next, lost)
		}
	}
}

func BenchmarkElect1000Nodes(b *testing.B) {
	var cands []owner.Candidate
	for i := range 1000 {
		cands = append(cands, owner.Candidate{Node: fmt.Sprint("node-", i)})
	}
	addr := netip.MustParseAddr("192.168.1.250")
	for b.Loop() {
		owner.Elect(addr, cands)
	}
}

func TestAheadIsThePlaceInTheRank(t *testing.T) {
	addr := netip.MustParseAddr("192.168.1.250")
	var cands []owner.Candidate
	for i := range 50 {
		cands = append(cands, owner.Candidate{Node: fmt.Sprintf("node%d", i)})
	}
	for want, node := range owner.Rank(addr, cands) {
		others := slices.DeleteFunc(slices.Clone(cands), func(c owner.Candidate) bool { return c.Node == node })
		if with, without := owner.Ahead(addr, cands, node), owner.Ahead(addr, others, node); with != want || without != want {
			t.Errorf("%s: %d are ahead among all, %d among the others, want %d", node, with, without, want)
		}
	}
}
