package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

// announcements is what the speakers of all nodes say of announcing. It is guarded
// by Feed.mu.
type announcements struct {
	// known says that everything was read once. Before, that nothing is known of a
	// Service means nothing.
	known    bool
	services map[lb.Key]*reports
	dirty    map[lb.Key]bool
	all      bool // known is news
}

// reports are the nodes that announce one Service, by the names of the objects
// that say so.
type reports struct{ l2, bgp map[string]string }

// watchAnnouncements watches announcement status, and returns what tells that it
// was read once.
func (f *Feed) watchAnnouncements(ctx context.Context) ([]toolscache.InformerSynced, error) {
	var synced []toolscache.InformerSynced
	for _, kind := range announcementKinds() {
		inf, err := f.c.informer(ctx, kind)
		if err != nil {
			return nil, err
		}
		reg, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { f.onAnnouncement(obj, false) },
			UpdateFunc: func(_, obj any) { f.onAnnouncement(obj, false) },
			DeleteFunc: func(obj any) {
				if last, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
					obj = last.Obj
				}
				f.onAnnouncement(obj, true)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", kind, err)
		}
		synced = append(synced, reg.HasSynced)
	}
	return synced, nil
}

// awaitAnnouncements makes announcements part of Deltas once all were read. Nothing
// else waits for that: there may be a lot, and addresses are given without it.
func (f *Feed) awaitAnnouncements(ctx context.Context, synced []toolscache.InformerSynced) {
	if toolscache.WaitForCacheSync(ctx.Done(), synced...) {
		f.mu.Lock()
		f.announced.known = true
		f.announced.rewind()
		f.mu.Unlock()
		f.signal()
	}
}

func (f *Feed) onAnnouncement(obj any, gone bool) { //nolint:revive // two kinds of event
	name, key, node, bgp := convertAnnouncement(obj)
	if key.Name == "" || node == "" { // its status is not written yet
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := &f.announced
	if a.services == nil {
		a.services, a.dirty = map[lb.Key]*reports{}, map[lb.Key]bool{}
	}
	r := a.services[key]
	if r == nil {
		r = &reports{map[string]string{}, map[string]string{}}
		a.services[key] = r
	}
	nodes := r.l2
	if bgp {
		nodes = r.bgp
	}
	before := nodes[name]
	if gone {
		delete(nodes, name)
	} else {
		nodes[name] = node
	}
	if len(r.l2)+len(r.bgp) == 0 {
		delete(a.services, key)
	}
	if nodes[name] == before {
		return
	}
	if a.dirty[key] = true; a.known {
		f.signal()
	}
}

// rewind makes everything part of the next Delta, once it is known.
func (a *announcements) rewind() {
	if !a.known {
		return
	}
	a.all = true
	for key := range a.services {
		a.dirty[key] = true
	}
}

// drain returns what is new, nil for nothing.
func (a *announcements) drain() map[lb.Key]lb.Announcement {
	if !a.known || !a.all && len(a.dirty) == 0 {
		return nil
	}
	out := make(map[lb.Key]lb.Announcement, len(a.dirty))
	for key := range a.dirty {
		var now lb.Announcement
		if r := a.services[key]; r != nil {
			now = lb.Announcement{L2: distinct(r.l2), BGP: distinct(r.bgp)}
		}
		out[key] = now
	}
	a.all, a.dirty = false, map[lb.Key]bool{}
	return out
}

// distinct returns the values of m, sorted: during a migration a node may have two
// objects.
func distinct(m map[string]string) []string {
	return slices.Compact(slices.Sorted(maps.Values(m)))
}

// convertAnnouncement returns an object's name, the Service that it is about, the
// node that announces it, and whether by BGP.
func convertAnnouncement(obj any) (name string, key lb.Key, node string, bgp bool) {
	switch o := obj.(type) {
	case *v1beta1.ServiceL2Status:
		return o.Name, lb.Key{Namespace: o.Status.ServiceNamespace, Name: o.Status.ServiceName}, o.Status.Node, false
	case *v1beta1.ServiceBGPStatus:
		return o.Name, lb.Key{Namespace: o.Status.ServiceNamespace, Name: o.Status.ServiceName}, o.Status.Node, true
	}
	return "", lb.Key{}, "", false
}

// slimAnnouncement drops all but what convertAnnouncement reads: there may be as
// many as nodes times Services. The same few words are kept once.
func slimAnnouncement(obj any) (any, error) {
	slimMeta := func(m metav1.ObjectMeta) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: once(m.Namespace), Name: m.Name, ResourceVersion: m.ResourceVersion}
	}
	switch o := obj.(type) {
	case *v1beta1.ServiceL2Status:
		s := o.Status
		return &v1beta1.ServiceL2Status{ObjectMeta: slimMeta(o.ObjectMeta), Status: v1beta1.ServiceL2StatusStatus{
			Node: once(s.Node), ServiceName: once(s.ServiceName), ServiceNamespace: once(s.ServiceNamespace),
		}}, nil
	case *v1beta1.ServiceBGPStatus:
		s := o.Status
		return &v1beta1.ServiceBGPStatus{ObjectMeta: slimMeta(o.ObjectMeta), Status: v1beta1.ServiceBGPStatusStatus{
			Node: once(s.Node), ServiceName: once(s.ServiceName), ServiceNamespace: once(s.ServiceNamespace),
		}}, nil
	}
	return obj, nil
}

// once returns the one copy of a word that all who have it share.
func once(word string) string { return unique.Make(word).Value() }
