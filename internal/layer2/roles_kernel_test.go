package layer2_test

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/layer2"
)

const ownerMAC = "02:00:00:00:00:77" // of the node whose speaker does not work

// other is told at once where nothing is to be heard of vip: what comes after it has
// been heard would have come before.
var (
	other  = netip.MustParseAddr("192.0.2.251")
	other6 = netip.MustParseAddr("2001:db8::251")
)

// refreshed makes the client doubt its entry for addr, so that its kernel asks mac by
// unicast, and waits until mac has confirmed it.
func (l *lab) refreshed(addr netip.Addr, mac string) {
	l.Helper()
	l.ip("client", "neigh replace "+addr.String()+" lladdr "+mac+" nud probe dev eth0")
	l.until(fmt.Sprintf("%s is confirmed by %s", addr, mac), func() (string, bool) {
		out := l.ip("client", "neigh show "+addr.String())
		return out, strings.Contains(out, "REACHABLE") && strings.Contains(out, mac)
	})
}

// usable waits until the Announcer answers on eth0.
func (l *lab) usable() {
	l.Helper()
	l.until("eth0 is answered on", func() (string, bool) {
		s := l.apply(lb.L2{vip6: {Role: lb.Yield, Links: []string{"eth0"}}})
		return fmt.Sprint(s.Addrs), s.Addrs[vip6].Reason == layer2.Answered
	})
	l.apply(lb.L2{})
}

// dad lets the client take addr, and returns whether it found that it is in use.
func (l *lab) dad(addr netip.Addr) bool {
	l.Helper()
	l.ip("client", "link set eth0 down") // accept_dad is read when the link comes up
	l.exec("client", "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_dad")
	l.ip("client", "link set eth0 up")
	l.until("the client's link is up", func() (string, bool) {
		out := l.ip("client", "-6 addr show dev eth0 scope link")
		return out, strings.Contains(out, "fe80") && !strings.Contains(out, "tentative")
	})
	l.ip("client", "addr add "+addr.String()+"/64 dev eth0")
	var out string
	l.until("duplicate address detection ends", func() (string, bool) {
		out = l.ip("client", "-6 addr show dev eth0 to "+addr.String())
		return out, strings.Contains(out, "dadfailed") || out != "" && !strings.Contains(out, "tentative")
	})
	l.ip("client", "addr del "+addr.String()+"/64 dev eth0")
	return strings.Contains(out, "dadfailed")
}

func TestYieldAnswersRefreshesAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.usable()
	l.apply(lb.L2{vip: {Role: lb.Yield}, vip6: {Role: lb.Yield}})
	l.refreshed(vip, nodeMAC)
	l.refreshed(vip6, nodeMAC)
	before := l.send(command{})
	l.silent("eth0", vip)
	l.silent("eth0", vip6)
	if out := l.try("client", "arping", "-D", "-c", "1", "-w", "1", "-I", "eth0", vip.String()); !strings.Contains(out, "Received 0 response") {
		t.Errorf("a probe is answered:\n%s", out)
	}
	if l.dad(vip6) {
		t.Error("the address is defended")
	}
	for addr, s := range l.send(command{}).Addrs {
		if s.RepliesSent != before.Addrs[addr].RepliesSent || s.GratuitousSent != 0 {
			t.Errorf("%s: %+v, before %+v", addr, s, before.Addrs[addr])
		}
	}
	l.refreshed(vip, nodeMAC) // it goes on
	l.refreshed(vip6, nodeMAC)
}

// withOwner adds the node that owns the addresses: it has them, and its kernel takes what
// is sent to them, but nobody answers for them there.
func (l *lab) withOwner() {
	l.Helper()
	l.run("ip", "netns", "add", l.prefix+"owner")
	l.Cleanup(func() { l.try("sw", "ip", "netns", "del", l.prefix+"owner") })
	l.exec("owner", "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")
	l.plug("owner", ownerMAC)
	l.ip("owner", "link set lo up")
	l.ip("owner", "addr add 192.0.2.3/24 dev eth0")
	l.ip("owner", "addr add 2001:db8::3/64 dev eth0 nodad")
	l.ip("owner", "addr add "+vip.String()+"/32 dev lo")
	l.ip("owner", "addr add "+vip6.String()+"/128 dev lo")
}

