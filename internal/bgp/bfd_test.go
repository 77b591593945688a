package bgp_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// watched are routers that watch the node by BFD and keep its routes over a restart.
//
// By default, BIRD refuses a node for a minute after an error, and drops the routes of
// one whose BFD ends, graceful restart or not, unless BFD is graceful too.
func watched(t *testing.T, birdBFD string) map[string]func(l *lab) (show func(string) string) {
	t.Helper()
	both := []lb.Family{lb.IPv4, lb.IPv6}
	return map[string]func(l *lab) func(string) string{
		"FRR": func(l *lab) func(string) string {
			_, err := os.Stat(frrDir + "/bfdd")
			need(t, "bfdd", err == nil)
			return l.startFRR(frrConfig(64513, node4, "bgp graceful-restart\n neighbor "+node4+" bfd", both...)).vtysh
		},
		"BIRD": func(l *lab) func(string) string {
			return l.startBird(strings.Replace(birdConfig(64513, router4, node4, 64512, "bfd "+birdBFD+"; error wait time 1, 2;", both...), "protocol device {}",
				"protocol device {}\nprotocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }", 1))
		},
	}
}

func fast() *lb.BFDProfile {
	return &lb.BFDProfile{Name: "fast", Transmit: 100 * time.Millisecond, Receive: 100 * time.Millisecond, Multiplier: 3, EchoInterval: 50 * time.Millisecond, MinTTL: 254}
}

// TestBFD: a silent cut is noticed long before the hold timer, and all is well again
// when the cable is.
func TestBFD(t *testing.T) {
	t.Parallel()
	for name, start := range watched(t, "on") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			start(l)
			n := startNode(t, l.node)
			p := peer(router4, 64513, lb.IPv4, lb.IPv6)
			p.BFD = fast()
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
			n.up("r")
			n.bfdUp()
			l.fib(5*time.Second, true, vip4, vip6)
			for range 2 {
				l.cut(true)
				cut := time.Now()
				n.complains("r", "BFD declared the router down")
				if took := time.Since(cut); took > 3*time.Second {
					t.Errorf("noticed after %s", took)
				}
				l.fib(3*time.Second, false, vip4, vip6)
				l.cut(false)
				n.up("r")
				l.fib(10*time.Second, true, vip4, vip6)
				n.bfdUp()
			}
			// The profile changes, and nothing is reset for it.
			p.BFD = &lb.BFDProfile{Name: "slow", Transmit: time.Second, Receive: time.Second, Multiplier: 5, EchoInterval: 50 * time.Millisecond, MinTTL: 254}
			ups := strings.Count(n.log.String(), `"bgp session established"`)
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
			l.fib(5*time.Second, false, vip6)
			l.fib(0, true, vip4)
			if got := strings.Count(n.log.String(), `"bgp session established"`); got != ups {
				t.Errorf("established %d times more", got-ups)
			}
		})
	}
}

// TestRestartUnderBFD: with graceful restart and BFD together, the router's kernel
// loses nothing when the speaker restarts.
func TestRestartUnderBFD(t *testing.T) {
	t.Parallel()
	for name, start := range watched(t, "graceful") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			start(l)
			n := startNode(t, l.node)
			p := peer(router4, 64513, lb.IPv4, lb.IPv6)
			p.BFD, p.GracefulRestart = fast(), true
			want := lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)}
			n.apply(want)
			n.up("r")
			n.bfdUp()
			l.fib(5*time.Second, true, vip4, vip6)
			m := l.monitor()
			n.stop()
			<-n.exited
			n = startNode(t, l.node)
			n.apply(want)
			n.up("r")
			n.bfdUp()
			for _, vip := range []string{vip4, vip6} {
				if lost := m.lost(vip); len(lost) > 0 {
					t.Errorf("the router lost %v", lost)
				}
			}
			l.fib(0, true, vip4, vip6)
		})
	}
}

// TestCutUnderGracefulRestart: a cut takes the routes away in spite of graceful restart.
func TestCutUnderGracefulRestart(t *testing.T) {
	t.Parallel()
	for name, start := range watched(t, "on") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			start(l)
			n := startNode(t, l.node)
			p := peer(router4, 64513, lb.IPv4, lb.IPv6)
			p.BFD, p.GracefulRestart = fast(), true
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
			n.up("r")
			n.bfdUp()
			l.fib(5*time.Second, true, vip4, vip6)
			l.cut(true)
			l.fib(3*time.Second, false, vip4, vip6)
			l.cut(false)
			n.up("r")
			l.fib(10*time.Second, true, vip4, vip6)
		})
	}
}

