package bfd_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/bfd"
	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

// TestRefusedKeys: what cannot be is named, all else is applied.
func TestRefusedKeys(t *testing.T) {
	addr := netip.MustParseAddr
	bad := profile(300 * ms)
	bad.Multiplier = 0
	fast := profile(300 * ms)
	fast.Receive = 0
	r := bfd.New(bfd.Config{})
	for name, want := range map[string]lb.BFD{
		"no address":            {{}: profile(300 * ms)},
		"multicast":             {{Peer: addr("224.0.0.1")}: profile(300 * ms)},
		"unspecified":           {{Peer: addr("::")}: profile(300 * ms)},
		"mapped":                {{Peer: addr("::ffff:10.0.0.1")}: profile(300 * ms)},
		"two families":          {{Peer: addr("10.0.0.1"), Source: addr("fd00::1")}: profile(300 * ms)},
		"two links":             {{Peer: addr("fe80::1%eth0"), Link: "eth1"}: profile(300 * ms)},
		"link-local, no link":   {{Peer: addr("fe80::1")}: profile(300 * ms)},
		"long name":             {{Peer: addr("10.0.0.1"), Link: strings.Repeat("x", 16)}: profile(300 * ms)},
		"multiplier 0":          {{Peer: addr("10.0.0.1")}: bad},
		"receive interval of 0": {{Peer: addr("10.0.0.1")}: fast},
	} {
		if err := r.Apply(t.Context(), want); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := r.Apply(t.Context(), lb.BFD{{Peer: addr("fe80::1%eth0")}: profile(10 * ms)}); err != nil {
		t.Errorf("a good key: %v", err)
	}
	if st := r.Status(); len(st) != 0 {
		t.Errorf("status before Run: %v", st)
	}
}

// TestRunEnds: routers are told, and then nothing can be applied, with a process and
// without.
func TestRunEnds(t *testing.T) {
	t.Run("here", func(t *testing.T) { testRunEnds(t, nil) })
	t.Run("process", func(t *testing.T) { testRunEnds(t, self(asChild)) })
}

func testRunEnds(t *testing.T, process []string) {
	t.Helper()
	l := routerlab.New(t)
	frr := l.StartFRR()
	frr.Daemon("bfdd", peers(interval(50)...))
	n := startNodeWith(l, process)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.is(key, core.Up)
	}
	n.stop()
	l.Eventually(5*time.Second, func() string {
		if said := frr.VTY("bfdd", "show bfd peers"); strings.Count(said, "Remote diagnostics: administratively down") != 4 {
			return said
		}
		return ""
	})
	if err := n.Apply(t.Context(), nil); !errors.Is(err, bfd.ErrStopped) {
		t.Errorf("apply: %v", err)
	}
	if err := n.Run(t.Context()); !errors.Is(err, bfd.ErrStopped) {
		t.Errorf("run: %v", err)
	}
	if st := n.Status(); len(st) != 0 {
		t.Errorf("status: %v", st)
	}
}

