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
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Book knows the pools and who holds what.
type Book struct {
	pools    []*poolState // sorted by name
	setAside map[string]bool
	ranges   []rangeRef // of all pools, sorted by first address
	holders  map[lb.Key]Holding
	byAddr   map[netip.Addr][]lb.Key       // holders, sorted
	byShare  map[string]map[netip.Addr]int // sharing key → address → holders
}

// Holding is what one Service holds, and what decides whether others may share it.
type Holding struct {
	Addrs      []netip.Addr
	SharingKey string
	Backend    string
	Ports      []lb.Port
}

// Equal reports whether h and o leave the same to others.
func (h Holding) Equal(o Holding) bool {
	return h.SharingKey == o.SharingKey && h.Backend == o.Backend && slices.Equal(h.Addrs, o.Addrs) && slices.Equal(h.Ports, o.Ports)
}

type poolState struct {
	*config.Pool
	free []freeSet // one for each of Pool.Ranges
}

// gives reports whether addr is one that the pool gives to Services.
func (p *poolState) gives(addr netip.Addr) bool { return p.Contains(addr) && !p.avoids(addr) }

// avoids reports whether addr, though in a range of the pool, is not to be used.
func (p *poolState) avoids(addr netip.Addr) bool { return p.AvoidBuggyIPs && buggy(addr) }

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

// give adds addr to what is free.
func (r rangeRef) give(addr netip.Addr) {
	if !r.pool.avoids(addr) {
		r.pool.free[r.i].give(addr)
	}
}

// NewBook returns a Book without pools and holders.
func NewBook() *Book {
	return &Book{
		holders: map[lb.Key]Holding{}, byAddr: map[netip.Addr][]lb.Key{}, byShare: map[string]map[netip.Addr]int{},
	}
}

// SetPools replaces the pools, whose ranges are disjoint. setAside names pools that
// exist but are not in force: what is held from them stays held.
func (b *Book) SetPools(pools []*config.Pool, setAside map[string]bool) {
	b.pools, b.ranges, b.setAside = nil, nil, setAside
	for _, p := range slices.SortedFunc(slices.Values(pools), func(x, y *config.Pool) int { return strings.Compare(x.Name, y.Name) }) {
		ps := &poolState{Pool: p, free: make([]freeSet, len(p.Ranges))}
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
	for _, addr := range slices.SortedFunc(maps.Keys(b.byAddr), netip.Addr.Compare) {
		if r, ok := b.rangeOf(addr); ok {
			r.take(addr)
		}
	}
}

// Adopt records what a Service's status says that it holds, unless another
// Service that may not share it is recorded already. It reports whether it did.
// Adopt everything before Decide gives anything.
func (b *Book) Adopt(svc *lb.Service) bool {
	for _, a := range svc.Addrs {
		if b.conflict(svc, a) != nil {
			return false
		}
	}
	b.Settle(svc, svc.Addrs)
	return true
}

// Settle records that svc holds addrs now, and nothing else.
func (b *Book) Settle(svc *lb.Service, addrs []netip.Addr) {
	b.Release(svc.Key)
	if len(addrs) == 0 {
		return
	}
	h := Holding{make([]netip.Addr, 0, len(addrs)), svc.SharingKey, svc.Backend, svc.Ports}
	for _, a := range addrs {
		at, held := slices.BinarySearchFunc(b.byAddr[a], svc.Key, lb.Key.Compare)
		if held {
			continue // the status says it twice
		}
		h.Addrs = append(h.Addrs, a)
		b.byAddr[a] = slices.Insert(b.byAddr[a], at, svc.Key)
		if svc.SharingKey != "" {
			if b.byShare[svc.SharingKey] == nil {
				b.byShare[svc.SharingKey] = map[netip.Addr]int{}
			}
			b.byShare[svc.SharingKey][a]++
		}
		if r, ok := b.rangeOf(a); ok {
			r.take(a)
		}
	}
	b.holders[svc.Key] = h
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
		if len(b.byAddr[a]) > 0 {
			continue
		}
		delete(b.byAddr, a)
		if r, ok := b.rangeOf(a); ok {
			r.give(a)
		}
	}
	return true
}

// Holding returns what is recorded for a Service. It must not be changed.
func (b *Book) Holding(key lb.Key) Holding { return b.holders[key] }

// Usage counts the addresses of one pool. The counts stop at math.MaxInt64.
type Usage struct {
	Pool                 string
	Total4, Total6       int64
	Assigned4, Assigned6 int64
}

// Usage counts the addresses of all pools, sorted by name. An address that
// several Services share counts once. Its time does not depend on how many there
// are, but on how scattered they are.
func (b *Book) Usage() []Usage {
	out := make([]Usage, len(b.pools))
	for i, p := range b.pools {
		u := &out[i]
		u.Pool = p.Name
		for j, r := range p.Ranges {
			total, assigned := &u.Total4, &u.Assigned4
			if !r.First.Is4() {
				total, assigned = &u.Total6, &u.Assigned6
			}
			*total = addSizes(*total, p.size(r))
			for _, gap := range p.free[j].gaps(r) {
				*assigned = addSizes(*assigned, p.size(gap))
			}
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

// conflict returns why svc may not hold addr beside those that hold it, or nil.
func (b *Book) conflict(svc *lb.Service, addr netip.Addr) *Refusal {
	for _, key := range b.byAddr[addr] {
		if key == svc.Key {
			continue
		}
		h := b.holders[key]
		switch {
		case svc.SharingKey == "" || h.SharingKey == "":
			return refuse(lb.AddressInUse, "%s is held by %s, and both must carry the same allow-shared-ip key to share it", addr, key)
		case svc.SharingKey != h.SharingKey:
			return refuse(lb.SharingKeyDiffers, "%s is held by %s under the sharing key %q, not %q", addr, key, h.SharingKey, svc.SharingKey)
		case svc.Backend != h.Backend:
			return refuse(lb.BackendDiffers, "%s is held by %s, and with externalTrafficPolicy Local only Services with the same selector can share it", addr, key)
		}
		for _, p := range svc.Ports {
			if slices.Contains(h.Ports, p) {
				return refuse(lb.PortConflict, "%s port %s/%d is used by %s", addr, p.Protocol, p.Number, key)
			}
		}
	}
	return nil
}

// offers are addresses that a Service can have although they are not free.
type offers struct {
	own    []netip.Addr // those that it has already
	shared []netip.Addr // those held under its sharing key
}

func (b *Book) offers(svc *lb.Service) offers {
	var o offers
	for _, a := range slices.Concat(b.Holding(svc.Key).Addrs, svc.Addrs) {
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
