package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Annotations on Services. Each is read under the old prefix too; the new one wins.
const (
	prefix       = "metallb.io/"
	legacyPrefix = "metallb.universe.tf/"

	annotationPool      = "address-pool"
	annotationAddresses = "loadBalancerIPs"
	annotationSharing   = "allow-shared-ip"

	// AnnotationFromPool is written by the controller: the pool of the addresses.
	AnnotationFromPool = prefix + "ip-allocated-from-pool"

	// annotationReleased is written by the controller when an address was claimed
	// for a Service but never given to it.
	annotationReleased = "barelb.io/address-released"

	// noSelector is the backend of a Service with externalTrafficPolicy Local whose
	// endpoints somebody else writes.
	noSelector = "<none>"
)

// annotation reads an annotation under either prefix and reports whether it is there.
func annotation(o metav1.Object, name string) (string, bool) {
	if v, ok := o.GetAnnotations()[prefix+name]; ok {
		return v, true
	}
	v, ok := o.GetAnnotations()[legacyPrefix+name]
	return v, ok
}

// ours reports whether a Service is of type LoadBalancer and of the class, or
// without a class if class is "".
func ours(o *corev1.Service, class string) bool {
	have := o.Spec.LoadBalancerClass
	return o.Spec.Type == corev1.ServiceTypeLoadBalancer && (have == nil) == (class == "") && (have == nil || *have == class)
}

// convertService returns the Service as the core knows it, or nil if it is not
// one of type LoadBalancer and of our class.
func convertService(o *corev1.Service, class string, namespaceLabels map[string]string) *lb.Service {
	if !ours(o, class) {
		return nil
	}
	svc := &lb.Service{
		Key: lb.Key{Namespace: o.Namespace, Name: o.Name}, UID: string(o.UID), Labels: o.Labels,
		NamespaceLabels: namespaceLabels, LegacyAnnotations: usesLegacyAnnotations(o), Version: version(o),
		TrafficLocal: o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	for _, text := range o.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil { // "None" is no address
			svc.ClusterIPs = append(svc.ClusterIPs, a)
		}
	}
	if p := o.Spec.IPFamilyPolicy; p != nil {
		svc.FamilyPolicy = lb.FamilyPolicy(*p)
	}
	for _, p := range o.Spec.Ports {
		svc.Ports = append(svc.Ports, lb.Port{Protocol: string(p.Protocol), Number: uint16(p.Port)})
	}
	slices.SortFunc(svc.Ports, lb.Port.Compare)
	if svc.TrafficLocal {
		svc.Backend = lb.Selector{MatchLabels: o.Spec.Selector}.String()
		if svc.Backend == "" {
			svc.Backend = noSelector // or it would pass for one with Cluster
		}
	}
	svc.SharingKey, svc.HasSharing = annotation(o, annotationSharing)
	svc.RequestedPool, _ = annotation(o, annotationPool)
	svc.RequestField = requestField(o)
	svc.Requested, svc.RequestErr = requestedAddrs(o, svc.RequestField)
	svc.Pool = o.Annotations[AnnotationFromPool]
	if c := meta.FindStatusCondition(o.Status.Conditions, ConditionAllocated); c != nil {
		svc.Told, svc.ToldNo = c.Reason+": "+c.Message, c.Status == metav1.ConditionFalse
	}
	if c := meta.FindStatusCondition(o.Status.Conditions, ConditionAnnounced); c != nil {
		svc.ToldAnnounced = Condition{Reason: c.Reason, Message: c.Message, True: c.Status == metav1.ConditionTrue}.Told()
	}
	for _, in := range o.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			svc.Addrs = append(svc.Addrs, a.Unmap())
		}
	}
	return svc
}

// requestField says where a Service asks for addresses, or returns "".
func requestField(o *corev1.Service) string {
	text, _ := annotation(o, annotationAddresses)
	switch {
	case o.Spec.LoadBalancerIP != "":
		return "spec.loadBalancerIP"
	case text != "":
		return "annotation " + annotationAddresses
	}
	return ""
}

// requestedAddrs reads the loadBalancerIPs annotation or spec.loadBalancerIP; the
// second result says what is wrong with them.
func requestedAddrs(o *corev1.Service, field string) ([]netip.Addr, string) {
	text, _ := annotation(o, annotationAddresses)
	if old := o.Spec.LoadBalancerIP; old != "" {
		if text != "" {
			return nil, "spec.loadBalancerIP and the annotation loadBalancerIPs exclude each other"
		}
		text = old
	}
	if text == "" {
		return nil, ""
	}
	var addrs []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil || a.Zone() != "" {
			return nil, fmt.Sprintf("%s: %q is not an IP address", field, strings.TrimSpace(part))
		}
		a = a.Unmap()
		for _, b := range addrs {
			if lb.FamilyOf(a) == lb.FamilyOf(b) {
				return nil, fmt.Sprintf("%s: %s and %s are both %s; one address of each family is allowed", field, b, a, lb.FamilyOf(a))
			}
		}
		addrs = append(addrs, a)
	}
	return addrs, ""
}

