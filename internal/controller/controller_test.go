package controller_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// story runs a test in a bubble with a world of its own.
func story(t *testing.T, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		fn(w)
		if w.stop != nil {
			w.stop()
			<-w.done
		}
	})
}

func TestAdoptsBeforeItGives(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0-192.0.2.2")
		w.service("a")
		w.service("z", holds("p", "192.0.2.0"))
		w.start()
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			a: status 192.0.2.1 p
			pool p: assigned 2+0, available 1+0
		`)
	})
}

func TestRestartGivesTheSame(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0-192.0.2.3")
		for _, name := range []string{"c", "a", "d", "b", "e"} {
			w.service(name)
		}
		w.start()
		w.step("make a hole", func() { w.deleteService("b") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			c: Normal IPAllocated: Assigned IP ["192.0.2.2"]
			c: status 192.0.2.2 p
			d: Normal IPAllocated: Assigned IP ["192.0.2.3"]
			d: status 192.0.2.3 p
			e: Warning AllocationFailed: Failed to allocate IP for "default/e": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 4+0, available 0+0
			# make a hole
			pool p: assigned 3+0, available 1+0
			e: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			e: status 192.0.2.1 p
			pool p: assigned 4+0, available 0+0
		`)
		w.start()
		w.check(`
			# start
			pool p: assigned 4+0, available 0+0
		`)
	})
}

func TestOfTwoHoldersTheFirstKeeps(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("b", holds("p", "192.0.2.1"))
		w.service("c", holds("p", "192.0.2.1"))
		w.service("a")
		w.start()
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			c: Normal ClearAssignment: AddressInUse: 192.0.2.1 is held by default/b, and both must carry the same allow-shared-ip key to share it
			c: Normal IPAllocated: Assigned IP ["192.0.2.2"]
			c: status 192.0.2.2 p
			pool p: assigned 3+0, available 1+0
		`)
	})
}

func TestFreedAddressGoesToOneThatWaits(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.1/32")
		w.service("a")
		w.service("b")
		w.service("c")
		w.start()
		w.step("the holder goes", func() { w.deleteService("a") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			a: status 192.0.2.1 p
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": PoolExhausted: no IPv4 address is free in IPAddressPool p
			c: Warning AllocationFailed: Failed to allocate IP for "default/c": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 1+0, available 0+0
			# the holder goes
			pool p: assigned 0+0, available 1+0
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: assigned 1+0, available 0+0
		`)
	})
}

// A Service and the configuration change at once: neither must be forgotten.
func TestServiceDeletedWhileConfigurationChanges(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.1/32")
		w.service("a")
		w.start()
		w.step("delete the holder and touch a pool", func() {
			w.deleteService("a")
			w.pool("p", "192.0.2.1-192.0.2.1")
		})
		w.step("a new one", func() { w.service("b") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			a: status 192.0.2.1 p
			pool p: assigned 1+0, available 0+0
			# delete the holder and touch a pool
			pool p: assigned 0+0, available 1+0
			# a new one
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: assigned 1+0, available 0+0
		`)
	})
}

// Between the decision and its way back through the API server, other changes of
// the Service arrive with the old status.
func TestStaleStatusMovesNothing(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.lag = true
		w.start()
		w.step("another change, the status not seen yet", func() { w.service("a") })
		w.step("an address is freed below", func() { w.service("b", holds("", "192.0.2.3")) })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
			# another change, the status not seen yet
			a: status 192.0.2.0 p
			# an address is freed below
			b: status 192.0.2.3 p
			pool p: assigned 2+0, available 2+0
		`)
	})
}

// An address that was taken away and given to another does not come back with a
// status that is late.
func TestLateStatusDoesNotTakeTheAddressBack(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/32")
		w.service("a", holds("p", "192.0.2.0"))
		w.service("b")
		w.start()
		w.lag = true
		w.step("a wants another", func() { w.service("a", asks("198.51.100.1")) })
		w.step("a changes again, its old status in it", func() { w.service("a", asks("198.51.100.1"), shares("k", 1)) })
		w.step("and asks for what it had", func() { w.service("a", asks("192.0.2.0")) })
		w.check(`
			# start
			configuration in force
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 1+0, available 0+0
			# a wants another
			a: Normal ClearAssignment: InvalidRequest: it asks for 198.51.100.1 now
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": AddressNotInPool: 198.51.100.1 is in no IPAddressPool
			a: status empty
			a: status empty
			pool p: assigned 0+0, available 1+0
			a: status empty
			b: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			b: status 192.0.2.0 p
			pool p: assigned 1+0, available 0+0
			# a changes again, its old status in it
			a: status empty
			# and asks for what it had
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": AddressInUse: 192.0.2.0 is held by default/b, and both must carry the same allow-shared-ip key to share it
			a: status empty
		`)
	})
}

