package speaker_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/speaker"
)

// drain is the drain time of these stories.
func drain(_ *world, d *speaker.Deps) { d.Drain = 10 * time.Second }

// serveOnTwo has a Service with an address and two nodes, before anything is known of
// who lives.
func (w *world) serveOnTwo(addr string) {
	w.configure(usual)
	w.nodes("node1", "node2")
	w.service("a", addr, "node1", "node2")
	w.view = &liveness.View{}
	w.everythingRead()
}

// seeing changes what is known of the nodes that tell of themselves: all that are named.
func (w *world) seeing(title string, nodes map[string]liveness.Node) {
	w.say("# %s", title)
	w.view = &liveness.View{Nodes: nodes}
	w.aliveChanged <- struct{}{}
	synctest.Wait()
}

// claimed changes who claims an address.
func (w *world) claimed(title, addr string, by ...liveness.Claimant) {
	w.say("# %s", title)
	w.claims = map[netip.Addr][]liveness.Claimant{netip.MustParseAddr(addr): by}
	w.aliveChanged <- struct{}{}
	synctest.Wait()
}

// wait lets time pass.
func (w *world) wait(d time.Duration) {
	w.say("# %s later", d)
	time.Sleep(d) // in the bubble
	synctest.Wait()
}

// well is a node that serves, on one link.
func well(name string, host byte) liveness.Node {
	return liveness.Node{Member: true, Facts: &liveness.Facts{Node: name, Version: 1, Phase: liveness.Serving, Links: []liveness.Link{{
		Name: "eth0", MAC: [6]byte{2, 0, 0, 0, 0, host}, Carrier: true, IPv4: true,
		Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 24)},
	}}}}
}

// TestPlannedMoves is the life of an address that node2 owns while it can: node1 is
// its caretaker, its owner, and gives it back.
func TestPlannedMoves(t *testing.T) {
	story(t, true, func(w *world) {
		w.serveOnTwo("192.0.2.1") // node2 ranks first
		two := map[string]liveness.Node{"node1": well("node1", 11), "node2": well("node2", 12)}
		w.seeing("both are there", two)
		w.claimed("node2 owns it", "192.0.2.1", liveness.Claimant{Node: "node2", Term: 1})
		down := well("node2", 12)
		down.SpeakerDown = true
		w.seeing("the speaker of node2 is down", map[string]liveness.Node{"node1": well("node1", 11), "node2": down})
		w.seeing("it is back", two)
		down.Gone = true
		w.seeing("it is gone for long", map[string]liveness.Node{"node1": well("node1", 11), "node2": down})
		w.wait(10 * time.Second)
		w.seeing("it is back", two)
		w.claimed("node2 owns it", "192.0.2.1", liveness.Claimant{Node: "node2", Term: 3})
		w.wait(10 * time.Second)
		dead := well("node2", 12)
		dead.Dead = map[liveness.Segment]bool{netip.MustParsePrefix("192.0.2.0/24"): true}
		w.seeing("node2 is dead", map[string]liveness.Node{"node1": well("node1", 11), "node2": dead})
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.1/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# both are there
			apply phase: serving
			# node2 owns it
			# the speaker of node2 is down
			apply layer2: 192.0.2.1 (caretaker, map[eth0:[2 0 0 0 0 12]])
			# it is back
			apply layer2: nothing
			# it is gone for long
			apply layer2: 192.0.2.1 (quietly)
			claims 192.0.2.1, term 2
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			# 10s later
			apply layer2: 192.0.2.1
			# it is back
			# node2 owns it
			apply layer2: 192.0.2.1 (yields)
			claims 192.0.2.1 no more
			# 10s later
			apply layer2: nothing
			# node2 is dead
			apply layer2: 192.0.2.1
			claims 192.0.2.1, term 4
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
		`)
	}, drain)
}

func TestRestart(t *testing.T) {
	story(t, true, func(w *world) {
		w.serveOnTwo("192.0.2.2")                                             // node1 ranks first
		w.former = map[netip.Addr]uint32{netip.MustParseAddr("192.0.2.2"): 4} // as the others remember
		w.seeing("both are there", map[string]liveness.Node{"node1": well("node1", 11), "node2": well("node2", 12)})
		w.under.Restart(w.t.Context())
		synctest.Wait()
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.2/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# both are there
			apply layer2: 192.0.2.2 (resumes)
			claims 192.0.2.2, term 4
			apply phase: serving
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			apply phase: restarting
			told: node2
		`)
	}, drain)
}

// TestAllRestarted: node2 ranks first, but by the API server node1 owned the address before
// all speakers were restarted, and it stays.
func TestAllRestarted(t *testing.T) {
	for name, tt := range map[string]struct {
		failback string
		owned    []lb.Key
		err      error
		claim    uint32 // of node2, meanwhile
		asked    int
		want     string // what node1 answers for
	}{
		"it is known":              {"Never", []lb.Key{key("b"), key("a")}, nil, 0, 1, "192.0.2.1"},
		"another has it meanwhile": {"Never", []lb.Key{key("a")}, nil, 1, 1, "192.0.2.1"},
		"others had it meanwhile":  {"Never", []lb.Key{key("a")}, nil, 4, 1, "192.0.2.1"},
		"it owned another":         {"Never", []lb.Key{key("b")}, nil, 0, 1, ""},
		"nobody knows":             {"Never", nil, errors.New("no API server"), 0, 1, ""},
		"it does not mind":         {"Immediate", []lb.Key{key("a")}, nil, 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			story(t, true, func(w *world) {
				w.configure(usual)
				w.configure(func(o *config.Objects) { o.L2[0].Failback = tt.failback })
				w.nodes("node1", "node2")
				w.service("a", "192.0.2.1", "node1", "node2")
				w.view = &liveness.View{}
				w.everythingRead()
				if tt.claim > 0 {
					w.claims = map[netip.Addr][]liveness.Claimant{netip.MustParseAddr("192.0.2.1"): {{Node: "node2", Term: tt.claim}}}
				}
				w.seeing("both are there", map[string]liveness.Node{"node1": well("node1", 11), "node2": well("node2", 12)})
				if got, _, _ := strings.Cut(w.applied["layer2"], " "); got != tt.want {
					t.Errorf("node1 answers for %q, want %q", got, tt.want)
				}
			}, drain, func(_ *world, d *speaker.Deps) {
				d.Owned = func(context.Context) ([]lb.Key, error) { asked++; return tt.owned, tt.err }
			})
			if asked != tt.asked {
				t.Errorf("the API server was asked %d times, want %d", asked, tt.asked)
			}
		})
	}
}

