package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

func pool(name string, addresses ...string) *v1beta1.IPAddressPool {
	return &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}, Spec: v1beta1.IPAddressPoolSpec{Addresses: addresses},
	}
}

func (l *lab) slice(name, service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: l.namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
	}
}

func endpoint(node string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{"10.244.0.1"}, NodeName: &node}
}

// poolNames are the names of the pools that the test has made.
func poolNames(o *config.Objects, prefix string) []string {
	var out []string
	for _, p := range o.Pools {
		if strings.HasPrefix(p.Name, prefix) {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}

func TestFeedGivesEverythingAndThenChanges(t *testing.T) {
	l := newLab(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.namespace + "-node"}}
	l.create(node)
	a := l.loadBalancer("a")
	l.create(a)
	l.create(l.loadBalancer("inner", func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeClusterIP }))
	l.create(l.slice("a-1", "a", endpoint("n1")))
	first := pool("feed-1", "192.0.2.0/24")
	l.create(first)
	sticky := func(failback string) *v1beta1.L2Advertisement {
		return &v1beta1.L2Advertisement{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "feed-l2"}, Spec: v1beta1.L2AdvertisementSpec{Failback: failback},
		}
	}
	if err := l.client.Create(t.Context(), sticky("Sometimes")); err == nil || !strings.Contains(err.Error(), "spec.failback") {
		t.Errorf("failback Sometimes: got %v", err)
	}
	l.create(sticky(v1beta1.FailbackNever))

	v := l.watch(l.connect(kube.Options{NodeName: "n1", Endpoints: true}))
	// All of it is in the first Delta.
	got := v.last.Services[l.key("a")]
	switch {
	case got == nil || got.UID != string(a.UID) || got.NamespaceLabels["team"] != "red" || len(got.ClusterIPs) != 1:
		t.Errorf("Service: got %+v", got)
	case v.last.Services[l.key("inner")] != nil:
		t.Error("a Service of type ClusterIP is none of ours")
	}
	if diff := cmp.Diff([]lb.Endpoint{{Node: "n1", Family: lb.IPv4, Serving: true}}, v.last.Endpoints[l.key("a")]); diff != "" {
		t.Error(diff)
	}
	if !slices.ContainsFunc(v.last.Nodes, func(n lb.Node) bool { return n.Name == node.Name }) {
		t.Errorf("nodes: got %+v", v.last.Nodes)
	}
	if o := v.last.Objects; o == nil || len(poolNames(o, "feed-")) != 1 || len(o.L2) != 1 || o.L2[0].Failback != "Never" {
		t.Fatalf("objects: got %+v", o)
	}

	// And nothing twice. What the API server does on its own may come late.
	if d := v.feed.Drain(); d.Objects != nil || len(d.Orphans) > 0 || d.Services[l.key("a")] != nil {
		t.Errorf("second Delta: %+v", d)
	}

	// Then, changes.
	l.create(pool("feed-2", "198.51.100.0/24"))
	v.until(func() string {
		return cmp.Diff([]string{"feed-1", "feed-2"}, poolNames(v.last.Objects, "feed-"))
	})
	edit(l, a, func(o *corev1.Service) { o.Labels = map[string]string{"app": "x"} })
	v.until(func() string {
		return cmp.Diff(map[string]string{"app": "x"}, v.last.Services[l.key("a")].Labels)
	})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace}}
	edit(l, ns, func(o *corev1.Namespace) { o.Labels = map[string]string{"team": "blue"} })
	v.until(func() string {
		return cmp.Diff("blue", v.last.Services[l.key("a")].NamespaceLabels["team"])
	})
	edit(l, node, func(o *corev1.Node) { o.Labels = map[string]string{"rack": "7"} })
	v.until(func() string {
		i := slices.IndexFunc(v.last.Nodes, func(n lb.Node) bool { return n.Name == node.Name })
		return cmp.Diff("7", v.last.Nodes[i].Labels["rack"])
	})
	l.delete(node)
	v.until(func() string {
		if slices.ContainsFunc(v.last.Nodes, func(n lb.Node) bool { return n.Name == node.Name }) {
			return "the node is still there"
		}
		return ""
	})
	l.delete(first)
	v.until(func() string { return cmp.Diff([]string{"feed-2"}, poolNames(v.last.Objects, "feed-")) })
	l.delete(a)
	v.until(func() string {
		if v.last.Services[l.key("a")] != nil {
			return "the Service is still there"
		}
		return ""
	})
}

func TestFeedCoalesces(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	v := l.watch(l.connect(kube.Options{NodeName: "n1", Endpoints: true}))
	const changes = 50
	for i := range changes {
		edit(l, a, func(o *corev1.Service) { o.Labels = map[string]string{"n": fmt.Sprint(i)} })
	}
	// Nobody has drained: one signal waits, and one Delta has the last state.
	deltas := 0
	v.until(func() string {
		deltas++
		return cmp.Diff(fmt.Sprint(changes-1), v.last.Services[l.key("a")].Labels["n"])
	})
	if deltas > changes/2 {
		t.Errorf("%d Deltas for %d changes", deltas, changes)
	}
}

