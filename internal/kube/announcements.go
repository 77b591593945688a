package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// leisure is how many times longer than it writes a writer does nothing, at most
	// longestLeisure: what is for people to read leaves the API server to the others.
	leisure        = 2
	longestLeisure = 5 * time.Second

	announcementWriters = 2 // writes of announcement status under way at once
	// announcementDelay is how long a change waits to be written: what is taken
	// back meanwhile is never written.
	announcementDelay = time.Second
	// takeOverAfter is how long after its start a node leaves what others say of answering
	// for its Services: if all speakers start at once, the former owner shall find it.
	takeOverAfter = 5 * time.Second
	// announcementLimit bounds one object's requests, all together.
	announcementLimit = 30 * time.Second
	// lastRevival is the longest pause before an object that others delete again
	// and again is written again.
	lastRevival = 5 * time.Minute
)

// Announcing is what one node does for one Service. The zero value: nothing.
type Announcing struct {
	// UID is that of the Service, Addrs are the addresses that are announced: an
	// Event tells when they are others.
	UID   string
	Addrs []netip.Addr
	// L2 says that the node answers for its addresses, on Links (sorted; none
	// means every link that is fit for it).
	L2    bool
	Links []string
	// Peers are the names of the BGPPeers that the node tells of it, sorted.
	Peers []string
}

func (a Announcing) equal(o Announcing) bool {
	return a.L2 == o.L2 && slices.Equal(a.Links, o.Links) && slices.Equal(a.Peers, o.Peers) &&
		a.UID == o.UID && slices.Equal(a.Addrs, o.Addrs)
}

// reportID names a ServiceL2Status or ServiceBGPStatus in our namespace.
type reportID struct {
	bgp  bool
	name string
}

// report is what such an object of this node shall say.
type report struct {
	key   lb.Key
	names []string // of links or peers
	about subject
	// takeOver says that the other nodes' objects of the Service shall go.
	takeOver bool
}

// AnnouncementWriter writes the ServiceL2Status and ServiceBGPStatus objects of one
// node, and records the Events that go with them. It is told what changes and
// remembers the rest, so that it holds the full desired state; what differs from it
// is put right, also when others caused it.
//
// It is never in a hurry: a change waits a moment for the next one, few requests
// are under way at once, and their rate is bounded. What fails is tried again for
// ever, with growing pauses.
//
// The name of an object follows from node and Service. So a creation whose answer
// was lost cannot be repeated under another name, and a new process finds what the
// last one has written.
type AnnouncementWriter struct {
	c     *Cluster
	queue workqueue.TypedRateLimitingInterface[reportID]
	delay time.Duration
	began time.Time
	known chan struct{} // closed when Set was called

	mu       sync.Mutex
	last     map[lb.Key]Announcing // what Set was told, without zero values
	want     map[reportID]report
	said     map[reportID]subject // by Events
	revivals map[reportID]revival
}

// revival is when an object that others had deleted was last written again, and how
// long that was waited for.
type revival struct {
	at    time.Time
	pause time.Duration
}

// AnnouncementWriter returns a writer of this node's announcement status. Run it.
func (c *Cluster) AnnouncementWriter() *AnnouncementWriter {
	return &AnnouncementWriter{
		c: c, delay: announcementDelay, began: time.Now(), known: make(chan struct{}),
		last: map[lb.Key]Announcing{}, want: map[reportID]report{}, said: map[reportID]subject{}, revivals: map[reportID]revival{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[reportID](time.Second, lastRetry)),
	}
}

// Set says what the node does now for the Services that changed. The first call
// says all there is: before it nothing is written, and after it objects of this
// node that it does not account for are deleted. It does not block.
func (w *AnnouncementWriter) Set(changed map[lb.Key]Announcing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, now := range changed {
		if !now.L2 && len(now.Peers) == 0 {
			now = Announcing{}
		}
		if now.equal(w.last[key]) {
			continue
		}
		if w.last[key] = now; now.equal(Announcing{}) {
			delete(w.last, key)
		}
		about := subject{now.UID, now.Addrs}
		w.put(reportID{false, w.name("l2-", key)}, now.L2, report{key: key, names: now.Links, about: about, takeOver: true})
		w.put(reportID{true, w.name("bgp-", key)}, len(now.Peers) > 0, report{key: key, names: now.Peers, about: about})
	}
	select {
	case <-w.known:
	default:
		close(w.known)
	}
}