func TestLeave(t *testing.T) {
	story(t, true, func(w *world) {
		w.serveOnTwo("192.0.2.2")
		w.seeing("both are there", map[string]liveness.Node{"node1": well("node1", 11), "node2": well("node2", 12)})
		began, done := time.Now(), make(chan struct{})
		go func() {
			defer close(done)
			w.under.Leave(w.t.Context(), "the DaemonSet is being deleted")
		}()
		synctest.Wait()
		w.claimed("node2 takes it", "192.0.2.2", liveness.Claimant{Node: "node2", Term: 2})
		<-done
		w.say("# it may end after %s", time.Since(began))
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.2/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# both are there
			apply layer2: 192.0.2.2
			claims 192.0.2.2, term 1
			apply phase: serving
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			apply phase: leaving
			# node2 takes it
			apply layer2: 192.0.2.2 (yields)
			claims 192.0.2.2 no more
			apply layer2: nothing
			# it may end after 10s
		`)
	}, drain)
}

// TestForeignClaim is about hosts that say they have an address of this node.
func TestForeignClaim(t *testing.T) {
	story(t, true, func(w *world) {
		w.serveOnTwo("192.0.2.2")
		w.seeing("both are there", map[string]liveness.Node{"node1": well("node1", 11), "node2": well("node2", 12)})
		hear := func(title, addr string, mac byte) {
			w.say("# %s", title)
			w.under.Claimed(netip.MustParseAddr(addr), [6]byte{2, 0, 0, 0, 0, mac}, "eth0")
			synctest.Wait()
		}
		hear("node2 says that it has it", "192.0.2.2", 12)
		hear("a stranger does", "192.0.2.2", 99)
		hear("and again", "192.0.2.2", 99)
		hear("of another address", "192.0.2.9", 99)
		w.wait(10 * time.Second)
		hear("and later", "192.0.2.2", 99)
		hear("so does a node whose speaker is not heard", "192.0.2.2", 77)
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.2/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# both are there
			apply layer2: 192.0.2.2
			claims 192.0.2.2, term 1
			apply phase: serving
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			# node2 says that it has it
			# a stranger does
			reassert 192.0.2.2
			event on a: 192.0.2.2 is claimed by 02:00:00:00:00:63 on eth0 of node1
			# and again
			reassert 192.0.2.2
			event on a: 192.0.2.2 is claimed by 02:00:00:00:00:63 on eth0 of node1
			# of another address
			# 10s later
			# and later
			reassert 192.0.2.2
			event on a: 192.0.2.2 is claimed by 02:00:00:00:00:63 on eth0 of node1
			# so does a node whose speaker is not heard
			reassert 192.0.2.2
			event on a: 192.0.2.2 is claimed by 02:00:00:00:00:4d on eth0 of node1: node2
		`)
	}, drain, func(w *world, d *speaker.Deps) {
		d.Reassert = func(a netip.Addr) { w.say("reassert %s", a) }
		d.Neighbours = func(mac [6]byte) []netip.Addr {
			if mac[5] != 77 {
				return nil
			}
			return []netip.Addr{netip.MustParseAddr("fe80::77"), netip.MustParseAddr("192.0.2.102")}
		}
	})
}

// TestAnnouncedNowhere names links in the L2Advertisement that no node has: what owns the
// address says so, once for each time that it begins.
func TestAnnouncedNowhere(t *testing.T) {
	story(t, true, func(w *world) {
		on := func(links ...string) func(o *config.Objects) {
			return func(o *config.Objects) { o.L2 = []config.L2Advertisement{{Meta: meta("l2"), Interfaces: links}} }
		}
		w.configure(usual)
		w.configure(func(o *config.Objects) { o.BGP = nil })
		w.configure(on("foo"))
		w.nodes("node1")
		w.service("a", "192.0.2.1", "node1")
		w.view = &liveness.View{}
		w.everythingRead()
		w.seeing("node1 knows its links", map[string]liveness.Node{"node1": well("node1", 11)})
		w.step("another that is not there", func() { w.configure(on("bar", "foo")) })
		w.step("one that is there", func() { w.configure(on("eth0", "foo")) })
		w.step("gone again", func() { w.configure(on("foo")) })
		w.step("all", func() { w.configure(on()) })
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router:
			configuration stale: false
			state: 0 problems
			# node1 knows its links
			apply layer2: 192.0.2.1
			claims 192.0.2.1, term 1
			apply phase: serving
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on a: announceFailed: the interfaces that its L2Advertisements name (foo) do not exist on node "node1", which announces it with protocol "layer2", or cannot carry announcements
			# another that is not there
			# one that is there
			# gone again
			event on a: announceFailed: the interfaces that its L2Advertisements name (foo) do not exist on node "node1", which announces it with protocol "layer2", or cannot carry announcements
			# all
		`)
	})
}
