package bgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// many returns n routes of a family, all with the same attributes.
func many(n int, f lb.Family, attrs lb.Attrs) map[netip.Prefix]lb.Attrs {
	all := make(map[netip.Prefix]lb.Attrs, n)
	for i := range n {
		addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		if f == lb.IPv6 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 7: 1, 14: byte(i >> 8), 15: byte(i)})
		}
		all[netip.PrefixFrom(addr, f.Bits())] = attrs
	}
	return all
}

// TestRoutesArePacked: 10,000 routes take few messages, and one more Service one.
func TestRoutesArePacked(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			f := l.startFRR(frrConfig(64513, side.node, "", side.family))
			n := startNode(t, l.node)
			s := lb.Session{Peer: peer(side.router, 64513, side.family), Routes: many(10_000, side.family, attrs())}
			n.apply(s)
			n.up("r")
			received := func(prefixes int) int {
				t.Helper()
				var got struct {
					Peers map[string]struct{ PfxRcd int }
				}
				eventually(t, 20*time.Second, func() string {
					f.show("bgp "+strings.ToLower(side.family.String())+" unicast summary", &got)
					if got.Peers[side.node].PfxRcd != prefixes {
						return fmt.Sprintf("%+v", got)
					}
					return ""
				})
				return f.neighbor(side.node).MessageStats.UpdatesRecv
			}
			first := received(10_000)
			most := map[lb.Family]int{lb.IPv4: 14, lb.IPv6: 45}[side.family] // with End-of-RIB
			t.Logf("10,000 routes in %d UPDATEs", first)
			if first > most {
				t.Errorf("10,000 routes in %d UPDATEs", first)
			}
			one := netip.MustParsePrefix(side.vip)
			s.Routes = many(10_000, side.family, attrs())
			s.Routes[one] = lb.Attrs{}
			n.apply(s)
			if got := received(10_001) - first; got != 1 {
				t.Errorf("one more route in %d UPDATEs", got)
			}
			delete(s.Routes, one)
			n.apply(s)
			if got := received(10_000) - first; got != 2 {
				t.Errorf("one route less in %d UPDATEs", got-1)
			}
			// The router asks for all of it again.
			f.vtysh("clear bgp * soft in")
			eventually(t, 10*time.Second, func() string {
				if got := f.neighbor(side.node).MessageStats.UpdatesRecv; got < 2*first {
					return fmt.Sprintf("%d UPDATEs after a route refresh", got)
				}
				return ""
			})
			if got := f.neighbor(side.node); got.ConnectionsEstablished != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestRoutersRoutesCostNothing: 20,000 routes of a router are refused, and not kept.
func TestRoutersRoutesCostNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	config := "router id 10.9.0.2;\nprotocol device {}\nprotocol static { ipv4;\n"
	for i := range 20_000 {
		config += fmt.Sprintf("route 198.18.%d.%d/32 blackhole;\n", i>>8, i&255)
	}
	config += "}\nprotocol bgp n { local 10.9.0.2 as 64513; neighbor 10.9.0.1 as 64512; ipv4 { import all; export all; }; }\n"
	bird := l.startBird(config)
	n := startNode(t, l.node)
	s := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}
	n.apply()
	n.command(order{Tidy: true})
	before := n.rss("VmRSS")
	n.apply(s)
	n.up("r")
	says(t, bird, "show route count", "20001 of 20001 routes")
	eventually(t, 10*time.Second, func() string {
		if got := n.apply(s).Metrics["metallb_bgp_updates_total_received{10.9.0.2:179}"]; got < 20 {
			return fmt.Sprintf("%v UPDATEs received", got)
		}
		return ""
	})
	n.command(order{Tidy: true})
	if grown := n.rss("VmRSS") - before; grown > 4 {
		t.Errorf("RSS has grown by %.1f MB", grown)
	}
}

