package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// claim returns the claim to an address as "name[!] name", sorted as it is, with "!"
// for one that is released; "" if there is none.
func (l *lab) claim(addr string) string {
	l.t.Helper()
	o := &v1alpha1.AddressClaim{}
	err := l.client.Get(l.t.Context(), client.ObjectKey{Namespace: system, Name: v1alpha1.ObjectName(netip.MustParseAddr(addr))}, o)
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		l.t.Fatalf("read claim to %s: %v", addr, err)
	}
	var out []string
	for _, h := range o.Spec.Holders {
		s := h.Name
		if h.Released {
			s += "!"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func (l *lab) awaitClaim(addr, want string) {
	l.t.Helper()
	l.eventually(func() string { return cmp.Diff(want, l.claim(addr)) })
}

// makeClaim claims an address for Services as another controller would.
func (l *lab) makeClaim(addr string, holders ...*corev1.Service) *v1alpha1.AddressClaim {
	l.t.Helper()
	o := &v1alpha1.AddressClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: v1alpha1.ObjectName(netip.MustParseAddr(addr))},
		Spec:       v1alpha1.AddressClaimSpec{Address: addr},
	}
	for _, h := range holders {
		o.Spec.Holders = append(o.Spec.Holders, v1alpha1.AddressHolder{UID: string(h.UID), Namespace: h.Namespace, Name: h.Name})
	}
	if err := l.client.Create(l.t.Context(), o); err != nil {
		l.t.Fatal(err)
	}
	return o
}

// statusSays waits until the status of o says want.
func (l *lab) statusSays(o *corev1.Service, want string) {
	l.t.Helper()
	l.eventually(func() string {
		l.refresh(o)
		return cmp.Diff(want, says(o))
	})
}

func shared(s kube.ServiceStatus, key string, ports ...uint16) kube.ServiceStatus {
	s.SharingKey = key
	for _, p := range ports {
		s.Ports = append(s.Ports, lb.Port{Protocol: "TCP", Number: p})
	}
	return s
}

// sharingOn makes a Service one that shares under a key, on one port.
func sharingOn(key string, port int32) func(*corev1.Service) {
	return func(o *corev1.Service) {
		o.Annotations = map[string]string{"metallb.io/allow-shared-ip": key}
		o.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: port}}
	}
}

func TestClaimComesFirst(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	w := l.writer()
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1", "2001:db8::1"), true)
	l.statusSays(a, "192.0.2.1 2001:db8::1 p")
	l.awaitClaim("192.0.2.1", "a")
	l.awaitClaim("2001:db8::1", "a")

	l.delete(a)
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("192.0.2.1"))
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("2001:db8::1"))
	l.awaitClaim("192.0.2.1", "")
	l.awaitClaim("2001:db8::1", "")
	l.settled(w)
}

func TestSharersAreInOneClaim(t *testing.T) {
	l := newLab(t)
	w := l.writer()
	var svcs []*corev1.Service
	for i, name := range []string{"a", "b", "c"} {
		o := l.loadBalancer(name, sharingOn("k", int32(80+i)))
		l.create(o)
		svcs = append(svcs, o)
		w.Set(l.key(name), shared(wish(o, "p", "192.0.2.1"), "k", uint16(80+i)), true)
		l.statusSays(o, "192.0.2.1 p")
	}
	l.awaitClaim("192.0.2.1", "a b c")
	// One that would use a port of another is refused, whatever its controller believes.
	w.Set(l.key("b"), shared(wish(svcs[1], "p", "192.0.2.1"), "k", 80), true)
	l.delete(svcs[2])
	w.Release(l.key("c"), string(svcs[2].UID), netip.MustParseAddr("192.0.2.1"))
	l.awaitClaim("192.0.2.1", "a b")
	if n := w.Pending(); n != 1 {
		t.Errorf("%d wishes pending, want that of b", n)
	}
	// When the other has gone, it comes true.
	l.delete(svcs[0])
	w.Release(l.key("a"), string(svcs[0].UID), netip.MustParseAddr("192.0.2.1"))
	l.awaitClaim("192.0.2.1", "b")
	l.settled(w)
}

