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
	// Guarded says why it would have lost them but for [Book.Guard], or nil.
	Guarded *Refusal
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
		pool, guarded, why := b.keeps(svc, have, fams)
		switch {
		case why == nil && svc.RequestErr == "":
			d := b.upgrade(svc, have, fams, pool)
			d.Guarded = guarded
			return d
		case why == nil: // a typing error must not cost an address
			return Decision{Addrs: have, Pool: pool, Refused: refuse(lb.InvalidRequest, "%s", svc.RequestErr), Guarded: guarded}
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
// guarded is what the pools have against it, where they are not heeded.
func (b *Book) keeps(svc *lb.Service, have []netip.Addr, fams []lb.Family) (name string, guarded, why *Refusal) {
	oneOfTwo := len(have) == 1 && svc.FamilyPolicy == lb.PreferDualStack && slices.Contains(fams, lb.FamilyOf(have[0]))
	if why := fits(have, fams); why != nil && !oneOfTwo {
		return "", nil, why
	}
	if len(svc.Requested) > 0 && !sameSet(svc.Requested, have) {
		return "", nil, refuse(lb.InvalidRequest, "it asks for %s now", List(svc.Requested))
	}
	name, why = b.poolOf(svc, have)
	if why != nil && b.guard && sameSet(svc.Addrs, have) {
		name, guarded, why = svc.Pool, why, nil
	}
	if why != nil {
		return "", nil, why
	}
	if svc.RequestedPool != "" && svc.RequestedPool != name {
		why := refuse(lb.PoolNotAllowed, "it asks for pool %q now, and %s is from %q", svc.RequestedPool, List(have), name)
		if !b.guard || svc.Pool != svc.RequestedPool || !sameSet(svc.Addrs, have) { // else the pools have changed, not the Service
			return "", nil, why
		}
		name, guarded = svc.Pool, why
	}
	for _, a := range have {
		if why := b.conflict(svc, a); why != nil {
			return "", nil, why
		}
	}
	return name, guarded, nil
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
			return "", refuse(lb.AddressNotInPool, "%s are not from one IPAddressPool", List(addrs))
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
	want := other(fams, lb.FamilyOf(have[0]))
	o := b.offers(svc)
	second := p.lowest(o, want, false)
	if !second.IsValid() {
		second = p.lowest(o, want, true)
	}
	if !second.IsValid() {
		d.Refused = noSecond(pool, want)
		return d
	}
	d.Addrs = append(slices.Clone(have), second)
	return d
}

// noSecond says why a Service that prefers two addresses has one.
func noSecond(pool string, want lb.Family) *Refusal {
	return refuse(lb.PoolExhausted, "IPAddressPool %q has no %s address for a second one", pool, want)
}

// other returns the one of two families that is not f.
func other(fams []lb.Family, f lb.Family) lb.Family {
	if fams[0] == f {
		return fams[1]
	}
	return fams[0]
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
		case p.Terminating:
			return Decision{Refused: refuse(lb.PoolNotFound, "annotation address-pool: the IPAddressPool %q is being deleted", svc.RequestedPool)}
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
	if p := b.poolByName(name); why == nil && p != nil && p.Terminating {
		why = refuse(lb.AddressNotInPool, "%s is from IPAddressPool %q, which is being deleted", List(svc.Requested), name)
	}
	if why == nil && svc.RequestedPool != "" && svc.RequestedPool != name {
		why = refuse(lb.AddressNotInPool, "%s is not from the requested pool %q but from %q", List(svc.Requested), svc.RequestedPool, name)
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
		case !p.AutoAssign || p.Terminating:
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
	if p.Allocation == nil || p.Allocation.Priority == 0 {
		return math.MaxInt
	}
	return p.Allocation.Priority
}

// first takes addresses from the first tier of pools that has any.
func (b *Book) first(svc *lb.Service, fams []lb.Family, tiers ...[]*poolState) Decision {
	o := b.offers(svc)
	if d, ok := again(slices.Concat(tiers...), o, fams); ok {
		return d
	}
	for _, pools := range tiers {
		if d, ok := from(pools, o, svc.FamilyPolicy, fams); ok {
			return d
		}
	}
	var names []string
	tried := map[*poolState]bool{}
	for _, p := range slices.Concat(tiers...) {
		names = append(names, p.Name)
		tried[p] = true
	}
	note := ""
	if n := b.onWireIn(tried, fams); n > 0 {
		note = fmt.Sprintf(" (others on the wire use %d)", n)
	}
	return Decision{Refused: refuse(lb.PoolExhausted, "no %s address is free in IPAddressPool %s%s", families(fams), strings.Join(names, ", "), note)}
}

// onWireIn counts the addresses of some pools that others on the wire use.
func (b *Book) onWireIn(pools map[*poolState]bool, fams []lb.Family) int {
	n := 0
	for a := range b.onWire {
		if r, ok := b.rangeOf(a); ok && pools[r.pool] && len(b.byAddr[a]) == 0 && slices.Contains(fams, lb.FamilyOf(a)) {
			n++
		}
	}
	return n
}

// again gives a Service what it has or had before, and what it lacks from the same
// pool, whatever other pools may come first.
func again(pools []*poolState, o offers, fams []lb.Family) (Decision, bool) {
	for _, p := range pools {
		if !p.givesAny(o.own, fams) {
			continue
		}
		for _, alsoKept := range []bool{false, true} {
			if addrs := p.each(o, ordered(fams), alsoKept); addrs != nil {
				return Decision{Addrs: addrs, Pool: p.Name}, true
			}
		}
	}
	return Decision{}, false
}

// givesAny reports whether one of addrs is of one of fams and given by p.
func (p *poolState) givesAny(addrs []netip.Addr, fams []lb.Family) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return p.gives(a) && slices.Contains(fams, lb.FamilyOf(a)) })
}

