// Package ipam decides which addresses a Service gets.
//
// A Book is the state: which pools there are and who holds which address. It is
// derived: the holders come from the Services' own status, so that a Book can be
// made anew at any time. Decide reads it and says what a Service shall have;
// Settle writes that down. A Book belongs to one goroutine.
//
// The order of choice is deterministic: pools made for the Service by priority,
// then the others; then by name; then the pool's ranges as the user wrote them;
// then the lowest address.
package ipam

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Book knows the pools and who holds what.
type Book struct {
	guard    bool
	pools    []*poolState // sorted by name
	setAside map[string]bool
	ranges   []rangeRef // of all pools, sorted by first address
	holders  map[lb.Key]Holding
	byAddr   map[netip.Addr][]lb.Key       // holders, sorted
	byShare  map[string]map[netip.Addr]int // sharing key → address → holders

	claims map[netip.Addr][]lb.Holder // as they stand at the API server
	onWire map[netip.Addr]lb.WireConflict
	former former
}

// Holding is what one Service holds, and what decides whether others may share it.
type Holding struct {
	lb.Holder
	Addrs []netip.Addr
	// Written are those of Addrs that the Service's status is known to say.
	Written []netip.Addr
}

// Equal reports whether h and o leave the same to others.
func (h Holding) Equal(o Holding) bool {
	return slices.Equal(h.Addrs, o.Addrs) && h.SharesAs(o.Holder)
}

type poolState struct {
	*config.Pool
	free []freeSet // one for each of Pool.Ranges
	kept []freeSet // the same: free too, but kept back for former holders
	// held4 and held6 count the addresses that Services hold.
	held4, held6 int64
}

// gives reports whether addr is one that the pool gives to Services.
func (p *poolState) gives(addr netip.Addr) bool { return p.Contains(addr) && !p.avoids(addr) }

// avoids reports whether addr, though in a range of the pool, is not to be used.
func (p *poolState) avoids(addr netip.Addr) bool { return p.AvoidBuggyIPs && buggy(addr) }

// count notes that one address more, or less, is held.
func (p *poolState) count(addr netip.Addr, n int64) {
	switch {
	case p.avoids(addr):
	case addr.Is4():
		p.held4 += n
	default:
		p.held6 += n
	}
}

type rangeRef struct {
	config.Range
	pool *poolState
	i    int // index into pool.free
}

// take removes addr from what is free. Addresses behind it that the pool avoids go
// with it, so that no span of a pool starts with one that must not be given.
func (r rangeRef) take(addr netip.Addr) {
	free := &r.pool.free[r.i]
	free.take(addr)
	for next := addr.Next(); r.pool.avoids(next); next = next.Next() {
		free.take(next)
	}
}

// NewBook returns a Book without pools and holders.
func NewBook() *Book {
	return &Book{
		holders: map[lb.Key]Holding{}, byAddr: map[netip.Addr][]lb.Key{}, byShare: map[string]map[netip.Addr]int{},
		claims: map[netip.Addr][]lb.Holder{}, onWire: map[netip.Addr]lb.WireConflict{}, former: newFormer(),
	}
}

// Guard has Services keep what they hold when a pool is shrunk, deleted or reserved
// for others.
func (b *Book) Guard() { b.guard = true }

