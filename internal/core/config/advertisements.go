package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

const twicePools = "duplicate definition of ipAddressPools"

func (p *parser) l2(objs Objects) {
	for i := range objs.L2 {
		o := &objs.L2[i]
		adv, ps, unknown := parseL2Adv(o, objs.Pools)
		if len(ps) == 0 {
			ps = p.partly(KindL2Advertisement, o.Name, unknown, len(adv.Pools))
		} else {
			ps = append(ps, unknown...)
		}
		adv = settle(p, object{KindL2Advertisement, o.Name}, adv, ps, p.prev.L2, func(a *L2Adv) string { return a.Name },
			func() *L2Adv { return keptL2Adv(o, objs.Pools) })
		if adv != nil {
			p.cfg.L2 = append(p.cfg.L2, adv)
		}
	}
	slices.SortFunc(p.cfg.L2, func(a, b *L2Adv) int { return strings.Compare(a.Name, b.Name) })
}

// parseL2Adv returns an advertisement of those of its pools that are there, what is
// wrong with it, and which pools are not there.
func parseL2Adv(o *L2Advertisement, pools []IPAddressPool) (adv *L2Adv, ps, unknown problems) { //nolint:nonamedreturns // tells the two
	ps.unique(fieldPools, twicePools, o.Pools)
	ps.selectors("spec.ipAddressPoolSelectors", o.PoolSelectors)
	ps.selectors("spec.nodeSelectors", o.NodeSelectors)
	ps.selectors("spec.serviceSelectors", o.ServiceSelectors)
	for j, pref := range o.Preferred {
		if err := pref.Selector.Validate(); err != nil {
			ps.add(fmt.Sprintf("spec.preferredNodeSelectors[%d].preference", j), lb.InvalidField, "%v", err)
		}
	}
	adv = &L2Adv{
		Name: o.Name, Failback: ps.failback(o.Failback), NodeSelectors: o.NodeSelectors, ServiceSelectors: o.ServiceSelectors,
		Links: slices.Compact(slices.Sorted(slices.Values(o.Interfaces))), Preferred: o.Preferred,
	}
	adv.Pools, unknown = selectPools(o.Pools, o.PoolSelectors, pools)
	return adv, ps, unknown
}

// keptL2Adv returns what the version of an advertisement that was kept says, or nil if
// that makes no sense.
func keptL2Adv(o *L2Advertisement, pools []IPAddressPool) *L2Adv {
	if o.Last == nil {
		return nil
	}
	last := *o.Last
	last.Meta = o.Meta
	adv, ps, unknown := parseL2Adv(&last, pools)
	if len(ps) > 0 || len(unknown) > 0 && len(adv.Pools) == 0 {
		return nil
	}
	return adv
}

// failback reads spec.failback.
func (ps *problems) failback(text string) Failback {
	switch f := Failback(text); f {
	case "":
		return FailbackImmediate
	case FailbackImmediate, FailbackNever:
		return f
	}
	ps.add("spec.failback", lb.InvalidField, "%q is neither %s nor %s", text, FailbackImmediate, FailbackNever)
	return ""
}

func (p *parser) bgp(objs Objects, aliases map[string]community) {
	sorted := slices.SortedFunc(slices.Values(objs.BGP), func(a, b BGPAdvertisement) int { return byAge(a.Meta, b.Meta) })
	for i := range sorted {
		o := &sorted[i]
		adv, ps := parseBGPAdv(o, aliases)
		pools, peers := p.resolve(o, adv, objs)
		if len(ps) == 0 {
			pools = append(pools, p.dropTooNarrow(adv)...)
			ps = p.partly(KindBGPAdvertisement, o.Name, pools, len(adv.Pools))
		} else {
			ps = append(ps, pools...)
		}
		if len(ps) == 0 {
			ps = p.partly(KindBGPAdvertisement, o.Name, peers, len(o.Peers)-len(peers))
		} else {
			ps = append(ps, peers...)
		}
		adv = settle(p, object{KindBGPAdvertisement, o.Name}, adv, ps, p.prev.BGP, func(a *BGPAdv) string { return a.Name },
			func() *BGPAdv { return p.keptBGPAdv(o, objs) })
		if adv != nil {
			p.cfg.BGP = append(p.cfg.BGP, adv)
		}
	}
}

