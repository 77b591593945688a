package kube

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ownPod is the reference to our own Pod, and the name of its DaemonSet, if any, once
// it was read.
type ownPod struct {
	mu  sync.Mutex
	ref *metav1.OwnerReference
	set string
}

// daemonSet returns the name of our DaemonSet as it was read earlier, or "", and
// whether our Pod was read at all.
func (c *Cluster) daemonSet() (string, bool) {
	if !c.pod.mu.TryLock() { // somebody asks the API server, which does not answer
		return "", false
	}
	defer c.pod.mu.Unlock()
	return c.pod.set, c.pod.ref != nil
}

// ownPod returns a reference to our own Pod, or nil if we are in none, or in one
// that is not there or may not be read.
func (c *Cluster) ownPod(ctx context.Context) (*metav1.OwnerReference, error) {
	if c.opts.PodName == "" {
		return nil, nil //nolint:nilnil // no Pod is no error
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.pod.ref != nil {
		return c.pod.ref, nil
	}
	var pod corev1.Pod
	err := c.client.Get(ctx, client.ObjectKey{Namespace: c.opts.Namespace, Name: c.opts.PodName}, &pod)
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, nil //nolint:nilnil // then what we write has no owner
	}
	if err != nil {
		return nil, fmt.Errorf("get own pod: %w", err)
	}
	c.pod.ref = &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	c.pod.set = daemonSetOf(&pod)
	return c.pod.ref, nil
}

// setOwner makes owner, if not nil, the owner of o, so that o goes with it. It
// reports whether it was not yet.
func setOwner(o client.Object, owner *metav1.OwnerReference) bool {
	if have := o.GetOwnerReferences(); owner == nil || len(have) == 1 && have[0] == *owner {
		return false
	}
	o.SetOwnerReferences([]metav1.OwnerReference{*owner})
	return true
}

// EnsureMemberlistSecret makes the Secret by which speakers recognize each other,
// unless it is there. deployment, if not "" and found, becomes its owner.
func (c *Cluster) EnsureMemberlistSecret(ctx context.Context, name, deployment string) error {
	key := client.ObjectKey{Namespace: c.opts.Namespace, Name: name}
	var s corev1.Secret
	if err := c.client.Get(ctx, key, &s); err == nil {
		return nil
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("get secret %s: %w", name, err)
	}
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails
	s = corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: name},
		StringData: map[string]string{"secretkey": base64.RawStdEncoding.EncodeToString(raw)},
	}
	if deployment != "" {
		var d appsv1.Deployment
		err := c.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: deployment}, &d)
		switch {
		case err == nil:
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID}}
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err): // then it has no owner
		default:
			return fmt.Errorf("get deployment %s: %w", deployment, err)
		}
	}
	if err := c.client.Create(ctx, &s); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create secret %s: %w", name, err)
	}
	return nil
}
