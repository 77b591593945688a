package ipam

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// Decision is what a Service shall have.
type Decision struct {
	Addrs []netip.Addr
	Pool  string // name of the pool that they are from; "" without addresses
	// Refused says why the Service does not get (all of) what it wants, or nil.
	Refused *Refusal
	// Cleared says why addresses that the Service had were taken from it, or nil.
	Cleared *Refusal
}

// Refusal is a reason with the words for the user.
type Refusal struct {
	Reason  lb.Reason
	Message string
}

func refuse(reason lb.Reason, format string, args ...any) *Refusal {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

// Decide says what svc shall have, given who holds what. It changes nothing. A
// Service that is satisfied with what it has keeps exactly that, in its order. One
// whose status is empty has what the Book records for it: the status may lag.
func (b *Book) Decide(svc *lb.Service) Decision {
	d := b.decide(svc)
	if len(svc.Addrs) == 0 {
		d.Cleared = nil
	}
	return d
}

func (b *Book) decide(svc *lb.Service) Decision {
	fams := svc.Families()
	if why := lacks(svc, fams); why != nil {
		return Decision{Refused: why, Cleared: why}
	}
	have := svc.Addrs
	if len(have) == 0 {
		have = b.Holding(svc.Key).Addrs
	}
	var cleared *Refusal
	if len(have) > 0 {
		pool, why := b.keeps(svc, have, fams)
		switch {
		case why == nil && svc.RequestErr == "":
			return b.upgrade(svc, have, fams, pool)
		case why == nil: // a typing error must not cost an address
			return Decision{Addrs: have, Pool: pool, Refused: refuse(lb.InvalidRequest, "%s", svc.RequestErr)}
		}
		cleared = why
	}
	d := b.allocate(svc, fams)
	d.Cleared = cleared
	return d
}

// lacks says what keeps svc from having any address at all, or returns nil.
func lacks(svc *lb.Service, fams []lb.Family) *Refusal {
	switch {
	case len(fams) == 0:
		return refuse(lb.NoClusterIP, "the Service has no cluster IP")
	case len(fams) < 2 && svc.FamilyPolicy == lb.RequireDualStack:
		return refuse(lb.NoClusterIP, "ipFamilyPolicy RequireDualStack needs cluster IPs of both families, there is only %s", svc.ClusterIPs[0])
	}
	return nil
}

// keeps returns the pool of the addresses that svc has, or why it cannot keep them.
func (b *Book) keeps(svc *lb.Service, have []netip.Addr, fams []lb.Family) (string, *Refusal) {
	oneOfTwo := len(have) == 1 && svc.FamilyPolicy == lb.PreferDualStack && slices.Contains(fams, lb.FamilyOf(have[0]))
	if why := fits(have, fams); why != nil && !oneOfTwo {
		return "", why
	}
	if len(svc.Requested) > 0 && !sameSet(svc.Requested, have) {
		return "", refuse(lb.InvalidRequest, "it asks for %s now", list(svc.Requested))
	}
	name, why := b.poolOf(svc, have)
	if why != nil {
		return "", why
	}
	if svc.RequestedPool != "" && svc.RequestedPool != name {
		return "", refuse(lb.PoolNotAllowed, "it asks for pool %q now, and %s is from %q", svc.RequestedPool, list(have), name)
	}
	for _, a := range have {
		if why := b.conflict(svc, a); why != nil {
			return "", why
		}
	}
	return name, nil
}

// poolOf returns the one pool that all addrs belong to and that allows svc. What
// the Service holds from a pool that is set aside, by its own record, it keeps.
func (b *Book) poolOf(svc *lb.Service, addrs []netip.Addr) (string, *Refusal) {
	name := ""
	for _, a := range addrs {
		from := svc.Pool
		if !b.setAside[from] || !slices.Contains(svc.Addrs, a) {
			r, ok := b.rangeOf(a)
			if !ok || r.pool.avoids(a) {
				return "", refuse(lb.AddressNotInPool, "%s is in no IPAddressPool", a)
			}
			if !r.pool.Allows(svc) {
				return "", refuse(lb.PoolNotAllowed, "the serviceAllocation of IPAddressPool %q excludes this Service", r.pool.Name)
			}
			from = r.pool.Name
		}
		if name != "" && name != from {
			return "", refuse(lb.AddressNotInPool, "%s are not from one IPAddressPool", list(addrs))
		}
		name = from
	}
	return name, nil
}

// upgrade adds the second address of a Service that prefers two and has one, if
// the pool of the first has one to give.
func (b *Book) upgrade(svc *lb.Service, have []netip.Addr, fams []lb.Family, pool string) Decision {
	d := Decision{Addrs: have, Pool: pool}
	p := b.poolByName(pool)
	if len(fams) < 2 || len(have) > 1 || len(svc.Requested) > 0 || p == nil {
		return d
	}
	want := fams[0]
	if lb.FamilyOf(have[0]) == want {
		want = fams[1]
	}
	second := p.lowest(b.offers(svc), want)
	if !second.IsValid() {
		d.Refused = refuse(lb.PoolExhausted, "IPAddressPool %q has no %s address for a second one", pool, want)
		return d
	}
	d.Addrs = append(slices.Clone(have), second)
	return d
}

func (b *Book) allocate(svc *lb.Service, fams []lb.Family) Decision {
	switch {
	case svc.RequestErr != "":
		return Decision{Refused: refuse(lb.InvalidRequest, "%s", svc.RequestErr)}
	case len(svc.Requested) > 0:
		return b.requested(svc, fams)
	case svc.RequestedPool != "":
		p := b.poolByName(svc.RequestedPool)
		switch {
		case p == nil:
			return Decision{Refused: refuse(lb.PoolNotFound, "annotation address-pool: there is no IPAddressPool %q in force", svc.RequestedPool)}
		case !p.Allows(svc):
			return Decision{Refused: refuse(lb.PoolNotAllowed, "annotation address-pool: the serviceAllocation of IPAddressPool %q excludes this Service", p.Name)}
		}
		return b.first(svc, fams, []*poolState{p})
	}
	own, others := b.automatic(svc)
	if len(own)+len(others) == 0 {
		return Decision{Refused: refuse(lb.NoPool, "no IPAddressPool with autoAssign is for this Service")}
	}
	return b.first(svc, fams, own, others)
}

func (b *Book) requested(svc *lb.Service, fams []lb.Family) Decision {
	name := ""
	why := fits(svc.Requested, fams)
	if why == nil {
		name, why = b.poolOf(svc, svc.Requested)
	}
	if why == nil && svc.RequestedPool != "" && svc.RequestedPool != name {
		why = refuse(lb.AddressNotInPool, "%s is not from the requested pool %q but from %q", list(svc.Requested), svc.RequestedPool, name)
	}
	for _, a := range svc.Requested {
		if why == nil {
			why = b.conflict(svc, a)
		}
	}
	if why != nil {
		if svc.RequestField != "" {
			why.Message = svc.RequestField + ": " + why.Message
		}
		return Decision{Refused: why}
	}
	return Decision{Addrs: slices.Clone(svc.Requested), Pool: name}
}

// automatic returns the pools that may be used unasked: those made for svc by
// priority, and those that are for everybody.
func (b *Book) automatic(svc *lb.Service) (own, others []*poolState) {
	for _, p := range b.pools {
		switch {
		case !p.AutoAssign:
		case p.Allocation == nil:
			others = append(others, p)
		case p.Allows(svc):
			own = append(own, p)
		}
	}
	slices.SortStableFunc(own, func(x, y *poolState) int {
		return cmp.Compare(priority(x), priority(y))
	})
	return own, others
}

// priority returns the place of a pool in the order of choice: 0 is last.
func priority(p *poolState) int {
	if p.Allocation.Priority == 0 {
		return math.MaxInt
	}
	return p.Allocation.Priority
}

// first takes addresses from the first tier of pools that has any.
func (b *Book) first(svc *lb.Service, fams []lb.Family, tiers ...[]*poolState) Decision {
	o := b.offers(svc)
	for _, pools := range tiers {
		if d, ok := from(pools, o, svc.FamilyPolicy, fams); ok {
			return d
		}
	}
	var names []string
	for _, p := range slices.Concat(tiers...) {
		names = append(names, p.Name)
	}
	return Decision{Refused: refuse(lb.PoolExhausted, "no %s address is free in IPAddressPool %s", families(fams), strings.Join(names, ", "))}
}

// from takes addresses for all families from one of the pools, and reports whether
// there was one. A Service that merely prefers two families takes one if no pool
// has both. The pool that its present address is from comes first: the second
// address shall be from there, and the one that stays shall not change.
func from(pools []*poolState, o offers, policy lb.FamilyPolicy, fams []lb.Family) (Decision, bool) {
	tries := [][]lb.Family{slices.Sorted(slices.Values(fams))} // IPv4 first, as MetalLB writes it
	if len(fams) == 2 && policy == lb.PreferDualStack {
		tries = append(tries, fams[:1], fams[1:])
	}
	stays := func(p *poolState) bool {
		return slices.ContainsFunc(o.own, func(a netip.Addr) bool { return p.gives(a) && slices.Contains(fams, lb.FamilyOf(a)) })
	}
	if i := slices.IndexFunc(pools, stays); i > 0 {
		pools = slices.Concat(pools[i:i+1], pools[:i], pools[i+1:])
	}
	for _, try := range tries {
		for _, p := range pools {
			addrs := p.each(o, try)
			if addrs == nil {
				continue
			}
			d := Decision{Addrs: addrs, Pool: p.Name}
			if len(addrs) < len(fams) {
				d.Refused = refuse(lb.PoolExhausted, "no IPAddressPool has addresses of both families; it has only one of two")
			}
			return d, true
		}
	}
	return Decision{}, false
}

// each returns one address of every family from p, or nil.
func (p *poolState) each(o offers, fams []lb.Family) []netip.Addr {
	var out []netip.Addr
	for _, f := range fams {
		a := p.lowest(o, f)
		if !a.IsValid() {
			return nil
		}
		out = append(out, a)
	}
	return out
}

// lowest returns the address that the Service has already, else the first of the
// pool that it can have: free, or shared under its key.
func (p *poolState) lowest(o offers, fam lb.Family) netip.Addr {
	for _, a := range o.own {
		if lb.FamilyOf(a) == fam && p.gives(a) {
			return a
		}
	}
	for i, r := range p.Ranges {
		if lb.FamilyOf(r.First) != fam {
			continue
		}
		var best netip.Addr
		if len(p.free[i]) > 0 {
			best = p.free[i][0].First
		}
		for _, a := range o.shared {
			if r.Contains(a) && !p.avoids(a) && (!best.IsValid() || a.Less(best)) {
				best = a
			}
		}
		if best.IsValid() {
			return best
		}
	}
	return netip.Addr{}
}

func (b *Book) poolByName(name string) *poolState {
	i, ok := slices.BinarySearchFunc(b.pools, name, func(p *poolState, n string) int { return strings.Compare(p.Name, n) })
	if !ok {
		return nil
	}
	return b.pools[i]
}

// fits returns why addrs are not one of each of fams, or nil.
func fits(addrs []netip.Addr, fams []lb.Family) *Refusal {
	var have []lb.Family
	for _, a := range addrs {
		have = append(have, lb.FamilyOf(a))
	}
	slices.Sort(have)
	if !slices.Equal(have, slices.Sorted(slices.Values(fams))) {
		return refuse(lb.FamilyMismatch, "%s is %s, but the Service's cluster IPs are %s", list(addrs), families(have), families(fams))
	}
	return nil
}

func sameSet(a, b []netip.Addr) bool {
	return slices.Equal(slices.SortedFunc(slices.Values(a), netip.Addr.Compare), slices.SortedFunc(slices.Values(b), netip.Addr.Compare))
}

func list(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, " and ")
}

func families(fams []lb.Family) string {
	s := make([]string, len(fams))
	for i, f := range fams {
		s[i] = f.String()
	}
	return strings.Join(s, " and ")
}
