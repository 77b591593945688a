package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
)

// reportInterval is the least time between two rounds of writes.
const reportInterval = 100 * time.Millisecond

// ConflictWriter makes AddressConflicts of what this node's speaker found out. Several
// speakers may hear the same stranger; the first one writes, and it alone takes back.
type ConflictWriter struct {
	c       *Cluster
	next    *latest[wire.Report]
	touched chan struct{} // somebody made, changed or deleted an object
}

// ConflictWriter returns a writer of this node's AddressConflicts. Run it.
func (c *Cluster) ConflictWriter() *ConflictWriter {
	return &ConflictWriter{c: c, next: newLatest[wire.Report](), touched: make(chan struct{}, 1)}
}

// Set makes r what this node reports, all of it. It does not block. Before the first
// Set nothing is written or deleted.
func (w *ConflictWriter) Set(r wire.Report) { w.next.set(r) }

// Run writes until ctx ends. What fails is tried again for ever, with growing pauses;
// what others delete, it writes again.
func (w *ConflictWriter) Run(ctx context.Context) error {
	if err := w.watch(ctx); err != nil {
		return err
	}
	w.next.publish(ctx, w.c.opts.Log, "address conflicts", reportInterval, w.touched, w.publish)
	return nil
}

// watch signals when somebody touches an AddressConflict.
func (w *ConflictWriter) watch(ctx context.Context) error {
	signal := func(any) {
		select {
		case w.touched <- struct{}{}:
		default:
		}
	}
	inf, err := w.c.informer(ctx, &v1alpha1.AddressConflict{})
	if err != nil {
		return err
	}
	if _, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: signal, UpdateFunc: func(_, obj any) { signal(obj) }, DeleteFunc: signal,
	}); err != nil {
		return fmt.Errorf("watch %T: %w", &v1alpha1.AddressConflict{}, err)
	}
	return nil
}

// publish deletes what this node does not report any more, and what it found to be
// over; then it creates what nobody has reported yet.
func (w *ConflictWriter) publish(ctx context.Context, r wire.Report) error {
	var list v1alpha1.AddressConflictList
	if err := w.c.cache.List(ctx, &list, client.InNamespace(w.c.opts.Namespace)); err != nil {
		return fmt.Errorf("list address conflicts: %w", err)
	}
	missing := map[netip.Addr]lb.WireConflict{}
	for _, c := range r.InUse {
		missing[c.Addr] = c
	}
	var errs []error
	for i := range list.Items {
		o := &list.Items[i]
		have := convertConflict(o)
		_, inUse := missing[have.Addr]
		over := o.Spec.Node == w.c.opts.NodeName && !inUse || slices.Contains(r.Over, have.Addr)
		delete(missing, have.Addr)
		if !over {
			continue
		}
		err := w.c.client.Delete(ctx, o, client.Preconditions{UID: &o.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // gone, or another one by now
			errs = append(errs, fmt.Errorf("delete address conflict %s: %w", o.Name, err))
		}
	}
	for _, c := range r.InUse {
		if _, is := missing[c.Addr]; !is {
			continue
		}
		err := w.c.client.Create(ctx, &v1alpha1.AddressConflict{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.c.opts.Namespace, Name: v1alpha1.ObjectName(c.Addr)},
			Spec:       v1alpha1.AddressConflictSpec{Address: c.Addr.String(), MAC: c.MAC, Node: c.Node, Interface: c.Link},
		})
		if err != nil && !apierrors.IsAlreadyExists(err) { // another speaker was faster
			errs = append(errs, fmt.Errorf("create address conflict %s: %w", c.Addr, err))
		}
	}
	return errors.Join(errs...)
}
