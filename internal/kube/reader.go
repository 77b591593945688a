package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
)

// Reader reads a cluster once, for a user, with the user's rights. What they do not
// allow becomes a gap.
type Reader struct {
	client    client.WithWatch
	rest      *rest.Config
	core      *typedcorev1.CoreV1Client
	namespace string // of the configuration
	clock     clock
}

// clock remembers the time that the API server's last answer told.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewReader returns a Reader. namespace is where the configuration is.
func NewReader(cfg *rest.Config, namespace string) (*Reader, error) {
	r := &Reader{rest: rest.CopyConfig(cfg), namespace: namespace}
	r.rest.QPS = -1 // no limit: it reads once
	r.rest.UserAgent = "barelb/user"
	r.rest.Wrap(func(next http.RoundTripper) http.RoundTripper { return dateReader{next, &r.clock} })
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionv1.AddToScheme, appsv1.AddToScheme, authorizationv1.AddToScheme, coordinationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme,
		networkingv1.AddToScheme, v1alpha1.AddToScheme, v1beta1.AddToScheme, v1beta2.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	m := kinds()
	m.Add(appsv1.SchemeGroupVersion.WithKind("DaemonSet"), meta.RESTScopeNamespace)
	m.Add(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"), meta.RESTScopeRoot)
	m.Add(v1beta1.GroupVersion.WithKind(sessionKind), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("ConfigMap"), meta.RESTScopeNamespace)
	m.Add(coordinationv1.SchemeGroupVersion.WithKind("Lease"), meta.RESTScopeNamespace)
	m.Add(networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), meta.RESTScopeRoot)
	m.Add(admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"), meta.RESTScopeRoot)
	addMigrationKinds(m)
	var err error
	if r.client, err = client.NewWithWatch(r.rest, client.Options{Scheme: scheme, Mapper: m}); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if r.core, err = typedcorev1.NewForConfig(r.rest); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return r, nil
}

// dateReader notes the Date of answers.
type dateReader struct {
	next  http.RoundTripper
	clock *clock
}

// RoundTrip implements http.RoundTripper.
func (d dateReader) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		d.clock.mu.Lock()
		d.clock.now = t
		d.clock.mu.Unlock()
	}
	return resp, nil
}

// Scope is what a Reader reads beyond Services, nodes and configuration.
type Scope struct {
	Endpoints, Status, Pods, Surroundings bool
	Migration                             bool // what concerns MetalLB in the same cluster; with Surroundings
	// Events are read of this Service alone; of none if it is the zero value.
	Events lb.Key
}

// reading is one Dump in the making.
type reading struct {
	*Reader
	ctx context.Context //nolint:containedctx // it lives as long as one call of Read
	d   *Dump
	wg  sync.WaitGroup
	mu  sync.Mutex
	err error // that ends all
}

