package bgp_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/lb"
)

// monitor records every route that the router's kernel loses from now on.
type monitor struct {
	mu    sync.Mutex
	lines []string
}

func (l *lab) monitor() *monitor {
	l.t.Helper()
	m := &monitor{}
	ready := make(chan struct{})
	cmd := exec.Command("ip", "-n", l.router, "-o", "monitor", "route")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var once sync.Once
		for lines := bufio.NewScanner(out); lines.Scan(); {
			once.Do(func() { close(ready) })
			m.mu.Lock()
			m.lines = append(m.lines, lines.Text())
			m.mu.Unlock()
		}
	}()
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	// It listens once it has reported a route of ours.
	for i := 0; ; i++ {
		route := []string{"-n", l.router, "route", "replace", fmt.Sprintf("198.51.100.%d/32", i%250), "dev", "eth0"}
		l.ip(route...)
		select {
		case <-ready:
			return m
		case <-time.After(20 * time.Millisecond):
		}
		if i > 500 {
			l.t.Fatal("ip monitor reports nothing")
		}
	}
}

// lost returns what was deleted of the routes to vip.
func (m *monitor) lost(vip string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	host := strings.TrimSuffix(strings.TrimSuffix(vip, "/32"), "/128")
	var all []string
	for _, line := range m.lines {
		if strings.HasPrefix(line, "Deleted ") && strings.Contains(line, host) {
			all = append(all, line)
		}
	}
	return all
}

// router is FRR or BIRD with both families over one session, as the test needs it.
type router struct {
	name  string
	start func(l *lab) (show func(string) string)
}

// routersOf returns both routers in AS asn, with graceful restart as is usual for
// each: FRR has to be told, and BIRD helps those who restart by default.
func routersOf(asn int, side, node string) []router {
	both := []lb.Family{lb.IPv4, lb.IPv6}
	return []router{
		{"FRR", func(l *lab) func(string) string {
			return l.startFRR(frrConfig(asn, node, "bgp graceful-restart", both...)).vtysh
		}},
		{"BIRD", func(l *lab) func(string) string {
			return l.startBird(birdConfig(asn, side, node, 64512, "", both...))
		}},
	}
}

// TestRestartKeepsRoutes: with graceful restart the router's kernel loses nothing,
// whether the speaker ends or is killed; what is not told again goes with End-of-RIB.
func TestRestartKeepsRoutes(t *testing.T) {
	t.Parallel()
	const old4 = "192.0.2.77/32"
	for _, side := range sides {
		for _, r := range routersOf(64513, side.router, side.node) {
			for _, kind := range []struct {
				name, cfg string
				end       func(*node)
				peer      bool
			}{
				{"restart", "{}", (*node).stop, true},
				{"killed", "{}", (*node).kill, true},
				{"by flag", `{"GracefulRestart": true}`, (*node).stop, false},
			} {
				t.Run(r.name+", "+side.name+", "+kind.name, func(t *testing.T) {
					t.Parallel()
					l := newLab(t)
					show := r.start(l)
					p := peer(side.router, 64513, lb.IPv4, lb.IPv6)
					p.GracefulRestart = kind.peer
					n := startNodeWith(t, l.node, kind.cfg)
					n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6, old4)})
					n.up("r")
					if s := n.status("r"); !s.Negotiated.GracefulRestart || s.Negotiated.RestartTime != 2*time.Minute {
						t.Fatalf("graceful restart is not negotiated: %+v", s)
					}
					l.fib(5*time.Second, true, vip4, vip6, old4)
					m := l.monitor()
					ended := time.Now()
					kind.end(n)
					<-n.exited
					if took := time.Since(ended); took > 5*time.Second {
						t.Errorf("the speaker took %s to end", took)
					}
					eventually(t, 5*time.Second, func() string { // it has noticed
						out := show("show " + map[string]string{"FRR": "bgp summary", "BIRD": "protocols n"}[r.name])
						if strings.Contains(out, "Established") || r.name == "FRR" && !strings.Contains(out, "Active") && !strings.Contains(out, "Connect") {
							return out
						}
						return ""
					})
					l.fib(0, true, vip4, vip6, old4)
					n = startNodeWith(t, l.node, kind.cfg)
					n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4, vip6)})
					n.up("r")
					// The restart time would be 2 minutes: this is End-of-RIB.
					l.fib(5*time.Second, false, old4)
					l.fib(0, true, vip4, vip6)
					if lost := slices.Concat(m.lost(vip4), m.lost(vip6)); len(lost) > 0 {
						t.Errorf("the router lost %v", lost)
					}
				})
			}
			t.Run(r.name+", "+side.name+", without", func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				r.start(l)
				n := startNode(t, l.node)
				n.apply(lb.Session{Peer: peer(side.router, 64513, lb.IPv4, lb.IPv6), Routes: routes(lb.Attrs{}, vip4, vip6)})
				n.up("r")
				l.fib(5*time.Second, true, vip4, vip6)
				n.stop()
				l.fib(2*time.Second, false, vip4, vip6)
			})
		}
	}
}

