package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// write is a Change that adds to before what is in more, or puts it in the place of the
// object of that name.
func write(before, more config.Objects) config.Change {
	c := config.Change{Before: before, After: before}
	c.After.Pools = put(&c, config.KindIPAddressPool, before.Pools, more.Pools, func(o config.IPAddressPool) string { return o.Name })
	c.After.L2 = put(&c, config.KindL2Advertisement, before.L2, more.L2, func(o config.L2Advertisement) string { return o.Name })
	c.After.BGP = put(&c, config.KindBGPAdvertisement, before.BGP, more.BGP, func(o config.BGPAdvertisement) string { return o.Name })
	c.After.Peers = put(&c, config.KindBGPPeer, before.Peers, more.Peers, func(o config.BGPPeer) string { return o.Name })
	c.After.BFDProfiles = put(&c, config.KindBFDProfile, before.BFDProfiles, more.BFDProfiles, func(o config.BFDProfile) string { return o.Name })
	c.After.Communities = put(&c, config.KindCommunity, before.Communities, more.Communities, func(o config.CommunityList) string { return o.Name })
	return c
}

func put[T any](c *config.Change, kind string, before, more []T, name func(T) string) []T {
	if len(more) == 0 {
		return before
	}
	c.Kind, c.Name = kind, name(more[0])
	if len(more) > 1 {
		panic("one object is written at a time")
	}
	rest := slices.DeleteFunc(slices.Clone(before), func(o T) bool { return name(o) == c.Name })
	return append(rest, more[0])
}

func pools(ps ...config.IPAddressPool) config.Objects { return config.Objects{Pools: ps} }

func peers(ps ...config.BGPPeer) config.Objects { return config.Objects{Peers: ps} }

//nolint:ireturn // generic
func edited[T any](o T, edit func(*T)) T {
	edit(&o)
	return o
}

func community(name string, age int, aliases ...config.CommunityAlias) config.CommunityList {
	return config.CommunityList{Meta: meta(name, age), Aliases: aliases}
}

func bgps(advs ...config.BGPAdvertisement) config.Objects { return config.Objects{BGP: advs} }

func ads(advs ...config.BGPAdvertisement) config.Objects {
	return config.Objects{
		Pools: []config.IPAddressPool{pool("four", 0, "10.0.0.0/28"), pool("six", 0, "fd00::/120"), pool("both", 0, "10.0.1.0/24", "fd00:1::/120")}, BGP: advs,
	}
}

