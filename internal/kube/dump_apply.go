package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Apply returns the objects as they would be if those of change were applied to them:
// what is there is replaced but keeps what the API server and BareLB have written, and
// what is new is made. Objects without a namespace are in system if they are
// configuration, else in namespace. A new Service is taken to have endpoints on all
// nodes.
func (d *Dump) Apply(change *Dump, namespace, system string) *Dump {
	out := &Dump{
		Slices: d.Slices, Pods: d.Pods, Events: d.Events, ConfigMaps: d.ConfigMaps, Secrets: d.Secrets, DaemonSets: d.DaemonSets, Deployments: d.Deployments,
		Leases: d.Leases, ServiceCIDRs: d.ServiceCIDRs, States: d.States, L2Status: d.L2Status, BGPStatus: d.BGPStatus, Sessions: d.Sessions,
		Claims: d.Claims, Conflicts: d.Conflicts, Class: d.Class, Metrics: d.Metrics, Known: d.Known, Silent: d.Silent, Now: d.Now, Denied: d.Denied, Gaps: d.Gaps, NoSecrets: d.NoSecrets,
	}
	out.Services = apply(d.Services, change.Services, namespace, keepService)
	for _, o := range change.Services {
		if len(d.Services) == len(out.Services) {
			break
		}
		o.Namespace = orDefault(o.Namespace, namespace)
		if !slices.ContainsFunc(d.Services, func(x corev1.Service) bool { return x.Namespace == o.Namespace && x.Name == o.Name }) {
			out.Slices = append(slices.Clone(out.Slices), d.everywhere(&o))
		}
	}
	out.Slices = apply(out.Slices, change.Slices, namespace, nil)
	out.Nodes = apply(d.Nodes, change.Nodes, "", func(was, is *corev1.Node) { is.Status = was.Status })
	out.Namespaces = apply(d.Namespaces, change.Namespaces, "", nil)
	out.Pools = apply(d.Pools, change.Pools, system, nil)
	out.L2 = apply(d.L2, change.L2, system, nil)
	out.BGP = apply(d.BGP, change.BGP, system, nil)
	out.Peers = apply(d.Peers, change.Peers, system, nil)
	out.Profiles = apply(d.Profiles, change.Profiles, system, nil)
	out.Communities = apply(d.Communities, change.Communities, system, nil)
	for i := range out.Services {
		giveClusterIP(&out.Services[i], d.Services)
	}
	return out
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// apply returns was with the objects of change in it. keep, if not nil, takes over what
// users do not write.
func apply[T any, P interface {
	*T
	metav1.Object
}](was, change []T, namespace string, keep func(was, is P)) []T {
	out := slices.Clone(was)
	at := make(map[[2]string]int, len(out))
	for i := range out {
		o := P(&out[i])
		at[[2]string{o.GetNamespace(), o.GetName()}] = i
	}
	for i := range change {
		is := change[i]
		o := P(&is)
		if o.GetNamespace() == "" {
			o.SetNamespace(namespace)
		}
		j, has := at[[2]string{o.GetNamespace(), o.GetName()}]
		if !has {
			out = append(out, is)
			continue
		}
		old := P(&out[j])
		o.SetUID(old.GetUID())
		o.SetResourceVersion(old.GetResourceVersion())
		o.SetCreationTimestamp(old.GetCreationTimestamp())
		o.SetFinalizers(old.GetFinalizers())
		if keep != nil {
			keep(old, o)
		}
		out[j] = is
	}
	return out
}

func keepService(was, is *corev1.Service) {
	is.Status = was.Status
	if pool, ok := was.Annotations[AnnotationFromPool]; ok {
		if is.Annotations == nil {
			is.Annotations = map[string]string{}
		}
		is.Annotations[AnnotationFromPool] = pool
	}
	if len(is.Spec.ClusterIPs) == 0 {
		is.Spec.ClusterIPs = was.Spec.ClusterIPs
	}
}

// giveClusterIP gives a new Service what the API server would: of which addresses is no
// matter, of which families is.
func giveClusterIP(o *corev1.Service, others []corev1.Service) {
	if len(o.Spec.ClusterIPs) > 0 || o.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	policy := o.Spec.IPFamilyPolicy
	for i := range others {
		if ips := others[i].Spec.ClusterIPs; len(ips) > 0 && ips[0] != corev1.ClusterIPNone && len(o.Spec.IPFamilies) == 0 && (policy == nil || *policy == corev1.IPFamilyPolicySingleStack) {
			o.Spec.ClusterIPs = ips[:1]
			return
		}
	}
	both := policy != nil && *policy != corev1.IPFamilyPolicySingleStack
	first := corev1.IPv4Protocol
	if len(o.Spec.IPFamilies) > 0 {
		first = o.Spec.IPFamilies[0]
	}
	some := map[corev1.IPFamily]string{corev1.IPv4Protocol: "192.0.2.1", corev1.IPv6Protocol: "2001:db8::1"} // for documentation: RFC 5737, RFC 3849
	o.Spec.ClusterIPs = []string{some[first]}
	if both {
		delete(some, first)
		for _, ip := range some {
			o.Spec.ClusterIPs = append(o.Spec.ClusterIPs, ip)
		}
	}
}

// everywhere returns endpoints of a Service on all nodes.
func (d *Dump) everywhere(o *corev1.Service) discoveryv1.EndpointSlice {
	s := discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: o.Namespace, Name: o.Name, Labels: map[string]string{discoveryv1.LabelServiceName: o.Name},
	}}
	for i := range d.Nodes {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"192.0.2.1"}, NodeName: &d.Nodes[i].Name})
	}
	return s
}
