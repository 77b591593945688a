package kube

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

// signalled reports whether f has said that there is news, and takes it.
func signalled(f *Feed) (Delta, bool) {
	select {
	case <-f.Changed():
		return f.Drain(), true
	default:
		return Delta{}, false
	}
}

func TestEndpointsOfOtherServicesAreNoNews(t *testing.T) {
	f := (&Cluster{}).Feed()
	svc := func(kind corev1.ServiceType) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Spec: corev1.ServiceSpec{Type: kind}}
	}
	slice := func(node string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s-1", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node}},
		}
	}
	key := lb.Key{Namespace: "ns", Name: "s"}
	f.onNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, false)
	f.onService(svc(corev1.ServiceTypeClusterIP), false)
	signalled(f)
	f.onSlice(slice("n1"), false)
	if d, ok := signalled(f); ok {
		t.Errorf("endpoints of a ClusterIP: %+v", d)
	}
	f.onService(svc(corev1.ServiceTypeLoadBalancer), false)
	d, _ := signalled(f)
	if diff := cmp.Diff([]lb.Endpoint{{Node: "n1", Serving: true}}, d.Endpoints[key]); diff != "" {
		t.Errorf("when it becomes a LoadBalancer: %s", diff)
	}
	f.onSlice(slice("n1"), false)
	if _, ok := signalled(f); ok {
		t.Error("the same endpoints are no news")
	}
	f.onSlice(slice("n2"), false)
	f.onSlice(slice("n2"), true)
	f.onSlice(slice("n2"), true)
	if d, _ := signalled(f); len(d.Endpoints[key]) > 0 || len(f.endpoints)+len(f.sliceOf) > 0 {
		t.Errorf("after the slice is gone: %+v, %v, %v", d, f.endpoints, f.sliceOf)
	}
	f.onService("no Service", false)
	f.onSlice("no slice", true)
	f.onNode(nil, true)
	f.onNamespace(nil, true)
	if _, ok := signalled(f); ok {
		t.Error("what cannot be read is no news")
	}
}

func TestNamespaceLabelsConcernItsServices(t *testing.T) {
	f := (&Cluster{}).Feed()
	for _, ns := range []string{"red", "blue"} {
		f.onService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}, false)
	}
	if d, _ := signalled(f); len(d.Services) > 0 {
		t.Errorf("before their namespaces are known: %v", d.Services)
	}
	namespace := func(labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "red", Labels: labels}}
	}
	f.onNamespace(namespace(map[string]string{"a": "b"}), false)
	d, _ := signalled(f)
	if len(d.Services) != 1 || d.Services[lb.Key{Namespace: "red", Name: "s"}].NamespaceLabels["a"] != "b" {
		t.Errorf("got %+v", d.Services)
	}
	f.onNamespace(namespace(map[string]string{"a": "b"}), false)
	if _, ok := signalled(f); ok {
		t.Error("the same labels are no news")
	}
}

// The controller writes a pool's status after each allocation. If that were news,
// each allocation would make every speaker plan anew.
func TestStatusOfConfigurationIsNoNews(t *testing.T) {
	f := newConfigFeed(&Cluster{}, nil)
	woken := func() bool {
		select {
		case <-f.wake:
			return true
		default:
			return false
		}
	}
	was := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u", Generation: 1, Labels: map[string]string{"a": "b"}}}
	for name, c := range map[string]struct {
		change func(*v1beta1.IPAddressPool)
		want   bool
	}{
		"status":     {func(o *v1beta1.IPAddressPool) { o.Status.AssignedIPv4, o.ResourceVersion = 7, "8" }, false},
		"annotation": {func(o *v1beta1.IPAddressPool) { o.Annotations = map[string]string{"x": "y"} }, false},
		"override": {func(o *v1beta1.IPAddressPool) {
			o.Annotations = map[string]string{v1beta1.AnnotationIgnoreOnWire: "all"}
		}, true},
		"spec":      {func(o *v1beta1.IPAddressPool) { o.Generation = 2 }, true},
		"label":     {func(o *v1beta1.IPAddressPool) { o.Labels = nil }, true},
		"recreated": {func(o *v1beta1.IPAddressPool) { o.UID = "v" }, true},
	} {
		is := was.DeepCopy()
		c.change(is)
		f.onUpdate(was, is)
		if got := woken(); got != c.want {
			t.Errorf("%s: news %t, want %t", name, got, c.want)
		}
	}
}

func TestLatestForgetsWhatIsOld(t *testing.T) {
	l := newLatest[int]()
	if _, has := l.take(); has {
		t.Error("it has a value from the beginning")
	}
	l.set(1)
	l.set(2)
	<-l.wake
	if v, has := l.take(); !has || v != 2 {
		t.Errorf("got %d, %t", v, has)
	}
	if _, has := l.take(); has {
		t.Error("it gives a value twice")
	}
}

// TestMemoryPerService bounds what the feed itself adds to the informers' memory.
func TestMemoryPerService(t *testing.T) {
	const services, most = 2000, 2048 // bytes
	used := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	objects := make([]*corev1.Service, services)
	for i := range objects {
		objects[i] = &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(i), UID: "u"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.1"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}
	}
	before := used()
	f := (&Cluster{}).Feed()
	f.onNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, false)
	for i, o := range objects {
		f.onService(o, false)
		node := fmt.Sprint("node", i%10)
		f.onSlice(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: o.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: o.Name}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node}},
		}, false)
	}
	d := f.Drain()
	each := (used() - before) / services
	t.Logf("%d bytes per Service", each)
	if each > most {
		t.Errorf("%d bytes per Service, want at most %d", each, most)
	}
	runtime.KeepAlive(f)
	runtime.KeepAlive(d)
	runtime.KeepAlive(objects)
}

// TestDeltaSince: a Delta says when the first of its changes came, and nothing where no
// Service is in it.
func TestDeltaSince(t *testing.T) {
	t.Parallel()
	f := (&Cluster{}).Feed()
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	}
	f.onNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, false)
	if d := f.Drain(); !d.Since.IsZero() {
		t.Errorf("without a Service: since %s", d.Since)
	}
	before := time.Now()
	f.onService(service("a"), false)
	between := time.Now()
	f.onService(service("b"), false)
	if d := f.Drain(); d.Since.Before(before) || d.Since.After(between) {
		t.Errorf("since %s, want from %s to %s", d.Since, before, between)
	}
	f.onService(service("b"), true)
	if d := f.Drain(); d.Since.Before(between) {
		t.Errorf("since %s, which was told before", d.Since)
	}
}
