package layer2_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/ndp"
)

// The benchmarks of this file measure from kernel to kernel, in namespaces:
//
//	go test -run '^$' -bench KernelToKernel -benchtime 1x ./internal/layer2

func many(first string, n int) []netip.Addr {
	out := make([]netip.Addr, 0, n)
	for addr := netip.MustParseAddr(first); len(out) < n; addr = addr.Next() {
		out = append(out, addr)
	}
	return out
}

func announced(addrs []netip.Addr, how lb.Tell) lb.L2 {
	want := make(lb.L2, len(addrs))
	for _, addr := range addrs {
		want[addr] = lb.L2Announcement{Links: []string{"eth0"}, Tell: how}
	}
	return want
}

// linksKnown waits until the Announcer knows the node's links.
func (l *lab) linksKnown() {
	l.Helper()
	l.until("links are known", func() (string, bool) {
		s := l.apply(lb.L2{})
		return fmt.Sprint(s.Links), s.Links["eth0"] == links.Usable
	})
}

// groupsJoined waits until the kernel has the groups of addrs, all different.
func (l *lab) groupsJoined(addrs []netip.Addr) {
	l.Helper()
	if addrs[0].Is4() {
		return
	}
	l.until("groups are joined", func() (string, bool) {
		got := strings.Count(l.exec("node", "cat", "/proc/net/igmp6"), " eth0 ")
		return fmt.Sprint(got), got >= len(addrs)
	})
}

// BenchmarkAnswerKernelToKernel asks 10,000 times, 1,000 times a second, for one of
// 10,000 addresses. An answer took from before the request was handed to the asker's
// kernel to when that had the answer; host is by how much the asker was woken too late.
// (For each multicast packet of IPv6 the kernel looks through all groups of the link.)
func BenchmarkAnswerKernelToKernel(b *testing.B) {
	const vips, rate, asked = 10_000, 1_000, 10_000
	for _, bb := range []struct{ name, first string }{{"ARP", "10.0.0.1"}, {"NDP", "2001:db8::1:0"}} {
		b.Run(bb.name, func(b *testing.B) {
			l := newLab(b)
			l.linksKnown()
			addrs := many(bb.first, vips)
			l.apply(announced(addrs, lb.TellSlowly)) // the burst is another measurement
			l.answered("eth0", addrs[vips-1], nodeMAC)
			l.groupsJoined(addrs)
			client := l.station("client")
			for b.Loop() {
				l.hears(client, order{})
				n := l.hears(client, order{Link: "eth0", Ask: addrs, Count: asked, Every: time.Second / rate})
				if len(n.Took) < asked {
					b.Errorf("%d of %d are not answered", asked-len(n.Took), asked)
				}
				report(b, "", n.Took)
				report(b, "host-", n.Late)
			}
		})
	}
}

// report tells of a distribution.
func report(b *testing.B, what string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	for _, part := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		if n := len(took); n > 0 {
			d := took[min(n-1, int(part.of*float64(n)))]
			b.ReportMetric(float64(d.Nanoseconds())/1000, what+part.name+"-µs")
		}
	}
}

// BenchmarkTakeoverKernelToKernel hands 1,000 new addresses to the Announcer, which has
// 9,000 already, and measures from the call of Apply to when the client's kernel had the first
// announcement of the last one.
func BenchmarkTakeoverKernelToKernel(b *testing.B) {
	const before, taken = 9_000, 1_000
	for _, bb := range []struct{ name, first string }{{"ARP", "10.0.0.1"}, {"NDP", "2001:db8::1:0"}} {
		b.Run(bb.name, func(b *testing.B) {
			l := newLab(b)
			l.linksKnown()
			addrs := many(bb.first, before+taken)
			client := l.station("client")
			var took []time.Duration
			for b.Loop() {
				old := announced(addrs[:before], lb.TellAtOnce)
				l.apply(old)
				l.until("all old ones are told", func() (string, bool) {
					told := 0
					for _, a := range l.send(command{}).Addrs {
						if a.GratuitousSent > 0 {
							told++
						}
					}
					return fmt.Sprint(told), told == before
				})
				l.groupsJoined(addrs[:before])
				for _, addr := range addrs[before:] {
					old[addr] = lb.L2Announcement{Links: []string{"eth0"}}
				}
				l.hears(client, order{})
				began := l.apply(old).Began
				took = append(took, l.firstRound(client, addrs[before:]).Sub(began))
				l.apply(lb.L2{})
			}
			report(b, "", took)
		})
	}
}

// firstRound waits until all of addrs have been announced to a station, and returns when
// the last of them first was. It tells if some had been announced twice by then: either
// the station has missed a frame, or rounds are mixed up.
func (l *lab) firstRound(c *child, addrs []netip.Addr) time.Time {
	l.Helper()
	first := map[netip.Addr]time.Time{}
	rounds := map[netip.Addr][]time.Time{}
	var last time.Time
	l.until("all are announced", func() (string, bool) {
		for _, f := range l.hears(c, order{}).Heard {
			addr := gratuitous(f.Bytes)
			if _, ok := slices.BinarySearchFunc(addrs, addr, netip.Addr.Compare); !ok {
				continue
			}
			rounds[addr] = append(rounds[addr], f.At)
			if _, ok := first[addr]; !ok {
				first[addr] = f.At
				if f.At.After(last) {
					last = f.At
				}
			}
		}
		return fmt.Sprintf("%d of %d", len(first), len(addrs)), len(first) == len(addrs)
	})
	for addr, at := range rounds {
		if len(at) > 1 && at[1].Before(last) {
			l.Logf("%s was heard again %s before the last address for the first time", addr, last.Sub(at[1]))
			break
		}
	}
	return last
}

// gratuitous returns the address that a frame announces unasked, by ARP in its second
// frame, the reply.
func gratuitous(b []byte) netip.Addr {
	if p, err := arp.Parse(b); err == nil && p.Op == arp.Reply && p.SenderAddr == p.TargetAddr {
		return p.SenderAddr
	}
	if a, err := ndp.ParseAdvertisement(b); err == nil && !a.Solicited {
		return a.Target
	}
	return netip.Addr{}
}
