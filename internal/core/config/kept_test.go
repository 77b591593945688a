package config_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// TestKeptVersionOutlivesARestart: who has never seen the good version of an object
// takes the one that was kept with it; who has one of its own goes on with that.
func TestKeptVersionOutlivesARestart(t *testing.T) {
	good := config.Objects{
		Pools:       []config.IPAddressPool{pool("a", 0, "10.0.0.0/24")},
		L2:          []config.L2Advertisement{l2adv("l2", "a")},
		BGP:         []config.BGPAdvertisement{bgpAdv("bgp", 0, "a")},
		Peers:       []config.BGPPeer{peer("r", 0)},
		BFDProfiles: []config.BFDProfile{{Meta: meta("fast", 0), ReceiveInterval: new(uint32(50))}},
	}
	good.BGP[0].Communities = []string{"64512:100"}
	good.Peers[0].BFDProfile = "fast"
	want := config.Parse(good, nil)
	checkProblems(t, want)

	bad := config.Objects{Pools: good.Pools}
	l2, bgp, p, profile := good.L2[0], good.BGP[0], good.Peers[0], good.BFDProfiles[0]
	l2.Last, bgp.Last, profile.Last = &good.L2[0], &good.BGP[0], &good.BFDProfiles[0]
	p.Last = &config.LastPeer{BGPPeer: good.Peers[0]}
	l2.Failback, bgp.AggregationLength, p.PeerAddress, profile.DetectMultiplier = "no", 33, "router", new(uint32(1))
	bad.L2, bad.BGP = []config.L2Advertisement{l2}, []config.BGPAdvertisement{bgp}
	bad.Peers, bad.BFDProfiles = []config.BGPPeer{p}, []config.BFDProfile{profile}

	problem := func(kind, name, field string) config.Problem {
		return config.Problem{Kind: kind, Name: name, Field: field, Reason: lb.InvalidField, InForce: true, LastGood: true}
	}
	got := config.Parse(bad, nil)
	checkProblems(t, got, problem("BFDProfile", "fast", "spec.detectMultiplier"), problem("BGPAdvertisement", "bgp", "spec.aggregationLength"),
		problem("BGPPeer", "r", "spec.peerAddress"), problem("L2Advertisement", "l2", "spec.failback"))
	same := func(want, got *config.Config) {
		t.Helper()
		for _, d := range []string{
			cmp.Diff(want.L2, got.L2), cmp.Diff(want.BGP, got.BGP), cmp.Diff(want.Peers, got.Peers, equalAddrs), cmp.Diff(want.BFD, got.BFD),
		} {
			if d != "" {
				t.Errorf("in force (-want +got):\n%s", d)
			}
		}
	}
	same(want, got)

	// What was in force before comes first.
	good.BFDProfiles[0].ReceiveInterval = new(uint32(70))
	before := config.Parse(good, nil)
	same(before, config.Parse(bad, before))

	// What was kept may be bad by now, too.
	for name, spoil := range map[string]func(){
		"L2Advertisement":   func() { bad.L2[0].Last = &config.L2Advertisement{Pools: []string{"gone"}} },
		"BGPAdvertisement":  func() { bad.BGP[0].Last = &config.BGPAdvertisement{AggregationLength: 33} },
		"BGPAdvertisement2": func() { bad.BGP[0].Last = &good.BGP[0]; good.BGP[0].Peers = []string{"gone"} },
		"BGPPeer":           func() { bad.Peers[0].Last = &config.LastPeer{} },
		"BFDProfile":        func() { bad.BFDProfiles[0].Last = &config.BFDProfile{MinimumTTL: new(uint32(0))} },
	} {
		spoil()
		c := config.Parse(bad, nil)
		if n := map[string]int{
			"L2Advertisement": len(c.L2), "BGPAdvertisement": len(c.BGP), "BGPAdvertisement2": len(c.BGP), "BGPPeer": len(c.Peers), "BFDProfile": len(c.BFD),
		}[name]; n != 0 {
			t.Errorf("%s: %d in force", name, n)
		}
	}
}

// TestKeptPeerNeedsItsPassword: a version that is kept has no password.
func TestKeptPeerNeedsItsPassword(t *testing.T) {
	secrets := map[string]config.Secret{"s": {Type: basicAuth, Password: "hush", HasKey: true}}
	for name, c := range map[string]struct {
		edit func(*config.BGPPeer)
		want string // the password of the session; "-" if there is none
	}{
		"none":                    {func(*config.BGPPeer) {}, ""},
		"Secret":                  {func(p *config.BGPPeer) { p.Last.PasswordSecret = "s" }, "hush"},
		"Secret that is gone":     {func(p *config.BGPPeer) { p.Last.PasswordSecret = "gone" }, "-"},
		"inline":                  {func(p *config.BGPPeer) { p.Last.Inline, p.Password = true, "now" }, "now"},
		"inline that is gone":     {func(p *config.BGPPeer) { p.Last.Inline = true }, "-"},
		"one that did not use it": {func(p *config.BGPPeer) { p.Password = "now" }, ""},
		"one that somebody wrote": {func(p *config.BGPPeer) { p.Last.Password = "smuggled" }, ""},
		"withheld":                {func(p *config.BGPPeer) { p.Withheld = true }, "-"},
	} {
		o := peer("r", 0)
		o.Last = &config.LastPeer{BGPPeer: o}
		o.MyASN = 0
		c.edit(&o)
		got := config.Parse(config.Objects{Peers: []config.BGPPeer{o}, Secrets: secrets}, nil)
		have := "-"
		if len(got.Peers) > 0 {
			have = got.Peers[0].Password
		}
		if have != c.want || len(got.Problems) == 0 {
			t.Errorf("%s: session with %q, want %q; %v", name, have, c.want, got.Problems)
		}
	}
}

// TestKeptPeerKeepsItsProfile: the profile that a peer refers to was deleted.
func TestKeptPeerKeepsItsProfile(t *testing.T) {
	o := peer("r", 0)
	o.BFDProfile = "gone"
	o.Last = &config.LastPeer{BGPPeer: o, Profile: &config.BFDProfile{TransmitInterval: new(uint32(70))}}
	c := config.Parse(config.Objects{Peers: []config.BGPPeer{o}}, nil)
	checkProblems(t, c, config.Problem{Kind: "BGPPeer", Name: "r", Field: "spec.bfdProfile", Reason: lb.UnknownReference, InForce: true, LastGood: true})
	if len(c.Peers) != 1 || c.Peers[0].BFD == nil || c.Peers[0].BFD.Name != "gone" || c.Peers[0].BFD.Transmit != 70*time.Millisecond {
		t.Fatalf("in force: %v", c.Peers)
	}
	// One of that name that is made later is the one that counts.
	c = config.Parse(config.Objects{Peers: []config.BGPPeer{o}, BFDProfiles: []config.BFDProfile{{Meta: meta("gone", 0)}}}, c)
	checkProblems(t, c)
	if c.Peers[0].BFD.Transmit != 300*time.Millisecond {
		t.Errorf("profile: %v", c.Peers[0].BFD)
	}
}
