package controller_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/controller"
	"github.com/barelb/barelb/internal/core/lb"
)

func holder(name, uid string) lb.Holder { return lb.Holder{Key: key(name), UID: uid} }

var first = netip.MustParseAddr("192.0.2.0")

// One who died had claimed an address and not written it yet.
func TestAdoptsWhatIsClaimed(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.service("b")
		w.claim(netip.MustParseAddr("192.0.2.2"), holder("b", "2"))
		w.start()
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Normal IPAllocated: Assigned IP ["192.0.2.2"]
			b: status 192.0.2.2 p
			pool p: assigned 2+0, available 2+0
		`)
	})
}

// Of two that say they hold one address, the one with the claim is right.
func TestTheClaimDecidesBetweenTwoHolders(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a", holds("p", "192.0.2.0"))
		w.service("b", holds("p", "192.0.2.0"))
		w.claim(first, holder("b", "2"))
		w.start()
		w.check(`
			# start
			configuration in force
			a: Normal ClearAssignment: AddressInUse: 192.0.2.0 is held by default/b, and both must carry the same allow-shared-ip key to share it
			a: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			a: status 192.0.2.1 p
			pool p: assigned 2+0, available 2+0
		`)
	})
}

// A claim of a Service that does not hold the address goes, and until it has gone
// nobody else gets it.
func TestStrayClaims(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/31")
		w.service("a")
		w.claim(first, holder("gone", "77"))
		w.start()
		w.step("another controller claims for one that has an address", func() {
			w.claim(first, holder("a", "1"))
		})
		w.step("and for one whose status says it before we wrote ours", func() {
			w.claim(first, holder("b", "2"))
			w.service("b", holds("p", "192.0.2.0"))
		})
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			a: status 192.0.2.1 p
			pool p: assigned 1+0, available 1+0
			# another controller claims for one that has an address
			# and for one whose status says it before we wrote ours
			pool p: assigned 2+0, available 0+0
		`)
		if len(w.claims) != 2 {
			t.Errorf("claims: %v", w.claims)
		}
	})
}

// A claim that was removed before the controller heard of it, and comes back, is
// removed again.
func TestStrayClaimThatComesBack(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("a moves, and its first claim is not heard of", func() {
			w.service("a", asks("192.0.2.1"))
			delete(w.delta.Claims, first)
		})
		for range 2 {
			w.step("another controller claims it again", func() { w.claim(first, holder("a", "1")) })
			if len(w.claims[first]) != 0 {
				t.Errorf("claims: %v", w.claims)
			}
		}
	})
}

// Somebody deletes the claims: they come back, and nothing moves.
func TestClaimsThatAreDeletedComeBack(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("delete the claim", func() { w.claim(first) })
		if len(w.claims[first]) != 1 {
			t.Errorf("claims: %v", w.claims)
		}
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
		` + "\t# delete the claim\n")
	})
}

// Another controller was about to take an address, and ended.
func TestClaimThatWasMarkedIsHeldAgain(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("mark the claim", func() {
			h := holder("a", "1")
			h.Released = true
			w.claim(first, h)
		})
		if h := w.claims[first]; len(h) != 1 || h[0].Released {
			t.Errorf("claims: %v", w.claims)
		}
	})
}

func TestRecreatedServiceGetsItsAddressBack(t *testing.T) {
	story(t, func(w *world) {
		w.opts.Retention = 10 * time.Minute
		w.pool("p", "192.0.2.0-192.0.2.2")
		w.service("a")
		w.start()
		w.step("a goes", func() { w.deleteService("a") })
		w.step("b comes", func() { w.service("b") })
		w.step("a comes back", func() { w.service("a") })
		w.step("a goes", func() { w.deleteService("a") })
		w.step("two come: one gets what was kept", func() { w.service("c"); w.service("d") })
		w.step("a comes back", func() { w.service("a") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 2+0
			# a goes
			pool p: assigned 0+0, available 3+0
			# b comes
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: assigned 1+0, available 2+0
			# a comes back
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 2+0, available 1+0
			# a goes
			pool p: assigned 1+0, available 2+0
			# two come: one gets what was kept
			c: Normal IPAllocated: Assigned IP ["192.0.2.2"]
			c: status 192.0.2.2 p
			d: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			d: status 192.0.2.0 p
			pool p: assigned 3+0, available 0+0
			# a comes back
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": PoolExhausted: no IPv4 address is free in IPAddressPool p
		`)
	})
}

