package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/barelb/barelb/lab/system"
)

// These tests are about who gets which address. Their Services have no endpoints and
// nobody announces them: each takes a moment.

// addressAllocated is the condition that says whether a Service has its addresses.
const addressAllocated = "metallb.io/AddressAllocated"

type edit func(*corev1.Service)

func in(ns string) edit      { return func(o *corev1.Service) { o.Namespace = ns } }
func class(name string) edit { return func(o *corev1.Service) { o.Spec.LoadBalancerClass = &name } }
func bound(name string) edit { return note(fromPool, name) }
func asking(ips string) edit { return note(askFor, ips) }
func keyed(k string) edit    { return note(shareBy, k) }

func note(key, value string) edit {
	return func(o *corev1.Service) {
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[key] = value
	}
}

func labelled(key, value string) edit {
	return func(o *corev1.Service) { o.Labels = map[string]string{key: value} }
}

func onPort(n int32) edit {
	return func(o *corev1.Service) {
		o.Spec.Ports = []corev1.ServicePort{{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: n}}
	}
}

// ofFamilies makes the cluster IPs be of these families, the first one first.
func ofFamilies(policy corev1.IPFamilyPolicy, fams ...corev1.IPFamily) edit {
	return func(o *corev1.Service) { o.Spec.IPFamilyPolicy, o.Spec.IPFamilies = &policy, fams }
}

// put creates a Service with these changes, and deletes it at the end of the test.
func (l *lab) put(t *testing.T, name string, edits ...edit) *corev1.Service {
	t.Helper()
	o := system.Service{Name: name, Namespace: namespace}.Object()
	for _, e := range edits {
		e(o)
	}
	services := l.kube.CoreV1().Services(o.Namespace)
	l.undo(t, "delete service "+name, func(ctx context.Context) error {
		return gone(services.Delete(ctx, name, metav1.DeleteOptions{}))
	})
	made, err := services.Create(t.Context(), o, metav1.CreateOptions{})
	must(t, err)
	return made
}

// change applies a merge patch to a Service.
func (l *lab) change(t *testing.T, o *corev1.Service, patch string) {
	t.Helper()
	_, err := l.kube.CoreV1().Services(o.Namespace).Patch(t.Context(), o.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

// awaitFrom waits until a Service has an address of each of these ranges, in their
// order and no other, and its annotation names the pool. Without ranges it waits
// until the Service has nothing.
func (l *lab) awaitFrom(t *testing.T, o *corev1.Service, from string, ranges ...string) []string {
	t.Helper()
	var addrs []string
	eventually(t, fmt.Sprintf("addresses of %s from %q %s", o.Name, from, ranges), func() error {
		now, err := l.kube.CoreV1().Services(o.Namespace).Get(t.Context(), o.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		addrs = addressesOf(now)
		ok := len(addrs) == len(ranges) && now.Annotations[allocated] == from
		for i := range addrs {
			ok = ok && netip.MustParsePrefix(ranges[i]).Contains(netip.MustParseAddr(addrs[i]))
		}
		if !ok {
			return fmt.Errorf("it has %s from %q", addrs, now.Annotations[allocated])
		}
		return nil
	})
	return addrs
}

// untouched wants a Service to have what it had since, given at the same time and for
// the same reason.
func (l *lab) untouched(t *testing.T, since *corev1.Service) {
	t.Helper()
	now, err := l.kube.CoreV1().Services(since.Namespace).Get(t.Context(), since.Name, metav1.GetOptions{})
	must(t, err)
	told := func(o *corev1.Service) *metav1.Condition {
		return meta.FindStatusCondition(o.Status.Conditions, addressAllocated)
	}
	if !slices.Equal(addressesOf(since), addressesOf(now)) || !maps.Equal(since.Annotations, now.Annotations) || !reflect.DeepEqual(told(since), told(now)) {
		t.Errorf("%s had %s (%v), and has %s (%v)", now.Name, addressesOf(since), told(since), addressesOf(now), told(now))
	}
}

// holding waits until a Service has addresses, and returns it as it is then.
func (l *lab) holding(t *testing.T, o *corev1.Service, from string, ranges ...string) *corev1.Service {
	t.Helper()
	l.awaitFrom(t, o, from, ranges...)
	now, err := l.kube.CoreV1().Services(o.Namespace).Get(t.Context(), o.Name, metav1.GetOptions{})
	must(t, err)
	return now
}

// newNamespace creates a namespace with labels, and deletes it at the end of the test.
func (l *lab) newNamespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	o, err := l.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "assign-", Labels: labels}}, metav1.CreateOptions{})
	must(t, err)
	l.undo(t, "delete namespace", func(ctx context.Context) error {
		return l.kube.CoreV1().Namespaces().Delete(ctx, o.Name, metav1.DeleteOptions{})
	})
	return o.Name
}