// port returns the port of the switch on which it has learnt a MAC.
func (l *lab) port(mac string) string {
	l.Helper()
	for line := range strings.Lines(l.exec("sw", "bridge", "fdb", "show", "br", "sw0", "dynamic")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == mac {
			return f[2]
		}
	}
	return "none"
}

func TestCaretakerAnswersForTheOwner(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.usable()
	l.withOwner()
	mac := lb.L2Announcement{Role: lb.Caretake, MACs: map[string][6]byte{"eth0": {2, 0, 0, 0, 0, 0x77}}}
	l.silent("eth0", vip) // neither does the owner answer
	l.silent("eth0", vip6)
	l.exec("owner", "ping", "-c", "1", "-w", "5", "192.0.2.9") // the switch learns its port
	client := l.station("client")
	l.hears(client, order{})

	s := l.apply(lb.L2{vip: mac, vip6: mac})
	if diff := cmp.Diff([][]string{{"eth0"}, {"eth0"}}, [][]string{s.Addrs[vip].Links, s.Addrs[vip6].Links}); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	for _, addr := range []netip.Addr{vip, vip6} {
		l.reaches(addr)
		l.answered("eth0", addr, ownerMAC)
		// Who believes that we are the owner asks us by unicast, and is told the truth.
		l.ip("client", "neigh replace "+addr.String()+" lladdr "+nodeMAC+" nud probe dev eth0")
		l.reaches(addr)
	}
	// Who has it right asks the owner by unicast. Nobody answers there, and we do not hear
	// it; then its kernel forgets the owner, asks all, and goes on.
	for _, addr := range []netip.Addr{vip, vip6} {
		l.ip("client", "neigh replace "+addr.String()+" lladdr "+ownerMAC+" nud probe dev eth0")
	}
	l.until("the client gives up its entries", func() (string, bool) {
		out := l.ip("client", "neigh show dev eth0 nud probe")
		return out, !strings.Contains(out, vip.String()) && !strings.Contains(out, vip6.String())
	})
	l.reaches(vip)
	l.reaches(vip6)
	if out := l.try("client", "arping", "-D", "-c", "1", "-w", "2", "-I", "eth0", vip.String()); !strings.Contains(out, "Received 1 response") {
		t.Errorf("RFC 5227 probe is not answered:\n%s", out)
	}
	l.caretakersFrames(client)

	before := l.send(command{})
	l.try("owner", "arping", "-c", "1", "-w", "1", "-s", "192.0.2.3", "-I", "eth0", vip.String())
	l.try("owner", "ndisc6", "-r", "1", "-w", "500", vip6.String(), "eth0")
	for addr, s := range l.send(command{}).Addrs {
		if s.RepliesSent != before.Addrs[addr].RepliesSent || s.GratuitousSent != 0 {
			t.Errorf("%s: %+v, before the owner asked %+v", addr, s, before.Addrs[addr])
		}
	}
	if got := l.port(ownerMAC) + " " + l.port(nodeMAC); got != "to-owner to-node" {
		t.Errorf("the switch has the owner and us at %s", got)
	}
	if !l.dad(vip6) {
		t.Error("the address is not defended")
	}
	l.caretakersFrames(client)
}

// reaches waits until the client's packets reach the owner, and its kernel has the
// owner's MAC.
func (l *lab) reaches(addr netip.Addr) {
	l.Helper()
	l.until(addr.String()+" is reached at the owner", func() (string, bool) {
		out := l.try("client", "ping", "-c", "1", "-W", "1", addr.String())
		out += l.ip("client", "neigh show "+addr.String())
		return out, strings.Contains(out, " 0% packet loss") && strings.Contains(out, ownerMAC)
	})
}