// version returns the resourceVersion as a number. Those of one kind are numbers
// that grow (Kubernetes API conventions since 1.35).
func version(o metav1.Object) uint64 {
	v, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	return v
}

// usesLegacyAnnotations reports whether a Service carries annotations of the old prefix.
func usesLegacyAnnotations(o metav1.Object) bool {
	for k := range o.GetAnnotations() {
		if strings.HasPrefix(k, legacyPrefix) {
			return true
		}
	}
	return false
}

// familyOf returns the family of a slice's addresses, the zero value for names.
func familyOf(t discoveryv1.AddressType) lb.Family {
	switch t {
	case discoveryv1.AddressTypeIPv4:
		return lb.IPv4
	case discoveryv1.AddressTypeIPv6:
		return lb.IPv6
	case discoveryv1.AddressTypeFQDN:
	}
	return 0
}

// convertEndpoints returns the endpoints of one slice, and the Service that they
// belong to.
func convertEndpoints(o *discoveryv1.EndpointSlice) (lb.Key, []lb.Endpoint) {
	key := lb.Key{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}
	eps := make([]lb.Endpoint, 0, len(o.Endpoints))
	for _, e := range o.Endpoints {
		if len(e.Addresses) == 0 {
			continue
		}
		ep := lb.Endpoint{Family: familyOf(o.AddressType), Serving: e.Conditions.Ready == nil || *e.Conditions.Ready}
		if s := e.Conditions.Serving; !ep.Serving && s != nil {
			ep.Serving = *s
		}
		if e.NodeName != nil {
			ep.Node = *e.NodeName
		}
		eps = append(eps, ep)
	}
	return key, eps
}

func convertMeta(o metav1.Object) config.Meta {
	return config.Meta{Name: o.GetName(), Labels: o.GetLabels(), Created: o.GetCreationTimestamp().Time, Generation: o.GetGeneration()}
}

func convertSelectors(in []metav1.LabelSelector) []lb.Selector {
	out := make([]lb.Selector, len(in))
	for i := range in {
		out[i] = convertSelector(in[i])
	}
	return out
}

func convertSelector(in metav1.LabelSelector) lb.Selector {
	s := lb.Selector{MatchLabels: maps.Clone(in.MatchLabels)}
	for _, e := range in.MatchExpressions {
		s.MatchExpressions = append(s.MatchExpressions, lb.Requirement{Key: e.Key, Operator: string(e.Operator), Values: e.Values})
	}
	return s
}

func convertPool(o *v1beta1.IPAddressPool) config.IPAddressPool {
	p := config.IPAddressPool{
		Meta: convertMeta(o), Addresses: o.Spec.Addresses, AvoidBuggyIPs: o.Spec.AvoidBuggyIPs,
		AutoAssign: o.Spec.AutoAssign == nil || *o.Spec.AutoAssign, Terminating: o.DeletionTimestamp != nil,
		Guarded:      slices.Contains(o.Finalizers, v1beta1.FinalizerInUse),
		IgnoreOnWire: o.Annotations[v1beta1.AnnotationIgnoreOnWire],
	}
	if a := o.Spec.ServiceAllocation; a != nil {
		p.Allocation = &config.ServiceAllocation{
			Priority: a.Priority, Namespaces: a.Namespaces,
			NamespaceSelectors: convertSelectors(a.NamespaceSelectors), ServiceSelectors: convertSelectors(a.ServiceSelectors),
		}
	}
	return p
}

func convertL2Advertisement(o *v1beta1.L2Advertisement) config.L2Advertisement {
	a := convertL2Spec(&o.Spec)
	a.Meta = convertMeta(o)
	if last := specOf[v1beta1.L2AdvertisementSpec](o.Status.LastGood); last != nil {
		a.Last = new(convertL2Spec(last))
	}
	return a
}

