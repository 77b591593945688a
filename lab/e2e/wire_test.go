package e2e_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// useElsewhere gives the client of the lab further addresses until the end of the test, and
// returns its MAC.
func (l *lab) useElsewhere(t *testing.T, prefixes ...string) string {
	t.Helper()
	client := l.c.Box(cluster.Client)
	for _, p := range prefixes {
		add := []string{"addr", "replace", p, "dev", "eth0"}
		if strings.Contains(p, ":") {
			add = append(add, "nodad")
		}
		l.undo(t, "take "+p+" from the client", func(ctx context.Context) error {
			return client.Command(ctx, "sh", "-c", "ip addr del "+p+" dev eth0 2>/dev/null || true").Run()
		})
		must(t, client.Command(t.Context(), "ip", add...).Run())
	}
	mac := ""
	must(t, client.InNetns(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = link.HardwareAddr.String()
		}
		return err
	}))
	return mac
}

// conflicts lists the AddressConflicts as address, MAC and link, sorted; and who
// reported them.
func (l *lab) conflicts(ctx context.Context) (found, reporters []string, err error) { //nolint:nonamedreturns // tells the two apart
	list, err := l.objects("AddressConflict", system.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	for _, o := range list.Items {
		field := func(name string) string {
			v, _, _ := unstructured.NestedString(o.Object, "spec", name)
			return v
		}
		found = append(found, fmt.Sprintf("%s %s %s", field("address"), field("mac"), field("interface")))
		reporters = append(reporters, field("node"))
	}
	slices.Sort(found)
	return found, reporters, nil
}

// awaitConflicts waits until there are just these AddressConflicts.
func (l *lab) awaitConflicts(t *testing.T, want ...string) []string {
	t.Helper()
	var by []string
	eventually(t, fmt.Sprintf("address conflicts %q", want), func() error {
		found, reporters, err := l.conflicts(t.Context())
		if by = reporters; err == nil && !slices.Equal(found, want) {
			err = fmt.Errorf("there are %q", found)
		}
		return err
	})
	return by
}

// What a host outside the cluster uses is reported, and only that, for as long as it
// does and a pool has it. It is not given, also to who asks for it, until it is free.
func TestAddressesThatOthersUse(t *testing.T) {
	l := frr(t)
	const taken, prefix = "192.168.1.235", "192.168.1.235/24"
	mac := l.useElsewhere(t, prefix, "fd00:1::2:31/64")
	l.apply(t, pool("wire", []string{taken + "-192.168.1.237", "fd00:1::2:30-fd00:1::2:33"}, "autoAssign: false"))
	both := []string{taken + " " + mac + " eth0", "fd00:1::2:31 " + mac + " eth0"}
	for _, node := range l.awaitConflicts(t, both...) {
		if !slices.Contains(l.c.Nodes(), node) {
			t.Errorf("reported by %q, which is no node", node)
		}
	}
	eventually(t, "the condition of the pool", func() error {
		text, err := l.field(t.Context(), "IPAddressPool", "wire", "status", "conditions")
		if err == nil && (!strings.Contains(text, "AddressesInUseOnWire") || !strings.Contains(text, taken+" is used by "+mac)) {
			err = fmt.Errorf("conditions are %s", text)
		}
		return err
	})

	// A Service gets an address that nobody uses, and its owner is no stranger.
	l.apply(t, object("L2Advertisement", "wire", "ipAddressPools: [wire]"))
	addr := l.serve(t, system.Service{Name: "wire"}, "wire")
	if addr.String() == taken {
		t.Fatalf("a Service got %s, which the client uses", taken)
	}
	l.owner(t, addr)
	l.delete(t, "wire")
	l.awaitSilence(t, addr)
	asks := system.Service{Name: "asks", Annotations: map[string]string{askFor: taken}}
	l.create(t, asks)
	l.awaitEvent(t, namespace, "Service", asks.Name, "AllocationFailed", "AddressInUseOnWire", mac)

	must(t, l.c.Box(cluster.Client).Command(t.Context(), "ip", "addr", "del", prefix, "dev", "eth0").Run())
	if got := l.addresses(t, asks.Name, 1)[0]; got.String() != taken {
		t.Errorf("the Service that waits got %s, want %s", got, taken)
	}
	l.awaitConflicts(t, both[1])

	// Without its pool a conflict concerns nobody, and it goes though it still is one.
	l.remove(t, "IPAddressPool", "wire")
	l.awaitConflicts(t)
}

// When the node that reported a conflict is gone, another one finds out that it is over.
func TestConflictWhoseReporterIsGone(t *testing.T) {
	l := frr(t)
	const prefix = "192.168.1.239/24"
	mac := l.useElsewhere(t, prefix)
	l.apply(t, pool("orphan", []string{"192.168.1.239/32"}, "autoAssign: false"))
	reporter := l.awaitConflicts(t, "192.168.1.239 "+mac+" eth0")[0]
	l.killSpeaker(t, reporter)
	must(t, l.c.Box(cluster.Client).Command(t.Context(), "ip", "addr", "del", prefix, "dev", "eth0").Run())
	// The others miss the speaker for some seconds, and ask within the next minute.
	within(t, 2*patience, "the end of the conflict", func() error {
		found, _, err := l.conflicts(t.Context())
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("there are %q", found)
		}
		return err
	})
	if !ended(l.sys.Speaker(reporter)) {
		t.Errorf("the speaker of %s has come back by itself: it proves nothing", reporter)
	}
}
