package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/controller"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/kube"
)

type noCounters struct{}

func (noCounters) Update(error)                  {}
func (noCounters) Config([]config.Problem, bool) {}

// lead runs a whole controller that believes that it is the one at work, until ctx
// ends.
func (l *lab) lead(ctx context.Context) *sync.WaitGroup {
	l.t.Helper()
	c := l.connect(kube.Options{Claims: true})
	feed := c.Feed()
	w, state := c.Writer(feed, always), c.StateWriter()
	ctl := controller.New(controller.Deps{
		Log: slog.New(slog.DiscardHandler), Options: controller.Options{Retention: time.Minute},
		Feed: feed, Status: w, State: state, Metrics: noCounters{}, Usage: &controller.Usage{},
	})
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{c.Run, feed.Run, w.Run, state.Run, ctl.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				l.t.Errorf("controller: %v", err)
			}
		})
	}
	return &wg
}

// holdersWatch follows what the status of all Services of a namespace says, in the
// order of its writes, and tells of every moment in which two that do not share say
// one address.
func (l *lab) holdersWatch(ctx context.Context) <-chan int {
	l.t.Helper()
	var list corev1.ServiceList
	if err := l.client.List(ctx, &list, client.InNamespace(l.namespace)); err != nil {
		l.t.Fatal(err)
	}
	w, err := l.client.Watch(ctx, &corev1.ServiceList{}, client.InNamespace(l.namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		l.t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() {
		events := 0
		now := map[string]*corev1.Service{}
		for e := range w.ResultChan() {
			o, ok := e.Object.(*corev1.Service)
			if !ok {
				continue
			}
			events++
			delete(now, o.Name)
			if e.Type == watch.Deleted {
				continue
			}
			for _, other := range now {
				if a := common(o, other); a != "" && !mayShare(o, other) {
					l.t.Errorf("%s is in the status of %s and %s", a, o.Name, other.Name)
				}
			}
			now[o.Name] = o
		}
		done <- events
	}()
	context.AfterFunc(ctx, w.Stop)
	return done
}

func common(a, b *corev1.Service) string {
	for _, x := range a.Status.LoadBalancer.Ingress {
		if slices.ContainsFunc(b.Status.LoadBalancer.Ingress, func(y corev1.LoadBalancerIngress) bool { return x.IP == y.IP }) {
			return x.IP
		}
	}
	return ""
}

func mayShare(a, b *corev1.Service) bool {
	key := a.Annotations["metallb.io/allow-shared-ip"]
	return key != "" && key == b.Annotations["metallb.io/allow-shared-ip"] && a.Spec.Ports[0].Port != b.Spec.Ports[0].Port
}

// TestTwoThatBothBelieveTheyLead lets two controllers give addresses of one pool with
// no Lease between them, while Services come, go, come back and ask for addresses, and
// the pool is edited: the claims alone keep them from giving one address twice. When
// only one is left, everything is in order within moments.
func TestTwoThatBothBelieveTheyLead(t *testing.T) {
	const operations = 400
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, seed))
	l := newLab(t)
	p := pool("fence", "192.0.2.0-192.0.2.19")
	l.create(p)
	ctx, stop := context.WithCancel(t.Context())
	both, stopSecond := context.WithCancel(ctx)
	watching, stopWatching := context.WithCancel(t.Context())
	events := l.holdersWatch(watching)
	first, second := l.lead(ctx), l.lead(both)

	name := func() string { return fmt.Sprintf("s%02d", rng.IntN(24)) }
	edits := 0
	for range operations {
		o := l.loadBalancer(name())
		err := error(nil)
		switch n := rng.IntN(10); {
		case n < 4:
			err = l.client.Delete(ctx, o)
			if n < 2 { // and comes back
				_ = l.client.Create(ctx, l.chance(rng, o.Name))
			}
		case n == 4:
			edits++
			err = l.editPool(ctx, rng)
		case n == 5:
			ip := fmt.Sprintf(`{"metadata":{"annotations":{"metallb.io/loadBalancerIPs":"192.0.2.%d"}}}`, rng.IntN(20))
			err = l.client.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(ip)))
		default:
			err = l.client.Create(ctx, l.chance(rng, o.Name))
		}
		if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
	stopSecond()
	second.Wait()
	l.eventually(l.inOrder)
	stopWatching()
	t.Logf("%d changes of Services, %d edits of the pool", <-events, edits)
	stop()
	first.Wait()
	if err := l.client.DeleteAllOf(t.Context(), &corev1.Service{}, client.InNamespace(l.namespace)); err != nil {
		t.Error(err)
	}
}

// chance returns a Service that may ask for something.
func (l *lab) chance(rng *rand.Rand, name string) *corev1.Service {
	return l.loadBalancer(name, func(o *corev1.Service) {
		o.Spec.Ports[0].Port = int32(80 + rng.IntN(3))
		switch rng.IntN(4) {
		case 0:
			o.Annotations = map[string]string{"metallb.io/allow-shared-ip": "k"}
		case 1:
			o.Annotations = map[string]string{"metallb.io/loadBalancerIPs": fmt.Sprintf("192.0.2.%d", rng.IntN(20))}
		}
	})
}

func (l *lab) editPool(ctx context.Context, rng *rand.Rand) error {
	o := &v1beta1.IPAddressPool{}
	if err := l.client.Get(ctx, client.ObjectKey{Namespace: system, Name: "fence"}, o); err != nil {
		return err
	}
	o.Spec.Addresses = []string{fmt.Sprintf("192.0.2.%d-192.0.2.%d", rng.IntN(4), 14+rng.IntN(6))}
	return l.client.Update(ctx, o)
}

// inOrder says what is not: each Service has an address or is told why not, each
// address that is held is claimed for its holders, and no other.
func (l *lab) inOrder() string {
	var svcs corev1.ServiceList
	var claims v1alpha1.AddressClaimList
	if err := l.client.List(l.t.Context(), &svcs, client.InNamespace(l.namespace)); err != nil {
		return err.Error()
	}
	if err := l.client.List(l.t.Context(), &claims, client.InNamespace(system)); err != nil {
		return err.Error()
	}
	claimed := map[string]string{} // by UID
	for _, c := range claims.Items {
		for _, h := range c.Spec.Holders {
			if other, twice := claimed[h.UID]; twice || h.Released {
				return fmt.Sprintf("%s is claimed for %s (released: %t), and so is %q", c.Name, h.Name, h.Released, other)
			}
			claimed[h.UID] = c.Spec.Address
		}
	}
	for _, o := range svcs.Items {
		has := ""
		if len(o.Status.LoadBalancer.Ingress) > 0 {
			has = o.Status.LoadBalancer.Ingress[0].IP
		}
		if has != claimed[string(o.UID)] {
			return fmt.Sprintf("%s has %q, and %q is claimed for it", o.Name, has, claimed[string(o.UID)])
		}
		delete(claimed, string(o.UID))
		if len(o.Status.Conditions) == 0 || has == "" && o.Status.Conditions[0].Reason == "Allocated" {
			return fmt.Sprintf("%s has %q and says %v", o.Name, has, o.Status.Conditions)
		}
	}
	if len(claimed) > 0 {
		return fmt.Sprintf("claimed for nobody: %v", claimed)
	}
	return ""
}
