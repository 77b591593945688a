package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// TestBadInput writes everything that users get wrong, while probes watch two
// addresses that are announced: of each bad object an Event and the state of every
// component that it concerns must tell which field is wrong; nothing that is
// announced may suffer; and all must be forgotten when the object is mended.
func TestBadInput(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	l.apply(t, pool("good-l2", []string{"192.168.1.212/32"}), object("L2Advertisement", "good-l2", "ipAddressPools: [good-l2]"))
	advertise(t, l, "good-bgp", []string{"198.51.100.48/32"})
	arp := l.serve(t, system.Service{Name: "good-l2"}, "good-l2")
	route := l.serve(t, system.Service{Name: "good-bgp"}, "good-bgp")
	l.owner(t, arp)
	l.wantHops(t, host(route), l.c.Nodes()...)
	near, far := l.probe(t, cluster.Client, arp), l.probe(t, cluster.Remote, route)
	before, err := l.sessions(t.Context())
	must(t, err)

	for _, b := range badObjects() {
		t.Run(b.name, func(t *testing.T) {
			l.apply(t, b.bad)
			l.awaitProblem(t, b.kind, b.object, b.reason, b.field, b.says, b.speakersOnly)
			l.apply(t, b.good)
			l.awaitNoProblem(t, b.kind, b.object, b.speakersOnly)
		})
	}
	t.Run("service asks for an address outside every pool", func(t *testing.T) {
		l.create(t, system.Service{Name: "greedy", Annotations: map[string]string{askFor: "203.0.113.9"}})
		l.awaitEvent(t, namespace, "Service", "greedy", "AllocationFailed", "203.0.113.9", "is in no IPAddressPool")
		l.apply(t, pool("late", []string{"203.0.113.8/30"}))
		if got := l.addresses(t, "greedy", 1)[0]; got != netip.MustParseAddr("203.0.113.9") {
			t.Errorf("it got %s", got)
		}
	})

	if n, longest := l.lost(t, near); n > 0 {
		t.Errorf("Layer 2: %d probes lost within %s", n, longest)
	}
	if n, longest := l.lost(t, far); n > 0 {
		t.Errorf("BGP: %d probes lost within %s", n, longest)
	}
	after, err := l.sessions(t.Context())
	must(t, err)
	if !slices.Equal(ports(before), ports(after)) {
		t.Errorf("sessions were lost:\nbefore %v\nafter  %v", before, after)
	}
}

// ports tells sessions apart.
func ports(sessions map[string]session) []string {
	var out []string
	for addr, s := range sessions {
		out = append(out, fmt.Sprint(addr, s.Port, s.State))
	}
	slices.Sort(out)
	return out
}

// badObject is an object that is wrong and then mended.
type badObject struct {
	name, kind, object string
	bad, good          string
	field, says        string // of the Event and the state
	reason             string // of the Event
	speakersOnly       bool   // the controller does not read what is wrong, and records no Event
}

