package speaker_test

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
	"github.com/barelb/barelb/internal/speaker"
)

// prober prints what it is asked to find out, and reports what the test says.
type prober struct {
	w       *world
	last    string
	known   bool
	found   wire.Report
	changed chan struct{}
}

// Apply prints what is new.
func (p *prober) Apply(want wire.Want) {
	var addrs, nodes []string
	for _, c := range want.Candidates {
		text := c.Addr.String()
		if by := c.Conflict.Node; by != "" {
			text += " (reported by " + by + ")"
		}
		addrs = append(addrs, text)
	}
	for _, n := range want.Nodes {
		if want.Alive == nil || want.Alive[n.Name] {
			nodes = append(nodes, n.Name)
		}
	}
	if now := fmt.Sprintf("%s; alive: %s", cmp.Or(strings.Join(addrs, " "), "nothing"), cmp.Or(strings.Join(nodes, " "), "nobody")); now != p.last {
		p.last = now
		p.w.say("ask about %s", now)
	}
}

func (p *prober) Report() (wire.Report, bool) { return p.found, p.known }

func (p *prober) Changed() <-chan struct{} { return p.changed }

// finds makes what the prober has found out.
func (p *prober) finds(r wire.Report) {
	p.found, p.known = r, true
	p.changed <- struct{}{}
	synctest.Wait()
}

type conflicts struct {
	w    *world
	last string
}

// Set prints what is new.
func (c *conflicts) Set(r wire.Report) {
	if now := fmt.Sprintf("in use %v, over %v", r.InUse, r.Over); now != c.last {
		c.last = now
		c.w.say("report: %s", now)
	}
}

// wired runs a Wire beside the speaker, with p; nil for none.
func wired(p *prober) func(*world, *speaker.Deps) {
	return func(w *world, d *speaker.Deps) {
		if p == nil {
			d.Wire = speaker.NewWire("node1", nil, &conflicts{w: w})
		} else {
			p.w, p.changed = w, make(chan struct{}, 1)
			d.Wire = speaker.NewWire("node1", p, &conflicts{w: w})
		}
		ctx, stop := context.WithCancel(w.t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := d.Wire.Run(ctx); err != nil {
				w.t.Errorf("Run: %v", err)
			}
		}()
		w.ended = func() { stop(); <-done }
	}
}

// small is a configuration with two addresses and no advertisement.
func small(o *config.Objects) {
	*o = config.Objects{Pools: []config.IPAddressPool{{Meta: meta("p"), Addresses: []string{"192.0.2.4/31"}, AutoAssign: true}}}
}

func inUse(addr, by string) lb.WireConflict {
	return lb.WireConflict{Addr: netip.MustParseAddr(addr), MAC: "02:00:00:00:00:09", Node: by, Link: "eth0"}
}

// settle lets the time pass in which changes are gathered.
func (w *world) settle() {
	<-time.After(time.Second) // of the bubble
	synctest.Wait()
}

