package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

func TestSpeakers(t *testing.T) {
	l := newLab(t)
	pod := func(name, component, node, addr string) *corev1.Pod {
		o := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name, Labels: map[string]string{"app": "metallb", "component": component}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "x"}}},
		}
		l.create(o)
		if addr != "" {
			editStatus(l, o, func(o *corev1.Pod) { o.Status.PodIP, o.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}} })
		}
		return o
	}
	pod("speaker-1", "speaker", "n1", "192.0.2.1")
	pod("speaker-2", "speaker", "n2", "2001:db8::2")
	pod("starting", "speaker", "n3", "")
	pod("pending", "speaker", "", "")
	pod("controller", "controller", "n4", "192.0.2.4")
	leaving := pod("leaving", "speaker", "n5", "192.0.2.5")
	l.delete(leaving) // it stays until a kubelet says that it has ended

	c := l.connect(kube.Options{NodeName: "n1", SpeakerLabels: "app=metallb,component=speaker"})
	l.run(c.Run)
	addrs := func(want map[string]netip.Addr) {
		t.Helper()
		l.eventually(func() string {
			got, err := c.Speakers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}))
		})
	}
	addrs(map[string]netip.Addr{"n1": netip.MustParseAddr("192.0.2.1"), "n2": netip.MustParseAddr("2001:db8::2")})
	pod("speaker-6", "speaker", "n6", "192.0.2.6")
	addrs(map[string]netip.Addr{
		"n1": netip.MustParseAddr("192.0.2.1"), "n2": netip.MustParseAddr("2001:db8::2"), "n6": netip.MustParseAddr("192.0.2.6"),
	})
}

func TestSpeakersWithoutAPIServer(t *testing.T) {
	l := newLab(t)
	wire := newLine(t)
	wire.set(true)
	c := l.connect(kube.Options{NodeName: "n1", SpeakerLabels: "component=speaker"}, wire.through)
	l.run(c.Run)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := c.Speakers(ctx)
		failed <- err
	}()
	cancel()
	if err := <-failed; err == nil {
		t.Error("it knows the speakers without having asked")
	}
}

func TestMemberlistSecret(t *testing.T) {
	l := newLab(t)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "controller"}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	d.Spec.Template.Labels = map[string]string{"a": "b"}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "x"}}
	l.create(d)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "memberlist"}}
	t.Cleanup(func() { _ = l.client.Delete(context.WithoutCancel(t.Context()), s) })

	var all sync.WaitGroup
	for range 8 { // two would do
		c := l.connect(kube.Options{})
		all.Go(func() {
			if err := c.EnsureMemberlistSecret(t.Context(), "memberlist", "controller"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	l.refresh(s)
	first := string(s.Data["secretkey"])
	if len(first) != 22 {
		t.Errorf("key %q: want 16 bytes in unpadded base64", first)
	}
	want := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "controller", UID: d.UID}}
	if diff := cmp.Diff(want, s.OwnerReferences); diff != "" {
		t.Errorf("owner: %s", diff)
	}
	c := l.connect(kube.Options{})
	if err := c.EnsureMemberlistSecret(t.Context(), "memberlist", ""); err != nil {
		t.Error(err)
	}
	if l.refresh(s); string(s.Data["secretkey"]) != first {
		t.Error("the key has changed")
	}
	// Another name, or a Deployment that is not there or must not be looked at.
	if err := l.client.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureMemberlistSecret(t.Context(), "memberlist", "another"); err != nil {
		t.Error(err)
	}
	s = &corev1.Secret{ObjectMeta: s.ObjectMeta}
	if l.refresh(s); string(s.Data["secretkey"]) == first || len(s.OwnerReferences) > 0 {
		t.Errorf("the new one: %+v", s)
	}
	nobody := l.connect(kube.Options{}, func(cfg *rest.Config) { cfg.Impersonate = rest.ImpersonationConfig{UserName: "nobody"} })
	if err := nobody.EnsureMemberlistSecret(t.Context(), "memberlist", ""); err == nil {
		t.Error("a Secret that must not be read is no Secret that is missing")
	}
}

// A Pod that is gone may have a successor by now that an API server which is away
// cannot tell of: while its node is there, the speaker is looked for.
func TestSpeakersThatWereThere(t *testing.T) {
	l := newLab(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.namespace}}
	l.create(node)
	pod := func(name, node, addr string) *corev1.Pod {
		o := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: l.namespace + name, Labels: map[string]string{"component": "speaker"}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "x"}}},
		}
		l.create(o)
		editStatus(l, o, func(o *corev1.Pod) { o.Status.PodIP, o.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}} })
		return o
	}
	one, two := pod("-1", node.Name, "192.0.2.1"), pod("-2", "no-such-node", "192.0.2.2")
	wire := newLine(t)
	c := l.connect(kube.Options{NodeName: "n1", SpeakerLabels: "component=speaker", Endpoints: true}, wire.through)
	v := l.watch(c)
	knows := func(want map[string]netip.Addr) {
		t.Helper()
		l.eventually(func() string {
			got, err := c.Speakers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}))
		})
	}
	first := map[string]netip.Addr{node.Name: netip.MustParseAddr("192.0.2.1"), "no-such-node": netip.MustParseAddr("192.0.2.2")}
	knows(first)
	wire.set(true)
	knows(first)
	wire.set(false)
	l.delete(one)
	l.delete(two)
	knows(map[string]netip.Addr{node.Name: netip.MustParseAddr("192.0.2.1")})
	l.delete(node)
	v.until(func() string {
		if slices.ContainsFunc(v.last.Nodes, func(n lb.Node) bool { return n.Name == node.Name }) {
			return "the node is still there"
		}
		return ""
	})
	knows(map[string]netip.Addr{})
}

