package plan

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
)

// leader returns the address that elects the owner of all of svc's. It is the first
// of them, as in MetalLB, unless others share one: then all that hang together by
// sharing have the lowest of their first addresses for a leader, so that each address
// has exactly one owner.
func (p *Planner) leader(svc *Service) netip.Addr {
	alone := true
	for _, a := range svc.Addrs {
		alone = alone && len(p.holders[a]) <= 1
	}
	if alone {
		return svc.Addrs[0]
	}
	lead := svc.Addrs[0]
	for key := range p.sharers(svc.Addrs) {
		if first := p.services[key].Addrs[0]; first.Less(lead) {
			lead = first
		}
	}
	return lead
}

// sharers returns the Services that hang together with addrs by sharing.
func (p *Planner) sharers(addrs []netip.Addr) map[lb.Key]bool {
	found := map[lb.Key]bool{}
	seen := map[netip.Addr]bool{}
	for todo := addrs; len(todo) > 0; {
		a := todo[0]
		todo = todo[1:]
		if seen[a] {
			continue
		}
		seen[a] = true
		for key := range p.holders[a] {
			if !found[key] {
				found[key] = true
				todo = append(slices.Clip(todo), p.services[key].Addrs...)
			}
		}
	}
	return found
}

// touchSharers marks the Services that hang together with addr by sharing, if any do:
// one that comes or goes may change the leader of all.
func (p *Planner) touchSharers(addr netip.Addr, besides lb.Key) {
	if n := len(p.holders[addr]); n == 0 || n == 1 && p.holders[addr][besides] {
		return
	}
	together, spans := p.sharers([]netip.Addr{addr}), false
	for key := range together {
		spans = spans || len(p.services[key].Addrs) > 1
	}
	if !spans {
		return // they have one address, and it leads
	}
	for key := range together {
		p.dirty[key] = true
	}
}