// TestRefused: what MetalLB's webhooks refuse is refused with MetalLB's words.
func TestRefused(t *testing.T) {
	alias := func(value string) config.Objects {
		return config.Objects{Communities: []config.CommunityList{community("c", 0, config.CommunityAlias{Name: "A", Value: value})}}
	}
	twice := func(name string, age int) config.CommunityList {
		return community(name, age, config.CommunityAlias{Name: "DUP", Value: "1111:2222"})
	}
	sels := []lb.Selector{label("a", "b"), label("a", "b")}
	values := []lb.Selector{{MatchExpressions: []lb.Requirement{{Key: "a", Operator: "In", Values: []string{"x", "x"}}}}}
	req := lb.Requirement{Key: "a", Operator: "Exists"}
	reqs := []lb.Selector{{MatchExpressions: []lb.Requirement{req, req}}}
	unreadable := []lb.Selector{{MatchExpressions: []lb.Requirement{{Key: "a", Operator: "Near"}}}}
	anAd := func(edit func(*config.BGPAdvertisement)) config.Objects {
		return bgps(edited(bgpAdv("new", 9), edit))
	}
	l2 := func(edit func(*config.L2Advertisement)) config.Objects {
		return config.Objects{L2: []config.L2Advertisement{edited(l2adv("new"), edit)}}
	}
	aPeer := func(edit func(*config.BGPPeer)) config.Objects { return peers(edited(peer("new", 9), edit)) }
	allocation := func(edit func(*config.ServiceAllocation)) config.Objects {
		a := &config.ServiceAllocation{}
		edit(a)
		return pools(edited(pool("new", 9, "10.9.0.0/24"), func(p *config.IPAddressPool) { p.Allocation = a }))
	}
	pref := func(name string, age int, value uint32, edit func(*config.BGPAdvertisement)) config.BGPAdvertisement {
		return edited(bgpAdv(name, age, "four"), func(a *config.BGPAdvertisement) {
			a.LocalPref = value
			if edit != nil {
				edit(a)
			}
		})
	}
	seconds := func(n int) *time.Duration {
		d := time.Duration(n) * time.Second
		return &d
	}
	for name, c := range map[string]struct {
		before, write config.Objects
		want          string
	}{
		"overlap with another pool":          {pools(pool("old", 0, "1.1.1.1-1.1.1.100")), pools(pool("new", 1, "1.1.1.15-1.1.1.20")), `CIDR "1.1.1.15-1.1.1.20" in pool "new" overlaps with already defined CIDR "1.1.1.1-1.1.1.100"`},
		"a pool grows into another":          {pools(pool("old", 0, "1.1.1.1-1.1.1.100"), pool("new", 1, "1.1.1.101-1.1.1.200")), pools(pool("new", 1, "1.1.1.0/24")), "overlaps with already defined CIDR"},
		"an older pool grows into another":   {pools(pool("old", 0, "1.1.1.1-1.1.1.100"), pool("new", 1, "1.1.1.101-1.1.1.200")), pools(pool("old", 0, "1.1.1.0/24")), "overlaps with already defined CIDR"},
		"created in one second, by name":     {pools(pool("z", 0, "10.0.0.0/24")), pools(pool("a", 0, "10.0.0.0/25")), "overlaps with already defined CIDR"},
		"overlap within a pool":              {pools(), pools(pool("new", 0, "1.1.1.0/24", "1.1.1.7-1.1.1.8")), `in pool "new" overlaps with already defined CIDR`},
		"no CIDR":                            {pools(), pools(pool("new", 0, "1.1.1")), `invalid CIDR "1.1.1" in pool "new"`},
		"range backwards":                    {pools(), pools(pool("new", 0, "1.1.1.9-1.1.1.1")), `invalid CIDR "1.1.1.9-1.1.1.1" in pool "new"`},
		"no addresses":                       {pools(), pools(pool("new", 0)), "pool has no prefixes defined"},
		"namespace twice":                    {pools(), allocation(func(a *config.ServiceAllocation) { a.Namespaces = []string{"x", "x"} }), "duplicate definition in namespaces field"},
		"namespace selector twice":           {pools(), allocation(func(a *config.ServiceAllocation) { a.NamespaceSelectors = sels }), "duplicate definition of namespaceSelectors"},
		"service selector twice":             {pools(), allocation(func(a *config.ServiceAllocation) { a.ServiceSelectors = sels }), "duplicate definition of serviceSelectors"},
		"aggregation of a pool":              {ads(), anAd(func(a *config.BGPAdvertisement) { a.Pools, a.AggregationLength = []string{"four"}, 26 }), "invalid aggregation length 26: prefix 28 in this pool is more specific than the aggregation length for addresses 10.0.0.0/28"},
		"aggregation of one of several":      {ads(), anAd(func(a *config.BGPAdvertisement) { a.AggregationLength = 26 }), "invalid aggregation length 26: prefix 28 in this pool"},
		"aggregation of IPv6":                {ads(), anAd(func(a *config.BGPAdvertisement) { a.AggregationLengthV6 = 64 }), "in this pool is more specific than the aggregation length for addresses fd00::/120"},
		"too long for IPv4":                  {ads(), anAd(func(a *config.BGPAdvertisement) { a.AggregationLength = 33 }), "invalid aggregation length 33 for IPv4"},
		"too long for IPv6":                  {ads(), anAd(func(a *config.BGPAdvertisement) { a.AggregationLengthV6 = 129 }), "invalid aggregation length 129 for IPv6"},
		"aggregation of chosen Services":     {ads(), anAd(func(a *config.BGPAdvertisement) { a.ServiceSelectors, a.AggregationLength = sels[:1], 24 }), "serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default aggregationLength (32) and aggregationLengthV6 (128)"},
		"community out of range":             {ads(), anAd(func(a *config.BGPAdvertisement) { a.Communities = []string{"1:99999999"} }), `invalid community "1:99999999" in BGP advertisement: invalid community value: invalid section "99999999"`},
		"community twice":                    {ads(), anAd(func(a *config.BGPAdvertisement) { a.Communities = []string{"1:2", "1:2"} }), `duplicate definition of community "1:2"`},
		"unknown peer twice":                 {ads(), anAd(func(a *config.BGPAdvertisement) { a.Peers = []string{"x", "x"} }), `duplicate definition of peers "x"`},
		"pool twice":                         {ads(), anAd(func(a *config.BGPAdvertisement) { a.Pools = []string{"four", "four"} }), `duplicate definition of ipAddressPools "four"`},
		"pool selector twice":                {ads(), anAd(func(a *config.BGPAdvertisement) { a.PoolSelectors = sels }), "duplicate definition of ipAddressPoolSelectors"},
		"node selector twice":                {ads(), anAd(func(a *config.BGPAdvertisement) { a.NodeSelectors = sels }), "duplicate definition of nodeSelectors"},
		"two preferences":                    {ads(pref("old", 0, 100, nil)), bgps(pref("new", 1, 200, nil)), "invalid local preference 200: local preference 100 was already set for the same type of BGP update"},
		"a preference and none":              {ads(pref("old", 0, 0, nil)), bgps(pref("new", 1, 200, nil)), "invalid local preference 200: local preference 0 was already set"},
		"two preferences, unknown alias":     {ads(pref("old", 0, 100, nil)), bgps(pref("new", 1, 200, func(a *config.BGPAdvertisement) { a.Communities = []string{"later"} })), "invalid local preference 200"},
		"L2: unknown pool twice":             {pools(), l2(func(a *config.L2Advertisement) { a.Pools = []string{"x", "x"} }), "duplicate definition of ipAddressPools"},
		"L2: pool selector twice":            {pools(), l2(func(a *config.L2Advertisement) { a.PoolSelectors = sels }), "duplicate definition of ipAddressPoolSelectors"},
		"L2: node selector twice":            {pools(), l2(func(a *config.L2Advertisement) { a.NodeSelectors = sels }), "duplicate definition of nodeSelectors"},
		"L2: value twice":                    {pools(), l2(func(a *config.L2Advertisement) { a.NodeSelectors = values }), "duplicate definition of match expression value in label selector"},
		"L2: expression twice":               {pools(), l2(func(a *config.L2Advertisement) { a.NodeSelectors = reqs }), "duplicate definition of match expressions"},
		"L2: selector makes no sense":        {pools(), l2(func(a *config.L2Advertisement) { a.ServiceSelectors = unreadable }), "invalid label selector"},
		"alias out of range":                 {alias("1:2"), alias("99999999:1"), `parsing community "A": invalid community value: invalid section "99999999"`},
		"large alias out of range":           {pools(), alias("large:99999999999:1:1"), "invalid community value: invalid section"},
		"alias of another form":              {pools(), alias("1:2:3"), "invalid community format"},
		"alias like a large one":             {pools(), alias("lar:123:9999:123"), "invalid community value: expected community to be of format large"},
		"alias twice in one object":          {pools(), config.Objects{Communities: []config.CommunityList{community("c", 0, twice("", 0).Aliases[0], twice("", 0).Aliases[0])}}, `duplicate definition of community "DUP"`},
		"alias twice in two":                 {config.Objects{Communities: []config.CommunityList{twice("a", 0)}}, config.Objects{Communities: []config.CommunityList{twice("b", 1)}}, `duplicate definition of community "DUP"`},
		"peer: no myASN":                     {peers(), aPeer(func(p *config.BGPPeer) { p.MyASN = 0 }), "missing local ASN"},
		"peer: no peerASN":                   {peers(), aPeer(func(p *config.BGPPeer) { p.PeerASN = 0 }), "missing peer ASN and dynamicASN"},
		"peer: two ASNs":                     {peers(), aPeer(func(p *config.BGPPeer) { p.DynamicASN = "internal" }), "both peer ASN and dynamicASN specified"},
		"peer: multihop to ourselves":        {peers(), aPeer(func(p *config.BGPPeer) { p.MultiHop, p.PeerASN = true, p.MyASN }), "invalid ebgp-multihop parameter set for an ibgp peer"},
		"peer: address":                      {peers(), aPeer(func(p *config.BGPPeer) { p.PeerAddress = "1.1.1" }), `invalid BGPPeer address "1.1.1"`},
		"peer: no address":                   {peers(), aPeer(func(p *config.BGPPeer) { p.PeerAddress = "" }), "BGPPeer address"},
		"peer: address and interface":        {peers(), aPeer(func(p *config.BGPPeer) { p.Interface = "eth0" }), "BGPPeer address"},
		"peer: hold time":                    {peers(), aPeer(func(p *config.BGPPeer) { p.HoldTime = seconds(2) }), `invalid hold time "2s": must be 0 or >=3s`},
		"peer: keepalive":                    {peers(), aPeer(func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = seconds(9), seconds(10) }), `invalid keepaliveTime "10s", must be lower than holdTime "9s"`},
		"peer: router ID":                    {peers(), aPeer(func(p *config.BGPPeer) { p.RouterID = "x" }), `invalid router ID "x"`},
		"peer: source":                       {peers(), aPeer(func(p *config.BGPPeer) { p.SourceAddress = "x" }), `invalid source IP "x"`},
		"peer: node selector twice":          {peers(), aPeer(func(p *config.BGPPeer) { p.NodeSelectors = sels }), "duplicate definition of nodeSelectors"},
		"peer: two passwords":                {peers(), aPeer(func(p *config.BGPPeer) { p.Password, p.PasswordSecret = "x", "y" }), "can not have both password and secret ref set in peer config"},
		"peer: the same once more":           {peers(peer("old", 0)), aPeer(func(*config.BGPPeer) {}), "peer 192.168.1.1:179 already exists"},
		"peer: the same on a node":           {peers(edited(peer("old", 0), func(p *config.BGPPeer) { p.NodeSelectors = []lb.Selector{label("rack", "1")} })), aPeer(func(*config.BGPPeer) {}), "duplicate BGPPeers"},
		"peer: the same with unknown things": {peers(peer("old", 0)), aPeer(func(p *config.BGPPeer) { p.BFDProfile, p.PasswordSecret = "later", "later" }), "duplicate BGPPeers"},
	} {
		t.Run(name, func(t *testing.T) {
			change := write(c.before, c.write)
			change.Nodes = []lb.Node{{Name: "n1", Labels: map[string]string{"rack": "1"}}, {Name: "n2", Labels: map[string]string{"rack": "2"}}}
			v := config.Admit(change)
			if len(v.Warnings) > 0 && !strings.Contains(name, "unknown") {
				t.Errorf("warnings: %v", v.Warnings)
			}
			if !slices.ContainsFunc(v.Refused, func(p config.Problem) bool { return p.Kind == change.Kind && strings.Contains(p.Message, c.want) }) {
				t.Errorf("refused: %v, want %q", v.Refused, c.want)
			}
			// What is there already is in the way of nothing.
			change.Before = change.After
			if v := config.Admit(change); len(v.Refused)+len(v.Warnings) > 0 {
				t.Errorf("the same once more is refused: %+v", v)
			}
		})
	}
}

