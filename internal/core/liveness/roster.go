package liveness

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// forgetAfter is how long what is known of a speaker that is no member is kept.
const forgetAfter = 10 * time.Minute

// Claimant is a speaker that claims an address.
type Claimant struct {
	Node string
	Term uint32
}

// Claims reports whether a node is among the claimants of an address.
func Claims(of []Claimant, node string) bool {
	return slices.ContainsFunc(of, func(c Claimant) bool { return c.Node == node })
}

// Roster is what all speakers tell of themselves: our own record, from which the others
// are told, and theirs. It belongs to one goroutine at a time.
type Roster struct {
	own     Record
	unsaid  map[netip.Addr]bool // claims of ours that changed and were not told yet
	news    bool                // so did our facts
	former  map[netip.Addr]uint32
	others  map[string]*peer
	claims  map[netip.Addr][]Claimant // of others, sorted by node
	drained drained
}

// peer is what is known of another speaker.
type peer struct {
	Record
	// inherited are claims that its forerunner on the node made. They count until it
	// serves: till then the node's addresses are taken care of for it.
	inherited map[netip.Addr]bool
	member    bool
	left      time.Time // when it ceased to be a member; meaningless while it is one
}

// drained is what changed since it was asked for.
type drained struct {
	claims map[netip.Addr]bool
	facts  map[string]bool
}

// NewRoster returns the roster of the speaker of node, which started as the given
// incarnation, claims nothing and knows nobody.
func NewRoster(node string, incarnation uint64) *Roster {
	return &Roster{
		own:     Record{Facts: &Facts{Node: node, Version: MessageVersion, Incarnation: incarnation}, Claims: map[netip.Addr]uint32{}},
		unsaid:  map[netip.Addr]bool{},
		news:    true,
		others:  map[string]*peer{},
		claims:  map[netip.Addr][]Claimant{},
		drained: drained{map[netip.Addr]bool{}, map[string]bool{}},
	}
}

// Own returns our own facts.
func (r *Roster) Own() *Facts { return r.own.Facts }

// SetFacts says what our links are and what we are about. It reports whether that is
// news. links must not be changed any more.
func (r *Roster) SetFacts(links []Link, phase Phase) bool {
	f := *r.own.Facts
	f.Links, f.Phase = links, phase
	return r.setFacts(f)
}

// SetProxyDown says whether our node's kube-proxy is not healthy. It reports whether that
// is news.
func (r *Roster) SetProxyDown(down bool) bool {
	f := *r.own.Facts
	f.ProxyDown = down
	return r.setFacts(f)
}

func (r *Roster) setFacts(f Facts) bool {
	if f.Equal(r.own.Facts) {
		return false
	}
	r.own.Facts, r.news = &f, true
	return true
}

// SetClaims says which of our claims changed. It reports whether any did.
func (r *Roster) SetClaims(changes []Change) bool {
	changed := false
	for _, c := range changes {
		term, claimed := r.own.Claims[c.Addr]
		switch {
		case c.Withdrawn && !claimed, !c.Withdrawn && claimed && term == c.Term:
			continue
		case c.Withdrawn:
			delete(r.own.Claims, c.Addr)
		default:
			r.own.Claims[c.Addr] = c.Term
		}
		r.unsaid[c.Addr], changed = true, true
	}
	return changed
}

// Tell returns encoded deltas, of at most limit bytes each, that tell the others what
// changed since the last call: claims first, for who serves shall have claimed. Facts
// that do not fit are left out: who misses their number asks for the record.
func (r *Roster) Tell(limit int) [][]byte {
	var out [][]byte
	addrs := slices.SortedFunc(maps.Keys(r.unsaid), netip.Addr.Compare)
	r.unsaid = map[netip.Addr]bool{}
	const most = 17 + 1 + binary.MaxVarintLen32 // bytes of a change
	room := max(1, (limit-len(r.own.Facts.Node)-4*binary.MaxVarintLen64)/most)
	for part := range slices.Chunk(addrs, room) {
		d := r.next()
		for _, a := range part {
			term, claimed := r.own.Claims[a]
			d.Changes = append(d.Changes, Change{Claim{a, term}, !claimed})
		}
		out = append(out, d.Append(nil))
	}
	if r.news {
		r.news = false
		d := r.next()
		d.Facts = r.own.Facts
		if b := d.Append(nil); len(b) <= limit {
			out = append(out, b)
		} else {
			out = append(out, r.Head())
		}
	}
	return out
}

