// Package handover decides how an address passes from one node to another, on each of
// the two: at once when the owner is dead, and without a lost packet or connection
// when the move is planned.
//
// A plan says who shall own an address. Between that and what a node answers lies
// time: a new owner answers those who ask everybody from the first moment, but tells
// nobody unasked until the drain time is over; the former one goes on answering
// everybody until the new one has claimed the address, and then, until the drain time
// is over, those who ask it alone. Nobody is without an answer at any moment, and
// those who use the former owner go on doing so.
package handover

import (
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
)

// Want is what the plan asks of this node for an address.
type Want struct {
	Links []string // to answer on, sorted; empty: all
	// Plain reports whether MetalLB's rule alone holds: addresses move at once.
	Plain bool
	// Caretake answers for node Of, whose speaker is down, with MACs by the name of the
	// link of ours.
	Caretake bool
	Of       string
	MACs     map[string][6]byte
}

// Wants is all that the plan asks of this node. It is never changed.
type Wants map[netip.Addr]Want

// Options are what does not change while a Book is in use.
type Options struct {
	Node string // of this speaker
	// Drain is how long a planned move leaves those who use the former owner with it.
	Drain time.Duration
	// Patience is how long the former owner of an address answers everybody while the new
	// one has not claimed it. 0 means 2 s.
	Patience time.Duration
}

// Input is what a Book decides from.
type Input struct {
	Now  time.Time
	Want Wants
	// View says who lives; nil: nobody watches.
	View *liveness.View
	// Elsewhere says for an address which node owns it by the plan, and whether this node
	// may carry its traffic for a while yet.
	Elsewhere func(addr netip.Addr, node string) (owner string, lingers bool)
	// Claims says who claims an address.
	Claims func(netip.Addr) []liveness.Claimant
}

// Output is what follows. It is never changed.
type Output struct {
	L2     lb.L2                 // to answer for
	Claims map[netip.Addr]uint32 // terms of the addresses that this node claims
	Next   time.Time             // when to decide again if nothing else happens; zero: never
}

// Book holds what this node answers for. It belongs to one goroutine.
type Book struct {
	opts Options
	held map[netip.Addr]*tenure
}

// tenure is one address that this node answers for.
type tenure struct {
	want      Want
	role      lb.Role
	tell      lb.Tell
	term      uint32
	from      string    // whom those who do not know us use, while tell is TellNever
	cut       bool      // we may be cut off, or others hold us dead
	awaits    bool      // the plan is for another, who has not claimed it yet
	until     time.Time // when to tell after TellNever, to yield, or to end; zero: never
	contested time.Time // when another's claim was last outbid
}

// shortPatience is the patience with a successor that claims the address, but with an
// earlier term than we do.
const shortPatience = 300 * time.Millisecond

// contestAgain is the least time between two claims against another's, should the two
// plans differ.
const contestAgain = time.Second

// New returns a Book of nothing.
func New(opts Options) *Book {
	if opts.Patience <= 0 {
		opts.Patience = 2 * time.Second
	}
	return &Book{opts: opts, held: map[netip.Addr]*tenure{}}
}

// Step brings the book up to date. It costs work for the addresses of this node.
func (b *Book) Step(in Input) Output {
	for addr, w := range in.Want {
		switch {
		case w.Caretake:
			b.caretake(in, addr, w)
		default:
			b.own(in, addr, w)
		}
	}
	for addr, t := range b.held {
		if _, wanted := in.Want[addr]; !wanted && !b.keeps(in, addr, t) {
			delete(b.held, addr)
		}
	}
	return b.output()
}

// caretake takes care of another's address.
func (b *Book) caretake(in Input, addr netip.Addr, w Want) {
	if t := b.held[addr]; t == nil && b.cutOff(in, addr) {
		return // whoever may be cut off claims nothing new
	}
	b.held[addr] = &tenure{want: w, role: lb.Caretake}
}

// own owns an address.
func (b *Book) own(in Input, addr netip.Addr, w Want) {
	t := b.held[addr]
	if t == nil || t.role != lb.Own {
		if b.cutOff(in, addr) && t == nil && !liveness.Claims(in.Claims(addr), b.opts.Node) {
			return
		}
		b.held[addr] = b.take(in, addr, w)
		return
	}
	t.want = w
	if t.cut = b.cutOff(in, addr); t.cut {
		t.linger(time.Time{}, "")
		return
	}
	if t.awaits {
		t.awaits, t.until = false, time.Time{} // it was to go elsewhere, and stays
	}
	rival, term := b.rival(in, addr)
	switch {
	case w.Plain:
		t.tell, t.from, t.until = lb.TellAtOnce, "", time.Time{}
	case rival != "" && term >= t.term && !in.Now.Before(t.contested.Add(contestAgain)):
		// Both claim it, after a partition, say, and the plan is for us. Those who use the
		// other one are left there for a while.
		t.term, t.contested = term+1, in.Now
		t.linger(in.Now.Add(b.opts.Drain), rival)
	case t.tell == lb.TellNever && (!in.Now.Before(t.until) || !b.forwardsFor(in, t.from, addr)):
		t.tell, t.from, t.until = lb.TellAtOnce, "", time.Time{}
	}
}

