package bgp_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

// BenchmarkMemory reports what sessions and their routes cost
// (docs/adr/0003-embedded-gobgp.md). One round tells all: -benchtime 1x.
func BenchmarkMemory(b *testing.B) {
	for _, prefixes := range []int{0, 10_000} {
		for _, sessions := range []int{0, 1, 2, 4} {
			b.Run(fmt.Sprintf("sessions=%d/routes=%d", sessions, prefixes), func(b *testing.B) {
				benchmarkMemory(b, sessions, prefixes)
			})
		}
	}
}

func benchmarkMemory(b *testing.B, sessions, prefixes int) {
	b.Helper()
	all := make(map[netip.Prefix]lb.Attrs, prefixes)
	for i := range prefixes {
		all[netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)] = attrs()
	}
	l := newLab(b)
	config := "router id 10.9.0.99;\nprotocol device {}\n"
	var want []lb.Session
	for i := range sessions {
		addr := fmt.Sprintf("10.9.0.%d", 10+i)
		l.ip("-n", l.node, "addr", "add", addr+"/24", "dev", "eth0")
		config += fmt.Sprintf("protocol bgp n%d { local 10.9.0.2 as 64513; neighbor %s as 64512; passive yes;"+
			" ipv4 { import all; export none; }; }\n", i, addr)
		p := peer(router4, 64513, lb.IPv4)
		p.Name, p.SourceAddr = fmt.Sprintf("r%d", i), netip.MustParseAddr(addr)
		want = append(want, lb.Session{Peer: p, Routes: all})
	}
	show := l.startBird(config)
	for b.Loop() {
		n := startNode(b, l.node)
		began := time.Now()
		n.apply(want...)
		for _, w := range want {
			n.up(w.Peer.Name)
		}
		up := time.Now()
		eventually(b, 30*time.Second, func() string {
			out := show("show route count")
			if sessions > 0 && !strings.Contains(out, fmt.Sprintf("%d of %d routes", sessions*prefixes, sessions*prefixes)) {
				return out
			}
			return ""
		})
		b.ReportMetric(up.Sub(began).Seconds(), "s-up")
		b.ReportMetric(time.Since(up).Seconds(), "s-routes")
		b.ReportMetric(n.rss("VmHWM"), "MB-peak")
		n.command(order{Tidy: true})
		b.ReportMetric(n.rss("VmRSS"), "MB-tidy")
	}
}

// rss returns a line of the process's memory statistics, in MiB.
func (n *node) rss(line string) float64 {
	n.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	m := regexp.MustCompile(line + `:\s+(\d+) kB`).FindSubmatch(text)
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		n.t.Fatal(err)
	}
	return float64(kb) / 1024
}

// BenchmarkUpdate reports how long it takes from Apply to the UPDATE of one more route
// on the wire, with 5,000 others (-benchtime 1000x).
func BenchmarkUpdate(b *testing.B) {
	h := newHostile(b) // it only listens
	speaker := bgp.New(bgp.Config{})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- speaker.Run(ctx) }()
	p := peer("127.0.0.1", 64513, lb.IPv4)
	p.Port, p.MultiHop = h.port(), true
	with := many(5000, lb.IPv4, attrs())
	without := maps.Clone(with)
	with[netip.MustParsePrefix(vip4)] = attrs()
	if err := speaker.Apply(ctx, lb.BGP{{Peer: p, Routes: without}}); err != nil {
		b.Fatal(err)
	}
	h.establish()
	update := func() {
		for kind := bgpmsg.Type(0); kind != bgpmsg.TypeUpdate; {
			kind, _ = h.read()
		}
	}
	for range 8 { // 7 and End-of-RIB
		update()
	}
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		routes := with
		if i%2 == 1 {
			routes = without
		}
		began := time.Now()
		if err := speaker.Apply(ctx, lb.BGP{{Peer: p, Routes: routes}}); err != nil {
			b.Fatal(err)
		}
		update()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "us-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "us-p99")
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
