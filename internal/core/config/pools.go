package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// Pool is an IPAddressPool in force.
type Pool struct {
	Name          string
	Labels        map[string]string
	Ranges        []Range // in the user's order, none overlapping
	AutoAssign    bool
	AvoidBuggyIPs bool
	Allocation    *ServiceAllocation // nil: for every Service
	Terminating   bool               // it is being deleted: nothing more is given from it
	Guarded       bool               // what Services hold from it stays theirs, whatever is written now
	IgnoreOnWire  IgnoreOnWire

	texts   []string         // spec.addresses, but for what makes no sense
	entries [][]netip.Prefix // each of texts as the fewest prefixes
}

// IgnoreOnWire says which addresses of a pool may be given although somebody on the
// wire uses them.
type IgnoreOnWire struct {
	All   bool
	Addrs []netip.Addr
}

// Has reports whether addr may be given.
func (i IgnoreOnWire) Has(addr netip.Addr) bool { return i.All || slices.Contains(i.Addrs, addr) }

// parseIgnoreOnWire reads the annotation. What makes no sense in it has no effect.
func parseIgnoreOnWire(text string) (out IgnoreOnWire, ps problems) {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		a, err := netip.ParseAddr(part)
		switch {
		case part == "":
		case part == "all":
			out.All = true
		case err != nil || a.Zone() != "":
			ps.add("metadata.annotations[barelb.io/ignore-addresses-in-use-on-wire]", lb.InvalidField,
				"%q is neither an IP address nor \"all\"; write addresses separated by commas", part)
		default:
			out.Addrs = append(out.Addrs, a.Unmap())
		}
	}
	return out, ps
}

// Range is the addresses from First to Last, both included, of one family.
type Range struct{ First, Last netip.Addr }

// Contains reports whether addr is in r.
func (r Range) Contains(addr netip.Addr) bool {
	return addr.BitLen() == r.First.BitLen() && r.First.Compare(addr) <= 0 && addr.Compare(r.Last) <= 0
}

// String returns first-last.
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Contains reports whether addr belongs to the pool.
func (p *Pool) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(addr) })
}

// Allows reports whether the pool may serve svc, by its serviceAllocation.
func (p *Pool) Allows(svc *lb.Service) bool {
	a := p.Allocation
	if a == nil {
		return true
	}
	if len(a.Namespaces) > 0 || len(a.NamespaceSelectors) > 0 {
		byName := slices.Contains(a.Namespaces, svc.Key.Namespace)
		byLabel := len(a.NamespaceSelectors) > 0 && lb.MatchesAny(a.NamespaceSelectors, svc.NamespaceLabels)
		if !byName && !byLabel {
			return false
		}
	}
	return lb.MatchesAny(a.ServiceSelectors, svc.Labels)
}

// pools parses all pools. Of two that overlap, the one created later is set aside.
func (p *parser) pools(objs []IPAddressPool) {
	objs = slices.SortedFunc(slices.Values(objs), func(a, b IPAddressPool) int { return byAge(a.Meta, b.Meta) })
	var taken claims
	for i := range objs {
		if pool := p.pool(&objs[i], taken); pool != nil {
			taken.add(pool)
			p.cfg.Pools = append(p.cfg.Pools, pool)
		} else {
			p.cfg.SetAside[objs[i].Name] = true
		}
	}
	p.cfg.ranges = taken
	slices.SortFunc(p.cfg.Pools, func(a, b *Pool) int { return strings.Compare(a.Name, b.Name) })
}

// pool returns what is in force of one pool, given what the older ones have taken,
// or nil. An edit that reaches into an older pool leaves the last good version.
func (p *parser) pool(o *IPAddressPool, taken claims) *Pool {
	now, ps := parsePool(o)
	ignore, minor := parseIgnoreOnWire(o.IgnoreOnWire)
	now.IgnoreOnWire = ignore
	p.report(KindIPAddressPool, o.Name, minor, theRest)
	if len(ps) == 0 {
		ps = taken.clash(now)
	}
	if len(ps) == 0 {
		return now
	}
	last := p.prev.PoolByName(o.Name)
	if last != nil && len(taken.clash(last)) > 0 {
		last = nil
	}
	e := nothing
	if last != nil {
		e = lastGood
	}
	p.report(KindIPAddressPool, o.Name, ps, e)
	return last
}

