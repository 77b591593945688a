package layer2_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

func TestAnswersIPv4(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.silent("eth0", vip)
	l.apply(lb.L2{vip: {}})
	l.answered("eth0", vip, nodeMAC)

	out := l.exec("client", "arping", "-b", "-c", "2", "-w", "3", "-I", "eth0", vip.String())
	if n := strings.Count(out, "reply from"); n != 2 || strings.Count(out, strings.ToUpper(nodeMAC)) != 2 {
		t.Errorf("two requests, not two answers from %s:\n%s", nodeMAC, out)
	}
	if out := l.try("client", "arping", "-D", "-c", "1", "-w", "2", "-I", "eth0", vip.String()); !strings.Contains(out, "Received 1 response") {
		t.Errorf("RFC 5227 probe is not answered:\n%s", out)
	}
	l.try("client", "ping", "-c", "1", "-W", "1", vip.String()) // no answer: nobody has the address
	l.corrected(vip, nodeMAC)

	s := l.status(vip)
	if s.RequestsReceived < 4 || s.RepliesSent != s.RequestsReceived || s.GratuitousSent < 2 {
		t.Errorf("counted: %+v", s)
	}
	if diff := cmp.Diff([]string{"eth0", "eth1"}, s.Links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	l.apply(lb.L2{})
	l.silent("eth0", vip)
}

func TestAnswersIPv6(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.silent("eth0", vip6)
	l.apply(lb.L2{vip6: {}})
	l.answered("eth0", vip6, nodeMAC)
	l.try("client", "ping", "-c", "1", "-W", "1", vip6.String())
	l.corrected(vip6, nodeMAC)

	// A neighbour that doubts its entry asks by unicast; no group brings that to us.
	before := l.status(vip6).RepliesSent
	l.ip("client", "neigh replace "+vip6.String()+" lladdr "+nodeMAC+" nud probe dev eth0")
	l.until("the probed entry becomes reachable", func() (string, bool) {
		out := l.ip("client", "neigh show "+vip6.String())
		return out, strings.Contains(out, "REACHABLE")
	})
	if after := l.status(vip6).RepliesSent; after == before {
		t.Error("the probe was not answered by us")
	}

	// Another host that wants the address finds that it is in use.
	l.ip("client", "link set eth0 down") // accept_dad is read when the link comes up
	l.exec("client", "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_dad")
	l.ip("client", "link set eth0 up")
	l.ip("client", "addr add "+vip6.String()+"/64 dev eth0")
	l.until("duplicate address detection fails", func() (string, bool) {
		out := l.ip("client", "-6 addr show dev eth0 to "+vip6.String())
		return out, strings.Contains(out, "dadfailed")
	})
	l.ip("client", "addr del "+vip6.String()+"/64 dev eth0")

	l.apply(lb.L2{})
	l.silent("eth0", vip6)
}

func TestTakeoverCorrectsStaleEntries(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.until("links are known", func() (string, bool) {
		s := l.apply(lb.L2{})
		return fmt.Sprint(s.Links), s.Links["eth0"] == links.Usable
	})
	l.stale(vip)
	l.stale(vip6)
	l.apply(lb.L2{vip: {}, vip6: {}})
	l.corrected(vip, nodeMAC)
	l.corrected(vip6, nodeMAC)
}

func TestLinksAreRestricted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// A link of a container network, to the same client.
	l.ip("node", "link add veth7 type veth peer name eth2 netns "+l.prefix+"client")
	l.ip("node", "link set veth7 up")
	l.ip("client", "link set eth2 up")
	l.ip("client", "addr add 203.0.113.9/24 dev eth2")

	l.apply(lb.L2{vip: {Links: []string{"eth1", "eth9", "veth7"}}})
	l.answered("eth1", vip, nodeMAC1)
	l.silent("eth0", vip)
	l.silent("eth2", vip)
	s := l.apply(lb.L2{vip: {Links: []string{"eth1", "eth9", "veth7"}}})
	if diff := cmp.Diff([][]string{{"eth1"}, {"eth9"}}, [][]string{s.Addrs[vip].Links, s.Addrs[vip].MissingLinks}); diff != "" {
		t.Errorf("links and missing links (-want +got):\n%s", diff)
	}
	if got := s.Links["veth7"]; got != links.Excluded {
		t.Errorf("veth7 is %s, want %s", got, links.Excluded)
	}
}

func TestBridgeIsAnsweredOnAndItsPortIsNot(t *testing.T) {
	t.Parallel()
	const bridgeMAC = "02:00:00:00:02:01"
	l := newLab(t)
	l.ip("node", "link add br0 address "+bridgeMAC+" type bridge")
	l.ip("node", "link set eth1 master br0")
	l.ip("node", "link set br0 up")
	l.apply(lb.L2{vip: {}, vip6: {}})
	l.answered("eth1", vip, bridgeMAC)
	l.answered("eth1", vip6, bridgeMAC)
	out := l.exec("client", "arping", "-b", "-c", "2", "-w", "3", "-I", "eth1", vip.String())
	if n := strings.Count(out, "reply from"); n != 2 || strings.Count(out, strings.ToUpper(bridgeMAC)) != 2 {
		t.Errorf("two requests, not two answers from %s:\n%s", bridgeMAC, out)
	}
	s := l.apply(lb.L2{vip: {Links: []string{"eth1"}}})
	if got := s.Links["eth1"]; got != links.Enslaved || len(s.Addrs[vip].Links) != 0 || len(s.Addrs[vip].MissingLinks) != 0 {
		t.Errorf("eth1 is %s, %s is answered for on %v", got, vip, s.Addrs[vip].Links)
	}
	l.silent("eth1", vip)
}

