package kube

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// service returns the Service that the cases of TestConvertService change, and
// what it is to the core.
func service() (*corev1.Service, lb.Service) {
	in := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "u", ResourceVersion: "123", Labels: map[string]string{"a": "b"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.1"}, IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack),
			Ports:    []corev1.ServicePort{{Protocol: "UDP", Port: 53}, {Protocol: "TCP", Port: 53}},
			Selector: map[string]string{"app": "x"}, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
		},
	}
	return in, lb.Service{
		Key: lb.Key{Namespace: "ns", Name: "s"}, UID: "u", Version: 123, Labels: map[string]string{"a": "b"},
		ClusterIPs: addrs("10.96.0.1"), FamilyPolicy: lb.SingleStack, NamespaceLabels: map[string]string{"team": "red"},
		Ports: []lb.Port{{Protocol: "TCP", Number: 53}, {Protocol: "UDP", Number: 53}},
	}
}

func TestConvertService(t *testing.T) {
	type core = lb.Service
	annotate := func(pairs ...string) func(*corev1.Service) {
		return func(o *corev1.Service) {
			o.Annotations = map[string]string{}
			for i := 0; i < len(pairs); i += 2 {
				o.Annotations[pairs[i]] = pairs[i+1]
			}
		}
	}
	both := func(o *corev1.Service, old, now string) {
		o.Spec.LoadBalancerIP = old
		o.Annotations = map[string]string{"metallb.io/loadBalancerIPs": now}
	}
	for name, c := range map[string]struct {
		edit func(*corev1.Service)
		want func(*core)
	}{
		"as it is": {func(*corev1.Service) {}, func(*core) {}},
		"annotations": {
			annotate("metallb.io/address-pool", "p", "metallb.io/loadBalancerIPs", "192.0.2.1", "metallb.io/allow-shared-ip", "k", "metallb.io/ip-allocated-from-pool", "q"),
			func(s *core) {
				s.RequestedPool, s.Requested, s.SharingKey, s.HasSharing, s.Pool = "p", addrs("192.0.2.1"), "k", true, "q"
				s.RequestField = "annotation loadBalancerIPs"
			},
		},
		"old annotations": {
			annotate("metallb.universe.tf/address-pool", "p", "metallb.universe.tf/loadBalancerIPs", "192.0.2.1", "metallb.universe.tf/allow-shared-ip", "k", "metallb.universe.tf/ip-allocated-from-pool", "q"),
			func(s *core) {
				s.RequestedPool, s.Requested, s.SharingKey, s.HasSharing, s.LegacyAnnotations = "p", addrs("192.0.2.1"), "k", true, true
				s.RequestField = "annotation loadBalancerIPs"
			},
		},
		"both annotations: the new one counts": {
			annotate("metallb.universe.tf/address-pool", "p", "metallb.io/address-pool", "q"),
			func(s *core) { s.RequestedPool, s.LegacyAnnotations = "q", true },
		},
		"the new one counts although it is empty": {
			annotate("metallb.universe.tf/address-pool", "p", "metallb.io/address-pool", "", "metallb.io/allow-shared-ip", "", "metallb.universe.tf/allow-shared-ip", "k"),
			func(s *core) { s.HasSharing, s.LegacyAnnotations = true, true },
		},
		"loadBalancerIP": {
			func(o *corev1.Service) { o.Spec.LoadBalancerIP = "192.0.2.1" },
			func(s *core) { s.Requested, s.RequestField = addrs("192.0.2.1"), "spec.loadBalancerIP" },
		},
		"loadBalancerIP and annotation": {
			func(o *corev1.Service) { both(o, "192.0.2.1", "192.0.2.1") },
			func(s *core) {
				s.RequestErr = "spec.loadBalancerIP and the annotation loadBalancerIPs exclude each other"
				s.RequestField = "spec.loadBalancerIP"
			},
		},
		"loadBalancerIP and an annotation that is empty": {
			func(o *corev1.Service) { both(o, "192.0.2.1", "") },
			func(s *core) { s.Requested, s.RequestField = addrs("192.0.2.1"), "spec.loadBalancerIP" },
		},
		"an annotation that is empty": {annotate("metallb.io/loadBalancerIPs", ""), func(*core) {}},
		"two requests, in the user's order": {
			annotate("metallb.io/loadBalancerIPs", " 2001:DB8::1 ,192.0.2.1 "),
			func(s *core) {
				s.Requested, s.RequestField = addrs("2001:db8::1", "192.0.2.1"), "annotation loadBalancerIPs"
			},
		},
		"two of a family": {
			annotate("metallb.io/loadBalancerIPs", "192.0.2.1,192.0.2.2"),
			func(s *core) {
				s.RequestErr = "annotation loadBalancerIPs: 192.0.2.1 and 192.0.2.2 are both IPv4; one address of each family is allowed"
				s.RequestField = "annotation loadBalancerIPs"
			},
		},
		"no address": {
			annotate("metallb.io/loadBalancerIPs", "192.0.2.1, x"),
			func(s *core) {
				s.RequestErr = `annotation loadBalancerIPs: "x" is not an IP address`
				s.RequestField = "annotation loadBalancerIPs"
			},
		},
		"with a zone": {
			func(o *corev1.Service) { o.Spec.LoadBalancerIP = "fe80::1%eth0" },
			func(s *core) {
				s.RequestErr = `spec.loadBalancerIP: "fe80::1%eth0" is not an IP address`
				s.RequestField = "spec.loadBalancerIP"
			},
		},
		"IPv4 as IPv6": {
			annotate("metallb.io/loadBalancerIPs", "::ffff:192.0.2.1"),
			func(s *core) { s.Requested, s.RequestField = addrs("192.0.2.1"), "annotation loadBalancerIPs" },
		},
		"two families": {
			func(o *corev1.Service) {
				o.Spec.ClusterIPs, o.Spec.IPFamilyPolicy = []string{"fd00::1", "10.96.0.1"}, new(corev1.IPFamilyPolicyPreferDualStack)
			},
			func(s *core) { s.ClusterIPs, s.FamilyPolicy = addrs("fd00::1", "10.96.0.1"), lb.PreferDualStack },
		},
		"headless": {
			func(o *corev1.Service) { o.Spec.ClusterIPs, o.Spec.IPFamilyPolicy = []string{"None"}, nil },
			func(s *core) { s.ClusterIPs, s.FamilyPolicy = nil, "" },
		},
		"Local": {
			func(o *corev1.Service) {
				o.Spec.ExternalTrafficPolicy, o.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"b": "2", "a": "1"}
			},
			func(s *core) { s.TrafficLocal, s.Backend = true, "a=1,b=2" },
		},
		"Local without selector": {
			func(o *corev1.Service) {
				o.Spec.ExternalTrafficPolicy, o.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, nil
			},
			func(s *core) { s.TrafficLocal, s.Backend = true, "<none>" },
		},
		"status": {
			func(o *corev1.Service) {
				o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "2001:db8::1"}, {Hostname: "x.example"}, {IP: "nonsense"}, {IP: "::ffff:192.0.2.1"}}
			},
			func(s *core) { s.Addrs = addrs("2001:db8::1", "192.0.2.1") },
		},
		"a version that is no number": {func(o *corev1.Service) { o.ResourceVersion = "x" }, func(s *core) { s.Version = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			in, want := service()
			c.edit(in)
			c.want(&want)
			got := convertService(in, "", map[string]string{"team": "red"})
			if diff := cmp.Diff(&want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhichServicesAreOurs(t *testing.T) {
	for _, c := range []struct {
		kind  corev1.ServiceType
		class *string
		flag  string
		want  bool
	}{
		{corev1.ServiceTypeLoadBalancer, nil, "", true},
		{corev1.ServiceTypeLoadBalancer, new("x.y/z"), "x.y/z", true},
		{corev1.ServiceTypeLoadBalancer, new("x.y/z"), "", false},
		{corev1.ServiceTypeLoadBalancer, new("x.y/z"), "other", false},
		{corev1.ServiceTypeLoadBalancer, nil, "x.y/z", false},
		{corev1.ServiceTypeNodePort, nil, "", false},
		{corev1.ServiceTypeClusterIP, new("x.y/z"), "x.y/z", false},
	} {
		in, _ := service()
		in.Spec.Type, in.Spec.LoadBalancerClass = c.kind, c.class
		if got := convertService(in, c.flag, nil) != nil; got != c.want {
			t.Errorf("%+v: got %t", c, got)
		}
	}
}

func TestConvertEndpoints(t *testing.T) {
	yes, no := new(true), new(false)
	for name, c := range map[string]struct {
		ready, serving, terminating *bool
		want                        bool
	}{
		"nothing is said":          {nil, nil, nil, true},
		"ready":                    {yes, yes, no, true},
		"not ready":                {no, no, no, false},
		"not ready, no more said":  {no, nil, nil, false},
		"terminating, yet serving": {no, yes, yes, true},
		"terminating":              {no, no, yes, false},
		"ready, no more said":      {yes, nil, nil, true},
		"ready wins":               {yes, no, yes, true}, // publishNotReadyAddresses
	} {
		t.Run(name, func(t *testing.T) {
			in := &discoveryv1.EndpointSlice{
				AddressType: discoveryv1.AddressTypeIPv6,
				ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "s-1", Labels: map[string]string{"kubernetes.io/service-name": "s"}},
				Endpoints: []discoveryv1.Endpoint{
					{Addresses: []string{"2001:db8::1"}, NodeName: new("n1"), Conditions: discoveryv1.EndpointConditions{Ready: c.ready, Serving: c.serving, Terminating: c.terminating}},
					{NodeName: new("n2")}, // no address
					{Addresses: []string{"2001:db8::3"}, Conditions: discoveryv1.EndpointConditions{Ready: no}},
				},
			}
			key, got := convertEndpoints(in)
			if diff := cmp.Diff([]lb.Endpoint{{Node: "n1", Family: lb.IPv6, Serving: c.want}, {Family: lb.IPv6}}, got); diff != "" || key != (lb.Key{Namespace: "ns", Name: "s"}) {
				t.Errorf("%s (-want +got):\n%s", key, diff)
			}
		})
	}
	if key, _ := convertEndpoints(&discoveryv1.EndpointSlice{}); key.Name != "" {
		t.Errorf("a slice of no Service: got %s", key)
	}
}

func TestConvertConfiguration(t *testing.T) {
	sel := []metav1.LabelSelector{{
		MatchLabels:      map[string]string{"a": "b"},
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: metav1.LabelSelectorOpIn, Values: []string{"x", "y"}}},
	}}
	coreSel := []lb.Selector{{
		MatchLabels: map[string]string{"a": "b"}, MatchExpressions: []lb.Requirement{{Key: "k", Operator: "In", Values: []string{"x", "y"}}},
	}}
	m := metav1.ObjectMeta{Name: "o", Labels: map[string]string{"l": "m"}}
	core := config.Meta{Name: "o", Labels: map[string]string{"l": "m"}}
	check := func(name string, want, got any) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	check("pool", config.IPAddressPool{Meta: core, Addresses: []string{"x"}, AutoAssign: true},
		convertPool(&v1beta1.IPAddressPool{ObjectMeta: m, Spec: v1beta1.IPAddressPoolSpec{Addresses: []string{"x"}}}))
	check("pool with all", config.IPAddressPool{Meta: core, AvoidBuggyIPs: true, Allocation: &config.ServiceAllocation{
		Priority: 3, Namespaces: []string{"ns"}, NamespaceSelectors: coreSel, ServiceSelectors: coreSel,
	}}, convertPool(&v1beta1.IPAddressPool{ObjectMeta: m, Spec: v1beta1.IPAddressPoolSpec{
		AutoAssign: new(false), AvoidBuggyIPs: true,
		ServiceAllocation: &v1beta1.ServiceAllocation{Priority: 3, Namespaces: []string{"ns"}, NamespaceSelectors: sel, ServiceSelectors: sel},
	}}))
	check("L2Advertisement", config.L2Advertisement{
		Meta: core, Pools: []string{"p"}, PoolSelectors: coreSel, NodeSelectors: coreSel, ServiceSelectors: coreSel, Interfaces: []string{"eth0"},
		Preferred: []config.Preference{{Weight: 5, Selector: coreSel[0]}}, Failback: "Never",
	}, convertL2Advertisement(&v1beta1.L2Advertisement{ObjectMeta: m, Spec: v1beta1.L2AdvertisementSpec{
		IPAddressPools: []string{"p"}, IPAddressPoolSelectors: sel, NodeSelectors: sel, ServiceSelectors: sel, Interfaces: []string{"eth0"},
		PreferredNodeSelectors: []v1beta1.PreferredNodeSelector{{Weight: 5, Preference: sel[0]}}, Failback: v1beta1.FailbackNever,
	}}))
	check("BGPAdvertisement", config.BGPAdvertisement{Meta: core, AggregationLength: 32, AggregationLengthV6: 128},
		convertBGPAdvertisement(&v1beta1.BGPAdvertisement{ObjectMeta: m}))
	check("BGPAdvertisement with all", config.BGPAdvertisement{
		Meta: core, AggregationLength: 24, AggregationLengthV6: 64, LocalPref: 7, Communities: []string{"1:2"}, Pools: []string{"p"}, Peers: []string{"r"},
		PoolSelectors: coreSel, NodeSelectors: coreSel, ServiceSelectors: coreSel, MED: new(uint32(5)), Prepend: 2, WeightByEndpoints: true,
	}, convertBGPAdvertisement(&v1beta1.BGPAdvertisement{ObjectMeta: m, Spec: v1beta1.BGPAdvertisementSpec{
		AggregationLength: new(int32(24)), AggregationLengthV6: new(int32(64)), LocalPref: 7, Communities: []string{"1:2"}, IPAddressPools: []string{"p"},
		Peers: []string{"r"}, IPAddressPoolSelectors: sel, NodeSelectors: sel, ServiceSelectors: sel,
		MED: new(uint32(5)), ASPathPrepend: 2, WeightByEndpoints: true,
	}}))
	hold := metav1.Duration{Duration: 90e9}
	check("BGPPeer", config.BGPPeer{
		Meta: core, MyASN: 1, PeerASN: 2, LocalASN: 3, DynamicASN: "external", PeerAddress: "a", SourceAddress: "b", Interface: "i", VRF: "v", PeerPort: 179,
		HoldTime: &hold.Duration, RouterID: "r", NodeSelectors: coreSel, Password: "pw", PasswordSecret: "s", BFDProfile: "f",
		MultiHop: true, TTLSecurityHops: 2, GracefulRestart: true, DualStack: true,
	}, convertPeer(&v1beta2.BGPPeer{ObjectMeta: m, Spec: v1beta2.BGPPeerSpec{
		MyASN: 1, PeerASN: 2, LocalASN: 3, DynamicASN: "external", PeerAddress: "a", SourceAddress: "b", Interface: "i", VRF: "v", PeerPort: 179,
		HoldTime: &hold, RouterID: "r", NodeSelectors: sel, Password: "pw", PasswordSecret: corev1.SecretReference{Name: "s"}, BFDProfile: "f",
		EBGPMultiHop: true, TTLSecurityHops: 2, EnableGracefulRestart: true, DualStackAddressFamily: true,
	}}))
	check("BFDProfile", config.BFDProfile{Meta: core}, convertBFDProfile(&v1beta1.BFDProfile{ObjectMeta: m}))
	check("BFDProfile with all", config.BFDProfile{
		Meta: core, ReceiveInterval: new(uint32(1)), TransmitInterval: new(uint32(2)), EchoInterval: new(uint32(3)),
		DetectMultiplier: new(uint32(4)), MinimumTTL: new(uint32(5)), EchoMode: true, PassiveMode: true, StrictMode: true,
	}, convertBFDProfile(&v1beta1.BFDProfile{ObjectMeta: m, Spec: v1beta1.BFDProfileSpec{
		ReceiveInterval: new(uint32(1)), TransmitInterval: new(uint32(2)), EchoInterval: new(uint32(3)),
		DetectMultiplier: new(uint32(4)), MinimumTTL: new(uint32(5)), EchoMode: new(true), PassiveMode: new(true), StrictMode: new(true),
	}}))
	check("Community", config.CommunityList{Meta: core, Aliases: []config.CommunityAlias{{Name: "n", Value: "1:2"}}},
		convertCommunity(&v1beta1.Community{ObjectMeta: m, Spec: v1beta1.CommunitySpec{Communities: []v1beta1.CommunityAlias{{Name: "n", Value: "1:2"}}}}))
	check("Secret", config.Secret{Type: "kubernetes.io/basic-auth", Password: "pw", HasKey: true},
		convertSecret(&corev1.Secret{Type: corev1.SecretTypeBasicAuth, Data: map[string][]byte{"password": []byte("pw")}}))
	check("Secret without password", config.Secret{Type: "Opaque"}, convertSecret(&corev1.Secret{Type: corev1.SecretTypeOpaque}))
}

// What is written back from the cache must be whole; what is only read may be slim.
func TestSlim(t *testing.T) {
	in, _ := service()
	in.Annotations, in.ManagedFields = map[string]string{"a": "b"}, []metav1.ManagedFieldsEntry{{Manager: "m"}}
	want := in.DeepCopy()
	want.ManagedFields = nil
	got, err := slim(in)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := slim("no object"); err != nil || got != "no object" {
		t.Errorf("got %v, %v", got, err)
	}
}
