package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// TestControllerKilled kills a controller whose pool is exhausted: the next one must
// leave everybody what they hold, whoever else waits for it.
func TestControllerKilled(t *testing.T) {
	const holders, waiting = 50, 5
	l := frr(t)
	l.apply(t, pool("kill", []string{"203.0.113.64-203.0.113.113"}))
	services := l.kube.CoreV1().Services(namespace)
	create := func(name string) {
		l.undo(t, "delete service "+name, func(ctx context.Context) error { return gone(services.Delete(ctx, name, metav1.DeleteOptions{})) })
		_, err := services.Create(t.Context(), system.Service{Name: name}.Object(), metav1.CreateOptions{})
		must(t, err)
	}
	for i := range holders {
		create(fmt.Sprintf("kill-m-%02d", i))
	}
	var before map[string]string
	eventually(t, "addresses of 50 Services", func() error {
		all, err := services.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if before = held(all.Items); len(before) != holders {
			return fmt.Errorf("%d have one", len(before))
		}
		return nil
	})
	for i := range waiting { // in the order of names they come before and after the others
		create(fmt.Sprintf("kill-%c-%02d", "az"[i%2], i))
	}
	l.awaitEvent(t, namespace, "Service", fmt.Sprintf("kill-a-%02d", waiting-1), "AllocationFailed", "PoolExhausted")
	all, err := services.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	w, err := services.Watch(t.Context(), metav1.ListOptions{ResourceVersion: all.ResourceVersion})
	must(t, err)
	defer w.Stop()

	for range 5 {
		l.killController(t)
		l.startController(t)
	}
	// The last word of the new controller: it gives what is given back to one that waits.
	var first string
	for name := range before {
		first = max(first, name)
	}
	l.delete(t, first)
	freed := before[first]
	delete(before, first)
	for got := 0; got == 0; {
		e, ok := <-w.ResultChan()
		if !ok {
			t.Fatal("the watch has ended")
		}
		svc, ok := e.Object.(*corev1.Service)
		if !ok || svc.Name == first || len(svc.Status.LoadBalancer.Ingress) == 0 && before[svc.Name] == "" {
			continue
		}
		addr := address(svc)
		switch {
		case before[svc.Name] == "" && addr == freed:
			got++
		case before[svc.Name] != addr:
			t.Fatalf("%s has %q, and had %q", svc.Name, addr, before[svc.Name])
		}
	}
	after, err := services.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	now := held(after.Items)
	for name, addr := range now {
		if before[name] == "" && addr == freed {
			delete(now, name)
		}
	}
	if diff := cmp.Diff(before, now); diff != "" {
		t.Errorf("addresses have changed:\n%s", diff)
	}
}

// held maps Services to the addresses that they have.
func held(services []corev1.Service) map[string]string {
	out := map[string]string{}
	for i := range services {
		if a := address(&services[i]); a != "" {
			out[services[i].Name] = a
		}
	}
	return out
}

func address(s *corev1.Service) string {
	if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
		return in[0].IP
	}
	return ""
}

// TestAllocation asks for addresses in the ways that there are.
func TestAllocation(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("al-auto", []string{"192.168.1.216/30"}), pool("al-asked", []string{"192.168.1.220/30"}, "autoAssign: false"),
		object("L2Advertisement", "al", "ipAddressPools: [al-auto, al-asked]"))

	l.create(t, system.Service{Name: "al-auto"})
	auto := l.addresses(t, "al-auto", 1)[0]
	if !netip.MustParsePrefix("192.168.1.216/30").Contains(auto) {
		t.Errorf("unasked it got %s, which is of a pool for those who ask", auto)
	}
	l.awaitEvent(t, namespace, "Service", "al-auto", "IPAllocated", fmt.Sprintf("Assigned IP [%q]", auto))
	owner := l.owner(t, auto)
	l.awaitEvent(t, namespace, "Service", "al-auto", "nodeAssigned", fmt.Sprintf("announcing from node %q with protocol \"layer2\"", owner))

	want := netip.MustParseAddr("192.168.1.222")
	l.create(t, system.Service{Name: "al-explicit", Annotations: map[string]string{askFor: want.String()}})
	if got := l.addresses(t, "al-explicit", 1)[0]; got != want {
		t.Errorf("it asked for %s and got %s", want, got)
	}
	l.create(t, system.Service{Name: "al-taken", Annotations: map[string]string{askFor: want.String()}})
	l.awaitEvent(t, namespace, "Service", "al-taken", "AllocationFailed", "default/al-taken", "AddressInUse", want.String())

	byPool := l.serve(t, system.Service{Name: "al-pool"}, "al-asked")
	if !netip.MustParsePrefix("192.168.1.220/30").Contains(byPool) {
		t.Errorf("it asked for pool al-asked and got %s", byPool)
	}
	svc, err := l.service(t.Context(), "al-pool")
	must(t, err)
	if got := svc.Annotations[allocated]; got != "al-asked" {
		t.Errorf("annotation %s is %q", allocated, got)
	}
	l.awaitCounters(t, "al-asked", 2, 2)
	l.awaitCounters(t, "al-auto", 1, 3)

	// Another request moves it, and a typing error does not.
	l.annotate(t, "al-explicit", askFor, "192.168.1.223")
	eventually(t, "al-explicit to move", func() error {
		addrs := l.addresses(t, "al-explicit", 1)
		if addrs[0] != netip.MustParseAddr("192.168.1.223") {
			return fmt.Errorf("it has %s", addrs)
		}
		return nil
	})
	if got := l.addresses(t, "al-taken", 1)[0]; got != want { // freed, and waited for
		t.Errorf("the one that waited for %s got %s", want, got)
	}
	l.annotate(t, "al-explicit", askFor, "192.168.1.nonsense")
	l.awaitEvent(t, namespace, "Service", "al-explicit", "LoadBalancerFailed", "nonsense")
	l.ownerIs(t, netip.MustParseAddr("192.168.1.223"), l.c.Nodes()...)

	// A Service that is no load balancer any more gives its address back.
	patch := `{"spec":{"type":"ClusterIP","allocateLoadBalancerNodePorts":null,"externalTrafficPolicy":null}}`
	_, err = l.kube.CoreV1().Services(namespace).Patch(t.Context(), "al-auto", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
	l.awaitCounters(t, "al-auto", 0, 4)
	l.awaitSilence(t, auto)
	eventually(t, "status and annotation of al-auto to go", func() error {
		svc, err := l.service(t.Context(), "al-auto")
		if err == nil && (address(svc) != "" || svc.Annotations[allocated] != "") {
			err = fmt.Errorf("it has %q of %q", address(svc), svc.Annotations[allocated])
		}
		return err
	})
}

