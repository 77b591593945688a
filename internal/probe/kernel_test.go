package probe_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
)

const (
	vip, vip6   = "192.0.2.200", "2001:db8::200"
	both        = vip + " by " + hostMAC + " on eth0, " + vip6 + " by " + hostMAC + " on eth0"
	both2       = vip + " by " + node2MAC + " on eth0, " + vip6 + " by " + node2MAC + " on eth0"
	other, oth6 = "192.0.2.201", "2001:db8::201"
	otherBoth   = other + " by " + hostMAC + " on eth0, " + oth6 + " by " + hostMAC + " on eth0"
)

// wanted is a window of addresses, in a cluster of these nodes besides node1.
func wanted(addrs []string, nodes ...lb.Node) wire.Want {
	w := wire.Want{Node: "node1", Nodes: append(nodes, lb.Node{Name: "node1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.101")}})}
	for _, a := range addrs {
		w.Candidates = append(w.Candidates, wire.Candidate{Addr: netip.MustParseAddr(a), Pool: "p"})
	}
	return w
}

func node2(addrs ...string) lb.Node {
	n := lb.Node{Name: "node2"}
	for _, a := range addrs {
		n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
	}
	return n
}

// take configures addresses on a host.
func (l *lab) take(ns string, addrs ...string) {
	l.Helper()
	for _, a := range addrs {
		if strings.Contains(a, ":") {
			l.ip(ns, "addr add "+a+"/64 dev eth0 nodad")
		} else {
			l.ip(ns, "addr add "+a+"/24 dev eth0")
		}
	}
}

func (l *lab) drop(ns string, addrs ...string) {
	l.Helper()
	for _, a := range addrs {
		bits := "/24"
		if strings.Contains(a, ":") {
			bits = "/64"
		}
		l.ip(ns, "addr del "+a+bits+" dev eth0")
	}
}

func TestHostThatHasTheAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if a := l.send(command{}); a.Known {
		t.Errorf("says %v of what it was not asked", a.Report)
	}
	l.take("host", vip, vip6)
	l.apply(wanted([]string{vip, vip6, other, oth6}))
	l.reported(both)
	l.drop("host", vip, vip6)
	l.reported("")
}

// Nobody's neighbour cache has anything of ours but what is true.
func TestNobodyLearnsAnythingWrong(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.take("host", vip, vip6)
	l.apply(wanted([]string{vip, vip6}))
	l.reported(both)
	if out := l.ip("host", "-4 neigh show"); out != "" {
		t.Errorf("a probe was learned from:\n%s", out)
	}
	for line := range strings.Lines(l.ip("host", "-6 neigh show")) {
		if !strings.HasPrefix(line, "fe80::ff:fe00:1 ") || !strings.Contains(line, node1MAC) {
			t.Errorf("learned from a solicitation: %s", line)
		}
	}
	for _, family := range []string{"-4", "-6"} {
		if out := l.ip("node1", family+" neigh show"); strings.Contains(out, hostMAC) && !strings.Contains(out, "fe80::") {
			t.Errorf("the node's own kernel has learned:\n%s", out)
		}
	}
}

func TestOwnNodeDoesNotCount(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// By a second link into the same network, the node answers itself.
	l.ip("node1", "link add eth1 address 02:00:00:00:01:01 type veth peer name to-node1b netns "+l.prefix+"sw")
	l.ip("sw", "link set to-node1b master sw0 up")
	l.ip("node1", "link set eth1 up")
	l.ip("node1", "addr add "+vip+"/32 dev eth1")
	l.ip("node1", "addr add "+vip6+"/128 dev eth1 nodad")
	l.take("host", other, oth6)
	l.apply(wanted([]string{vip, vip6, other, oth6}))
	l.reported(otherBoth) // and with that, all were asked about
	l.stays(otherBoth)
}

// stays lets three rounds about a stranger pass, in which the report does not change.
func (l *lab) stays(want string) {
	l.Helper()
	// A host with a further address is asked about in the same rounds.
	for i := range 2 {
		l.reported(want)
		before := l.probes()
		l.until("further probes", func() (string, bool) {
			n := l.probes()
			return fmt.Sprint(n, " after ", before, " in pass ", i), n >= before+3
		})
	}
	l.reported(want)
}

// probes counts what has arrived at the host.
func (l *lab) probes() int {
	l.Helper()
	out := strings.Fields(l.exec("host", "cat", "/sys/class/net/eth0/statistics/rx_packets"))
	var n int
	if _, err := fmt.Sscan(out[0], &n); err != nil {
		l.Fatal(err)
	}
	return n
}

func TestNodesOfTheClusterDoNotCount(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.take("node2", vip, vip6) // as a node answers that has announced it a moment ago
	l.take("host", other, oth6)
	w := wanted([]string{vip, vip6, other, oth6}, node2("192.0.2.102", "2001:db8::102"))
	w.Alive = map[string]bool{"node1": true} // so that node1 asks about all
	l.apply(w)
	l.reported(otherBoth)
	l.stays(otherBoth)
	// It is removed from the cluster: for some minutes that changes nothing; then it does.
	gone := wanted([]string{vip, vip6, other, oth6})
	l.apply(gone)
	l.stays(otherBoth)

	// A node that nobody knows by an address of this link is a stranger.
	second := newLab(t)
	second.take("node2", vip, vip6)
	second.apply(wanted([]string{vip, vip6}, node2("198.51.100.102")))
	second.reported(both2)
}

func TestLinksComeAndGo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.take("host", vip, vip6)
	l.apply(wanted([]string{vip, vip6}))
	l.reported(both)
	w := wanted(nil)
	for _, a := range []string{vip, vip6} {
		c := lb.WireConflict{Addr: netip.MustParseAddr(a), MAC: hostMAC, Node: "node1", Link: "eth0"}
		w.Candidates = append(w.Candidates, wire.Candidate{Addr: c.Addr, Pool: "p", Conflict: c})
		w.Conflicts = append(w.Conflicts, c)
	}
	l.apply(w)
	l.ip("node1", "link del eth0") // the conflict outlives that
	l.reported(both)
	l.drop("host", vip, vip6)
	l.plug("node1", node1MAC) // with another index
	l.ip("node1", "addr add 192.0.2.101/24 dev eth0")
	l.ip("node1", "addr add 2001:db8::101/64 dev eth0 nodad")
	l.reported("")
}

// A host that is about to take an address asks by a probe, and so do other nodes: that
// alone is no use of it. It gets the address, and then it counts.
func TestHostThatIsAboutToTakeTheAddress(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("arping"); err != nil {
		skip(t, "needs the command arping (iputils-arping)")
	}
	l := newLab(t)
	l.apply(wanted([]string{vip, other}))
	l.reported("")
	l.take("host", other)
	for range 3 {
		l.exec("host", "arping", "-D", "-c", "1", "-w", "1", "-I", "eth0", vip)
	}
	l.reported(other + " by " + hostMAC + " on eth0")
	l.take("host", vip)
	l.exec("host", "arping", "-U", "-c", "1", "-I", "eth0", vip) // RFC 5227 §2.3
	l.reported(vip + " by " + hostMAC + " on eth0, " + other + " by " + hostMAC + " on eth0")
}
