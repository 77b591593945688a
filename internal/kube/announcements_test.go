package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// hurry is a delay of writes that tests need not wait for.
const hurry = 50 * time.Millisecond

type announcing = map[lb.Key]kube.Announcing

// reporter is a writer of announcement status that runs.
type reporter struct {
	*kube.AnnouncementWriter
	node   string
	writes atomic.Int32 // requests that change announcement status
	stop   func()
}

// node returns a name of a node that no other test uses, and removes what is said
// of it at the end.
func (l *lab) node(name string) string {
	node := l.namespace + "-" + name
	l.t.Cleanup(func() {
		ctx := context.WithoutCancel(l.t.Context())
		for _, o := range l.statuses(ctx) {
			if o.GetLabels()[v1beta1.LabelServiceNamespace] == l.namespace {
				if err := l.client.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
					l.t.Errorf("delete %s: %v", o.GetName(), err)
				}
			}
		}
	})
	return node
}

// reporter starts the writer of a node, which waits for delay before it writes.
func (l *lab) reporter(node string, delay time.Duration, change ...func(*rest.Config)) *reporter {
	l.t.Helper()
	return l.reporterIn("", node, delay, change...)
}

// reporterIn starts it in a Pod.
func (l *lab) reporterIn(pod, node string, delay time.Duration, change ...func(*rest.Config)) *reporter {
	l.t.Helper()
	r := &reporter{node: node}
	count := func(cfg *rest.Config) {
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Method != http.MethodGet && strings.Contains(req.URL.Path, "statuses") {
					r.writes.Add(1)
				}
				return next.RoundTrip(req)
			})
		})
	}
	c := l.connect(kube.Options{NodeName: node, PodName: pod}, append(change, count)...)
	r.AnnouncementWriter = c.AnnouncementWriter()
	r.Hurry(delay)
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			l.t.Errorf("Run: %v", err)
		}
	}()
	r.stop = func() { cancel(); <-done }
	l.t.Cleanup(r.stop)
	l.run(c.Run)
	return r
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip makes a function of one.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// statuses returns all announcement status there is.
func (l *lab) statuses(ctx context.Context) []client.Object {
	l.t.Helper()
	var l2 v1beta1.ServiceL2StatusList
	var bgp v1beta1.ServiceBGPStatusList
	var out []client.Object
	for _, list := range []client.ObjectList{&l2, &bgp} {
		if err := l.client.List(ctx, list, client.InNamespace(system)); err != nil {
			l.t.Fatal(err)
		}
	}
	for i := range l2.Items {
		out = append(out, &l2.Items[i])
	}
	for i := range bgp.Items {
		out = append(out, &bgp.Items[i])
	}
	return out
}

// said returns what is said of the test's Services, a line each.
func (l *lab) said() string {
	l.t.Helper()
	var out []string
	for _, o := range l.statuses(l.t.Context()) {
		switch o := o.(type) {
		case *v1beta1.ServiceL2Status:
			if s := o.Status; o.Labels[v1beta1.LabelServiceNamespace] == l.namespace {
				out = append(out, fmt.Sprintf("layer2 %s/%s on %s by %v", s.ServiceNamespace, s.ServiceName, s.Node, s.Interfaces))
			}
		case *v1beta1.ServiceBGPStatus:
			if s := o.Status; o.Labels[v1beta1.LabelServiceNamespace] == l.namespace {
				out = append(out, fmt.Sprintf("bgp %s/%s on %s to %v", s.ServiceNamespace, s.ServiceName, s.Node, s.Peers))
			}
		}
	}
	slices.Sort(out)
	return strings.ReplaceAll(strings.Join(out, "\n"), l.namespace+"-", "")
}

// saidIs waits until the lines are said; NS stands for the test's namespace.
func (l *lab) saidIs(lines ...string) {
	l.t.Helper()
	want := strings.ReplaceAll(strings.Join(lines, "\n"), "NS", l.namespace)
	l.eventually(func() string { return cmp.Diff(want, l.said()) })
}

// one returns the only object of announcement status about a Service.
func (l *lab) one(service string) client.Object { //nolint:ireturn // of two kinds
	l.t.Helper()
	var found client.Object
	l.eventually(func() string {
		n := 0
		for _, o := range l.statuses(l.t.Context()) {
			if labels := o.GetLabels(); labels[v1beta1.LabelServiceNamespace] == l.namespace && labels[v1beta1.LabelServiceName] == service {
				found = o
				n++
			}
		}
		if n != 1 {
			return fmt.Sprintf("%d objects about %s", n, service)
		}
		return ""
	})
	return found
}

