package layer2

import (
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

// table says what is answered where. A table is never changed, but for the counters
// that its entries point to; tables share what they have in common.
type table struct {
	addrs map[netip.Addr]*entry
	ports map[int]port            // by link index: those that can carry announcements
	links map[string]links.Reason // all links by name; nil if they are not known
}

// entry is one announced address.
type entry struct {
	addr  netip.Addr
	links []string // to answer on, sorted; empty for all
	count *counters
}

// counters lives as long as its address is announced, whatever else changes.
type counters struct{ requests, replies, gratuitous atomic.Uint64 }

// port is a link that can carry announcements.
type port struct {
	index int
	name  string
	mac   arp.MAC
	epoch uint64
	ipv4  bool
	ipv6  bool
}

// key is one address on one link.
type key struct {
	addr netip.Addr
	link int // index
}

// lookup returns entry and port of k, if k's address is answered for on k's link.
func (t *table) lookup(k key) (*entry, port, bool) {
	p, ok := t.ports[k.link]
	if !ok {
		return nil, port{}, false
	}
	e := t.addrs[k.addr]
	return e, p, e != nil && e.on(p)
}

func (e *entry) on(p port) bool {
	if e.addr.Is4() && !p.ipv4 || e.addr.Is6() && !p.ipv6 {
		return false
	}
	return len(e.links) == 0 || slices.Contains(e.links, p.name)
}

// withAddrs returns t with want for addresses, and which of them are new, gone or
// announced on other links. Addresses that cannot be announced are left out.
func (t *table) withAddrs(want lb.L2) (*table, []netip.Addr) {
	next := &table{addrs: t.addrs, ports: t.ports, links: t.links}
	var changed []netip.Addr
	touch := func(addr netip.Addr) {
		if len(changed) == 0 {
			next.addrs = maps.Clone(t.addrs)
			if next.addrs == nil {
				next.addrs = make(map[netip.Addr]*entry, len(want))
			}
		}
		changed = append(changed, addr)
	}
	for addr, ann := range want {
		addr = addr.Unmap()
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
			continue
		}
		old := t.addrs[addr]
		if old != nil && slices.Equal(old.links, ann.Links) {
			continue
		}
		e := &entry{addr: addr, links: slices.Clone(ann.Links), count: &counters{}}
		if old != nil {
			e.count = old.count
		}
		touch(addr)
		next.addrs[addr] = e
	}
	for addr := range t.addrs {
		if !wanted(want, addr) {
			touch(addr)
			delete(next.addrs, addr)
		}
	}
	return next, changed
}

// wanted reports whether addr is in want, be it in its IPv4-mapped form.
func wanted(want lb.L2, addr netip.Addr) bool {
	_, ok := want[addr]
	if !ok && addr.Is4() {
		_, ok = want[netip.AddrFrom16(addr.As16())]
	}
	return ok
}

// withLinks returns t with the links of snap, and the indexes of those on which it
// is not as before: appeared, vanished, lost and found again, or got another address.
func (t *table) withLinks(snap links.Snapshot, excluded func(string) bool) (*table, []int) {
	next := &table{addrs: t.addrs, ports: map[int]port{}}
	if snap != nil {
		next.links = make(map[string]links.Reason, len(snap))
	}
	for _, l := range snap {
		why := l.Carries(excluded)
		next.links[l.Name] = why
		if why == links.Usable {
			next.ports[l.Index] = port{
				index: l.Index, name: l.Name, mac: l.HardwareAddr, epoch: l.Epoch,
				ipv4: l.CarriesFamily(lb.IPv4) == links.Usable, ipv6: l.CarriesFamily(lb.IPv6) == links.Usable,
			}
		}
	}
	var changed []int
	for index, p := range next.ports {
		if old, ok := t.ports[index]; !ok || old != p {
			changed = append(changed, index)
		}
	}
	for index := range t.ports {
		if _, ok := next.ports[index]; !ok {
			changed = append(changed, index)
		}
	}
	slices.Sort(changed)
	return next, changed
}

func (t *table) status() Status {
	s := Status{
		Addrs: make(map[netip.Addr]AddrStatus, len(t.addrs)),
		Links: maps.Clone(t.links),
	}
	for addr, e := range t.addrs {
		as := AddrStatus{
			RequestsReceived: e.count.requests.Load(),
			RepliesSent:      e.count.replies.Load(),
			GratuitousSent:   e.count.gratuitous.Load(),
		}
		for _, p := range t.ports {
			if e.on(p) {
				as.Links = append(as.Links, p.name)
			}
		}
		slices.Sort(as.Links)
		for _, name := range e.links {
			if _, ok := t.links[name]; !ok && t.links != nil {
				as.MissingLinks = append(as.MissingLinks, name)
			}
		}
		s.Addrs[addr] = as
	}
	return s
}
