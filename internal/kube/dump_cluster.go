package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// Cluster returns what the objects mean, in the words of the core. namespace is where
// the configuration is.
func (d *Dump) Cluster(namespace string) *explain.Cluster {
	c := &explain.Cluster{
		Now: d.Now, Namespace: namespace, Gaps: d.Gaps, Denied: d.Denied, Known: d.Known, Silent: d.Silent,
		Claims: map[netip.Addr][]lb.Holder{}, Speakers: map[string]*explain.Speaker{}, Skews: map[string]time.Duration{}, Sources: map[lb.Key][]netip.Prefix{},
	}
	d.convertPods(c)
	if c.Flags = d.flags(c); d.Class != "" {
		c.Flags.Class = d.Class
	}
	d.convertNodes(c)
	d.convertServices(c)
	d.convertConfig(c)
	d.convertStatus(c)
	d.convertSurroundings(c)
	for node, text := range d.Metrics {
		c.Speakers[node] = explain.ParseMetrics(text)
	}
	return c
}

func (d *Dump) convertNodes(c *explain.Cluster) {
	for _, o := range latestOf(d.Nodes) {
		n := explain.Node{Node: convertNode(&o).Node, Drain: o.Annotations[v1beta1.AnnotationDrain]}
		ready := readyCondition(&o)
		n.Unheard = ready != nil && ready.Status == corev1.ConditionUnknown
		for _, text := range cmpOr(o.Spec.PodCIDRs, []string{o.Spec.PodCIDR}) {
			if p, err := netip.ParsePrefix(text); err == nil {
				n.PodRanges = append(n.PodRanges, p)
			}
		}
		for _, name := range []string{"projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"} {
			if p, err := netip.ParsePrefix(o.Annotations[name]); err == nil {
				n.Subnets = append(n.Subnets, p)
			}
		}
		c.Nodes = append(c.Nodes, n)
	}
	slices.SortFunc(c.Nodes, func(a, b explain.Node) int { return strings.Compare(a.Name, b.Name) })
}

func cmpOr[T any](a, b []T) []T {
	if len(a) > 0 {
		return a
	}
	return b
}

func (d *Dump) convertServices(c *explain.Cluster) {
	namespaces := map[string]map[string]string{}
	for i := range d.Namespaces {
		namespaces[d.Namespaces[i].Name] = d.Namespaces[i].Labels
	}
	endpoints := map[lb.Key][]lb.Endpoint{}
	wanted := map[lb.Key]bool{}
	services := latestOf(d.Services)
	for i := range services {
		wanted[lb.Key{Namespace: services[i].Namespace, Name: services[i].Name}] = services[i].Spec.Type == corev1.ServiceTypeLoadBalancer
	}
	slicesOf := latestOf(d.Slices)
	for i := range slicesOf {
		if wanted[lb.Key{Namespace: slicesOf[i].Namespace, Name: slicesOf[i].Labels[discoveryv1.LabelServiceName]}] {
			key, eps := convertEndpoints(&slicesOf[i])
			endpoints[key] = append(endpoints[key], eps...)
		}
	}
	for i := range services {
		o := &services[i]
		key := lb.Key{Namespace: o.Namespace, Name: o.Name}
		if svc := convertService(o, c.Flags.Class, namespaces[o.Namespace]); svc != nil {
			c.Services = append(c.Services, plan.Service{Service: *svc, Endpoints: endpoints[key]})
			for _, text := range o.Spec.LoadBalancerSourceRanges {
				if p, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
					c.Sources[key] = append(c.Sources[key], p)
				}
			}
			continue
		}
		other := explain.OtherService{Key: key, Type: string(cmp.Or(o.Spec.Type, corev1.ServiceTypeClusterIP))}
		if o.Spec.LoadBalancerClass != nil {
			other.Class = *o.Spec.LoadBalancerClass
		}
		for _, in := range o.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(in.IP); err == nil {
				other.Addrs = append(other.Addrs, a.Unmap())
			}
		}
		for _, text := range o.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(text); err == nil {
				other.ClusterIPs = append(other.ClusterIPs, a)
			}
		}
		c.Others = append(c.Others, other)
	}
	slices.SortFunc(c.Services, func(a, b plan.Service) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(c.Others, func(a, b explain.OtherService) int { return a.Key.Compare(b.Key) })
}

