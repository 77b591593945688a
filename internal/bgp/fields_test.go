package bgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// birdConfig makes BIRD of AS asn know node as one neighbor, protocol "n". more is
// added to the protocol.
func birdConfig(asn int, router, node string, nodeASN int, more string, families ...lb.Family) string {
	var b strings.Builder
	fmt.Fprintf(&b, "router id 10.9.0.2;\nprotocol device {}\nprotocol direct { ipv4; ipv6; }\nprotocol kernel { ipv4 { import none; export all; }; merge paths on; }\n"+
		"protocol kernel { ipv6 { import none; export all; }; merge paths on; }\n"+
		"protocol bgp n {\n local %s as %d;\n neighbor %s as %d;\n %s\n", router, asn, node, nodeASN, more)
	for _, f := range families {
		fmt.Fprintf(&b, " %s { import all; export none; };\n", strings.ToLower(f.String()))
	}
	return b.String() + "}\n"
}

// says waits until all of want stand in what show prints.
func says(t *testing.T, show func(string) string, command string, want ...string) {
	t.Helper()
	eventually(t, 10*time.Second, func() string {
		out := show(command)
		for _, w := range want {
			if !strings.Contains(out, w) {
				return fmt.Sprintf("%s does not show %q:\n%s", command, w, out)
			}
		}
		return ""
	})
}

// sides are the two transports.
var sides = []struct {
	name, router, node, vip string
	family                  lb.Family
}{{"IPv4", router4, node4, vip4, lb.IPv4}, {"IPv6", router6, node6, vip6, lb.IPv6}}

// TestPeerFields sets one field of a BGPPeer each, and has FRR and BIRD tell what they
// see of it.
func TestPeerFields(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		for _, tc := range []struct {
			name      string
			change    func(*lb.Peer)
			asn       int                // of the node, as the router sees it; 0 for 64512
			routerASN int                // 0 for 64513
			frr, bird string             // what the router needs for it
			inFRR     func(neighbor) any // what FRR shows of it
			want      any
			inBird    string // what BIRD shows of the protocol
		}{
			{
				name: "localASN", change: func(p *lb.Peer) { p.LocalASN = 64999 }, asn: 64999,
				inFRR: func(n neighbor) any { return n.RemoteAS }, want: uint32(64999), inBird: "Neighbor AS:      64999",
			},
			{
				name: "AS of 32 bits", change: func(p *lb.Peer) { p.LocalASN, p.PeerASN = 4200000001, 4200000002 }, asn: 4200000001, routerASN: 4200000002,
				inFRR: func(n neighbor) any { return n.RemoteAS }, want: uint32(4200000001), inBird: "Neighbor AS:      4200000001",
			},
			{
				name: "dynamicASN", change: func(p *lb.Peer) { p.PeerASN, p.Dynamic = 0, lb.ExternalASN },
				inFRR: func(n neighbor) any { return n.RemoteAS }, want: uint32(64512), inBird: "BGP state:          Established",
			},
			{
				name: "routerID", change: func(p *lb.Peer) { p.RouterID = netip.MustParseAddr("10.99.0.7") },
				inFRR: func(n neighbor) any { return n.RemoteRouterID }, want: "10.99.0.7", inBird: "Neighbor ID:      10.99.0.7",
			},
			{
				name: "holdTime and keepaliveTime", change: func(p *lb.Peer) { p.TimersSet, p.HoldTime, p.Keepalive = true, 9*time.Second, 2*time.Second },
				inFRR: func(n neighbor) any { return n.BgpTimerHoldTimeMsecs }, want: 9000, inBird: "/9",
			},
			{
				name: "no holdTime", change: func(p *lb.Peer) { p.TimersSet = true },
				inFRR: func(n neighbor) any { return n.BgpTimerHoldTimeMsecs }, want: 0, inBird: "BGP state:          Established",
			},
			{
				name: "ebgpMultiHop", change: func(p *lb.Peer) { p.MultiHop = true }, frr: "neighbor NODE ebgp-multihop 3", bird: "multihop 3;",
				inFRR: func(n neighbor) any { return n.ExternalBgpNbrMaxHopsAway }, want: 3, inBird: "multihop",
			},
			{
				name: "ttlSecurityHops", change: func(p *lb.Peer) { p.TTLSecurityHops = 1 }, frr: "neighbor NODE ttl-security hops 1", bird: "ttl security on;",
				inFRR: func(n neighbor) any { return n.ExternalBgpNbrMaxHopsAway }, want: 1, inBird: "BGP state:          Established",
			},
			{
				name: "password", change: func(p *lb.Peer) { p.Password = secret }, frr: "neighbor NODE password " + secret, bird: `password "` + secret + `";`,
				inFRR: func(n neighbor) any { return n.AuthenticationEnabled }, want: 1, inBird: "BGP state:          Established",
			},
			{
				name: "enableGracefulRestart", change: func(p *lb.Peer) { p.GracefulRestart = true }, frr: "bgp graceful-restart",
				inFRR: func(n neighbor) any { return n.GracefulRestartInfo.RemoteGrMode }, want: "Restart", inBird: "Restart time: 120",
			},
		} {
			t.Run(tc.name+", "+side.name, func(t *testing.T) {
				t.Parallel()
				asn, routerASN := max(tc.asn, 64512), max(tc.routerASN, 64513)
				p := peer(side.router, uint32(routerASN), side.family)
				tc.change(&p)
				want := lb.Session{Peer: p, Routes: routes(lb.Attrs{}, side.vip)}
				t.Run("FRR", func(t *testing.T) {
					t.Parallel()
					l := newLab(t)
					config := frrConfig(routerASN, side.node, strings.ReplaceAll(tc.frr, "NODE", side.node), side.family)
					f := l.startFRR(strings.Replace(config, "remote-as 64512", fmt.Sprint("remote-as ", asn), 1))
					n := startNode(t, l.node)
					n.apply(want)
					n.up("r")
					l.fib(5*time.Second, true, side.vip)
					if got := tc.inFRR(f.neighbor(side.node)); got != tc.want {
						t.Errorf("FRR shows %v, want %v", got, tc.want)
					}
				})
				t.Run("BIRD", func(t *testing.T) {
					t.Parallel()
					l := newLab(t)
					bird := l.startBird(birdConfig(routerASN, side.router, side.node, asn, tc.bird, side.family))
					n := startNode(t, l.node)
					n.apply(want)
					n.up("r")
					l.fib(5*time.Second, true, side.vip)
					says(t, bird, "show protocols all n", tc.inBird)
				})
			})
		}
	}
}