// TestPassive: we wait for FRR; with FRR passive too, nothing happens.
func TestPassive(t *testing.T) {
	l := routerlab.New(t)
	frr := l.StartFRR()
	bfdd := frr.Daemon("bfdd", peers(append(interval(50), "passive-mode")...))
	n := startNode(l)
	p := profile(50 * ms)
	p.Passive = true
	onLink := lb.BFDKey{Peer: single4.Peer, Link: "eth0"}
	keys := []lb.BFDKey{onLink, single6, multi4, multi6}
	n.apply(all(p, keys...))
	other := lb.BFDKey{Peer: netip.MustParseAddr("10.9.0.3")}
	n.apply(lb.BFD{onLink: p, single6: p, multi4: p, multi6: p, other: profile(50 * ms)})
	l.Eventually(10*time.Second, func() string { // as long as somebody else says three things
		if st := n.status(other); st.Counters.ControlOut < 3 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	for _, key := range keys {
		if c := n.status(key).Counters; c.ControlIn+c.ControlOut != 0 {
			t.Errorf("session %s, with both sides passive: %+v", key, c)
		}
	}
	if said := frr.VTY("bfdd", "show bfd peers counters json"); strings.Count(said, `"control-packet-input":0,`) != len(keys) {
		t.Errorf("FRR, with both sides passive: %s", said)
	}
	bfdd.Kill()
	bfdd = frr.Daemon("bfdd", peers(interval(50)...))
	for _, key := range keys {
		n.settled(key, 50*ms, 150*ms)
	}
	// FRR passive, and we are not.
	bfdd.Kill()
	frr.Daemon("bfdd", peers(append(interval(50), "passive-mode")...))
	n.apply(all(profile(50*ms), keys...))
	for _, key := range keys {
		n.settled(key, 50*ms, 150*ms)
	}
}

// TestOtherKey: the same router by another key is one session less and one more, and
// what the old one still has to say does not harm the new one.
func TestOtherKey(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	n := startNode(l)
	onLink := lb.BFDKey{Peer: single4.Peer, Link: "eth0"}
	n.apply(all(profile(50*ms), onLink, single6))
	n.settled(onLink, 50*ms, 150*ms)
	n.settled(single6, 50*ms, 150*ms)
	n.apply(all(profile(50*ms), single4, single6))
	n.settled(single4, 50*ms, 150*ms)
	before := n.status(single4).Counters.ControlIn
	l.Eventually(10*time.Second, func() string { // for longer than the old one could speak
		if c := n.status(single4).Counters; c.ControlIn < before+50 {
			return fmt.Sprintf("%+v", c)
		}
		return ""
	})
	n.quiet(single4, 1, 0)
	n.quiet(single6, 1, 0)
	if got := len(n.Status()); got != 2 {
		t.Errorf("%d sessions, want 2", got)
	}
}

// TestSlowerFRR: 300 ms against our 50 ms settles on the slower and does not flap.
func TestSlowerFRR(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(300)...))
	n := startNode(l)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 300*ms, 900*ms)
	}
	before := n.status(single4).Counters
	l.Eventually(10*time.Second, func() string {
		if c := n.status(single4).Counters; c.ControlIn < before.ControlIn+10 {
			return fmt.Sprintf("%d packets", c.ControlIn)
		}
		return ""
	})
	for _, key := range everyKey {
		n.quiet(key, 1, 0)
	}
}

// TestUnnumbered: the router is known by its link-local address and our link.
func TestUnnumbered(t *testing.T) {
	l := routerlab.New(t)
	l.IP("-n", l.Router, "addr", "add", "fe80::2/64", "dev", "eth0", "nodad")
	l.IP("-n", l.Node, "addr", "add", "fe80::1/64", "dev", "eth0", "nodad")
	frr := l.StartFRR()
	frr.Daemon("bfdd", "bfd\n peer fe80::1 local-address fe80::2 interface eth0\n  receive-interval 50\n  transmit-interval 50\n exit\nexit\n")
	n := startNode(l)
	p := profile(50 * ms)
	p.Echo = true
	zoned := lb.BFDKey{Peer: netip.MustParseAddr("fe80::2%eth0"), Source: netip.MustParseAddr("fe80::1")}
	n.apply(lb.BFD{zoned: p})
	n.is(zoned, core.Up)

	// The link goes away, and comes back as another one.
	l.IP("-n", l.Node, "link", "del", "eth0")
	n.is(zoned, core.Down)
	l.IP("-n", l.Node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", l.Router)
	for ns, addr := range map[string]string{l.Node: "fe80::1/64", l.Router: "fe80::2/64"} {
		l.IP("-n", ns, "addr", "add", addr, "dev", "eth0", "nodad")
		l.IP("-n", ns, "link", "set", "eth0", "up")
	}
	n.is(zoned, core.Up)
}

// TestPortTaken: another BFD daemon on the node is named, until it is gone.
func TestPortTaken(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	var other int
	if err := <-within(l.Node, func() (err error) {
		if other, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(other, &unix.SockaddrInet4{Port: core.PortSingleHop})
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	n := startNode(l)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range []lb.BFDKey{single6, multi4, multi6} {
		n.is(key, core.Up)
	}
	if st := n.status(single4); !strings.Contains(st.Problem, "another process has UDP port 3784") || st.State != core.Down {
		t.Errorf("%+v", st)
	}
	if err := unix.Close(other); err != nil {
		t.Fatal(err)
	}
	if st := n.is(single4, core.Up); st.Problem != "" {
		t.Errorf("%+v", st)
	}
}

func within(ns string, fn func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- inNamespace(ns, fn) }()
	return done
}

// TestForgedPackets: none of them does anything to a session that is up.
func TestForgedPackets(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	n := startNode(l)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 50*ms, 150*ms)
	}
	discr := n.status(single4).Discr
	down := core.Packet{State: core.Down, Multiplier: 3, MyDiscr: 1, YourDiscr: discr, DesiredMinTx: time.Second, RequiredRx: time.Second}
	auth := down.Append(nil)
	auth[1] |= 1 << 2
	auth[3] = 28
	auth = append(auth, 1, 4, 1, 'x')
	unknown := down
	unknown.YourDiscr++
	l.IP("-n", l.Router, "addr", "add", "10.9.0.9/24", "dev", "eth0")
	for name, c := range map[string]struct {
		from, to string
		ttl      int
		data     []byte
		counted  bool
	}{
		"through a router":       {routerlab.Router4, routerlab.Node4 + ":3784", 254, down.Append(nil), true},
		"from another":           {"10.9.0.9", routerlab.Node4 + ":3784", 255, down.Append(nil), false},
		"authenticated":          {routerlab.Router4, routerlab.Node4 + ":3784", 255, auth, true},
		"short":                  {routerlab.Router4, routerlab.Node4 + ":3784", 255, auth[:20], true},
		"of an unknown session":  {routerlab.Router4, routerlab.Node4 + ":3784", 255, unknown.Append(nil), false},
		"to the multihop port":   {routerlab.Router4, routerlab.Node4 + ":4784", 255, down.Append(nil), false},
		"multihop from too far":  {routerlab.Router4, routerlab.Node4 + ":4784", 253, core.Packet{State: core.Down, Multiplier: 3, MyDiscr: 1}.Append(nil), true},
		"IPv6, through a router": {routerlab.Router6, "[" + routerlab.Node6 + "]:3784", 254, core.Packet{State: core.Down, Multiplier: 3, MyDiscr: 1}.Append(nil), true},
	} {
		refused := func() (sum uint64) {
			for _, st := range n.Status() {
				sum += st.Counters.Refused
			}
			return sum
		}
		was := refused()
		if err := <-within(l.Router, func() error { return send(c.from, c.to, c.ttl, c.data) }); err != nil {
			t.Fatal(err)
		}
		before := n.status(single4).Counters.ControlIn
		l.Eventually(5*time.Second, func() string { // what came after it has been read
			if n.status(single4).Counters.ControlIn < before+3 {
				return "FRR is silent"
			}
			return ""
		})
		if got := refused() - was; got == 1 != c.counted {
			t.Errorf("%s: %d packets refused, want that to be counted: %t", name, got, c.counted)
		}
		for _, key := range everyKey {
			n.quiet(key, 1, 0)
		}
	}
	// And one that is right but for who made it shows that they would have done harm.
	if err := <-within(l.Router, func() error { return send(routerlab.Router4, routerlab.Node4+":3784", 255, down.Append(nil)) }); err != nil {
		t.Fatal(err)
	}
	if c := n.changed(single4, time.Now().Add(-time.Second)); c.Up || c.Diag != core.NeighborDown.String() {
		t.Errorf("%+v", c)
	}
}