// TestAssignment is about addresses that come and go.
func TestAssignment(t *testing.T) {
	l := frr(t)
	t.Run("freed by another type and handed on", func(t *testing.T) {
		l.apply(t, pool("one", []string{"203.0.113.1/32"}))
		first := l.put(t, "type-first")
		l.awaitFrom(t, first, "one", "203.0.113.1/32")
		next := l.put(t, "type-next")
		l.awaitEvent(t, namespace, "Service", next.Name, "AllocationFailed", "PoolExhausted")
		l.change(t, first, `{"spec":{"type":"ClusterIP","allocateLoadBalancerNodePorts":null,"externalTrafficPolicy":null}}`)
		l.awaitFrom(t, next, "one", "203.0.113.1/32")
		l.awaitFrom(t, first, "")
	})
	t.Run("all pools removed", func(t *testing.T) {
		l.apply(t, pool("gone", []string{"203.0.113.0/30"}))
		o := l.put(t, "poolless")
		addr := l.awaitFrom(t, o, "gone", "203.0.113.0/30")[0]
		l.remove(t, "IPAddressPool", "gone")
		l.awaitFrom(t, o, "")
		l.awaitEvent(t, namespace, "Service", o.Name, "ClearAssignment", addr)
		l.awaitEvent(t, namespace, "Service", o.Name, "AllocationFailed", "NoPool")
	})
	t.Run("another load balancer class", func(t *testing.T) {
		l.apply(t, pool("class", []string{"203.0.113.0/30"}))
		o := l.put(t, "class-foo", class("example.com/foo"))
		l.awaitFrom(t, l.put(t, "class-none"), "class", "203.0.113.0/30") // it came later, so the other has been seen
		l.untouched(t, o)
	})
	t.Run("sharing is evaluated anew", func(t *testing.T) { sharedAnew(t, l) })
	t.Run("status of a pool", func(t *testing.T) { poolStatus(t, l) })
	t.Run("edit that overlaps with another pool", func(t *testing.T) {
		l.apply(t, pool("ov-a", []string{"203.0.113.0/30"}), pool("ov-b", []string{"203.0.113.8/30"}))
		a := l.holding(t, l.put(t, "ov-a", bound("ov-a")), "ov-a", "203.0.113.0/30")
		b := l.holding(t, l.put(t, "ov-b", bound("ov-b")), "ov-b", "203.0.113.8/30")
		l.apply(t, pool("ov-b", []string{"203.0.113.2-203.0.113.11"}))
		l.awaitCondition(t, "IPAddressPool", "ov-b", "Accepted", "False", "Overlap", `"ov-a"`, "last good version")
		l.awaitFrom(t, l.put(t, "ov-late", bound("ov-b")), "ov-b", "203.0.113.8/30")
		l.untouched(t, a)
		l.untouched(t, b)
	})
	for _, family := range []struct {
		name, addrs string
		edit        edit
	}{
		{"IPv4", "203.0.113.16/30", ofFamilies(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol)},
		{"IPv6", "fd00:203::/126", ofFamilies(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol)},
	} {
		for _, auto := range []bool{true, false} {
			t.Run(fmt.Sprintf("requested pool %s autoAssign %t", family.name, auto), func(t *testing.T) {
				l.apply(t, pool("other", []string{"203.0.113.0/30", "fd00:113::/126"}), pool("wished", []string{family.addrs}, fmt.Sprintf("autoAssign: %t", auto)))
				l.awaitFrom(t, l.put(t, "wishing", family.edit, bound("wished")), "wished", family.addrs)
			})
		}
	}
}