// maxPrepend bounds asPathPrepend: AS paths that are longer are refused by many.
const maxPrepend = 16

func parseBGPAdv(o *BGPAdvertisement, aliases map[string]community) (*BGPAdv, problems) {
	var ps problems
	ps.unique(fieldPools, twicePools, o.Pools)
	ps.unique(fieldPeers, "duplicate definition of peers", o.Peers)
	ps.unique("spec.communities", "duplicate definition of community", o.Communities)
	ps.selectors("spec.ipAddressPoolSelectors", o.PoolSelectors)
	ps.selectors("spec.nodeSelectors", o.NodeSelectors)
	ps.selectors("spec.serviceSelectors", o.ServiceSelectors)
	if o.AggregationLength < 1 || o.AggregationLength > 32 {
		ps.add("spec.aggregationLength", lb.InvalidField, "invalid aggregation length %d for IPv4: it is not between 1 and 32", o.AggregationLength)
	}
	if o.AggregationLengthV6 < 1 || o.AggregationLengthV6 > 128 {
		ps.add("spec.aggregationLengthV6", lb.InvalidField, "invalid aggregation length %d for IPv6: it is not between 1 and 128", o.AggregationLengthV6)
	}
	if len(o.ServiceSelectors) > 0 && (o.AggregationLength != 32 || o.AggregationLengthV6 != 128) {
		ps.add("spec.serviceSelectors", lb.InvalidField,
			"serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default aggregationLength (32) and aggregationLengthV6 (128)")
	}
	if o.Prepend > maxPrepend {
		ps.add("spec.asPathPrepend", lb.InvalidField, "%d is more than %d", o.Prepend, maxPrepend)
	}
	attrs := lb.Attrs{LocalPref: o.LocalPref, Prepend: o.Prepend}
	if o.MED != nil {
		attrs.MED, attrs.HasMED = *o.MED, true
	}
	for i, text := range o.Communities {
		field := fmt.Sprintf("spec.communities[%d]", i)
		c, err := parseCommunity(text)
		if err != nil && strings.Contains(text, ":") {
			ps.add(field, lb.InvalidField, "invalid community %q in BGP advertisement: %v", text, err)
			continue
		} else if err != nil {
			alias, ok := aliases[text]
			if !ok {
				ps.add(field, lb.UnknownReference, "no Community object defines the alias %q", text)
				ps.words("invalid community format: %s\ninvalid community %q in BGP advertisement", text, text)
				continue
			}
			c = alias
		}
		if c.isLarge {
			attrs.LargeCommunities = append(attrs.LargeCommunities, c.large)
		} else {
			attrs.Communities = append(attrs.Communities, c.standard)
		}
	}
	attrs.Normalize()
	return &BGPAdv{
		Name: o.Name, NodeSelectors: o.NodeSelectors, ServiceSelectors: o.ServiceSelectors,
		Length4: o.AggregationLength, Length6: o.AggregationLengthV6, Attrs: attrs, Weigh: o.WeightByEndpoints,
		Peers: slices.Sorted(slices.Values(o.Peers)),
	}, ps
}

// resolve looks up what an advertisement refers to. Pools that are not there are left
// out; it returns what is missing of pools and of peers.
func (p *parser) resolve(o *BGPAdvertisement, adv *BGPAdv, objs Objects) (pools, peers problems) { //nolint:nonamedreturns // tells the two
	adv.Pools, pools = selectPools(o.Pools, o.PoolSelectors, objs.Pools)
	return pools, unknownPeers(o.Peers, objs.Peers)
}

// keptBGPAdv returns what the version of an advertisement that was kept says, or nil if
// that makes no sense.
func (p *parser) keptBGPAdv(o *BGPAdvertisement, objs Objects) *BGPAdv {
	if o.Last == nil {
		return nil
	}
	last := *o.Last
	last.Meta = o.Meta
	adv, ps := parseBGPAdv(&last, nil)
	if len(ps) > 0 {
		return nil
	}
	pools, peers := p.resolve(&last, adv, objs)
	pools = append(pools, p.dropTooNarrow(adv)...)
	if len(pools) > 0 && len(adv.Pools) == 0 || len(peers) > 0 && len(peers) == len(last.Peers) {
		return nil
	}
	return adv
}