func TestEndpointSlicesMove(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"a", "b"} {
		l.create(l.loadBalancer(name))
	}
	one, two := l.slice("one", "a", endpoint("n1")), l.slice("two", "a", endpoint("n2"))
	l.create(one)
	l.create(two)
	v := l.watch(l.connect(kube.Options{NodeName: "n1", Endpoints: true}))
	nodes := func(name string) []string {
		var out []string
		for _, e := range v.last.Endpoints[l.key(name)] {
			out = append(out, e.Node)
		}
		slices.Sort(out)
		return out
	}
	want := func(a, b string) {
		t.Helper()
		v.until(func() string {
			return cmp.Diff([][]string{strings.Fields(a), strings.Fields(b)}, [][]string{append([]string{}, nodes("a")...), append([]string{}, nodes("b")...)})
		})
	}
	want("n1 n2", "")
	edit(l, one, func(o *discoveryv1.EndpointSlice) { o.Labels[discoveryv1.LabelServiceName] = "b" })
	want("n2", "n1")
	edit(l, two, func(o *discoveryv1.EndpointSlice) { delete(o.Labels, discoveryv1.LabelServiceName) })
	want("", "n1")
	edit(l, one, func(o *discoveryv1.EndpointSlice) {
		no := false
		o.Endpoints = append(o.Endpoints, endpoint("n3"))
		o.Endpoints[0].Conditions.Ready = &no
	})
	v.until(func() string {
		return cmp.Diff([]lb.Endpoint{{Node: "n1", Family: lb.IPv4}, {Node: "n3", Family: lb.IPv4, Serving: true}}, v.last.Endpoints[l.key("b")])
	})
	l.delete(one)
	want("", "")
}

// A Service that is not of type LoadBalancer any more loses its class with its type.
// It is given back all the same.
func TestServiceOfOurClassIsAnOrphanToo(t *testing.T) {
	l := newLab(t)
	class := "example.com/ours"
	a := l.loadBalancer("a", func(o *corev1.Service) { o.Spec.LoadBalancerClass = &class })
	l.create(a)
	c := l.connect(kube.Options{Claims: true, LoadBalancerClass: class})
	v := l.watch(c)
	w := c.Writer(v.feed, always)
	l.run(w.Run)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	l.statusSays(a, "192.0.2.1 p")
	edit(l, a, func(o *corev1.Service) { o.Spec.Type, o.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil })
	v.until(func() string {
		if v.last.Services[l.key("a")] != nil || !v.orphans[l.key("a")] {
			return fmt.Sprintf("service %+v, orphans %v", v.last.Services[l.key("a")], v.orphans)
		}
		return ""
	})
	w.Set(l.key("a"), kube.ServiceStatus{}, true)
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("192.0.2.1"))
	l.statusSays(a, "")
	l.awaitClaim("192.0.2.1", "")
}

func TestServiceOfAnotherTypeIsAnOrphan(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	c := l.connect(kube.Options{Claims: true})
	v := l.watch(c)
	w := c.Writer(v.feed, always)
	l.run(w.Run)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	v.until(func() string { return cmp.Diff("p", v.last.Services[l.key("a")].Pool) })
	l.refresh(a)
	edit(l, a, func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeClusterIP })
	v.until(func() string {
		if v.last.Services[l.key("a")] != nil || !v.orphans[l.key("a")] {
			return fmt.Sprintf("service %+v, orphans %v", v.last.Services[l.key("a")], v.orphans)
		}
		return ""
	})
	w.Set(l.key("a"), kube.ServiceStatus{}, true)
	l.eventually(func() string {
		l.refresh(a)
		if len(a.Annotations) > 0 || len(a.Status.LoadBalancer.Ingress) > 0 {
			return fmt.Sprintf("annotations %v, status %v", a.Annotations, a.Status.LoadBalancer)
		}
		return ""
	})
	v.until(func() string {
		if len(v.orphans) > 0 {
			return "it still is an orphan"
		}
		return ""
	})
}

func TestClassFilter(t *testing.T) {
	l := newLab(t)
	class := "example.com/ours"
	l.create(l.loadBalancer("without"))
	l.create(l.loadBalancer("with", func(o *corev1.Service) { o.Spec.LoadBalancerClass = &class }))
	for _, c := range []struct{ class, ours, other string }{{"", "without", "with"}, {class, "with", "without"}, {"x.y/z", "", "with"}} {
		v := l.watch(l.connect(kube.Options{LoadBalancerClass: c.class}))
		if v.last.Services[l.key(c.other)] != nil || c.ours != "" && v.last.Services[l.key(c.ours)] == nil {
			t.Errorf("class %q: got %v", c.class, v.last.Services)
		}
	}
}