func badObjects() []badObject {
	const setAside, partly = "SetAside", "PartlyInForce"
	badPool := func(object, name, field, says string, addresses ...string) badObject {
		return badObject{
			name: name, kind: "IPAddressPool", object: object, bad: pool(object, addresses), good: pool(object, []string{"203.0.113.32/30"}),
			reason: setAside, field: field, says: says,
		}
	}
	return []badObject{
		badPool("bad-text", "range that cannot be read", "spec.addresses[1]", `"203.0.113.300"`, "203.0.113.32/30", "203.0.113.300"),
		badPool("bad-order", "range reversed", "spec.addresses[0]", "reversed", "203.0.113.40-203.0.113.33"),
		badPool("bad-twice", "range overlaps within the pool", "spec.addresses[1]", "overlaps", "203.0.113.32/28", "203.0.113.40-203.0.113.50"),
		badPool("bad-same", "range given twice", "spec.addresses[1]", "overlaps", "203.0.113.32/30", "203.0.113.32/30"),
		badPool("bad-mixed", "range of two families", "spec.addresses[0]", "mixes IPv4 and IPv6", "203.0.113.32-fd00:203::1"),
		badPool("bad-overlap", "range overlaps with another pool", "spec.addresses", `"good-l2"`, "192.168.1.211-192.168.1.213"),
		{
			name: "L2Advertisement of an unknown pool", kind: "L2Advertisement", object: "bad-l2", reason: setAside,
			bad: object("L2Advertisement", "bad-l2", "ipAddressPools: [nowhere]"), good: object("L2Advertisement", "bad-l2", "ipAddressPools: [good-l2]"),
			field: "spec.ipAddressPools[0]", says: `"nowhere"`,
		},
		{
			name: "BGPAdvertisement of a known and an unknown pool", kind: "BGPAdvertisement", object: "bad-bgp", reason: partly,
			bad:   object("BGPAdvertisement", "bad-bgp", "ipAddressPools: [good-bgp, nowhere]"),
			good:  object("BGPAdvertisement", "bad-bgp", "ipAddressPools: [good-bgp]"),
			field: "spec.ipAddressPools[1]", says: `"nowhere"`,
		},
		{
			name: "BGPPeer with password and passwordSecret", kind: "BGPPeer", object: "bad-peer", reason: setAside,
			bad:   peer("bad-peer", "192.168.1.60", routerAS, "password: one", "passwordSecret: {name: two}"),
			good:  peer("bad-peer", "192.168.1.60", routerAS, "password: one"),
			field: "spec.passwordSecret", says: "exclude each other",
		},
		{
			name: "BGPPeer with a Secret that is not there", kind: "BGPPeer", object: "bad-peer-secret",
			bad:   peer("bad-peer-secret", "192.168.1.61", routerAS, "passwordSecret: {name: e2e-missing}"),
			good:  peer("bad-peer-secret", "192.168.1.61", routerAS),
			field: "spec.passwordSecret", says: `"e2e-missing"`, speakersOnly: true,
		},
		{
			name: "good BGPPeer made bad", kind: "BGPPeer", object: "router1-v4", reason: partly,
			bad:   peer("router1-v4", "not an address", routerAS, "holdTime: "+holdTime.String()),
			good:  peer("router1-v4", router4, routerAS, "holdTime: "+holdTime.String()),
			field: "spec.peerAddress", says: `"not an address"`,
		},
	}
}

// components are the names of the ConfigurationStates.
func (l *lab) components(speakersOnly bool) []string {
	var out []string
	for _, node := range l.c.Nodes() {
		out = append(out, "speaker-"+node)
	}
	if !speakersOnly {
		out = append(out, "controller")
	}
	return out
}

// awaitProblem waits until an Event and every component say what is wrong.
func (l *lab) awaitProblem(t *testing.T, kind, name, reason, field, says string, speakersOnly bool) {
	t.Helper()
	if !speakersOnly {
		l.awaitEvent(t, system.Namespace, kind, name, reason, field, says)
	}
	if reason != "PartlyInForce" || kind == "IPAddressPool" { // else it may be a reference
		l.awaitCondition(t, kind, name, "Accepted", "False", field, says)
	}
	if says == `"nowhere"` {
		return // as in MetalLB, ConfigurationStates pass over references that lead nowhere
	}
	for _, c := range l.components(speakersOnly || kind != "IPAddressPool" && kind != "Community") {
		l.awaitState(t, c, "Invalid", func(summary string) error {
			for line := range strings.Lines(summary) {
				if hasAll(line, []string{kind, name, field, says}) {
					return nil
				}
			}
			return fmt.Errorf("it says %q", summary)
		})
	}
}

// stateMessage returns what a ConfigurationState says of the configuration in its condition: one
// line for each problem.
func (l *lab) stateMessage(ctx context.Context, component string) (string, error) {
	text, err := l.field(ctx, "ConfigurationState", component, "status", "conditions")
	for c := range strings.SplitSeq(text, "map[") {
		if strings.Contains(c, "type:configReconcilerValid") || strings.Contains(c, "type:poolReconcilerValid") {
			_, c, _ = strings.Cut(c, "message:")
			c, _, _ = strings.Cut(c, " reason:")
			return c, err
		}
	}
	return "", err
}