// convertedIn converts the latest objects of a namespace.
func convertedIn[T, R any, P interface {
	*T
	metav1.Object
}](namespace string, all []T, convert func(P) R) []R {
	var out []R
	for _, o := range latestOf[T, P](all) {
		if P(&o).GetNamespace() == namespace {
			out = append(out, convert(&o))
		}
	}
	return out
}

func (d *Dump) convertConfig(c *explain.Cluster) {
	objs := &c.Objects
	objs.Pools = convertedIn(c.Namespace, d.Pools, convertPool)
	objs.L2 = convertedIn(c.Namespace, d.L2, convertL2Advertisement)
	objs.BGP = convertedIn(c.Namespace, d.BGP, convertBGPAdvertisement)
	objs.BFDProfiles = convertedIn(c.Namespace, d.Profiles, convertBFDProfile)
	objs.Communities = convertedIn(c.Namespace, d.Communities, convertCommunity)
	objs.Secrets = map[string]config.Secret{}
	for _, o := range latestOf(d.Secrets) {
		if o.Namespace == c.Namespace {
			objs.Secrets[o.Name] = convertSecret(&o)
		}
	}
	for _, o := range latestOf(d.Peers) {
		if o.Namespace != c.Namespace {
			continue
		}
		p := convertPeer(&o)
		if _, read := objs.Secrets[p.PasswordSecret]; !read && !slices.Contains(d.NoSecrets, p.PasswordSecret) {
			p.PasswordSecret = "" // whether it is there is not known: it shall not be called missing
		}
		objs.Peers = append(objs.Peers, p)
	}
}

func (d *Dump) convertStatus(c *explain.Cluster) {
	for _, o := range latestOf(d.L2Status) {
		r := explain.Report{Name: o.Name, Node: o.Status.Node, Pod: podOf(&o), Service: lb.Key{Namespace: o.Status.ServiceNamespace, Name: o.Status.ServiceName}}
		for _, l := range o.Status.Interfaces {
			r.Names = append(r.Names, l.Name)
		}
		if r.Node != "" {
			c.L2 = append(c.L2, r)
		}
	}
	for _, o := range latestOf(d.BGPStatus) {
		if o.Status.Node != "" {
			c.BGP = append(c.BGP, explain.Report{
				Name: o.Name, Node: o.Status.Node, Names: o.Status.Peers, Pod: podOf(&o),
				Service: lb.Key{Namespace: o.Status.ServiceNamespace, Name: o.Status.ServiceName},
			})
		}
	}
	for _, o := range latestOf(d.Sessions) {
		c.Sessions = append(c.Sessions, explain.SessionReport{
			Node: o.Status.Node, Peer: o.Status.BGPPeer, State: o.Status.BGPStatus, BFD: o.Status.BFDStatus, Message: o.Status.Message,
			Advertised: o.Status.AdvertisedPrefixes,
		})
	}
	slices.SortFunc(c.L2, explain.CompareReports)
	slices.SortFunc(c.BGP, explain.CompareReports)
	for _, o := range latestOf(d.States) {
		c.States = append(c.States, explain.State{
			Name: o.Name, Node: o.Labels[v1beta1.LabelNodeName], Summary: o.Status.ErrorSummary,
			Valid: o.Status.Result == v1beta1.ConfigurationValid, Pod: podOf(&o),
		})
	}
	slices.SortFunc(c.States, func(a, b explain.State) int { return strings.Compare(a.Name, b.Name) })
	for _, o := range latestOf(d.Claims) {
		if addr, holders := convertClaim(&o); addr.IsValid() {
			c.Claims[addr] = holders
		}
	}
	for _, o := range latestOf(d.Conflicts) {
		if x := convertConflict(&o); x.Addr.IsValid() {
			c.Conflicts = append(c.Conflicts, x)
		}
	}
	slices.SortFunc(c.Conflicts, func(a, b lb.WireConflict) int { return a.Addr.Compare(b.Addr) })
	for _, o := range d.Events {
		e := explain.Event{
			Kind: o.InvolvedObject.Kind, Key: lb.Key{Namespace: o.InvolvedObject.Namespace, Name: o.InvolvedObject.Name},
			Warning: o.Type == corev1.EventTypeWarning, Reason: o.Reason, Message: o.Message, Count: int(o.Count),
			Component: cmp.Or(o.Source.Component, o.ReportingController), Last: o.LastTimestamp.Time,
		}
		if e.Last.IsZero() {
			e.Last = o.EventTime.Time
		}
		c.Events = append(c.Events, e)
	}
	slices.SortStableFunc(c.Events, func(a, b explain.Event) int { return a.Last.Compare(b.Last) })
}

