package bgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// peer returns the router at addr as a peer "r" of ours, AS 64512.
func peer(addr string, asn uint32, families ...lb.Family) lb.Peer {
	return lb.Peer{
		Name: "r", LocalASN: 64512, PeerASN: asn, Addr: netip.MustParseAddr(addr), Port: 179, Families: families,
	}
}

// frrConfig makes FRR of AS asn know one neighbor of AS 64512.
func frrConfig(asn int, neighbor, more string, families ...lb.Family) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
router bgp %d
 bgp router-id 10.9.0.2
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 neighbor %s remote-as 64512
 %s
`, asn, neighbor, more)
	for _, f := range families {
		fmt.Fprintf(&b, " address-family %s unicast\n  neighbor %s activate\n exit-address-family\n", strings.ToLower(f.String()), neighbor)
	}
	return b.String()
}

const (
	vip4 = "192.0.2.1/32"
	vip6 = "2001:db8::1/128"
)

func attrs() lb.Attrs {
	return lb.Attrs{
		LocalPref:        250,
		Communities:      []lb.Community{64512<<16 | 100, 65535<<16 | 65281},
		LargeCommunities: []lb.LargeCommunity{{Global: 64512, Local1: 1, Local2: 2}},
	}
}

func TestRoutesReachTheRouter(t *testing.T) {
	t.Parallel()
	const communities, large = "64512:100 no-export", "64512:1:2"
	type want struct {
		pfx, hop, as string
		localPref    int
	}
	for _, tc := range []struct {
		name     string
		asn      int
		router   string
		node     string
		families []lb.Family
		more     string // configuration of the neighbor
		multihop bool
		want     []want
	}{
		{
			name: "iBGP, IPv4", asn: 64512, router: router4, node: node4, families: []lb.Family{lb.IPv4},
			want: []want{{vip4, node4, "Local", 250}},
		},
		{
			name: "eBGP, IPv4", asn: 64513, router: router4, node: node4, families: []lb.Family{lb.IPv4},
			want: []want{{vip4, node4, "64512", 0}},
		},
		{
			name: "eBGP, multihop with IPv4", asn: 64513, router: router4, node: node4, families: []lb.Family{lb.IPv4},
			more: "neighbor " + node4 + " ebgp-multihop", multihop: true,
			want: []want{{vip4, node4, "64512", 0}},
		},
		{
			name: "eBGP, IPv6", asn: 64513, router: router6, node: node6, families: []lb.Family{lb.IPv6},
			want: []want{{vip6, node6, "64512", 0}},
		},
		{
			name: "both over IPv4", asn: 64512, router: router4, node: node4, families: []lb.Family{lb.IPv4, lb.IPv6},
			want: []want{{vip4, node4, "Local", 250}, {vip6, node6, "Local", 250}},
		},
		{
			name: "both over IPv6", asn: 64513, router: router6, node: node6, families: []lb.Family{lb.IPv4, lb.IPv6},
			want: []want{{vip4, node4, "64512", 0}, {vip6, node6, "64512", 0}},
		},
		{
			name: "both over IPv6, extended next hop", asn: 64513, router: router6, node: node6, families: []lb.Family{lb.IPv4, lb.IPv6},
			more: "neighbor " + node6 + " capability extended-nexthop",
			want: []want{{vip4, node6, "64512", 0}, {vip6, node6, "64512", 0}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			f := l.startFRR(frrConfig(tc.asn, tc.node, tc.more, tc.families...))
			n := startNode(t, l.node)
			p := peer(tc.router, uint32(tc.asn), tc.families...)
			p.MultiHop = tc.multihop
			pfxs := make([]string, len(tc.want))
			for i, w := range tc.want {
				pfxs[i] = w.pfx
			}
			n.apply(lb.Session{Peer: p, Routes: routes(attrs(), pfxs...)})
			n.up("r")
			l.fib(5*time.Second, true, pfxs...)
			for _, w := range tc.want {
				got := f.path(w.pfx)
				hops := make([]string, len(got.Nexthops))
				for i, h := range got.Nexthops {
					hops[i] = h.IP
				}
				if hops[0] != w.hop || got.Aspath.String != w.as || got.Origin != "IGP" || got.LocPrf != w.localPref ||
					got.Community.String != communities || got.Large.String != large {
					t.Errorf("path to %s: %+v, want %+v", w.pfx, got, w)
				}
			}
			if s := n.status("r"); s.Advertised != len(pfxs) || s.Wanted != len(pfxs) || s.LastError != "" {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestRouteChangesDoNotResetTheSession(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64512, node4, "", lb.IPv4))
	n := startNode(t, l.node)
	p := peer(router4, 64512, lb.IPv4)

	n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	n.up("r")
	l.fib(5*time.Second, true, vip4)
	if got := f.path(vip4); got.LocPrf != 100 {
		t.Errorf("local preference when none is set: %d, want 100", got.LocPrf)
	}
	const other = "192.0.2.2/32"
	two := routes(lb.Attrs{}, vip4, other)
	n.apply(lb.Session{Peer: p, Routes: two})
	l.fib(5*time.Second, true, vip4, other)

	before := f.neighbor(node4).MessageStats.UpdatesRecv
	changed := routes(lb.Attrs{}, vip4, other)
	changed[netip.MustParsePrefix(other)] = attrs()
	n.apply(lb.Session{Peer: p, Routes: changed})
	eventually(t, 5*time.Second, func() string {
		if got := f.path(other); got.LocPrf != 250 || got.Large.String != "64512:1:2" {
			return fmt.Sprintf("path with changed attributes: %+v", got)
		}
		return ""
	})
	n.apply(lb.Session{Peer: p, Routes: changed}) // the same again
	n.apply(lb.Session{Peer: p, Routes: routes(attrs(), other)})
	l.fib(5*time.Second, false, vip4)
	l.fib(0, true, other)
	if got := f.neighbor(node4).MessageStats.UpdatesRecv - before; got != 2 {
		t.Errorf("one change of attributes and one withdrawal took %d UPDATEs, want 2", got)
	}

	many := make(map[netip.Prefix]lb.Attrs)
	var names []string
	for i := range 2000 {
		pfx := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
		many[pfx] = lb.Attrs{}
		names = append(names, pfx.String())
	}
	n.apply(lb.Session{Peer: p, Routes: many})
	l.fib(15*time.Second, true, names...)
	answer := n.apply(lb.Session{Peer: p, Routes: many})
	if got := answer.Metrics["metallb_bgp_announced_prefixes_total{10.9.0.2:179}"]; got != 2000 {
		t.Errorf("metrics %v", answer.Metrics)
	}
	if got := answer.Metrics["metallb_bgp_updates_total{10.9.0.2:179}"]; got < 4 || got > 1000 {
		t.Errorf("2,000 routes alike took %v UPDATEs", got)
	}
	n.apply(lb.Session{Peer: p})
	l.fib(15*time.Second, false, names...)

	if got := f.neighbor(node4); got.ConnectionsEstablished != 1 {
		t.Errorf("the session was established %d times", got.ConnectionsEstablished)
	}
}

// Two routers at one address, and a third at another, come, change and go.
func TestSessionsDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	bird := l.startBird(`
router id 10.9.0.3;
protocol device {}
protocol bgp n {
  local 10.9.0.2 port 1179 as 64514;
  neighbor 10.9.0.1 as 64520;
  strict bind yes;
  passive yes;
  ipv4 { import all; export none; };
}
protocol bgp n6 {
  local fd09::2 port 1180 as 64514;
  neighbor fd09::1 as 64512;
  strict bind yes;
  passive yes;
  ipv6 { import all; export none; };
}
`)
	n := startNode(t, l.node)
	first := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}
	second := lb.Session{Peer: peer(router4, 64514, lb.IPv4), Routes: routes(attrs(), "192.0.2.9/32")}
	second.Peer.Name, second.Peer.Port, second.Peer.LocalASN = "second", 1179, 64520
	second.Peer.RouterID = netip.MustParseAddr("10.99.0.1")
	third := lb.Session{Peer: peer(router6, 64514, lb.IPv6), Routes: routes(lb.Attrs{}, vip6)}
	third.Peer.Name, third.Peer.Port = "third", 1180

	n.apply(first)
	n.up("r")
	n.apply(first, second)
	n.up("second")
	n.apply(first, second, third)
	n.up("third")
	for protocol, pfx := range map[string]string{"n": "192.0.2.9/32", "n6": vip6} {
		eventually(t, 5*time.Second, func() string {
			if out := bird("show route all protocol " + protocol); !strings.Contains(out, pfx) {
				return out
			}
			return ""
		})
	}
	out := bird("show route all protocol n")
	for _, want := range []string{"BGP.as_path: 64520", "BGP.next_hop: 10.9.0.1", "(64512,100)", "(64512, 1, 2)"} {
		if !strings.Contains(out, want) {
			t.Errorf("BIRD does not show %q:\n%s", want, out)
		}
	}
	if out := bird("show protocols all n"); !strings.Contains(out, "10.99.0.1") {
		t.Errorf("router ID is not the peer's own:\n%s", out)
	}
	answer := n.apply(first, second, third)
	for _, label := range []string{"10.9.0.2:179", "10.9.0.2:1179", "fd09::2:1180"} {
		if answer.Metrics["metallb_bgp_session_up{"+label+"}"] != 1 {
			t.Errorf("session %s is not up in %v", label, answer.Metrics)
		}
	}

	second.Peer.HoldTime, second.Peer.Keepalive, second.Peer.TimersSet = 9*time.Second, 3*time.Second, true
	n.apply(first, second, third)
	eventually(t, 10*time.Second, func() string {
		if out := bird("show protocols all n"); !strings.Contains(out, "/9") || !strings.Contains(out, "Established") {
			return "hold time has not changed: " + out
		}
		return ""
	})
	n.apply(first, third)
	eventually(t, 5*time.Second, func() string {
		if out := bird("show protocols n"); strings.Contains(out, "Established") {
			return out
		}
		return ""
	})

	// A peer that cannot be, beside.
	bad := lb.Session{Peer: peer("10.9.0.77", 64513, lb.IPv4)}
	bad.Peer.Name, bad.Peer.Password = "bad", strings.Repeat(secret, 9)
	if answer := n.apply(first, bad, third); !strings.Contains(answer.Err, "bad (10.9.0.77:179): password: longer") {
		t.Errorf("error of a password that is too long: %q", answer.Err)
	}
	n.complains("bad", "password: longer than 80 bytes")

	for _, name := range []string{"r", "third"} {
		if got := n.states(name); strings.Count(got, "Established") != 1 || !strings.HasSuffix(got, "Established") {
			t.Errorf("states of the untouched session %s: %s", name, got)
		}
	}
	if got := f.neighbor(node4); got.ConnectionsEstablished != 1 {
		t.Errorf("the untouched session was established %d times", got.ConnectionsEstablished)
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	for _, family := range []struct{ name, router, node string }{{"IPv4", router4, node4}, {"IPv6", router6, node6}} {
		t.Run(family.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.startFRR(frrConfig(64513, family.node, "neighbor "+family.node+" password "+secret, lb.IPv4))
			n := startNode(t, l.node)
			p := peer(family.router, 64513, lb.IPv4)
			n.apply(lb.Session{Peer: p})
			n.complains("r", "or demands a password")
			p.Password = "not-" + secret
			n.apply(lb.Session{Peer: p})
			n.complains("r", "has another password for this node")
			p.Password = secret
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
			n.up("r")
			l.fib(5*time.Second, true, vip4)
		})
	}
}

// TestRouterRestarts: within 2 s of the router's port being open, the session is up.
func TestRouterRestarts(t *testing.T) {
	t.Parallel()
	const most = 2 * time.Second
	for _, side := range sides {
		t.Run("FRR, "+side.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			f := l.startFRR(frrConfig(64513, side.node, "", side.family))
			n := startNode(t, l.node)
			want := lb.Session{Peer: peer(side.router, 64513, side.family), Routes: routes(lb.Attrs{}, side.vip)}
			n.apply(want)
			n.up("r")
			l.fib(5*time.Second, true, side.vip)
			f.stop()
			n.complains("r", "refuses connections")
			n.fails(7, want)
			f.startBGP()
			back := time.Now()
			n.up("r")
			t.Logf("up again %s after the router was", time.Since(back).Round(time.Millisecond))
			if took := time.Since(back); took > most {
				t.Errorf("re-established %s after the router was back", took)
			}
			l.fib(5*time.Second, true, side.vip)
			for range 2 {
				cleared := time.Now()
				f.vtysh("clear bgp *")
				eventually(t, 10*time.Second, func() string {
					if s := n.status("r"); s.State != "Established" || s.Since.Before(cleared) {
						return fmt.Sprintf("after the router closed the session: %+v", s)
					}
					return ""
				})
				t.Logf("up again %s after the router closed the session", time.Since(cleared).Round(time.Millisecond))
				if took := time.Since(cleared); took > most+time.Second { // FRR sits in Idle for a while
					t.Errorf("re-established %s after the router closed the session", took)
				}
			}
			l.fib(5*time.Second, true, side.vip)
		})
		t.Run("BIRD, "+side.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			bird := l.startBird(birdConfig(64513, side.router, side.node, 64512, "", side.family))
			n := startNode(t, l.node)
			want := lb.Session{Peer: peer(side.router, 64513, side.family), Routes: routes(lb.Attrs{}, side.vip)}
			n.apply(want)
			n.up("r")
			l.fib(5*time.Second, true, side.vip)
			for _, command := range []string{"restart n", "disable n"} {
				before, back := n.status("r").Since, time.Now()
				bird(command)
				if command == "disable n" {
					n.complains("r", "")
					n.fails(7, want)
					bird("enable n")
					back = time.Now()
				}
				eventually(t, 10*time.Second, func() string {
					if s := n.status("r"); s.State != "Established" || s.Since.Equal(before) {
						return fmt.Sprintf("after %s: %+v", command, s)
					}
					return ""
				})
				t.Logf("%s: up again after %s", command, time.Since(back).Round(time.Millisecond))
				if took := time.Since(back); took > most {
					t.Errorf("%s: re-established after %s", command, took)
				}
				l.fib(5*time.Second, true, side.vip)
			}
		})
	}
}

func TestSilentRouterIsNoticed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNode(t, l.node)
	p := peer(router4, 64513, lb.IPv4)
	p.HoldTime, p.Keepalive, p.TimersSet = 3*time.Second, time.Second, true
	n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	n.up("r")
	l.ip("-n", l.router, "link", "set", "eth0", "down")
	eventually(t, 10*time.Second, func() string {
		if log := n.log.String(); !strings.Contains(log, "nothing was heard from the router for the hold time") {
			return "log: " + log
		}
		return ""
	})
	l.ip("-n", l.router, "link", "set", "eth0", "up")
	n.up("r")
}

func TestASNumbers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		asn     int // of the router
		neigh   string
		peerASN uint32
		dynamic lb.DynamicASN
		problem string // "" if the session comes up
	}{
		{"internal accepted", 64512, "", 0, lb.InternalASN, ""},
		{"internal refused", 64513, "", 0, lb.InternalASN, "the router is in AS 64513, not in our AS 64512, but dynamicASN is internal"},
		{"external accepted", 64513, "", 0, lb.ExternalASN, ""},
		{"external refused", 64512, "", 0, lb.ExternalASN, "the router is in our own AS 64512, but dynamicASN is external"},
		{"wrong peerASN", 64513, "", 64999, lb.StaticASN, "the router is in AS 64513, not in AS 64999: correct peerASN"},
		{"wrong myASN", 64513, "neighbor 10.9.0.1 remote-as 64777", 64513, lb.StaticASN, "the router does not expect this node in AS 64512: correct myASN"},
		{"not a neighbor", 64513, "no neighbor 10.9.0.1", 64513, lb.StaticASN, "has this node as a neighbor"},
		{"four octets", 4200000001, "", 4200000001, lb.StaticASN, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			config := frrConfig(tc.asn, node4, tc.neigh, lb.IPv4)
			if strings.HasPrefix(tc.neigh, "no ") {
				config = fmt.Sprintf("router bgp %d\n", tc.asn)
			}
			f := l.startFRR(config)
			n := startNode(t, l.node)
			p := peer(router4, tc.peerASN, lb.IPv4)
			p.Dynamic = tc.dynamic
			n.apply(lb.Session{Peer: p, Routes: routes(attrs(), vip4)})
			if tc.problem != "" {
				n.complains("r", tc.problem)
				l.fib(0, false, vip4)
				return
			}
			n.up("r")
			l.fib(5*time.Second, true, vip4)
			want := map[bool]int{true: 250, false: 0}[tc.asn == 64512]
			if got := f.path(vip4); got.LocPrf != want {
				t.Errorf("local preference %d, want %d", got.LocPrf, want)
			}
		})
	}
}

// What the router does not carry, or has no next hop for, is said.
func TestLackIsSaid(t *testing.T) {
	t.Parallel()
	lack := func(t *testing.T, n *node, want string, advertised int) {
		t.Helper()
		eventually(t, 15*time.Second, func() string {
			if s := n.status("r"); s.State != "Established" || s.LastError != want || s.Advertised != advertised {
				return fmt.Sprintf("status %+v, want %d advertised and %q", s, advertised, want)
			}
			return ""
		})
	}
	p := peer(router4, 64513, lb.IPv4, lb.IPv6)
	t.Run("family", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
		n := startNode(t, l.node)
		n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
		lack(t, n, "1 not sent: IPv6 unicast is not negotiated: activate it for this neighbor on the router", 1)
		l.fib(5*time.Second, true, vip4)
	})
	t.Run("next hop", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.startFRR(frrConfig(64513, node4, "", lb.IPv4, lb.IPv6))
		l.ip("-n", l.node, "addr", "del", node6+"/64", "dev", "eth0")
		n := startNode(t, l.node)
		n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
		lack(t, n, "1 not sent: the link to the router has no IPv6 address to be the next hop", 1)
		l.ip("-n", l.node, "addr", "add", node6+"/64", "dev", "eth0")
		lack(t, n, "", 2)
		l.fib(5*time.Second, true, vip4, vip6)
	})
	t.Run("source address", func(t *testing.T) {
		t.Parallel()
		const source = "10.9.0.9"
		l := newLab(t)
		f := l.startFRR(frrConfig(64513, source, "", lb.IPv4))
		n := startNode(t, l.node)
		p := peer(router4, 64513, lb.IPv4)
		p.SourceAddr = netip.MustParseAddr(source)
		n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
		n.complains("r", "from sourceAddress 10.9.0.9 (is it on this node?)")
		l.ip("-n", l.node, "addr", "add", source+"/24", "dev", "eth0")
		lack(t, n, "", 1)
		l.fib(5*time.Second, true, vip4)
		if got := f.path(vip4).Nexthops; len(got) != 1 || got[0].IP != source {
			t.Errorf("next hops %+v, want %s", got, source)
		}
	})
}