// TestStoppedRouter: one that accepts TCP and says nothing, and one that says nothing
// any more. Both are a real one that does not run; others are not held up by them.
func TestStoppedRouter(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, ns := range []string{l.node, l.router} {
		l.ip("netns", "exec", ns, "sysctl", "-qw", "net.ipv4.tcp_rmem=4096 4096 4096", "net.ipv4.tcp_wmem=4096 4096 4096")
	}
	l.startBird(birdConfig(64513, router4, node4, 64512, "", lb.IPv4))
	f := l.startFRROn("1179", frrConfig(64514, node4, "", lb.IPv4))
	n := startNodeWith(t, l.node, `{"SendHoldTime": 8000000000}`)
	second := lb.Session{Peer: peer(router4, 64514, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}
	second.Peer.Name, second.Peer.Port = "second", 1179
	first := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}

	l.pause(true)
	n.apply(first, second)
	n.up("second")
	n.complains("r", "accepts the connection but says nothing")
	l.pause(false)
	n.up("r")

	l.pause(true)
	first.Routes = many(10_000, lb.IPv4, attrs())
	n.apply(first, second) // 60 kB do not fit into the buffers
	second.Routes = routes(lb.Attrs{}, vip4, "192.0.2.8/32")
	n.apply(first, second)
	eventually(t, 10*time.Second, func() string {
		if f.path("192.0.2.8/32").Origin == "" {
			return "no route"
		}
		return ""
	})
	const expired = "has taken nothing in for 8s (RFC 9687)"
	if strings.Contains(n.log.String(), expired) {
		t.Error("the other router was told only when the stopped one was given up")
	}
	eventually(t, 20*time.Second, func() string {
		if log := n.log.String(); !strings.Contains(log, expired) {
			return log
		}
		return ""
	})
	l.pause(false)
	n.up("r")
	if got := n.states("second"); strings.Count(got, "Established") != 1 {
		t.Errorf("states of the other session: %s", got)
	}
	// A session to a router that does not run is removed at once.
	l.pause(true)
	first.Routes = many(10_000, lb.IPv4, lb.Attrs{})
	n.apply(first, second)
	asked := time.Now()
	n.apply(second)
	n.stop()
	<-n.exited
	if took := time.Since(asked); took > 4*time.Second {
		t.Errorf("the speaker took %s to end", took)
	}
	l.pause(false)
}

// TestBFDTakesSessionDown, and up again when it is back, later each time.
func TestBFDTakesSessionDown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNode(t, l.node)
	s := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}
	s.Peer.BFD = fast()
	key, _ := s.Peer.BFDKey()
	n.apply(s)
	n.up("r")
	l.fib(5*time.Second, true, vip4)
	// One that somebody took down, and that of another router, mean nothing.
	n.command(order{BFD: &lb.BFDChange{Key: key, Admin: true}})
	n.command(order{BFD: &lb.BFDChange{Key: lb.BFDKey{Peer: netip.MustParseAddr(router6)}, Diag: "Control Detection Time Expired"}})
	down := lb.BFDChange{Key: key, Diag: "Control Detection Time Expired"}
	// A router that begins with BFD when BGP is established is not lost.
	n.command(order{BFD: &down})
	n.complains("r", "BFD declared the router down (Control Detection Time Expired)")
	n.up("r")
	l.fib(5*time.Second, true, vip4)
	last := time.Duration(0)
	for flap := range 3 {
		n.command(order{BFD: &down})
		n.complains("r", "BFD declared the router down (Control Detection Time Expired)")
		l.fib(time.Second, false, vip4)
		if got := f.neighbor(node4); got.LastNotificationReason != "Cease/BFD Down" && !strings.HasPrefix(got.LastNotificationReason, "Cease") {
			t.Errorf("%+v", got)
		}
		up := time.Now()
		n.command(order{BFD: &lb.BFDChange{Key: key, Up: true}})
		n.up("r")
		took := time.Since(up)
		t.Logf("flap %d: up again after %s", flap, took)
		if took < last {
			t.Errorf("flap %d: up again after %s, the time before after %s", flap, took, last)
		}
		last = took
	}
	if got := f.neighbor(node4); got.ConnectionsEstablished != 5 {
		t.Errorf("established %d times", got.ConnectionsEstablished)
	}
}

// TestPasswordIsRotated: that of one peer, whose session alone is closed for it.
func TestPasswordIsRotated(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "neighbor "+node4+" password "+secret, lb.IPv4))
	l.startBird(birdConfig(64514, router6+" port 1179", node6, 64512, "strict bind yes; passive yes;", lb.IPv6))
	n := startNode(t, l.node)
	first := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}
	first.Peer.Password = secret
	second := lb.Session{Peer: peer(router6, 64514, lb.IPv6), Routes: routes(lb.Attrs{}, vip6)}
	second.Peer.Name, second.Peer.Port = "second", 1179
	n.apply(first, second)
	n.up("r")
	n.up("second")
	l.fib(5*time.Second, true, vip4, vip6)
	first.Peer.Password = secret + "-2"
	n.apply(first, second)
	n.complains("r", "has another password for this node")
	f.vtysh("configure terminal\nrouter bgp 64513\nneighbor " + node4 + " password " + secret + "-2")
	n.up("r")
	l.fib(5*time.Second, true, vip4, vip6)
	if got := n.states("second"); strings.Count(got, "Established") != 1 || !strings.HasSuffix(got, "Established") {
		t.Errorf("states of the other session: %s", got)
	}
}
