package config_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

const basicAuth = "kubernetes.io/basic-auth"

var equalAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestPeerInForce(t *testing.T) {
	base := lb.Peer{
		Name: "r", LocalASN: 64512, PeerASN: 64513, Addr: netip.MustParseAddr("192.168.1.1"), Port: 179,
		Families: []lb.Family{lb.IPv4},
	}
	for name, c := range map[string]struct {
		edit func(*config.BGPPeer)
		want func(*lb.Peer)
	}{
		"default":      {func(*config.BGPPeer) {}, func(*lb.Peer) {}},
		"port":         {func(p *config.BGPPeer) { p.PeerPort = 1179 }, func(p *lb.Peer) { p.Port = 1179 }},
		"internal":     {func(p *config.BGPPeer) { p.PeerASN = 64512 }, func(p *lb.Peer) { p.PeerASN = 64512 }},
		"dynamic":      {func(p *config.BGPPeer) { p.PeerASN, p.DynamicASN = 0, "external" }, func(p *lb.Peer) { p.PeerASN, p.Dynamic = 0, lb.ExternalASN }},
		"multihop":     {func(p *config.BGPPeer) { p.MultiHop = true }, func(p *lb.Peer) { p.MultiHop = true }},
		"source":       {func(p *config.BGPPeer) { p.SourceAddress = "192.168.1.101" }, func(p *lb.Peer) { p.SourceAddr = netip.MustParseAddr("192.168.1.101") }},
		"router ID":    {func(p *config.BGPPeer) { p.RouterID = "10.0.0.1" }, func(p *lb.Peer) { p.RouterID = netip.MustParseAddr("10.0.0.1") }},
		"password":     {func(p *config.BGPPeer) { p.Password = "x" }, func(p *lb.Peer) { p.Password = "x" }},
		"secret":       {func(p *config.BGPPeer) { p.PasswordSecret = "s" }, func(p *lb.Peer) { p.Password = "hush" }},
		"empty secret": {func(p *config.BGPPeer) { p.PasswordSecret = "empty" }, func(*lb.Peer) {}},
		"IPv6": {
			func(p *config.BGPPeer) { p.PeerAddress = "fd00::1" },
			func(p *lb.Peer) { p.Addr, p.Families = netip.MustParseAddr("fd00::1"), []lb.Family{lb.IPv6} },
		},
		"mapped":     {func(p *config.BGPPeer) { p.PeerAddress = "::ffff:192.168.1.1" }, func(*lb.Peer) {}},
		"dual stack": {func(p *config.BGPPeer) { p.DualStack = true }, func(p *lb.Peer) { p.Families = []lb.Family{lb.IPv4, lb.IPv6} }},
		"hold time": {
			func(p *config.BGPPeer) { p.HoldTime = new(30 * time.Second) },
			func(p *lb.Peer) { p.HoldTime, p.Keepalive, p.TimersSet = 30*time.Second, 10*time.Second, true },
		},
		"keepalive": {
			func(p *config.BGPPeer) { p.KeepaliveTime = new(5 * time.Second) },
			func(p *lb.Peer) { p.HoldTime, p.Keepalive, p.TimersSet = 15*time.Second, 5*time.Second, true },
		},
		"both timers": {
			func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(30*time.Second), new(time.Second) },
			func(p *lb.Peer) { p.HoldTime, p.Keepalive, p.TimersSet = 30*time.Second, time.Second, true },
		},
		"rounded to 3s": {
			func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(2500*time.Millisecond), new(time.Second) },
			func(p *lb.Peer) { p.HoldTime, p.Keepalive, p.TimersSet = 3*time.Second, time.Second, true },
		},
		"no keepalives": {func(p *config.BGPPeer) { p.HoldTime = new(time.Duration(0)) }, func(p *lb.Peer) { p.TimersSet = true }},
		"both zero":     {func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(time.Duration(0)), new(time.Duration(0)) }, func(p *lb.Peer) { p.TimersSet = true }},
		"longest hold time": {
			func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(65535*time.Second), new(time.Second) },
			func(p *lb.Peer) { p.HoldTime, p.Keepalive, p.TimersSet = 65535*time.Second, time.Second, true },
		},
		"keepalive zero is unset": {
			func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(90*time.Second), new(time.Duration(0)) },
			func(p *lb.Peer) { p.HoldTime, p.Keepalive, p.TimersSet = 90*time.Second, 30*time.Second, true },
		},
		"local AS":         {func(p *config.BGPPeer) { p.LocalASN = 64999 }, func(p *lb.Peer) { p.LocalASN = 64999 }},
		"VRF":              {func(p *config.BGPPeer) { p.VRF = "red" }, func(p *lb.Peer) { p.VRF = "red" }},
		"GTSM":             {func(p *config.BGPPeer) { p.TTLSecurityHops = 1 }, func(p *lb.Peer) { p.TTLSecurityHops = 1 }},
		"graceful restart": {func(p *config.BGPPeer) { p.GracefulRestart = true }, func(p *lb.Peer) { p.GracefulRestart = true }},
		"unnumbered": {
			func(p *config.BGPPeer) { p.PeerAddress, p.Interface = "", "eth0" },
			func(p *lb.Peer) {
				p.Addr, p.Interface, p.Families = netip.Addr{}, "eth0", []lb.Family{lb.IPv4, lb.IPv6}
			},
		},
		"connect time": {func(p *config.BGPPeer) { p.ConnectTime = new(7 * time.Second) }, func(p *lb.Peer) { p.ConnectRetry = 7 * time.Second }},
	} {
		o, want := peer("r", 0), base
		c.edit(&o)
		c.want(&want)
		o.NodeSelectors = []lb.Selector{label("rack", "1")}
		got := config.Parse(config.Objects{Peers: []config.BGPPeer{o}, Secrets: map[string]config.Secret{
			"s": {Type: basicAuth, Password: "hush", HasKey: true}, "empty": {Type: basicAuth, HasKey: true},
		}}, nil)
		checkProblems(t, got)
		if d := cmp.Diff([]*config.Peer{{Peer: want, NodeSelectors: o.NodeSelectors}}, got.Peers, equalAddrs); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestBadPeers goes through the rules that a peer can break: alone it is set
// aside, its last good version stays, and no other peer notices.
func TestBadPeers(t *testing.T) {
	secrets := map[string]config.Secret{
		"s": {Type: basicAuth, Password: "hush", HasKey: true}, "opaque": {Type: "Opaque", Password: "hush", HasKey: true}, "no-key": {Type: basicAuth},
	}
	for name, c := range map[string]struct {
		edit   func(*config.BGPPeer)
		field  string
		reason lb.Reason
	}{
		"no local AS":                  {func(p *config.BGPPeer) { p.MyASN = 0 }, "spec.myASN", lb.InvalidField},
		"no peer AS":                   {func(p *config.BGPPeer) { p.PeerASN = 0 }, "spec.peerASN", lb.InvalidField},
		"peerASN and dynamicASN":       {func(p *config.BGPPeer) { p.DynamicASN = "internal" }, "spec.dynamicASN", lb.InvalidField},
		"unknown dynamicASN":           {func(p *config.BGPPeer) { p.PeerASN, p.DynamicASN = 0, "any" }, "spec.dynamicASN", lb.InvalidField},
		"localASN of an internal peer": {func(p *config.BGPPeer) { p.PeerASN, p.LocalASN = 64512, 64999 }, "spec.localASN", lb.InvalidField},
		"localASN, internal":           {func(p *config.BGPPeer) { p.PeerASN, p.DynamicASN, p.LocalASN = 0, "internal", 64999 }, "spec.localASN", lb.InvalidField},
		"localASN of the router":       {func(p *config.BGPPeer) { p.LocalASN = 64513 }, "spec.localASN", lb.InvalidField},
		"internal multihop":            {func(p *config.BGPPeer) { p.PeerASN, p.MultiHop = 64512, true }, "spec.ebgpMultiHop", lb.InvalidField},
		"no address":                   {func(p *config.BGPPeer) { p.PeerAddress = "" }, "spec.peerAddress", lb.InvalidField},
		"junk address":                 {func(p *config.BGPPeer) { p.PeerAddress = "router1" }, "spec.peerAddress", lb.InvalidField},
		"address and interface":        {func(p *config.BGPPeer) { p.Interface = "eth0" }, "spec.interface", lb.InvalidField},
		"interface and multihop":       {func(p *config.BGPPeer) { p.PeerAddress, p.Interface, p.MultiHop = "", "eth0", true }, "spec.ebgpMultiHop", lb.InvalidField},
		"interface and source":         {func(p *config.BGPPeer) { p.PeerAddress, p.Interface, p.SourceAddress = "", "eth0", "fd00::1" }, "spec.sourceAddress", lb.InvalidField},
		"junk interface":               {func(p *config.BGPPeer) { p.PeerAddress, p.Interface = "", "eth0/1" }, "spec.interface", lb.InvalidField},
		"link-local":                   {func(p *config.BGPPeer) { p.PeerAddress = "fe80::1" }, "spec.peerAddress", lb.InvalidField},
		"security and multihop":        {func(p *config.BGPPeer) { p.TTLSecurityHops, p.MultiHop = 2, true }, "spec.ttlSecurityHops", lb.InvalidField},
		"security of 255 hops":         {func(p *config.BGPPeer) { p.TTLSecurityHops = 255 }, "spec.ttlSecurityHops", lb.InvalidField},
		"long vrf":                     {func(p *config.BGPPeer) { p.VRF = "interface-of-16-" }, "spec.vrf", lb.InvalidField},
		"junk source":                  {func(p *config.BGPPeer) { p.SourceAddress = "x" }, "spec.sourceAddress", lb.InvalidField},
		"source of other family":       {func(p *config.BGPPeer) { p.SourceAddress = "fd00::2" }, "spec.sourceAddress", lb.InvalidField},
		"junk router ID":               {func(p *config.BGPPeer) { p.RouterID = "7" }, "spec.routerID", lb.InvalidField},
		"IPv6 router ID":               {func(p *config.BGPPeer) { p.RouterID = "fd00::1" }, "spec.routerID", lb.InvalidField},
		"hold time of 2s":              {func(p *config.BGPPeer) { p.HoldTime = new(2 * time.Second) }, "spec.holdTime", lb.InvalidField},
		"hold time of 2.4s":            {func(p *config.BGPPeer) { p.HoldTime = new(2400 * time.Millisecond) }, "spec.holdTime", lb.InvalidField},
		"negative hold time":           {func(p *config.BGPPeer) { p.HoldTime = new(-9 * time.Second) }, "spec.holdTime", lb.InvalidField},
		"hold time too long":           {func(p *config.BGPPeer) { p.HoldTime = new(65536 * time.Second) }, "spec.holdTime", lb.InvalidField},
		"keepalive of 500ms":           {func(p *config.BGPPeer) { p.KeepaliveTime = new(500 * time.Millisecond) }, "spec.holdTime", lb.InvalidField},
		"keepalive above hold":         {func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(9*time.Second), new(10*time.Second) }, "spec.keepaliveTime", lb.InvalidField},
		"keepalive without hold":       {func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(time.Duration(0)), new(time.Second) }, "spec.keepaliveTime", lb.InvalidField},
		"negative keepalive":           {func(p *config.BGPPeer) { p.HoldTime, p.KeepaliveTime = new(90*time.Second), new(-time.Second) }, "spec.keepaliveTime", lb.InvalidField},
		"password and secret":          {func(p *config.BGPPeer) { p.Password, p.PasswordSecret = "hunter2", "s" }, "spec.passwordSecret", lb.InvalidField},
		"no such secret":               {func(p *config.BGPPeer) { p.PasswordSecret = "nope" }, "spec.passwordSecret", lb.UnknownReference},
		"secret of another type":       {func(p *config.BGPPeer) { p.PasswordSecret = "opaque" }, "spec.passwordSecret", lb.InvalidReference},
		"secret without password":      {func(p *config.BGPPeer) { p.PasswordSecret = "no-key" }, "spec.passwordSecret", lb.InvalidReference},
		"password withheld":            {func(p *config.BGPPeer) { p.Withheld = true }, "spec.password", lb.PasswordUnknown},
		"secret withheld":              {func(p *config.BGPPeer) { p.Withheld, p.PasswordSecret = true, "s" }, "spec.passwordSecret", lb.PasswordUnknown},
		"bad node selector":            {func(p *config.BGPPeer) { p.NodeSelectors = []lb.Selector{label("!", "")} }, "spec.nodeSelectors[0]", lb.InvalidField},
		"node selector twice":          {func(p *config.BGPPeer) { p.NodeSelectors = []lb.Selector{{}, {}} }, "spec.nodeSelectors[1]", lb.InvalidField},
	} {
		t.Run(name, func(t *testing.T) {
			objs := config.Objects{Peers: []config.BGPPeer{peer("r", 0), peer("other", 1)}, Secrets: secrets}
			prev := config.Parse(objs, nil)
			c.edit(&objs.Peers[0])
			want := config.Problem{Kind: "BGPPeer", Name: "r", Field: c.field, Reason: c.reason}
			fresh := config.Parse(objs, nil)
			checkProblems(t, fresh, want)
			if len(fresh.Peers) != 1 || fresh.Peers[0].Name != "other" {
				t.Errorf("in force: %v", fresh.Peers)
			}
			want.InForce, want.LastGood = true, true
			edited := config.Parse(objs, prev)
			checkProblems(t, edited, want)
			if d := cmp.Diff(prev.Peers, edited.Peers, equalAddrs); d != "" {
				t.Errorf("last good version (-want +got):\n%s", d)
			}
			for _, p := range fresh.Problems {
				if s := p.String(); strings.Contains(s, "hush") || strings.Contains(s, "hunter2") {
					t.Errorf("a password is told: %s", s)
				}
			}
		})
	}
}

// TestLostSecretKeepsSession: the password that the session runs with stays.
func TestLostSecretKeepsSession(t *testing.T) {
	o := peer("r", 0)
	o.PasswordSecret = "s"
	objs := config.Objects{Peers: []config.BGPPeer{o}, Secrets: map[string]config.Secret{"s": {Type: basicAuth, Password: "one", HasKey: true}}}
	c := config.Parse(objs, nil)
	for name, secrets := range map[string]map[string]config.Secret{
		"gone": nil, "of another type": {"s": {Type: "Opaque", Password: "two", HasKey: true}}, "without the key": {"s": {Type: basicAuth}},
	} {
		objs.Secrets = secrets
		got := config.Parse(objs, c)
		if len(got.Peers) != 1 || got.Peers[0].Password != "one" || len(got.Problems) != 1 || !got.Problems[0].LastGood {
			t.Errorf("%s: %v, %v", name, got.Peers, got.Problems)
		}
	}
	objs.Secrets = map[string]config.Secret{"s": {Type: basicAuth, Password: "two", HasKey: true}}
	if got := config.Parse(objs, c); got.Peers[0].Password != "two" {
		t.Error("a new password is not taken")
	}
}
