package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/barelb/barelb/lab/system"
)

// TestAnnouncementStatus compares what ServiceL2Status and ServiceBGPStatus say with
// who answers, and with the router's next hops.
func TestAnnouncementStatus(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	l.apply(t, pool("status", []string{"192.168.1.244/32"}), object("L2Advertisement", "status", "ipAddressPools: [status]"))
	advertise(t, l, "status-bgp", []string{"198.51.100.120/32"})

	routed := l.serve(t, system.Service{Name: "status-bgp"}, "status-bgp")
	l.wantHops(t, host(routed), l.c.Nodes()...)
	var told []string
	for _, node := range l.c.Nodes() {
		told = append(told, node+" [router1-v4]")
	}
	l.awaitStatus(t, "ServiceBGPStatus", "status-bgp", told...)
	l.awaitStatus(t, "ServiceL2Status", "status-bgp")

	addr := l.serve(t, system.Service{Name: "status"}, "status")
	owner := l.owner(t, addr)
	before := l.awaitStatus(t, "ServiceL2Status", "status", owner+" []")
	l.stays(t, "ServiceL2Status", "status", before)
	l.awaitStatus(t, "ServiceBGPStatus", "status")

	// It goes with the address: when its node gives it up, and when the node fails.
	l.changeNode(t, owner, exclude, include)
	second := l.ownerIs(t, addr, l.without(owner)...)
	l.awaitStatus(t, "ServiceL2Status", "status", second+" []")
	must(t, l.c.Cut(second))
	third := l.ownerIs(t, addr, slices.DeleteFunc(l.without(owner), func(n string) bool { return n == second })...)
	l.awaitStatus(t, "ServiceL2Status", "status", third+" []")
	must(t, l.c.Restore(second))
	l.awaitStatus(t, "ServiceL2Status", "status", l.owner(t, addr)+" []")

	l.delete(t, "status")
	l.delete(t, "status-bgp")
	l.awaitStatus(t, "ServiceL2Status", "status")
	l.awaitStatus(t, "ServiceBGPStatus", "status-bgp")
}

// awaitStatus waits until the objects about a Service say what is wanted: a node and
// its links or peers each. It returns their versions.
func (l *lab) awaitStatus(t *testing.T, kind, service string, want ...string) []string {
	t.Helper()
	var versions []string
	eventually(t, fmt.Sprintf("%s of %s to say %q", kind, service, want), func() error {
		items, err := l.statuses(t.Context(), kind, service)
		if err != nil {
			return err
		}
		var got []string
		versions = nil
		for i := range items {
			o := &items[i]
			status, _, err := unstructured.NestedMap(o.Object, "status")
			if err != nil {
				return err
			}
			names := status["peers"]
			if kind == "ServiceL2Status" {
				names = status["interfaces"]
			}
			if names == nil {
				names = []string{}
			}
			got = append(got, fmt.Sprintf("%v %v", status["node"], names))
			versions = append(versions, o.GetName()+"@"+o.GetResourceVersion())
			if status["serviceName"] != service || status["serviceNamespace"] != namespace {
				return fmt.Errorf("it is about %v/%v", status["serviceNamespace"], status["serviceName"])
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("they say %q", got)
		}
		return nil
	})
	slices.Sort(versions)
	return versions
}

// statuses returns the objects about a Service, by MetalLB's labels.
func (l *lab) statuses(ctx context.Context, kind, service string) ([]unstructured.Unstructured, error) {
	all, err := l.objects(kind, system.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: strings.Join([]string{group + "/service-name=" + service, group + "/service-namespace=" + namespace}, ","),
	})
	if err != nil {
		return nil, err
	}
	return all.Items, nil
}

// stays wants the objects about a Service to be the same, and unchanged, for 5 s.
func (l *lab) stays(t *testing.T, kind, service string, want []string) {
	t.Helper()
	end := time.NewTimer(5 * time.Second)
	defer end.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		items, err := l.statuses(t.Context(), kind, service)
		must(t, err)
		var got []string
		for i := range items {
			got = append(got, items[i].GetName()+"@"+items[i].GetResourceVersion())
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s of %s changes (-was +is):\n%s", kind, service, diff)
		}
		select {
		case <-end.C:
			return
		case <-tick.C:
		}
	}
}