// caretakersFrames looks at what a station has heard of the addresses.
func (l *lab) caretakersFrames(c *child) {
	l.Helper()
	four := fmt.Sprintf("%s > %s: ARP 2 %s is at %s", nodeMAC, clientMAC, vip, ownerMAC)
	six := fmt.Sprintf("%s > %s: NA %s is at %s, S=true O=false to ", nodeMAC, clientMAC, vip6, ownerMAC)
	defence := fmt.Sprintf("%s > %s: NA %s is at %s, S=false O=false to ff02::1", nodeMAC, clientMAC, vip6, ownerMAC)
	ours := 0
	for _, f := range l.hears(c, order{}).Heard {
		is := f.about()
		if !strings.Contains(is, vip.String()+" is") && !strings.Contains(is, vip6.String()+" is") {
			continue
		}
		ours++
		if is != four && !strings.HasPrefix(is, six) && is != defence {
			l.Errorf("heard %s", is)
		}
	}
	if ours == 0 {
		l.Error("nothing was heard")
	}
}

func TestHowMuchIsTold(t *testing.T) {
	t.Parallel()
	const refresh = 400 * time.Millisecond
	l := newLabThatRefreshes(t, refresh)
	l.usable()
	heard := func(step string, want lb.L2, unheard ...netip.Addr) {
		t.Helper()
		want[other], want[other6] = lb.L2Announcement{}, lb.L2Announcement{}
		l.stale(other)
		l.stale(other6)
		s := l.apply(want)
		l.corrected(other, nodeMAC)
		l.corrected(other6, nodeMAC)
		for _, addr := range unheard {
			if now := l.status(addr); now.GratuitousSent != s.Addrs[addr].GratuitousSent || now.Reason != layer2.Answered {
				t.Errorf("%s: %s: %+v, before %+v", step, addr, now, s.Addrs[addr])
			}
		}
		l.apply(lb.L2{vip: want[vip], vip6: want[vip6]})
	}
	l.stale(vip)
	l.stale(vip6)
	eth0 := []string{"eth0"}
	never, slowly := lb.L2Announcement{Tell: lb.TellNever, Links: eth0}, lb.L2Announcement{Tell: lb.TellSlowly, Links: eth0}
	heard("never", lb.L2{vip: never, vip6: never}, vip, vip6)
	for _, addr := range []netip.Addr{vip, vip6} {
		if out := l.ip("client", "neigh show "+addr.String()); !strings.Contains(out, wrongMAC) {
			t.Errorf("never: the client was told: %s", out)
		}
		l.answered("eth0", addr, nodeMAC)
		l.stale(addr)
	}
	// A refresh comes after its time, and that is all.
	before := time.Now()
	l.apply(lb.L2{vip: slowly, vip6: slowly})
	l.corrected(vip, nodeMAC)
	l.corrected(vip6, nodeMAC)
	l.until("three refreshes", func() (string, bool) {
		n := l.status(vip6).GratuitousSent
		return fmt.Sprint(n), n >= 3
	})
	if took := time.Since(before); took < 2*refresh {
		t.Errorf("three refreshes in %s", took)
	}
	l.apply(lb.L2{vip: never, vip6: never})
	l.stale(vip)
	l.stale(vip6)
	l.apply(lb.L2{vip: {}, vip6: {}})
	l.corrected(vip, nodeMAC)
	l.corrected(vip6, nodeMAC)
}

func TestNothingIsSentUnlessFresh(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.usable()
	yes, no := true, false
	l.stale(vip)
	l.stale(vip6)
	l.send(command{Fresh: &no, Apply: lb.L2{vip: {}, vip6: {}}})
	l.silent("eth0", vip)
	l.silent("eth0", vip6)
	for addr, s := range l.send(command{}).Addrs {
		if s.RequestsReceived == 0 || s.RepliesSent != 0 || s.GratuitousSent != 0 {
			t.Errorf("not fresh: %s: %+v", addr, s)
		}
	}
	l.send(command{Fresh: &yes})
	l.corrected(vip, nodeMAC) // what was due is told now
	l.corrected(vip6, nodeMAC)
	l.answered("eth0", vip, nodeMAC)
	l.answered("eth0", vip6, nodeMAC)
}

