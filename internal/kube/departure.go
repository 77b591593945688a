package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// departureTimeout bounds Departure: what is announced waits for the answer.
const departureTimeout = 1500 * time.Millisecond

// Departure tells whether this speaker, which was told to end, leaves its node for
// good, and why, in words for users. Without evidence of that it is a restart, and
// it returns false and "": an upgrade, a crash of something else, an administrator's
// kill.
//
// It asks the API server for the node, our namespace, our Pod and its DaemonSet, all
// at once, for at most 1.5 s and no longer than ctx. Where that does not answer, the
// last known state of the node has to do.
func (c *Cluster) Departure(ctx context.Context) (leaving bool, why string) {
	ctx, cancel := context.WithTimeout(ctx, departureTimeout)
	defer cancel()
	var (
		node            *corev1.Node
		byNode, byOwner string
		bySpace         string
		all             sync.WaitGroup
	)
	var (
		ds      *appsv1.DaemonSet
		deleted bool // our Pod, so that the DaemonSet decides anew about this node
	)
	all.Go(func() { node, byNode = c.nodeLeaves(ctx) })
	all.Go(func() { bySpace = c.namespaceLeaves(ctx) })
	all.Go(func() { ds, deleted, byOwner = c.ownerLeaves(ctx) })
	all.Wait()
	if byOwner == "" && ds != nil && c.opts.NodeName != "" {
		byOwner = expelled(ds, c.orLastKnown(node), deleted)
	}
	for _, why := range []string{byNode, byOwner, bySpace} {
		if why != "" {
			return true, why
		}
	}
	return false, ""
}

// nodeLeaves returns the node as it is at the API server, or nil if that does not
// say, and why it leaves, or "".
func (c *Cluster) nodeLeaves(ctx context.Context) (*corev1.Node, string) {
	if c.opts.NodeName == "" {
		return nil, ""
	}
	var o corev1.Node
	last, heard := c.lastKnown()
	switch err := c.client.Get(ctx, client.ObjectKey{Name: c.opts.NodeName}, &o); {
	case err == nil:
		n := convertNode(&o)
		return &o, c.whyLeaving(&n)
	case apierrors.IsNotFound(err):
		return nil, c.nodeGone()
	case apierrors.IsForbidden(err) && heard: // we were allowed to, before
		return nil, "our rights were taken away"
	case unauthorized(err) != "":
		return nil, unauthorized(err)
	}
	switch {
	case last != nil:
		return nil, c.whyLeaving(last)
	case heard:
		return nil, c.nodeGone()
	}
	return nil, ""
}

func (c *Cluster) nodeGone() string { return "node " + c.opts.NodeName + " is gone" }

// whyLeaving returns why n, the own node, leaves, or "".
func (c *Cluster) whyLeaving(n *knownNode) string {
	switch {
	case n.Leaving != "":
		return n.Leaving
	case n.Excluded && !c.opts.IgnoreExcluded:
		return "label " + labelExclude
	case n.Unschedulable:
		return "node is cordoned"
	}
	return ""
}

// lastKnown returns the own node as the Feed knows it, or nil, and whether the Feed
// has read all nodes from the API server.
func (c *Cluster) lastKnown() (n *knownNode, heard bool) {
	if f := c.feed.Load(); f != nil {
		return f.node(c.opts.NodeName)
	}
	return nil, false
}

// orLastKnown returns node, or in its stead what is known of its labels, or nil.
func (c *Cluster) orLastKnown(node *corev1.Node) *corev1.Node {
	if last, _ := c.lastKnown(); node == nil && last != nil {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: last.Name, Labels: last.Labels}}
	}
	return node
}

func (c *Cluster) namespaceLeaves(ctx context.Context) string {
	var ns corev1.Namespace
	err := c.client.Get(ctx, client.ObjectKey{Name: c.opts.Namespace}, &ns)
	if err == nil && ns.DeletionTimestamp != nil || apierrors.IsNotFound(err) {
		return "namespace " + c.opts.Namespace + " is being deleted"
	}
	return unauthorized(err)
}