// podOf returns the name of the Pod that an object goes with.
func podOf(o metav1.Object) string {
	for _, ref := range o.GetOwnerReferences() {
		if ref.Kind == "Pod" {
			return ref.Name
		}
	}
	return ""
}

// convertSurroundings converts what is not BareLB's own.
func (d *Dump) convertSurroundings(c *explain.Cluster) {
	for _, o := range d.ConfigMaps {
		if o.Namespace == "kube-system" && o.Name == "kube-proxy" {
			c.Proxy = convertProxy(o.Data["config.conf"])
		}
	}
	for _, o := range latestOf(d.ServiceCIDRs) {
		for _, text := range o.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				c.Ranges = append(c.Ranges, p)
			}
		}
	}
	for _, o := range latestOf(d.Leases) {
		if o.Namespace == corev1.NamespaceNodeLease && o.Spec.RenewTime != nil {
			c.Skews[o.Name] = o.Spec.RenewTime.Sub(d.Now)
		}
	}
	c.Workloads = d.workloads(c.Namespace)
	if d.NoPolicies {
		c.Fence = explain.CannotBeFenced
	}
	for _, o := range latestOf(d.Policies) {
		of := o.Spec.PolicyName // whose name begins with the namespace, and may have a prefix of the chart's
		if strings.HasPrefix(of, c.Namespace+".") && strings.HasSuffix(of, v1beta1.ComponentSpeaker) && slices.Contains(o.Spec.ValidationActions, admissionv1.Deny) {
			c.Fence = explain.Fenced
		}
	}
}

// convertProxy reads the configuration of kube-proxy.
func convertProxy(text string) explain.Proxy {
	var conf struct {
		Mode string `json:"mode"`
		IPVS struct {
			StrictARP bool `json:"strictARP"`
		} `json:"ipvs"`
	}
	if text == "" || yaml.Unmarshal([]byte(text), &conf) != nil {
		return explain.Proxy{}
	}
	return explain.Proxy{Known: true, Mode: conf.Mode, StrictARP: conf.IPVS.StrictARP}
}

// convertPods finds the Pods of controllers, speakers and kube-proxy.
func (d *Dump) convertPods(c *explain.Cluster) {
	for _, o := range latestOf(d.Pods) {
		p := explain.Pod{Name: o.Name, Node: o.Spec.NodeName}
		p.Ready, p.Why, p.Restarts = readiness(&o)
		switch component := componentOf(&o); {
		case o.Labels["k8s-app"] == "kube-proxy" && o.Namespace == "kube-system":
			p.Component = "kube-proxy"
			c.Proxies = append(c.Proxies, p)
		case o.Namespace == c.Namespace && (component == v1beta1.ComponentController || component == v1beta1.ComponentSpeaker):
			p.Component = component
			c.Pods = append(c.Pods, p)
		}
	}
	slices.SortFunc(c.Pods, func(a, b explain.Pod) int { return strings.Compare(a.Name, b.Name) })
}

func componentOf(o *corev1.Pod) string {
	return cmp.Or(o.Labels["component"], o.Labels["app.kubernetes.io/component"])
}

// readiness says whether a Pod is ready, and why not.
func readiness(o *corev1.Pod) (ready bool, why string, restarts int) {
	why = "it is " + string(cmp.Or(o.Status.Phase, corev1.PodPending))
	for _, c := range o.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			ready = o.DeletionTimestamp == nil
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse, c.Type == corev1.PodReady && c.Message != "":
			why = cmp.Or(c.Message, why)
		}
	}
	for _, s := range o.Status.ContainerStatuses {
		restarts += int(s.RestartCount)
		if w := s.State.Waiting; w != nil {
			why = w.Reason
			if w.Message != "" {
				why += ": " + w.Message
			}
			if t := s.LastTerminationState.Terminated; t != nil && t.Message != "" {
				why += "; it ended with: " + lastLine(t.Message)
			}
		}
	}
	if o.DeletionTimestamp != nil {
		why = "it is being deleted"
	}
	return ready, why, restarts
}

