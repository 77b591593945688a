package wire

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// windowSize is how many free addresses of a pool and family are watched: as many as
// a burst of new Services may take before they are looked at again.
const windowSize = 16

// mostFormer bounds how many addresses are remembered that were released.
const mostFormer = 1 << 14

// Window knows which addresses are given next. It is fed with what every speaker
// knows, so that all of them see the same window without the controller's help.
type Window struct {
	book      *ipam.Book
	cfg       *config.Config
	services  map[lb.Key]*lb.Service
	held      map[netip.Addr]int  // Services that hold it, by their status
	requested map[netip.Addr]int  // Services that ask for it
	former    map[netip.Addr]bool // was held, and is free now
	conflicts []lb.WireConflict
}

// NewWindow returns a Window without pools and Services.
func NewWindow() *Window {
	return &Window{
		book: ipam.NewBook(), cfg: &config.Config{}, services: map[lb.Key]*lb.Service{},
		held: map[netip.Addr]int{}, requested: map[netip.Addr]int{}, former: map[netip.Addr]bool{},
	}
}

// SetService records a Service; nil means that it is gone, or not ours. It reports
// whether that can change the window.
func (w *Window) SetService(key lb.Key, svc *lb.Service) bool {
	old := w.services[key]
	addrs := func(s *lb.Service, of func(*lb.Service) []netip.Addr) []netip.Addr {
		if s == nil {
			return nil
		}
		return of(s)
	}
	has := func(s *lb.Service) []netip.Addr { return s.Addrs }
	wants := func(s *lb.Service) []netip.Addr { return s.Requested }
	if w.services[key] = svc; svc == nil {
		delete(w.services, key)
	}
	changed := recount(w.requested, addrs(old, wants), addrs(svc, wants))
	if !recount(w.held, addrs(old, has), addrs(svc, has)) {
		return changed
	}
	if svc == nil {
		w.book.Release(key)
	} else {
		w.book.Settle(svc, svc.Addrs)
	}
	w.remember(addrs(old, has), addrs(svc, has))
	return true
}

// remember notes which addresses are free that were held.
func (w *Window) remember(was, is []netip.Addr) {
	for _, a := range was {
		if a = a.Unmap(); w.held[a] == 0 {
			w.former[a] = true
		}
	}
	for _, a := range is {
		delete(w.former, a.Unmap())
	}
	if len(w.former) > mostFormer {
		clear(w.former) // they are not kept back for ever either
	}
}

// recount replaces was by is in counts. It reports whether they differ.
func recount(counts map[netip.Addr]int, was, is []netip.Addr) bool {
	if slices.Equal(was, is) {
		return false
	}
	for _, a := range is {
		counts[a.Unmap()]++
	}
	for _, a := range was {
		if a = a.Unmap(); counts[a] > 1 {
			counts[a]--
		} else {
			delete(counts, a)
		}
	}
	return true
}

// SetConfig replaces the pools.
func (w *Window) SetConfig(cfg *config.Config) {
	w.cfg = cfg
	w.book.SetPools(cfg.Pools, cfg.SetAside)
}

// SetConflicts replaces what is reported, by anybody.
func (w *Window) SetConflicts(conflicts []lb.WireConflict) { w.conflicts = conflicts }

// Conflicts returns what SetConflicts set.
func (w *Window) Conflicts() []lb.WireConflict { return w.conflicts }

// Candidates returns the addresses to ask about, sorted: those in conflict, to learn
// when that ends; those that Services ask for and nobody holds; and the next free ones
// of each pool. What a Service holds is never among them. Of a pool that has
// MaxConflicts or more, there are the first so many conflicts and nothing else.
//
// The controller keeps back for a while what a Service held that is gone, and gives
// the next address to others. How long is not known here, so both are asked about: the
// next ones of all that are free, and of those that were not held lately.
func (w *Window) Candidates() []Candidate {
	all := map[netip.Addr]Candidate{}
	conflicts := map[string]int{} // by pool
	for _, c := range slices.SortedFunc(slices.Values(w.conflicts), func(a, b lb.WireConflict) int { return a.Addr.Compare(b.Addr) }) {
		pool := w.cfg.PoolOf(c.Addr)
		if pool != "" && w.held[c.Addr] == 0 && conflicts[pool] < MaxConflicts {
			conflicts[pool]++
			all[c.Addr] = Candidate{c.Addr, pool, c}
		}
	}
	add := func(addr netip.Addr, pool string) {
		if _, has := all[addr]; !has && pool != "" && conflicts[pool] < MaxConflicts {
			all[addr] = Candidate{Addr: addr, Pool: pool}
		}
	}
	for addr := range w.requested {
		if w.held[addr] == 0 {
			add(addr, w.cfg.PoolOf(addr))
		}
	}
	inConflict := func(a netip.Addr) bool { return all[a].Conflict.Addr.IsValid() }
	passOver := []func(netip.Addr) bool{inConflict}
	if len(w.former) > 0 {
		passOver = append(passOver, func(a netip.Addr) bool { return inConflict(a) || w.former[a] })
	}
	for _, p := range w.cfg.Pools {
		for _, skip := range passOver {
			for _, addr := range w.book.NextFree(p.Name, windowSize, skip) {
				add(addr, p.Name)
			}
		}
	}
	out := make([]Candidate, 0, len(all))
	for _, c := range all {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Candidate) int { return a.Addr.Compare(b.Addr) })
	return out
}
