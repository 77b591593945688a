package bgp_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// firewall adds rules to the router for packets that come in.
func (l *lab) firewall(rules ...string) {
	l.t.Helper()
	for _, rule := range append([]string{"add table inet t", "add chain inet t c { type filter hook input priority 0; }"}, rules...) {
		l.ip("netns", "exec", l.router, "nft", rule)
	}
}

// TestSourceAddress: the session comes from the address that it is told, which is the
// only one that the router knows.
func TestSourceAddress(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		second := netip.MustParseAddr(side.node).Next().Next().String()
		for _, r := range []string{"FRR", "BIRD"} {
			t.Run(r+", "+side.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				l.ip("-n", l.node, "addr", "add", fmt.Sprint(second, "/", map[lb.Family]int{lb.IPv4: 24, lb.IPv6: 64}[side.family]), "dev", "eth0", "nodad")
				p := peer(side.router, 64513, side.family)
				p.SourceAddr = netip.MustParseAddr(second)
				n := startNode(t, l.node)
				want := lb.Session{Peer: p, Routes: routes(lb.Attrs{}, side.vip)}
				if r == "BIRD" {
					bird := l.startBird(birdConfig(64513, side.router, second, 64512, "", side.family))
					n.apply(want)
					n.up("r")
					says(t, bird, "show protocols all n", "Neighbor address: "+second, "BGP state:          Established")
				} else {
					f := l.startFRR(frrConfig(64513, second, "", side.family))
					n.apply(want)
					n.up("r")
					if got := f.neighbor(second); got.BgpState != "Established" {
						t.Errorf("FRR has %+v", got)
					}
				}
				l.fib(5*time.Second, true, side.vip)
			})
		}
	}
}

// TestMultiHopIsMeant: without ebgpMultiHop no packet to an external router gets
// further than one hop, which a firewall before the router shows; with it, it does.
func TestMultiHopIsMeant(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		for _, r := range []string{"FRR", "BIRD"} {
			t.Run(r+", "+side.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				l.firewall("add rule inet t c tcp dport 179 " + map[lb.Family]string{lb.IPv4: "ip ttl", lb.IPv6: "ip6 hoplimit"}[side.family] + " < 2 drop")
				if r == "BIRD" {
					l.startBird(birdConfig(64513, side.router, side.node, 64512, "multihop 3;", side.family))
				} else {
					l.startFRR(frrConfig(64513, side.node, "neighbor "+side.node+" ebgp-multihop 3", side.family))
				}
				n := startNode(t, l.node)
				p := peer(side.router, 64513, side.family)
				n.apply(lb.Session{Peer: p})
				n.complains("r", "no answer from")
				p.MultiHop = true
				n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, side.vip)})
				n.up("r")
				l.fib(5*time.Second, true, side.vip)
			})
		}
	}
}

// TestKeepaliveTime has FRR count what it hears. A third of the hold time would be 10 s.
func TestKeepaliveTime(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNode(t, l.node)
	p := peer(router4, 64513, lb.IPv4)
	p.TimersSet, p.HoldTime, p.Keepalive = true, 30*time.Second, time.Second
	n.apply(lb.Session{Peer: p})
	n.up("r")
	first := f.neighbor(node4).MessageStats.KeepalivesRecv
	eventually(t, 9*time.Second, func() string {
		if got := f.neighbor(node4).MessageStats.KeepalivesRecv; got < first+4 {
			return fmt.Sprintf("%d KEEPALIVEs, and %d at first", got, first)
		}
		return ""
	})
}

// TestConnectTime has the kernel of a router without a daemon count the attempts.
func TestConnectTime(t *testing.T) {
	t.Parallel()
	for _, side := range sides {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.firewall("add rule inet t c tcp dport 179 tcp flags & (syn|ack) == syn counter")
			attempts := func(want int) time.Time {
				t.Helper()
				eventually(t, 20*time.Second, func() string {
					var packets int
					_, after, _ := strings.Cut(l.ip("netns", "exec", l.router, "nft", "list table inet t"), "counter ")
					if _, err := fmt.Sscanf(after, "packets %d", &packets); err != nil || packets < want {
						return fmt.Sprintf("%d attempts (%v)", packets, err)
					}
					return ""
				})
				return time.Now()
			}
			n := startNode(t, l.node)
			p := peer(side.router, 64513, side.family)
			p.ConnectRetry = 2 * time.Second
			n.apply(lb.Session{Peer: p})
			first := attempts(1)
			// The third comes after two pauses, each shortened by a quarter at most; unset,
			// it would be there in a fifth of a second.
			if took := attempts(3).Sub(first); took < 2500*time.Millisecond {
				t.Errorf("three attempts within %s", took)
			}
		})
	}
}