// Unsaid reports whether Tell has anything to say.
func (r *Roster) Unsaid() bool { return r.news || len(r.unsaid) > 0 }

// Changed reports whether DrainClaims, and whether DrainFacts has anything to say.
func (r *Roster) Changed() (claims, facts bool) {
	return len(r.drained.claims) > 0, len(r.drained.facts) > 0
}

func (r *Roster) next() Delta {
	r.own.Seq++
	return r.head()
}

func (r *Roster) head() Delta {
	return Delta{Node: r.own.Facts.Node, Incarnation: r.own.Facts.Incarnation, Seq: r.own.Seq}
}

// Head returns the encoded delta without changes that says which is our present record,
// so that who missed the last one finds out.
func (r *Roster) Head() []byte { return r.head().Append(nil) }

// Apply takes the encoded delta of another speaker. It returns whose it is and whether
// something before it is missing, so that this speaker must be asked for its record.
func (r *Roster) Apply(b []byte) (string, bool, error) {
	d, err := ParseDelta(b)
	if err != nil || d.Node == r.own.Facts.Node {
		return d.Node, false, err
	}
	p := r.others[d.Node]
	switch {
	case p == nil, d.Incarnation > p.Facts.Incarnation:
		return d.Node, true, nil
	case d.Incarnation < p.Facts.Incarnation, d.Seq <= p.Seq:
		return d.Node, false, nil
	case d.Seq > p.Seq+1, d.Facts == nil && len(d.Changes) == 0:
		return d.Node, true, nil
	}
	p.Seq = d.Seq
	if d.Facts != nil && !d.Facts.Equal(p.Facts) {
		p.Facts, r.drained.facts[d.Node] = d.Facts, true
		if d.Facts.Phase != Starting {
			r.disinherit(p)
		}
	}
	for _, c := range d.Changes {
		delete(p.inherited, c.Addr)
		if c.Withdrawn {
			delete(p.Claims, c.Addr)
		} else {
			p.Claims[c.Addr] = c.Term
		}
		r.claim(d.Node, c)
	}
	return d.Node, false, nil
}

// OwnState returns our record, encoded as [Roster.Merge] takes it.
func (r *Roster) OwnState() []byte { return appendState(nil, [][]byte{r.own.Append(nil)}) }

// State returns all records, encoded as [Roster.Merge] takes them.
func (r *Roster) State(now time.Time) []byte {
	records := [][]byte{r.own.Append(nil)}
	size := len(records[0])
	for _, p := range r.others {
		rec := p.Record
		if rec.Absent = 0; !p.member {
			rec.Absent = now.Sub(p.left)
		}
		b := rec.Append(nil)
		if size += len(b); size > maxState {
			break
		}
		records = append(records, b)
	}
	return appendState(nil, records)
}

// Merge takes the records of encoded state that are newer than what is known.
func (r *Roster) Merge(state []byte, now time.Time) error {
	records, err := parseState(state)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if rec.Facts.Node == r.own.Facts.Node {
			r.mirror(rec)
		} else {
			r.merge(rec, now)
		}
	}
	return nil
}

func (r *Roster) merge(rec Record, now time.Time) {
	name := rec.Facts.Node
	p := r.others[name]
	if p == nil {
		if rec.Absent > forgetAfter {
			return
		}
		p = &peer{Record: Record{Facts: &Facts{}}, left: now.Add(-rec.Absent)}
		r.others[name] = p
	} else if p.Facts.Incarnation > rec.Facts.Incarnation || p.Facts.Incarnation == rec.Facts.Incarnation && p.Seq >= rec.Seq {
		return
	}
	r.inherit(p, rec)
	for addr := range p.Claims {
		if _, still := rec.Claims[addr]; !still {
			r.claim(name, Change{Claim{Addr: addr}, true})
		}
	}
	for addr, term := range rec.Claims {
		if was, there := p.Claims[addr]; !there || was != term {
			r.claim(name, Change{Claim{addr, term}, false})
		}
	}
	if !rec.Facts.Equal(p.Facts) {
		r.drained.facts[name] = true
	}
	p.Record = rec
}