func convertL2Spec(s *v1beta1.L2AdvertisementSpec) config.L2Advertisement {
	a := config.L2Advertisement{
		Pools: s.IPAddressPools, Interfaces: s.Interfaces,
		PoolSelectors: convertSelectors(s.IPAddressPoolSelectors), NodeSelectors: convertSelectors(s.NodeSelectors),
		ServiceSelectors: convertSelectors(s.ServiceSelectors), Failback: s.Failback,
	}
	for _, p := range s.PreferredNodeSelectors {
		a.Preferred = append(a.Preferred, config.Preference{Weight: int(p.Weight), Selector: convertSelector(p.Preference)})
	}
	return a
}

func convertBGPAdvertisement(o *v1beta1.BGPAdvertisement) config.BGPAdvertisement {
	a := convertBGPSpec(&o.Spec)
	a.Meta = convertMeta(o)
	if last := specOf[v1beta1.BGPAdvertisementSpec](o.Status.LastGood); last != nil {
		a.Last = new(convertBGPSpec(last))
	}
	return a
}

func convertBGPSpec(s *v1beta1.BGPAdvertisementSpec) config.BGPAdvertisement {
	a := config.BGPAdvertisement{
		AggregationLength: 32, AggregationLengthV6: 128, LocalPref: s.LocalPref,
		Communities: s.Communities, Pools: s.IPAddressPools, Peers: s.Peers,
		PoolSelectors: convertSelectors(s.IPAddressPoolSelectors), NodeSelectors: convertSelectors(s.NodeSelectors),
		ServiceSelectors: convertSelectors(s.ServiceSelectors),
	}
	a.MED, a.Prepend, a.WeightByEndpoints = s.MED, s.ASPathPrepend, s.WeightByEndpoints
	if l := s.AggregationLength; l != nil {
		a.AggregationLength = int(*l)
	}
	if l := s.AggregationLengthV6; l != nil {
		a.AggregationLengthV6 = int(*l)
	}
	return a
}

func convertPeer(o *v1beta2.BGPPeer) config.BGPPeer {
	p := convertPeerSpec(&o.Spec)
	p.Meta, p.Last = convertMeta(o), keptPeer(o.Status.LastGood)
	return p
}

func convertPeerSpec(s *v1beta2.BGPPeerSpec) config.BGPPeer {
	return config.BGPPeer{
		MyASN: s.MyASN, PeerASN: s.PeerASN, LocalASN: s.LocalASN, DynamicASN: string(s.DynamicASN),
		PeerAddress: s.PeerAddress, SourceAddress: s.SourceAddress, Interface: s.Interface, VRF: s.VRF, PeerPort: s.PeerPort,
		HoldTime: duration(s.HoldTime), KeepaliveTime: duration(s.KeepaliveTime), ConnectTime: duration(s.ConnectTime),
		RouterID: s.RouterID, NodeSelectors: convertSelectors(s.NodeSelectors),
		Password: s.Password, PasswordSecret: s.PasswordSecret.Name, BFDProfile: s.BFDProfile,
		MultiHop: s.EBGPMultiHop, TTLSecurityHops: s.TTLSecurityHops, GracefulRestart: s.EnableGracefulRestart, DualStack: s.DualStackAddressFamily,
	}
}

func duration(d *metav1.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	return &d.Duration
}

func convertBFDProfile(o *v1beta1.BFDProfile) config.BFDProfile {
	p := convertProfileSpec(&o.Spec)
	p.Meta = convertMeta(o)
	if last := specOf[v1beta1.BFDProfileSpec](o.Status.LastGood); last != nil {
		p.Last = new(convertProfileSpec(last))
	}
	return p
}

func convertProfileSpec(s *v1beta1.BFDProfileSpec) config.BFDProfile {
	return config.BFDProfile{
		ReceiveInterval: s.ReceiveInterval, TransmitInterval: s.TransmitInterval,
		EchoInterval: s.EchoInterval, DetectMultiplier: s.DetectMultiplier, MinimumTTL: s.MinimumTTL,
		EchoMode: s.EchoMode != nil && *s.EchoMode, PassiveMode: s.PassiveMode != nil && *s.PassiveMode,
		StrictMode: s.StrictMode != nil && *s.StrictMode,
	}
}

func convertCommunity(o *v1beta1.Community) config.CommunityList {
	c := config.CommunityList{Meta: convertMeta(o)}
	for _, a := range o.Spec.Communities {
		c.Aliases = append(c.Aliases, config.CommunityAlias{Name: a.Name, Value: a.Value})
	}
	return c
}

// convertSecret copies out the one key that is needed.
func convertSecret(o *corev1.Secret) config.Secret {
	password, ok := o.Data["password"]
	if text, plain := o.StringData["password"]; plain { // in files alone: it counts more
		password, ok = []byte(text), true
	}
	return config.Secret{Type: string(o.Type), Password: string(password), HasKey: ok}
}
