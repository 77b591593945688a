// Package owner elects the node that answers for an address in Layer 2 mode.
//
// Every speaker runs the same election on the same inputs and so comes to the
// same result without asking anybody. The formula is MetalLB's, so that speakers
// of both can share a cluster: candidates rank by preference score, highest
// first, then by sha256(nodeName + "#" + address), lowest first; the first one
// owns the address.
package owner

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
)

// Candidate is a node that may own an address.
type Candidate struct {
	Node  string
	Score int // sum of the weights of the preferences that match the node
	// Down reports whether the node's speaker does not work for now. It has no part in
	// the election: another takes care of the node's addresses.
	Down bool
}

// Elect returns the owner of addr among the candidates, or "" if there is none.
// It takes one pass over the candidates.
func Elect(addr netip.Addr, candidates []Candidate) string {
	var best ranked
	for _, c := range candidates {
		if best.Node != "" && c.Score < best.Score {
			continue
		}
		if r := rank(addr, c); best.Node == "" || r.compare(best) < 0 {
			best = r
		}
	}
	return best.Node
}

// Rank returns the names of the candidates in the order in which they would own
// addr, should those before them fail.
func Rank(addr netip.Addr, candidates []Candidate) []string {
	all := make([]ranked, len(candidates))
	for i, c := range candidates {
		all[i] = rank(addr, c)
	}
	slices.SortFunc(all, ranked.compare)
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.Node
	}
	return names
}

// Ahead returns how many of the candidates rank before a node, which need not be among
// them, all with the score 0. It takes one pass over the candidates.
func Ahead(addr netip.Addr, candidates []Candidate, node string) int {
	self, n := rank(addr, Candidate{Node: node}), 0
	for _, c := range candidates {
		if rank(addr, c).compare(self) < 0 {
			n++
		}
	}
	return n
}

type ranked struct {
	Candidate
	hash [sha256.Size]byte
}

func rank(addr netip.Addr, c Candidate) ranked {
	buf := make([]byte, 0, 96) // on the stack for usual node names
	buf = append(buf, c.Node...)
	buf = append(buf, '#')
	buf = addr.AppendTo(buf)
	return ranked{c, sha256.Sum256(buf)}
}

func (r ranked) compare(o ranked) int {
	return cmp.Or(cmp.Compare(o.Score, r.Score), bytes.Compare(r.hash[:], o.hash[:]), strings.Compare(r.Node, o.Node))
}
