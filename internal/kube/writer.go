package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	statusWriters = 16 // Services that are written at once
	firstRetry    = 10 * time.Millisecond
	lastRetry     = 30 * time.Second

	// lastNotYet is the longest pause of what waits for another writer, or for news
	// that may be here already.
	lastNotYet = time.Second

	conflictTries = 5 // against others who write the same Service
	conflictRetry = 100 * time.Millisecond

	// priorityBehind is that of what can wait: claims for what Services hold
	// already, and conditions.
	priorityBehind = -100
)

// ServiceStatus is what a Service's status and annotation shall say, and what its
// claims shall say of it.
type ServiceStatus struct {
	// Holder is the Service, as others who would share its addresses see it. Its UID
	// is that of the Service that is meant: one recreated since is another. "" means
	// whichever is there, if it is not of type LoadBalancer any more.
	lb.Holder
	Addrs []netip.Addr
	Pool  string
	// Conditions are those that are to be there; others stay as they are.
	Conditions []Condition
	// Events are recorded once all that is written.
	Events []Event
}

// Event is what happened to a Service.
type Event struct {
	Warning         bool // trouble, not news
	Reason, Message string
}

// Equal reports whether s and o say the same, Events aside.
func (s ServiceStatus) Equal(o ServiceStatus) bool {
	return s.Holder.Equal(o.Holder) && s.Pool == o.Pool && slices.Equal(s.Addrs, o.Addrs) && slices.Equal(s.Conditions, o.Conditions)
}

// Writer gives Services their addresses: it claims each address for the Service,
// and then writes it into the Service's status. The newest wish for a Service
// counts; one that fails is tried again for ever, with growing pauses.
//
// The claims are the fence between this writer and one of a controller that does
// not know yet that it was deposed (docs/adr/0006-address-claims.md). They hold
// because of the order in which things are written:
//
//	giving:  read the Service; see to the claim; write the Service as it was read
//	taking:  mark the claim released; write the Service; drop the claim
//
// One who gives what another takes finds the claim released, or the Service written
// since it was read.
type Writer struct {
	c     *Cluster
	feed  *Feed       // takes claims that were read directly
	held  func() bool // whether we are the one that writes
	queue priorityqueue.PriorityQueue[lb.Key]
	// pauses are those between tries, which grow.
	pauses workqueue.TypedRateLimiter[lb.Key]

	mu      sync.Mutex
	asked   uint64 // counts what was asked for
	want    map[lb.Key]wanted
	release map[lb.Key]map[claimOf]uint64 // the value of asked when it was asked for last
}

// wanted is a wish, and when it was made.
type wanted struct {
	ServiceStatus
	asked uint64
}

// claimOf is the claim of one Service, which may be gone, to one address.
type claimOf struct {
	uid  string
	addr netip.Addr
}

// job is all that is to be done for the Services of one name.
type job struct {
	want    *ServiceStatus
	release []claimOf
	asked   uint64 // what was asked for later is not part of it
}

// Writer returns a writer of Services' status. Run it once. It gives nothing unless
// held reports that it is for us to give.
func (c *Cluster) Writer(f *Feed, held func() bool) *Writer {
	return &Writer{
		c: c, feed: f, held: held, want: map[lb.Key]wanted{}, release: map[lb.Key]map[claimOf]uint64{},
		queue:  priorityqueue.New[lb.Key]("service-status"),
		pauses: workqueue.NewTypedItemExponentialFailureRateLimiter[lb.Key](firstRetry, lastRetry),
	}
}

// Set makes want the wish for a Service. It does not block. What is not urgent may
// wait for what is.
func (w *Writer) Set(key lb.Key, want ServiceStatus, urgent bool) {
	w.mu.Lock()
	if old, waits := w.want[key]; waits {
		want.Events = stillTrue(old.ServiceStatus, want)
	}
	w.asked++
	w.want[key] = wanted{want, w.asked}
	w.mu.Unlock()
	w.add(key, urgent)
}

