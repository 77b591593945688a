package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// told prints what is told of one object.
func told(t *testing.T, all []config.Status, kind, name string) string {
	t.Helper()
	for _, s := range all {
		if s.Kind != kind || s.Name != name {
			continue
		}
		var lines []string
		for _, c := range []config.Condition{s.Accepted, s.ResolvedRefs, s.InUse} {
			lines = append(lines, fmt.Sprintf("%t %s: %s", c.True, c.Reason, strings.ReplaceAll(c.Message, "\n", " / ")))
		}
		if s.Keep {
			lines = append(lines, "keep")
		}
		return strings.Join(lines, "\n")
	}
	t.Fatalf("nothing is told of %s %s", kind, name)
	return ""
}

func statuses(objs config.Objects, prev *config.Config, use func(*config.Uses)) []config.Status {
	u := config.NewUses()
	u.SetConfig(config.Parse(objs, prev))
	use(u)
	return u.Statuses(objs)
}

// web is the key of Service number i.
func web(i int) lb.Key { return lb.Key{Namespace: "default", Name: fmt.Sprint("web", i)} }

func TestConditions(t *testing.T) {
	objs := config.Objects{
		Pools: []config.IPAddressPool{pool("a", 0, "10.0.0.0/24"), pool("b", 1, "10.0.1.0/24"), pool("bad", 2, "10.0.1.0/33")},
		L2:    []config.L2Advertisement{l2adv("some", "a", "nope"), l2adv("none", "nope"), l2adv("idle", "b"), l2adv("nodes", "a")},
		BGP:   []config.BGPAdvertisement{bgpAdv("to-r", 0, "a"), bgpAdv("to-away", 1, "a"), bgpAdv("alias", 2, "b")},
		Peers: []config.BGPPeer{peer("r", 0), peer("away", 1), peer("secret", 2)},
		BFDProfiles: []config.BFDProfile{
			{Meta: meta("fast", 0)}, {Meta: meta("idle", 0)}, {Meta: meta("bad", 0), DetectMultiplier: new(uint32(1))},
		},
		Communities: []config.CommunityList{
			{Meta: meta("c", 0), Aliases: []config.CommunityAlias{{Name: "nice", Value: "64512:1"}, {Name: "junk", Value: "?"}}},
			{Meta: meta("idle", 1), Aliases: []config.CommunityAlias{{Name: "other", Value: "64512:2"}}},
		},
		Secrets: map[string]config.Secret{"s": {Type: "Opaque", HasKey: true}},
	}
	objs.Pools[0].Generation = 7
	objs.L2[3].NodeSelectors = []lb.Selector{label("rack", "9")}
	objs.BGP[0].Peers, objs.BGP[1].Peers, objs.BGP[2].Communities = []string{"r"}, []string{"away"}, []string{"nice"}
	objs.Peers[0].BFDProfile, objs.Peers[1].MyASN, objs.Peers[2].PasswordSecret = "fast", 0, "s"
	objs.Peers[0].NodeSelectors = []lb.Selector{label("rack", "1")}

	got := statuses(objs, nil, func(u *config.Uses) {
		u.SetNodes([]lb.Node{{Name: "n1", Labels: map[string]string{"rack": "1"}}})
		u.SetService(web(1), "a", nil)
	})
	for object, want := range map[[2]string]string{
		{"IPAddressPool", "a"}: "true Accepted: in force as written\ntrue ResolvedRefs: it refers to no other object\n" +
			"true InUse: Services hold addresses of it; it is covered by L2Advertisement nodes, some and BGPAdvertisement to-away, to-r\nkeep",
		{"IPAddressPool", "b"}: "true Accepted: in force as written\ntrue ResolvedRefs: it refers to no other object\n" +
			"false NotInUse: no Service holds an address of it; it is covered by L2Advertisement idle and BGPAdvertisement alias\nkeep",
		{"IPAddressPool", "bad"}: `false InvalidField: spec.addresses[0]: invalid CIDR "10.0.1.0/33" in pool "bad": it is neither a CIDR such as 198.51.100.0/24 nor a range such as ` +
			"198.51.100.10-198.51.100.20 (set aside)\ntrue ResolvedRefs: it refers to no other object\n" +
			"false NotInUse: no Service holds an address of it; no advertisement covers it",
		{"L2Advertisement", "some"}: "true Accepted: in force as written, but for what ResolvedRefs tells\n" +
			`false UnknownReference: spec.ipAddressPools[1]: there is no IPAddressPool "nope" (the rest is in force)` + "\n" +
			"true InUse: for Services with addresses of IPAddressPool a\nkeep",
		{"L2Advertisement", "none"}: `false UnknownReference: spec.ipAddressPools[0]: there is no IPAddressPool "nope" (set aside)` + "\n" +
			`false UnknownReference: spec.ipAddressPools[0]: there is no IPAddressPool "nope" (set aside)` + "\n" +
			"false NotInUse: no version of it is in force",
		{"L2Advertisement", "idle"}: "true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n" +
			"false NotInUse: no Service that it selects holds an address of its pools\nkeep",
		{"L2Advertisement", "nodes"}: "true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n" +
			"false NotInUse: no node matches spec.nodeSelectors\nkeep",
		{"BGPAdvertisement", "to-r"}: "true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n" +
			"true InUse: for Services with addresses of IPAddressPool a\nkeep",
		{"BGPAdvertisement", "to-away"}: "true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n" +
			"false NotInUse: no BGPPeer in force takes its routes\nkeep",
		{"BGPPeer", "r"}: "true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n" +
			"true InUse: used by BGPAdvertisement alias, to-r\nkeep",
		{"BGPPeer", "away"}: "false InvalidField: spec.myASN: missing local ASN (set aside)\ntrue ResolvedRefs: all that it refers to is there\n" +
			"false NotInUse: no version of it is in force",
		{"BGPPeer", "secret"}: `false InvalidReference: spec.passwordSecret: Secret "s" is of type "Opaque", not "kubernetes.io/basic-auth" (set aside)` + "\n" +
			`false InvalidReference: spec.passwordSecret: Secret "s" is of type "Opaque", not "kubernetes.io/basic-auth" (set aside)` + "\n" +
			"false NotInUse: no version of it is in force",
		{"BFDProfile", "fast"}: "true Accepted: in force as written\ntrue ResolvedRefs: it refers to no other object\ntrue InUse: used by BGPPeer r\nkeep",
		{"BFDProfile", "idle"}: "true Accepted: in force as written\ntrue ResolvedRefs: it refers to no other object\nfalse NotInUse: no BGPPeer in force refers to it\nkeep",
		{"BFDProfile", "bad"}: "false InvalidField: spec.detectMultiplier: 1 is not between 2 and 255 (set aside)\n" +
			"true ResolvedRefs: it refers to no other object\nfalse NotInUse: no BGPPeer in force refers to it",
		{"Community", "c"}: `false InvalidField: spec.communities[1].value: parsing community "junk": invalid community format: "?" is not such as 64512:100 or large:64512:1:2 (the rest is in force)` + "\n" +
			"true ResolvedRefs: it refers to no other object\ntrue InUse: used by BGPAdvertisement alias\nkeep",
		{"Community", "idle"}: "true Accepted: in force as written\ntrue ResolvedRefs: it refers to no other object\n" +
			"false NotInUse: no BGPAdvertisement uses an alias that it defines\nkeep",
	} {
		if d := cmp.Diff(want, told(t, got, object[0], object[1])); d != "" {
			t.Errorf("%v (-want +got):\n%s", object, d)
		}
	}
	for _, s := range got {
		switch {
		case s.Kind == "IPAddressPool" && s.Name == "a" && s.Generation != 7:
			t.Errorf("generation %d", s.Generation)
		case s.Kind == "BGPAdvertisement" && s.Name == "alias" && cmp.Diff([]string{"64512:1"}, s.Communities) != "":
			t.Errorf("communities to keep: %v", s.Communities)
		case s.Kind == "BGPPeer" && s.Name == "r" && (s.Profile == nil || s.Profile.Name != "fast"):
			t.Errorf("profile to keep: %v", s.Profile)
		}
	}
}