// ownerLeaves returns the DaemonSet of our Pod, or nil if it is not known or has
// gone, whether the Pod is being deleted, and why that means that we leave, or "".
func (c *Cluster) ownerLeaves(ctx context.Context) (set *appsv1.DaemonSet, deleted bool, why string) {
	if c.opts.PodName == "" {
		return nil, false, ""
	}
	name, before := c.daemonSet()
	var pod corev1.Pod
	switch err := c.client.Get(ctx, client.ObjectKey{Namespace: c.opts.Namespace, Name: c.opts.PodName}, &pod); {
	case err == nil:
		if name = daemonSetOf(&pod); name == "" {
			return nil, false, "" // nobody's, or somebody else's: who knows
		}
	case apierrors.IsForbidden(err) && before:
		return nil, false, "our rights were taken away"
	case unauthorized(err) != "":
		return nil, false, unauthorized(err)
	}
	if name == "" {
		return nil, false, ""
	}
	deleted = pod.DeletionTimestamp != nil
	var ds appsv1.DaemonSet
	switch err := c.client.Get(ctx, client.ObjectKey{Namespace: c.opts.Namespace, Name: name}, &ds); {
	case apierrors.IsNotFound(err):
		return nil, deleted, "DaemonSet " + name + " is gone"
	case err != nil:
		return nil, deleted, unauthorized(err)
	case ds.DeletionTimestamp != nil:
		return nil, deleted, "DaemonSet " + name + " is being deleted"
	}
	return &ds, deleted, ""
}

// unauthorized returns what err says of our ServiceAccount, or "".
func unauthorized(err error) string {
	if apierrors.IsUnauthorized(err) {
		return "our ServiceAccount's token is not accepted any more"
	}
	return ""
}

// daemonSetOf returns the name of the DaemonSet that a Pod belongs to, or "".
func daemonSetOf(pod *corev1.Pod) string {
	if o := metav1.GetControllerOf(pod); o != nil && o.Kind == "DaemonSet" {
		return o.Name
	}
	return ""
}

// expelled returns why the DaemonSet has no Pod on the node any more, or "": by the
// rules of the DaemonSet controller: a taint with NoSchedule leaves a Pod where it is, and
// keeps one that is deleted from being replaced. node is nil if nothing is known of it.
func expelled(ds *appsv1.DaemonSet, node *corev1.Node, deleted bool) string { //nolint:revive // a fact
	if node == nil {
		return ""
	}
	spec := &ds.Spec.Template.Spec
	if !labels.SelectorFromSet(spec.NodeSelector).Matches(labels.Set(node.Labels)) {
		return fmt.Sprintf("the nodeSelector of DaemonSet %s does not select this node any more", ds.Name)
	}
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil && !attracted(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution, node) {
		return fmt.Sprintf("the node affinity of DaemonSet %s does not select this node any more", ds.Name)
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		switch taint.Effect {
		case corev1.TaintEffectNoExecute:
			if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
				continue // of these two the controller has every DaemonSet tolerate the effect
			}
		case corev1.TaintEffectNoSchedule:
			if !deleted || strings.HasPrefix(taint.Key, "node.kubernetes.io/") {
				continue // and of most of these
			}
		case corev1.TaintEffectPreferNoSchedule:
			continue
		}
		if !slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, false) }) {
			return fmt.Sprintf("taint %s, which DaemonSet %s does not tolerate", taint.Key, ds.Name)
		}
	}
	return ""
}

// attracted reports whether a required node affinity selects a node: one of its
// terms must hold, each in all of its parts. A term without parts never does, and
// what cannot be read is no evidence: it counts as if it did.
func attracted(s *corev1.NodeSelector, node *corev1.Node) bool {
	if s == nil {
		return true
	}
	name := labels.Set{"metadata.name": node.Name} // the only field that there is
	return slices.ContainsFunc(s.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return len(t.MatchExpressions)+len(t.MatchFields) > 0 && holds(t.MatchExpressions, node.Labels) && holds(t.MatchFields, name)
	})
}

func holds(reqs []corev1.NodeSelectorRequirement, have labels.Set) bool {
	operators := map[corev1.NodeSelectorOperator]selection.Operator{
		corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn,
		corev1.NodeSelectorOpExists: selection.Exists, corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
		corev1.NodeSelectorOpGt: selection.GreaterThan, corev1.NodeSelectorOpLt: selection.LessThan,
	}
	for _, r := range reqs {
		req, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		if err == nil && !req.Matches(have) {
			return false
		}
	}
	return true
}