// TestAdmitted: what is right, or can be put right by another object, is not refused.
func TestAdmitted(t *testing.T) {
	on := func(rack string) []lb.Selector { return []lb.Selector{label("rack", rack)} }
	pref := func(name string, value uint32, edit func(*config.BGPAdvertisement)) config.BGPAdvertisement {
		return edited(bgpAdv(name, int(value), "both"), func(a *config.BGPAdvertisement) {
			a.LocalPref = value
			edit(a)
		})
	}
	old := func(edit func(*config.BGPAdvertisement)) config.Objects { return ads(pref("old", 1, edit)) }
	other := func(edit func(*config.BGPAdvertisement)) config.Objects {
		return bgps(pref("new", 2, edit))
	}
	bad := pool("bad", 0, "10.0.0.0/33")
	for name, c := range map[string]struct {
		before, write config.Objects
		warnings      []string // "Kind Name Field"
	}{
		"a good pool":          {pools(bad), pools(pool("new", 1, "10.0.0.0/24")), nil},
		"labels of a bad pool": {pools(bad), pools(labelled(bad, map[string]string{"a": "b"})), nil},
		"a bad pool is mended": {pools(bad), pools(pool("bad", 0, "10.0.0.0/24")), nil},
		"a pool under an advertisement that does not fit": {
			bgps(edited(bgpAdv("ad", 0), func(a *config.BGPAdvertisement) { a.AggregationLength = 24 })),
			pools(pool("new", 0, "10.0.0.0/28")),
			[]string{"BGPAdvertisement ad spec.aggregationLength"},
		},
		"an advertisement before its pool": {pools(), config.Objects{L2: []config.L2Advertisement{l2adv("new", "later")}}, []string{"L2Advertisement new spec.ipAddressPools[0]"}},
		"an alias before its Community":    {ads(), other(func(a *config.BGPAdvertisement) { a.Communities = []string{"later"} }), []string{"BGPAdvertisement new spec.communities[0]"}},
		"a peer before its profile":        {peers(), peers(edited(peer("new", 0), func(p *config.BGPPeer) { p.BFDProfile = "later" })), []string{"BGPPeer new spec.bfdProfile"}},
		"a peer before its Secret":         {peers(), peers(edited(peer("new", 0), func(p *config.BGPPeer) { p.PasswordSecret = "later" })), nil},
		"the same peer on other nodes": {
			peers(edited(peer("old", 0), func(p *config.BGPPeer) { p.NodeSelectors = on("1") })),
			peers(edited(peer("new", 1), func(p *config.BGPPeer) { p.NodeSelectors = on("2") })), nil,
		},
		"the same peer on another port": {peers(peer("old", 0)), peers(edited(peer("new", 1), func(p *config.BGPPeer) { p.PeerPort = 180 })), nil},
		"another preference to other peers": {
			old(func(a *config.BGPAdvertisement) { a.Peers = []string{"x"} }), other(func(a *config.BGPAdvertisement) { a.Peers = []string{"y"} }),
			[]string{"BGPAdvertisement new spec.peers[0]"},
		},
		"another preference on other nodes":      {old(func(a *config.BGPAdvertisement) { a.NodeSelectors = on("1") }), other(func(a *config.BGPAdvertisement) { a.NodeSelectors = on("2") }), nil},
		"another preference of other prefixes":   {old(func(*config.BGPAdvertisement) {}), other(func(a *config.BGPAdvertisement) { a.AggregationLength, a.AggregationLengthV6 = 24, 120 }), nil},
		"another preference for chosen Services": {old(func(*config.BGPAdvertisement) {}), other(func(a *config.BGPAdvertisement) { a.ServiceSelectors = on("1") }), nil},
		"another preference of other pools":      {old(func(*config.BGPAdvertisement) {}), other(func(a *config.BGPAdvertisement) { a.Pools = []string{"four"} }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			change := write(c.before, c.write)
			change.Nodes = []lb.Node{{Name: "n1", Labels: map[string]string{"rack": "1"}}, {Name: "n2", Labels: map[string]string{"rack": "2"}}}
			v := config.Admit(change)
			var warnings []string
			for _, p := range v.Warnings {
				warnings = append(warnings, p.Kind+" "+p.Name+" "+p.Field)
			}
			if d := cmp.Diff(c.warnings, warnings, cmpopts.EquateEmpty()); d != "" || len(v.Refused) > 0 {
				t.Errorf("refused: %v, warnings (-want +got):\n%s", v.Refused, d)
			}
		})
	}
}