// lastLine returns the last line of text, cut to what a message has room for.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	text = text[strings.LastIndexByte(text, '\n')+1:]
	const most = 300
	return text[:min(len(text), most)]
}

// flags reads the flags of the processes out of their Pods.
func (d *Dump) flags(c *explain.Cluster) explain.Flags {
	var f explain.Flags
	for i := range d.Pods {
		o := &d.Pods[i]
		if component := componentOf(o); o.Namespace != c.Namespace || component != v1beta1.ComponentController && component != v1beta1.ComponentSpeaker {
			continue
		}
		for _, ctr := range o.Spec.Containers {
			args := map[string]string{}
			parseArgs(args, slices.Concat(ctr.Command, ctr.Args))
			for name, value := range args {
				switch name {
				case "lb-class":
					f.Class = value
				case "ignore-exclude-lb":
					f.IgnoreExcluded = value != "false"
				case "pool-edits":
					f.GuardPools = value == "guard"
				case "service-status-objects":
					f.NoStatus = value == "false"
				}
			}
		}
	}
	return f
}

// workloads finds what may get into BareLB's way.
func (d *Dump) workloads(namespace string) []explain.Workload {
	var out []explain.Workload
	add := func(kind, ns, name string, labels map[string]string, spec corev1.PodSpec) {
		w := explain.Workload{Kind: kind, Namespace: ns, Name: name, Product: product(name, labels, spec)}
		for _, ctr := range spec.Containers {
			for _, p := range ctr.Ports {
				if port := int(p.HostPort); spec.HostNetwork && p.ContainerPort > 0 {
					w.HostPorts = append(w.HostPorts, int(p.ContainerPort))
				} else if port > 0 {
					w.HostPorts = append(w.HostPorts, port)
				}
			}
		}
		if w.Product != explain.OtherWorkload || len(w.HostPorts) > 0 {
			out = append(out, w)
		}
	}
	for _, o := range latestOf(d.DaemonSets) {
		add("DaemonSet", o.Namespace, o.Name, o.Labels, o.Spec.Template.Spec)
	}
	for _, o := range latestOf(d.Deployments) {
		add("Deployment", o.Namespace, o.Name, o.Labels, o.Spec.Template.Spec)
	}
	// Without a workload of BareLB's, what runs in its namespace is what the objects are for.
	if !slices.ContainsFunc(out, func(w explain.Workload) bool { return w.Product == explain.OwnSpeaker }) {
		for i := range out {
			if out[i].Product == explain.OtherMetalLB && out[i].Namespace == namespace {
				out[i].Product = explain.OwnSpeaker
			}
		}
	}
	slices.SortFunc(out, func(a, b explain.Workload) int {
		return strings.Compare(fmt.Sprint(a.Kind, a.Namespace, a.Name), fmt.Sprint(b.Kind, b.Namespace, b.Name))
	})
	return out
}

// product recognizes a workload by its images.
func product(name string, labels map[string]string, spec corev1.PodSpec) explain.Product {
	if _, ok := labels["svccontroller.k3s.cattle.io/svcname"]; ok || strings.HasPrefix(name, "svclb-") {
		return explain.ServiceLB
	}
	for _, p := range []struct {
		image   string
		product explain.Product
	}{
		{"barelb", explain.OwnSpeaker},
		{"metallb/", explain.OtherMetalLB},
		{"kube-vip/kube-vip", explain.KubeVIP},
		{"purelb", explain.PureLB},
		{"openelb", explain.OpenELB},
		{"loxilb", explain.LoxiLB},
		{"calico/node", explain.Calico},
		{"kube-router", explain.KubeRouter},
		{"cilium/cilium", explain.Cilium},
	} {
		for _, ctr := range spec.Containers {
			if strings.Contains(ctr.Image, p.image) {
				return p.product
			}
		}
	}
	return explain.OtherWorkload
}