// With ttlSecurityHops, everything is sent with a TTL of 255: a firewall before the
// router lets nothing else pass. And what a router sends with less is not taken.
func TestSecurityHopsAreDemanded(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			field := map[lb.Family]string{lb.IPv4: "ip ttl", lb.IPv6: "ip6 hoplimit"}[side.family]
			l.firewall("add rule inet t c tcp dport 179 " + field + " != 255 drop")
			l.startFRR(frrConfig(64513, side.node, "neighbor "+side.node+" ttl-security hops 1", side.family))
			n := startNode(t, l.node)
			p := peer(side.router, 64513, side.family)
			n.apply(lb.Session{Peer: p}) // eBGP goes one hop: TTL 1
			n.complains("r", "no answer from")
			p.TTLSecurityHops = 1
			n.apply(lb.Session{Peer: p})
			n.up("r")
		})
	}
	t.Run("of the router", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.startFRR(frrConfig(64513, node4, "", lb.IPv4)) // sends with TTL 1
		n := startNode(t, l.node)
		p := peer(router4, 64513, lb.IPv4)
		p.TTLSecurityHops = 1
		n.apply(lb.Session{Peer: p})
		n.complains("r", "correct ttlSecurityHops")
	})
}

// TestAdvertisedAttributes: what BGPAdvertisement adds to a route.
func TestAdvertisedAttributes(t *testing.T) {
	t.Parallel()
	all := attrs()
	all.MED, all.HasMED, all.Prepend, all.Bandwidth = 7, true, 2, 3
	for _, side := range sides {
		for _, kind := range []struct {
			name      string
			asn       int
			path, lbw string // as FRR shows them
			birdPath  string
			birdLBW   string
		}{
			{"external", 64513, "64512 64512 64512", "LB:64512:375000 (3.000 Mbps)", "64512 64512 64512", "(unknown 0x4, 64512, 1219959552)"},
			{"internal", 64512, "Local", "LB:64512:375000 (3.000 Mbps)", "", "(unknown 0x4004, 64512, 1219959552)"},
		} {
			t.Run(kind.name+", "+side.name, func(t *testing.T) {
				t.Parallel()
				want := lb.Session{Peer: peer(side.router, uint32(kind.asn), side.family), Routes: routes(all, side.vip)}
				l := newLab(t)
				f := l.startFRR(frrConfig(kind.asn, side.node, "", side.family))
				n := startNode(t, l.node)
				n.apply(want)
				n.up("r")
				l.fib(5*time.Second, true, side.vip)
				got := f.path(side.vip)
				if got.Med != 7 || got.Aspath.String != kind.path || got.Ext.String != kind.lbw || got.Community.String != "64512:100 no-export" || got.Large.String != "64512:1:2" {
					t.Errorf("FRR has %+v", got)
				}

				l = newLab(t)
				bird := l.startBird(birdConfig(kind.asn, side.router, side.node, 64512, "", side.family))
				n = startNode(t, l.node)
				n.apply(want)
				n.up("r")
				says(t, bird, "show route all "+side.vip, "BGP.as_path: "+kind.birdPath, "BGP.med: 7", kind.birdLBW, "(64512,100)", "(64512, 1, 2)")
			})
		}
	}
}