// sharedAnew has two Services on the only address of a pool; each edit decides anew
// whether the second may be there.
func sharedAnew(t *testing.T, l *lab) {
	t.Helper()
	const only = "203.0.113.20/32"
	l.apply(t, pool("anew", []string{only}))
	a := l.put(t, "anew-a", keyed("k"), onPort(80))
	l.awaitFrom(t, a, "anew", only)
	b := l.put(t, "anew-b", keyed("k"), onPort(81))
	l.awaitFrom(t, b, "anew", only)
	for _, s := range []struct {
		name     string
		of       *corev1.Service
		patch    string
		together bool
	}{
		{"one is Local", b, `{"spec":{"externalTrafficPolicy":"Local"}}`, false},
		{"both are Local", a, `{"spec":{"externalTrafficPolicy":"Local"}}`, true},
		{"with other backends", b, `{"spec":{"selector":{"app":"other"}}}`, false},
		{"with the same again", b, `{"spec":{"selector":{"app":"web"}}}`, true},
		{"on one port", b, `{"spec":{"ports":[{"name":"tcp","protocol":"TCP","port":80}]}}`, false},
		{"on two ports", b, `{"spec":{"ports":[{"name":"tcp","protocol":"TCP","port":82}]}}`, true},
	} {
		l.change(t, s.of, s.patch)
		if s.together {
			l.awaitFrom(t, b, "anew", only)
		} else {
			l.awaitFrom(t, b, "")
		}
		l.awaitFrom(t, a, "anew", only)
		if t.Failed() {
			t.Fatalf("step %q has failed", s.name)
		}
	}
	l.awaitEvent(t, namespace, "Service", b.Name, "ClearAssignment", strings.TrimSuffix(only, "/32"))
}