func parsePool(o *IPAddressPool) (*Pool, problems) {
	var ps problems
	pool := &Pool{
		Name: o.Name, Labels: o.Labels, AutoAssign: o.AutoAssign, AvoidBuggyIPs: o.AvoidBuggyIPs, Allocation: o.Allocation,
		Terminating: o.Terminating, Guarded: o.Guarded,
	}
	if len(o.Addresses) == 0 {
		ps.add("spec.addresses", lb.InvalidField, "pool has no prefixes defined: it needs at least one CIDR or range")
	}
	var own claims
	for i, text := range o.Addresses {
		field := fmt.Sprintf("spec.addresses[%d]", i)
		r, err := ParseRange(text)
		if err != nil {
			ps.add(field, lb.InvalidField, "invalid CIDR %q in pool %q: %v", text, o.Name, err)
			continue
		}
		if _, other, ok := own.overlap([]Range{r}); ok {
			ps.add(field, lb.Overlap, "CIDR %q in pool %q overlaps with already defined CIDR %q of the same pool", r, o.Name, other.Range)
			continue
		}
		own.add(&Pool{Name: o.Name, Ranges: []Range{r}})
		pool.Ranges = append(pool.Ranges, r)
		pool.texts = append(pool.texts, text)
		pool.entries = append(pool.entries, Prefixes(r))
	}
	if a := o.Allocation; a != nil {
		ps.unique("spec.serviceAllocation.namespaces", "duplicate definition in namespaces field", a.Namespaces)
		ps.selectors("spec.serviceAllocation.namespaceSelectors", a.NamespaceSelectors)
		ps.selectors("spec.serviceAllocation.serviceSelectors", a.ServiceSelectors)
	}
	return pool, ps
}

// ParseRange reads a CIDR ("198.51.100.0/24", host bits are ignored) or a range
// ("198.51.100.10-198.51.100.20", spaces around the dash allowed).
func ParseRange(text string) (Range, error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		pfx, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return Range{}, errors.New("it is neither a CIDR such as 198.51.100.0/24 nor a range such as 198.51.100.10-198.51.100.20")
		}
		if pfx.Addr().Is4In6() {
			return Range{}, errors.New("write IPv4 addresses in their own form")
		}
		pfx = pfx.Masked()
		return Range{pfx.Addr(), lastOf(pfx)}, nil
	}
	first, err1 := netip.ParseAddr(strings.TrimSpace(from))
	last, err2 := netip.ParseAddr(strings.TrimSpace(to))
	if bad := cmp.Or(err1, err2); bad != nil {
		return Range{}, errors.New("it is not a range such as 198.51.100.10-198.51.100.20")
	}
	first, last = first.Unmap(), last.Unmap()
	switch {
	case first.Zone() != "" || last.Zone() != "":
		return Range{}, errors.New("addresses of a pool have no zone")
	case first.BitLen() != last.BitLen():
		return Range{}, errors.New("it mixes IPv4 and IPv6")
	case last.Less(first):
		return Range{}, errors.New("it is reversed: its first address is above its last")
	}
	return Range{first, last}, nil
}

// lastOf returns the highest address of a masked prefix.
func lastOf(pfx netip.Prefix) netip.Addr {
	b := pfx.Addr().AsSlice()
	for i := pfx.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Prefixes returns the fewest prefixes that make up r, in ascending order.
func Prefixes(r Range) []netip.Prefix {
	var out []netip.Prefix
	for at := r.First; ; {
		bits := at.BitLen()
		for bits > 0 {
			wider := netip.PrefixFrom(at, bits-1).Masked()
			if wider.Addr() != at || r.Last.Less(lastOf(wider)) {
				break
			}
			bits--
		}
		pfx := netip.PrefixFrom(at, bits)
		out = append(out, pfx)
		end := lastOf(pfx)
		if !end.Less(r.Last) {
			return out
		}
		at = end.Next()
	}
}

// claims is a set of disjoint ranges, sorted by their first address.
type claims []claim

type claim struct {
	Range
	pool string
}

// overlap returns the first of rs that shares an address with the set.
func (c claims) overlap(rs []Range) (Range, claim, bool) {
	for _, r := range rs {
		// The only candidates are the last claim that starts at or before r.Last.
		i, _ := slices.BinarySearchFunc(c, r.Last, func(x claim, last netip.Addr) int {
			if x.First.Compare(last) <= 0 {
				return -1
			}
			return 1
		})
		if i > 0 && c[i-1].First.BitLen() == r.First.BitLen() && !c[i-1].Last.Less(r.First) {
			return r, c[i-1], true
		}
	}
	return Range{}, claim{}, false
}

// clash says where pool reaches into the set.
func (c claims) clash(pool *Pool) problems {
	var ps problems
	if r, other, ok := c.overlap(pool.Ranges); ok {
		ps.add("spec.addresses", lb.Overlap, "CIDR %q in pool %q overlaps with already defined CIDR %q of IPAddressPool %q, which is older", r, pool.Name, other.Range, other.pool)
	}
	return ps
}

func (c *claims) add(p *Pool) {
	for _, r := range p.Ranges {
		i, _ := slices.BinarySearchFunc(*c, r.First, func(x claim, first netip.Addr) int { return x.First.Compare(first) })
		*c = slices.Insert(*c, i, claim{r, p.Name})
	}
}