func TestFreeAddressesAreAskedAbout(t *testing.T) {
	p := &prober{}
	story(t, true, func(w *world) {
		w.nodes("node1", "node2")
		w.configure(small)
		w.everythingRead()
		w.settle()
		w.living("node1", "node2")
		w.settle()
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: nothing
			configuration stale: false
			state: 0 problems
			ask about 192.0.2.4 192.0.2.5; alive: nobody
			# alive: node1 node2
			ask about 192.0.2.4 192.0.2.5; alive: node1 node2
		`)
		p.finds(wire.Report{InUse: []lb.WireConflict{inUse("192.0.2.4", "node1")}})
		w.step("that is written", func() { w.delta.Conflicts = []lb.WireConflict{inUse("192.0.2.4", "node1")} })
		w.settle()
		w.step("a Service gets the other one", func() { w.service("a", "192.0.2.5") })
		w.settle()
		w.step("and has other labels", func() {
			w.service("a", "192.0.2.5")
			w.delta.Services[key("a")].Labels = map[string]string{"a": "b"}
		})
		w.settle()
		p.finds(wire.Report{})
		w.step("that is written too", func() { w.delta.Conflicts = []lb.WireConflict{} })
		w.settle()
		w.check(`
			report: in use [{192.0.2.4 02:00:00:00:00:09 node1 eth0}], over []
			# that is written
			ask about 192.0.2.4 (reported by node1) 192.0.2.5; alive: node1 node2
			# a Service gets the other one
			ask about 192.0.2.4 (reported by node1); alive: node1 node2
			# and has other labels
			report: in use [], over []
			# that is written too
			ask about 192.0.2.4; alive: node1 node2
		`)
		w.step("the Service is deleted", func() { w.delta.Services[key("a")] = nil })
		w.settle()
		w.step("and the pool", func() { w.configure(func(o *config.Objects) { *o = config.Objects{} }) })
		w.settle()
		w.check(`
			# the Service is deleted
			ask about 192.0.2.4 192.0.2.5; alive: node1 node2
			# and the pool
			ask about nothing; alive: node1 node2
		`)
	}, wired(p))
}

// A conflict that concerns nobody any more is cleared away for a reporter that is gone.
func TestConflictsOfNodesThatAreGone(t *testing.T) {
	p := &prober{}
	story(t, false, func(w *world) {
		w.nodes("node1")
		w.configure(small)
		w.delta.Conflicts = []lb.WireConflict{inUse("192.0.2.4", "node7"), inUse("198.51.100.1", "node7"), inUse("198.51.100.2", "node1")}
		w.everythingRead()
		w.settle()
		p.finds(wire.Report{})
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: nothing
			configuration stale: false
			state: 0 problems
			ask about 192.0.2.4 (reported by node7) 192.0.2.5; alive: node1
			report: in use [], over [198.51.100.1]
		`)
		p.finds(wire.Report{Over: []netip.Addr{netip.MustParseAddr("192.0.2.4")}})
		w.check(`
			report: in use [], over [192.0.2.4 198.51.100.1]
		`)
	}, wired(p))
}

// Switched off, a speaker takes back what it has reported, once it knows what there is.
func TestWithoutProberConflictsAreTakenBack(t *testing.T) {
	story(t, false, func(w *world) {
		w.settle()
		w.nodes("node1", "node2")
		w.configure(small)
		w.delta.Conflicts = []lb.WireConflict{inUse("192.0.2.4", "node1"), inUse("192.0.2.5", "node2")}
		w.mu.Lock()
		if len(w.lines) > 0 {
			t.Errorf("before everything was read: %q", w.lines)
		}
		w.mu.Unlock()
		w.everythingRead()
		w.settle()
		w.check(`
			# everything was read
			apply layer2: nothing
			apply bgp: nothing
			configuration stale: false
			state: 0 problems
			report: in use [], over []
		`)
	}, wired(nil))
}

// However many Services change at once, the window is looked at a few times a second.
func TestChangesAreGathered(t *testing.T) {
	p := &prober{}
	story(t, false, func(w *world) {
		w.nodes("node1")
		w.configure(func(o *config.Objects) {
			small(o)
			o.Pools[0].Addresses = []string{"192.0.2.0/24"}
		})
		w.everythingRead()
		w.settle()
		before := len(w.lines)
		for i := range 100 {
			w.step("one more", func() { w.service(fmt.Sprint(i), fmt.Sprintf("192.0.2.%d", i)) })
			<-time.After(10 * time.Millisecond)
		}
		w.settle()
		asked := 0
		for _, line := range w.lines[before:] {
			if strings.HasPrefix(line, "ask about") {
				asked++
			}
		}
		if asked < 2 || asked > 6 {
			t.Errorf("looked %d times in a second, want at most each 200 ms", asked)
		}
		if last := w.lines[len(w.lines)-1]; !strings.HasPrefix(last, "ask about 192.0.2.100 ") {
			t.Errorf("at last: %s", last)
		}
	}, wired(p))
}