// put changes what one object shall say. mu is held.
func (w *AnnouncementWriter) put(id reportID, announced bool, now report) {
	old, had := w.want[id]
	switch {
	case !announced && !had, announced && had && slices.Equal(old.names, now.names) && old.about.equal(now.about):
		return
	case !announced:
		delete(w.want, id)
	default:
		if had {
			now.takeOver = old.takeOver
		}
		w.want[id] = now
	}
	delete(w.revivals, id)
	delay := w.delay
	if w.want[id].takeOver {
		delay = max(delay, time.Until(w.began.Add(takeOverAfter)))
	}
	w.queue.AddAfter(id, delay)
}

// Run writes until ctx ends. The Cluster must run too.
func (w *AnnouncementWriter) Run(ctx context.Context) error {
	var synced []toolscache.InformerSynced
	for _, kind := range announcementKinds() {
		inf, err := w.c.informer(ctx, kind)
		if err != nil {
			return err
		}
		reg, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: w.onObject, UpdateFunc: func(_, obj any) { w.onObject(obj) }, DeleteFunc: w.onGone,
		})
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
		synced = append(synced, reg.HasSynced)
	}
	var wg sync.WaitGroup
	select {
	case <-ctx.Done():
	case <-w.known:
		// What is there already must be known: it is not written again.
		if toolscache.WaitForCacheSync(ctx.Done(), synced...) {
			for range announcementWriters {
				wg.Go(func() { w.work(ctx) })
			}
		}
	}
	<-ctx.Done()
	w.queue.ShutDown()
	wg.Wait()
	return nil
}

// announcementKinds are the kinds of announcement status.
func announcementKinds() []client.Object {
	return []client.Object{&v1beta1.ServiceL2Status{}, &v1beta1.ServiceBGPStatus{}}
}

// onObject has a look at an object of this node that was written, by whomever.
func (w *AnnouncementWriter) onObject(obj any) {
	if o, ok := obj.(client.Object); ok {
		w.queue.AddAfter(idOf(o), w.delay)
	}
}

// onGone has an object written again that others deleted. If they do so again and
// again, it is written more and more rarely.
func (w *AnnouncementWriter) onGone(obj any) {
	if last, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	o, ok := obj.(client.Object)
	if !ok {
		return
	}
	id := idOf(o)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, wanted := w.want[id]; !wanted {
		return
	}
	r, now := w.revivals[id], time.Now()
	if now.Sub(r.at) > 2*lastRevival { // it was left alone since
		r.pause = 0
	}
	r = revival{now, min(max(2*r.pause, w.delay), lastRevival)}
	w.revivals[id] = r
	w.queue.AddAfter(id, r.pause)
}

func idOf(o client.Object) reportID {
	_, bgp := o.(*v1beta1.ServiceBGPStatus)
	return reportID{bgp, o.GetName()}
}

func (w *AnnouncementWriter) wanted(id reportID) (report, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	want, ok := w.want[id]
	return want, ok
}

func (w *AnnouncementWriter) work(ctx context.Context) {
	for pause := w.delay; ; {
		id, stop := w.queue.Get()
		if stop || ctx.Err() != nil {
			return
		}
		began := time.Now()
		err := w.write(ctx, id)
		took := time.Since(began)
		switch {
		case err == nil:
			w.queue.Forget(id)
			pause = w.delay
			select { // a slow API server has more important things to do
			case <-ctx.Done():
			case <-time.After(min(leisure*took, longestLeisure)):
			}
		case ctx.Err() != nil:
		case apierrors.IsConflict(err): // the news is on its way to us
			w.queue.AddAfter(id, w.delay)
		case refused(err):
			w.c.opts.Log.Warn("write announcement status", "name", id.name, "err", err)
			w.queue.AddRateLimited(id)
		default: // the API server has trouble: all the others can wait, too
			w.c.opts.Log.Warn("write announcement status", "name", id.name, "err", err)
			w.queue.AddAfter(id, w.delay)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, lastRetry)
		}
		w.queue.Done(id)
	}
}