// A process that was stopped must not answer what it finds waiting: somebody else may
// have the address by now.
func TestWhatHasWaitedIsNotAnswered(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.usable()
	l.apply(lb.L2{vip: {}, vip6: {}})
	l.answered("eth0", vip, nodeMAC)
	l.answered("eth0", vip6, nodeMAC)
	before := l.send(command{})
	client := l.station("client")
	l.hears(client, order{})
	if err := syscall.Kill(l.node.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	l.silent("eth0", vip) // a second each: longer than an answer may wait
	l.silent("eth0", vip6)
	l.hears(client, order{Link: "eth0", Send: [][]byte{arp.Gratuitous(vip, arp.MAC{2, 0, 0, 0, 0, 0x55})[1].Append(nil)}})
	l.silent("eth0", other)
	if err := syscall.Kill(l.node.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.until("what waited is read", func() (string, bool) {
		s := l.send(command{})
		return fmt.Sprint(s.Addrs, s.Claims), len(s.Claims) == 1 &&
			s.Addrs[vip].RequestsReceived > before.Addrs[vip].RequestsReceived && s.Addrs[vip6].RequestsReceived > before.Addrs[vip6].RequestsReceived
	})
	now := l.send(command{})
	for addr, s := range now.Addrs {
		if s.RepliesSent != before.Addrs[addr].RepliesSent {
			t.Errorf("%s: %+v, before %+v", addr, s, before.Addrs[addr])
		}
	}
	// A claim is worth knowing however old it is, and says how old.
	if at := now.Claims[0].At; at.Before(stopped.Add(time.Second)) || time.Since(at) < 900*time.Millisecond {
		t.Errorf("stopped at %s, claimed at %s", stopped, at)
	}
	l.answered("eth0", vip, nodeMAC)
	l.answered("eth0", vip6, nodeMAC)
}

func TestClaimsOfOthersAreHeard(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.usable()
	stranger, node := arp.MAC{2, 0, 0, 0, 0, 0x55}, arp.MAC{2, 0, 0, 0, 0, 1}
	l.apply(lb.L2{vip: {Tell: lb.TellNever}, vip6: {Tell: lb.TellNever}, other: {Role: lb.Yield}})
	client := l.station("client")
	var harmless, claims [][]byte
	for _, p := range []arp.Packet{
		arp.Gratuitous(vip, node)[0], arp.Gratuitous(other, stranger)[0], arp.Probe(vip, stranger), arp.Gratuitous(other.Next(), stranger)[0],
	} {
		p.Src = stranger
		harmless = append(harmless, p.Append(nil))
	}
	question := arp.Packet{Dst: arp.Broadcast(), Src: stranger, Op: arp.Request, SenderMAC: stranger, SenderAddr: vip, TargetAddr: other}
	for range 20 {
		claims = append(claims, question.Append(nil), ndp.Unsolicited(vip6, stranger).Append(nil))
	}
	l.hears(client, order{Link: "eth0", Send: append(harmless, claims...)})
	var got []layer2.Claim
	l.until("two claims", func() (string, bool) {
		got = l.send(command{}).Claims
		return fmt.Sprint(got), len(got) >= 2
	})
	seen := map[netip.Addr]int{}
	for _, c := range got {
		seen[c.Addr]++
		if c.MAC != stranger || c.Link != "eth0" || time.Since(c.At) > 10*time.Second || c.At.After(time.Now()) {
			t.Errorf("claim %+v", c)
		}
	}
	if len(seen) != 2 || seen[vip] == 0 || seen[vip6] == 0 || len(got) > 20 {
		t.Errorf("claims: %v", got)
	}
	for _, addr := range []netip.Addr{vip, vip6} {
		l.stale(addr)
		if !l.send(command{Reassert: addr}).Reasserted || l.send(command{Reassert: addr}).Reasserted {
			t.Errorf("%s is not reasserted, or twice", addr)
		}
		l.corrected(addr, nodeMAC)
	}
	if l.send(command{Reassert: other}).Reasserted {
		t.Error("reasserted what is yielded")
	}
}