// An address that is claimed for one is not given to another, and the reader of the
// feed learns of the claim.
func TestClaimedForAnother(t *testing.T) {
	l := newLab(t)
	a, b := l.loadBalancer("a"), l.loadBalancer("b")
	l.create(a)
	l.create(b)
	c := l.connect(kube.Options{Claims: true})
	v := l.watch(c)
	w := c.Writer(v.feed, always)
	l.run(w.Run)
	l.makeClaim("192.0.2.1", b)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	addr := netip.MustParseAddr("192.0.2.1")
	v.until(func() string {
		if h := v.last.Claims[addr]; len(h) != 1 || h[0].Key.Name != "b" {
			return fmt.Sprintf("the claim is known as %+v", h)
		}
		return ""
	})
	w.Set(l.key("a"), wish(a, "p", "192.0.2.2"), true) // so its reader decides otherwise
	l.statusSays(a, "192.0.2.2 p")
	if got := l.claim("192.0.2.1"); got != "b" {
		t.Errorf("claim of %q, want that of b", got)
	}
	l.settled(w)
}

// One that is created again takes the place of its namesake, whose claim may still be
// there.
func TestNamesakeTakesOverTheClaim(t *testing.T) {
	l := newLab(t)
	old := l.loadBalancer("a")
	l.create(old)
	w := l.writer()
	w.Set(l.key("a"), wish(old, "p", "192.0.2.1"), true)
	l.statusSays(old, "192.0.2.1 p")
	l.delete(old)
	again := l.loadBalancer("a")
	l.create(again)
	w.Set(l.key("a"), wish(again, "p", "192.0.2.1"), true)
	l.statusSays(again, "192.0.2.1 p")
	w.Release(l.key("a"), string(old.UID), netip.MustParseAddr("192.0.2.1"))
	l.settled(w)
	if got := l.claim("192.0.2.1"); got != "a" {
		t.Errorf("claim of %q", got)
	}
}

// When an address is taken from a Service that stays, its claim goes after its status
// was written.
func TestTakingFromOneThatStays(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	var leads atomic.Bool
	leads.Store(true)
	c := l.connect(kube.Options{Claims: true})
	w := c.Writer(l.watch(c).feed, leads.Load)
	l.run(w.Run)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	l.statusSays(a, "192.0.2.1 p")
	w.Set(l.key("a"), wish(a, "p", "192.0.2.2"), true)
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("192.0.2.1"))
	l.statusSays(a, "192.0.2.2 p")
	l.awaitClaim("192.0.2.1", "")
	l.awaitClaim("192.0.2.2", "a")
	// What it shall have is not taken, whoever asks for it as long as the wish waits.
	leads.Store(false)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.2"), true)
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("192.0.2.2"))
	leads.Store(true)
	l.settled(w)
	l.awaitClaim("192.0.2.2", "a")
	l.statusSays(a, "192.0.2.2 p")
}

// While a wish comes true, another controller marks the claim as released, and the
// same wish is made again because of that: it is a wish of its own.
func TestSameWishAgainWhileItComesTrue(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	addr := netip.MustParseAddr("192.0.2.1")
	c := l.connect(kube.Options{Claims: true})
	v := l.watch(c)
	var asked atomic.Int32
	writing, goOn := make(chan struct{}), make(chan struct{})
	w := c.Writer(v.feed, func() bool {
		if asked.Add(1) == 2 { // it has claimed, and is about to write
			close(writing)
			<-goOn
		}
		return true
	})
	l.run(w.Run)
	w.Set(l.key("a"), wish(a, "p", addr.String()), true)
	<-writing
	claim := &v1alpha1.AddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: v1alpha1.ObjectName(addr)}}
	l.refresh(claim)
	edit(l, claim, func(o *v1alpha1.AddressClaim) { o.Spec.Holders[0].Released = true })
	v.until(func() string {
		h := v.last.Claims[addr]
		return cmp.Diff(true, len(h) > 0 && h[0].Released)
	})
	w.Set(l.key("a"), wish(a, "p", addr.String()), true)
	close(goOn)
	l.settled(w)
	l.statusSays(a, "192.0.2.1 p")
	l.awaitClaim(addr.String(), "a")
}

