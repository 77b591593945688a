package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// TestGuardedPoolEdits shrinks and deletes a pool under a Service. With
// --pool-edits=guard the Service keeps its address, which stays announced; the pool
// says who stands in the way, and goes with him.
func TestGuardedPoolEdits(t *testing.T) {
	l := frr(t)
	l.killController(t)
	guard, err := l.sys.StartNamedController(t.Context(), "guard", "--pool-edits=guard")
	must(t, err)
	l.undo(t, "stop the guarding controller", func(context.Context) error { return guard.Stop(patience) })
	l.awaitReady(t, cluster.Control)
	l.apply(t, pool("guarded", []string{"192.168.1.231-192.168.1.239"}), object("L2Advertisement", "guarded", "ipAddressPools: [guarded]"))
	l.create(t, system.Service{Name: "guarded"})
	addr := l.addresses(t, "guarded", 1)[0]
	l.owner(t, addr)
	l.awaitPool(t, "the finalizer", func(text string) bool { return strings.Contains(text, "barelb.io/in-use") }, "metadata", "finalizers")

	l.apply(t, pool("guarded", []string{"192.168.1.238-192.168.1.239"}))
	standsInTheWay := func(text string) bool {
		return strings.Contains(text, "EditHeldBack") && strings.Contains(text, "default/guarded ("+addr.String()+")")
	}
	l.awaitPool(t, "the condition after it was shrunk", standsInTheWay, "status", "conditions")
	l.awaitEvent(t, namespace, "Service", "guarded", "PoolEditHeldBack", addr.String())
	l.keepsAndIsAnnounced(t, "guarded", addr)

	pools := l.objects("IPAddressPool", system.Namespace)
	must(t, pools.Delete(t.Context(), "guarded", metav1.DeleteOptions{}))
	l.create(t, system.Service{Name: "latecomer"})
	l.awaitEvent(t, namespace, "Service", "latecomer", "AllocationFailed")
	l.awaitPool(t, "the condition after it was deleted", standsInTheWay, "status", "conditions")
	l.keepsAndIsAnnounced(t, "guarded", addr)

	l.delete(t, "guarded")
	eventually(t, "the end of the pool", func() error {
		_, err := pools.Get(t.Context(), "guarded", metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		return gone(err)
	})
}

// awaitPool waits until a field of the pool "guarded", as text, is as ok wants it.
func (l *lab) awaitPool(t *testing.T, what string, ok func(string) bool, path ...string) {
	t.Helper()
	eventually(t, what, func() error {
		text, err := l.field(t.Context(), "IPAddressPool", "guarded", path...)
		if err == nil && !ok(text) {
			err = fmt.Errorf("it says %s", text)
		}
		return err
	})
}

// keepsAndIsAnnounced wants a Service to have the address, and somebody to answer for it.
func (l *lab) keepsAndIsAnnounced(t *testing.T, name string, addr netip.Addr) {
	t.Helper()
	if got := l.addresses(t, name, 1); !slices.Contains(got, addr) {
		t.Errorf("it has %v, want %s", got, addr)
	}
	l.owner(t, addr)
}