// A speaker that starts without an API server has what another one knows.
func TestStartFromASnapshot(t *testing.T) {
	l := newLab(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.namespace, Labels: map[string]string{"rack": "7"}}}
	l.create(node)
	editStatus(l, node, func(o *corev1.Node) {
		o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
	})
	a, b := l.loadBalancer("a"), l.loadBalancer("b")
	l.create(a)
	l.create(b)
	l.create(l.slice("a-1", "a", endpoint("n1")))
	l.create(pool("snapshot", "192.0.2.0/24"))
	other := l.watch(l.connect(kube.Options{NodeName: "n1", Endpoints: true}))
	data, err := other.feed.Export()
	if err != nil {
		t.Fatal(err)
	}

	wire := newLine(t)
	wire.set(true)
	c := l.connect(kube.Options{NodeName: node.Name, SpeakerLabels: "component=speaker", Endpoints: true}, wire.through)
	v := &view{l: l, feed: c.Feed(), orphans: map[lb.Key]bool{}, last: kube.Delta{
		Services: map[lb.Key]*lb.Service{}, Endpoints: map[lb.Key][]lb.Endpoint{}, Claims: map[netip.Addr][]lb.Holder{},
	}}
	l.run(c.Run, v.feed.Run, c.StateWriter().Run, c.ConflictWriter().Run, c.AnnouncementWriter().Run)
	if err := v.feed.Import(data); err != nil {
		t.Fatal(err)
	}
	<-v.feed.Ready()
	v.drain()
	if diff := cmp.Diff(other.last.Services[l.key("a")], v.last.Services[l.key("a")], cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("Service (-exported +imported):\n%s", diff)
	}
	if diff := cmp.Diff([]lb.Endpoint{{Node: "n1", Family: lb.IPv4, Serving: true}}, v.last.Endpoints[l.key("a")]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(other.last.Nodes, v.last.Nodes, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("nodes (-exported +imported):\n%s", diff)
	}
	if v.last.Objects == nil || len(poolNames(v.last.Objects, "snapshot")) != 1 {
		t.Errorf("objects: %+v", v.last.Objects)
	}
	if got, err := c.Speakers(t.Context()); err != nil || got[node.Name] != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("speakers: %v, %v", got, err)
	}
	if leaving, why := c.Departure(t.Context()); leaving {
		t.Errorf("it leaves: %s", why)
	}

	// Then the API server is back.
	l.delete(a)
	edit(l, b, func(o *corev1.Service) { o.Labels = map[string]string{"app": "b"} })
	wire.set(false)
	v.until(func() string {
		if v.last.Services[l.key("a")] != nil || v.last.Services[l.key("b")].Labels["app"] != "b" {
			return fmt.Sprintf("services: %v", v.last.Services)
		}
		return ""
	})
	l.eventually(func() string {
		got, err := c.Speakers(t.Context())
		if err != nil || len(got) > 0 {
			return fmt.Sprintf("speakers: %v, %v", got, err)
		}
		return ""
	})
}