// refused reports whether the API server does not take one object, and may take
// others.
func refused(err error) bool {
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return false
	}
	code := s.Status().Code
	return code >= http.StatusBadRequest && code < http.StatusInternalServerError && code != http.StatusTooManyRequests
}

// write makes one object say what it shall, or deletes it.
func (w *AnnouncementWriter) write(ctx context.Context, id reportID) error {
	ctx, cancel := context.WithTimeout(ctx, announcementLimit)
	defer cancel()
	o := id.object(w.c.opts.Namespace)
	err := w.c.cache.Get(ctx, client.ObjectKeyFromObject(o), o)
	want, wanted := w.wanted(id)
	if client.IgnoreNotFound(err) == nil {
		w.recordEvent(id, err == nil)
	}
	switch {
	case client.IgnoreNotFound(err) != nil:
		return fmt.Errorf("read own object: %w", err)
	case err != nil && wanted:
		return w.create(ctx, id, want)
	case err != nil, o.GetDeletionTimestamp() != nil: // we are told when it is gone
		return nil
	case !wanted:
		return w.c.remove(ctx, o)
	}
	w.tookOver(id) // it has been the owner all along
	return w.adjust(ctx, o, want)
}

//nolint:ireturn // one of two kinds
func (id reportID) object(namespace string) client.Object {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: id.name}
	if id.bgp {
		return &v1beta1.ServiceBGPStatus{ObjectMeta: meta}
	}
	return &v1beta1.ServiceL2Status{ObjectMeta: meta}
}

// create creates an object and gives it its status: the API server takes both in
// two requests only. Before a node says that it answers for a Service, what the
// last one said is deleted: that may have failed, and never say it itself.
func (w *AnnouncementWriter) create(ctx context.Context, id reportID, want report) error {
	if want.takeOver {
		if err := w.takeOver(ctx, want.key); err != nil {
			return err
		}
		w.tookOver(id)
	}
	o := id.object(w.c.opts.Namespace)
	o.SetLabels(w.labels(want.key))
	owner, err := w.c.ownPod(ctx)
	if err != nil {
		return err
	}
	if owner != nil {
		o.SetOwnerReferences([]metav1.OwnerReference{*owner})
	}
	err = w.c.background.Create(ctx, o)
	if apierrors.IsAlreadyExists(err) { // the watch is behind, or somebody took its label away
		err = w.c.background.Get(ctx, client.ObjectKeyFromObject(o), o)
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return w.adjust(ctx, o, want)
}

func (w *AnnouncementWriter) labels(key lb.Key) map[string]string {
	return map[string]string{
		v1beta1.LabelNode: nodeLabel(w.c.opts.NodeName), v1beta1.LabelServiceName: key.Name, v1beta1.LabelServiceNamespace: key.Namespace,
	}
}

// adjust changes an object to say what it shall, if it does not.
func (w *AnnouncementWriter) adjust(ctx context.Context, o client.Object, want report) error {
	owner, err := w.c.ownPod(ctx)
	if err != nil {
		return err
	}
	changed := setOwner(o, owner)
	have := o.GetLabels()
	if have == nil {
		have = map[string]string{}
	}
	for name, value := range w.labels(want.key) {
		if have[name] != value {
			have[name], changed = value, true
		}
	}
	if o.SetLabels(have); changed {
		if err := w.c.background.Update(ctx, o); err != nil {
			return fmt.Errorf("update: %w", err)
		}
	}
	if !w.tell(o, want) {
		return nil
	}
	err = w.c.background.Status().Update(ctx, o)
	if apierrors.IsInvalid(err) { // it says things that cannot be changed any more; the next one will be right
		return w.c.remove(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
