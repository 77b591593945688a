package kube

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Reasons of Events on Services, as MetalLB's users know them.
const (
	EventAllocated      = "IPAllocated"
	EventCleared        = "ClearAssignment"
	EventAdditionFailed = "AdditionalAssignFailed"
	EventAllocFailed    = "AllocationFailed"
	EventRequestInvalid = "LoadBalancerFailed"
	EventNoClusterIPs   = "not enough clusterips"
	EventDeprecated     = "deprecatedAnnotation"
	EventEditHeldBack   = "PoolEditHeldBack" // ours: it keeps what its pool would not give it any more
	EventNodeAssigned   = "nodeAssigned"
	EventAnnounceFailed = "announceFailed"
)

// Reasons of Events on configuration objects.
const (
	EventSetAside      = "SetAside"      // it has no effect
	EventPartlyInForce = "PartlyInForce" // some of it, or its last good version, has effect
	EventInForce       = "InForce"       // it has effect again
)

// lastEvents bounds the wait for Events when a process ends.
const lastEvents = time.Second

func (c *Cluster) startEvents() {
	cfg := rest.CopyConfig(c.rest)
	cfg.QPS, cfg.Burst = eventsQPS, eventsBurst // a budget of their own: nothing waits for Events
	if c.opts.NodeName != "" {
		cfg.QPS = nodeEventsQPS
	}
	set, err := typedcorev1.NewForConfig(cfg)
	if err != nil {
		c.opts.Log.Warn("events are not recorded", "err", err)
		return
	}
	c.events.StartRecordingToSink(&sink{&typedcorev1.EventSinkImpl{Interface: set.Events("")}, &c.unsent})
}

// stopEvents waits a moment for Events that were recorded and not sent yet: the last
// ones of a process are about what it has just done. Some are never sent, by the
// library's own rules against floods.
func (c *Cluster) stopEvents() {
	limit := time.NewTimer(lastEvents)
	defer limit.Stop()
	tick := time.NewTicker(lastEvents / 100)
	defer tick.Stop()
	for c.unsent.Load() > 0 {
		select {
		case <-tick.C:
			continue
		case <-limit.C:
		}
		break
	}
	c.events.Shutdown()
}

// sink counts what was sent.
type sink struct {
	record.EventSink
	unsent *atomic.Int64
}

// Create sends an Event that is new.
func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	defer s.unsent.Add(-1)
	return s.EventSink.Create(e)
}

// Patch sends one that has happened before.
func (s *sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	defer s.unsent.Add(-1)
	return s.EventSink.Patch(e, data)
}

// NodeAssigned returns the message of EventNodeAssigned.
func NodeAssigned(node, protocol string) string {
	return fmt.Sprintf("announcing from node %q with protocol %q", node, protocol)
}

// AnnounceFailed returns the message of EventAnnounceFailed.
func AnnounceFailed(node string, links []string) string {
	return fmt.Sprintf("the interfaces that its L2Advertisements name (%s) do not exist on node %q, which announces it with protocol \"layer2\", or cannot carry announcements",
		strings.Join(links, ", "), node)
}

// ServiceEvent records an Event on a Service. warning tells trouble from news.
func (c *Cluster) ServiceEvent(svc *lb.Service, warning bool, reason, message string) {
	c.unsent.Add(1)
	c.recorder.Event(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: svc.Key.Namespace, Name: svc.Key.Name, UID: types.UID(svc.UID),
	}, eventType(warning), reason, message)
}

// ObjectEvent records an Event on a configuration object, if it is still there.
func (c *Cluster) ObjectEvent(ctx context.Context, kind, name string, warning bool, reason, message string) {
	o, version := newObject(kind)
	if o == nil || c.cache.Get(ctx, client.ObjectKey{Namespace: c.opts.Namespace, Name: name}, o) != nil {
		return
	}
	c.unsent.Add(1)
	c.recorder.Event(&corev1.ObjectReference{
		APIVersion: version, Kind: kind, Namespace: o.GetNamespace(), Name: name, UID: o.GetUID(),
	}, eventType(warning), reason, message)
}

// newObject returns an empty object of a configuration kind and its apiVersion.
//
//nolint:ireturn // the kinds have nothing else in common
func newObject(kind string) (client.Object, string) {
	v1 := v1beta1.GroupVersion.String()
	switch kind {
	case config.KindIPAddressPool:
		return &v1beta1.IPAddressPool{}, v1
	case config.KindL2Advertisement:
		return &v1beta1.L2Advertisement{}, v1
	case config.KindBGPAdvertisement:
		return &v1beta1.BGPAdvertisement{}, v1
	case config.KindBGPPeer:
		return &v1beta2.BGPPeer{}, v1beta2.GroupVersion.String()
	case config.KindBFDProfile:
		return &v1beta1.BFDProfile{}, v1
	case config.KindCommunity:
		return &v1beta1.Community{}, v1
	}
	return nil, ""
}

func eventType(warning bool) string { //nolint:revive // it translates a flag into the API's word
	if warning {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}