// TestProfileInUse: a BFDProfile that a BGPPeer names stays.
func TestProfileInUse(t *testing.T) {
	before := peers(peer("plain", 0), edited(peer("watched", 0), func(p *config.BGPPeer) { p.BFDProfile = "fast" }))
	for name, want := range map[string]string{"fast": "failed to delete BFDProfile fast, used by BGPPeer watched", "slow": ""} {
		v := config.Admit(config.Change{Kind: config.KindBFDProfile, Name: name, Deletes: true, Before: before, After: before})
		got := ""
		if len(v.Refused) > 0 {
			got = v.Refused[0].Message
		}
		if got != want || len(v.Refused) > 1 {
			t.Errorf("%s: %v, want %q", name, v.Refused, want)
		}
	}
}

// TestNoNodesKnown: then two selectors may well match one node.
func TestNoNodesKnown(t *testing.T) {
	v := config.Admit(write(
		peers(edited(peer("old", 0), func(p *config.BGPPeer) { p.NodeSelectors = []lb.Selector{label("a", "1")} })),
		peers(edited(peer("new", 1), func(p *config.BGPPeer) { p.NodeSelectors = []lb.Selector{label("a", "2")} }))))
	if len(v.Refused) != 1 {
		t.Errorf("refused: %v", v.Refused)
	}
}
