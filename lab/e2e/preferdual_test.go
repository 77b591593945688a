package e2e_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestPreferDualStack is about Services that want an address of each family, and are
// content with one.
func TestPreferDualStack(t *testing.T) {
	l := frr(t)
	const (
		one4, one6 = "203.0.113.48/30", "fd00:48::/126"
		two4, two6 = "203.0.113.52/30", "fd00:52::/126"
	)
	prefer := ofFamilies(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)
	prefer6 := ofFamilies(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv6Protocol, corev1.IPv4Protocol)
	policy := func(p corev1.IPFamilyPolicy) string { return fmt.Sprintf(`{"spec":{"ipFamilyPolicy":%q}}`, p) }

	t.Run("a pool of both before pools of one", func(t *testing.T) {
		l.apply(t, pool("pd-a", []string{one4}), pool("pd-b", []string{two4, two6}), pool("pd-c", []string{one6}))
		l.awaitFrom(t, l.put(t, "pd-both", prefer), "pd-b", two4, two6)
	})
	t.Run("IPv4 where no pool has both", func(t *testing.T) {
		l.apply(t, pool("pd-four", []string{one4}), pool("pd-six", []string{one6}))
		l.awaitFrom(t, l.put(t, "pd-four", prefer), "pd-four", one4)
		l.awaitEvent(t, namespace, "Service", "pd-four", "AdditionalAssignFailed", "PoolExhausted")
	})
	t.Run("IPv6 where that is the first family", func(t *testing.T) {
		l.apply(t, pool("pd-four", []string{one4}), pool("pd-six", []string{one6}))
		l.awaitFrom(t, l.put(t, "pd-six", prefer6), "pd-six", one6)
	})
	t.Run("the second comes when the pool has it", func(t *testing.T) {
		l.apply(t, pool("pd-grows", []string{one4}))
		o := l.put(t, "pd-grows", prefer)
		first := l.awaitFrom(t, o, "pd-grows", one4)[0]
		l.apply(t, pool("pd-grows", []string{one4, one6}))
		l.awaitFrom(t, o, "pd-grows", first+"/32", one6)
	})
	t.Run("prefer and require by turns", func(t *testing.T) {
		l.apply(t, pool("pd-single", []string{one4}))
		o := l.put(t, "pd-turns", prefer)
		for range 2 {
			l.awaitFrom(t, o, "pd-single", one4)
			l.change(t, o, policy(corev1.IPFamilyPolicyRequireDualStack))
			l.awaitFrom(t, o, "")
			l.change(t, o, policy(corev1.IPFamilyPolicyPreferDualStack))
		}
		l.awaitFrom(t, o, "pd-single", one4)
		l.awaitEvent(t, namespace, "Service", o.Name, "AllocationFailed", "PoolExhausted")
	})
	t.Run("no move to a pool of both that comes later", func(t *testing.T) {
		l.apply(t, pool("pd-old", []string{one4}))
		o := l.holding(t, l.put(t, "pd-stays", prefer), "pd-old", one4)
		l.apply(t, pool("pd-new", []string{two4, two6}))
		l.awaitFrom(t, l.put(t, "pd-later", prefer), "pd-new", two4, two6)
		now := l.holding(t, o, "pd-old", one4)
		if addressesOf(now)[0] != addressesOf(o)[0] {
			t.Errorf("it had %s and has %s", addressesOf(o), addressesOf(now))
		}
	})
	t.Run("to another pool of both when its own loses one", func(t *testing.T) {
		l.apply(t, pool("pd-first", []string{one4, one6}))
		o := l.put(t, "pd-moves", prefer)
		l.awaitFrom(t, o, "pd-first", one4, one6)
		l.apply(t, pool("pd-second", []string{two4, two6}))
		l.apply(t, pool("pd-first", []string{one4}))
		l.awaitFrom(t, o, "pd-second", two4, two6)
	})
}
