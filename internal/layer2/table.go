package layer2

import (
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

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
	macs  map[arp.MAC]struct{}    // of all links of this node
}

// entry is one address that is answered for, in whatever role.
type entry struct {
	addr  netip.Addr
	ann   lb.L2Announcement // never changed
	count *counters
}

// counters lives as long as its address is answered for, whatever else changes.
type counters struct {
	requests, replies, gratuitous atomic.Uint64

	since      time.Time // never changed
	reasserted time.Time // the last time; guarded by Announcer.mu
}

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

// on reports whether e is answered for on p.
func (e *entry) on(p port) bool {
	if e.addr.Is4() && !p.ipv4 || e.addr.Is6() && !p.ipv6 {
		return false
	}
	if e.ann.Role == lb.Caretake && !station(e.ann.MACs[p.name]) {
		return false
	}
	return len(e.ann.Links) == 0 || slices.Contains(e.ann.Links, p.name)
}

// mac returns what e is answered with on p, which it is answered for on.
func (e *entry) mac(p port) arp.MAC {
	if e.ann.Role == lb.Caretake {
		return e.ann.MACs[p.name]
	}
	return p.mac
}

// owned returns the entry and port of k if we are the owner of k's address there.
func (t *table) owned(k key) (*entry, port, bool) {
	e, p, ok := t.lookup(k)
	return e, p, ok && e.ann.Role == lb.Own
}

// tells returns how k's address is told to k's link unasked, and that link.
func (t *table) tells(k key) (lb.Tell, port) {
	e, p, ok := t.owned(k)
	if !ok {
		return lb.TellNever, p
	}
	return e.ann.Tell, p
}

// station reports whether m can be the address of one station.
func station(m arp.MAC) bool { return m[0]&1 == 0 && m != arp.MAC{} }

// withAddrs returns t with want for addresses, and which of them are new, gone or
// answered for otherwise. Addresses that cannot be announced are left out.
func (t *table) withAddrs(want lb.L2) (*table, []netip.Addr) {
	next := &table{addrs: t.addrs, ports: t.ports, links: t.links, macs: t.macs}
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
		if old != nil && old.ann.Equal(ann) {
			continue
		}
		ann.Links, ann.MACs = slices.Clone(ann.Links), maps.Clone(ann.MACs)
		e := &entry{addr: addr, ann: ann, count: &counters{since: time.Now()}}
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
	next := &table{addrs: t.addrs, ports: map[int]port{}, macs: make(map[arp.MAC]struct{}, len(snap))}
	if snap != nil {
		next.links = make(map[string]links.Reason, len(snap))
	}
	for _, l := range snap {
		why := l.Carries(excluded)
		next.links[l.Name] = why
		if l.Ethernet {
			next.macs[l.HardwareAddr] = struct{}{}
		}
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
