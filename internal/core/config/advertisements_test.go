package config_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

func names(n config.Names) []string { return slices.Sorted(maps.Keys(n)) }

func TestSelectedPools(t *testing.T) {
	pools := []config.IPAddressPool{
		labelled(pool("a", 0, "10.0.0.0/24"), map[string]string{"zone": "a"}),
		labelled(pool("b", 0, "10.0.1.0/24"), map[string]string{"zone": "b"}),
		pool("c", 0, "10.0.2.0/24"),
		labelled(pool("aside", 0, "junk"), map[string]string{"zone": "a"}),
	}
	for name, c := range map[string]struct {
		pools []string
		sels  []lb.Selector
		want  []string
	}{
		"neither: all":      {nil, nil, []string{"a", "aside", "b", "c"}},
		"by name":           {[]string{"c"}, nil, []string{"c"}},
		"by selector":       {nil, []lb.Selector{label("zone", "a")}, []string{"a", "aside"}}, // what is held from it stays announced
		"union":             {[]string{"c"}, []lb.Selector{label("zone", "b"), label("zone", "a")}, []string{"a", "aside", "b", "c"}},
		"both ways":         {[]string{"b"}, []lb.Selector{label("zone", "b")}, []string{"b"}},
		"selector for none": {nil, []lb.Selector{label("zone", "x")}, nil},
	} {
		l2, bgp := l2adv("adv", c.pools...), bgpAdv("adv", 0, c.pools...)
		l2.PoolSelectors, bgp.PoolSelectors = c.sels, c.sels
		got := config.Parse(config.Objects{Pools: pools, L2: []config.L2Advertisement{l2}, BGP: []config.BGPAdvertisement{bgp}}, nil)
		if len(got.Problems) != 1 { // that of the pool
			t.Errorf("%s: %v", name, got.Problems)
		}
		for _, set := range []config.Names{got.L2[0].Pools, got.BGP[0].Pools} {
			if d := cmp.Diff(c.want, names(set)); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		}
	}
}

