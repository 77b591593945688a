package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// The annotations of MetalLB.
const (
	fromPool  = "metallb.io/address-pool"
	askFor    = "metallb.io/loadBalancerIPs"
	shareBy   = "metallb.io/allow-shared-ip"
	allocated = "metallb.io/ip-allocated-from-pool"
)

// create creates a Service that is deleted at the end of the test.
func (l *lab) create(t *testing.T, s system.Service) {
	t.Helper()
	l.undo(t, "delete service "+s.Name, func(ctx context.Context) error { return l.sys.DeleteService(ctx, namespace, s.Name) })
	must(t, l.sys.CreateService(t.Context(), s))
}

// serve creates a Service with an address from a pool, and returns the address;
// n are wanted of it.
func (l *lab) serve(t *testing.T, s system.Service, from string) netip.Addr {
	t.Helper()
	return l.serveAll(t, s, from, 1)[0]
}

func (l *lab) serveAll(t *testing.T, s system.Service, from string, n int) []netip.Addr {
	t.Helper()
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[fromPool] = from
	l.create(t, s)
	return l.addresses(t, s.Name, n)
}

// addresses waits until a Service has n addresses.
func (l *lab) addresses(t *testing.T, name string, n int) []netip.Addr {
	t.Helper()
	addrs, err := l.sys.AwaitAddresses(t.Context(), namespace, name, n)
	must(t, err)
	return addrs
}

// delete deletes a Service now.
func (l *lab) delete(t *testing.T, name string) {
	t.Helper()
	must(t, l.sys.DeleteService(t.Context(), namespace, name))
}

// service reads a Service.
func (l *lab) service(ctx context.Context, name string) (*corev1.Service, error) {
	return l.kube.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
}

// annotate sets annotations of a Service.
func (l *lab) annotate(t *testing.T, name, key, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
	_, err := l.kube.CoreV1().Services(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

// endpointsOn leaves a Service only those endpoints that are on the given nodes.
func (l *lab) endpointsOn(t *testing.T, service string, nodes ...string) {
	t.Helper()
	must(t, l.sys.WriteEndpoints(t.Context(), namespace, service)) // all of them
	slicesOf := l.kube.DiscoveryV1().EndpointSlices(namespace)
	all, err := slicesOf.List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	must(t, err)
	for i := range all.Items {
		o := &all.Items[i]
		for j := range o.Endpoints {
			e := &o.Endpoints[j]
			ready := slices.Contains(nodes, *e.NodeName)
			e.Conditions.Ready, e.Conditions.Serving = &ready, &ready
		}
		_, err := slicesOf.Update(t.Context(), o, metav1.UpdateOptions{})
		must(t, err)
	}
}

// balanced waits until the kube-proxy of every node sends what is for these addresses
// to pods of these nodes alone. When an outage begins, the one that takes over must
// not have yet to learn which pods there are: kube-proxy takes up to seconds for that.
func (l *lab) balanced(t *testing.T, addrs []netip.Addr, nodes ...string) {
	t.Helper()
	for _, proxy := range l.c.Nodes() {
		for _, addr := range addrs {
			eventually(t, "flows from "+proxy+" to pods of "+strings.Join(nodes, ", "), func() error {
				r, err := l.flows(t.Context(), proxy, netip.AddrPortFrom(addr, system.Port))
				if err != nil {
					return err
				}
				if i := slices.IndexFunc(r.Nodes, func(s measure.Share) bool { return !slices.Contains(nodes, s.Name) }); i >= 0 {
					err = fmt.Errorf("%d of %d were answered by a pod of %s", r.Nodes[i].Count, r.Flows, r.Nodes[i].Name)
				}
				return err
			})
		}
	}
}

// without returns the nodes but one.
func (l *lab) without(node string) []string {
	return slices.DeleteFunc(l.c.Nodes(), func(n string) bool { return n == node })
}