// SetPools replaces the pools, whose ranges are disjoint. setAside names pools that
// exist but are not in force: what is held from them stays held.
func (b *Book) SetPools(pools []*config.Pool, setAside map[string]bool) {
	b.pools, b.ranges, b.setAside = nil, nil, setAside
	for _, p := range slices.SortedFunc(slices.Values(pools), func(x, y *config.Pool) int { return strings.Compare(x.Name, y.Name) }) {
		ps := &poolState{Pool: p, free: make([]freeSet, len(p.Ranges)), kept: make([]freeSet, len(p.Ranges))}
		b.pools = append(b.pools, ps)
		for i, r := range p.Ranges {
			ps.free[i] = freeSet{r}
			ref := rangeRef{r, ps, i}
			b.ranges = append(b.ranges, ref)
			if ps.avoids(r.First) {
				ref.take(r.First)
			}
		}
	}
	slices.SortFunc(b.ranges, func(x, y rangeRef) int { return x.First.Compare(y.First) })
	b.former.dropUnless(func(a netip.Addr) bool { _, ok := b.rangeOf(a); return ok })
	special := map[netip.Addr]bool{}
	for a := range b.byAddr {
		special[a] = true
		if r, ok := b.rangeOf(a); ok {
			r.pool.count(a, 1)
		}
	}
	for _, more := range []iter.Seq[netip.Addr]{maps.Keys(b.claims), maps.Keys(b.onWire), maps.Keys(b.former.byAddr)} {
		for a := range more {
			special[a] = true
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(special), netip.Addr.Compare) {
		b.refresh(addr)
	}
}

// refresh puts addr where it belongs: among what is free, what is kept back for a
// former holder, or neither.
func (b *Book) refresh(addr netip.Addr) {
	r, ok := b.rangeOf(addr)
	if !ok {
		return
	}
	_, onWire := b.onWire[addr]
	switch {
	case len(b.byAddr[addr]) > 0 || len(b.claims[addr]) > 0 || onWire || r.pool.avoids(addr):
		r.take(addr)
		r.pool.kept[r.i].take(addr)
	case b.former.keeps(addr):
		r.take(addr)
		r.pool.kept[r.i].give(addr)
	default:
		r.pool.kept[r.i].take(addr)
		r.pool.free[r.i].give(addr)
	}
}

// SetClaim records who has claimed addr at the API server; nobody if holders is
// empty. It reports whether others may now get what they could not get before.
//
// An address that is claimed is not free, also if its holder is not known here: it
// was given by another controller, or is being taken back.
func (b *Book) SetClaim(addr netip.Addr, holders []lb.Holder) bool {
	before := b.claims[addr]
	if len(holders) == 0 {
		delete(b.claims, addr)
	} else {
		b.claims[addr] = holders
	}
	b.refresh(addr)
	return len(before) > 0 && !slices.EqualFunc(before, holders, lb.Holder.Equal)
}

// Strays returns those who have claimed addr but do not hold it here.
func (b *Book) Strays(addr netip.Addr) []lb.Holder {
	var out []lb.Holder
	for _, h := range b.claims[addr] {
		if !b.holds(h, addr) {
			out = append(out, h)
		}
	}
	return out
}

// holds reports whether the Service that h names holds addr here.
func (b *Book) holds(h lb.Holder, addr netip.Addr) bool {
	have, ok := b.holders[h.Key]
	return ok && have.UID == h.UID && slices.Contains(have.Addrs, addr)
}

// HoldersOf returns those who hold addr here, sorted. It must not be changed.
func (b *Book) HoldersOf(addr netip.Addr) []lb.Key { return b.byAddr[addr] }

// Claims returns who has claimed addr. It must not be changed.
func (b *Book) Claims(addr netip.Addr) []lb.Holder { return b.claims[addr] }

// SetOnWire replaces the addresses that others on the wire use: they are given to
// nobody who does not have them already. It reports whether others may now get
// what they could not get before.
func (b *Book) SetOnWire(list []lb.WireConflict) (freed bool) {
	before := b.onWire
	b.onWire = make(map[netip.Addr]lb.WireConflict, len(list))
	for _, c := range list {
		b.onWire[c.Addr] = c
		b.refresh(c.Addr)
	}
	for a := range before {
		if _, still := b.onWire[a]; !still {
			freed = true
			b.refresh(a)
		}
	}
	return freed
}

// Adopt records what a Service's status says that it holds, unless another
// Service that may not share it is recorded already. It reports whether it did.
// Adopt everything before Decide gives anything.
func (b *Book) Adopt(svc *lb.Service) bool {
	for _, a := range svc.Addrs {
		if b.conflictAmongHolders(svc, a) != nil {
			return false
		}
	}
	b.Settle(svc, svc.Addrs)
	b.NoteWritten(svc)
	return true
}

// AdoptClaims records that svc, whose status is empty, holds what is claimed for it:
// a controller that died had given it. It reports whether anything is.
func (b *Book) AdoptClaims(svc *lb.Service, claimed []netip.Addr) bool {
	claimed = slices.DeleteFunc(slices.Clone(claimed), func(a netip.Addr) bool { return b.conflict(svc, a) != nil })
	b.Settle(svc, claimed)
	return len(claimed) > 0
}

// NoteWritten records that the status of svc says what it says.
func (b *Book) NoteWritten(svc *lb.Service) {
	h, ok := b.holders[svc.Key]
	if !ok || h.UID != svc.UID {
		return
	}
	h.Written = slices.DeleteFunc(slices.Clone(svc.Addrs), func(a netip.Addr) bool { return !slices.Contains(h.Addrs, a) })
	b.holders[svc.Key] = h
}

// Settle records that svc holds addrs now, and nothing else.
func (b *Book) Settle(svc *lb.Service, addrs []netip.Addr) {
	written := b.holders[svc.Key].Written
	if b.holders[svc.Key].UID != svc.UID {
		written = nil
	}
	b.Release(svc.Key)
	if len(addrs) == 0 {
		return
	}
	h := Holding{Holder: lb.HolderOf(svc), Addrs: make([]netip.Addr, 0, len(addrs))}
	for _, a := range addrs {
		at, held := slices.BinarySearchFunc(b.byAddr[a], svc.Key, lb.Key.Compare)
		if held {
			continue // the status says it twice
		}
		h.Addrs = append(h.Addrs, a)
		if slices.Contains(written, a) {
			h.Written = append(h.Written, a)
		}
		if b.byAddr[a] = slices.Insert(b.byAddr[a], at, svc.Key); len(b.byAddr[a]) == 1 {
			b.occupied(a, 1)
		}
		if svc.SharingKey != "" {
			if b.byShare[svc.SharingKey] == nil {
				b.byShare[svc.SharingKey] = map[netip.Addr]int{}
			}
			b.byShare[svc.SharingKey][a]++
		}
	}
	b.former.forget(svc.Key, b.refresh)
	b.holders[svc.Key] = h
}

// occupied notes that addr is held now (n is 1), or is not any more (n is -1).
func (b *Book) occupied(addr netip.Addr, n int64) {
	if r, ok := b.rangeOf(addr); ok {
		r.pool.count(addr, n)
	}
	b.refresh(addr)
}

// Release records that the Service holds nothing any more. It reports whether an
// address became free, or may be shared in another way than before.
func (b *Book) Release(key lb.Key) bool {
	h, ok := b.holders[key]
	if !ok {
		return false
	}
	delete(b.holders, key)
	for _, a := range h.Addrs {
		b.byAddr[a] = slices.DeleteFunc(b.byAddr[a], func(k lb.Key) bool { return k == key })
		if s := b.byShare[h.SharingKey]; s != nil {
			if s[a]--; s[a] <= 0 {
				delete(s, a)
			}
			if len(s) == 0 {
				delete(b.byShare, h.SharingKey)
			}
		}
		if len(b.byAddr[a]) == 0 {
			delete(b.byAddr, a)
			b.occupied(a, -1)
		}
	}
	return true
}

// Remember keeps addrs back for the Service, which is gone, until then: others get
// them only if nothing else is free.
func (b *Book) Remember(key lb.Key, addrs []netip.Addr, until time.Time) {
	b.former.add(Former{Key: key, Addrs: addrs, Until: until}, b.refresh)
}

// Forget ends what is kept back until now, or before.
func (b *Book) Forget(now time.Time) { b.former.expire(now, b.refresh) }

// Former returns at most n of those that something is kept back for, those that went
// last, the oldest of them first.
func (b *Book) Former(n int) []Former { return b.former.latest(n) }

// Holding returns what is recorded for a Service. It must not be changed.
func (b *Book) Holding(key lb.Key) Holding { return b.holders[key] }

// Usage counts the addresses of one pool. The counts stop at math.MaxInt64.
type Usage struct {
	Pool                 string
	Total4, Total6       int64
	Assigned4, Assigned6 int64
	OnWire4, OnWire6     int64 // not assigned, but used by others on the wire
}

// Usage counts the addresses of all pools, sorted by name. An address that
// several Services share counts once. Its time depends on the pools and on what is
// used by others alone.
func (b *Book) Usage() []Usage {
	out := make([]Usage, len(b.pools))
	at := make(map[*poolState]*Usage, len(b.pools))
	for i, p := range b.pools {
		u := &out[i]
		at[p] = u
		u.Pool, u.Assigned4, u.Assigned6 = p.Name, p.held4, p.held6
		for _, r := range p.Ranges {
			total := &u.Total4
			if !r.First.Is4() {
				total = &u.Total6
			}
			*total = addSizes(*total, p.size(r))
		}
	}
	for a := range b.onWire {
		r, ok := b.rangeOf(a)
		switch {
		case !ok || len(b.byAddr[a]) > 0 || r.pool.avoids(a):
		case a.Is4():
			at[r.pool].OnWire4++
		default:
			at[r.pool].OnWire6++
		}
	}
	return out
}

// size counts the addresses of r that the pool gives.
func (p *poolState) size(r config.Range) int64 {
	if p.AvoidBuggyIPs {
		return size(r) - buggyIn(r)
	}
	return size(r)
}

// rangeOf returns the range of a pool that contains addr.
func (b *Book) rangeOf(addr netip.Addr) (rangeRef, bool) {
	i, found := slices.BinarySearchFunc(b.ranges, addr, func(r rangeRef, a netip.Addr) int { return r.First.Compare(a) })
	if !found {
		i--
	}
	if i < 0 || !b.ranges[i].Contains(addr) {
		return rangeRef{}, false
	}
	return b.ranges[i], true
}

// conflict returns why svc may not hold addr, given those that hold it, those that
// have claimed it and those that use it on the wire; or nil.
func (b *Book) conflict(svc *lb.Service, addr netip.Addr) *Refusal {
	if why := b.conflictAmongHolders(svc, addr); why != nil {
		return why
	}
	own := b.holders[svc.Key]
	if own.UID == svc.UID && slices.Contains(own.Written, addr) {
		return nil // whoever claims it, or uses it, came later
	}
	for _, h := range b.claims[addr] {
		// One of the same name is itself, or was before it was created again.
		if h.Key == svc.Key || b.holds(h, addr) {
			continue
		}
		if why := Clash(addr, h, lb.HolderOf(svc)); why != nil {
			return why
		}
	}
	if c, used := b.onWire[addr]; used && !slices.Contains(own.Addrs, addr) {
		return refuse(lb.AddressInUseOnWire, "%s is used by %s on the wire, which %s heard on %s", addr, c.MAC, c.Node, c.Link)
	}
	return nil
}

func (b *Book) conflictAmongHolders(svc *lb.Service, addr netip.Addr) *Refusal {
	for _, key := range b.byAddr[addr] {
		if key == svc.Key {
			continue
		}
		if why := Clash(addr, b.holders[key].Holder, lb.HolderOf(svc)); why != nil {
			return why
		}
	}
	return nil
}

// Clash returns why want may not hold addr beside have, which holds it; or nil.
func Clash(addr netip.Addr, have, want lb.Holder) *Refusal {
	switch {
	case want.SharingKey == "" || have.SharingKey == "":
		return refuse(lb.AddressInUse, "%s is held by %s, and both must carry the same allow-shared-ip key to share it", addr, have.Key)
	case want.SharingKey != have.SharingKey:
		return refuse(lb.SharingKeyDiffers, "%s is held by %s under the sharing key %q, not %q", addr, have.Key, have.SharingKey, want.SharingKey)
	case want.Backend != have.Backend:
		return refuse(lb.BackendDiffers, "%s is held by %s, and with externalTrafficPolicy Local only Services with the same selector can share it", addr, have.Key)
	}
	for _, p := range want.Ports {
		if slices.Contains(have.Ports, p) {
			return refuse(lb.PortConflict, "%s port %s/%d is used by %s", addr, p.Protocol, p.Number, have.Key)
		}
	}
	return nil
}

// offers are addresses that a Service can have although they are not free.
type offers struct {
	own    []netip.Addr // those that it has already, then those that it had before
	shared []netip.Addr // those held under its sharing key
}

func (b *Book) offers(svc *lb.Service) offers {
	var o offers
	for _, a := range slices.Concat(b.Holding(svc.Key).Addrs, svc.Addrs, b.former.byKey[svc.Key].Addrs) {
		if b.conflict(svc, a) == nil {
			o.own = append(o.own, a)
		}
	}
	if svc.SharingKey != "" {
		for a := range b.byShare[svc.SharingKey] {
			if b.conflict(svc, a) == nil {
				o.shared = append(o.shared, a)
			}
		}
	}
	return o
}
