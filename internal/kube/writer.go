package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	statusWriters = 16 // status writes under way at once
	firstRetry    = 10 * time.Millisecond
	lastRetry     = 30 * time.Second

	conflictTries = 5 // against others who write the same Service
	conflictRetry = 100 * time.Millisecond
)

// ServiceStatus is what a Service's status and annotation shall say.
type ServiceStatus struct {
	// UID is that of the Service that is meant; one recreated since is another. ""
	// means whichever is there, if it is not of type LoadBalancer any more.
	UID   string
	Addrs []netip.Addr
	Pool  string
}

// Writer writes the status of Services. The newest wish for a Service counts;
// one that fails is tried again for ever, with growing pauses.
type Writer struct {
	c     *Cluster
	queue workqueue.TypedRateLimitingInterface[lb.Key]

	mu   sync.Mutex
	want map[lb.Key]ServiceStatus
}

// Writer returns a writer of Services' status. Run it.
func (c *Cluster) Writer() *Writer {
	return &Writer{
		c: c, want: map[lb.Key]ServiceStatus{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[lb.Key](firstRetry, lastRetry)),
	}
}

// Set makes want the wish for a Service. It does not block.
func (w *Writer) Set(key lb.Key, want ServiceStatus) {
	w.mu.Lock()
	w.want[key] = want
	w.mu.Unlock()
	w.queue.Add(key)
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range statusWriters {
		wg.Go(func() { w.work(ctx) })
	}
	<-ctx.Done()
	w.queue.ShutDown()
	wg.Wait()
	return nil
}

func (w *Writer) work(ctx context.Context) {
	for {
		key, stop := w.queue.Get()
		if stop {
			return
		}
		w.mu.Lock()
		want, ok := w.want[key]
		w.mu.Unlock()
		err := error(nil)
		if ok {
			err = w.write(ctx, key, want)
		}
		switch {
		case err == nil:
			w.queue.Forget(key)
			w.forget(key, want)
		case ctx.Err() != nil:
		case apierrors.IsConflict(err): // somebody writes it all the time
			w.queue.AddAfter(key, conflictRetry)
		default:
			w.c.opts.Log.Warn("write service status", "service", key.String(), "err", err)
			w.queue.AddRateLimited(key)
		}
		w.queue.Done(key)
	}
}

// forget drops a wish that came true, unless there is a newer one.
func (w *Writer) forget(key lb.Key, done ServiceStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.want[key]; now.UID == done.UID && now.Pool == done.Pool && slices.Equal(now.Addrs, done.Addrs) {
		delete(w.want, key)
	}
}

// write makes a wish come true, from the Service as we know it. If somebody else
// was faster, it reads what is there now.
func (w *Writer) write(ctx context.Context, key lb.Key, want ServiceStatus) error {
	err := w.writeTo(ctx, w.c.cache, key, want)
	for range conflictTries {
		if !apierrors.IsConflict(err) {
			break
		}
		err = w.writeTo(ctx, w.c.client, key, want)
	}
	return err
}

func (w *Writer) writeTo(ctx context.Context, from client.Reader, key lb.Key, want ServiceStatus) error {
	var o corev1.Service
	if err := from.Get(ctx, client.ObjectKey(key), &o); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	if !w.concerns(&o, want) || !setStatus(&o, want) {
		return nil
	}
	if err := w.c.client.Status().Update(ctx, &o); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("update status: %w", err))
	}
	return nil
}

// concerns reports whether a wish is still about the Service that is there now: it
// may have been recreated, or not be ours to write to any more.
func (w *Writer) concerns(o *corev1.Service, want ServiceStatus) bool {
	if want.UID == "" { // our mark shall go
		return o.Spec.Type != corev1.ServiceTypeLoadBalancer
	}
	return string(o.UID) == want.UID && ours(o, w.c.opts.LoadBalancerClass)
}

// setStatus changes o to say what is wanted, and reports whether it did not yet.
func setStatus(o *corev1.Service, want ServiceStatus) bool {
	in := o.Status.LoadBalancer.Ingress
	same := len(in) == len(want.Addrs) && o.Annotations[AnnotationFromPool] == want.Pool
	for i := range in {
		same = same && in[i].IP == want.Addrs[i].String() && in[i].Hostname == ""
	}
	if same {
		return false
	}
	o.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	for _, a := range want.Addrs {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
	}
	if want.Pool == "" {
		delete(o.Annotations, AnnotationFromPool)
		return true
	}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[AnnotationFromPool] = want.Pool
	return true
}
