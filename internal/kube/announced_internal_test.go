package kube

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

func statusL2(name, service, node string) *v1beta1.ServiceL2Status {
	return &v1beta1.ServiceL2Status{
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: name},
		Status:     v1beta1.ServiceL2StatusStatus{Node: node, ServiceName: service, ServiceNamespace: "ns"},
	}
}

func statusBGP(name, service, node string, peers ...string) *v1beta1.ServiceBGPStatus {
	return &v1beta1.ServiceBGPStatus{
		ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: name},
		Status:     v1beta1.ServiceBGPStatusStatus{Node: node, ServiceName: service, ServiceNamespace: "ns", Peers: peers},
	}
}

func TestAnnouncementsAreToldOnceTheyAreKnown(t *testing.T) {
	f := (&Cluster{}).Feed()
	key := func(name string) lb.Key { return lb.Key{Namespace: "ns", Name: name} }
	f.onAnnouncement(statusL2("l2-1", "a", "n1"), false)
	f.onAnnouncement(statusBGP("bgp-1", "b", "n1", "r"), false)
	if d, ok := signalled(f); ok || f.Drain().Announced != nil {
		t.Errorf("half of it is told: %v", d.Announced)
	}
	f.Rewind()
	if d, _ := signalled(f); d.Announced != nil {
		t.Errorf("half of it is told: %v", d.Announced)
	}
	f.awaitAnnouncements(t.Context(), nil)
	all := map[lb.Key]lb.Announcement{key("a"): {L2: []string{"n1"}}, key("b"): {BGP: []string{"n1"}}}
	d, _ := signalled(f)
	if diff := cmp.Diff(all, d.Announced); diff != "" {
		t.Errorf("all of it (-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		obj  any
		gone bool
	}{
		"the same":        {statusL2("l2-1", "a", "n1"), false},
		"other peers":     {statusBGP("bgp-1", "b", "n1", "r", "s"), false},
		"no status yet":   {statusL2("l2-2", "", ""), false},
		"unknown is gone": {statusL2("l2-2", "a", "n2"), true},
		"something else":  {"x", false},
	} {
		f.onAnnouncement(c.obj, c.gone)
		if d, ok := signalled(f); ok {
			t.Errorf("%s is news: %v", name, d.Announced)
		}
	}

	// A node with two objects, of which one goes.
	f.onAnnouncement(statusL2("l2-abcde", "a", "n1"), false)
	f.onAnnouncement(statusL2("l2-1", "a", "n1"), true)
	d, _ = signalled(f)
	if diff := cmp.Diff(map[lb.Key]lb.Announcement{key("a"): {L2: []string{"n1"}}}, d.Announced); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.onAnnouncement(statusL2("l2-abcde", "a", "n1"), true)
	d, _ = signalled(f)
	if diff := cmp.Diff(map[lb.Key]lb.Announcement{key("a"): {}}, d.Announced); diff != "" || len(f.announced.services) != 1 {
		t.Errorf("%v (-want +got):\n%s", f.announced.services, diff)
	}
	f.Rewind()
	if diff := cmp.Diff(map[lb.Key]lb.Announcement{key("b"): {BGP: []string{"n1"}}}, f.Drain().Announced); diff != "" {
		t.Errorf("anew (-want +got):\n%s", diff)
	}
}

// That nobody announces anything is told too: it is known then.
func TestNothingAnnouncedIsKnown(t *testing.T) {
	f := (&Cluster{}).Feed()
	f.awaitAnnouncements(t.Context(), nil)
	for range 2 {
		if d, ok := signalled(f); !ok || d.Announced == nil || len(d.Announced) > 0 {
			t.Errorf("news %t: %v", ok, d.Announced)
		}
		if f.Drain().Announced != nil {
			t.Error("it is told twice")
		}
		f.Rewind()
	}
}

func TestNodeLabel(t *testing.T) {
	long := strings.Repeat("a.", 80)
	for name, c := range map[string]struct{ node, want string }{
		"short":   {"node1", "node1"},
		"longest": {strings.Repeat("a", 63), strings.Repeat("a", 63)},
		"longer":  {long, long[:46] + "-" + nodeLabel(long)[47:]},
	} {
		if got := nodeLabel(c.node); got != c.want || len(got) > 63 {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if nodeLabel(long) == nodeLabel(long+"b") {
		t.Error("two nodes have one label")
	}
}

// TestMemoryPerAnnouncement bounds what one object of announcement status costs the
// controller: there is one for each Service and node.
func TestMemoryPerAnnouncement(t *testing.T) {
	const services, nodes, most = 200, 50, 1024 // bytes
	used := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := used()
	f := (&Cluster{}).Feed()
	cache := map[string]any{} // as an informer keeps it
	for s := range services {
		for n := range nodes {
			name := fmt.Sprintf("bgp-%020d", s*nodes+n)
			o := statusBGP(name, fmt.Sprintf("service-%d", s), fmt.Sprintf("node-%d.example.org", n), "router1", "router2")
			o.UID, o.ResourceVersion = "0e8b1c1e-5a5e-4d6b-9a5c-0123456789ab", "123456789"
			o.Labels = map[string]string{v1beta1.LabelNode: o.Status.Node, v1beta1.LabelServiceName: o.Status.ServiceName, v1beta1.LabelServiceNamespace: "ns"}
			slim, err := slimAnnouncement(o)
			if err != nil {
				t.Fatal(err)
			}
			cache["metallb-system/"+name] = slim
			f.onAnnouncement(slim, false)
		}
	}
	each := (used() - before) / (services * nodes)
	t.Logf("%d bytes per object", each)
	if each > most {
		t.Errorf("%d bytes per object, want at most %d", each, most)
	}
	runtime.KeepAlive(f)
	runtime.KeepAlive(cache)
}