// awaitNoProblem waits until an Event says that the object is in force, and all
// components that nothing is wrong.
func (l *lab) awaitNoProblem(t *testing.T, kind, name string, speakersOnly bool) {
	t.Helper()
	if !speakersOnly {
		l.awaitEvent(t, system.Namespace, kind, name, "InForce")
	}
	l.awaitCondition(t, kind, name, "Accepted", "True")
	l.awaitCondition(t, kind, name, "ResolvedRefs", "True")
	for _, c := range l.components(speakersOnly) {
		l.awaitState(t, c, "Valid", func(summary string) error {
			if summary != "" {
				return fmt.Errorf("it says %q", summary)
			}
			return nil
		})
	}
}

// awaitState waits until a ConfigurationState has a result, and its condition a message.
func (l *lab) awaitState(t *testing.T, component, result string, summary func(string) error) {
	t.Helper()
	eventually(t, "ConfigurationState "+component+" to be "+result, func() error {
		got, err := l.field(t.Context(), "ConfigurationState", component, "status", "result")
		if err != nil {
			return err
		}
		if got != result {
			return fmt.Errorf("it is %s", got)
		}
		text, err := l.stateMessage(t.Context(), component)
		if err != nil {
			return err
		}
		return summary(text)
	})
}

// TestBadEdit makes the pools of announced addresses bad: they stay announced, even
// by a controller and a speaker that have never seen the good version.
func TestBadEdit(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	good4, good6 := []string{"192.168.1.214/32"}, []string{"198.51.100.49/32"}
	l.apply(t, pool("edit-l2", good4), object("L2Advertisement", "edit-l2", "ipAddressPools: [edit-l2]"))
	advertise(t, l, "edit-bgp", good6)
	arp := l.serve(t, system.Service{Name: "edit-l2"}, "edit-l2")
	route := l.serve(t, system.Service{Name: "edit-bgp"}, "edit-bgp")
	first := l.owner(t, arp)
	l.wantHops(t, host(route), l.c.Nodes()...)
	near, far := l.probe(t, cluster.Client, arp), l.probe(t, cluster.Remote, route)

	l.apply(t, pool("edit-l2", []string{"192.168.1.214-192.168.1.2"}), pool("edit-bgp", []string{"198.51.100.49"}))
	l.awaitProblem(t, "IPAddressPool", "edit-l2", "PartlyInForce", "spec.addresses[0]", "reversed", false)
	l.awaitProblem(t, "IPAddressPool", "edit-bgp", "PartlyInForce", "spec.addresses[0]", "198.51.100.49", false)

	l.killController(t)
	l.startController(t)
	must(t, l.sys.StopSpeaker(t.Context(), first))
	<-l.sys.Speaker(first).Done()
	l.startSpeaker(t, first)
	l.awaitProblem(t, "IPAddressPool", "edit-l2", "SetAside", "spec.addresses[0]", "reversed", false)
	l.ownerIs(t, arp, first)
	l.wantHops(t, host(route), l.c.Nodes()...)
	for name, addr := range map[string]netip.Addr{"edit-l2": arp, "edit-bgp": route} {
		if got := l.addresses(t, name, 1)[0]; got != addr {
			t.Errorf("%s has %s now, want %s", name, got, addr)
		}
	}
	// What it does not hold nobody gets of a bad pool.
	l.create(t, system.Service{Name: "edit-late", Annotations: map[string]string{fromPool: "edit-l2"}})
	l.awaitEvent(t, namespace, "Service", "edit-late", "AllocationFailed", "edit-l2")

	l.apply(t, pool("edit-l2", good4), pool("edit-bgp", good6))
	l.awaitNoProblem(t, "IPAddressPool", "edit-l2", false)
	l.awaitNoProblem(t, "IPAddressPool", "edit-bgp", false)
	l.ownerIs(t, arp, first)
	l.wantHops(t, host(route), l.c.Nodes()...)
	if n, longest := l.lost(t, near); n > 0 {
		t.Errorf("Layer 2: %d probes lost within %s", n, longest)
	}
	// The restarted speaker leaves the route and returns: the router moves flows.
	if n, longest := l.lost(t, far); n > 0 {
		t.Errorf("BGP: %d probes lost within %s", n, longest)
	}
	got, err := l.kube.CoreV1().Services(namespace).Get(t.Context(), "edit-l2", metav1.GetOptions{})
	must(t, err)
	if got.Annotations[allocated] != "edit-l2" {
		t.Errorf("annotation %s is %q", allocated, got.Annotations[allocated])
	}
}