// marker has r write about one more Service, and waits for it: whatever it was told
// before is written by then.
func (l *lab) marker(r *reporter, name string) {
	l.t.Helper()
	r.Set(announcing{l.key(name): {Peers: []string{"p"}}})
	l.eventually(func() string {
		if !strings.Contains(l.said(), "/"+name+" on") {
			return name + " is not there"
		}
		return ""
	})
	r.writes.Add(-2) // that one's count for nothing
}

func TestAnnouncementStatusIsWrittenOnce(t *testing.T) {
	l := newLab(t)
	node := l.node("n1")
	ours := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: node},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "speaker", Image: "x"}}},
	}
	l.create(ours)
	r := l.reporterIn(node, node, hurry)
	all := announcing{
		l.key("a"): {L2: true, Links: []string{"eth0", "eth1"}},
		l.key("b"): {Peers: []string{"r1", "r2"}},
		l.key("c"): {},
	}
	r.Set(all)
	l.saidIs("bgp NS/b on n1 to [r1 r2]", "layer2 NS/a on n1 by [{eth0} {eth1}]")
	if n := r.writes.Load(); n != 4 {
		t.Errorf("%d writes for two objects, want 2 each", n)
	}
	versions := map[string]string{}
	for _, name := range []string{"a", "b"} {
		o := l.one(name)
		versions[name] = o.GetResourceVersion()
		want := map[string]string{"metallb.io/node": node, "metallb.io/service-name": name, "metallb.io/service-namespace": l.namespace}
		if diff := cmp.Diff(want, o.GetLabels()); diff != "" {
			t.Errorf("labels of %s: %s", name, diff)
		}
		owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: ours.Name, UID: ours.UID}}
		if diff := cmp.Diff(owner, o.GetOwnerReferences()); diff != "" {
			t.Errorf("owner of %s: %s", name, diff)
		}
	}
	r.Set(all)
	l.marker(r, "same")
	for name, version := range versions {
		if l.one(name).GetResourceVersion() != version {
			t.Errorf("%s was written again", name)
		}
	}

	r.Set(announcing{l.key("a"): {L2: true}, l.key("b"): {Peers: []string{"r1"}}})
	l.saidIs("bgp NS/b on n1 to [r1]", "bgp NS/same on n1 to [p]", "layer2 NS/a on n1 by []")
	if n := r.writes.Load(); n != 6 {
		t.Errorf("%d writes after two changes, want 6", n)
	}
	r.Set(announcing{l.key("a"): {}, l.key("b"): {}})
	l.saidIs("bgp NS/same on n1 to [p]")
	r.Set(announcing{l.key("a"): {}})
	l.marker(r, "end")
	if n := r.writes.Load(); n != 8 {
		t.Errorf("%d writes after two deletions, want 8", n)
	}
}

func TestFlapIsNotWritten(t *testing.T) {
	l := newLab(t)
	r := l.reporter(l.node("n1"), 2*time.Second)
	r.Set(announcing{l.key("a"): {Peers: []string{"r1"}}})
	l.saidIs("bgp NS/a on n1 to [r1]")
	version := l.one("a").GetResourceVersion()
	for range 3 { // each with time enough to write it
		r.Set(announcing{l.key("a"): {}, l.key("b"): {L2: true}})
		l.saidIs("bgp NS/a on n1 to [r1]")
		r.Set(announcing{l.key("a"): {Peers: []string{"r1"}}, l.key("b"): {}})
		l.saidIs("bgp NS/a on n1 to [r1]")
	}
	l.marker(r, "after")
	l.saidIs("bgp NS/a on n1 to [r1]", "bgp NS/after on n1 to [p]")
	if n := r.writes.Load(); n != 2 || l.one("a").GetResourceVersion() != version {
		t.Errorf("%d writes, want the first two", n)
	}
}

