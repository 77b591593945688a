package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

const patience = 10 * time.Second

// Feed is the latest state of the cluster, and which of it changed. Make it with
// Cluster.Feed, and run it.
type Feed struct {
	c       *Cluster
	changed chan struct{}
	ready   chan struct{}
	once    sync.Once // closes ready
	config  *configFeed
	// patience is how long the first reading may take before that is worth a word.
	patience time.Duration

	mu         sync.Mutex
	services   map[lb.Key]*corev1.Service
	endpoints  map[lb.Key]map[string][]lb.Endpoint // by the name of the slice
	sliceOf    map[lb.Key]string                   // the Service that a slice belongs to, in its namespace
	nodes      map[string]knownNode
	namespaces map[string]map[string]string // labels
	claims     map[netip.Addr]*v1alpha1.AddressClaim
	conflicts  map[netip.Addr]lb.WireConflict
	announced  announcements
	dirty      map[lb.Key]bool
	dirtySince time.Time // when the first of them was heard of; zero if that is not known
	nodesDirty bool
	claimDirty map[netip.Addr]bool
	// conflictsDirty says that conflicts are news.
	conflictsDirty bool
	objects        *config.Objects // the present ones, or nil before they were read
	objectsDirty   bool
	// heard says that everything was read once from the API server; imported is what
	// stands in for it until then, or nil.
	heard    bool
	imported *snapshot
}

// Delta is what changed since the last one.
type Delta struct {
	// Services are the Services that changed, or whose endpoints did; nil means
	// gone, or not ours any more. One whose namespace is not known yet comes with it.
	Services map[lb.Key]*lb.Service
	// Since is when the first change of a Service or its endpoints came from the API server;
	// zero where none did.
	Since time.Time
	// Endpoints are the endpoints of the Services above.
	Endpoints map[lb.Key][]lb.Endpoint
	// Orphans are Services that are not ours any more but still bear our mark.
	Orphans []lb.Key
	// Nodes are all nodes, sorted by name, if one of them changed; else nil.
	Nodes []lb.Node
	// Objects are all configuration objects if one of them changed; else nil.
	Objects *config.Objects
	// Claims are the holders of the addresses whose AddressClaim changed; nil means
	// that there is none any more. Only with Options.Claims.
	Claims map[netip.Addr][]lb.Holder
	// Conflicts are all addresses that somebody outside the cluster answers for,
	// sorted, if one of them changed; else nil.
	Conflicts []lb.WireConflict
	// Announced says which nodes announce the Services whose announcement changed;
	// the zero value means nowhere. It is nil if none did, and until all that
	// speakers say was read once, which may be after Ready. The first that is not
	// nil, and the first after Rewind, leave out only Services that nobody
	// announces. Only with Options.Announcements.
	Announced map[lb.Key]lb.Announcement
}

// Feed returns the feed of this connection.
func (c *Cluster) Feed() *Feed {
	f := &Feed{
		c: c, changed: make(chan struct{}, 1), ready: make(chan struct{}), patience: patience,
		services: map[lb.Key]*corev1.Service{}, endpoints: map[lb.Key]map[string][]lb.Endpoint{}, sliceOf: map[lb.Key]string{},
		nodes: map[string]knownNode{}, namespaces: map[string]map[string]string{}, dirty: map[lb.Key]bool{},
		claims: map[netip.Addr]*v1alpha1.AddressClaim{}, claimDirty: map[netip.Addr]bool{}, conflicts: map[netip.Addr]lb.WireConflict{},
	}
	f.config = newConfigFeed(c, f.publish)
	c.feed.Store(f)
	return f
}

// Changed signals that Drain has something to give.
func (f *Feed) Changed() <-chan struct{} { return f.changed }