func TestRetentionOutlivesTheController(t *testing.T) {
	story(t, func(w *world) {
		w.opts.Retention = 10 * time.Minute
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("a goes", func() { w.deleteService("a") })
		w.step("it is told again that it is gone", func() { w.deleteService("a") })
		w.start()
		w.step("b comes", func() { w.service("b") })
		w.step("a comes back", func() { w.service("a") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
			# a goes
			pool p: assigned 0+0, available 4+0
			# it is told again that it is gone
			# start
			pool p: assigned 0+0, available 4+0
			# b comes
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: assigned 1+0, available 3+0
			# a comes back
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 2+0, available 2+0
		`)
		if len(w.former) != 0 {
			t.Errorf("kept for %v", w.former)
		}
	})
}

func TestRetentionEnds(t *testing.T) {
	story(t, func(w *world) {
		w.opts.Retention = 10 * time.Minute
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("a goes", func() { w.deleteService("a") })
		<-time.After(10*time.Minute + time.Second) // of the bubble's clock
		w.step("b comes", func() { w.service("b") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
			# a goes
			pool p: assigned 0+0, available 4+0
			# b comes
			b: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			b: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
		`)
	})
}

func TestGuardedPoolEdits(t *testing.T) {
	story(t, func(w *world) {
		w.opts = controller.Options{GuardPools: true}
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.service("b")
		w.start()
		w.step("shrink the pool", func() { w.pool("p", "192.0.2.1-192.0.2.3") })
		w.step("delete it, which its finalizer holds back", func() {
			p := w.pools["p"]
			p.Terminating = true
			w.pools["p"] = p
			w.touchObjects()
		})
		w.step("c comes", func() { w.service("c") })
		w.start()
		w.step("a goes", func() { w.deleteService("a") })
		w.step("b goes", func() { w.deleteService("b") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: keep true: 
			pool p: assigned 2+0, available 2+0
			# shrink the pool
			a: Warning PoolEditHeldBack: kept, although AddressNotInPool: 192.0.2.0 is in no IPAddressPool
			pool p: keep true: in the way, because --pool-edits=guard lets Services keep their addresses until they go: default/a (192.0.2.0)
			pool p: assigned 1+0, available 2+0
			# delete it, which its finalizer holds back
			pool p: keep true: in the way, because --pool-edits=guard lets Services keep their addresses until they go: default/a (192.0.2.0), default/b (192.0.2.1)
			# c comes
			c: Warning AllocationFailed: Failed to allocate IP for "default/c": NoPool: no IPAddressPool with autoAssign is for this Service
			# start
			pool p: keep true: in the way, because --pool-edits=guard lets Services keep their addresses until they go: default/a (192.0.2.0), default/b (192.0.2.1)
			pool p: assigned 1+0, available 2+0
			# a goes
			pool p: keep true: in the way, because --pool-edits=guard lets Services keep their addresses until they go: default/b (192.0.2.1)
			# b goes
			pool p: keep false: 
			pool p: assigned 0+0, available 3+0
		`)
	})
}

func TestAddressesThatOthersUse(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0-192.0.2.2")
		w.onWire = []lb.WireConflict{{Addr: first, MAC: "02:00:00:00:00:33", Node: "node1", Link: "eth0"}}
		w.service("a")
		w.service("b", asks("192.0.2.0"))
		w.start()
		w.step("one that is held is heard too: it stays", func() {
			w.onWire = append(w.onWire, lb.WireConflict{Addr: netip.MustParseAddr("192.0.2.1"), MAC: "02:00:00:00:00:34", Node: "node1", Link: "eth0"})
			w.delta.Conflicts = w.onWire
		})
		w.step("the override", func() {
			p := w.pools["p"]
			p.IgnoreOnWire = "192.0.2.0"
			w.pools["p"] = p
			w.touchObjects()
		})
		w.step("nobody any more", func() { w.delta.Conflicts = []lb.WireConflict{} })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			a: status 192.0.2.1 p
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": AddressInUseOnWire: 192.0.2.0 is used by 02:00:00:00:00:33 on the wire, which node1 heard on eth0
			pool p: on the wire: 192.0.2.0 is used by 02:00:00:00:00:33, which node1 heard on eth0 / Those that no Service holds are not given. To give one nevertheless, name it in the pool's annotation barelb.io/ignore-addresses-in-use-on-wire ("all" names all).
			pool p: assigned 1+0, available 1+0
			# one that is held is heard too: it stays
			pool p: on the wire: 192.0.2.0 is used by 02:00:00:00:00:33, which node1 heard on eth0 / 192.0.2.1 is used by 02:00:00:00:00:34, which node1 heard on eth0, although default/a holds it / Those that no Service holds are not given. To give one nevertheless, name it in the pool's annotation barelb.io/ignore-addresses-in-use-on-wire ("all" names all).
			# the override
			b: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			b: status 192.0.2.0 p
			pool p: on the wire: 192.0.2.1 is used by 02:00:00:00:00:34, which node1 heard on eth0, although default/a holds it / Those that no Service holds are not given. To give one nevertheless, name it in the pool's annotation barelb.io/ignore-addresses-in-use-on-wire ("all" names all).
			pool p: assigned 2+0, available 1+0
			# nobody any more
			pool p: on the wire: 
		`)
	})
}

// One host that answers for everything does not empty the pool.
func TestAtMost64AreHeeded(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/24")
		for i := range 100 {
			w.onWire = append(w.onWire, lb.WireConflict{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), MAC: "02:00:00:00:00:33", Node: "node1", Link: "eth0"})
		}
		w.service("a")
		w.start()
		if got := w.services[key("a")].Addrs; len(got) != 1 || got[0] != netip.MustParseAddr("192.0.2.64") {
			t.Errorf("a has %v", got)
		}
	})
}

// What the one before us said of a Service is not said again.
func TestEventsAreNotRepeatedByTheNextController(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/32")
		w.service("a")
		w.service("b")
		w.start()
		w.start()
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 1+0, available 0+0
			# start
			pool p: assigned 1+0, available 0+0
		`)
	})
}
