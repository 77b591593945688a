// Package kube is the only part of BareLB that speaks Kubernetes: it watches
// objects and turns them into the values of internal/core, and writes status,
// Events and annotations back.
//
// Watching is level-triggered. A Feed keeps the latest state of every object and
// which of it changed; its reader takes all changes at once, whenever it likes.
// Nothing queues up, and an API server that is away only means that nothing
// changes.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
)

// The limits of our own requests that are for people to read: they are written at
// leisure, and may not be in the way of anything. All other requests have none: how
// many are made at once is bounded where they are made, and the API server's priority
// and fairness protects it better than a slow client does.
const (
	backgroundQPS   = 50 // announcement status
	backgroundBurst = 100
	eventsQPS       = 250 // of one controller; what it cannot send soon is lost
	nodeEventsQPS   = 50  // of each of many speakers, as many as the changes that they are about
	eventsBurst     = 100
)

// stopTime is how long Run waits for its watches to end.
const stopTime = time.Second

// Options say who connects.
type Options struct {
	Namespace string // our own: configuration objects are read from here alone
	Component string // "metallb-controller" or "metallb-speaker": the source of Events
	PodName   string // our own Pod, "" if unknown
	NodeName  string // the node of a speaker
	// IgnoreExcluded says that a node that is excluded from external load balancers
	// is one like any other.
	IgnoreExcluded bool
	// SpeakerLabels select the Pods of all speakers, as a label selector in its
	// text form; "" watches no Pods.
	SpeakerLabels string
	// LoadBalancerClass is the class of the Services that are ours; "" means those
	// without a class.
	LoadBalancerClass string
	// Endpoints says to watch EndpointSlices (speakers do), Claims to watch
	// AddressClaims, Announcements to watch the announcement status of all nodes
	// (the controller does both).
	Endpoints, Claims, Announcements bool
	Log                              *slog.Logger
}

// Cluster is a connection to one Kubernetes cluster.
type Cluster struct {
	opts   Options
	rest   *rest.Config
	conn   *connection   // of client, background and cache
	client client.Client // reads the API server directly; writes
	// background is a client for what is never urgent.
	background client.Client
	cache      cache.Cache
	recorder   record.EventRecorder
	events     record.EventBroadcaster
	unsent     atomic.Int64 // Events, or more where some are never sent
	pod        ownPod
	speakers   speakerList
	claimed    claimedEvents
	feed       atomic.Pointer[Feed] // the last one that was made, or nil
}

// Connect prepares the connection: in a Pod by its ServiceAccount, elsewhere by
// KUBECONFIG. It does not talk to the API server yet.
func Connect(opts Options) (*Cluster, error) {
	cfg, err := config.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w (run in a Pod with a ServiceAccount, or set KUBECONFIG)", err)
	}
	return connect(cfg, opts)
}

func connect(cfg *rest.Config, opts Options) (*Cluster, error) {
	cfg.QPS = -1 // no limit
	cfg.UserAgent = "barelb/" + opts.Component

	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionregistrationv1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme,
		v1alpha1.AddToScheme, v1beta1.AddToScheme, v1beta2.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	conn, err := newConnection(cfg, opts.Log)
	if err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{HTTPClient: conn.http, Scheme: scheme, Mapper: kinds()})
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	slow := rest.CopyConfig(cfg)
	slow.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(backgroundQPS, backgroundBurst) // one for all kinds
	background, err := client.New(slow, client.Options{HTTPClient: conn.http, Scheme: scheme, Mapper: kinds()})
	if err != nil {
		return nil, fmt.Errorf("make client for what is not urgent: %w", err)
	}
	byObject, err := watched(opts)
	if err != nil {
		return nil, err
	}
	ca, err := cache.New(cfg, cache.Options{
		HTTPClient: conn.forWatches(), Scheme: scheme, Mapper: kinds(), ByObject: byObject, DefaultTransform: slim,
		DefaultWatchErrorHandler: conn.told.tell,
	})
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	events := record.NewBroadcaster()
	return &Cluster{
		opts: opts, rest: cfg, conn: conn, client: c, background: background, cache: ca, events: events,
		recorder: events.NewRecorder(scheme, corev1.EventSource{Component: opts.Component, Host: opts.NodeName}),
	}, nil
}