func TestRecreatedServiceIsAnother(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/32")
		w.service("a")
		w.service("b")
		w.start()
		w.step("the holder is created again and wants what nobody has", func() {
			w.deleteService("a")
			w.service("a", asks("198.51.100.1"))
		})
		w.step("and again", func() {
			w.deleteService("a")
			w.service("a", asks("198.51.100.1"))
		})
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 1+0, available 0+0
			# the holder is created again and wants what nobody has
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": AddressNotInPool: 198.51.100.1 is in no IPAddressPool
			pool p: assigned 0+0, available 1+0
			b: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			b: status 192.0.2.0 p
			pool p: assigned 1+0, available 0+0
			# and again
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": AddressNotInPool: 198.51.100.1 is in no IPAddressPool
		`)
	})
}

func TestRecreatedServiceKeepsTheAddress(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/31")
		w.service("a")
		w.service("b")
		w.start()
		w.step("created again", func() {
			w.deleteService("b")
			w.service("b")
		})
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: assigned 2+0, available 0+0
			# created again
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
		`)
	})
}

func TestPoolsComeAndGo(t *testing.T) {
	story(t, func(w *world) {
		w.service("a")
		w.start()
		w.step("a pool", func() { w.pool("p", "192.0.2.0/31") })
		w.step("another", func() { w.pool("q", "198.51.100.0/31") })
		w.step("the first goes", func() { w.deletePool("p") })
		w.step("the second shrinks", func() { w.pool("q", "198.51.100.1/32") })
		w.step("and goes", func() { w.deletePool("q") })
		w.check(`
			# start
			configuration in force
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": NoPool: no IPAddressPool with autoAssign is for this Service
			# a pool
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 1+0
			# another
			pool q: assigned 0+0, available 2+0
			# the first goes
			a: Normal ClearAssignment: AddressNotInPool: 192.0.2.0 is in no IPAddressPool
			a: Normal IPAllocated: Assigned IP ["198.51.100.0"]
			a: status 198.51.100.0 q
			pool q: assigned 1+0, available 1+0
			# the second shrinks
			a: Normal ClearAssignment: AddressNotInPool: 198.51.100.0 is in no IPAddressPool
			a: Normal IPAllocated: Assigned IP ["198.51.100.1"]
			a: status 198.51.100.1 q
			pool q: assigned 1+0, available 0+0
			# and goes
			a: Normal ClearAssignment: AddressNotInPool: 198.51.100.1 is in no IPAddressPool
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": NoPool: no IPAddressPool with autoAssign is for this Service
			a: status empty
		`)
	})
}

func TestBadPoolTakesNothingAway(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/31")
		w.service("a")
		w.start()
		w.step("a typing error", func() { w.pool("p", "192.0.2.0/33") })
		w.start()
		w.step("another Service", func() { w.service("b") })
		w.step("mended", func() { w.pool("p", "192.0.2.0/30") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 1+0
			# a typing error
			configuration partly set aside
			problem: IPAddressPool p: spec.addresses[0]: invalid CIDR "192.0.2.0/33" in pool "p": it is neither a CIDR such as 198.51.100.0/24 nor a range such as 198.51.100.10-198.51.100.20 (the last good version stays in force)
			# start
			problem: IPAddressPool p: spec.addresses[0]: invalid CIDR "192.0.2.0/33" in pool "p": it is neither a CIDR such as 198.51.100.0/24 nor a range such as 198.51.100.10-198.51.100.20 (set aside)
			# another Service
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": NoPool: no IPAddressPool with autoAssign is for this Service
			# mended
			configuration in force
			b: Normal IPAllocated: Assigned IP ["192.0.2.1"]
			b: status 192.0.2.1 p
			pool p: assigned 2+0, available 2+0
		`)
	})
}

func TestSharing(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/32")
		w.service("a", shares("k", 80))
		w.service("b", shares("k", 443))
		w.service("c", shares("k", 443))
		w.start()
		w.step("the port becomes free", func() { w.service("b", shares("k", 8443)) })
		w.step("a shares no more", func() { w.service("a") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			b: status 192.0.2.0 p
			c: Warning AllocationFailed: Failed to allocate IP for "default/c": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 1+0, available 0+0
			# the port becomes free
			c: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			c: status 192.0.2.0 p
			# a shares no more
			a: Normal ClearAssignment: AddressInUse: 192.0.2.0 is held by default/b, and both must carry the same allow-shared-ip key to share it
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": PoolExhausted: no IPv4 address is free in IPAddressPool p
			a: status empty
		`)
	})
}