func TestL2AdvInForce(t *testing.T) {
	a := l2adv("adv", "p")
	a.Interfaces = []string{"eth1", "eth0", "eth1"}
	a.NodeSelectors = []lb.Selector{label("n", "1")}
	a.ServiceSelectors = []lb.Selector{label("s", "1")}
	a.Preferred = []config.Preference{{Weight: 3, Selector: label("z", "1")}}
	c := config.Parse(config.Objects{Pools: []config.IPAddressPool{pool("p", 0, "10.0.0.0/24")}, L2: []config.L2Advertisement{a}}, nil)
	checkProblems(t, c)
	want := []*config.L2Adv{{
		Name: "adv", Pools: config.Names{"p": true}, NodeSelectors: a.NodeSelectors, ServiceSelectors: a.ServiceSelectors,
		Links: []string{"eth0", "eth1"}, Preferred: a.Preferred, Failback: config.FailbackImmediate,
	}}
	if d := cmp.Diff(want, c.L2); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestFailback(t *testing.T) {
	for text, want := range map[string]config.Failback{
		"": config.FailbackImmediate, "Immediate": config.FailbackImmediate, "Never": config.FailbackNever,
	} {
		a := l2adv("adv")
		a.Failback = text
		c := config.Parse(config.Objects{L2: []config.L2Advertisement{a}}, nil)
		checkProblems(t, c)
		if len(c.L2) != 1 || c.L2[0].Failback != want {
			t.Errorf("%q: got %+v, want %s", text, c.L2, want)
		}
	}
}

func TestBadL2Adv(t *testing.T) {
	bad := lb.Selector{MatchExpressions: []lb.Requirement{{Key: "a", Operator: "In"}}}
	twice := []lb.Selector{label("a", "b"), label("a", "b")}
	for name, c := range map[string]struct {
		edit  func(*config.L2Advertisement)
		field string
	}{
		"pool twice":           {func(a *config.L2Advertisement) { a.Pools = []string{"p", "p"} }, "spec.ipAddressPools[1]"},
		"bad pool selector":    {func(a *config.L2Advertisement) { a.PoolSelectors = []lb.Selector{bad} }, "spec.ipAddressPoolSelectors[0]"},
		"bad node selector":    {func(a *config.L2Advertisement) { a.NodeSelectors = []lb.Selector{{}, bad} }, "spec.nodeSelectors[1]"},
		"node selector twice":  {func(a *config.L2Advertisement) { a.NodeSelectors = twice }, "spec.nodeSelectors[1]"},
		"bad service selector": {func(a *config.L2Advertisement) { a.ServiceSelectors = []lb.Selector{bad} }, "spec.serviceSelectors[0]"},
		"bad failback":         {func(a *config.L2Advertisement) { a.Failback = "never" }, "spec.failback"},
		"bad preference": {
			func(a *config.L2Advertisement) { a.Preferred = []config.Preference{{Weight: 1, Selector: bad}} },
			"spec.preferredNodeSelectors[0].preference",
		},
	} {
		a := l2adv("adv", "p")
		objs := config.Objects{Pools: []config.IPAddressPool{pool("p", 0, "10.0.0.0/24")}, L2: []config.L2Advertisement{a, l2adv("other", "p")}}
		prev := config.Parse(objs, nil)
		c.edit(&objs.L2[0])
		t.Run(name, func(t *testing.T) {
			got := config.Parse(objs, nil)
			checkProblems(t, got, config.Problem{Kind: "L2Advertisement", Name: "adv", Field: c.field, Reason: lb.InvalidField})
			if len(got.L2) != 1 || got.L2[0].Name != "other" {
				t.Errorf("in force: %v", got.L2)
			}
			got = config.Parse(objs, prev)
			checkProblems(t, got, config.Problem{Kind: "L2Advertisement", Name: "adv", Field: c.field, Reason: lb.InvalidField, InForce: true, LastGood: true})
			if d := cmp.Diff(prev.L2, got.L2); d != "" {
				t.Errorf("last good version (-want +got):\n%s", d)
			}
		})
	}
}

func TestUnknownPoolInAdvertisement(t *testing.T) {
	objs := func(l2, bgp []string) config.Objects {
		return config.Objects{
			Pools: []config.IPAddressPool{pool("a", 0, "10.0.0.0/24"), pool("b", 0, "10.0.1.0/24")},
			L2:    []config.L2Advertisement{l2adv("adv", l2...), l2adv("other")},
			BGP:   []config.BGPAdvertisement{bgpAdv("adv", 0, bgp...), bgpAdv("other", 1)},
		}
	}
	problem := func(kind, field string, inForce bool) config.Problem {
		return config.Problem{Kind: kind, Name: "adv", Field: field, Reason: lb.UnknownReference, InForce: inForce}
	}
	last := func(p config.Problem) config.Problem {
		p.LastGood = true
		return p
	}
	some := []string{"nope", "a"}
	c := config.Parse(objs(some, some), nil)
	checkProblems(t, c, problem("BGPAdvertisement", "spec.ipAddressPools[0]", true), problem("L2Advertisement", "spec.ipAddressPools[0]", true))
	if d := cmp.Diff([][]string{{"a"}, {"a"}}, [][]string{names(c.L2[0].Pools), names(c.BGP[0].Pools)}); d != "" {
		t.Errorf("the rest in force (-want +got):\n%s", d)
	}

	none := []string{"nope", "nix"}
	c = config.Parse(objs(none, none), nil)
	checkProblems(t, c,
		problem("BGPAdvertisement", "spec.ipAddressPools[0]", false), problem("BGPAdvertisement", "spec.ipAddressPools[1]", false),
		problem("L2Advertisement", "spec.ipAddressPools[0]", false), problem("L2Advertisement", "spec.ipAddressPools[1]", false))
	if len(c.L2) != 1 || c.L2[0].Name != "other" || len(c.BGP) != 1 || c.BGP[0].Name != "other" {
		t.Errorf("in force: %v and %v", c.L2, c.BGP)
	}

	// A typing error in the only name withdraws nothing.
	c = config.Parse(objs([]string{"bb"}, []string{"bb"}), config.Parse(objs([]string{"b"}, []string{"b"}), nil))
	checkProblems(t, c, last(problem("BGPAdvertisement", "spec.ipAddressPools[0]", true)), last(problem("L2Advertisement", "spec.ipAddressPools[0]", true)))
	if d := cmp.Diff([][]string{{"b"}, {"b"}}, [][]string{names(c.L2[0].Pools), names(c.BGP[0].Pools)}); d != "" {
		t.Errorf("last good version (-want +got):\n%s", d)
	}
}

func TestUnknownPeerInAdvertisement(t *testing.T) {
	objs := func(peers ...string) config.Objects {
		a := bgpAdv("adv", 0)
		a.Peers = peers
		return config.Objects{Pools: []config.IPAddressPool{pool("a", 0, "10.0.0.0/24")}, BGP: []config.BGPAdvertisement{a}, Peers: []config.BGPPeer{peer("one", 0)}}
	}
	want := config.Problem{Kind: "BGPAdvertisement", Name: "adv", Field: "spec.peers[1]", Reason: lb.UnknownReference, InForce: true}
	c := config.Parse(objs("one", "nobody"), nil)
	checkProblems(t, c, want)
	if d := cmp.Diff([]string{"nobody", "one"}, c.BGP[0].Peers); d != "" {
		t.Errorf("peers (-want +got):\n%s", d)
	}
	want.Field, want.InForce = "spec.peers[0]", false
	c = config.Parse(objs("nobody"), nil)
	checkProblems(t, c, want)
	if len(c.BGP) != 0 {
		t.Error("an advertisement to nobody is in force")
	}
	want.InForce, want.LastGood = true, true
	c = config.Parse(objs("nobody"), config.Parse(objs("one"), nil))
	checkProblems(t, c, want)
	if d := cmp.Diff([]string{"one"}, c.BGP[0].Peers); d != "" {
		t.Errorf("last good version (-want +got):\n%s", d)
	}
	checkProblems(t, config.Parse(objs(), nil))
}

func TestBadBGPAdv(t *testing.T) {
	sel := []lb.Selector{label("a", "b")}
	for name, c := range map[string]struct {
		edit   func(*config.BGPAdvertisement)
		field  string // "" if it is good
		reason lb.Reason
	}{
		"default":                  {func(*config.BGPAdvertisement) {}, "", ""},
		"length 0":                 {func(a *config.BGPAdvertisement) { a.AggregationLength = 0 }, "spec.aggregationLength", lb.InvalidField},
		"length 33":                {func(a *config.BGPAdvertisement) { a.AggregationLength = 33 }, "spec.aggregationLength", lb.InvalidField},
		"length6 0":                {func(a *config.BGPAdvertisement) { a.AggregationLengthV6 = 0 }, "spec.aggregationLengthV6", lb.InvalidField},
		"length6 129":              {func(a *config.BGPAdvertisement) { a.AggregationLengthV6 = 129 }, "spec.aggregationLengthV6", lb.InvalidField},
		"service selectors":        {func(a *config.BGPAdvertisement) { a.ServiceSelectors = sel }, "", ""},
		"selectors and length":     {func(a *config.BGPAdvertisement) { a.ServiceSelectors, a.AggregationLength = sel, 30 }, "spec.serviceSelectors", lb.InvalidField},
		"selectors and length6":    {func(a *config.BGPAdvertisement) { a.ServiceSelectors, a.AggregationLengthV6 = sel, 64 }, "spec.serviceSelectors", lb.InvalidField},
		"pool twice":               {func(a *config.BGPAdvertisement) { a.Pools = []string{"p", "p"} }, "spec.ipAddressPools[1]", lb.InvalidField},
		"peer twice":               {func(a *config.BGPAdvertisement) { a.Peers = []string{"r", "r"} }, "spec.peers[1]", lb.InvalidField},
		"community twice":          {func(a *config.BGPAdvertisement) { a.Communities = []string{"1:2", "1:2"} }, "spec.communities[1]", lb.InvalidField},
		"junk community":           {func(a *config.BGPAdvertisement) { a.Communities = []string{"1:2", "1:x"} }, "spec.communities[1]", lb.InvalidField},
		"17 bits":                  {func(a *config.BGPAdvertisement) { a.Communities = []string{"65536:1"} }, "spec.communities[0]", lb.InvalidField},
		"33 bits":                  {func(a *config.BGPAdvertisement) { a.Communities = []string{"large:4294967296:1:2"} }, "spec.communities[0]", lb.InvalidField},
		"large of two":             {func(a *config.BGPAdvertisement) { a.Communities = []string{"large:1:2"} }, "spec.communities[0]", lb.InvalidField},
		"three, but not large":     {func(a *config.BGPAdvertisement) { a.Communities = []string{"1:2:3"} }, "spec.communities[0]", lb.InvalidField},
		"negative":                 {func(a *config.BGPAdvertisement) { a.Communities = []string{"-1:2"} }, "spec.communities[0]", lb.InvalidField},
		"unknown alias":            {func(a *config.BGPAdvertisement) { a.Communities = []string{"nix"} }, "spec.communities[0]", lb.UnknownReference},
		"bad service selector":     {func(a *config.BGPAdvertisement) { a.ServiceSelectors = []lb.Selector{label("!", "")} }, "spec.serviceSelectors[0]", lb.InvalidField},
		"bad node selector":        {func(a *config.BGPAdvertisement) { a.NodeSelectors = []lb.Selector{label("!", "")} }, "spec.nodeSelectors[0]", lb.InvalidField},
		"pool selector twice":      {func(a *config.BGPAdvertisement) { a.PoolSelectors = append(sel, sel...) }, "spec.ipAddressPoolSelectors[1]", lb.InvalidField},
		"as wide as the pool":      {func(a *config.BGPAdvertisement) { a.AggregationLength = 28 }, "", ""},
		"wider than the pool":      {func(a *config.BGPAdvertisement) { a.AggregationLength = 27 }, "spec.aggregationLength", lb.Conflict},
		"wider than the IPv6 part": {func(a *config.BGPAdvertisement) { a.AggregationLengthV6 = 119 }, "spec.aggregationLengthV6", lb.Conflict},
	} {
		objs := config.Objects{
			Pools: []config.IPAddressPool{pool("p", 0, "10.0.0.16-10.0.0.35", "fd00::/120")}, // the widest prefix is 10.0.0.16/28
			BGP:   []config.BGPAdvertisement{bgpAdv("adv", 0, "p"), bgpAdv("other", 1)},
			Peers: []config.BGPPeer{peer("r", 0)},
		}
		prev := config.Parse(objs, nil)
		c.edit(&objs.BGP[0])
		t.Run(name, func(t *testing.T) {
			fresh, edited := config.Parse(objs, nil), config.Parse(objs, prev)
			if c.field == "" {
				checkProblems(t, fresh)
				return
			}
			want := config.Problem{Kind: "BGPAdvertisement", Name: "adv", Field: c.field, Reason: c.reason}
			checkProblems(t, fresh, want)
			if len(fresh.BGP) != 1 || fresh.BGP[0].Name != "other" {
				t.Errorf("in force: %v", fresh.BGP)
			}
			want.InForce, want.LastGood = true, true
			checkProblems(t, edited, want)
			if d := cmp.Diff(prev.BGP, edited.BGP); d != "" {
				t.Errorf("last good version (-want +got):\n%s", d)
			}
		})
	}
}

// TestTooNarrowPoolIsLeftOut: the other pools of the advertisement stay.
func TestTooNarrowPoolIsLeftOut(t *testing.T) {
	a := bgpAdv("adv", 0)
	a.AggregationLength = 24
	c := config.Parse(config.Objects{
		Pools: []config.IPAddressPool{pool("a", 0, "10.0.0.0/24"), pool("b", 0, "10.0.1.0/24", "10.0.2.0/25")},
		BGP:   []config.BGPAdvertisement{a},
	}, nil)
	checkProblems(t, c, config.Problem{Kind: "BGPAdvertisement", Name: "adv", Field: "spec.aggregationLength", Reason: lb.Conflict, InForce: true})
	if d := cmp.Diff([]string{"a"}, names(c.BGP[0].Pools)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestCommunities(t *testing.T) {
	a := bgpAdv("adv", 0)
	a.LocalPref = 200
	a.Communities = []string{"no-export", "large:1:2:3", "64512:7", "far", "0:1", "64512:007", "large:0:4294967295:3"}
	lists := []config.CommunityList{
		{Meta: meta("young", 2), Aliases: []config.CommunityAlias{{Name: "no-export", Value: "1:1"}, {Name: "broken", Value: "no-export"}}},
		{Meta: meta("old", 1), Aliases: []config.CommunityAlias{
			{Name: "no-export", Value: "65535:65281"}, {Name: "far", Value: "large:64512:1:2"}, {Name: "far", Value: "1:2"},
		}},
	}
	c := config.Parse(config.Objects{BGP: []config.BGPAdvertisement{a}, Communities: lists}, nil)
	checkProblems(t, c,
		config.Problem{Kind: "Community", Name: "old", Field: "spec.communities[2].name", Reason: lb.Conflict, InForce: true},
		config.Problem{Kind: "Community", Name: "young", Field: "spec.communities[0].name", Reason: lb.Conflict},
		config.Problem{Kind: "Community", Name: "young", Field: "spec.communities[1].value", Reason: lb.InvalidField})
	want := lb.Attrs{
		LocalPref:        200,
		Communities:      []lb.Community{1, 64512<<16 | 7, 65535<<16 | 65281},
		LargeCommunities: []lb.LargeCommunity{{Local1: 4294967295, Local2: 3}, {Global: 1, Local1: 2, Local2: 3}, {Global: 64512, Local1: 1, Local2: 2}},
	}
	if d := cmp.Diff(want, c.BGP[0].Attrs); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestRemovedAliasKeepsLastGoodAdvertisement: its routes keep the community.
func TestRemovedAliasKeepsLastGoodAdvertisement(t *testing.T) {
	a := bgpAdv("adv", 0)
	a.Communities = []string{"mine"}
	objs := config.Objects{
		BGP:         []config.BGPAdvertisement{a},
		Communities: []config.CommunityList{{Meta: meta("m", 0), Aliases: []config.CommunityAlias{{Name: "mine", Value: "1:2"}}}},
	}
	prev := config.Parse(objs, nil)
	objs.Communities = nil
	c := config.Parse(objs, prev)
	checkProblems(t, c, config.Problem{Kind: "BGPAdvertisement", Name: "adv", Field: "spec.communities[0]", Reason: lb.UnknownReference, InForce: true, LastGood: true})
	if d := cmp.Diff(prev.BGP, c.BGP); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestBGPAdvsAreOldestFirst(t *testing.T) {
	c := config.Parse(config.Objects{BGP: []config.BGPAdvertisement{bgpAdv("a", 2), bgpAdv("c", 1), bgpAdv("b", 1)}}, nil)
	var got []string
	for _, a := range c.BGP {
		got = append(got, a.Name)
	}
	if d := cmp.Diff([]string{"b", "c", "a"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if c.BGP[0].Length(lb.IPv4) != 32 || c.BGP[0].Length(lb.IPv6) != 128 {
		t.Error("aggregation lengths are mixed up")
	}
}