// ordered returns fams with IPv4 first, as MetalLB writes addresses.
func ordered(fams []lb.Family) []lb.Family { return slices.Sorted(slices.Values(fams)) }

// from takes addresses for all families from one of the pools, and reports whether
// there was one. A Service that merely prefers two families takes one if no pool
// has both. The pool that its present address is from comes first: the second
// address shall be from there, and the one that stays shall not change.
func from(pools []*poolState, o offers, policy lb.FamilyPolicy, fams []lb.Family) (Decision, bool) {
	tries := [][]lb.Family{ordered(fams)}
	if len(fams) == 2 && policy == lb.PreferDualStack {
		tries = append(tries, fams[:1], fams[1:])
	}
	groups := byPriority(pools)
	if i := slices.IndexFunc(pools, func(p *poolState) bool { return p.givesAny(o.own, fams) }); i > 0 {
		groups = slices.Insert(groups, 0, pools[i:i+1])
	}
	for _, try := range tries {
		for _, group := range groups {
			p, addrs := group.each(o, try)
			if addrs == nil {
				continue
			}
			d := Decision{Addrs: addrs, Pool: p.Name}
			if len(addrs) < len(fams) {
				d.Refused = noSecond(p.Name, other(fams, try[0]))
			}
			return d, true
		}
	}
	return Decision{}, false
}

// group is pools that are equally good.
type group []*poolState

// byPriority groups pools, which are in the order of choice.
func byPriority(pools []*poolState) []group {
	var out []group
	for i := range pools {
		if i == 0 || priority(pools[i-1]) != priority(pools[i]) {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], pools[i])
	}
	return out
}

// each returns one address of every family from the first pool of g that has them,
// or nil. What is kept back for former holders is taken only if no pool of g has
// others.
func (g group) each(o offers, fams []lb.Family) (*poolState, []netip.Addr) {
	for _, alsoKept := range []bool{false, true} {
		for _, p := range g {
			if addrs := p.each(o, fams, alsoKept); addrs != nil {
				return p, addrs
			}
		}
	}
	return nil, nil
}

// each returns one address of every family from p, or nil.
func (p *poolState) each(o offers, fams []lb.Family, alsoKept bool) []netip.Addr {
	var out []netip.Addr
	for _, f := range fams {
		a := p.lowest(o, f, alsoKept)
		if !a.IsValid() {
			return nil
		}
		out = append(out, a)
	}
	return out
}

// lowest returns the address that the Service has already, or had before; else the
// first of the pool that it can have: free, or shared under its key; else, if
// alsoKept is set, the first of those that are kept back for others.
func (p *poolState) lowest(o offers, fam lb.Family, alsoKept bool) netip.Addr { //nolint:revive // of what it may take
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
	if !alsoKept {
		return netip.Addr{}
	}
	for i, r := range p.Ranges {
		if lb.FamilyOf(r.First) == fam && len(p.kept[i]) > 0 {
			return p.kept[i][0].First
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
		return refuse(lb.FamilyMismatch, "%s is %s, but the Service's cluster IPs are %s", List(addrs), families(have), families(fams))
	}
	return nil
}

func sameSet(a, b []netip.Addr) bool {
	return slices.Equal(slices.SortedFunc(slices.Values(a), netip.Addr.Compare), slices.SortedFunc(slices.Values(b), netip.Addr.Compare))
}

// List prints addresses for people.
func List(addrs []netip.Addr) string {
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