// TestGracefulRestartChangesLive: the session is told when it is next established.
func TestGracefulRestartChangesLive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "bgp graceful-restart", lb.IPv4))
	n := startNode(t, l.node)
	s := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(lb.Attrs{}, vip4)}
	n.apply(s)
	n.up("r")
	s.Peer.GracefulRestart, s.Peer.ConnectRetry = true, time.Second
	n.apply(s)
	l.fib(5*time.Second, true, vip4)
	if got := f.neighbor(node4); got.ConnectionsEstablished != 1 || got.GracefulRestartInfo.RemoteGrMode == "Restart" {
		t.Errorf("after the change: %+v", got)
	}
	f.vtysh("clear bgp *")
	eventually(t, 10*time.Second, func() string {
		if got := f.neighbor(node4); got.GracefulRestartInfo.RemoteGrMode != "Restart" {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
}

// TestLeaving: routers prefer others, then forget the routes, then hear why.
func TestLeaving(t *testing.T) {
	t.Parallel()
	const why = "node1 is drained by alice"
	for _, side := range sides {
		for _, r := range routersOf(64512, side.router, side.node) {
			t.Run(r.name+", "+side.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				show := r.start(l)
				n := startNodeWith(t, l.node, `{"DrainTime": 5000000000}`)
				p := peer(side.router, 64512, lb.IPv4, lb.IPv6)
				p.GracefulRestart = true // it must not keep routes of one who leaves
				n.apply(lb.Session{Peer: p, Routes: routes(attrs(), vip4, vip6)})
				n.up("r")
				l.fib(5*time.Second, true, vip4, vip6)
				n.command(order{Depart: &bgp.Departure{Leaving: true, Linger: 300 * time.Millisecond, Reason: why}})
				left := time.Now()
				n.stop()
				for _, vip := range []string{vip4, vip6} {
					switch r.name {
					case "FRR":
						family := map[bool]string{true: "ipv6", false: "ipv4"}[strings.Contains(vip, ":")]
						says(t, show, "show bgp "+family+" unicast "+vip, "localpref 0", "graceful-shutdown", "64512:100")
					case "BIRD":
						says(t, show, "show route all "+vip, "BGP.local_pref: 0", "(65535,0)", "(64512,100)")
					}
				}
				if time.Since(left) < 5*time.Second {
					l.fib(0, true, vip4, vip6) // still there, as the last choice
				}
				l.fib(15*time.Second, false, vip4, vip6)
				if took := time.Since(left); took < 5*time.Second {
					t.Errorf("withdrawn after %s", took)
				}
				<-n.exited
				switch r.name {
				case "FRR":
					says(t, show, "show bgp neighbors "+side.node+" json", `"lastErrorCodeSubcode":"0602"`, `"lastShutdownDescription":"`+why)
				case "BIRD":
					says(t, show, "show protocols all n", "Administrative shutdown", why)
				}
			})
		}
	}
}

// TestNodeIsDrained while its speaker stays: routes that say GracefulShutdown go when
// their time is over, and come back when they do not say so any more.
func TestNodeIsDrained(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNodeWith(t, l.node, `{"DrainTime": 4000000000}`)
	s := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(attrs(), vip4)}
	n.apply(s)
	n.up("r")
	l.fib(5*time.Second, true, vip4)
	leaving := attrs()
	leaving.GracefulShutdown = true
	drained := lb.Session{Peer: s.Peer, Routes: routes(leaving, vip4)}
	n.apply(drained)
	eventually(t, 4*time.Second, func() string {
		if got := f.path(vip4); got.Community.String != "64512:100 graceful-shutdown no-export" {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	n.apply(drained) // the plan says it again and again
	l.fib(10*time.Second, false, vip4)
	if s := n.status("r"); s.State != "Established" || s.Advertised != 0 {
		t.Errorf("status %+v", s)
	}
	// A session that comes up again meanwhile tells nothing.
	f.vtysh("clear bgp *")
	eventually(t, 10*time.Second, func() string {
		if got := f.neighbor(node4); got.BgpState != "Established" || got.ConnectionsEstablished != 2 {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	n.up("r")
	n.apply(s)
	l.fib(3*time.Second, true, vip4)
	if got := f.path(vip4); got.Community.String != "64512:100 no-export" {
		t.Errorf("%+v", got)
	}
	if got := f.neighbor(node4); got.MessageStats.UpdatesRecv > 8 {
		t.Errorf("%d UPDATEs", got.MessageStats.UpdatesRecv)
	}
}

// TestExcludedFromTheStart: routes that say GracefulShutdown and that the router has never
// heard of are not told, be it at first or beside others that are there.
func TestExcludedFromTheStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.startBird(birdConfig(64513, router4, node4, 64512, "", lb.IPv4))
	n := startNodeWith(t, l.node, `{"DrainTime": 3600000000000}`)
	p := peer(router4, 64513, lb.IPv4)
	leaving := lb.Attrs{GracefulShutdown: true}
	both := routes(leaving, "192.0.2.9/32")
	both[netip.MustParsePrefix(vip4)] = lb.Attrs{}
	n.apply(lb.Session{Peer: p, Routes: both})
	n.up("r")
	l.fib(10*time.Second, true, vip4)
	l.fib(0, false, "192.0.2.9/32")
	if s := n.status("r"); s.Wanted != 1 || s.Advertised != 1 {
		t.Errorf("%d routes wanted, %d advertised", s.Wanted, s.Advertised)
	}
	n.apply(lb.Session{Peer: p, Routes: routes(leaving, vip4, "192.0.2.9/32", "192.0.2.10/32")})
	eventually(t, 10*time.Second, func() string {
		if s := n.status("r"); s.Wanted != 0 || s.Advertised != 1 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	l.fib(0, true, vip4) // for an hour
	l.fib(0, false, "192.0.2.9/32", "192.0.2.10/32")
}

// TestRemovedPeer is told that it is not one any more.
func TestRemovedPeer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNode(t, l.node)
	p := peer(router4, 64513, lb.IPv4)
	n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	n.up("r")
	l.fib(5*time.Second, true, vip4)
	p.Password = secret // FRR has none: it forgets the reason when the session is back
	n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	eventually(t, 5*time.Second, func() string {
		if got := f.neighbor(node4); got.LastNotificationReason != "Cease/Other Configuration Change" {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	p.Password = ""
	n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, vip4)})
	n.up("r")
	l.fib(5*time.Second, true, vip4)
	n.apply()
	l.fib(time.Second, false, vip4)
	if got := f.neighbor(node4); got.LastNotificationReason != "Cease/Peer Unconfigured" && got.LastNotificationReason != "Cease/Peer De-configured" {
		t.Errorf("%+v", got)
	}
}

// TestRouteYields: one route is the last choice, until it is not wanted any more; it does not
// wait for the drain time of the node, and starts none.
func TestRouteYields(t *testing.T) {
	t.Parallel()
	const other, never = "192.0.2.9/32", "192.0.2.10/32"
	l := newLab(t)
	f := l.startFRR(frrConfig(64513, node4, "", lb.IPv4))
	n := startNodeWith(t, l.node, `{"DrainTime": 1000000}`)
	s := lb.Session{Peer: peer(router4, 64513, lb.IPv4), Routes: routes(attrs(), vip4, other)}
	n.apply(s)
	n.up("r")
	l.fib(5*time.Second, true, vip4, other)
	yield := attrs()
	yield.Yield = true
	going := lb.Session{Peer: s.Peer, Routes: routes(yield, vip4, never)}
	going.Routes[netip.MustParsePrefix(other)] = attrs()
	n.apply(going)
	eventually(t, 4*time.Second, func() string {
		if got := f.path(vip4); got.Community.String != "64512:100 graceful-shutdown no-export" {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	l.fib(0, true, vip4, other)
	l.fib(0, false, never)
	if got := f.path(other); got.Community.String != "64512:100 no-export" {
		t.Errorf("the other: %+v", got)
	}
	if s := n.status("r"); s.Wanted != 1 || s.Advertised != 2 {
		t.Errorf("%d routes wanted, %d advertised", s.Wanted, s.Advertised)
	}
	n.apply(lb.Session{Peer: s.Peer, Routes: routes(attrs(), other)})
	l.fib(5*time.Second, false, vip4)
	l.fib(0, true, other)
}
