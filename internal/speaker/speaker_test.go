package speaker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/speaker"
)

func TestNothingIsAppliedBeforeEverythingWasRead(t *testing.T) {
	story(t, false, func(w *world) {
		w.step("half of the world is known", func() {
			w.nodes("node1")
			w.configure(usual)
		})
		select {
		case <-w.under.Ready():
			t.Error("ready without a plan")
		default:
		}
		w.service("a", "192.0.2.1", "node1")
		w.everythingRead()
		select {
		case <-w.under.Ready():
		default:
			t.Error("not ready with a plan in force")
		}
		w.check(`
			# half of the world is known
			# everything was read
			apply layer2: 192.0.2.1
			apply bgp: router: 192.0.2.1/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
		`)
	})
}

func TestNothingIsSaidTwice(t *testing.T) {
	story(t, true, func(w *world) {
		w.nodes("node1")
		w.configure(usual)
		w.service("a", "192.0.2.1", "node1")
		w.everythingRead()
		w.living("node1")
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.1/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# alive: node1
			apply layer2: 192.0.2.1
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
		`)
		before := w.applies
		w.step("the same again", func() {
			w.nodes("node1")
			w.configure(usual)
			w.service("a", "192.0.2.1", "node1")
		})
		w.living("node1")
		w.step("nothing at all", func() {})
		w.check(`
			# the same again
			# alive: node1
			# nothing at all
		`)
		if w.applies != before+3 {
			t.Errorf("applied %d times, want once for each step: announcers find out themselves what changed", w.applies-before)
		}
	})
}

func TestMetricsAndEventsFollowTransitions(t *testing.T) {
	story(t, true, func(w *world) {
		w.nodes("node1", "node2")
		w.configure(usual)
		w.service("a", "192.0.2.1", "node1")
		w.everythingRead()
		w.living("node1")
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.1/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# alive: node1
			apply layer2: 192.0.2.1
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
		`)
		metrics := func(want string) {
			t.Helper()
			if diff := cmp.Diff(want, w.announced()); diff != "" {
				t.Errorf("metrics (-want +got):\n%s", diff)
			}
		}
		const bgp = "metallb_speaker_announced ip=192.0.2.1 node=node1 protocol=bgp service=default/a 1"
		metrics(bgp + "\nmetallb_speaker_announced ip=192.0.2.1 node=node1 protocol=layer2 service=default/a 1")
		why := func(want string) {
			t.Helper()
			if diff := cmp.Diff(want, w.why()); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
		}
		why("bgp Announced 1, layer2 Announced 1")
		w.living("node1", "node2")
		metrics(bgp)
		why("bgp Announced 1, layer2 NotOwner 1")
		w.living("node1")
		w.step("another address", func() { w.service("a", "192.0.2.2", "node1") })
		w.step("no endpoint", func() { w.service("a", "192.0.2.2") })
		metrics("")
		w.step("an endpoint", func() { w.service("a", "192.0.2.2", "node1") })
		w.step("deleted", func() { w.delta.Services[key("a")] = nil })
		metrics("")
		why("")
		w.check(`
			# alive: node1 node2
			apply layer2: nothing
			# alive: node1
			apply layer2: 192.0.2.1
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			# another address
			apply layer2: 192.0.2.2
			apply bgp: router: 192.0.2.2/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			# no endpoint
			apply layer2: nothing
			apply bgp: router:
			# an endpoint
			apply layer2: 192.0.2.2
			apply bgp: router: 192.0.2.2/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			# deleted
			apply layer2: nothing
			apply bgp: router:
		`)
	})
}

func TestBadConfigurationKeepsTheGoodOne(t *testing.T) {
	story(t, false, func(w *world) {
		w.nodes("node1")
		w.configure(usual)
		w.service("a", "192.0.2.1", "node1")
		w.everythingRead()
		w.step("typing errors", func() {
			w.configure(func(o *config.Objects) {
				usual(o)
				o.Pools[0].Addresses = []string{"192.0.2.0/33"}
				o.Peers[0].PeerAddress = "10.0.0.x"
			})
		})
		w.step("a node changes", func() { w.nodes("node1", "node2") })
		w.step("one is mended", func() {
			w.configure(func(o *config.Objects) {
				usual(o)
				o.Peers[0].PeerAddress = "10.0.0.x"
			})
		})
		w.step("all are", func() { w.configure(usual) })
		w.step("all is deleted", func() { w.configure(func(o *config.Objects) { *o = config.Objects{} }) })
		w.check(`
			# everything was read
			apply layer2: 192.0.2.1
			apply bgp: router: 192.0.2.1/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			# typing errors
			configuration stale: true
			state: 2 problems
			  BGPPeer router: spec.peerAddress: invalid BGPPeer address "10.0.0.x": it is not an IP address (the last good version stays in force)
			  IPAddressPool p: spec.addresses[0]: invalid CIDR "192.0.2.0/33" in pool "p": it is neither a CIDR such as 198.51.100.0/24 nor a range such as 198.51.100.10-198.51.100.20 (the last good version stays in force)
			# a node changes
			apply layer2: nothing
			# one is mended
			configuration stale: true
			state: 1 problems
			  BGPPeer router: spec.peerAddress: invalid BGPPeer address "10.0.0.x": it is not an IP address (the last good version stays in force)
			# all are
			configuration stale: false
			state: 0 problems
			# all is deleted
			apply bgp: nothing
		`)
	})
}