// stillTrue returns the Events of an old wish that a new one leaves true, and those of
// the new one.
func stillTrue(old, now ServiceStatus) []Event {
	if old.UID != now.UID || !slices.Equal(old.Addrs, now.Addrs) {
		return now.Events
	}
	return slices.Concat(old.Events, now.Events)
}

// Release sees to it that the Service, which may be gone, has no claim to addr,
// unless it is the wish that it has. It does not block.
func (w *Writer) Release(key lb.Key, uid string, addr netip.Addr) {
	w.mu.Lock()
	if w.release[key] == nil {
		w.release[key] = map[claimOf]uint64{}
	}
	w.asked++
	w.release[key][claimOf{uid, addr}] = w.asked
	w.mu.Unlock()
	w.add(key, true)
}

func (w *Writer) add(key lb.Key, urgent bool) { //nolint:revive // the queue knows numbers
	priority := priorityBehind
	if urgent {
		priority = 0
	}
	w.queue.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, key)
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
		key, priority, stop := w.queue.GetWithPriority()
		if stop {
			return
		}
		j := w.job(key)
		err := w.do(ctx, key, j)
		if err == nil {
			w.tell(key, j)
		} else {
			w.putBack(key, j)
		}
		var taken *takenError
		switch {
		case err == nil:
			w.pauses.Forget(key)
			w.forget(key, j)
		case ctx.Err() != nil:
		case apierrors.IsConflict(err): // somebody writes it all the time
			w.queue.AddWithOpts(priorityqueue.AddOpts{After: conflictRetry, Priority: &priority}, key)
		case errors.As(err, &taken), errors.Is(err, errNotYet):
			w.queue.AddWithOpts(priorityqueue.AddOpts{After: min(w.pauses.When(key), lastNotYet), Priority: &priority}, key)
		default:
			w.c.opts.Log.Warn("write service status", "service", key.String(), "err", err)
			w.queue.AddWithOpts(priorityqueue.AddOpts{After: w.pauses.When(key), Priority: &priority}, key)
		}
		w.queue.Done(key)
	}
}

func (w *Writer) job(key lb.Key) job {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := job{asked: w.asked}
	if want, ok := w.want[key]; ok {
		j.want = &want.ServiceStatus
		left := want
		left.Events = nil // they are this job's to record
		w.want[key] = left
	}
	for r := range w.release[key] {
		j.release = append(j.release, r)
	}
	slices.SortFunc(j.release, func(a, b claimOf) int { return a.addr.Compare(b.addr) })
	return j
}

// tell records the Events of a job that is done.
func (w *Writer) tell(key lb.Key, j job) {
	if j.want == nil {
		return
	}
	svc := &lb.Service{Key: key, UID: j.want.UID}
	for _, e := range j.want.Events {
		w.c.ServiceEvent(svc, e.Warning, e.Reason, e.Message)
	}
}

// putBack keeps the Events of a job that is to be tried again.
func (w *Writer) putBack(key lb.Key, j job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now, waits := w.want[key]; waits && j.want != nil {
		now.Events = stillTrue(*j.want, now.ServiceStatus)
		w.want[key] = now
	}
}

// forget drops what came true, unless it was asked for again meanwhile: then something
// has changed that the job may not have seen, be the new wish the same as the old one.
func (w *Writer) forget(key lb.Key, j job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.want[key].asked <= j.asked {
		delete(w.want, key)
	}
	for _, r := range j.release {
		if w.release[key][r] <= j.asked {
			delete(w.release[key], r)
		}
	}
	if len(w.release[key]) == 0 {
		delete(w.release, key)
	}
}