// Read reads what scope says, all at once. It fails if Services or nodes, without which
// there is nothing to say, cannot be read.
func (r *Reader) Read(ctx context.Context, scope Scope) (*Dump, error) {
	d := newDump()
	g := &reading{Reader: r, ctx: ctx, d: d}
	g.must("services", list(g, &corev1.ServiceList{}, "", func(l *corev1.ServiceList) { d.Services = l.Items }))
	g.must("nodes", list(g, &corev1.NodeList{}, "", func(l *corev1.NodeList) { d.Nodes = l.Items }))
	g.try(explain.FromNamespaces, "list namespaces", list(g, &corev1.NamespaceList{}, "", func(l *corev1.NamespaceList) { d.Namespaces = l.Items }))
	g.readConfig()
	if scope.Endpoints {
		g.try(explain.FromEndpoints, "list endpointslices", list(g, &discoveryv1.EndpointSliceList{}, "", func(l *discoveryv1.EndpointSliceList) { d.Slices = l.Items }))
	}
	if scope.Status {
		g.readStatus()
	}
	if scope.Pods {
		g.readPods()
	}
	if scope.Surroundings {
		g.readSurroundings()
	}
	if scope.Migration {
		g.readMigration()
	}
	if key := scope.Events; key.Name != "" {
		about := client.MatchingFields{"involvedObject.kind": "Service", "involvedObject.name": key.Name}
		g.try(explain.FromEvents, "list events in "+key.Namespace, list(g, &corev1.EventList{}, key.Namespace, func(l *corev1.EventList) { d.Events = l.Items }, about))
	}
	g.wg.Wait()
	if g.err != nil {
		return nil, g.err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read the cluster: %w", err)
	}
	g.readSecrets()
	if scope.Migration {
		g.readSpeakerSecrets()
	}
	if scope.Surroundings && !scope.Migration {
		g.readRights()
	}
	r.clock.mu.Lock()
	d.Now = r.clock.now
	r.clock.mu.Unlock()
	if d.Now.IsZero() {
		d.Now = time.Now()
	}
	slices.SortFunc(d.Gaps, func(a, b explain.Gap) int { return compareStrings(string(a.From), string(b.From)) })
	return d, nil
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// list returns a function that lists objects and hands them on.
func list[L client.ObjectList](g *reading, into L, namespace string, take func(L), opts ...client.ListOption) func() error {
	return func() error {
		// The API server's cache is fresh enough, and spares etcd.
		opts = append(opts, client.InNamespace(namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}})
		if err := g.client.List(g.ctx, into, opts...); err != nil {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		take(into)
		return nil
	}
}

// must reads what there is nothing to say without.
func (g *reading) must(what string, read func() error) {
	g.wg.Go(func() {
		err := read()
		if err == nil {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if apierrors.IsForbidden(err) {
			g.err = fmt.Errorf("you may not list %s, without which there is nothing to say: apply deploy/manifests/user-rbac.yaml and bind the ClusterRole barelb:viewer", what)
		} else if g.err == nil {
			g.err = fmt.Errorf("list %s: %w", what, err)
		}
	})
}

// try reads what can be done without.
func (g *reading) try(from explain.Source, needs string, read func() error) {
	g.wg.Go(func() { g.gap(from, needs, read()) })
}

// gap notes that something is not known because of err, if that is not nil.
func (g *reading) gap(from explain.Source, needs string, err error) {
	if err == nil {
		return
	}
	gap := explain.Gap{From: from, Needs: needs}
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		gap.Right = true
	case from == explain.FromRanges && (apierrors.IsNotFound(err) || meta.IsNoMatchError(err)):
		gap.Error = "API servers before Kubernetes 1.33 do not tell"
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		gap.Error = "the API server does not know " + string(from) + ": is BareLB of this version installed?"
	default:
		gap.Error = err.Error()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.ContainsFunc(g.d.Gaps, func(x explain.Gap) bool { return x.From == from }) {
		g.d.Gaps = append(g.d.Gaps, gap)
	}
}

func (g *reading) readConfig() {
	ns, d := g.namespace, g.d
	in := " in " + ns
	g.try(explain.FromConfig, "list ipaddresspools.metallb.io"+in, list(g, &v1beta1.IPAddressPoolList{}, ns, func(l *v1beta1.IPAddressPoolList) { d.Pools = l.Items }))
	g.try(explain.FromConfig, "list l2advertisements.metallb.io"+in, list(g, &v1beta1.L2AdvertisementList{}, ns, func(l *v1beta1.L2AdvertisementList) { d.L2 = l.Items }))
	g.try(explain.FromConfig, "list bgpadvertisements.metallb.io"+in, list(g, &v1beta1.BGPAdvertisementList{}, ns, func(l *v1beta1.BGPAdvertisementList) { d.BGP = l.Items }))
	g.try(explain.FromConfig, "list bgppeers.metallb.io"+in, list(g, &v1beta2.BGPPeerList{}, ns, func(l *v1beta2.BGPPeerList) { d.Peers = l.Items }))
	g.try(explain.FromConfig, "list bfdprofiles.metallb.io"+in, list(g, &v1beta1.BFDProfileList{}, ns, func(l *v1beta1.BFDProfileList) { d.Profiles = l.Items }))
	g.try(explain.FromConfig, "list communities.metallb.io"+in, list(g, &v1beta1.CommunityList{}, ns, func(l *v1beta1.CommunityList) { d.Communities = l.Items }))
	g.try(explain.FromClaims, "list addressclaims.barelb.io"+in, list(g, &v1alpha1.AddressClaimList{}, ns, func(l *v1alpha1.AddressClaimList) { d.Claims = l.Items }))
	g.try(explain.FromConflicts, "list addressconflicts.barelb.io"+in, list(g, &v1alpha1.AddressConflictList{}, ns, func(l *v1alpha1.AddressConflictList) { d.Conflicts = l.Items }))
}

func (g *reading) readStatus() {
	ns, d := g.namespace, g.d
	in := " in " + ns
	g.try(explain.FromL2Status, "list servicel2statuses.metallb.io"+in, list(g, &v1beta1.ServiceL2StatusList{}, ns, func(l *v1beta1.ServiceL2StatusList) { d.L2Status = l.Items }))
	g.try(explain.FromBGPStatus, "list servicebgpstatuses.metallb.io"+in, list(g, &v1beta1.ServiceBGPStatusList{}, ns, func(l *v1beta1.ServiceBGPStatusList) { d.BGPStatus = l.Items }))
	g.try(explain.FromSessions, "list bgpsessionstatuses.metallb.io"+in, g.readSessions)
	g.try(explain.FromStates, "list configurationstates.metallb.io"+in, list(g, &v1beta1.ConfigurationStateList{}, ns, func(l *v1beta1.ConfigurationStateList) { d.States = l.Items }))
}

// readSessions reads what speakers report of their sessions, if this version does.
func (g *reading) readSessions() error {
	return readLoose(g, v1beta1.GroupVersion.WithKind(sessionKind), g.namespace, &g.d.Sessions)
}

// readLoose reads objects of a kind of which only a part matters. A kind that the API
// server does not know has none.
func readLoose[T any](g *reading, kind schema.GroupVersionKind, namespace string, into *[]T) error {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := g.client.List(g.ctx, l, client.InNamespace(namespace)); err != nil {
		return client.IgnoreNotFound(err)
	}
	all := make([]T, len(l.Items))
	for i := range l.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(l.Items[i].Object, &all[i]); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	*into = all
	return nil
}

func (g *reading) readPods() {
	d := g.d
	g.try(explain.FromPods, "list pods in "+g.namespace, list(g, &corev1.PodList{}, g.namespace, func(l *corev1.PodList) { d.Pods = append(d.Pods, l.Items...) }))
	g.try(explain.FromProxyMode, "get the configmap kube-proxy in kube-system", func() error {
		var o corev1.ConfigMap
		err := g.client.Get(g.ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "kube-proxy"}, &o)
		if err == nil {
			g.mu.Lock()
			d.ConfigMaps = append(d.ConfigMaps, o)
			g.mu.Unlock()
		}
		return client.IgnoreNotFound(err)
	})
	if g.namespace == metav1.NamespaceSystem {
		return
	}
	proxy := client.MatchingLabels{"k8s-app": "kube-proxy"}
	g.try(explain.FromProxies, "list pods in kube-system", list(g, &corev1.PodList{}, metav1.NamespaceSystem, func(l *corev1.PodList) { d.Pods = append(d.Pods, l.Items...) }, proxy))
}

func (g *reading) readSurroundings() {
	d := g.d
	g.try(explain.FromWorkloads, "list daemonsets.apps", list(g, &appsv1.DaemonSetList{}, "", func(l *appsv1.DaemonSetList) { d.DaemonSets = l.Items }))
	g.try(explain.FromWorkloads, "list deployments.apps", list(g, &appsv1.DeploymentList{}, "", func(l *appsv1.DeploymentList) { d.Deployments = l.Items }))
	g.try(explain.FromRanges, "list servicecidrs.networking.k8s.io", list(g, &networkingv1.ServiceCIDRList{}, "", func(l *networkingv1.ServiceCIDRList) { d.ServiceCIDRs = l.Items }))
	g.try(explain.FromPolicies, "list validatingadmissionpolicybindings.admissionregistration.k8s.io", func() error {
		err := list(g, &admissionv1.ValidatingAdmissionPolicyBindingList{}, "", func(l *admissionv1.ValidatingAdmissionPolicyBindingList) { d.Policies = l.Items })()
		if apierrors.IsNotFound(err) { // before Kubernetes 1.30
			d.NoPolicies, err = true, nil
		}
		return err
	})
	g.try(explain.FromLeases, "list leases.coordination.k8s.io in kube-node-lease", list(g, &coordinationv1.LeaseList{}, corev1.NamespaceNodeLease, func(l *coordinationv1.LeaseList) { d.Leases = l.Items }))
}

// readSecrets finds out whether the Secrets are there that peers name. One that may not
// be read is taken to be.
func (g *reading) readSecrets() {
	for i := range g.d.Peers {
		name := g.d.Peers[i].Spec.PasswordSecret.Name
		if name == "" {
			continue
		}
		var o corev1.Secret
		err := g.client.Get(g.ctx, client.ObjectKey{Namespace: g.namespace, Name: name}, &o)
		switch {
		case err == nil:
			g.d.Secrets = append(g.d.Secrets, o)
		case apierrors.IsNotFound(err):
			g.d.NoSecrets = append(g.d.NoSecrets, name)
		}
	}
}

// readRights asks whether BareLB's own accounts may do what they must.
func (g *reading) readRights() {
	for _, x := range []struct{ component, verb, group, resource, sub string }{
		{v1beta1.ComponentController, "update", "", "services", "status"},
		{v1beta1.ComponentController, "create", "barelb.io", "addressclaims", ""},
		{v1beta1.ComponentController, "watch", "metallb.io", "ipaddresspools", ""},
		{v1beta1.ComponentSpeaker, "watch", "metallb.io", "bgppeers", ""},
		{v1beta1.ComponentSpeaker, "watch", "discovery.k8s.io", "endpointslices", ""},
		{v1beta1.ComponentSpeaker, "create", "metallb.io", "servicel2statuses", ""},
	} {
		account := ""
		for i := range g.d.Pods {
			if o := &g.d.Pods[i]; o.Namespace == g.namespace && componentOf(o) == x.component {
				account = o.Spec.ServiceAccountName
			}
		}
		if account == "" {
			continue
		}
		may := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + g.namespace + ":" + account,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + g.namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: g.namespace, Verb: x.verb, Group: x.group, Resource: x.resource, Subresource: x.sub,
			},
		}}
		if err := g.client.Create(g.ctx, may); err != nil {
			g.gap(explain.FromRights, "create subjectaccessreviews.authorization.k8s.io", err)
			return
		}
		if !may.Status.Allowed {
			what := x.resource
			if x.sub != "" {
				what += "/" + x.sub
			}
			g.d.Denied = append(g.d.Denied, fmt.Sprintf("the %s (%s) may not %s %s", x.component, account, x.verb, what))
		}
	}
}
