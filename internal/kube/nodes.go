package kube

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	labelExclude = "node.kubernetes.io/exclude-from-external-load-balancers"

	// taintAutoscaler marks a node that the cluster autoscaler is about to remove.
	taintAutoscaler = "ToBeDeletedByClusterAutoscaler"

	// reasonNotReady and wordsShuttingDown are what a kubelet says of its node once the
	// system shuts down; the words may stand among others (nodestatus.ReadyCondition
	// and nodeshutdown of Kubernetes 1.36).
	reasonNotReady    = "KubeletNotReady"
	wordsShuttingDown = "node is shutting down"
)

// knownNode is what a Feed keeps of a node.
type knownNode struct {
	lb.Node
	Internal netip.Addr // its first InternalIP, which is its Pods' in the host's network
}

// same reports whether a and o say the same.
func (a *knownNode) same(o *knownNode) bool {
	return a.Internal == o.Internal && a.NetworkUnavailable == o.NetworkUnavailable && a.Excluded == o.Excluded &&
		a.NotReadySince.Equal(o.NotReadySince) && a.Unschedulable == o.Unschedulable && a.Leaving == o.Leaving &&
		maps.Equal(a.Labels, o.Labels) && slices.Equal(a.Addrs, o.Addrs)
}

// since has a node that was not ready before be so since then: that its status
// turns from False to Unknown is no news of it.
func (a *knownNode) since(before *knownNode) {
	if was := before.NotReadySince; !was.IsZero() && a.NotReadySince.After(was) {
		a.NotReadySince = was
	}
}

func convertNode(o *corev1.Node) knownNode {
	n := knownNode{Node: lb.Node{
		Name: o.Name, Labels: o.Labels, Unschedulable: o.Spec.Unschedulable, NotReadySince: notReadySince(o), Leaving: leaving(o),
	}}
	_, n.Excluded = o.Labels[labelExclude]
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionTrue {
			n.NetworkUnavailable = true
		}
	}
	for _, at := range o.Status.Addresses {
		if at.Type != corev1.NodeInternalIP && at.Type != corev1.NodeExternalIP {
			continue
		}
		a, err := netip.ParseAddr(at.Address)
		if err != nil {
			continue
		}
		n.Addrs = append(n.Addrs, a.Unmap())
		if at.Type == corev1.NodeInternalIP && !n.Internal.IsValid() {
			n.Internal = a.Unmap()
		}
	}
	slices.SortFunc(n.Addrs, netip.Addr.Compare)
	n.Addrs = slices.Compact(n.Addrs)
	return n
}

// readyCondition returns a node's condition Ready, or nil.
func readyCondition(o *corev1.Node) *corev1.NodeCondition {
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c
		}
	}
	return nil
}

// notReadySince returns when a node's condition Ready took its present status, or
// zero if that is True, or there is none.
func notReadySince(o *corev1.Node) time.Time {
	c := readyCondition(o)
	switch {
	case c == nil || c.Status == corev1.ConditionTrue:
		return time.Time{}
	case !c.LastTransitionTime.IsZero():
		return c.LastTransitionTime.Time
	case !o.CreationTimestamp.IsZero():
		return o.CreationTimestamp.Time
	}
	return time.Unix(0, 0) // of old, for all that is known
}

// leaving returns why a node shall carry no traffic any more, or "". The exclude
// label is not among it.
func leaving(o *corev1.Node) string {
	if v, ok := o.Annotations[v1beta1.AnnotationDrain]; ok && v != "false" {
		return "annotation " + v1beta1.AnnotationDrain
	}
	for _, key := range []string{corev1.TaintNodeOutOfService, taintAutoscaler} {
		if slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key }) {
			return "taint " + key
		}
	}
	c := readyCondition(o)
	if c != nil && c.Status == corev1.ConditionFalse && c.Reason == reasonNotReady && strings.Contains(c.Message, wordsShuttingDown) {
		return wordsShuttingDown
	}
	return ""
}

// slimNode drops all of a node but what convertNode reads.
func slimNode(o *corev1.Node) {
	drain, ok := o.Annotations[v1beta1.AnnotationDrain]
	o.Annotations = nil
	if ok {
		o.Annotations = map[string]string{v1beta1.AnnotationDrain: drain}
	}
	o.Spec = corev1.NodeSpec{Unschedulable: o.Spec.Unschedulable, Taints: o.Spec.Taints}
	o.Status = corev1.NodeStatus{
		Addresses: o.Status.Addresses,
		Conditions: slices.DeleteFunc(o.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type != corev1.NodeReady && c.Type != corev1.NodeNetworkUnavailable
		}),
	}
}