// What others do to an object is undone.
func TestAnnouncementStatusIsPutRight(t *testing.T) {
	l := newLab(t)
	r := l.reporter(l.node("n1"), hurry)
	r.Set(announcing{l.key("a"): {L2: true, Links: []string{"eth0"}}})
	const want = "layer2 NS/a on n1 by [{eth0}]"
	l.saidIs(want)
	o, _ := l.one("a").(*v1beta1.ServiceL2Status)

	editStatus(l, o, func(o *v1beta1.ServiceL2Status) { o.Status.Interfaces = nil })
	l.saidIs(want)
	l.refresh(o)
	edit(l, o, func(o *v1beta1.ServiceL2Status) { o.Labels[v1beta1.LabelServiceName] = "z" })
	l.saidIs(want)
	l.one("a")
	for range 2 {
		l.delete(o)
		l.saidIs(want)
		o, _ = l.one("a").(*v1beta1.ServiceL2Status)
	}
	// Without its label it is none of ours to see any more.
	edit(l, o, func(o *v1beta1.ServiceL2Status) { delete(o.Labels, v1beta1.LabelNode) })
	l.eventually(func() string {
		l.refresh(o)
		return cmp.Diff(r.node, o.Labels[v1beta1.LabelNode])
	})
	// A field that cannot be changed, but left out.
	editStatus(l, o, func(o *v1beta1.ServiceL2Status) { o.Status.Node = "" })
	l.saidIs(want)
	o, _ = l.one("a").(*v1beta1.ServiceL2Status)
	editStatus(l, o, func(o *v1beta1.ServiceL2Status) { o.Status = v1beta1.ServiceL2StatusStatus{} })
	l.saidIs(want)
	r.Set(announcing{l.key("a"): {}})
	l.saidIs()
}

// The values of fields that cannot be changed are wrong: only deleting helps.
func TestAnnouncementStatusThatCannotBeChanged(t *testing.T) {
	l := newLab(t)
	r := l.reporter(l.node("n1"), hurry)
	r.Set(announcing{l.key("a"): {Peers: []string{"r1"}}})
	l.saidIs("bgp NS/a on n1 to [r1]")
	o, _ := l.one("a").(*v1beta1.ServiceBGPStatus)
	r.stop()
	editStatus(l, o, func(o *v1beta1.ServiceBGPStatus) { o.Status.Node = "" })
	editStatus(l, o, func(o *v1beta1.ServiceBGPStatus) { o.Status.Node = l.namespace + "-elsewhere" })
	l.saidIs("bgp NS/a on elsewhere to [r1]")
	next := l.reporter(r.node, hurry)
	next.Set(announcing{l.key("a"): {Peers: []string{"r1"}}})
	l.saidIs("bgp NS/a on n1 to [r1]")
}

func TestHandOverLeavesOneOwner(t *testing.T) {
	l := newLab(t)
	first, second := l.reporter(l.node("n1"), hurry), l.reporter(l.node("n2"), hurry)
	first.Set(announcing{l.key("a"): {L2: true, Peers: []string{"r"}}, l.key("b"): {L2: true}})
	second.Set(announcing{l.key("a"): {Peers: []string{"r"}}})
	l.saidIs("bgp NS/a on n1 to [r]", "bgp NS/a on n2 to [r]", "layer2 NS/a on n1 by []", "layer2 NS/b on n1 by []")

	first.Set(announcing{l.key("a"): {Peers: []string{"r"}}})
	second.Set(announcing{l.key("a"): {L2: true, Peers: []string{"r"}}})
	l.saidIs("bgp NS/a on n1 to [r]", "bgp NS/a on n2 to [r]", "layer2 NS/a on n2 by []", "layer2 NS/b on n1 by []")

	// A node that says no more is spoken for, where there is one owner only.
	first.stop()
	second.Set(announcing{l.key("b"): {L2: true}})
	l.saidIs("bgp NS/a on n1 to [r]", "bgp NS/a on n2 to [r]", "layer2 NS/a on n2 by []", "layer2 NS/b on n2 by []")
}

// Two nodes that do not hear each other both answer. Both say so, and do not delete
// each other's word in turn.
func TestTwoOwnersBothSaySo(t *testing.T) {
	l := newLab(t)
	first, second := l.reporter(l.node("n1"), hurry), l.reporter(l.node("n2"), hurry)
	first.Set(announcing{l.key("a"): {L2: true}})
	second.Set(announcing{})
	l.saidIs("layer2 NS/a on n1 by []")
	second.Set(announcing{l.key("a"): {L2: true}})
	l.saidIs("layer2 NS/a on n1 by []", "layer2 NS/a on n2 by []")
	uids := func() map[string]bool {
		out := map[string]bool{}
		for _, o := range l.statuses(t.Context()) {
			if o.GetLabels()[v1beta1.LabelServiceName] == "a" && o.GetLabels()[v1beta1.LabelServiceNamespace] == l.namespace {
				out[string(o.GetUID())] = true
			}
		}
		return out
	}
	before := uids()
	l.marker(first, "x")
	l.marker(second, "y")
	if after := uids(); !maps.Equal(before, after) || len(after) != 2 {
		t.Errorf("they fight: %v, then %v", before, after)
	}
	first.Set(announcing{l.key("a"): {}})
	l.saidIs("bgp NS/x on n1 to [p]", "bgp NS/y on n2 to [p]", "layer2 NS/a on n2 by []")
}

