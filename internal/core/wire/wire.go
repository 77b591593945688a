// Package wire finds out which addresses of the pools somebody outside the cluster
// uses, before they are given to Services.
//
//	Services, pools ──► Window ──► Candidates ─┐
//	nodes, who lives ──────────────────────────┼─► Place ──► Targets ──► Machine ──► Report
//	links of this node ────────────────────────┘                         ▲    │
//	                                                           Claims heard    probes to send
//
// A Window says which addresses are given next. Place picks those that are on a link
// of this node and that this node is to ask about, so that a large cluster does not
// ask with all its nodes. A Machine asks, weighs what it hears, and says what is in
// use. Nothing here reads a clock or a socket; a value belongs to one goroutine.
package wire

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/owner"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// MaxConflicts is how many conflicts of one pool are reported. A pool that has so
// many is misconfigured, or something on its link answers for everything; its other
// addresses are not asked about.
const MaxConflicts = 64

// Want is what a node shall find out: the full desired state.
type Want struct {
	Node       string // this one
	Candidates []Candidate
	// Conflicts are all that are reported, by this node or others.
	Conflicts []lb.WireConflict
	Nodes     []lb.Node
	// Alive are the nodes whose speakers live; nil if nobody watches that.
	Alive map[string]bool
}

// Candidate is an address that may be given soon, or would be were it not in use.
type Candidate struct {
	Addr     netip.Addr
	Pool     string
	Conflict lb.WireConflict // that is reported of it; zero if none is
}

// Report is what a node has found out.
type Report struct {
	// InUse are the conflicts that this node stands for, sorted by address.
	InUse []lb.WireConflict
	// Over are addresses, sorted, whose conflicts are over although a node reports
	// them that cannot take that back any more.
	Over []netip.Addr
}

// Equal reports whether r and o say the same.
func (r Report) Equal(o Report) bool {
	return slices.Equal(r.InUse, o.InUse) && slices.Equal(r.Over, o.Over)
}

// lost reports whether this node cannot tell who lives: it has not met the others.
func (w *Want) lost() bool { return w.Alive != nil && !w.Alive[w.Node] }

// lives reports whether a node's speaker is there to stand for what it reported.
func (w *Want) lives(node string) bool {
	if w.Alive != nil && !w.Alive[node] {
		return false
	}
	return slices.ContainsFunc(w.Nodes, func(n lb.Node) bool { return n.Name == node })
}

// Abandoned returns the addresses, sorted, of conflicts that concern nobody any more,
// whose reporters are gone, and which this node is to clear away: their pool is gone,
// or a Service holds them.
func (w *Want) Abandoned() []netip.Addr {
	if w.lost() {
		return nil
	}
	candidates := make(map[netip.Addr]bool, len(w.Candidates))
	for _, c := range w.Candidates {
		candidates[c.Addr] = true
	}
	var out []netip.Addr
	for _, c := range w.Conflicts {
		if candidates[c.Addr] || c.Node == w.Node || w.lives(c.Node) {
			continue
		}
		all := []owner.Candidate{{Node: w.Node}}
		for _, n := range w.Nodes {
			if n.Name != w.Node && (w.Alive == nil || w.Alive[n.Name]) {
				all = append(all, owner.Candidate{Node: n.Name})
			}
		}
		if owner.Elect(c.Addr, all) == w.Node {
			out = append(out, c.Addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
