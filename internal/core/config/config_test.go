package config_test

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// meta makes an object that was created age seconds after the first.
func meta(name string, age int) config.Meta {
	return config.Meta{Name: name, Created: time.Unix(1_700_000_000+int64(age), 0)}
}

func pool(name string, age int, addresses ...string) config.IPAddressPool {
	return config.IPAddressPool{Meta: meta(name, age), Addresses: addresses, AutoAssign: true}
}

func labelled(p config.IPAddressPool, labels map[string]string) config.IPAddressPool {
	p.Labels = labels
	return p
}

func l2adv(name string, pools ...string) config.L2Advertisement {
	return config.L2Advertisement{Meta: meta(name, 0), Pools: pools}
}

func bgpAdv(name string, age int, pools ...string) config.BGPAdvertisement {
	return config.BGPAdvertisement{Meta: meta(name, age), Pools: pools, AggregationLength: 32, AggregationLengthV6: 128}
}

func peer(name string, age int) config.BGPPeer {
	return config.BGPPeer{Meta: meta(name, age), MyASN: 64512, PeerASN: 64513, PeerAddress: "192.168.1.1"}
}

func label(key, value string) lb.Selector {
	return lb.Selector{MatchLabels: map[string]string{key: value}}
}

func poolNames(c *config.Config) []string {
	var names []string
	for _, p := range c.Pools {
		names = append(names, p.Name)
	}
	return names
}

func ranges(c *config.Config, pool string) []string {
	p := c.PoolByName(pool)
	if p == nil {
		return nil
	}
	var out []string
	for _, r := range p.Ranges {
		out = append(out, r.String())
	}
	return out
}

// short leaves out the texts, which are for people.
func short(ps []config.Problem) []config.Problem {
	out := slices.Clone(ps)
	for i := range out {
		if out[i].Message == "" {
			panic("a problem without a message")
		}
		out[i].Message, out[i].Words = "", ""
	}
	return out
}

func checkProblems(t *testing.T, c *config.Config, want ...config.Problem) {
	t.Helper()
	if d := cmp.Diff(want, short(c.Problems), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("problems (-want +got):\n%s\nin full: %v", d, c.Problems)
	}
}