// poolStatus has a dual-stack Service counted, and puts false numbers into the status.
func poolStatus(t *testing.T, l *lab) {
	t.Helper()
	l.apply(t, pool("count", []string{"203.0.113.24/30", "fd00:24::/125"}))
	l.awaitUsage(t, "count", 0, 4, 0, 8)
	o := l.put(t, "counted", ofFamilies(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	l.awaitFrom(t, o, "count", "203.0.113.24/30", "fd00:24::/125")
	l.awaitUsage(t, "count", 1, 3, 1, 7)
	patch := []byte(`{"status":{"assignedIPv4":77,"availableIPv4":77,"assignedIPv6":77,"availableIPv6":77}}`)
	_, err := l.objects("IPAddressPool", system.Namespace).Patch(t.Context(), "count", types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	must(t, err)
	l.awaitUsage(t, "count", 1, 3, 1, 7)
	must(t, l.kube.CoreV1().Services(namespace).Delete(t.Context(), o.Name, metav1.DeleteOptions{}))
	l.awaitUsage(t, "count", 0, 4, 0, 8)
}

// awaitUsage waits for all counters of a pool.
func (l *lab) awaitUsage(t *testing.T, pool string, assigned4, available4, assigned6, available6 int64) {
	t.Helper()
	want := fmt.Sprint(assigned4, available4, assigned6, available6)
	eventually(t, "counters of pool "+pool+" to be "+want, func() error {
		var got []string
		for _, name := range []string{"assignedIPv4", "availableIPv4", "assignedIPv6", "availableIPv6"} {
			v, err := l.field(t.Context(), "IPAddressPool", pool, "status", name)
			if err != nil {
				return err
			}
			got = append(got, v)
		}
		if text := strings.Join(got, " "); text != want {
			return errors.New("they are " + text)
		}
		return nil
	})
}

// TestServiceAllocation has pools that are for some Services only.
func TestServiceAllocation(t *testing.T) {
	const mine, everybody = "203.0.113.32/30", "203.0.113.36/30"
	for _, c := range []struct {
		name      string
		pinned    string // in serviceAllocation; NS stands for the namespace
		chosen    []edit
		stranger  []edit // gets an address of another pool
		elsewhere bool   // the stranger is in the namespace default
	}{
		{"namespace", "namespaces: [NS]", nil, nil, true},
		{"namespace and namespace labels", "namespaces: [NS], namespaceSelectors: [{matchLabels: {team: nobody}}]", nil, nil, true},
		{"namespace labels", "namespaceSelectors: [{matchLabels: {team: blue}}]", nil, nil, true},
		{"service label", "serviceSelectors: [{matchLabels: {for: us}}]", []edit{labelled("for", "us")}, []edit{labelled("for", "them")}, false},
		{"namespace and service label", "namespaces: [NS], serviceSelectors: [{matchLabels: {for: us}}]", []edit{labelled("for", "us")}, []edit{labelled("for", "us")}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := frr(t)
			ns := l.newNamespace(t, map[string]string{"team": "blue"})
			l.apply(t, pool("all", []string{everybody}),
				pool("pinned", []string{mine}, "serviceAllocation: {priority: 1, "+strings.ReplaceAll(c.pinned, "NS", ns)+"}"))
			l.awaitFrom(t, l.put(t, "chosen", append(slices.Clone(c.chosen), in(ns))...), "pinned", mine)
			other := ns
			if c.elsewhere {
				other = namespace
			}
			stranger := l.put(t, "stranger", append(slices.Clone(c.stranger), in(other))...)
			l.awaitFrom(t, stranger, "all", everybody)
			// Asking for the pool does not open it.
			l.change(t, stranger, fmt.Sprintf(`{"metadata":{"annotations":{%q:"pinned"}}}`, fromPool))
			l.awaitEvent(t, other, "Service", "stranger", "AllocationFailed", "PoolNotAllowed", `"pinned"`)
			l.awaitFrom(t, stranger, "")
		})
	}
	t.Run("priority", func(t *testing.T) {
		l := frr(t)
		l.apply(t, pool("p-last", []string{"203.0.113.40/32"}, "serviceAllocation: {priority: 0}"),
			pool("p-second", []string{"203.0.113.41/32"}, "serviceAllocation: {priority: 20}"),
			pool("p-third", []string{"203.0.113.42/32"}, "serviceAllocation: {priority: 30}"))
		for i, from := range []string{"p-second", "p-third", "p-last"} {
			l.awaitFrom(t, l.put(t, fmt.Sprintf("ranked-%d", i)), from, "203.0.113.40/30")
		}
	})
	t.Run("namespace gets another label", func(t *testing.T) {
		l := frr(t)
		ns := l.newNamespace(t, map[string]string{"team": "red"})
		l.apply(t, pool("all", []string{everybody}), pool("blue", []string{mine}, "serviceAllocation: {namespaceSelectors: [{matchLabels: {team: blue}}]}"))
		relabel := func(team string) {
			_, err := l.kube.CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"`+team+`"}}}`), metav1.PatchOptions{})
			must(t, err)
		}
		early := l.holding(t, l.put(t, "early", in(ns)), "all", everybody)
		waits := l.put(t, "waits", in(ns), bound("blue"))
		l.awaitEvent(t, ns, "Service", waits.Name, "AllocationFailed", "PoolNotAllowed", `"blue"`)
		relabel("blue")
		l.awaitFrom(t, waits, "blue", mine)
		l.untouched(t, early) // what a Service has it keeps: that pool is for everybody
		relabel("red")
		l.awaitFrom(t, waits, "")
		l.untouched(t, early)
	})
}