// send sends a datagram with a TTL.
func send(from, to string, ttl int, data []byte) error {
	conn, err := (&net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}).Dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		level, name := unix.IPPROTO_IP, unix.IP_TTL
		if strings.HasPrefix(to, "[") {
			level, name = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		}
		set = unix.SetsockoptInt(int(fd), level, name, ttl)
	}); err != nil || set != nil {
		return errors.Join(err, set)
	}
	_, err = conn.Write(data)
	return err
}

func TestMetrics(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	n := startNode(l)
	registry := prometheus.NewRegistry()
	registry.MustRegister(n)
	gone := lb.BFDKey{Peer: netip.MustParseAddr("10.9.0.3")}
	n.apply(lb.BFD{single4: profile(50 * ms), gone: profile(50 * ms)})
	n.settled(single4, 50*ms, 150*ms)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if labels := m.GetLabel(); len(labels) != 2 || labels[0].GetName() != "peer" || labels[1].GetName() != "vrf" || labels[1].GetValue() != "default" {
				t.Errorf("%s: labels %v", f.GetName(), labels)
			}
			got[f.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"session_up 10.9.0.2": 1, "session_up 10.9.0.3": 0, "session_up_events 10.9.0.2": 1, "session_down_events 10.9.0.2": 0,
		"zebra_notifications 10.9.0.2": 1, "control_packet_input 10.9.0.3": 0, "echo_packet_input 10.9.0.2": 0, "echo_packet_output 10.9.0.2": 0,
	} {
		for _, prefix := range []string{"metallb_bfd_", "frrk8s_bfd_"} {
			if v, ok := got[prefix+name]; !ok || v != want {
				t.Errorf("%s%s is %v (there: %t), want %v", prefix, name, v, ok, want)
			}
		}
	}
	for _, name := range []string{"control_packet_input 10.9.0.2", "control_packet_output 10.9.0.2", "control_packet_output 10.9.0.3"} {
		if got["metallb_bfd_"+name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
}
