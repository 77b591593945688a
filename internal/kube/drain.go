package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
)

// MarkDrain sets the annotation that tells a node's speaker to hand over what it
// announces, or with an empty value takes it away. It reports what was there before.
func (r *Reader) MarkDrain(ctx context.Context, node, value string) (before string, err error) {
	var o corev1.Node
	if err := r.client.Get(ctx, client.ObjectKey{Name: node}, &o); err != nil {
		return "", fmt.Errorf("get node %s: %w", node, err)
	}
	before = o.Annotations[v1beta1.AnnotationDrain]
	var to any // null removes it
	if value != "" {
		to = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1beta1.AnnotationDrain: to}}})
	if err != nil {
		return before, err
	}
	err = r.client.Patch(ctx, &o, client.RawPatch(types.MergePatchType, patch))
	if apierrors.IsForbidden(err) {
		return before, fmt.Errorf("you may not patch nodes: bind the ClusterRole barelb:operator of deploy/manifests/user-rbac.yaml")
	}
	if err != nil {
		return before, fmt.Errorf("annotate node %s: %w", node, err)
	}
	return before, nil
}

// Announcing lists the Services that a node's speaker says it announces, sorted, each
// with the protocol.
func (r *Reader) Announcing(ctx context.Context, node string) ([]string, error) {
	mine := client.MatchingLabels{v1beta1.LabelNode: nodeLabel(node)}
	fresh := &client.ListOptions{Raw: &metav1.ListOptions{}}
	var l2 v1beta1.ServiceL2StatusList
	if err := r.client.List(ctx, &l2, client.InNamespace(r.namespace), mine, fresh); err != nil {
		return nil, fmt.Errorf("list servicel2statuses: %w", err)
	}
	var bgp v1beta1.ServiceBGPStatusList
	if err := r.client.List(ctx, &bgp, client.InNamespace(r.namespace), mine, fresh); err != nil {
		return nil, fmt.Errorf("list servicebgpstatuses: %w", err)
	}
	var out []string
	for _, o := range l2.Items {
		if o.Status.Node == node {
			out = append(out, o.Status.ServiceNamespace+"/"+o.Status.ServiceName+" (layer2)")
		}
	}
	for _, o := range bgp.Items {
		if o.Status.Node == node {
			out = append(out, o.Status.ServiceNamespace+"/"+o.Status.ServiceName+" (bgp)")
		}
	}
	slices.Sort(out)
	return out, nil
}
