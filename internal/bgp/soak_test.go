package bgp_test

import (
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// TestSoak has 5,000 Services come and go at once, and then one 20 times a second, for
// BARELB_SOAK or 20 s. The router's session is the same after it, and the speaker no larger.
func TestSoak(t *testing.T) {
	t.Parallel()
	const every = 50 * time.Millisecond
	long := 20 * time.Second
	if text := os.Getenv("BARELB_SOAK"); text != "" {
		var err error
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range routersOf(64513, router4, node4) {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			show := r.start(l)
			// since is what changes in the router when the session does.
			since := func() string {
				if r.name == "FRR" {
					_, after, _ := strings.Cut(show("show bgp neighbors "+node4), "Connections established ")
					line, _, _ := strings.Cut(after, "\n")
					return line
				}
				fields := strings.Fields(show("show protocols n")) // …, name, protocol, table, state, since, info
				return strings.Join(fields[max(0, len(fields)-3):], " ")
			}
			n := startNode(t, l.node)
			base := lb.Session{Peer: peer(router4, 64513, lb.IPv4, lb.IPv6), Routes: routes(attrs(), vip4, vip6)}
			n.apply(base)
			n.up("r")
			l.fib(5*time.Second, true, vip4, vip6)
			session := since()
			if !strings.Contains(session, map[string]string{"FRR": "1; dropped 0", "BIRD": "Established"}[r.name]) {
				t.Fatalf("the router says %q", session)
			}
			crowd := lb.Session{Peer: base.Peer, Routes: many(5000, lb.IPv4, attrs())}
			last := slices.MaxFunc(slices.Collect(maps.Keys(crowd.Routes)), netip.Prefix.Compare).String()
			for range 2 { // what the first time needs stays
				n.apply(crowd)
				l.fib(30*time.Second, true, last)
				n.apply(base)
				l.fib(30*time.Second, false, last)
			}
			heap := n.command(order{Tidy: true}).Heap
			rss, goroutines := n.rss("VmRSS"), n.apply(base).Goroutines
			began, changes := time.Now(), 0
			tick := time.NewTicker(every)
			defer tick.Stop()
			for time.Since(began) < long {
				<-tick.C
				changes++
				want := lb.Session{Peer: base.Peer, Routes: routes(attrs(), vip4, vip6)}
				if changes%2 == 1 {
					want.Routes[netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, 0, byte(changes / 2)}), 32)] = attrs()
				}
				n.apply(want)
			}
			took := time.Since(began)
			n.apply(crowd)
			l.fib(30*time.Second, true, last)
			n.apply(base)
			l.fib(30*time.Second, false, last)
			heapNow := n.command(order{Tidy: true}).Heap
			now, there := n.rss("VmRSS"), n.apply(base).Goroutines
			t.Logf("%d changes in %s; heap %.1f MB, and %.1f MB before; RSS %.1f MB, and %.1f MB before; %d goroutines, and %d before; the router says %q",
				changes, took.Round(time.Second), heapNow, heap, now, rss, there, goroutines, since())
			if got := since(); got != session {
				t.Errorf("the router says %q of the session, and before %q", got, session)
			}
			// What the system counts goes up and down by megabytes under the race detector.
			if heapNow > heap+1 || there > goroutines || !raceEnabled && now > rss+4 {
				t.Error("the speaker has grown")
			}
			if got := n.states("r"); strings.Count(got, "Established") != 1 {
				t.Errorf("states %s", got)
			}
		})
	}
}
