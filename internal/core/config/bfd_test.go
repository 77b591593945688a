package config_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

func profile(name string, edit func(*config.BFDProfile)) config.BFDProfile {
	p := config.BFDProfile{Meta: config.Meta{Name: name}}
	if edit != nil {
		edit(&p)
	}
	return p
}

func TestProfileInForce(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		edit func(*config.BFDProfile)
		want func(*lb.BFDProfile)
	}{
		"default":  {nil, nil},
		"receive":  {func(p *config.BFDProfile) { p.ReceiveInterval = new(uint32(10)) }, func(p *lb.BFDProfile) { p.Receive = 10 * ms }},
		"transmit": {func(p *config.BFDProfile) { p.TransmitInterval = new(uint32(60000)) }, func(p *lb.BFDProfile) { p.Transmit = time.Minute }},
		"multiplier": {
			func(p *config.BFDProfile) { p.DetectMultiplier = new(uint32(255)) },
			func(p *lb.BFDProfile) { p.Multiplier = 255 },
		},
		"echo": {
			func(p *config.BFDProfile) { p.EchoMode, p.EchoInterval = true, new(uint32(20)) },
			func(p *lb.BFDProfile) { p.Echo, p.EchoInterval = true, 20*ms },
		},
		"strict":  {func(p *config.BFDProfile) { p.StrictMode = true }, func(p *lb.BFDProfile) { p.Strict = true }},
		"passive": {func(p *config.BFDProfile) { p.PassiveMode = true }, func(p *lb.BFDProfile) { p.Passive = true }},
		"TTL":     {func(p *config.BFDProfile) { p.MinimumTTL = new(uint32(1)) }, func(p *lb.BFDProfile) { p.MinTTL = 1 }},
	} {
		want := &lb.BFDProfile{Name: "fast", Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3, EchoInterval: 50 * ms, MinTTL: 254}
		if c.want != nil {
			c.want(want)
		}
		o := peer("r", 0)
		o.BFDProfile = "fast"
		got := config.Parse(config.Objects{BFDProfiles: []config.BFDProfile{profile("fast", c.edit)}, Peers: []config.BGPPeer{o}}, nil)
		if d := cmp.Diff([]*lb.BFDProfile{want}, got.BFD); d != "" {
			t.Errorf("%s: profile in force (-want +got):\n%s", name, d)
		}
		if d := cmp.Diff(want, got.Peers[0].BFD); d != "" {
			t.Errorf("%s: profile of the peer (-want +got):\n%s", name, d)
		}
	}
}

func TestProfileRefused(t *testing.T) {
	for field, edit := range map[string]func(*config.BFDProfile){
		"spec.receiveInterval":  func(p *config.BFDProfile) { p.ReceiveInterval = new(uint32(9)) },
		"spec.transmitInterval": func(p *config.BFDProfile) { p.TransmitInterval = new(uint32(60001)) },
		"spec.echoInterval":     func(p *config.BFDProfile) { p.EchoInterval = new(uint32(0)) },
		"spec.detectMultiplier": func(p *config.BFDProfile) { p.DetectMultiplier = new(uint32(256)) },
		"spec.minimumTtl":       func(p *config.BFDProfile) { p.MinimumTTL = new(uint32(255)) },
	} {
		o := peer("r", 0)
		o.BFDProfile = "fast"
		good := config.Objects{BFDProfiles: []config.BFDProfile{profile("fast", nil)}, Peers: []config.BGPPeer{o}}
		bad := config.Objects{BFDProfiles: []config.BFDProfile{profile("fast", edit)}, Peers: []config.BGPPeer{o}}

		alone := config.Parse(bad, nil)
		if len(alone.BFD) != 0 || len(alone.Peers) != 0 {
			t.Errorf("%s: a bad profile without a good version is in force, or its peer is", field)
		}
		has(t, alone, config.Problem{Kind: "BFDProfile", Name: "fast", Field: field, Reason: lb.InvalidField})
		has(t, alone, config.Problem{Kind: "BGPPeer", Name: "r", Field: "spec.bfdProfile", Reason: lb.UnknownReference})

		was := config.Parse(good, nil)
		after := config.Parse(bad, was)
		if d := cmp.Diff(was.BFD, after.BFD); d != "" {
			t.Errorf("%s: the last good version is not in force (-want +got):\n%s", field, d)
		}
		if d := cmp.Diff(was.Peers, after.Peers, equalAddrs); d != "" {
			t.Errorf("%s: the peer has changed (-want +got):\n%s", field, d)
		}
		has(t, after, config.Problem{Kind: "BFDProfile", Name: "fast", Field: field, Reason: lb.InvalidField, InForce: true, LastGood: true})
	}
}

// TestProfileGone leaves the peer as it was: its last good version has the profile.
func TestProfileGone(t *testing.T) {
	o := peer("r", 0)
	o.BFDProfile = "fast"
	was := config.Parse(config.Objects{BFDProfiles: []config.BFDProfile{profile("fast", nil)}, Peers: []config.BGPPeer{o}}, nil)
	after := config.Parse(config.Objects{Peers: []config.BGPPeer{o}}, was)
	if len(after.BFD) != 0 {
		t.Error("the profile is still in force")
	}
	if d := cmp.Diff(was.Peers, after.Peers, equalAddrs); d != "" {
		t.Errorf("the peer has changed (-want +got):\n%s", d)
	}
	has(t, after, config.Problem{Kind: "BGPPeer", Name: "r", Field: "spec.bfdProfile", Reason: lb.UnknownReference, InForce: true, LastGood: true})
}

// has demands a problem; its message may be any.
func has(t *testing.T, c *config.Config, want config.Problem) {
	t.Helper()
	for _, p := range c.Problems {
		p.Message, p.Words = "", ""
		if p == want {
			return
		}
	}
	t.Errorf("no problem %+v among %v", want, c.Problems)
}
