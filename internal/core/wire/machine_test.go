package wire_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
)

// RFC 5227 §2.1.1: PROBE_NUM probes, PROBE_MIN to PROBE_MAX apart, after a random wait.
func TestFreeAddress(t *testing.T) {
	b := newBench(t)
	b.set([]wire.Target{target(addr, lb.WireConflict{})})
	b.run(time.Minute)
	b.check(`
		0.5s ask for 192.0.2.200
		2.0s ask for 192.0.2.200
		3.5s ask for 192.0.2.200
	`)
	b.run(75 * time.Second) // one probe is enough from now on, a minute after the round before
	b.check(`
		66.5s ask for 192.0.2.200
		129.5s ask for 192.0.2.200
	`)
	b.stations[addr] = hostMAC // in silence
	b.run(65 * time.Second)
	b.check(`
		192.5s ask for 192.0.2.200
		194.0s ask for 192.0.2.200
		194.0s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0
	`)
}

func TestConflictAppearsAndEnds(t *testing.T) {
	b := newBench(t)
	b.stations[addr] = hostMAC
	b.set([]wire.Target{target(addr, lb.WireConflict{})})
	b.run(time.Minute + 10*time.Second)
	b.check(`
		0.5s ask for 192.0.2.200
		2.0s ask for 192.0.2.200
		2.0s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0
		62.0s ask for 192.0.2.200
	`)
	b.set([]wire.Target{target(addr, reported(addr, "node1"))}) // that is written now
	delete(b.stations, addr)
	b.run(time.Minute)
	b.check(`
		122.0s ask for 192.0.2.200
		123.5s ask for 192.0.2.200
		125.0s ask for 192.0.2.200
		127.0s report: nothing
	`)
}

// An owner that is told to withdraw may answer once more.
func TestOneAnswerIsNoConflict(t *testing.T) {
	b := newBench(t)
	b.stations[addr] = hostMAC
	b.set([]wire.Target{target(addr, lb.WireConflict{})})
	b.run(time.Second)
	b.hear(addr, hostMAC) // the same answer again
	delete(b.stations, addr)
	b.run(9 * time.Second)
	b.check(`
		0.5s ask for 192.0.2.200
		2.0s ask for 192.0.2.200
		3.5s ask for 192.0.2.200
		5.0s ask for 192.0.2.200
	`)
}

func TestAnnouncementIsLookedInto(t *testing.T) {
	b := newBench(t)
	b.set([]wire.Target{target(addr, lb.WireConflict{})})
	b.run(time.Minute)
	b.lines = nil
	b.stations[addr] = hostMAC
	b.hear(addr, hostMAC) // gratuitous ARP
	b.run(5 * time.Second)
	b.check(`
		61.5s ask for 192.0.2.200
		61.5s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0
	`)
}