func TestSurvivesLinkChanges(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	want := lb.L2{vip: {Links: []string{"eth0"}}, vip6: {Links: []string{"eth0"}}}
	l.apply(want)
	l.corrects(nodeMAC, func() { // carrier is lost for a moment
		l.ip("sw", "link set to-node down")
		l.ip("sw", "link set to-node up")
	})
	l.corrects(nodeMAC, func() {
		l.ip("node", "link set eth0 down")
		l.ip("node", "link set eth0 up")
	})
	const second = "02:00:00:00:00:02"
	l.corrects(second, func() { l.ip("node", "link set eth0 address "+second) })

	const third = "02:00:00:00:00:03"
	l.corrects(third, func() { // the link is made anew, with another index
		l.ip("node", "link del eth0")
		l.until("the loss of eth0", func() (string, bool) {
			s := l.send(command{}).Addrs[vip]
			return fmt.Sprint(s), len(s.Links) == 0 && len(s.MissingLinks) == 1
		})
		l.plug("node", third)
	})
	l.answered("eth0", vip, third)
	l.answered("eth0", vip6, third)

	l.corrects(third, func() { // IPv6 is turned off and on: memberships are lost
		l.exec("node", "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
		l.exec("node", "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
	})
	l.answered("eth0", vip6, third)
}

// corrects does something to the node's link after which the client's wrong entries
// are corrected unasked, in both families.
func (l *lab) corrects(mac string, do func()) {
	l.Helper()
	l.stale(vip)
	l.stale(vip6)
	do()
	l.corrected(vip, mac)
	l.corrected(vip6, mac)
}

func TestGroupsReachSnoopingSwitches(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// A querier makes the bridge forward groups only to those who joined them.
	l.ip("sw", "link set sw0 type bridge mcast_query_response_interval 10 mcast_snooping 1 mcast_querier 1")
	const group = "ff02::1:ff00:250"
	mdb := func() string { return l.exec("sw", "bridge", "mdb", "show", "dev", "sw0") }

	l.apply(lb.L2{vip6: {Links: []string{"eth0"}}})
	known := func() {
		t.Helper()
		l.until("the switch knows the group on the node's port", func() (string, bool) {
			out := mdb()
			for line := range strings.Lines(out) {
				if strings.Contains(line, "port to-node ") && strings.Contains(line, group) {
					return out, true
				}
			}
			return out, false
		})
	}
	known()
	l.answered("eth0", vip6, nodeMAC)

	// A link that comes late joins too.
	l.ip("node", "link del eth0")
	l.until("the switch has forgotten the node's port", func() (string, bool) {
		out := mdb()
		return out, !strings.Contains(out, "port to-node ")
	})
	l.plug("node", nodeMAC)
	known()
	l.answered("eth0", vip6, nodeMAC)

	l.apply(lb.L2{})
	l.until("the group is left", func() (string, bool) {
		out := l.exec("node", "ip", "-6", "maddr", "show", "dev", "eth0")
		return out, !strings.Contains(out, group)
	})
}

// One socket holds no more than 2,340 groups, and fewer where optmem_max is small.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	const n = 3000
	l := newLab(t)
	want := lb.L2{}
	addr := netip.MustParseAddr("2001:db8::1:0")
	for range n {
		addr = addr.Next()
		want[addr] = lb.L2Announcement{Links: []string{"eth0"}}
	}
	l.apply(want)
	l.until("all groups are joined", func() (string, bool) {
		got := strings.Count(l.exec("node", "cat", "/proc/net/igmp6"), " eth0 ")
		return fmt.Sprint(got, " groups"), got >= n
	})
	l.answered("eth0", addr, nodeMAC)
}

// A link with carrier that takes no frames must cost the others nothing.
func TestStuckLinkDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if out := l.try("node", "tc", "qdisc", "add", "dev", "eth1", "root", "tbf", "rate", "8bit", "burst", "1600", "limit", "10000000"); out != "" {
		skip(t, "needs the token bucket filter of tc: "+out)
	}
	want := lb.L2{}
	addr := netip.MustParseAddr("10.0.0.0")
	for range 2000 {
		addr = addr.Next()
		want[addr] = lb.L2Announcement{}
	}
	l.until("links are known", func() (string, bool) {
		s := l.apply(lb.L2{})
		return fmt.Sprint(s.Links), s.Links["eth0"] == links.Usable && s.Links["eth1"] == links.Usable
	})
	l.apply(want)
	l.until("all are told to eth0", func() (string, bool) {
		told := uint64(0)
		for _, a := range l.send(command{}).Addrs {
			told += min(a.GratuitousSent, 2) // eth1 takes few, and nobody hears them
		}
		return fmt.Sprint(told, " frames"), told == 2*2000
	})
	l.stale(vip)
	l.apply(lb.L2{vip: {}})
	l.corrected(vip, nodeMAC)
}