// What node-specific trouble there is depends on the nodes' labels.
func TestNodeChangesAreReported(t *testing.T) {
	story(t, false, func(w *world) {
		w.nodes("node1")
		w.configure(func(o *config.Objects) {
			usual(o)
			second := o.Peers[0]
			second.Name, second.MyASN = "twin", 64514
			second.NodeSelectors = []lb.Selector{{MatchLabels: map[string]string{"twin": "yes"}}}
			o.Peers = append(o.Peers, second)
		})
		w.everythingRead()
		w.step("this node is selected by both", func() {
			w.nodes("node1")
			w.delta.Nodes[0].Labels = map[string]string{"twin": "yes"}
		})
		w.step("and not any more", func() { w.nodes("node1") })
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router:
			configuration stale: false
			state: 0 problems
			# this node is selected by both
			configuration stale: true
			state: 1 problems
			  BGPPeer twin: spec.peerAddress: node node1 already has a session with 10.0.0.1:179 for BGPPeer "router", which is older (set aside)
			# and not any more
			configuration stale: false
			state: 0 problems
		`)
	})
}

func TestFailedApplyIsCountedAndTheRestGoesOn(t *testing.T) {
	story(t, false, func(w *world) {
		w.nodes("node1")
		w.configure(usual)
		w.service("a", "192.0.2.1", "node1")
		w.applyErr = errors.New("no socket")
		w.everythingRead()
		w.applyErr = nil
		w.step("another", func() { w.service("b", "192.0.2.2", "node1") })
		w.check(`
			# everything was read
			apply layer2: 192.0.2.1
			apply bgp: router: 192.0.2.1/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
			counted: no socket
			# another
			apply layer2: 192.0.2.1 192.0.2.2
			apply bgp: router: 192.0.2.1/32 192.0.2.2/32
			event on b: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on b: nodeAssigned: announcing from node "node1" with protocol "bgp"
		`)
	})
}

// The speaker's end withdraws nothing: that is for the announcers, later.
func TestEndLeavesAnnouncementsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		w.nodes("node1")
		w.configure(usual)
		w.service("a", "192.0.2.1", "node1")
		w.everythingRead()
		before := w.applies
		w.stop()
		<-w.done
		if w.applies != before {
			t.Error("it applied something when it ended")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true) // and it ends before anything was read
		w.stop()
		<-w.done
	})
}

func TestWithoutMembersEveryNodeCounts(t *testing.T) {
	story(t, false, func(w *world) {
		w.nodes("node1", "node2")
		w.configure(usual)
		for _, s := range [][2]string{{"a", "192.0.2.1"}, {"b", "192.0.2.2"}, {"c", "192.0.2.3"}, {"d", "192.0.2.4"}} {
			w.service(s[0], s[1], "node1")
		}
		w.everythingRead()
		w.check(`
			# everything was read
			apply layer2: 192.0.2.2 192.0.2.3 192.0.2.4
			apply bgp: router: 192.0.2.1/32 192.0.2.2/32 192.0.2.3/32 192.0.2.4/32
			event on a: nodeAssigned: announcing from node "node1" with protocol "bgp"
			event on b: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on b: nodeAssigned: announcing from node "node1" with protocol "bgp"
			event on c: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on c: nodeAssigned: announcing from node "node1" with protocol "bgp"
			event on d: nodeAssigned: announcing from node "node1" with protocol "layer2"
			event on d: nodeAssigned: announcing from node "node1" with protocol "bgp"
			configuration stale: false
			state: 0 problems
		`)
	})
}

// TestRoutesGoToOthers: when the plan gives a route to other nodes, it stays for the drain time;
// and nothing else has to happen for it to go.
func TestRoutesGoToOthers(t *testing.T) {
	others := func(o *config.Objects) {
		o.L2 = nil
		o.BGP = []config.BGPAdvertisement{o.BGP[0]}
		o.BGP[0].NodeSelectors = []lb.Selector{{MatchLabels: map[string]string{"kubernetes.io/hostname": "node2"}}}
	}
	drains := func(_ *world, d *speaker.Deps) { d.Drain = 10 * time.Second }
	story(t, false, func(w *world) {
		w.nodes("node1", "node2")
		w.configure(usual)
		w.configure(func(o *config.Objects) { o.L2 = nil })
		w.service("a", "192.0.2.1", "node1")
		w.service("b", "192.0.2.2", "node1")
		w.everythingRead()
		w.lines = nil
		w.step("node2 alone is selected", func() { w.configure(others) })
		w.step("one has no endpoint any more", func() { w.service("b", "192.0.2.2") })
		w.wait(10 * time.Second)
		w.check(`
			# node2 alone is selected
			apply bgp: router: 192.0.2.1/32 (yields) 192.0.2.2/32 (yields)
			# one has no endpoint any more
			apply bgp: router: 192.0.2.1/32 (yields)
			# 10s later
			apply bgp: router:
		`)
	}, drains)
}