// A deposed controller has claimed an address and read the Service, and is about to
// write it. Once the claim is gone, it cannot any more, although nothing else of the
// Service had to change.
func TestDeposedWriterIsFenced(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	l.makeClaim("192.0.2.1", a)
	read := &corev1.Service{}
	if err := l.client.Get(t.Context(), client.ObjectKeyFromObject(a), read); err != nil {
		t.Fatal(err)
	}

	w := l.writer()
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("192.0.2.1"))
	l.awaitClaim("192.0.2.1", "")

	read.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	if err := l.client.Status().Update(t.Context(), read); !apierrors.IsConflict(err) {
		t.Errorf("the late write: %v, want a conflict", err)
	}
	l.statusSays(a, "")
}

// The late write comes before the taking one: then the claim stays, for the reader to
// decide, and goes with the address.
func TestLateWriteBeforeTheClaimGoes(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	l.makeClaim("192.0.2.1", a)
	editStatus(l, a, func(o *corev1.Service) {
		o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	})
	w := l.writer()
	w.Release(l.key("a"), string(a.UID), netip.MustParseAddr("192.0.2.1"))
	l.awaitClaim("192.0.2.1", "a!")
	if w.Pending() == 0 {
		t.Error("it has taken the address of a Service whose status says it")
	}
	w.Set(l.key("a"), wish(a, ""), true)
	l.statusSays(a, "")
	l.awaitClaim("192.0.2.1", "")
	l.settled(w)
}