func TestWhoDoesNotCount(t *testing.T) {
	peer := wire.Peer{Node: "node2", Addr: node2, Link: eth0}
	none := []wire.Target{target(addr, lb.WireConflict{})}
	tests := []struct {
		name string
		do   func(b *bench)
		want string
	}{
		{"this node", func(b *bench) {
			b.stations[addr] = ownMAC
			b.set(none)
			b.run(10 * time.Second)
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			3.5s ask for 192.0.2.200`},
		{"another node, which is asked", func(b *bench) {
			b.stations[addr], b.stations[node2] = node2MAC, node2MAC
			b.set(none, peer)
			b.run(10 * time.Second)
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			2.2s ask for 192.0.2.102`},
		{"another node, which is known", func(b *bench) {
			b.stations[addr] = node2MAC
			b.set(none, peer)
			b.hear(node2, node2MAC)
			b.run(10 * time.Second)
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			3.5s ask for 192.0.2.200`},
		{"a node that was removed a moment ago", func(b *bench) {
			b.stations[addr] = node2MAC
			b.set(none, peer)
			b.hear(node2, node2MAC)
			b.set(none)
			b.run(10 * time.Second)
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			3.5s ask for 192.0.2.200`},
		{"a node that was removed long ago does", func(b *bench) {
			b.stations[addr] = node2MAC
			b.set(nil, peer)
			b.hear(node2, node2MAC)
			b.set(nil)
			b.run(10 * time.Minute)
			b.set(none)
			b.run(10 * time.Second)
		}, `
			600.5s ask for 192.0.2.200
			602.0s ask for 192.0.2.200
			602.0s report: 192.0.2.200 in use by 02:00:00:00:00:02 on eth0`},
		{"a node's MAC before it got another network card", func(b *bench) {
			b.stations[addr] = node2MAC
			b.set(none, peer)
			b.hear(node2, node2MAC)
			b.hear(node2, wire.MAC{2, 0, 0, 0, 0, 0x22})
			b.run(10 * time.Second)
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			3.5s ask for 192.0.2.200`},
		{"a stranger beside a node that does not answer does", func(b *bench) {
			b.stations[addr] = hostMAC
			b.set(none, peer)
			b.run(10 * time.Second)
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			2.2s ask for 192.0.2.102
			3.2s ask for 192.0.2.102
			4.2s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0`},
		{"somebody on another link", func(b *bench) {
			b.set(none)
			for range 3 {
				b.m.Hear(wire.Claim{Addr: addr, MAC: hostMAC, Link: eth0 + 1}, b.now)
				b.run(4 * time.Second)
			}
		}, `
			0.5s ask for 192.0.2.200
			2.0s ask for 192.0.2.200
			3.5s ask for 192.0.2.200`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			tt.do(b)
			b.check(tt.want)
		})
	}
}

// What was reported before stays until it is found to be over: by this node before it
// was started again, or by one that is gone.
func TestReportedConflicts(t *testing.T) {
	for _, by := range []string{"node1", "node2"} {
		b := newBench(t)
		b.set([]wire.Target{target(addr, reported(addr, by))})
		b.stations[addr] = hostMAC
		b.run(time.Minute)
		b.check(`
			0.0s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0
			30.0s ask for 192.0.2.200
		`)
		delete(b.stations, addr)
		b.run(time.Minute)
		over := "nothing"
		if by != "node1" {
			over = "192.0.2.200 over"
		}
		b.check(`
			90.0s ask for 192.0.2.200
			91.5s ask for 192.0.2.200
			93.0s ask for 192.0.2.200
			95.0s report: ` + over)
	}
}

// That a conflict is over is said of what was reported then, not of what somebody
// reports afterwards.
func TestConflictThatIsReportedAgain(t *testing.T) {
	b := newBench(t)
	b.set([]wire.Target{target(addr, reported(addr, "node2"))})
	b.run(time.Minute)
	b.set([]wire.Target{target(addr, lb.WireConflict{})})
	b.lines = nil
	b.set([]wire.Target{target(addr, reported(addr, "node2"))})
	b.check(`60.0s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0`)
}

func TestConflictOutlivesItsLinkForAWhile(t *testing.T) {
	b := newBench(t)
	b.stations[addr] = hostMAC
	mine := target(addr, reported(addr, "node1"))
	away := mine
	away.Link = 0
	b.set([]wire.Target{mine})
	b.run(10 * time.Second)
	b.set([]wire.Target{away})
	b.run(9 * time.Minute)
	b.set([]wire.Target{mine})
	b.run(10 * time.Second)
	b.check(`
		0.0s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0
		550.5s ask for 192.0.2.200
	`)
	b.set([]wire.Target{away})
	b.run(5 * time.Minute)
	b.set([]wire.Target{away})
	b.run(6 * time.Minute)
	b.check(`1160.0s report: nothing`)
}

func TestUnsentProbesProveNothing(t *testing.T) {
	b := newBench(t)
	b.set([]wire.Target{target(addr, reported(addr, "node1"))})
	asks := 0
	for end := b.now.Add(time.Hour); b.now.Before(end); {
		if a, ok := b.m.Step(b.now); ok {
			asks++
			b.m.Unsent(a, b.now)
			continue
		}
		b.now, _ = b.m.Deadline(b.now)
	}
	b.report()
	if asks < 1000 {
		t.Errorf("tried %d times in an hour, want every 2 seconds", asks)
	}
	b.check(`0.0s report: 192.0.2.200 in use by 02:00:00:00:00:09 on eth0`)
}

func TestTargetsThatGoAreForgotten(t *testing.T) {
	b := newBench(t)
	b.stations[addr] = hostMAC
	b.set([]wire.Target{target(addr, lb.WireConflict{})})
	b.run(10 * time.Second)
	b.lines = nil
	b.set(nil)
	b.run(10 * time.Minute)
	b.check(`10.0s report: nothing`)
}

// Whatever is wanted, heard and lost: there are at most five packets a second, and a
// report names nothing but what answers.
func TestPacketsAreBounded(t *testing.T) {
	const seed = 5
	rng := rand.New(rand.NewPCG(seed, seed))
	b := newBench(t)
	b.m = wire.NewMachine("node1", func(limit time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(limit))) })
	var peers []wire.Peer
	a := netip.MustParseAddr("10.0.0.0")
	for i := range 50 {
		a = a.Next()
		peers = append(peers, wire.Peer{Node: fmt.Sprint(i), Addr: a, Link: eth0})
		if i%3 != 0 {
			b.stations[a] = wire.MAC{2, 1, 0, 0, 0, byte(i)}
		}
	}
	var targets []wire.Target
	busy := map[netip.Addr]bool{}
	for i := range 400 {
		a = a.Next()
		targets = append(targets, target(a, lb.WireConflict{}))
		if i%4 == 0 {
			busy[a] = true
			b.stations[a] = wire.MAC{2, 2, 0, 0, byte(i >> 8), byte(i)}
		}
	}
	once := rng.Perm(len(targets)) // who claims an address a single time
	for range 60 {
		n := rng.IntN(len(targets))
		b.set(slices.Concat(targets[:n], targets[n:][:rng.IntN(len(targets)-n)]), peers...)
		for range rng.IntN(7) {
			at := once[0]
			once = once[1:]
			b.hear(targets[at].Addr, wire.MAC{2, 3, 0, 0, 0, byte(rng.IntN(3))})
		}
		b.run(time.Duration(rng.IntN(40)) * time.Second)
		for _, c := range b.m.Report().InUse {
			if !busy[c.Addr] {
				t.Fatalf("seed %d: %s is reported, but nobody answers for it", seed, c.Addr)
			}
		}
	}
	b.set(targets, peers...)
	b.run(10 * time.Minute)
	if got := len(b.m.Report().InUse); got != len(busy) {
		t.Errorf("seed %d: %d reported, want %d", seed, got, len(busy))
	}
	for i := range b.sent {
		if i >= 5 && b.sent[i].Sub(b.sent[i-5]) < time.Second {
			t.Fatalf("seed %d: six packets between %s and %s", seed, b.sent[i-5], b.sent[i])
		}
	}
	if len(b.sent) < 1000 {
		t.Errorf("seed %d: only %d packets: nothing was tried", seed, len(b.sent))
	}
	perMinute := map[int]int{}
	for _, at := range b.sent {
		perMinute[int(at.Sub(b.start)/time.Minute)]++
	}
	t.Logf("%d packets, at most %d a minute", len(b.sent), slices.Max(slices.Collect(maps.Values(perMinute))))
}

// The load that is promised for one pool and family, of which all addresses are free.
func TestLoadOfOnePool(t *testing.T) {
	b := newBench(t)
	var targets []wire.Target
	for a := addr; len(targets) < 16; a = a.Next() {
		targets = append(targets, target(a, lb.WireConflict{}))
	}
	b.set(targets)
	b.run(10 * time.Minute)
	before := len(b.sent)
	b.run(time.Hour)
	if got, most := len(b.sent)-before, 16*60; got > most || got < most*9/10 {
		t.Errorf("%d packets in an hour, want about %d", got, most)
	}
}
