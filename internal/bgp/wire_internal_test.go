package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/barelb/barelb/internal/core/lb"
)

func testPeer(change func(*lb.Peer)) lb.Peer {
	p := lb.Peer{
		Name: "r", LocalASN: 64512, PeerASN: 64513, Addr: netip.MustParseAddr("10.9.0.2"), Port: 179,
		Families: []lb.Family{lb.IPv4},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*lb.Peer)
		want   string // part of the error; "" for none
	}{
		{"good", nil, ""},
		{"no keepalives", func(p *lb.Peer) { p.TimersSet = true }, ""},
		{"no own AS", func(p *lb.Peer) { p.LocalASN = 0 }, "myASN"},
		{"no AS", func(p *lb.Peer) { p.PeerASN = 0 }, "peerASN: missing"},
		{"two ASes", func(p *lb.Peer) { p.Dynamic = lb.ExternalASN }, "dynamicASN: excludes peerASN"},
		{"odd AS", func(p *lb.Peer) { p.Dynamic = "auto" }, `dynamicASN: "auto"`},
		{"no address", func(p *lb.Peer) { p.Addr = netip.Addr{} }, "peerAddress: missing"},
		{"multicast", func(p *lb.Peer) { p.Addr = netip.MustParseAddr("224.0.0.1") }, "peerAddress"},
		{"no port", func(p *lb.Peer) { p.Port = 0 }, "peerPort"},
		{"no family", func(p *lb.Peer) { p.Families = nil }, "families"},
		{"source of other family", func(p *lb.Peer) { p.SourceAddr = netip.MustParseAddr("fd00::1") }, "sourceAddress"},
		{"IPv6 router ID", func(p *lb.Peer) { p.RouterID = netip.MustParseAddr("fd00::1") }, "routerID"},
		{"zero router ID", func(p *lb.Peer) { p.RouterID = netip.IPv4Unspecified() }, "routerID"},
		{"long password", func(p *lb.Peer) { p.Password = strings.Repeat("x", 81) }, "password: longer"},
		{"short hold time", func(p *lb.Peer) { p.TimersSet, p.HoldTime = true, 2*time.Second }, "holdTime"},
		{"long hold time", func(p *lb.Peer) { p.TimersSet, p.HoldTime = true, 20*time.Hour }, "holdTime"},
		{"slow keepalive", func(p *lb.Peer) { p.TimersSet, p.HoldTime, p.Keepalive = true, 3*time.Second, 4*time.Second }, "keepaliveTime"},
		{"all at once", func(p *lb.Peer) { p.Port, p.LocalASN = 0, 0 }, "myASN: missing\npeerPort: missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := testPeer(tc.change)
			err := validate(p)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if err != nil && p.Password != "" && strings.Contains(err.Error(), p.Password) {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestNeighbor(t *testing.T) {
	source := netip.MustParseAddr("10.9.0.1")
	base := func(change func(*api.Peer)) *api.Peer {
		n := &api.Peer{
			Conf:      &api.PeerConf{LocalAsn: 64512, PeerAsn: 64513, NeighborAddress: "10.9.0.2"},
			Timers:    &api.Timers{Config: &api.TimersConfig{HoldTime: 90, ConnectRetry: 2, IdleHoldTimeAfterReset: 1}},
			Transport: &api.Transport{LocalAddress: "10.9.0.1", RemotePort: 179},
			AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: apiFamily(lb.IPv4), Enabled: true}}},
		}
		if change != nil {
			change(n)
		}
		return n
	}
	for _, tc := range []struct {
		name   string
		change func(*lb.Peer)
		want   *api.Peer
	}{
		{"defaults", nil, base(nil)},
		{
			"timers",
			func(p *lb.Peer) {
				p.TimersSet, p.HoldTime, p.Keepalive = true, 9*time.Second, 2500*time.Millisecond
				p.ConnectRetry = 7 * time.Second
			},
			base(func(n *api.Peer) {
				n.Timers.Config.HoldTime, n.Timers.Config.KeepaliveInterval, n.Timers.Config.ConnectRetry = 9, 3, 7
			}),
		},
		{
			"no hold time",
			func(p *lb.Peer) { p.TimersSet = true },
			base(func(n *api.Peer) { n.Timers.Config.HoldTime = 65535 }),
		},
		{
			"internal, by wish", func(p *lb.Peer) { p.PeerASN, p.Dynamic = 0, lb.InternalASN },
			base(func(n *api.Peer) { n.Conf.PeerAsn = 64512 }),
		},
		{
			"external, any", func(p *lb.Peer) { p.PeerASN, p.Dynamic = 0, lb.ExternalASN },
			base(func(n *api.Peer) { n.Conf.PeerAsn = 0 }),
		},
		{
			"multihop", func(p *lb.Peer) { p.MultiHop = true },
			base(func(n *api.Peer) { n.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: 255} }),
		},
		{
			"both families, password",
			func(p *lb.Peer) { p.Families, p.Password = []lb.Family{lb.IPv4, lb.IPv6}, "secret" },
			base(func(n *api.Peer) {
				n.Conf.AuthPassword = "secret"
				n.AfiSafis = append(n.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiFamily(lb.IPv6), Enabled: true}})
			}),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, neighbor(testPeer(tc.change), source), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPathAttributes(t *testing.T) {
	attrs := lb.Attrs{
		LocalPref:        7,
		Communities:      []lb.Community{64512<<16 | 100},
		LargeCommunities: []lb.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}},
	}
	ibgp := func(p *lb.Peer) { p.PeerASN = p.LocalASN }
	for _, tc := range []struct {
		name, pfx, hop string
		change         func(*lb.Peer)
		attrs          lb.Attrs
		want           string
	}{
		{"external", "192.0.2.1/32", "10.9.0.1", nil, attrs, "Origin NextHop Communities LargeCommunity"},
		{"internal", "192.0.2.1/32", "10.9.0.1", ibgp, attrs, "Origin NextHop LocalPref=7 Communities LargeCommunity"},
		{"internal, bare", "192.0.2.0/24", "10.9.0.1", ibgp, lb.Attrs{}, "Origin NextHop LocalPref=100"},
		{"IPv6", "2001:db8::1/128", "fd09::1", nil, lb.Attrs{}, "Origin MpReachNLRI"},
		{"IPv4 by IPv6", "192.0.2.1/32", "fd09::1", nil, lb.Attrs{}, "Origin MpReachNLRI"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := path(testPeer(tc.change), netip.MustParsePrefix(tc.pfx), route{tc.attrs, netip.MustParseAddr(tc.hop)})
			if err != nil {
				t.Fatal(err)
			}
			names := map[bgp.BGPAttrType]string{
				bgp.BGP_ATTR_TYPE_ORIGIN: "Origin", bgp.BGP_ATTR_TYPE_NEXT_HOP: "NextHop",
				bgp.BGP_ATTR_TYPE_MP_REACH_NLRI: "MpReachNLRI", bgp.BGP_ATTR_TYPE_COMMUNITIES: "Communities",
				bgp.BGP_ATTR_TYPE_LARGE_COMMUNITY: "LargeCommunity",
			}
			var list []string
			for _, a := range got.Attrs {
				if pref, ok := a.(*bgp.PathAttributeLocalPref); ok {
					list = append(list, "LocalPref="+map[uint32]string{7: "7", 100: "100"}[pref.Value])
					continue
				}
				list = append(list, names[a.GetType()])
			}
			if diff := cmp.Diff(tc.want, strings.Join(list, " ")); diff != "" {
				t.Error(diff)
			}
			if got.Nlri.String() != tc.pfx {
				t.Errorf("prefix %s", got.Nlri)
			}
		})
	}
}