// TestConditionsOfTheLastGoodVersion: the object is not accepted, and still in use.
func TestConditionsOfTheLastGoodVersion(t *testing.T) {
	objs := config.Objects{Pools: []config.IPAddressPool{pool("a", 0, "10.0.0.0/24")}, L2: []config.L2Advertisement{l2adv("adv", "a")}}
	prev := config.Parse(objs, nil)
	objs.L2 = []config.L2Advertisement{l2adv("adv", "aa")}
	got := statuses(objs, prev, func(u *config.Uses) { u.SetService(web(1), "a", nil) })
	const missing = `false UnknownReference: spec.ipAddressPools[0]: there is no IPAddressPool "aa" (the last good version stays in force)`
	if d := cmp.Diff(missing+"\n"+missing+"\ntrue InUse: for Services with addresses of IPAddressPool a", told(t, got, "L2Advertisement", "adv")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestUsesChangeRarely: of 10,000 Services that come and go the first and the last are
// news, for their pool and for the advertisement that selects them.
func TestUsesChangeRarely(t *testing.T) {
	objs := config.Objects{Pools: []config.IPAddressPool{pool("a", 0, "10.0.0.0/16")}, L2: []config.L2Advertisement{l2adv("all"), l2adv("gold")}}
	objs.L2[1].ServiceSelectors = []lb.Selector{label("tier", "gold")}
	u := config.NewUses()
	u.SetConfig(config.Parse(objs, nil))
	news := func() int {
		if !u.Changed() {
			return 0
		}
		u.Statuses(objs)
		return 1
	}
	inUse := func() string {
		all := u.Statuses(objs)
		return told(t, all, "L2Advertisement", "all")[len("true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n"):][:4] + " " +
			told(t, all, "L2Advertisement", "gold")[len("true Accepted: in force as written\ntrue ResolvedRefs: all that it refers to is there\n"):][:4]
	}
	news()
	const n = 10_000
	count := 0
	for i := range n {
		labels := map[string]string{}
		if i == 5 || i == 6 {
			labels["tier"] = "gold"
		}
		u.SetService(web(i), "a", labels)
		count += news()
	}
	if count != 2 || inUse() != "true true" {
		t.Errorf("%d times something else to say as they come, in the end %s", count, inUse())
	}
	for i := range n {
		u.SetService(web(i), "a", map[string]string{}) // two of them are gold no more
	}
	if news() != 1 || inUse() != "true fals" {
		t.Errorf("gold no more: %s", inUse())
	}
	count = 0
	for i := range n {
		u.SetService(web(i), "", nil)
		count += news()
	}
	if count != 1 || inUse() != "fals fals" {
		t.Errorf("%d times something else to say as they go, in the end %s", count, inUse())
	}
	u.SetNodes([]lb.Node{{Name: "n", Labels: map[string]string{"a": "b"}}})
	if news() != 1 {
		t.Error("a new node is no news")
	}
	u.SetNodes([]lb.Node{{Name: "n", Labels: map[string]string{"a": "b"}, Excluded: true}})
	if news() != 0 {
		t.Error("what no selector sees of a node is news")
	}
}

// TestProblemsOn: what is wrong with a peer of other nodes is none of a node's business.
func TestProblemsOn(t *testing.T) {
	objs := config.Objects{
		Pools: []config.IPAddressPool{pool("bad", 0)},
		L2:    []config.L2Advertisement{l2adv("l2", "nope")},
		BGP:   []config.BGPAdvertisement{bgpAdv("bgp", 0, "nope")},
		Peers: []config.BGPPeer{peer("here", 0), peer("there", 1), peer("was-here", 2), peer("odd", 3)},
	}
	rack := func(name string) []lb.Selector { return []lb.Selector{label("rack", name)} }
	objs.BGP[0].NodeSelectors, objs.L2[0].NodeSelectors = rack("2"), rack("2")
	objs.Peers[0].NodeSelectors, objs.Peers[1].NodeSelectors, objs.Peers[2].NodeSelectors = rack("1"), rack("2"), rack("1")
	prev := config.Parse(config.Objects{Peers: objs.Peers[2:3]}, nil)
	for i := range objs.Peers {
		objs.Peers[i].MyASN = 0
	}
	objs.Peers[2].NodeSelectors, objs.Peers[3].NodeSelectors = rack("2"), []lb.Selector{label("!", "")}
	c := config.Parse(objs, prev)
	on := func(rack string) string {
		var out []string
		for _, p := range c.ProblemsOn(objs, map[string]string{"rack": rack}) {
			out = append(out, p.Name+" "+p.Field)
		}
		return strings.Join(out, ", ")
	}
	for rack, want := range map[string]string{
		"1": "here spec.myASN, odd spec.nodeSelectors[0], was-here spec.myASN, bad spec.addresses, l2 spec.ipAddressPools[0]",
		"2": "bgp spec.ipAddressPools[0], odd spec.nodeSelectors[0], there spec.myASN, was-here spec.myASN, bad spec.addresses, l2 spec.ipAddressPools[0]",
		"3": "odd spec.nodeSelectors[0], bad spec.addresses, l2 spec.ipAddressPools[0]",
	} {
		if d := cmp.Diff(want, on(rack)); d != "" {
			t.Errorf("rack %s (-want +got):\n%s", rack, d)
		}
	}
}

// MetalLB's ConfigurationStates hold no references of advertisements against anybody, and
// its controller speaks of pools and aliases alone.
func TestInvalid(t *testing.T) {
	hidden := map[string]config.Secret{"opaque": {Type: "Opaque"}, "empty": {Type: basicAuth}}
	aPeer := func(name string, edit func(*config.BGPPeer)) config.BGPPeer {
		p := config.BGPPeer{Meta: meta(name, 0), MyASN: 1, PeerASN: 2, PeerAddress: "192.168.1.1"}
		edit(&p)
		return p
	}
	c := config.Parse(config.Objects{
		Namespace: "ns", Secrets: hidden,
		Pools: []config.IPAddressPool{{Meta: meta("pool", 0), Addresses: []string{"junk"}}},
		L2:    []config.L2Advertisement{{Meta: meta("l2", 0), Pools: []string{"nowhere"}}},
		BGP: []config.BGPAdvertisement{
			{Meta: meta("peers", 0), AggregationLength: 32, AggregationLengthV6: 128, Peers: []string{"nobody"}},
			{Meta: meta("alias", 0), AggregationLength: 32, AggregationLengthV6: 128, Pools: []string{"nowhere"}, Communities: []string{"unknown"}},
		},
		Peers: []config.BGPPeer{
			aPeer("bfd", func(p *config.BGPPeer) { p.BFDProfile = "fast" }),
			aPeer("gone", func(p *config.BGPPeer) { p.PasswordSecret = "gone-secret" }),
			aPeer("type", func(p *config.BGPPeer) { p.PasswordSecret = "opaque" }),
			aPeer("key", func(p *config.BGPPeer) { p.PasswordSecret = "empty" }),
			aPeer("asn", func(p *config.BGPPeer) { p.MyASN = 0 }),
		},
		Communities: []config.CommunityList{{Meta: meta("c", 0), Aliases: []config.CommunityAlias{{Name: "a", Value: "1:2:3"}}}},
	}, nil)
	summaries := func(ps []config.Problem) []string {
		var out []string
		for _, p := range ps {
			out = append(out, p.Summary())
		}
		return out
	}
	const pool = `IPAddressPool pool: spec.addresses[0]: invalid CIDR "junk" in pool "pool": it is neither a CIDR such as 198.51.100.0/24 nor a range such as 198.51.100.10-198.51.100.20 (set aside)`
	const alias = `Community c: spec.communities[0].value: parsing community "a": invalid community format: "1:2:3" is not such as 64512:100 or large:64512:1:2 (set aside)`
	if d := cmp.Diff([]string{alias, pool}, summaries(config.InvalidAtController(c.Problems))); d != "" {
		t.Errorf("controller (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{
		"configuration error: invalid community format: unknown\ninvalid community \"unknown\" in BGP advertisement",
		"BGPPeer asn: spec.myASN: missing local ASN (set aside)",
		"configuration error: peer bfd referencing non existing bfd profile fast",
		"configuration error: parsing peer gone secret ref not found for peer config \"ns\"/\"gone\"\nfailed to parse peer gone password secret",
		"configuration error: parsing peer key password not specified in the secret \"ns\"/\"empty\"\nfailed to parse peer key password secret",
		"configuration error: parsing peer type secret type mismatch on \"ns\"/\"opaque\", type \"kubernetes.io/basic-auth\" is expected \nfailed to parse peer type password secret",
		alias, pool,
	}, summaries(config.InvalidAtSpeaker(c.Problems))); d != "" {
		t.Errorf("speaker (-want +got):\n%s", d)
	}
}