func TestPoolInForce(t *testing.T) {
	alloc := &config.ServiceAllocation{Priority: 3, Namespaces: []string{"a"}}
	p := pool("p", 0, "10.0.1.0/24", "10.0.0.5-10.0.0.6", "fd00::/120")
	p.Allocation, p.AvoidBuggyIPs, p.Labels = alloc, true, map[string]string{"x": "y"}
	c := config.Parse(config.Objects{Pools: []config.IPAddressPool{p}}, nil)
	checkProblems(t, c)
	got := c.PoolByName("p")
	want := &config.Pool{
		Name: "p", Labels: p.Labels, AutoAssign: true, AvoidBuggyIPs: true, Allocation: alloc,
		Ranges: []config.Range{
			{First: netip.MustParseAddr("10.0.1.0"), Last: netip.MustParseAddr("10.0.1.255")},
			{First: netip.MustParseAddr("10.0.0.5"), Last: netip.MustParseAddr("10.0.0.6")},
			{First: netip.MustParseAddr("fd00::"), Last: netip.MustParseAddr("fd00::ff")},
		},
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.Pool{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for text, want := range map[string]string{
		"10.0.1.0": "p", "10.0.1.255": "p", "10.0.2.0": "", "10.0.0.4": "", "10.0.0.5": "p", "10.0.0.6": "p", "10.0.0.7": "",
		"fd00::": "p", "fd00::ff": "p", "fd00::100": "", "255.255.255.255": "", "::": "", "0.0.0.0": "",
	} {
		if got := c.PoolOf(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is of %q, want %q", text, got, want)
		}
	}
	if c.PoolByName("q") != nil || len(c.SetAside) != 0 {
		t.Error("there is a pool more")
	}
}

// TestBadPools: each is set aside alone, and the good one beside it stays in force.
func TestBadPools(t *testing.T) {
	const kind = config.KindIPAddressPool
	alloc := func(a config.ServiceAllocation) config.IPAddressPool {
		p := pool("bad", 1, "10.9.0.0/24")
		p.Allocation = &a
		return p
	}
	for name, c := range map[string]struct {
		pool   config.IPAddressPool
		field  string
		reason lb.Reason
	}{
		"no addresses":     {pool("bad", 1), "spec.addresses", lb.InvalidField},
		"junk":             {pool("bad", 1, "10.9.0.0/24", "junk"), "spec.addresses[1]", lb.InvalidField},
		"reversed":         {pool("bad", 1, "10.9.0.9-10.9.0.1"), "spec.addresses[0]", lb.InvalidField},
		"mixed":            {pool("bad", 1, "10.9.0.9-fc00::1"), "spec.addresses[0]", lb.InvalidField},
		"overlaps itself":  {pool("bad", 1, "10.9.0.0/24", "10.9.1.0/24", "10.9.0.255-10.9.2.0"), "spec.addresses[2]", lb.Overlap},
		"duplicate entry":  {pool("bad", 1, "10.9.0.0/24", "10.9.0.0/24"), "spec.addresses[1]", lb.Overlap},
		"overlaps another": {pool("bad", 1, "10.9.0.0/24", "10.0.0.255-10.0.1.9"), "spec.addresses", lb.Overlap},
		"around another":   {pool("bad", 1, "0.0.0.0/0"), "spec.addresses", lb.Overlap},
		"within another":   {pool("bad", 1, "10.0.0.7/32"), "spec.addresses", lb.Overlap},
		"namespace twice":  {alloc(config.ServiceAllocation{Namespaces: []string{"a", "b", "a"}}), "spec.serviceAllocation.namespaces[2]", lb.InvalidField},
		"bad selector": {
			alloc(config.ServiceAllocation{NamespaceSelectors: []lb.Selector{{MatchExpressions: []lb.Requirement{{Key: "a", Operator: "in"}}}}}),
			"spec.serviceAllocation.namespaceSelectors[0]", lb.InvalidField,
		},
		"selector twice": {
			alloc(config.ServiceAllocation{ServiceSelectors: []lb.Selector{label("a", "b"), label("a", "b")}}),
			"spec.serviceAllocation.serviceSelectors[1]", lb.InvalidField,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := config.Parse(config.Objects{Pools: []config.IPAddressPool{c.pool, pool("good", 0, "10.0.0.0/24")}}, nil)
			checkProblems(t, c2, config.Problem{Kind: kind, Name: "bad", Field: c.field, Reason: c.reason})
			if d := cmp.Diff([]string{"good"}, poolNames(c2)); d != "" {
				t.Errorf("in force (-want +got):\n%s", d)
			}
			if d := cmp.Diff(map[string]bool{"bad": true}, c2.SetAside); d != "" {
				t.Errorf("set aside (-want +got):\n%s", d)
			}
		})
	}
}

func TestAllProblemsOfAnObjectAreTold(t *testing.T) {
	c := config.Parse(config.Objects{Pools: []config.IPAddressPool{pool("bad", 0, "x", "10.0.0.0/24", "y")}}, nil)
	checkProblems(t, c,
		config.Problem{Kind: "IPAddressPool", Name: "bad", Field: "spec.addresses[0]", Reason: lb.InvalidField},
		config.Problem{Kind: "IPAddressPool", Name: "bad", Field: "spec.addresses[2]", Reason: lb.InvalidField})
}

// TestOlderPoolWins, then the one first by name, whatever the order of input.
func TestOlderPoolWins(t *testing.T) {
	young, old := pool("a", 5, "10.0.0.0/24"), pool("z", 1, "10.0.0.128/25")
	twin := pool("b", 5, "10.0.0.0/25")
	for _, in := range [][]config.IPAddressPool{{young, old, twin}, {twin, old, young}, {old, young, twin}} {
		c := config.Parse(config.Objects{Pools: in}, nil)
		// a is younger than z. b does not touch z, and a, set aside, claims nothing.
		if d := cmp.Diff([]string{"b", "z"}, poolNames(c)); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		checkProblems(t, c, config.Problem{Kind: "IPAddressPool", Name: "a", Field: "spec.addresses", Reason: lb.Overlap})
		if !strings.Contains(c.Problems[0].Message, `"z"`) {
			t.Errorf("the message does not name the other pool: %s", c.Problems[0])
		}
	}
	c := config.Parse(config.Objects{Pools: []config.IPAddressPool{twin, young}}, nil)
	if d := cmp.Diff([]string{"a"}, poolNames(c)); d != "" {
		t.Errorf("same age (-want +got):\n%s", d)
	}
}

func TestBadEditKeepsLastGoodPool(t *testing.T) {
	good := []config.IPAddressPool{pool("old", 0, "10.0.0.0/24"), pool("p", 1, "10.0.1.0/24"), pool("young", 2, "10.0.2.0/24")}
	edit := func(name string, addresses ...string) config.Objects {
		objs := config.Objects{Pools: slices.Clone(good)}
		for i := range objs.Pools {
			if objs.Pools[i].Name == name {
				objs.Pools[i].Addresses = addresses
			}
		}
		return objs
	}
	prev := config.Parse(config.Objects{Pools: good}, nil)
	checkProblems(t, prev)

	for name, bad := range map[string][]string{
		"junk": {"10.0.1.0/24", "junk"}, "emptied": {}, "overlaps itself": {"10.0.1.0/24", "10.0.1.0/25"},
		"reaches into an older pool": {"10.0.0.0/23"},
	} {
		c := config.Parse(edit("p", bad...), prev)
		again := config.Parse(edit("p", bad...), c) // it stays so
		for _, c := range []*config.Config{c, again} {
			if d := cmp.Diff([]string{"10.0.1.0-10.0.1.255"}, ranges(c, "p")); d != "" {
				t.Errorf("%s: ranges of p (-want +got):\n%s", name, d)
			}
			if len(c.Problems) != 1 || !c.Problems[0].LastGood || len(c.SetAside) != 0 {
				t.Errorf("%s: %v, set aside %v", name, c.Problems, c.SetAside)
			}
		}
	}

	// An older pool that grows into a younger one wins, as it would after a restart.
	c := config.Parse(edit("old", "10.0.0.0/23"), prev)
	checkProblems(t, c, config.Problem{Kind: "IPAddressPool", Name: "p", Field: "spec.addresses", Reason: lb.Overlap})
	if d := cmp.Diff([]string{"old", "young"}, poolNames(c)); d != "" || !c.SetAside["p"] {
		t.Errorf("set aside %v, in force (-want +got):\n%s", c.SetAside, d)
	}

	// What is deleted is gone, and its last good version with it.
	c = config.Parse(config.Objects{Pools: good[:1]}, prev)
	c = config.Parse(config.Objects{Pools: []config.IPAddressPool{good[0], pool("p", 1, "junk")}}, c)
	if !c.SetAside["p"] || c.PoolByName("p") != nil {
		t.Error("the last good version of a deleted pool is back")
	}

	// Mended, it has effect again.
	c = config.Parse(edit("p", "10.0.3.0/24"), config.Parse(edit("p", "junk"), prev))
	checkProblems(t, c)
	if d := cmp.Diff([]string{"10.0.3.0-10.0.3.255"}, ranges(c, "p")); d != "" {
		t.Errorf("mended (-want +got):\n%s", d)
	}
}

// TestLastGoodPoolDoesNotOverlap: an older pool may have taken its place meanwhile.
func TestLastGoodPoolDoesNotOverlap(t *testing.T) {
	prev := config.Parse(config.Objects{Pools: []config.IPAddressPool{pool("old", 0, "10.0.0.0/24"), pool("p", 1, "10.0.1.0/24")}}, nil)
	c := config.Parse(config.Objects{Pools: []config.IPAddressPool{pool("old", 0, "10.0.0.0/23"), pool("p", 1, "junk")}}, prev)
	if d := cmp.Diff([]string{"old"}, poolNames(c)); d != "" || !c.SetAside["p"] {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAllows(t *testing.T) {
	svc := &lb.Service{
		Key: lb.Key{Namespace: "shop", Name: "web"}, Labels: map[string]string{"app": "web"}, NamespaceLabels: map[string]string{"team": "blue"},
	}
	for name, c := range map[string]struct {
		alloc *config.ServiceAllocation
		want  bool
	}{
		"none":                          {nil, true},
		"empty":                         {&config.ServiceAllocation{}, true},
		"priority alone":                {&config.ServiceAllocation{Priority: 5}, true},
		"namespace":                     {&config.ServiceAllocation{Namespaces: []string{"x", "shop"}}, true},
		"another namespace":             {&config.ServiceAllocation{Namespaces: []string{"x"}}, false},
		"namespace label":               {&config.ServiceAllocation{NamespaceSelectors: []lb.Selector{label("team", "blue")}}, true},
		"another namespace label":       {&config.ServiceAllocation{NamespaceSelectors: []lb.Selector{label("team", "red")}}, false},
		"name or label":                 {&config.ServiceAllocation{Namespaces: []string{"x"}, NamespaceSelectors: []lb.Selector{label("team", "blue")}}, true},
		"label or name":                 {&config.ServiceAllocation{Namespaces: []string{"shop"}, NamespaceSelectors: []lb.Selector{label("team", "red")}}, true},
		"service label":                 {&config.ServiceAllocation{ServiceSelectors: []lb.Selector{label("app", "db"), label("app", "web")}}, true},
		"another service label":         {&config.ServiceAllocation{ServiceSelectors: []lb.Selector{label("app", "db")}}, false},
		"namespace, another label":      {&config.ServiceAllocation{Namespaces: []string{"shop"}, ServiceSelectors: []lb.Selector{label("app", "db")}}, false},
		"another namespace, the labels": {&config.ServiceAllocation{Namespaces: []string{"x"}, ServiceSelectors: []lb.Selector{label("app", "web")}}, false},
	} {
		if got := (&config.Pool{Allocation: c.alloc}).Allows(svc); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// world is a cluster's configuration with something good and something bad of
// every kind.
func world() config.Objects {
	bad := peer("bad", 3)
	bad.Password, bad.PasswordSecret = "hunter2", "s"
	noKey := peer("no-key", 4)
	noKey.PasswordSecret = "no-key"
	withSecret := peer("with-secret", 2)
	withSecret.PasswordSecret = "s"
	narrow := bgpAdv("narrow", 4, "a", "b")
	narrow.AggregationLength = 24
	aliases := bgpAdv("aliases", 2)
	aliases.Communities = []string{"mine", "64512:7", "large:1:2:3"}
	unknown := bgpAdv("unknown", 3, "a", "nope")
	unknown.Peers = []string{"good", "nobody"}
	return config.Objects{
		Pools: []config.IPAddressPool{
			labelled(pool("a", 1, "10.0.0.0/24"), map[string]string{"zone": "a"}), pool("b", 2, "10.0.1.0/28"),
			pool("c", 3, "10.0.0.0/25"), pool("d", 4, "junk"),
		},
		L2: []config.L2Advertisement{l2adv("all"), l2adv("b", "b", "nope"), l2adv("dup", "a", "a")},
		BGP: []config.BGPAdvertisement{
			bgpAdv("one", 1, "a"), aliases, unknown, narrow,
		},
		Peers:   []config.BGPPeer{peer("good", 1), withSecret, bad, noKey},
		Secrets: map[string]config.Secret{"s": {Type: "kubernetes.io/basic-auth", Password: "hunter2", HasKey: true}, "no-key": {Type: "kubernetes.io/basic-auth", Password: "hunter2"}},
		Communities: []config.CommunityList{
			{Meta: meta("m", 1), Aliases: []config.CommunityAlias{{Name: "mine", Value: "64512:100"}}},
			{Meta: meta("n", 2), Aliases: []config.CommunityAlias{{Name: "mine", Value: "64512:200"}, {Name: "bad", Value: "x:y"}}},
		},
	}
}

// TestOrderOfInputDoesNotMatter, with and without an earlier Config.
func TestOrderOfInputDoesNotMatter(t *testing.T) {
	const seed = 3
	rng := rand.New(rand.NewPCG(seed, seed))
	first := world()
	first.Pools[3].Addresses = []string{"10.0.4.0/24"} // d was good once
	prev := config.Parse(first, nil)
	opts := cmp.Options{
		cmp.AllowUnexported(config.Config{}, config.Pool{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.IgnoreFields(config.Config{}, "ranges"),
	}
	for _, prev := range []*config.Config{nil, prev} {
		want := config.Parse(world(), prev)
		if len(want.Problems) < 8 {
			t.Errorf("only %d problems: %v", len(want.Problems), want.Problems)
		}
		for range 100 {
			w := world()
			rng.Shuffle(len(w.Pools), func(i, j int) { w.Pools[i], w.Pools[j] = w.Pools[j], w.Pools[i] })
			rng.Shuffle(len(w.L2), func(i, j int) { w.L2[i], w.L2[j] = w.L2[j], w.L2[i] })
			rng.Shuffle(len(w.BGP), func(i, j int) { w.BGP[i], w.BGP[j] = w.BGP[j], w.BGP[i] })
			rng.Shuffle(len(w.Peers), func(i, j int) { w.Peers[i], w.Peers[j] = w.Peers[j], w.Peers[i] })
			rng.Shuffle(len(w.Communities), func(i, j int) { w.Communities[i], w.Communities[j] = w.Communities[j], w.Communities[i] })
			if d := cmp.Diff(want, config.Parse(w, prev), opts); d != "" {
				t.Fatalf("seed %d (-want +got):\n%s", seed, d)
			}
		}
	}
}

// TestNoPasswordInProblems: they are shown in conditions, events and logs.
func TestNoPasswordInProblems(t *testing.T) {
	for _, p := range config.Parse(world(), nil).Problems {
		if strings.Contains(p.String(), "hunter2") {
			t.Errorf("a password is told: %s", p)
		}
	}
}

// TestParseChangesNothing: objects and the Config before stay as they were.
func TestParseChangesNothing(t *testing.T) {
	w := world()
	prev := config.Parse(w, nil)
	if d := cmp.Diff(world(), w); d != "" {
		t.Errorf("objects (-want +got):\n%s", d)
	}
	before := maps.Clone(prev.SetAside)
	config.Parse(config.Objects{Pools: w.Pools[3:]}, prev)
	if d := cmp.Diff(before, prev.SetAside); d != "" || len(prev.Pools) != 2 {
		t.Errorf("the Config before (-want +got):\n%s", d)
	}
}
