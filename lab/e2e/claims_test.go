package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/barelb/barelb/lab/system"
)

// claim is an AddressClaim as the API server shows it.
type claim struct {
	address string
	holders []claimHolder
}

type claimHolder struct {
	uid, name string
	released  bool
}

// claims reads all AddressClaims.
func (l *lab) claims(ctx context.Context) ([]claim, error) {
	gvr := schema.GroupVersionResource{Group: "barelb.io", Version: "v1alpha1", Resource: "addressclaims"}
	all, err := l.dyn.Resource(gvr).Namespace(system.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	var out []claim
	for i := range all.Items {
		out = append(out, claimOf(all.Items[i].Object))
	}
	return out, nil
}

func claimOf(o map[string]any) claim {
	var c claim
	c.address, _, _ = unstructured.NestedString(o, "spec", "address")
	holders, _, _ := unstructured.NestedSlice(o, "spec", "holders")
	for _, h := range holders {
		m, _ := h.(map[string]any)
		uid, _, _ := unstructured.NestedString(m, "uid")
		name, _, _ := unstructured.NestedString(m, "name")
		released, _, _ := unstructured.NestedBool(m, "released")
		c.holders = append(c.holders, claimHolder{uid, name, released})
	}
	return c
}

// audit says what is wrong with a cluster at rest in which there are addresses
// enough: a Service without one that could have it, and claims that are not exactly
// what the Services have.
func audit(services []corev1.Service, claims []claim) []string {
	var wrong []string
	byAddr := map[string][]*corev1.Service{}
	for i := range services {
		for _, a := range addressesOf(&services[i]) {
			byAddr[a] = append(byAddr[a], &services[i])
		}
	}
	for i := range services {
		svc := &services[i]
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || len(addressesOf(svc)) > 0 {
			continue
		}
		wish := svc.Annotations[askFor]
		taken := slices.ContainsFunc(byAddr[wish], func(o *corev1.Service) bool { return !sharingOf(svc).with(sharingOf(o)) })
		if !taken { // nobody stands in its way
			wrong = append(wrong, fmt.Sprintf("%s has no address, and could have %q", svc.Name, wish))
		}
	}
	claimed := map[string]bool{}
	for _, c := range claims {
		if claimed[c.address] {
			wrong = append(wrong, c.address+" has two claims")
		}
		claimed[c.address] = true
		var have, want []string
		for _, h := range c.holders {
			have = append(have, h.name+" "+h.uid)
			if h.released {
				wrong = append(wrong, fmt.Sprintf("%s is released by %s, and still in its claim", c.address, h.name))
			}
		}
		for _, svc := range byAddr[c.address] {
			want = append(want, svc.Name+" "+string(svc.UID))
		}
		slices.Sort(have)
		slices.Sort(want)
		if len(have) == 0 || !slices.Equal(have, want) {
			wrong = append(wrong, fmt.Sprintf("%s is claimed for %q and had by %q", c.address, have, want))
		}
	}
	for a := range byAddr {
		if !claimed[a] {
			wrong = append(wrong, fmt.Sprintf("%s of %s has no claim", a, byAddr[a][0].Name))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// awaitAudit waits until nothing is wrong.
func (l *lab) awaitAudit(t *testing.T) {
	t.Helper()
	eventually(t, "addresses for all, and claims for exactly these", func() error {
		services, err := l.kube.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		claims, err := l.claims(t.Context())
		if err != nil {
			return err
		}
		if wrong := audit(services.Items, claims); len(wrong) > 0 {
			const most = 10
			return fmt.Errorf("%d things are wrong:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), most)], "\n"))
		}
		return nil
	})
}

// TestAudit shows what the audit takes for wrong.
func TestAudit(t *testing.T) {
	svc := func(name, wish, addr string) corev1.Service {
		o := *system.Service{Name: name, Annotations: map[string]string{askFor: wish}}.Object()
		o.UID = types.UID(name)
		if addr != "" {
			o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
		}
		return o
	}
	of := func(addr string, names ...string) claim {
		c := claim{address: addr}
		for _, n := range names {
			c.holders = append(c.holders, claimHolder{uid: n, name: n})
		}
		return c
	}
	released := of("1.1.1.1", "a")
	released.holders[0].released = true
	a := svc("a", "", "1.1.1.1")
	for _, c := range []struct {
		name     string
		wrong    int
		services []corev1.Service
		claims   []claim
	}{
		{"nothing", 0, nil, nil},
		{"as it should be", 0, []corev1.Service{a}, []claim{of("1.1.1.1", "a")}},
		{"no claim", 1, []corev1.Service{a}, nil},
		{"two claims", 1, []corev1.Service{a}, []claim{of("1.1.1.1", "a"), of("1.1.1.1", "a")}},
		{"nobody has it", 1, nil, []claim{of("1.1.1.1", "a")}},
		{"nobody claims it", 1, nil, []claim{of("1.1.1.1")}},
		{"one too many", 1, []corev1.Service{a}, []claim{of("1.1.1.1", "a", "b")}},
		{"released", 1, []corev1.Service{a}, []claim{released}},
		{"no address", 1, []corev1.Service{svc("b", "", "")}, nil},
		{"wants what is free", 1, []corev1.Service{svc("b", "1.1.1.1", "")}, nil},
		{"wants what is taken", 0, []corev1.Service{a, svc("b", "1.1.1.1", "")}, []claim{of("1.1.1.1", "a")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := audit(c.services, c.claims); len(got) != c.wrong {
				t.Errorf("%d things are wrong, want %d: %q", len(got), c.wrong, got)
			}
		})
	}
}