// unnumberedBird is a router on eth0 for nodes of which it is told nothing.
const unnumberedBird = `
router id 10.9.0.2;
protocol device {}
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
protocol radv { interface "eth0" { min ra interval 3; max ra interval 4; }; }
protocol bgp n {
  local as 64513;
  neighbor range fe80::/10 as 64512;
  interface "eth0";
  ipv4 { import all; export none; extended next hop on; };
  ipv6 { import all; export none; };
}
`

// TestUnnumbered: the router is found on the link, and finds us.
func TestUnnumbered(t *testing.T) {
	t.Parallel()
	p := lb.Peer{Name: "r", LocalASN: 64512, Dynamic: lb.ExternalASN, Interface: "eth0", Port: 179, Families: []lb.Family{lb.IPv4, lb.IPv6}}
	want := lb.Session{Peer: p, Routes: routes(attrs(), vip4, vip6)}
	unnumber := func(l *lab) {
		for _, ns := range []string{l.node, l.router} {
			l.ip("-n", ns, "addr", "flush", "dev", "eth0", "scope", "global")
		}
	}
	t.Run("FRR", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		unnumber(l)
		f := l.startFRR(`
router bgp 64513
 bgp router-id 10.9.0.2
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor eth0 interface remote-as external
 address-family ipv4 unicast
  neighbor eth0 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor eth0 activate
 exit-address-family
`)
		n := startNode(t, l.node)
		n.apply(want)
		n.up("r")
		l.fib(5*time.Second, true, vip4, vip6)
		for _, vip := range []string{vip4, vip6} {
			got := f.path(vip)
			if len(got.Nexthops) == 0 || got.Nexthops[0].Afi != "ipv6" || !strings.HasPrefix(got.Nexthops[0].IP, "fe80::") || got.Aspath.String != "64512" {
				t.Errorf("%s: FRR has %+v", vip, got)
			}
		}
		if s := n.status("r"); !s.Negotiated.IPv6Hops || !s.Addr.IsLinkLocalUnicast() {
			t.Errorf("status %+v", s)
		}
		// The router restarts: nothing has to be told again.
		f.stop()
		f.startBGP()
		n.up("r")
		l.fib(10*time.Second, true, vip4, vip6)
	})
	t.Run("BIRD", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		unnumber(l)
		bird := l.startBird(unnumberedBird)
		n := startNode(t, l.node)
		n.apply(want)
		n.up("r")
		l.fib(5*time.Second, true, vip4, vip6)
		says(t, bird, "show route all "+vip4, "BGP.as_path: 64512", "BGP.next_hop: ", "fe80::")
	})
	t.Run("several nodes", func(t *testing.T) {
		// Nodes forward, so they hear what is said to all routers: what another node says of
		// itself does not make it one.
		t.Parallel()
		l := newLab(t)
		other := l.router + "2"
		l.ip("netns", "add", other)
		t.Cleanup(func() { l.ip("netns", "del", other) })
		l.ip("netns", "exec", other, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
		l.ip("-n", l.router, "link", "add", "br0", "type", "bridge")
		l.ip("-n", other, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", l.router)
		for _, link := range []string{"eth0", "eth1"} {
			l.ip("-n", l.router, "link", "set", link, "master", "br0", "up")
		}
		unnumber(l)
		l.ip("-n", l.router, "link", "set", "br0", "up")
		l.ip("-n", other, "link", "set", "eth0", "up")
		for _, ns := range []string{l.node, other} {
			l.ip("netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
		}
		var nodes []*node
		for _, ns := range []string{other, l.node} {
			n := startNode(t, ns)
			n.apply(want)
			nodes = append(nodes, n)
		}
		l.startBird(strings.ReplaceAll(unnumberedBird, "eth0", "br0"))
		for _, n := range nodes {
			n.up("r")
		}
	})
	t.Run("no router", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		n := startNode(t, l.node)
		n.apply(want)
		n.complains("r", "no router is heard on interface eth0")
		other := want
		other.Peer.Interface = "eth9"
		n.apply(other)
		n.complains("r", `no interface "eth9"`)
	})
}

// TestDevice: a session is bound to the device that its VRF names, whatever that is:
// the kernel of a machine without VRF can show that much.
func TestDevice(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNode(t, l.node)
	p := peer(router4, 64513, lb.IPv4)
	p.VRF = "green"
	n.apply(lb.Session{Peer: p})
	n.complains("r", "green")
}

// TestSameHost: routers on the node itself, two of them on ports of one address.
func TestSameHost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	n := startNode(t, l.node)
	var want []lb.Session
	birds := map[string]func(string) string{}
	for name, at := range map[string]string{"a": "127.0.0.1:1179", "b": "10.9.0.1:1180", "c": "10.9.0.1:1181"} {
		router := netip.MustParseAddrPort(at)
		birds[name] = l.startBirdIn(l.node, fmt.Sprintf("router id 10.9.0.3; protocol device {}\nprotocol bgp %s { local %s port %d as 64513;"+
			" neighbor %[2]s as 64512; strict bind yes; passive yes; multihop; ipv4 { import all; export none; gateway recursive; }; }\n",
			name, router.Addr(), router.Port()))
		p := peer(router.Addr().String(), 64513, lb.IPv4)
		p.Name, p.Port, p.MultiHop = name, router.Port(), true
		p.RouterID = netip.MustParseAddr("10.9.0.1")
		want = append(want, lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	}
	n.apply(want...)
	for _, name := range []string{"a", "b", "c"} {
		n.up(name)
		says(t, birds[name], "show route all protocol "+name, vip4, "BGP.next_hop: ")
	}
}

// TestWeightsReachTheKernel: routers spread traffic by what weightByEndpoints tells.
func TestWeightsReachTheKernel(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			second := netip.MustParseAddr(side.node).Next().Next().String() // another node, as far as the router knows
			l.ip("-n", l.node, "addr", "add", fmt.Sprint(second, "/", map[lb.Family]int{lb.IPv4: 24, lb.IPv6: 64}[side.family]), "dev", "eth0", "nodad")
			config := frrConfig(64513, side.node, "neighbor "+second+" remote-as 64512", side.family)
			f := l.startFRR(strings.Replace(config, "  neighbor "+side.node+" activate", "  neighbor "+side.node+" activate\n  neighbor "+second+" activate", 1))
			n := startNode(t, l.node)
			var want []lb.Session
			for i, addr := range []string{side.node, second} {
				p := peer(side.router, 64513, side.family)
				p.Name, p.SourceAddr = fmt.Sprint("r", i), netip.MustParseAddr(addr)
				p.RouterID = netip.AddrFrom4([4]byte{10, 99, 0, byte(1 + i)})
				want = append(want, lb.Session{Peer: p, Routes: routes(lb.Attrs{Bandwidth: uint32(1 + 2*i)}, side.vip)})
			}
			n.apply(want...)
			n.up("r0")
			n.up("r1")
			host := strings.TrimSuffix(strings.TrimSuffix(side.vip, "/32"), "/128")
			eventually(t, 10*time.Second, func() string {
				out := l.ip("-n", l.router, map[lb.Family]string{lb.IPv4: "-4", lb.IPv6: "-6"}[side.family], "route", "show", host)
				for _, hop := range []string{side.node + " dev eth0 weight 25", second + " dev eth0 weight 75"} {
					if !strings.Contains(out, hop) {
						return fmt.Sprintf("no %q in %s%s", hop, out, f.vtysh("show bgp all"))
					}
				}
				return ""
			})
		})
	}
}
