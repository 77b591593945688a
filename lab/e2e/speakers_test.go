package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// What tests of Layer 2 failover share.

// speakersWith has all speakers run with more flags until the end of the test.
func (l *lab) speakersWith(t *testing.T, flags ...string) {
	t.Helper()
	l.undo(t, "give the speakers their usual flags", func(ctx context.Context) error {
		l.sys.SetSpeakerFlags()
		return l.renewSpeakers(ctx)
	})
	l.sys.SetSpeakerFlags(flags...)
	must(t, l.renewSpeakers(t.Context()))
	for _, node := range l.c.Nodes() {
		within(t, patience/3, "the speaker of "+node+" with "+strings.Join(flags, " "), func() error {
			if ended(l.sys.Speaker(node)) {
				t.Fatalf("the speaker of %s does not run with %q:\n%s", node, flags, l.logTail(node, "speaker"))
			}
			return l.ready(t.Context(), node)
		})
	}
}

// renewSpeakers ends all speakers without warning and starts them again.
func (l *lab) renewSpeakers(ctx context.Context) error {
	var errs []error
	for _, node := range l.c.Nodes() {
		if !ended(l.sys.Speaker(node)) {
			errs = append(errs, l.sys.KillSpeaker(ctx, node))
		}
	}
	for _, node := range l.c.Nodes() {
		errs = append(errs, l.sys.StartSpeaker(ctx, node))
	}
	return errors.Join(errs...)
}

// ask asks for an address from a host, every few milliseconds, until the end of the
// test, and returns when it is answered for.
func (l *lab) ask(t *testing.T, from string, addr netip.Addr) *measure.Ask {
	t.Helper()
	return l.askAll(t, from, measure.AskOpts{First: addr})
}

func (l *lab) askAll(t *testing.T, from string, opts measure.AskOpts) *measure.Ask {
	t.Helper()
	a, err := measure.StartAsk(context.WithoutCancel(t.Context()), l.c.Box(from), l.self, opts)
	must(t, err)
	t.Cleanup(func() { _, _ = a.Stop() })
	must(t, a.AwaitAnswers(limited(t, patience)))
	must(t, a.Mark("begin"))
	return a
}

// asked ends the asking and returns what happened after a mark.
func asked(t *testing.T, a *measure.Ask, mark string) measure.AskMark {
	t.Helper()
	r, err := a.Stop()
	must(t, err)
	m, err := r.After(mark)
	must(t, err)
	return m
}

// limited is a context that ends after some time, or with the test.
func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// conns is how many connections a test of open ones holds.
const conns = 50

// hold opens connections from a host to an address, with requests on them, and returns
// when all are open.
func (l *lab) hold(t *testing.T, from string, addr netip.Addr) *measure.Hold {
	t.Helper()
	h, err := measure.StartHold(context.WithoutCancel(t.Context()), l.c.Box(from), l.self, measure.HoldOpts{
		Target: netip.AddrPortFrom(addr, system.HoldPort), Conns: conns,
	})
	must(t, err)
	t.Cleanup(func() { _, _ = h.Stop() })
	s, err := h.Status()
	must(t, err)
	if s.Open != conns {
		t.Fatalf("%d of %d connections to %s are open", s.Open, conns, addr)
	}
	must(t, h.Mark("begin"))
	return h
}

// wantHeld ends the connections and wants all to have lasted.
func wantHeld(t *testing.T, h *measure.Hold) {
	t.Helper()
	r, err := h.Stop()
	must(t, err)
	if r.Broken > 0 {
		t.Errorf("%d of %d open connections broke: %+v; first %+v", r.Broken, r.Opened, r.Reasons, r.Breaks[0])
	}
}

// open opens new connections from a host to an address until the result is called,
// which wants each to have been served.
func (l *lab) open(t *testing.T, from string, addr netip.Addr) (wantServed func()) {
	t.Helper()
	o := measure.StartOpening(t.Context(), l.c.Box(from), l.self, measure.FlowsOpts{
		Target: netip.AddrPortFrom(addr, system.Port), Count: 25, Interval: 2 * probeInterval,
	})
	t.Cleanup(func() { _, _ = o.Stop() })
	return func() {
		t.Helper()
		r, err := o.Stop()
		must(t, err)
		if len(r.Lost) > 0 || r.Flows == 0 {
			t.Errorf("%d of %d new connections failed: %+v", len(r.Lost), r.Flows, r.Lost)
		}
	}
}

// mac is that of a node's link to the LAN.
func (l *lab) mac(t *testing.T, node string) string {
	t.Helper()
	for mac, n := range l.macs {
		if n == node {
			return mac
		}
	}
	t.Fatalf("%s has no MAC", node)
	return ""
}

// nodesOf names the nodes of MACs.
func (l *lab) nodesOf(macs []string) []string {
	nodes := make([]string, len(macs))
	for i, m := range macs {
		nodes[i] = l.macs[m]
	}
	return nodes
}

// awaitWord waits for any Event on a Service whose message has all of parts.
func (l *lab) awaitWord(t *testing.T, limit time.Duration, service string, parts ...string) event {
	t.Helper()
	var found event
	within(t, limit, fmt.Sprintf("an event on service %s with %q", service, parts), func() error {
		events, err := l.kube.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.kind=Service,involvedObject.name=" + service,
		})
		if err != nil {
			return err
		}
		var seen []string
		for i := range events.Items {
			e := &events.Items[i]
			found = event{e.Reason, "Service", service, e.Message, e.Source.Component}
			if hasAll(e.Message, parts) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("events are %q", seen)
	})
	return found
}

// quiet is a host of the LAN that has nothing to do with the addresses: who asks from
// there refreshes nobody's neighbour entry.
const quiet = cluster.Control

// rivals sets up an address that a node owns, with endpoints on the others.
func (l *lab) rivals(t *testing.T, name string, addresses []string, adv ...string) owned {
	t.Helper()
	l.apply(t, pool(name, addresses), object("L2Advertisement", name, append([]string{"ipAddressPools: [" + name + "]"}, adv...)...))
	s := system.Service{Name: name}
	if len(addresses) == 2 {
		s = dualStack(s)
	}
	addrs := l.serveAll(t, s, name, len(addresses))
	o := owned{l: l, name: name, addr: addrs[0], addr6: addrs[len(addrs)-1], first: l.owner(t, addrs[0])}
	// The outage of a pod is not that of the address: the owner has none.
	l.endpointsOn(t, name, l.without(o.first)...)
	l.balanced(t, addrs, l.without(o.first)...)
	l.reachable(t, addrs...)
	return o
}

// owned is an address of each family, and the node that owns them while all is well.
type owned struct {
	l           *lab
	name        string
	addr, addr6 netip.Addr
	first       string
}