// Ready is closed when everything was read once, or a state was imported.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Run watches until ctx ends. The Cluster must run too.
func (f *Feed) Run(ctx context.Context) error {
	handlers := map[client.Object]func(obj any, gone bool){
		&corev1.Service{}:   f.onService,
		&corev1.Namespace{}: f.onNamespace,
		&corev1.Node{}:      f.onNode,
	}
	if f.c.opts.Endpoints {
		handlers[&discoveryv1.EndpointSlice{}] = f.onSlice
	}
	if f.c.opts.Claims {
		handlers[&v1alpha1.AddressClaim{}] = f.onClaim
	}
	handlers[&v1alpha1.AddressConflict{}] = f.onConflict
	configs := configKinds()
	for _, kind := range configs {
		handlers[kind] = f.config.onObject
	}
	synced := map[string]toolscache.InformerSynced{} // by kind
	for kind, fn := range handlers {
		update := func(_, obj any) { fn(obj, false) }
		if slices.Contains(configs, kind) {
			update = f.config.onUpdate
		}
		inf, err := f.c.informer(ctx, kind)
		if err != nil {
			return err
		}
		reg, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { fn(obj, false) },
			UpdateFunc: update,
			DeleteFunc: func(obj any) {
				if last, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
					obj = last.Obj
				}
				fn(obj, true)
			},
		})
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
		synced[reflect.TypeOf(kind).Elem().Name()] = reg.HasSynced
	}
	if !f.waitForAll(ctx, synced) {
		return nil
	}
	if f.c.opts.Announcements {
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		synced, err := f.watchAnnouncements(ctx)
		if err != nil {
			return err
		}
		wg.Go(func() { f.awaitAnnouncements(ctx, synced) })
	}
	return f.config.run(ctx, f.hear)
}

// waitForAll waits until everything was read once, and says so if that takes
// long. It returns false when ctx ends.
func (f *Feed) waitForAll(ctx context.Context, synced map[string]toolscache.InformerSynced) bool {
	all := slices.Collect(maps.Values(synced))
	for wait := f.patience; ; wait = min(2*wait, max(f.patience, sayAgain)) {
		soon, cancel := context.WithTimeout(ctx, wait)
		ok := toolscache.WaitForCacheSync(soon.Done(), all...)
		cancel()
		if ok || ctx.Err() != nil {
			return ok
		}
		var missing []string
		for kind, has := range synced {
			if !has() {
				missing = append(missing, kind)
			}
		}
		slices.Sort(missing)
		f.c.opts.Log.Warn("wait for the API server: is it up, and are the CRDs and roles of this version installed?", "kinds", strings.Join(missing, " "), "addr", f.c.rest.Host)
	}
}

// Drain takes what changed since the last call.
func (f *Feed) Drain() Delta {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.imported != nil {
		return f.imported.drain()
	}
	d := Delta{Services: map[lb.Key]*lb.Service{}, Endpoints: map[lb.Key][]lb.Endpoint{}, Claims: map[netip.Addr][]lb.Holder{}}
	later := map[lb.Key]bool{}
	for key := range f.dirty {
		o := f.services[key]
		if _, known := f.namespaces[key.Namespace]; o != nil && !known {
			later[key] = true // a pool may want it by the labels of its namespace
			continue
		}
		d.Services[key] = nil
		if o == nil {
			continue
		}
		if svc := convertService(o, f.c.opts.LoadBalancerClass, f.namespaces[key.Namespace]); svc != nil {
			d.Services[key] = svc
			d.Endpoints[key] = slices.Concat(slices.Collect(maps.Values(f.endpoints[key]))...)
		} else if o.Annotations[AnnotationFromPool] != "" && o.Spec.Type != corev1.ServiceTypeLoadBalancer {
			d.Orphans = append(d.Orphans, key)
		}
	}
	if f.nodesDirty {
		d.Nodes = sortedNodes(f.nodes)
	}
	for addr := range f.claimDirty {
		d.Claims[addr] = nil
		if o := f.claims[addr]; o != nil {
			_, d.Claims[addr] = convertClaim(o)
		}
	}
	if f.conflictsDirty {
		d.Conflicts = sortedConflicts(f.conflicts)
	}
	if f.objectsDirty {
		d.Objects = f.objects
	}
	d.Announced = f.announced.drain()
	slices.SortFunc(d.Orphans, lb.Key.Compare)
	d.Since, f.dirtySince = f.dirtySince, time.Time{}
	f.dirty, f.claimDirty = later, map[netip.Addr]bool{}
	f.nodesDirty, f.conflictsDirty, f.objectsDirty = false, false, false
	return d
}