// A whole controller is cut off with a wish under way, while another gives the address
// to somebody else. When it is back, it finds that it is late.
func TestControllerThatWasCutOff(t *testing.T) {
	l := newLab(t)
	a, b := l.loadBalancer("a"), l.loadBalancer("b")
	l.create(a)
	l.create(b)
	wire := newLine(t)
	cut := l.connect(kube.Options{Claims: true}, wire.through)
	late := cut.Writer(l.watch(cut).feed, always)
	wire.set(true)
	late.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	l.run(late.Run)

	w := l.writer()
	w.Set(l.key("b"), wish(b, "p", "192.0.2.1"), true)
	l.statusSays(b, "192.0.2.1 p")
	w.Set(l.key("a"), wish(a, "p", "192.0.2.2"), true)
	l.statusSays(a, "192.0.2.2 p")
	wire.set(false)
	for _, c := range []struct{ name, says string }{{"a", "192.0.2.2 p"}, {"b", "192.0.2.1 p"}} {
		o := l.loadBalancer(c.name)
		for range 25 { // as long as its wish is alive
			if l.refresh(o); says(o) != c.says {
				t.Fatalf("%s has %q, want %q", c.name, says(o), c.says)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	if late.Pending() != 1 {
		t.Error("the late wish came true")
	}
}

// One that finds out that it does not lead gives nothing any more.
func TestDeposedWriterGivesNothing(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	c := l.connect(kube.Options{Claims: true})
	var asked, leads atomic.Int32
	w := c.Writer(l.watch(c).feed, func() bool {
		asked.Add(1)
		return leads.Load() == 1
	})
	l.run(w.Run)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	l.eventually(func() string { return cmp.Diff(true, asked.Load() > 3) })
	if l.refresh(a); says(a) != "" || l.claim("192.0.2.1") != "" {
		t.Errorf("status %q, claim of %q", says(a), l.claim("192.0.2.1"))
	}
	leads.Store(1)
	l.statusSays(a, "192.0.2.1 p")
}

func TestConditionsOfServices(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	w := l.writer()
	conditions := func() string {
		l.refresh(a)
		var out []string
		for _, c := range a.Status.Conditions {
			out = append(out, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
		}
		return strings.Join(out, "\n")
	}
	want := wish(a, "")
	want.Conditions = []kube.Condition{{Type: kube.ConditionAllocated, Reason: "PoolExhausted", Message: "none is free"}}
	w.Set(l.key("a"), want, false)
	l.eventually(func() string {
		return cmp.Diff("metallb.io/AddressAllocated=False PoolExhausted: none is free", conditions())
	})
	version := a.ResourceVersion
	w.Set(l.key("a"), want, false)
	l.settled(w)
	if l.refresh(a); a.ResourceVersion != version {
		t.Error("the same condition was written again")
	}
	want = wish(a, "p", "192.0.2.1")
	want.Conditions = []kube.Condition{{Type: kube.ConditionAllocated, True: true, Reason: "Allocated", Message: "192.0.2.1 from p"}}
	w.Set(l.key("a"), want, true)
	l.eventually(func() string {
		return cmp.Diff("metallb.io/AddressAllocated=True Allocated: 192.0.2.1 from p", conditions())
	})
	edit(l, a, func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeClusterIP })
	l.eventually(func() string { // the writer may know the Service as it was
		w.Set(l.key("a"), kube.ServiceStatus{}, true)
		return cmp.Diff("", conditions())
	})
}

// candidate campaigns until its context ends; begin and end are told of its terms.
func (l *lab) candidate(ctx context.Context, name string, begin, end chan<- string) <-chan struct{} {
	l.t.Helper()
	c := l.connect(kube.Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := c.Lead(ctx, kube.LeadOptions{Identity: name, Duration: 3 * time.Second, Standby: func(string) {}}, func(ctx context.Context, _ func() bool) error {
			begin <- name
			<-ctx.Done()
			end <- name
			return nil
		})
		if err != nil {
			l.t.Errorf("%s: %v", name, err)
		}
	}()
	return done
}

func TestOneLeads(t *testing.T) {
	l := newLab(t)
	begin, end := make(chan string, 10), make(chan string, 10)
	next := func(ch <-chan string) string {
		t.Helper()
		select {
		case name := <-ch:
			return name
		case <-time.After(deadline):
			t.Fatal("nobody")
			return ""
		}
	}
	stops := map[string]context.CancelFunc{}
	done := map[string]<-chan struct{}{}
	for _, name := range []string{"one", "two"} {
		ctx, cancel := context.WithCancel(t.Context())
		stops[name] = cancel
		done[name] = l.candidate(ctx, name, begin, end)
	}
	first := next(begin)
	select {
	case other := <-begin:
		t.Fatalf("%s leads beside %s", other, first)
	case <-time.After(200 * time.Millisecond):
	}
	stops[first]()
	if got := next(end); got != first {
		t.Errorf("%s has ended its term, want %s", got, first)
	}
	<-done[first]
	second := next(begin)
	if second == first {
		t.Errorf("%s leads again", first)
	}
	stops[second]()
	<-done[second]
}

// A leader that cannot renew its Lease ends its term, and leads again when it can.
func TestLeaderThatIsCutOff(t *testing.T) {
	l := newLab(t)
	wire := newLine(t)
	c := l.connect(kube.Options{}, wire.through)
	begin, end := make(chan struct{}, 10), make(chan struct{}, 10)
	l.run(func(ctx context.Context) error {
		return c.Lead(ctx, kube.LeadOptions{Identity: "me", Duration: 1500 * time.Millisecond, Standby: func(string) {}}, func(ctx context.Context, _ func() bool) error {
			begin <- struct{}{}
			<-ctx.Done()
			end <- struct{}{}
			return nil
		})
	})
	await := func(ch <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-ch:
		case <-time.After(deadline):
			t.Fatal(what)
		}
	}
	await(begin, "it does not lead")
	wire.set(true)
	await(end, "it leads although it is cut off")
	wire.set(false)
	await(begin, "it does not lead again")
}