func TestRouterID(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	for _, tc := range []struct {
		name, node string
		change     func(*lb.Peer)
		addrs      []netip.Addr
		want       string
	}{
		{"the peer's", "node1", func(p *lb.Peer) { p.RouterID = netip.MustParseAddr("10.1.1.1") }, []netip.Addr{v4}, "10.1.1.1"},
		{"the node's", "node1", nil, []netip.Addr{v6, v4}, "10.9.0.1"},
		{"the name's", "node1", nil, []netip.Addr{v6}, "16.78.40.116"},
		{"another name's", "node2", nil, nil, "19.78.45.45"},
		{"no name's", "", nil, nil, "130.28.157.197"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, routerID(testPeer(tc.change), tc.node, tc.addrs).String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNegotiate(t *testing.T) {
	mp := func(f bgp.Family) bgp.ParameterCapabilityInterface { return bgp.NewCapMultiProtocol(f) }
	hops := bgp.NewCapExtendedNexthop([]*bgp.CapExtendedNexthopTuple{bgp.NewCapExtendedNexthopTuple(bgp.RF_IPv4_UC, bgp.AFI_IP6)})
	for _, tc := range []struct {
		name     string
		families []lb.Family
		remote   []bgp.ParameterCapabilityInterface
		want     negotiated
	}{
		{"nothing", []lb.Family{lb.IPv4}, nil, negotiated{}},
		{"one", []lb.Family{lb.IPv4}, []bgp.ParameterCapabilityInterface{mp(bgp.RF_IPv4_UC), mp(bgp.RF_IPv6_UC)}, negotiated{ipv4: true}},
		{
			"both",
			[]lb.Family{lb.IPv4, lb.IPv6},
			[]bgp.ParameterCapabilityInterface{mp(bgp.RF_IPv6_UC), mp(bgp.RF_IPv4_UC), hops},
			negotiated{ipv4: true, ipv6: true, ipv6Hops: true},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := negotiate(testPeer(func(p *lb.Peer) { p.Families = tc.families }), tc.remote); got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	var got []time.Duration
	for failures := range 8 {
		got = append(got, backoff(failures)/time.Second)
	}
	if diff := cmp.Diff([]time.Duration{0, 1, 2, 4, 8, 16, 30, 30}, got); diff != "" {
		t.Error(diff)
	}
	if got := backoff(1000); got != maxBackoff {
		t.Errorf("after many failures: %s", got)
	}
}

func TestLocalAddresses(t *testing.T) {
	list := func(specs ...string) []linkAddr {
		var all []linkAddr
		for _, spec := range specs {
			pfx, flags, _ := strings.Cut(spec, " ")
			all = append(all, linkAddr{
				prefix:    netip.MustParsePrefix(pfx),
				lasting:   !strings.Contains(flags, "auto"),
				secondary: strings.Contains(flags, "secondary"),
			})
		}
		return all
	}
	node := []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd16::1")}
	for _, tc := range []struct {
		name   string
		family lb.Family
		addrs  []linkAddr
		want   string
	}{
		{"first", lb.IPv4, list("fd09::1/64", "10.9.0.1/24", "10.9.1.1/24"), "10.9.0.1"},
		{"lasting before lent", lb.IPv6, list("fd09::5/64 auto", "fe80::1/64", "fd09::1/64"), "fd09::1"},
		{"lent", lb.IPv4, list("10.9.0.1/24 auto"), "10.9.0.1"},
		{"secondary last", lb.IPv4, list("10.9.0.9/24 secondary", "10.9.0.1/24 auto"), "10.9.0.1"},
		{"the node's", lb.IPv6, list("10.9.0.1/24", "fe80::1/64"), "fd16::1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, best(tc.addrs, tc.family, node).String()); diff != "" {
				t.Error(diff)
			}
		})
	}

	router, lent, own := netip.MustParseAddr("fd09::2"), netip.MustParseAddr("fd09::5"), netip.MustParseAddr("fd09::1")
	for _, tc := range []struct {
		name  string
		addrs []linkAddr
		want  netip.Addr
	}{
		{"the kernel's, lasting", list("fd09::5/64", "fd09::1/64"), lent},
		{"one that lasts", list("fd09::5/64 auto", "fd77::1/64", "fd09::1/64"), own},
		{"none that lasts", list("fd09::5/64 auto", "fd77::1/64"), lent},
	} {
		t.Run("source "+tc.name, func(t *testing.T) {
			if got := sourceFor(router, lent, tc.addrs); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	p := testPeer(func(p *lb.Peer) { p.Password = "hush" })
	for name, tc := range map[string]struct{ got, want string }{
		"silence with password":    {explainDial("dial tcp: i/o timeout", p), "has another password"},
		"silence without password": {explainDial("dial tcp: i/o timeout", testPeer(nil)), "demands a password"},
		"too far":                  {explainDial("connect: no route to host", p), "set ebgpMultiHop"},
		"refused":                  {explainDial("connect: connection refused", p), "no BGP router listens there"},
		"source":                   {explainDial("bind: cannot assign requested address", p), "correct sourceAddress"},
		"other":                    {explainDial("connect: network is unreachable", p), "network is unreachable"},
		"their AS":                 {explainSent(2, 2, p), "not in AS 64513"},
		"our ID":                   {explainSent(2, 3, p), "set another routerID"},
		"our hold time":            {explainSent(4, 0, p), "nothing was heard"},
		"our AS":                   {explainReceived(2, 2, p), "correct myASN"},
		"too many":                 {explainReceived(6, 1, p), "limit of prefixes"},
		"shut down":                {explainReceived(6, 2, p), "administrative shutdown"},
		"deconfigured":             {explainReceived(6, 3, p), "no longer has this node"},
		"their hold time":          {explainReceived(4, 0, p), "heard nothing from this node"},
		"closed":                   {explainDown("read-failed", p), "closed the connection"},
		"odd":                      {explainDown("hard-reset", p), "hard-reset"},
	} {
		if !strings.Contains(tc.got, tc.want) || strings.Contains(tc.got, p.Password) {
			t.Errorf("%s: %q, want it to say %q", name, tc.got, tc.want)
		}
	}
}