// TestStrictMode: no connection before BFD is up, whether the router has none yet or the
// path fails later. The router counts the connections.
func TestStrictMode(t *testing.T) {
	t.Parallel()
	for name, start := range watched(t, "on") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			start(l)
			seen := l.connections()
			n := startNode(t, l.node)
			p := peer(router4, 64513, lb.IPv4, lb.IPv6)
			p.BFD = fast()
			p.BFD.Strict = true
			dropped := l.bfdOnly(true) // BGP would pass
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
			n.complains("r", "waits for BFD, which is not up: strictMode of BFDProfile fast")
			dropped(4)
			if got := seen(); got != 0 {
				t.Errorf("%d connections before BFD was up", got)
			}
			l.bfdOnly(false)
			n.up("r")
			n.bfdUp()
			l.fib(10*time.Second, true, vip4, vip6)
			dropped = l.bfdOnly(true)
			n.complains("r", "BFD declared the router down")
			before := seen()
			dropped(4)
			if got := seen(); got != before {
				t.Errorf("%d connections while BFD was down", got-before)
			}
			l.bfdOnly(false)
			n.up("r")
			// A change that needs another connection finds BFD up.
			p.HoldTime, p.TimersSet = 30*time.Second, true
			n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
			eventually(t, 15*time.Second, func() string {
				if s := n.status("r"); s.State != "Established" || s.Negotiated.HoldTime != 30*time.Second {
					return fmt.Sprintf("%+v", s)
				}
				return ""
			})
		})
	}
}

// bfdOnly drops BFD from the node, and nothing else, or lets it through. It returns a
// function that waits until so many packets were dropped.
func (l *lab) bfdOnly(off bool) func(least int) {
	l.t.Helper()
	if !off {
		l.ip("netns", "exec", l.router, "nft", "delete table inet bfd")
		return nil
	}
	l.count("bfd", "udp dport 3784 counter drop")
	return func(least int) {
		l.t.Helper()
		eventually(l.t, 20*time.Second, func() string {
			if n := l.counted("bfd"); n < least {
				return fmt.Sprintf("%d packets of BFD were dropped", n)
			}
			return ""
		})
	}
}

// connections returns a function that counts the attempts of the node to connect for BGP.
func (l *lab) connections() func() int {
	l.t.Helper()
	l.count("bgp", "tcp dport 179 tcp flags & (syn | ack) == syn counter")
	return func() int { return l.counted("bgp") }
}

// count has the router count what arrives and matches a rule, in a table of its own.
func (l *lab) count(table, rule string) {
	l.t.Helper()
	for _, command := range []string{
		"add table inet " + table, "add chain inet " + table + " in { type filter hook input priority 0; }", "add rule inet " + table + " in iifname eth0 " + rule,
	} {
		l.ip("netns", "exec", l.router, "nft", command)
	}
}

func (l *lab) counted(table string) int {
	l.t.Helper()
	out := l.ip("netns", "exec", l.router, "nft", "list chain inet "+table+" in")
	_, after, _ := strings.Cut(out, "packets ")
	var n int
	if _, err := fmt.Sscan(after, &n); err != nil {
		l.t.Fatalf("read the counter: %v: %s", err, out)
	}
	return n
}

// TestUnnumberedBFD watches over a router that had to be found.
func TestUnnumberedBFD(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.startFRR(`
router bgp 64513
 bgp router-id 10.9.0.2
 no bgp ebgp-requires-policy
 neighbor eth0 interface remote-as external
 neighbor eth0 bfd
`)
	n := startNode(t, l.node)
	p := lb.Peer{
		Name: "r", LocalASN: 64512, Dynamic: lb.ExternalASN, Interface: "eth0", Port: 179, Families: []lb.Family{lb.IPv4, lb.IPv6},
		RouterID: netip.MustParseAddr("10.9.0.1"), BFD: fast(),
	}
	n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	n.up("r")
	n.bfdUp()
	l.fib(5*time.Second, true, vip4)
	l.cut(true)
	n.complains("r", "BFD declared the router down")
	l.cut(false)
	n.up("r")
	l.fib(10*time.Second, true, vip4)
}

// bfdUp waits until the latest that the speaker says of BFD is that it is up.
func (n *node) bfdUp() {
	n.t.Helper()
	eventually(n.t, 15*time.Second, func() string {
		log := n.log.String()
		up, down := strings.LastIndex(log, "bfd session up"), strings.LastIndex(log, "bfd session down")
		if up < 0 || up < down {
			return fmt.Sprintf("BFD is not up:\n%s", log)
		}
		return ""
	})
}

// cut drops every packet between node and router, or lets them through; the links
// stay up.
func (l *lab) cut(off bool) {
	l.t.Helper()
	if !off {
		l.ip("netns", "exec", l.router, "nft", "delete table inet cut")
		return
	}
	for _, rule := range []string{
		"add table inet cut", "add chain inet cut in { type filter hook input priority 0; }", "add rule inet cut in iifname eth0 drop",
		"add chain inet cut out { type filter hook output priority 0; }", "add rule inet cut out oifname eth0 drop",
	} {
		l.ip("netns", "exec", l.router, "nft", rule)
	}
}
