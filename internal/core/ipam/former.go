package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// mostFormer bounds how many former holders are remembered.
const mostFormer = 1 << 14

// Former is a Service that is gone, and what it held.
type Former struct {
	Key   lb.Key
	Addrs []netip.Addr
	Until time.Time // it is remembered
}

// former are the Services that are remembered.
type former struct {
	byKey  map[lb.Key]Former
	byAddr map[netip.Addr]lb.Key // whom it is kept back for: the last one that held it
	queue  []Former              // in the order in which they went; some are not valid any more
}

func newFormer() former {
	return former{byKey: map[lb.Key]Former{}, byAddr: map[netip.Addr]lb.Key{}}
}

// keeps reports whether addr is kept back for somebody.
func (f *former) keeps(addr netip.Addr) bool {
	_, ok := f.byAddr[addr]
	return ok
}

// valid reports whether r, which is in the queue, is still what is remembered.
func (f *former) valid(r Former) bool { return f.byKey[r.Key].Until.Equal(r.Until) }

func (f *former) add(r Former, changed func(netip.Addr)) {
	f.forget(r.Key, changed)
	if len(r.Addrs) == 0 {
		return
	}
	f.byKey[r.Key] = r
	f.queue = append(f.queue, r)
	for _, a := range r.Addrs {
		f.byAddr[a] = r.Key
		changed(a)
	}
	for len(f.byKey) > mostFormer {
		f.pop(changed)
	}
}

// pop forgets the one that went first.
func (f *former) pop(changed func(netip.Addr)) {
	r := f.queue[0]
	f.queue = f.queue[1:]
	if f.valid(r) {
		f.forget(r.Key, changed)
	}
}

func (f *former) forget(key lb.Key, changed func(netip.Addr)) {
	r, ok := f.byKey[key]
	if !ok {
		return
	}
	delete(f.byKey, key)
	for _, a := range r.Addrs {
		if f.byAddr[a] == key {
			delete(f.byAddr, a)
			changed(a)
		}
	}
}

func (f *former) expire(now time.Time, changed func(netip.Addr)) {
	for len(f.queue) > 0 && (!f.valid(f.queue[0]) || !now.Before(f.queue[0].Until)) {
		f.pop(changed)
	}
}

// dropUnless forgets those who held something that ok is not true of.
func (f *former) dropUnless(ok func(netip.Addr) bool) {
	for key, r := range f.byKey {
		if slices.ContainsFunc(r.Addrs, func(a netip.Addr) bool { return !ok(a) }) {
			f.forget(key, func(netip.Addr) {})
		}
	}
}

// latest returns at most n that are remembered, those that went last, the oldest of
// them first.
func (f *former) latest(n int) []Former {
	var out []Former
	for _, r := range slices.Backward(f.queue) {
		if len(out) == n {
			break
		}
		if f.valid(r) {
			out = append(out, r)
		}
	}
	slices.Reverse(out)
	return out
}