// do does a job, beginning from the Service as we know it. If somebody else was
// faster, or the Service is to be gone, it reads what is there now.
func (w *Writer) do(ctx context.Context, key lb.Key, j job) error {
	var o corev1.Service
	err := w.c.cache.Get(ctx, client.ObjectKey(key), &o)
	if err != nil || slices.ContainsFunc(j.release, func(r claimOf) bool { return r.uid != string(o.UID) }) {
		o = corev1.Service{}
		err = w.c.client.Get(ctx, client.ObjectKey(key), &o)
	}
	switch {
	case apierrors.IsNotFound(err):
		o.UID = ""
	case err != nil:
		return fmt.Errorf("read service: %w", err)
	}
	var living []claimOf
	for _, r := range j.release {
		switch {
		case o.UID == "" || r.uid != string(o.UID):
			if err := w.dropClaim(ctx, r, false); err != nil {
				return err
			}
		case j.want == nil || j.want.UID != r.uid || !slices.Contains(j.want.Addrs, r.addr):
			living = append(living, r)
		}
	}
	if o.UID == "" {
		return nil
	}
	if j.want == nil && len(living) == 0 {
		return nil
	}
	return w.writeService(ctx, &o, j.want, living)
}

// writeService makes a wish come true, if there is one, and takes from the Service
// what it shall hold no longer. o is the Service, which may be read again.
func (w *Writer) writeService(ctx context.Context, o *corev1.Service, want *ServiceStatus, take []claimOf) error {
	for _, r := range take {
		if err := w.markReleased(ctx, r); err != nil {
			return err
		}
	}
	uid, said := o.UID, o.Status.LoadBalancer
	err := w.writeStatus(ctx, o, want, take, w.c.cache)
	for range conflictTries {
		if !apierrors.IsConflict(err) {
			break
		}
		key := client.ObjectKeyFromObject(o)
		*o = corev1.Service{}
		if err := w.c.client.Get(ctx, key, o); err != nil {
			if apierrors.IsNotFound(err) {
				return errNotYet // the news is on its way to us
			}
			return fmt.Errorf("read service: %w", err)
		}
		if o.UID != uid || !apiequality.Semantic.DeepEqual(o.Status.LoadBalancer, said) { // our reader shall judge it
			return errNotYet
		}
		err = w.writeStatus(ctx, o, want, take, w.c.client)
	}
	if err != nil {
		return err
	}
	for _, r := range take {
		if err := w.dropClaim(ctx, r, true); err != nil {
			return err
		}
	}
	return nil
}

// writeStatus writes the Service as it was read. claims is where the claims are
// looked up: as up to date as the Service.
func (w *Writer) writeStatus(ctx context.Context, o *corev1.Service, want *ServiceStatus, take []claimOf, claims client.Reader) error {
	if !w.held() {
		return errNotYet
	}
	changed := false
	if want != nil && w.concerns(o, *want) {
		for _, a := range want.Addrs {
			if err := w.claim(ctx, a, want.Holder, claims); err != nil {
				return err
			}
		}
		changed = setStatus(o, *want)
	}
	if !changed && len(take) > 0 {
		if says(o, take) { // whoever wrote that: our reader will see it, and wish something
			return errNotYet
		}
		touch(o, take)
		changed = true
	}
	if !changed {
		return nil
	}
	if !w.held() { // after all that time
		return errNotYet
	}
	if err := w.c.client.Status().Update(ctx, o); err != nil {
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

// says reports whether the status of o says one of the addresses.
func says(o *corev1.Service, claims []claimOf) bool {
	return slices.ContainsFunc(o.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := netip.ParseAddr(in.IP)
		return err == nil && slices.ContainsFunc(claims, func(r claimOf) bool { return r.addr == a.Unmap() })
	})
}

// touch changes a Service, so that nobody can write it as it was before.
func touch(o *corev1.Service, take []claimOf) {
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[annotationReleased] = take[0].addr.String() + " at " + o.ResourceVersion
}

// setStatus changes o to say what is wanted, and reports whether it did not yet.
func setStatus(o *corev1.Service, want ServiceStatus) bool {
	changed := setConditions(o, want)
	in := o.Status.LoadBalancer.Ingress
	same := len(in) == len(want.Addrs) && o.Annotations[AnnotationFromPool] == want.Pool
	for i := range in {
		same = same && in[i].IP == want.Addrs[i].String() && in[i].Hostname == ""
	}
	if same {
		return changed
	}
	delete(o.Annotations, annotationReleased)
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