func TestWriterOfAnnouncementsOutlivesTheAPIServer(t *testing.T) {
	l := newLab(t)
	wire := newLine(t)
	r := l.reporter(l.node("n1"), hurry, wire.through)
	r.Set(announcing{l.key("a"): {Peers: []string{"r1"}}})
	l.saidIs("bgp NS/a on n1 to [r1]")
	wire.set(true)
	r.Set(announcing{l.key("a"): {Peers: []string{"r2"}}, l.key("b"): {L2: true}, l.key("c"): {L2: true}})
	r.Set(announcing{l.key("c"): {}})
	before := r.writes.Load()
	l.eventually(func() string { // it tries
		if r.writes.Load() < before+2 {
			return "no write was tried"
		}
		return ""
	})
	wire.set(false)
	l.saidIs("bgp NS/a on n1 to [r2]", "layer2 NS/b on n1 by []")
}

// A new process finds what the last one has written, and deletes what is not right
// any more: also what is under names of others' choice.
func TestRestartAdoptsAnnouncementStatus(t *testing.T) {
	l := newLab(t)
	node, other := l.node("n1"), l.node("n2")
	r := l.reporter(node, hurry)
	r.Set(announcing{l.key("a"): {L2: true}, l.key("b"): {Peers: []string{"r"}}, l.key("gone"): {L2: true}})
	l.saidIs("bgp NS/b on n1 to [r]", "layer2 NS/a on n1 by []", "layer2 NS/gone on n1 by []")
	a, b := l.one("a").GetUID(), l.one("b").GetUID()
	r.stop()
	for _, n := range []string{node, other} {
		o := &v1beta1.ServiceBGPStatus{ObjectMeta: metav1.ObjectMeta{Namespace: system, GenerateName: "bgp-", Labels: map[string]string{
			v1beta1.LabelNode: n, v1beta1.LabelServiceName: "stray", v1beta1.LabelServiceNamespace: l.namespace,
		}}}
		l.create(o)
		editStatus(l, o, func(o *v1beta1.ServiceBGPStatus) {
			o.Status = v1beta1.ServiceBGPStatusStatus{Node: n, ServiceName: "stray", ServiceNamespace: l.namespace}
		})
	}

	next := l.reporter(node, hurry)
	next.Set(announcing{l.key("a"): {L2: true}, l.key("b"): {Peers: []string{"r"}}})
	l.saidIs("bgp NS/b on n1 to [r]", "bgp NS/stray on n2 to []", "layer2 NS/a on n1 by []")
	l.marker(next, "end")
	if n := next.writes.Load(); n != 2 || l.one("a").GetUID() != a || l.one("b").GetUID() != b {
		t.Errorf("%d writes, want two deletions", n)
	}

	// It is another Pod's now, and would go with the last one.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: node}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "speaker", Image: "x"}}}}
	l.create(pod)
	next.stop()
	last := l.reporterIn(node, node, hurry)
	last.Set(announcing{l.key("a"): {L2: true}})
	l.eventually(func() string {
		if o := l.one("a"); len(o.GetOwnerReferences()) != 1 || o.GetOwnerReferences()[0].UID != pod.UID || o.GetUID() != a {
			return fmt.Sprintf("owners %v", o.GetOwnerReferences())
		}
		return ""
	})
}

// The name of a node may be 253 characters long, the value of a label 63.
func TestLongNodeNames(t *testing.T) {
	l := newLab(t)
	long := l.node(strings.Repeat("x.", 80) + "1")
	r := l.reporter(long, hurry)
	r.Set(announcing{l.key("a"): {L2: true}})
	l.saidIs("layer2 NS/a on " + strings.TrimPrefix(long, l.namespace+"-") + " by []")
	if label := l.one("a").GetLabels()[v1beta1.LabelNode]; !strings.HasPrefix(long, label[:46]) || len(label) != 63 {
		t.Errorf("label %q", label)
	}
	l.delete(l.one("a")) // it sees its own
	l.saidIs("layer2 NS/a on " + strings.TrimPrefix(long, l.namespace+"-") + " by []")
	r.Set(announcing{l.key("a"): {}})
	l.saidIs()
}