// inherit adds to rec, which replaces what p is known to say, the claims that count for
// it although a forerunner on its node made them.
func (r *Roster) inherit(p *peer, rec Record) {
	was := p.inherited
	p.inherited = nil
	if rec.Facts.Phase != Starting {
		return
	}
	p.inherited = map[netip.Addr]bool{}
	for addr, term := range p.Claims {
		_, again := rec.Claims[addr]
		if !again && (was[addr] || rec.Facts.Incarnation > p.Facts.Incarnation) {
			rec.Claims[addr] = term
			p.inherited[addr] = true
		}
	}
}

// disinherit withdraws the claims of p's forerunner that p has not made its own.
func (r *Roster) disinherit(p *peer) {
	for addr := range p.inherited {
		delete(p.Claims, addr)
		r.claim(p.Facts.Node, Change{Claim{Addr: addr}, true})
	}
	p.inherited = nil
}

// mirror looks at what others know of us. What we said before we started anew is what
// we answered for; and should a clock have gone back, so that it is held for newer than
// what we say now, then we must be newer still to be heard.
func (r *Roster) mirror(rec Record) {
	switch own, theirs := r.own.Facts.Incarnation, rec.Facts.Incarnation; {
	case theirs < own && r.former == nil, theirs == own && r.former == nil && r.own.Facts.Phase == Starting && len(rec.Claims) > 0:
		r.former = rec.Claims
	case theirs > own:
		if r.former == nil {
			r.former = rec.Claims
		}
		f := *r.own.Facts
		f.Incarnation = theirs + 1
		r.own.Facts, r.own.Seq, r.news = &f, 0, true
	}
}

// Former returns what this node's speaker claimed before it started anew, as others
// remember it; nil if nobody has said. It must not be changed.
func (r *Roster) Former() map[netip.Addr]uint32 { return r.former }

// claim notes that the claim of another speaker changed.
func (r *Roster) claim(node string, c Change) {
	old := r.claims[c.Addr]
	i, found := slices.BinarySearchFunc(old, node, func(x Claimant, n string) int { return strings.Compare(x.Node, n) })
	now := slices.Clone(old) // the old one was handed out
	switch {
	case c.Withdrawn && !found:
		return
	case c.Withdrawn:
		now = slices.Delete(now, i, i+1)
	case found:
		now[i].Term = c.Term
	default:
		now = slices.Insert(now, i, Claimant{node, c.Term})
	}
	if len(now) == 0 {
		delete(r.claims, c.Addr)
	} else {
		r.claims[c.Addr] = now
	}
	r.drained.claims[c.Addr] = true
}

// DrainClaims returns, for each address of which it changed since the last call, who
// else claims it now. The slices must not be changed.
func (r *Roster) DrainClaims() map[netip.Addr][]Claimant {
	out := make(map[netip.Addr][]Claimant, len(r.drained.claims))
	for addr := range r.drained.claims {
		out[addr] = r.claims[addr]
	}
	r.drained.claims = map[netip.Addr]bool{} // clearing costs as much as it once held
	return out
}

// DrainFacts returns, of each other node of which they changed since the last call, the
// facts; nil if they were forgotten.
func (r *Roster) DrainFacts() map[string]*Facts {
	out := make(map[string]*Facts, len(r.drained.facts))
	for node := range r.drained.facts {
		if p := r.others[node]; p != nil {
			out[node] = p.Facts
		} else {
			out[node] = nil
		}
	}
	r.drained.facts = map[string]bool{}
	return out
}

// Claims reports whether the speaker of another node claims addr.
func (r *Roster) Claims(node string, addr netip.Addr) bool {
	p := r.others[node]
	if p == nil {
		return false
	}
	_, ok := p.Claims[addr]
	return ok
}

// SetMembers says which nodes are members now, and forgets those that have not been for
// ten minutes.
func (r *Roster) SetMembers(members map[string]bool, now time.Time) {
	for name, p := range r.others {
		if p.member && !members[name] {
			p.left = now
		}
		p.member = members[name]
		if p.member || now.Sub(p.left) <= forgetAfter {
			continue
		}
		for addr := range p.Claims {
			r.claim(name, Change{Claim{Addr: addr}, true})
		}
		delete(r.others, name)
		r.drained.facts[name] = true
	}
}
