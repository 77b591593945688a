package speaker_test

import (
	"testing"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/speaker"
)

// reporting is a world in which somebody keeps announcement status.
func reporting(w *world, d *speaker.Deps) { d.Status = statusWriter{w} }

// It begins when it is known who lives.
func TestStatusFollowsVerdicts(t *testing.T) {
	story(t, true, func(w *world) {
		w.nodes("node1")
		w.configure(func(o *config.Objects) {
			usual(o)
			o.L2[0].Interfaces = []string{"eth1", "eth0"}
		})
		w.service("a", "192.0.2.1", "node1")
		w.service("waits", "", "node1")
		w.everythingRead()
		w.living("node1")
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router: 192.0.2.1/32
			configuration stale: false
			state: 0 problems
			# alive: node1
			apply layer2: 192.0.2.1
			status of 2 Services
			  a a [192.0.2.1]: layer2 true [eth0 eth1], bgp [router]
			  waits waits []: layer2 false [], bgp []
		`)
		w.step("nothing at all", func() {})
		w.step("the same again", func() { w.service("a", "192.0.2.1", "node1") })
		w.step("no endpoint", func() { w.service("a", "192.0.2.1") })
		w.step("an endpoint", func() { w.service("a", "192.0.2.1", "node1") })
		w.step("another peer", func() {
			w.configure(func(o *config.Objects) {
				second := o.Peers[0]
				second.Name, second.PeerAddress = "another", "10.0.0.2"
				o.Peers = append(o.Peers, second)
			})
		})
		w.step("deleted", func() { w.delta.Services[key("a")] = nil })
		w.check(`
			# nothing at all
			# the same again
			# no endpoint
			apply layer2: nothing
			apply bgp: router:
			status of 1 Services
			  a a [192.0.2.1]: layer2 false [], bgp []
			# an endpoint
			apply layer2: 192.0.2.1
			apply bgp: router: 192.0.2.1/32
			status of 1 Services
			  a a [192.0.2.1]: layer2 true [eth0 eth1], bgp [router]
			# another peer
			apply bgp: another: 192.0.2.1/32 router: 192.0.2.1/32
			status of 1 Services
			  a a [192.0.2.1]: layer2 true [eth0 eth1], bgp [another router]
			# deleted
			apply layer2: nothing
			apply bgp: another: router:
			status of 1 Services
			  a  []: layer2 false [], bgp []
		`)
	}, reporting)
}

// The first plan says all there is, so that what a former process wrote can go.
func TestStatusOfNothingIsSaidOnce(t *testing.T) {
	story(t, false, func(w *world) {
		w.nodes("node1")
		w.configure(usual)
		w.everythingRead()
		w.step("nothing at all", func() {})
		w.step("for somebody else", func() { w.delta.Services[key("b")] = (*lb.Service)(nil) })
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: router:
			status of 0 Services
			configuration stale: false
			state: 0 problems
			# nothing at all
			# for somebody else
		`)
	}, reporting)
}
