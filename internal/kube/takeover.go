package kube

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

// takeOver deletes what other nodes say of answering for a Service. They are
// listed at this moment: to watch the objects of all nodes would cost each speaker
// as much as the whole cluster has.
func (w *AnnouncementWriter) takeOver(ctx context.Context, key lb.Key) error {
	var others v1beta1.ServiceL2StatusList
	if err := w.c.background.List(ctx, &others, fromMemory(w.c.opts.Namespace, client.MatchingLabels{
		v1beta1.LabelServiceName: key.Name, v1beta1.LabelServiceNamespace: key.Namespace,
	})); err != nil {
		return fmt.Errorf("list objects of other nodes: %w", err)
	}
	for i := range others.Items {
		o := &others.Items[i]
		if o.Labels[v1beta1.LabelNode] == nodeLabel(w.c.opts.NodeName) {
			continue
		}
		if err := w.c.remove(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// tookOver remembers that the objects of other nodes were deleted. One that comes
// back comes from a node that answers for the Service at the same time: while the
// two do not know of each other, both objects are true, and deleting in turn would
// have no end.
func (w *AnnouncementWriter) tookOver(id reportID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if want, ok := w.want[id]; ok {
		want.takeOver = false
		w.want[id] = want
	}
}

// RemoveAnnouncements deletes the announcement status that this node has written:
// it shall not be written any more.
func (c *Cluster) RemoveAnnouncements(ctx context.Context) error {
	var l2 v1beta1.ServiceL2StatusList
	var bgp v1beta1.ServiceBGPStatusList
	mine := fromMemory(c.opts.Namespace, client.MatchingLabels{v1beta1.LabelNode: nodeLabel(c.opts.NodeName)})
	for _, list := range []client.ObjectList{&l2, &bgp} {
		if err := c.background.List(ctx, list, mine); err != nil {
			return fmt.Errorf("list announcement status: %w", err)
		}
	}
	for i := range l2.Items {
		if err := c.remove(ctx, &l2.Items[i]); err != nil {
			return err
		}
	}
	for i := range bgp.Items {
		if err := c.remove(ctx, &bgp.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// Layer2Owned returns the Services that this node answers for by what its ServiceL2Status
// objects say, which outlive the speaker that wrote them.
func (c *Cluster) Layer2Owned(ctx context.Context) ([]lb.Key, error) {
	var mine v1beta1.ServiceL2StatusList
	if err := c.background.List(ctx, &mine, fromMemory(c.opts.Namespace, client.MatchingLabels{v1beta1.LabelNode: nodeLabel(c.opts.NodeName)})); err != nil {
		return nil, fmt.Errorf("list servicel2statuses: %w", err)
	}
	var out []lb.Key
	for i := range mine.Items {
		if s := &mine.Items[i].Status; s.Node == c.opts.NodeName {
			out = append(out, lb.Key{Namespace: s.ServiceNamespace, Name: s.ServiceName})
		}
	}
	return out, nil
}

// fromMemory are options of a list that the API server answers from what it
// watches itself, without asking etcd for the objects of the whole cluster.
func fromMemory(namespace string, labels client.MatchingLabels) *client.ListOptions {
	opts := &client.ListOptions{Namespace: namespace, Raw: &metav1.ListOptions{ResourceVersion: "0"}}
	labels.ApplyToList(opts)
	return opts
}

// remove deletes o, unless another has taken its name since.
func (c *Cluster) remove(ctx context.Context, o client.Object) error {
	uid := o.GetUID()
	if err := c.background.Delete(ctx, o, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
