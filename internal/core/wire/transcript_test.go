package wire_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
)

var (
	addr     = netip.MustParseAddr("192.0.2.200")
	addr6    = netip.MustParseAddr("2001:db8::200")
	node2    = netip.MustParseAddr("192.0.2.102")
	ownMAC   = wire.MAC{2, 0, 0, 0, 0, 1}
	node2MAC = wire.MAC{2, 0, 0, 0, 0, 2}
	hostMAC  = wire.MAC{2, 0, 0, 0, 0, 9}
)

const (
	eth0 = 7
	host = "02:00:00:00:00:09"
)

// bench drives a Machine of node1 through time and writes down what happens. Stations
// answer at once what they are asked on eth0.
type bench struct {
	*testing.T
	m        *wire.Machine
	start    time.Time
	now      time.Time
	stations map[netip.Addr]wire.MAC
	said     string
	lines    []string
	sent     []time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	start := time.Unix(1_000_000, 0)
	return &bench{
		T: t, start: start, now: start, stations: map[netip.Addr]wire.MAC{}, said: "nothing",
		m: wire.NewMachine("node1", func(limit time.Duration) time.Duration { return limit / 2 }),
	}
}

// target is an address that is asked about on eth0.
func target(a netip.Addr, conflict lb.WireConflict) wire.Target {
	return wire.Target{Candidate: wire.Candidate{Addr: a, Pool: "p", Conflict: conflict}, Link: eth0, LinkName: "eth0"}
}

func reported(a netip.Addr, by string) lb.WireConflict {
	return lb.WireConflict{Addr: a, MAC: host, Node: by, Link: "eth0"}
}

func (b *bench) set(targets []wire.Target, peers ...wire.Peer) {
	b.m.Set(targets, peers, map[wire.MAC]bool{ownMAC: true}, b.now)
	b.report()
}

func (b *bench) say(format string, args ...any) {
	b.lines = append(b.lines, fmt.Sprintf("%6.1fs ", b.now.Sub(b.start).Seconds())+fmt.Sprintf(format, args...))
}

// report writes down what the Machine says if that is news.
func (b *bench) report() {
	r := b.m.Report()
	var parts []string
	for _, c := range r.InUse {
		parts = append(parts, fmt.Sprintf("%s in use by %s on %s", c.Addr, c.MAC, c.Link))
	}
	for _, a := range r.Over {
		parts = append(parts, fmt.Sprintf("%s over", a))
	}
	now := strings.Join(parts, ", ")
	if now == "" {
		now = "nothing"
	}
	if now != b.said {
		b.said = now
		b.say("report: %s", now)
	}
}

// run lets time pass.
func (b *bench) run(d time.Duration) {
	b.Helper()
	end := b.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 100_000 {
			b.Fatalf("no end at %s", b.now)
		}
		for {
			a, ok := b.m.Step(b.now)
			b.report()
			if !ok {
				break
			}
			b.say("ask for %s", a.Addr)
			b.sent = append(b.sent, b.now)
			if mac, ok := b.stations[a.Addr]; ok && a.Link == eth0 {
				b.hear(a.Addr, mac)
			}
		}
		at, ok := b.m.Deadline(b.now)
		if ok && !at.After(b.now) {
			b.Fatalf("at %s there is nothing to do, but the deadline is %s", b.now, at)
		}
		if !ok || at.After(end) {
			b.now = end
			return
		}
		b.now = at
	}
}

func (b *bench) hear(a netip.Addr, mac wire.MAC) {
	b.m.Hear(wire.Claim{Addr: a, MAC: mac, Link: eth0}, b.now)
	b.report()
}

func (b *bench) check(want string) {
	b.Helper()
	got := strings.Join(b.lines, "\n") + "\n"
	b.lines = nil
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(want)) {
		lines = append(lines, fmt.Sprintf("%7s", strings.Fields(line)[0])+" "+strings.Join(strings.Fields(line)[1:], " "))
	}
	if diff := cmp.Diff(strings.Join(lines, "\n")+"\n", got); diff != "" {
		b.Errorf("wrong transcript (-want +got):\n%s", diff)
	}
}
