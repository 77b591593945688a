package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBadRequest has Services ask for what cannot be. Each is told why, and nobody
// else notices.
func TestBadRequest(t *testing.T) {
	l := frr(t)
	const (
		good, reserved = "203.0.113.56/29", "203.0.113.64/30"
		held           = "203.0.113.60"
	)
	l.apply(t, pool("asked", []string{good, "fd00:56::/126"}), pool("pinned", []string{reserved}, "serviceAllocation: {namespaces: [nobody]}"),
		pool("third", []string{"203.0.113.68/30"}, "autoAssign: false"))
	neighbour := l.holding(t, l.put(t, "neighbour", asking(held)), "asked", held+"/32")
	old := func(ip string) edit { return func(o *corev1.Service) { o.Spec.LoadBalancerIP = ip } }
	both := ofFamilies(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)

	for i, c := range []struct {
		name   string
		reason string
		says   string
		edits  []edit
	}{
		{"no address at all", "InvalidRequest", `"junk" is not an IP address`, []edit{asking("junk")}},
		{"an address and junk", "InvalidRequest", `"junk" is not an IP address`, []edit{asking("203.0.113.57,junk")}},
		{"a prefix", "InvalidRequest", `"203.0.113.57/32" is not an IP address`, []edit{asking("203.0.113.57/32")}},
		{"two of one family", "InvalidRequest", "are both IPv4", []edit{asking("203.0.113.57, 203.0.113.58")}},
		{"three addresses", "InvalidRequest", "are both IPv4", []edit{both, asking("203.0.113.57,fd00:56::1,203.0.113.58")}},
		{"the field and the annotation", "InvalidRequest", "exclude each other", []edit{old("203.0.113.57"), asking("203.0.113.57")}},
		{"another family", "FamilyMismatch", "IPv6", []edit{asking("fd00:56::1")}},
		{"one address for two families", "FamilyMismatch", "IPv4 and IPv6", []edit{both, asking("203.0.113.57")}},
		{"outside every pool", "AddressNotInPool", "203.0.113.99", []edit{asking("203.0.113.99")}},
		{"outside its pool", "PoolNotFound", `"nowhere"`, []edit{bound("nowhere")}},
		{"of another pool than it names", "AddressNotInPool", `not from the requested pool "asked"`, []edit{asking("203.0.113.69"), bound("asked")}},
		{"of a pool reserved for others", "PoolNotAllowed", `"pinned"`, []edit{asking("203.0.113.65")}},
		{"reserved for others", "PoolNotAllowed", `"pinned"`, []edit{bound("pinned")}},
		{"held by another", "AddressInUse", "default/neighbour", []edit{asking(held)}},
		{"shared by nobody", "AddressInUse", "default/neighbour", []edit{asking(held), keyed("k")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := l.put(t, fmt.Sprintf("asks-%d", i), c.edits...)
			l.awaitRefused(t, o, c.reason, c.says)
			l.awaitFrom(t, o, "")
			l.untouched(t, neighbour)
		})
	}
	t.Run("both prefixes", func(t *testing.T) {
		o := l.put(t, "asks-both", note("metallb.universe.tf/loadBalancerIPs", "203.0.113.57"), asking("203.0.113.58"))
		l.awaitFrom(t, o, "asked", "203.0.113.58/32")
		l.awaitEvent(t, namespace, "Service", o.Name, "deprecatedAnnotation", "metallb.universe.tf/")
	})
	t.Run("mended", func(t *testing.T) {
		o := l.put(t, "asks-anew", asking("junk"))
		l.awaitRefused(t, o, "InvalidRequest", "junk")
		l.annotate(t, o.Name, askFor, "203.0.113.59")
		l.awaitFrom(t, o, "asked", "203.0.113.59/32")
	})
	l.untouched(t, neighbour)
}

// awaitRefused waits for the Event and the condition that say why a Service has no
// address.
func (l *lab) awaitRefused(t *testing.T, o *corev1.Service, reason, says string) {
	t.Helper()
	l.awaitEvent(t, o.Namespace, "Service", o.Name, "AllocationFailed", reason+": ", says)
	eventually(t, "condition "+reason+" of "+o.Name, func() error {
		now, err := l.kube.CoreV1().Services(o.Namespace).Get(t.Context(), o.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(now.Status.Conditions, addressAllocated)
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != reason || !strings.Contains(c.Message, says) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// TestOddPools has pools that look wrong and are not.
func TestOddPools(t *testing.T) {
	l := frr(t)
	t.Run("host bits", func(t *testing.T) {
		l.apply(t, pool("host-bits", []string{"203.0.113.79/30"}))
		l.awaitCondition(t, "IPAddressPool", "host-bits", "Accepted", "True")
		l.awaitUsage(t, "host-bits", 0, 4, 0, 0)
		l.awaitFrom(t, l.put(t, "host-bits", asking("203.0.113.76")), "host-bits", "203.0.113.76/32")
	})
	t.Run("spaces", func(t *testing.T) {
		l.apply(t, pool("spaces", []string{" 203.0.113.80 - 203.0.113.83 "}))
		l.awaitFrom(t, l.put(t, "spaces"), "spaces", "203.0.113.80/30")
	})
	t.Run("huge", func(t *testing.T) {
		const most = 1<<63 - 1
		l.apply(t, pool("huge", []string{"fd00::/16", "203.0.113.84/30"}))
		l.awaitUsage(t, "huge", 0, 4, 0, most)
		o := l.put(t, "huge", ofFamilies(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
		l.awaitFrom(t, o, "huge", "fd00::/16")
		l.awaitUsage(t, "huge", 0, 4, 1, most)
	})
}