// take begins to own an address.
func (b *Book) take(in Input, addr netip.Addr, w Want) *tenure {
	t := &tenure{want: w, role: lb.Own}
	var last []string             // those of the latest term
	var starter liveness.Claimant // the latest that the plan does not know yet: it is not outbid
	for _, c := range in.Claims(addr) {
		switch {
		case c.Node != b.opts.Node && starting(in.View, c.Node):
			if starter.Node == "" || c.Term > starter.Term {
				starter = c
			}
		case c.Term > t.term || len(last) == 0:
			t.term, last = c.Term, []string{c.Node}
		case c.Term == t.term:
			last = append(last, c.Node)
		}
	}
	ours := slices.Contains(last, b.opts.Node)
	if !ours || len(last) > 1 {
		t.term++
	}
	switch {
	case w.Plain:
	case starter.Node != "" && starter.Term >= t.term && b.forwardsFor(in, starter.Node, addr):
		// Once it serves, the plan may well be for it, and nobody has learned of us.
		t.linger(in.Now.Add(b.opts.Drain), starter.Node)
	case len(last) == 0:
	case ours && len(last) == 1:
		t.tell = lb.TellSlowly // we had it before: everybody knows
	case !slices.ContainsFunc(last, func(n string) bool { return n != b.opts.Node && !b.forwardsFor(in, n, addr) }):
		t.linger(in.Now.Add(b.opts.Drain), last[0])
	}
	return t
}

func (t *tenure) linger(until time.Time, with string) {
	t.tell, t.until, t.from = lb.TellNever, until, with
}

// rival returns another node that works and claims an address, and its term. One that is
// starting as far as is known does not count: the plan does not know it yet, but will at
// once, for who claims something serves.
func (b *Book) rival(in Input, addr netip.Addr) (node string, term uint32) {
	for _, c := range in.Claims(addr) {
		if c.Node != b.opts.Node && forwards(in.View, c.Node, addr) && !starting(in.View, c.Node) && (node == "" || c.Term > term) {
			node, term = c.Node, c.Term
		}
	}
	return node, term
}

// starting reports whether a node's speaker has no plan yet, as far as is known. What it
// is said to claim was its forerunner's, or else the news that it serves is on the way.
func starting(view *liveness.View, node string) bool {
	if view == nil {
		return false
	}
	facts := view.Nodes[node].Facts
	return facts != nil && facts.Phase == liveness.Starting
}

// forwardsFor reports whether those who use the former owner of an address can go on
// doing so for a while.
func (b *Book) forwardsFor(in Input, node string, addr netip.Addr) bool {
	if !forwards(in.View, node, addr) {
		return false
	}
	_, lingers := in.Elsewhere(addr, node)
	return lingers
}

// keeps decides about an address that the plan does not want of this node, and reports
// whether it is answered for still.
func (b *Book) keeps(in Input, addr netip.Addr, t *tenure) bool {
	if t.role == lb.Caretake {
		return false
	}
	to, lingers := in.Elsewhere(addr, b.opts.Node)
	switch {
	case to == "":
		return false
	case b.cutOff(in, addr):
		if t.cut = t.role == lb.Own; t.cut {
			t.linger(time.Time{}, "")
		}
		return true
	case to == b.opts.Node || !lingers:
		return false
	}
	if t.role == lb.Yield {
		return in.Now.Before(t.until)
	}
	switch {
	case outbid(in.Claims(addr), to, t.term):
	case !t.awaits:
		// Answer everybody until the other one does. One that claims it already, from
		// before we did, owns it since we did not hear each other, as a rule.
		t.awaits, t.until = true, in.Now.Add(b.opts.Patience)
		if liveness.Claims(in.Claims(addr), to) {
			t.until = in.Now.Add(shortPatience)
		}
		return true
	case in.Now.Before(t.until):
		return true
	}
	*t = tenure{want: t.want, role: lb.Yield, until: in.Now.Add(b.opts.Drain)}
	return true
}

func (b *Book) output() Output {
	out := Output{L2: make(lb.L2, len(b.held)), Claims: map[netip.Addr]uint32{}}
	for addr, t := range b.held {
		a := lb.L2Announcement{Links: t.want.Links, Role: t.role, Tell: t.tell, MACs: t.want.MACs}
		if t.cut {
			// Nobody new shall learn of us before we know what others have taken.
			a.Role, a.Tell = lb.Yield, lb.TellAtOnce
		}
		out.L2[addr] = a
		if t.role == lb.Own {
			out.Claims[addr] = t.term
		}
		if !t.until.IsZero() && (out.Next.IsZero() || t.until.Before(out.Next)) {
			out.Next = t.until
		}
	}
	return out
}

// outbid reports whether node claims an address that we claim with a term. What it
// claimed before we did does not count.
func outbid(all []liveness.Claimant, node string, term uint32) bool {
	return slices.ContainsFunc(all, func(c liveness.Claimant) bool { return c.Node == node && c.Term >= term })
}

// cutOff reports whether this node may be cut off where addr is, or others hold it dead
// there.
func (b *Book) cutOff(in Input, addr netip.Addr) bool {
	return in.View.CutOffAt(addr, b.opts.Node) || in.View != nil &&
		in.View.Nodes[b.opts.Node].DeadAt(containing(addr))
}

// forwards reports whether a node's kernel lives, as far as is known, where an address is.
func forwards(v *liveness.View, node string, addr netip.Addr) bool {
	if v == nil {
		return false
	}
	n, known := v.Nodes[node]
	return known && n.Facts != nil && !n.DeadAt(containing(addr))
}

// containing returns what is true of the segments that contain addr.
func containing(addr netip.Addr) func(liveness.Segment) bool {
	return func(s liveness.Segment) bool { return s.Contains(addr) }
}