// TestPoolDeleted deletes the pool of a Service: it moves to another one.
func TestPoolDeleted(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("old", []string{"192.168.1.224/32"}), object("L2Advertisement", "moving", "ipAddressPoolSelectors: []"))
	l.create(t, system.Service{Name: "moving"})
	old := l.addresses(t, "moving", 1)[0]
	l.owner(t, old)
	l.apply(t, pool("new", []string{"192.168.1.225/32"}))
	l.remove(t, "IPAddressPool", "old")
	l.awaitSilence(t, old)
	l.owner(t, netip.MustParseAddr("192.168.1.225"))
	l.awaitEvent(t, namespace, "Service", "moving", "ClearAssignment", old.String())
}

// TestSharing has two Services on one address, which agree, and a third one that
// does not.
func TestSharing(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("share", []string{"192.168.1.226/31"}), object("L2Advertisement", "share", "ipAddressPools: [share]"))
	other := func(name, key string, port int32) {
		o := system.Service{Name: name, Annotations: map[string]string{shareBy: key, fromPool: "share"}}.Object()
		o.Spec.Ports = []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: port, TargetPort: intstr.FromString("http")}}
		l.undo(t, "delete service "+name, func(ctx context.Context) error { return l.sys.DeleteService(ctx, namespace, name) })
		must(t, l.sys.WriteEndpoints(t.Context(), namespace, name))
		_, err := l.kube.CoreV1().Services(namespace).Create(t.Context(), o, metav1.CreateOptions{})
		must(t, err)
	}
	addr := l.serve(t, system.Service{Name: "share-a", Annotations: map[string]string{shareBy: "us"}}, "share")
	other("share-b", "us", 81)
	if got := l.addresses(t, "share-b", 1)[0]; got != addr {
		t.Fatalf("they agree to share, but have %s and %s", addr, got)
	}
	l.awaitCounters(t, "share", 1, 1)
	l.owner(t, addr)
	for _, port := range []uint16{system.Port, 81} {
		eventually(t, fmt.Sprintf("flows to port %d", port), func() error {
			_, err := l.flows(t.Context(), cluster.Client, netip.AddrPortFrom(addr, port))
			return err
		})
	}
	other("share-c", "us", 80) // the port is taken
	other("share-d", "them", 82)
	third := l.addresses(t, "share-c", 1)[0]
	if third == addr {
		t.Errorf("two Services have port 80 of %s", addr)
	}
	l.awaitEvent(t, namespace, "Service", "share-d", "AllocationFailed", "PoolExhausted", "share")

	l.delete(t, "share-a")
	l.owner(t, addr)
	l.delete(t, "share-b")
	eventually(t, "share-d to get the address", func() error {
		if got := l.addresses(t, "share-d", 1); !slices.Contains(got, addr) {
			return errors.New(fmt.Sprint("it has ", got))
		}
		return nil
	})
}

// awaitCounters waits for the counters in the status of a pool.
func (l *lab) awaitCounters(t *testing.T, pool string, assigned, available int) {
	t.Helper()
	eventually(t, fmt.Sprintf("pool %s to say %d assigned, %d available", pool, assigned, available), func() error {
		var got [2]string
		for i, name := range []string{"assignedIPv4", "availableIPv4"} {
			var err error
			if got[i], err = l.field(t.Context(), "IPAddressPool", pool, "status", name); err != nil {
				return err
			}
		}
		if got != [2]string{fmt.Sprint(assigned), fmt.Sprint(available)} {
			return fmt.Errorf("it says %s", got)
		}
		return nil
	})
}