// dropTooNarrow takes those pools out of adv whose ranges are narrower than the
// aggregation length: announcing the aggregate would claim foreign addresses.
// As in MetalLB, an entry of a pool fails when even its widest prefix does.
func (p *parser) dropTooNarrow(adv *BGPAdv) problems {
	var ps problems
	for _, name := range slices.Sorted(maps.Keys(adv.Pools)) {
		pool := p.cfg.PoolByName(name)
		if pool == nil {
			continue
		}
		for i, entry := range pool.entries {
			widest := slices.MinFunc(entry, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
			length, field := adv.Length4, "spec.aggregationLength"
			if !widest.Addr().Is4() {
				length, field = adv.Length6, "spec.aggregationLengthV6"
			}
			if widest.Bits() > length {
				ps.add(field, lb.Conflict, "invalid aggregation length %d: prefix %d in this pool is more specific than the aggregation length for addresses %s (IPAddressPool %q)",
					length, widest.Bits(), pool.texts[i], name)
				delete(adv.Pools, name)
				break
			}
		}
	}
	return ps
}

func unknownPeers(names []string, peers []BGPPeer) problems {
	var ps problems
	for i, n := range names {
		if !slices.ContainsFunc(peers, func(q BGPPeer) bool { return q.Name == n }) {
			ps.add(fmt.Sprintf("%s[%d]", fieldPeers, i), lb.UnknownReference, "there is no BGPPeer %q", n)
		}
	}
	return ps
}

// community is a standard or a large community.
type community struct {
	standard lb.Community
	large    lb.LargeCommunity
	isLarge  bool
}

// communities collects all aliases. One that is defined twice, or whose value
// cannot be read, is left out.
func (p *parser) communities(objs []CommunityList) map[string]community {
	aliases := map[string]community{}
	definedBy := map[string]string{}
	for _, o := range slices.SortedFunc(slices.Values(objs), func(a, b CommunityList) int { return byAge(a.Meta, b.Meta) }) {
		var ps problems
		for i, a := range o.Aliases {
			field := fmt.Sprintf("spec.communities[%d]", i)
			c, err := parseCommunity(a.Value)
			switch {
			case err != nil:
				ps.add(field+".value", lb.InvalidField, "parsing community %q: %v", a.Name, err)
			case definedBy[a.Name] != "":
				ps.add(field+".name", lb.Conflict, "duplicate definition of community %q: Community %q defines it already", a.Name, definedBy[a.Name])
			default:
				aliases[a.Name] = c
				definedBy[a.Name] = o.Name
			}
		}
		e := nothing
		if len(ps) < len(o.Aliases) {
			e = theRest
		}
		p.report(KindCommunity, o.Name, ps, e)
	}
	p.cfg.aliases = definedBy
	return aliases
}

// parseCommunity reads "N:N" (RFC 1997) or "large:N:N:N" (RFC 8092).
func parseCommunity(text string) (community, error) {
	parts := strings.Split(text, ":")
	bits := 16
	large := parts[0] == "large"
	switch {
	case large && len(parts) == 4:
		parts, bits = parts[1:], 32
	case len(parts) == 4:
		return community{}, fmt.Errorf("invalid community value: expected community to be of format large:<uint32>:<uint32>:<uint32>, not %q", text)
	case large || len(parts) != 2:
		return community{}, fmt.Errorf("invalid community format: %q is not such as 64512:100 or large:64512:1:2", text)
	}
	var n [3]uint32
	for i, s := range parts {
		v, err := strconv.ParseUint(s, 10, bits)
		if err != nil {
			return community{}, fmt.Errorf("invalid community value: invalid section %q, the %s of the community: it is not a number of %d bits",
				s, []string{"first", "second", "third"}[i], bits)
		}
		n[i] = uint32(v)
	}
	if large {
		return community{large: lb.LargeCommunity{Global: n[0], Local1: n[1], Local2: n[2]}, isLarge: true}, nil
	}
	return community{standard: lb.Community(n[0]<<16 | n[1])}, nil
}