// watched limits what is watched: configuration in our own namespace only, of the
// ConfigurationStates our own, and of announcement status a speaker its own.
func watched(opts Options) (map[client.Object]cache.ByObject, error) {
	ours := map[string]cache.Config{opts.Namespace: {}}
	byObject := map[client.Object]cache.ByObject{}
	for _, kind := range append(configKinds(), &v1alpha1.AddressClaim{}, &v1alpha1.AddressConflict{}) {
		byObject[kind] = cache.ByObject{Namespaces: ours}
	}
	byObject[&v1beta1.ConfigurationState{}] = cache.ByObject{Namespaces: map[string]cache.Config{
		opts.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", configurationState(opts).Name)},
	}}
	announcements := cache.ByObject{Namespaces: ours, Transform: slimAnnouncement}
	if opts.NodeName != "" {
		mine := labels.SelectorFromSet(labels.Set{v1beta1.LabelNode: nodeLabel(opts.NodeName)})
		announcements = cache.ByObject{Namespaces: map[string]cache.Config{opts.Namespace: {LabelSelector: mine}}}
	}
	for _, kind := range announcementKinds() {
		byObject[kind] = announcements
	}
	if opts.SpeakerLabels != "" {
		sel, err := labels.Parse(opts.SpeakerLabels)
		if err != nil {
			return nil, fmt.Errorf("parse the labels of speakers %q: %w", opts.SpeakerLabels, err)
		}
		byObject[&corev1.Pod{}] = cache.ByObject{Namespaces: map[string]cache.Config{opts.Namespace: {LabelSelector: sel}}}
	}
	return byObject, nil
}

// slim drops what nobody reads before an object is kept.
func slim(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	switch o := obj.(type) {
	case *discoveryv1.EndpointSlice:
		o.Ports = nil
		o.Annotations = nil
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			e.Hostname, e.TargetRef, e.Zone, e.Hints, e.DeprecatedTopology = nil, nil, nil, nil, nil
			if len(e.Addresses) > 1 {
				e.Addresses = e.Addresses[:1]
			}
		}
	case *corev1.Node:
		slimNode(o)
	case *corev1.Pod:
		o.Annotations = nil
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName}
		o.Status = corev1.PodStatus{PodIPs: o.Status.PodIPs, PodIP: o.Status.PodIP, Phase: o.Status.Phase}
	case *corev1.Namespace:
		o.Annotations = nil
	}
	return obj, nil
}

// Run watches until ctx ends. It does not wait for watches that sit out a pause
// because the API server is away: that can take half a minute, in which they do
// nothing.
func (c *Cluster) Run(ctx context.Context) error {
	c.startEvents()
	defer c.stopEvents()
	go c.conn.run(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.cache.Start(ctx) }()
	late := make(<-chan time.Time)
	for done := ctx.Done(); ; {
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("watch the API server: %w", err)
			}
			return nil
		case <-done:
			done, late = nil, time.After(stopTime)
		case <-late:
			return nil
		}
	}
}

// informer returns the informer of a kind. It does not wait for the API server.
//
//nolint:ireturn // the library gives no other
func (c *Cluster) informer(ctx context.Context, kind client.Object) (cache.Informer, error) {
	inf, err := c.cache.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watch %T: %w", kind, err)
	}
	return inf, nil
}

// kinds returns which resources the kinds are that we deal with. Asking the API
// server would mean that we could not start without it.
func kinds() *meta.DefaultRESTMapper {
	core, v1, v2, own := corev1.SchemeGroupVersion, v1beta1.GroupVersion, v1beta2.GroupVersion, v1alpha1.GroupVersion
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{core, v1, v2, own})
	cluster := []schema.GroupVersionKind{
		core.WithKind("Namespace"), core.WithKind("Node"),
		authenticationv1.SchemeGroupVersion.WithKind("TokenReview"),
		authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"),
		admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"),
	}
	add := func(k schema.GroupVersionKind, scope meta.RESTScope) {
		m.Add(k, scope)
		m.Add(k.GroupVersion().WithKind(k.Kind+"List"), scope) // of which the cache asks for the scope alone
	}
	for _, k := range cluster {
		add(k, meta.RESTScopeRoot)
	}
	namespaced := []schema.GroupVersionKind{
		core.WithKind("Service"), core.WithKind("Pod"), core.WithKind("Secret"),
		appsv1.SchemeGroupVersion.WithKind("Deployment"), appsv1.SchemeGroupVersion.WithKind("DaemonSet"), discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		v1.WithKind("IPAddressPool"), v1.WithKind("L2Advertisement"), v1.WithKind("BGPAdvertisement"), v2.WithKind("BGPPeer"),
		v1.WithKind("BFDProfile"), v1.WithKind("Community"), v1.WithKind("ConfigurationState"),
		v1.WithKind("ServiceL2Status"), v1.WithKind("ServiceBGPStatus"),
		v1.WithKind("BGPSessionStatus"), own.WithKind("AddressClaim"), own.WithKind("AddressConflict"),
	}
	for _, k := range namespaced {
		add(k, meta.RESTScopeNamespace)
	}
	return m
}

// configKinds are the kinds of configuration objects.
func configKinds() []client.Object {
	return []client.Object{
		&v1beta1.IPAddressPool{}, &v1beta1.L2Advertisement{}, &v1beta1.BGPAdvertisement{},
		&v1beta2.BGPPeer{}, &v1beta1.BFDProfile{}, &v1beta1.Community{},
	}
}