func TestRemoveAnnouncements(t *testing.T) {
	l := newLab(t)
	node := l.node("n1")
	r, other := l.reporter(node, hurry), l.reporter(l.node("n2"), hurry)
	both := announcing{l.key("a"): {L2: true, Peers: []string{"r"}}}
	r.Set(both)
	l.saidIs("bgp NS/a on n1 to [r]", "layer2 NS/a on n1 by []")
	r.stop()
	other.Set(announcing{l.key("b"): {L2: true}})
	l.saidIs("bgp NS/a on n1 to [r]", "layer2 NS/a on n1 by []", "layer2 NS/b on n2 by []")
	c := l.connect(kube.Options{NodeName: node})
	for range 2 {
		if err := c.RemoveAnnouncements(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.saidIs("layer2 NS/b on n2 by []")
	}
}

// However much there is to say, the API server gets a bounded rate of it.
func TestAnnouncementsAreWrittenAtLeisure(t *testing.T) {
	l := newLab(t)
	r := l.reporter(l.node("n1"), hurry)
	const services = 100
	all := announcing{}
	for i := range services {
		all[l.key(fmt.Sprintf("s%d", i))] = kube.Announcing{Peers: []string{"r"}}
	}
	began := time.Now()
	r.Set(all)
	l.eventually(func() string {
		if n := strings.Count(l.said(), "to [r]"); n != services {
			return fmt.Sprintf("%d of %d", n, services)
		}
		return ""
	})
	took := time.Since(began)
	t.Logf("%d objects by %d writes in %s", services, r.writes.Load(), took)
	// Of 200 writes 100 may be at once, the others at 50 a second. One that is told of
	// its own creation before its status is there tries again, and is refused.
	const late = services / 10
	if n := r.writes.Load(); n < 2*services || n > 2*services+late || took < 1500*time.Millisecond {
		t.Errorf("%d writes in %s", n, took)
	}
}

// An Event tells of a change. That a speaker starts again, or an announcement stops
// for less than the delay, is none.
func TestEventsOfAnnouncing(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	first := l.reporter(l.node("n1"), hurry)
	with := func(addr string) announcing {
		return announcing{l.key("a"): {UID: string(a.UID), Addrs: []netip.Addr{netip.MustParseAddr(addr)}, L2: true, Peers: []string{"r"}}}
	}
	line := func(protocol string, count int) string {
		return fmt.Sprintf("metallb-speaker Normal Service/nodeAssigned: announcing from node %q with protocol %q (%d)", first.node, protocol, count)
	}
	// want takes the Events of a when those of another Service are there, which are
	// written after them.
	others := 0
	want := func(r *reporter, lines ...string) {
		t.Helper()
		others++
		next := l.loadBalancer(fmt.Sprintf("next-%d", others))
		l.create(next)
		r.Set(announcing{l.key(next.Name): {UID: string(next.UID), Peers: []string{"r"}}})
		l.eventually(func() string { return cmp.Diff([]string{line("bgp", 1)}, l.events(next)) })
		slices.Sort(lines)
		l.eventually(func() string { return cmp.Diff(lines, l.events(a)) })
	}
	first.Set(with("192.0.2.1"))
	want(first, line("layer2", 1), line("bgp", 1))
	first.Set(announcing{l.key("a"): {}})
	first.Set(with("192.0.2.1"))
	want(first, line("layer2", 1), line("bgp", 1))
	first.stop()

	second := l.reporter(first.node, hurry)
	second.Set(with("192.0.2.1"))
	want(second, line("layer2", 1), line("bgp", 1))
	second.Set(with("192.0.2.2"))
	want(second, line("layer2", 1), line("bgp", 1), line("layer2", 1), line("bgp", 1))
	second.Set(announcing{l.key("a"): {}})
	want(second, line("layer2", 1), line("bgp", 1), line("layer2", 1), line("bgp", 1))
	second.Set(with("192.0.2.2"))
	want(second, line("layer2", 1), line("bgp", 1), line("layer2", 2), line("bgp", 2))
}
