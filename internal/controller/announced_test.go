package controller_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// says lets speakers tell where Services are announced.
func (w *world) says(now map[string]lb.Announcement) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delta.Announced = map[lb.Key]lb.Announcement{}
	for name, a := range now {
		w.delta.Announced[key(name)] = a
	}
}

func l2(nodes ...string) lb.Announcement  { return lb.Announcement{L2: nodes} }
func bgp(nodes ...string) lb.Announcement { return lb.Announcement{BGP: nodes} }

// Nodes begin to announce one after the other: that is written once.
func TestAnnouncedIsWrittenOnce(t *testing.T) {
	story(t, func(w *world) {
		w.opts.Announcements = true
		w.pool("p", "192.0.2.0/30")
		w.service("a")
		w.start()
		w.step("all is known", func() { w.says(nil) })
		w.step("the first node", func() { w.says(map[string]lb.Announcement{"a": bgp("node1")}) })
		<-time.After(time.Second)
		w.step("the next ones", func() { w.says(map[string]lb.Announcement{"a": bgp("node1", "node2", "node3")}) })
		<-time.After(3 * time.Second)
		synctest.Wait()
		w.check(`
			# start
			configuration in force
			a: Normal IPAllocated: Assigned IP ["192.0.2.0"]
			a: status 192.0.2.0 p
			pool p: assigned 1+0, available 3+0
			# all is known
			a: announced: false NotAnnounced: no node announces it: ConfigurationStates say what is wrong with the configuration, the speakers' logs of level debug why each does not announce it
			# the first node
			# the next ones
			a: announced: true Announced: bgp from node1, node2 and node3
		`)
		w.step("another change of the Service does not bring what is not settled", func() {
			w.says(map[string]lb.Announcement{"a": bgp("node1")})
			w.service("a", shares("k", 1))
		})
		<-time.After(3 * time.Second)
		synctest.Wait()
		w.step("it loses its address", func() { w.deletePool("p") })
		w.check(`
			# another change of the Service does not bring what is not settled
			a: announced: true Announced: bgp from node1
			# it loses its address
			a: Normal ClearAssignment: AddressNotInPool: 192.0.2.0 is in no IPAddressPool
			a: Warning AllocationFailed: Failed to allocate IP for "default/a": NoPool: no IPAddressPool with autoAssign is for this Service
			a: status empty
			a: announced: false NoAddress: it has no address
		`)
	})
}

// One that changes all the time is written now and then.
func TestAnnouncedThatFlapsIsWritten(t *testing.T) {
	story(t, func(w *world) {
		w.opts.Announcements = true
		w.pool("p", "192.0.2.0/30")
		w.service("a", holds("p", "192.0.2.0"))
		w.start()
		w.step("all is known", func() { w.says(map[string]lb.Announcement{"a": l2("node1")}) })
		for i := range 20 {
			w.step("a change", func() { w.says(map[string]lb.Announcement{"a": l2([]string{"node1", "node2"}[i%2])}) })
			<-time.After(1500 * time.Millisecond)
			synctest.Wait()
		}
		written := 0
		for _, line := range w.lines {
			if len(line) > 12 && line[:12] == "a: announced" {
				written++
			}
		}
		if written < 2 || written > 3 {
			t.Errorf("written %d times: %q", written, w.lines)
		}
	})
}

// The next controller knows what is written, and writes nothing until all is known.
func TestAnnouncedAfterARestart(t *testing.T) {
	story(t, func(w *world) {
		w.opts.Announcements = true
		w.pool("p", "192.0.2.0/30")
		w.service("a", holds("p", "192.0.2.0"))
		w.start()
		w.step("all is known", func() { w.says(map[string]lb.Announcement{"a": l2("node1")}) })
		w.start()
		w.step("all is known", func() { w.says(map[string]lb.Announcement{"a": l2("node1")}) })
		w.opts.Announcements = false
		w.start()
		w.check(`
			# start
			configuration in force
			pool p: assigned 1+0, available 3+0
			# all is known
			a: announced: true Announced: layer2 from node1
			# start
			pool p: assigned 1+0, available 3+0
			# all is known
			# start
			a: announced: 
			pool p: assigned 1+0, available 3+0
		`)
	})
}