func TestSecondFamilyComesLater(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/32")
		w.service("a", clusterIPs(lb.PreferDualStack, "10.96.0.1", "fd00::1"))
		w.start()
		w.step("the pool gets IPv6", func() { w.pool("p", "192.0.2.0/32", "2001:db8::/127") })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: Normal AdditionalAssignFailed: PoolExhausted: IPAddressPool "p" has no IPv6 address for a second one
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 0+0
			# the pool gets IPv6
			a: Normal IPAllocated: Assigned IP ["192.0.2.0" "2001:db8::"]
			a: status 192.0.2.0 2001:db8:: p
			pool p: assigned 1+1, available 0+1
		`)
	})
}

func TestLegacyAnnotationsAndBadRequests(t *testing.T) {
	story(t, func(w *world) {
		legacy := func(s *lb.Service) { s.LegacyAnnotations = true }
		nonsense := func(s *lb.Service) { s.RequestErr = `annotation loadBalancerIPs: "x" is not an IP address` }
		w.pool("p", "192.0.2.0/30")
		w.service("a", legacy)
		w.service("b", nonsense)
		w.service("c", clusterIPs(lb.RequireDualStack, "10.96.0.1"))
		w.service("d", asksPool("q"))
		w.start()
		w.step("a typing error costs no address", func() { w.service("a", nonsense) })
		w.step("nothing is said twice", func() {
			for _, name := range []string{"a", "b"} {
				w.service(name, nonsense)
			}
			w.service("d", asksPool("q"))
		})
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: Warning deprecatedAnnotation: annotations under metallb.universe.tf/ are deprecated; write them under metallb.io/
			a: status 192.0.2.0 p
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": InvalidRequest: annotation loadBalancerIPs: "x" is not an IP address
			c: Warning not enough clusterips: NoClusterIP: ipFamilyPolicy RequireDualStack needs cluster IPs of both families, there is only 10.96.0.1
			d: Warning AllocationFailed: Failed to allocate IP for "default/d": PoolNotFound: annotation address-pool: there is no IPAddressPool "q" in force
			pool p: assigned 1+0, available 3+0
			# a typing error costs no address
			a: Warning LoadBalancerFailed: InvalidRequest: annotation loadBalancerIPs: "x" is not an IP address
			# nothing is said twice
		`)
	})
}

func TestServiceThatIsNotOursAnyMoreLosesTheMark(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/32")
		w.service("a")
		w.service("b")
		w.start()
		w.step("of another type now", func() {
			w.deleteService("a")
			w.delta.Orphans = []lb.Key{key("a")}
		})
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": PoolExhausted: no IPv4 address is free in IPAddressPool p
			pool p: assigned 1+0, available 0+0
			# of another type now
			a: mark removed
			pool p: assigned 0+0, available 1+0
			b: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			b: status 192.0.2.0 p
			pool p: assigned 1+0, available 0+0
		`)
	})
}

func TestSomebodyChangesTheStatus(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("wiped", func() { w.service("a", holds("")) })
		w.step("another address", func() { w.service("a", holds("p", "192.0.2.3")) })
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
			# wiped
			a: status 192.0.2.0 p
			# another address
			a: status 192.0.2.0 p
		`)
	})
}

func TestEmptyConfiguration(t *testing.T) {
	story(t, func(w *world) {
		w.service("a")
		w.service("b", holds("p", "192.0.2.0"))
		w.start()
		w.step("Drain may be empty", func() { w.delta = kube.Delta{} })
		w.check(`
			# start
			configuration in force
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": NoPool: no IPAddressPool with autoAssign is for this Service
			b: Normal ClearAssignment: AddressNotInPool: 192.0.2.0 is in no IPAddressPool
			b: Warning AllocationFailed: Failed to allocate IP for "default/b": NoPool: no IPAddressPool with autoAssign is for this Service
			b: status empty
			# Drain may be empty
		`)
	})
}

func TestMetrics(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/30", "2001:db8::/64")
		w.service("a")
		w.start()
		w.lines = append(w.lines, w.metrics())
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+9223372036854775807
			barelb_controller_services{Allocated} 1
			addresses_in_use_total{p} 1
			addresses_total{p} 9.223372036854776e+18
			ipv4_addresses_in_use_total{p} 1
			ipv4_addresses_total{p} 4
			ipv6_addresses_in_use_total{p} 0
			ipv6_addresses_total{p} 9.223372036854776e+18
			services_allocated_total{p} 1
		`)
		w.step("one that has no place", func() { w.service("b", asksPool("q")) })
		want := "barelb_controller_services{Allocated} 1\nbarelb_controller_services{PoolNotFound} 1\n"
		if got := w.metrics(); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want first %s", got, want)
		}
		w.step("it goes", func() { w.deleteService("b") })
		if got := w.metrics(); strings.Contains(got, "PoolNotFound") {
			t.Errorf("a Service that is gone is counted: %s", got)
		}
	})
}

// Two pools with every address taken, many Services: what is printed must not
// depend on the order of maps.
func TestDeterminism(t *testing.T) {
	var first []string
	for range 5 {
		story(t, func(w *world) {
			w.pool("p", "192.0.2.0/29")
			w.pool("q", "198.51.100.0/29")
			for _, n := range "qwertzuiopasdfghjklyxcvbnm" {
				w.service(string(n))
			}
			w.start()
			w.step("half of them go", func() {
				for _, n := range "qwertzuiopas" {
					w.deleteService(string(n))
				}
			})
			if first == nil {
				first = w.lines
			}
			for i := range first {
				if i >= len(w.lines) || w.lines[i] != first[i] {
					t.Fatalf("line %d differs: %q", i, first[i])
				}
			}
		})
	}
}
