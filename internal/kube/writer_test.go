package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// refresh reads o again.
func (l *lab) refresh(o client.Object) {
	l.t.Helper()
	if err := l.client.Get(l.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		l.t.Fatalf("read %T %s: %v", o, o.GetName(), err)
	}
}

// writer returns a writer that runs, and knows all Services.
func (l *lab) writer(change ...func(*kube.Options)) *kube.Writer {
	l.t.Helper()
	var opts kube.Options
	for _, f := range change {
		f(&opts)
	}
	opts.Claims = true
	c := l.connect(opts)
	w := c.Writer(l.watch(c).feed, always)
	l.run(w.Run)
	return w
}

func wish(o *corev1.Service, pool string, addrs ...string) kube.ServiceStatus {
	s := kube.ServiceStatus{Holder: lb.Holder{Key: lb.Key{Namespace: o.Namespace, Name: o.Name}, UID: string(o.UID)}, Pool: pool}
	for _, a := range addrs {
		s.Addrs = append(s.Addrs, netip.MustParseAddr(a))
	}
	return s
}

// says returns a Service's addresses and pool.
func says(o *corev1.Service) string {
	var out []string
	for _, in := range o.Status.LoadBalancer.Ingress {
		out = append(out, in.IP+in.Hostname)
	}
	return strings.Join(append(out, o.Annotations[kube.AnnotationFromPool]), " ")
}

// settled waits until w has nothing left to do.
func (l *lab) settled(w *kube.Writer) {
	l.t.Helper()
	l.eventually(func() string {
		if n := w.Pending(); n > 0 {
			return fmt.Sprintf("%d wishes are pending", n)
		}
		return ""
	})
}

func TestStatusAndAnnotationAreOneWrite(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a", func(o *corev1.Service) { o.Annotations = map[string]string{"keep": "me"} })
	l.create(a)
	w := l.writer()
	events, err := l.client.Watch(t.Context(), &corev1.ServiceList{}, client.InNamespace(l.namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	next := func(want string) {
		t.Helper()
		for e := range events.ResultChan() {
			if o, ok := e.Object.(*corev1.Service); ok && e.Type == watch.Modified {
				if diff := cmp.Diff(want, says(o)); diff != "" || o.Annotations["keep"] != "me" {
					t.Errorf("annotations %v, status (-want +got):\n%s", o.Annotations, diff)
				}
				return
			}
		}
	}
	for _, c := range []struct {
		want kube.ServiceStatus
		says string
	}{
		{wish(a, "p", "192.0.2.1"), "192.0.2.1 p"},
		{wish(a, "q", "192.0.2.1"), "192.0.2.1 q"},
		{wish(a, "q", "2001:db8::1", "192.0.2.1"), "2001:db8::1 192.0.2.1 q"},
		{wish(a, ""), ""},
	} {
		w.Set(l.key("a"), c.want, true)
		next(c.says)
		w.Set(l.key("a"), c.want, true) // again: nothing to write
		l.settled(w)
	}
}

func TestConflictsAreTriedAgain(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	w := l.writer()
	ctx, stop := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	writes := 0
	storm.Go(func() {
		o := a.DeepCopy()
		for ; ctx.Err() == nil; writes++ {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"storm":"%d"}}}`, writes)
			if err := l.client.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil && ctx.Err() == nil {
				t.Errorf("patch: %v", err)
				return
			}
		}
	})
	for i := range 40 {
		w.Set(l.key("a"), wish(a, "p", fmt.Sprintf("192.0.2.%d", i)), true)
		l.settled(w)
	}
	stop()
	storm.Wait()
	l.eventually(func() string {
		l.refresh(a)
		return cmp.Diff("192.0.2.39 p", says(a))
	})
	if a.Annotations["storm"] == "" {
		t.Error("the other writer's annotation is lost")
	}
	t.Logf("%d writes of another", writes)
}

func TestWishesForOthersAreDropped(t *testing.T) {
	l := newLab(t)
	class := "example.com/other"
	foreign := l.loadBalancer("foreign", func(o *corev1.Service) { o.Spec.LoadBalancerClass = &class })
	inner := l.loadBalancer("inner", func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeClusterIP })
	old := l.loadBalancer("again")
	mine := l.loadBalancer("mine")
	for _, o := range []*corev1.Service{foreign, inner, old, mine} {
		l.create(o)
	}
	l.delete(old)
	again := l.loadBalancer("again")
	l.create(again)
	w := l.writer()
	for _, o := range []*corev1.Service{foreign, inner, old} {
		w.Set(l.key(o.Name), wish(o, "p", "192.0.2.1"), false)
	}
	w.Set(l.key("gone"), kube.ServiceStatus{Holder: lb.Holder{UID: "x"}, Pool: "p"}, true)
	w.Set(l.key("mine"), kube.ServiceStatus{}, true) // it is of type LoadBalancer: no orphan
	l.settled(w)
	for _, o := range []*corev1.Service{foreign, inner, again, mine} {
		version := o.ResourceVersion
		if l.refresh(o); o.ResourceVersion != version {
			t.Errorf("%s was written to: %q", o.Name, says(o))
		}
	}
	w.Set(l.key("again"), wish(again, "p", "192.0.2.2"), true)
	l.eventually(func() string {
		l.refresh(again)
		return cmp.Diff("192.0.2.2 p", says(again))
	})
}

func TestServiceDeletedWhileItIsWritten(t *testing.T) {
	l := newLab(t)
	w := l.writer()
	for i := range 20 {
		o := l.loadBalancer(fmt.Sprintf("s%d", i))
		l.create(o)
		w.Set(l.key(o.Name), wish(o, "p", "192.0.2.1"), true)
		if err := l.client.Delete(t.Context(), o); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	l.settled(w)
}

func TestWriterOutlivesTheAPIServer(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	wire := newLine(t)
	c := l.connect(kube.Options{Claims: true}, wire.through)
	w := c.Writer(l.watch(c).feed, always)
	l.run(w.Run)
	wire.set(true)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.1"), true)
	w.Set(l.key("a"), wish(a, "p", "192.0.2.2"), true)
	if w.Pending() != 1 {
		t.Errorf("%d wishes pending, want the newest", w.Pending())
	}
	wire.set(false)
	l.eventually(func() string {
		l.refresh(a)
		return cmp.Diff("192.0.2.2 p", says(a))
	})
	l.settled(w)
}