// Rewind makes everything part of the next Delta: for a reader that starts anew.
func (f *Feed) Rewind() {
	f.mu.Lock()
	f.rewind()
	f.mu.Unlock()
	f.signal()
}

// rewind is Rewind with mu held.
func (f *Feed) rewind() {
	for key := range f.services {
		f.dirty[key] = true
	}
	for addr := range f.claims {
		f.claimDirty[addr] = true
	}
	if f.imported != nil {
		f.imported.rewind()
	}
	f.announced.rewind()
	f.nodesDirty, f.conflictsDirty, f.objectsDirty = true, true, f.objects != nil
}

func (f *Feed) signal() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// publish makes configuration objects part of the next Delta.
func (f *Feed) publish(objs *config.Objects) {
	f.mu.Lock()
	f.objects, f.objectsDirty = objs, true
	f.mu.Unlock()
	f.signal()
}

// touch makes a Service that has just changed part of the next Delta. mu is held.
func (f *Feed) touch(key lb.Key) {
	f.dirty[key] = true
	if f.dirtySince.IsZero() {
		f.dirtySince = time.Now()
	}
}

func (f *Feed) onService(obj any, gone bool) { //nolint:revive // two kinds of event
	o, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	key := lb.Key{Namespace: o.Namespace, Name: o.Name}
	f.mu.Lock()
	if gone {
		delete(f.services, key)
	} else {
		f.services[key] = o
	}
	f.touch(key)
	f.mu.Unlock()
	f.signal()
}

func (f *Feed) onSlice(obj any, gone bool) { //nolint:revive // two kinds of event
	o, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	key, eps := convertEndpoints(o)
	slice := lb.Key{Namespace: o.Namespace, Name: o.Name}
	f.mu.Lock()
	defer f.mu.Unlock()
	if last, had := f.sliceOf[slice]; had && (gone || last != key.Name) {
		f.dropSlice(slice, lb.Key{Namespace: o.Namespace, Name: last})
	}
	if gone || key.Name == "" {
		return
	}
	if f.endpoints[key] == nil {
		f.endpoints[key] = map[string][]lb.Endpoint{}
	}
	if old, had := f.endpoints[key][o.Name]; had && slices.Equal(old, eps) {
		return
	}
	f.endpoints[key][o.Name], f.sliceOf[slice] = eps, key.Name
	f.endpointsChanged(key)
}

// dropSlice forgets a slice of the Service key. mu is held.
func (f *Feed) dropSlice(slice, key lb.Key) {
	delete(f.sliceOf, slice)
	delete(f.endpoints[key], slice.Name)
	if len(f.endpoints[key]) == 0 {
		delete(f.endpoints, key)
	}
	f.endpointsChanged(key)
}

// endpointsChanged marks a Service whose endpoints changed. Most slices belong to
// Services that are not of type LoadBalancer. mu is held.
func (f *Feed) endpointsChanged(key lb.Key) {
	if svc := f.services[key]; svc == nil || svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		f.touch(key)
		f.signal()
	}
}

func (f *Feed) onNode(obj any, gone bool) {
	o, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	n := convertNode(o)
	f.mu.Lock()
	defer f.mu.Unlock()
	old, had := f.nodes[n.Name]
	n.since(&old)
	switch {
	case gone:
		delete(f.nodes, n.Name)
	case had && old.same(&n):
		return // a heartbeat of the kubelet
	default:
		f.nodes[n.Name] = n
	}
	f.nodesDirty = true
	f.signal()
}

func (f *Feed) onNamespace(obj any, gone bool) { //nolint:revive // two kinds of event
	o, ok := obj.(*corev1.Namespace)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gone {
		delete(f.namespaces, o.Name)
		return
	}
	if labels, known := f.namespaces[o.Name]; known && maps.Equal(labels, o.Labels) {
		return
	}
	f.namespaces[o.Name] = o.Labels
	for key := range f.services {
		if key.Namespace == o.Name {
			f.dirty[key] = true
		}
	}
	f.signal()
}
