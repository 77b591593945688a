package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/barelb/barelb/lab/system"
)

const group = "metallb.io"

// pool is an IPAddressPool. more is added to its spec.
func pool(name string, addresses []string, more ...string) string {
	return object("IPAddressPool", name, append([]string{"addresses: " + list(addresses...)}, more...)...)
}

// object is a configuration object; spec holds lines of its spec.
func object(kind, name string, spec ...string) string {
	version := "v1beta1"
	if kind == "BGPPeer" {
		version = "v1beta2"
	}
	s := "apiVersion: " + group + "/" + version + "\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: " + system.Namespace + "}\n"
	if len(spec) == 0 {
		return s + "spec: {}\n---\n"
	}
	return s + "spec:\n  " + strings.Join(spec, "\n  ") + "\n---\n"
}

// list is a list in YAML.
func list(of ...string) string {
	quoted := make([]string, len(of))
	for i, s := range of {
		quoted[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// onNodes selects nodes by name.
func onNodes(names ...string) string {
	return "nodeSelectors: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: " + list(names...) + "}]}]"
}

// apply creates or replaces objects, and deletes those at the end of the test that
// it created.
func (l *lab) apply(t *testing.T, manifests ...string) {
	t.Helper()
	all, err := parse(manifests...)
	must(t, err)
	for _, o := range all {
		objects := l.objects(o.GetKind(), o.GetNamespace())
		_, err := objects.Get(t.Context(), o.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			l.undo(t, "delete "+o.GetKind()+" "+o.GetName(), func(ctx context.Context) error { return gone(objects.Delete(ctx, o.GetName(), metav1.DeleteOptions{})) })
		} else {
			must(t, err)
		}
		must(t, l.applyAll(t.Context(), o))
	}
}

// parse reads objects.
func parse(manifests ...string) ([]*unstructured.Unstructured, error) {
	dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(strings.Join(manifests, "\n---\n")), 4096)
	var out []*unstructured.Unstructured
	for {
		o := &unstructured.Unstructured{}
		err := dec.Decode(o)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		case len(o.Object) > 0:
			out = append(out, o)
		}
	}
}

// applyAll creates or replaces objects, for good.
func (l *lab) applyAll(ctx context.Context, all ...*unstructured.Unstructured) error {
	for _, o := range all {
		if _, err := l.objects(o.GetKind(), o.GetNamespace()).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "e2e", Force: true}); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes an object.
func (l *lab) remove(t *testing.T, kind, name string) {
	t.Helper()
	must(t, l.objects(kind, system.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

func (l *lab) objects(kind, in string) dynamic.ResourceInterface {
	gvr := schema.GroupVersionResource{Group: group, Version: "v1beta1", Resource: strings.ToLower(kind) + "s"}
	switch kind {
	case "BGPPeer":
		gvr.Version = "v1beta2"
	case "AddressConflict":
		gvr.Group, gvr.Version = "barelb.io", "v1alpha1"
	case "Community":
		gvr.Resource = "communities"
	case "ServiceL2Status", "ServiceBGPStatus":
		gvr.Resource = strings.ToLower(kind) + "es"
	case "Secret", "ServiceAccount":
		gvr.Group, gvr.Version = "", "v1"
	case "ClusterRole", "ClusterRoleBinding":
		gvr.Group, gvr.Version = "rbac.authorization.k8s.io", "v1"
	}
	if in == "" {
		return l.dyn.Resource(gvr)
	}
	return l.dyn.Resource(gvr).Namespace(in)
}

// field reads a field of an object, "" if it is not there.
func (l *lab) field(ctx context.Context, kind, name string, path ...string) (string, error) {
	o, err := l.objects(kind, system.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	v, found, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	if err != nil || !found {
		return "", err
	}
	return fmt.Sprint(v), nil
}

// event is what an Event says.
type event struct{ reason, kind, name, message, source string }

// awaitEvent waits for an Event on an object whose message has all of parts.
func (l *lab) awaitEvent(t *testing.T, in, kind, name, reason string, parts ...string) event {
	t.Helper()
	var found event
	eventually(t, fmt.Sprintf("event %s on %s %s with %q", reason, kind, name, parts), func() error {
		events, err := l.kube.CoreV1().Events(in).List(t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name,
		})
		if err != nil {
			return err
		}
		var seen []string
		for i := range events.Items {
			e := &events.Items[i]
			found = event{e.Reason, kind, name, e.Message, e.Source.Component}
			if e.Reason == reason && hasAll(e.Message, parts) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("events are %q", seen)
	})
	return found
}

func hasAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// changeNode changes a node by a merge patch, and takes undoing back at the end.
func (l *lab) changeNode(t *testing.T, node, patch, undoing string, sub ...string) {
	t.Helper()
	l.undo(t, "restore "+node, func(ctx context.Context) error { return l.patchNode(ctx, node, undoing, sub...) })
	must(t, l.patchNode(t.Context(), node, patch, sub...))
}

func (l *lab) patchNode(ctx context.Context, node, patch string, sub ...string) error {
	_, err := l.kube.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, sub...)
	return err
}

// The patches of nodes that tests use.
const (
	exclude     = `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`
	include     = `{"metadata":{"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":null}}}`
	unavailable = `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True","reason":"Test"}]}}`
	available   = `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","reason":"Test"}]}}`
	doomed      = `{"spec":{"taints":[{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]}}`
	spared      = `{"spec":{"taints":null}}`
)

// gone drops the error that says that there is nothing to delete.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// dualStack makes a Service of both families.
func dualStack(s system.Service) system.Service {
	s.Families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	s.Policy = corev1.IPFamilyPolicyRequireDualStack
	return s
}

// ipv6 makes a Service of IPv6 alone.
func ipv6(s system.Service) system.Service {
	s.Families = []corev1.IPFamily{corev1.IPv6Protocol}
	return s
}