func TestSecretsComeWithTheConfiguration(t *testing.T) {
	l := newLab(t)
	secret := func() *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "bgp-password"}, Type: corev1.SecretTypeBasicAuth,
			StringData: map[string]string{"password": "one"},
		}
	}
	s := secret()
	l.create(s)
	peer := func(name, secret string) *v1beta2.BGPPeer {
		p := &v1beta2.BGPPeer{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}}
		p.Spec.MyASN, p.Spec.PeerASN, p.Spec.PeerAddress = 64512, 64513, "10.0.0.1"
		p.Spec.PasswordSecret.Name = secret
		return p
	}
	for i, name := range []string{"bgp-password", "bgp-password", "later", ""} {
		l.create(peer(fmt.Sprintf("peer-%d", i), name))
	}
	v := l.watch(l.connect(kube.Options{NodeName: "n1"}))
	want := func(want map[string]config.Secret) {
		t.Helper()
		v.until(func() string { return cmp.Diff(want, v.last.Objects.Secrets) })
	}
	with := func(password string) config.Secret {
		return config.Secret{Type: "kubernetes.io/basic-auth", Password: password, HasKey: true}
	}
	if diff := cmp.Diff(map[string]config.Secret{"bgp-password": with("one")}, v.last.Objects.Secrets); diff != "" || len(v.last.Objects.Peers) != 4 {
		t.Errorf("the first configuration: %d peers, Secrets (-want +got):\n%s", len(v.last.Objects.Peers), diff)
	}
	later := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "later"}}
	l.create(later)
	want(map[string]config.Secret{"bgp-password": with("one"), "later": {Type: "Opaque"}})
	edit(l, s, func(o *corev1.Secret) { o.StringData = map[string]string{"password": "two"} })
	want(map[string]config.Secret{"bgp-password": with("two"), "later": {Type: "Opaque"}})
	l.delete(s)
	l.delete(later)
	want(map[string]config.Secret{})
	l.create(secret())
	want(map[string]config.Secret{"bgp-password": with("one")})
}

// logs collects what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all of it.
func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Watches sit out growing pauses while the API server refuses connections.
func TestStoppingDoesNotWaitForTheAPIServer(t *testing.T) {
	l := newLab(t)
	var log logs
	c := l.connect(kube.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(cfg *rest.Config) {
		cfg.Host = fmt.Sprintf("https://127.0.0.1:%d", freePort(t))
	})
	feed := c.Feed()
	feed.Hurry(time.Second, time.Second, 100*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	for _, run := range []func(context.Context) error{c.Run, feed.Run} {
		both.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	l.eventually(func() string {
		if n := strings.Count(log.String(), "wait for the API server"); n < 4 {
			return fmt.Sprintf("it has said %d times what it waits for", n)
		}
		return ""
	})
	began := time.Now()
	cancel()
	both.Wait()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAPIServerIsAwayAtStartAndLater(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	wire := newLine(t)
	wire.set(true)
	var log logs
	c := l.connect(kube.Options{NodeName: "n1", Endpoints: true, Log: slog.New(slog.NewTextHandler(&log, nil))}, wire.through)
	feed := c.Feed()
	feed.Hurry(time.Second, time.Second, 100*time.Millisecond)
	l.run(c.Run, feed.Run)
	l.eventually(func() string {
		if !strings.Contains(log.String(), "wait for the API server") {
			return "it does not say what it waits for: " + log.String()
		}
		return ""
	})
	select {
	case <-feed.Ready():
		t.Fatal("ready without an API server")
	default:
	}
	wire.set(false)
	<-feed.Ready()
	v := &view{l: l, feed: feed, orphans: map[lb.Key]bool{}, last: kube.Delta{Services: map[lb.Key]*lb.Service{}, Endpoints: map[lb.Key][]lb.Endpoint{}}}
	v.until(func() string {
		if v.last.Services[l.key("a")] == nil {
			return "no Service"
		}
		return ""
	})

	// What changes while it is away is known when it is back; nothing else is.
	wire.set(true)
	l.create(l.loadBalancer("b"))
	l.delete(a)
	if d := v.drain(); len(d.Services) > 0 || d.Objects != nil || d.Nodes != nil {
		t.Errorf("an API server that is away changes things: %+v", d)
	}
	wire.set(false)
	v.until(func() string {
		if v.last.Services[l.key("a")] != nil || v.last.Services[l.key("b")] == nil {
			return fmt.Sprintf("services: %v", v.last.Services)
		}
		return ""
	})
}

// TestRetryLeavesAStuckConnection: what is lost on a connection would be sent again, but
// not soon, and nobody would miss it for 45 s.
func TestRetryLeavesAStuckConnection(t *testing.T) {
	l := newLab(t)
	wire := newLine(t)
	c := l.connect(kube.Options{NodeName: "n1", Endpoints: true}, wire.through)
	v := l.watch(c)
	wire.stick()
	began := time.Now()
	l.create(l.loadBalancer("a"))
	c.Retry()
	v.until(func() string {
		if v.last.Services[l.key("a")] == nil {
			return "no Service"
		}
		return ""
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s: the connection was given up by itself", took)
	}
}
