package api_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// applyInstall applies every object of deploy/install.yaml, in its order, and
// returns them. There are no nodes, so nothing starts.
func applyInstall(t *testing.T, c client.Client) []*unstructured.Unstructured {
	t.Helper()
	return applyFile(t, c, installFile)
}

func applyFile(t *testing.T, c client.Client, file string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var objects []*unstructured.Unstructured
	for r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(doc, &o.Object); err != nil {
			t.Fatalf("parse %s: %v\n%s", file, err, doc)
		}
		if o.Object == nil {
			continue // comments
		}
		if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("install"), client.ForceOwnership); err != nil {
			t.Errorf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
		}
		objects = append(objects, o)
	}
}

// TestInstallApplies applies the install manifest twice: the server finds no fault
// in it, unknown fields included, and does not even warn.
func TestInstallApplies(t *testing.T) {
	c, warned := newClient(t)
	applyInstall(t, c)
	objects := applyInstall(t, c)
	for _, w := range warned.take() {
		t.Errorf("the API server warns: %s", w)
	}
	if len(objects) < len(crdFiles(t))+3 {
		t.Errorf("install.yaml holds %d objects only", len(objects))
	}
}

// TestInstallPods creates a Pod from each Pod template, as the workload
// controllers would: the namespace admits it, and it asks for no more than it needs.
func TestInstallPods(t *testing.T) {
	c, _ := newClient(t)
	needs := map[string][]corev1.Capability{"controller": nil, "speaker": {"NET_RAW"}}
	for _, o := range applyInstall(t, c) {
		template, found, err := unstructured.NestedMap(o.Object, "spec", "template")
		if err != nil {
			t.Fatal(err)
		}
		if !found {
			continue
		}
		pod := &corev1.Pod{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, pod); err != nil {
			t.Fatal(err)
		}
		pod.Name, pod.Namespace = o.GetName(), o.GetNamespace()
		if err := c.Create(t.Context(), pod.DeepCopy(), client.DryRunAll); err != nil {
			t.Errorf("create a Pod of %s: %v", o.GetName(), err)
		}
		container := pod.Spec.Containers[0]
		caps := container.SecurityContext.Capabilities
		need, ok := needs[container.Name]
		delete(needs, container.Name)
		if !ok || !slices.Equal(caps.Add, need) || !slices.Equal(caps.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("container %s: capabilities %+v", container.Name, caps)
		}
		if pod.Labels["app"] != "metallb" || pod.Labels["component"] != container.Name || o.GetName() != container.Name {
			t.Errorf("container %s: is in %s with labels %v", container.Name, o.GetName(), pod.Labels)
		}
	}
	if len(needs) != 0 {
		t.Errorf("not found: %v", needs)
	}
}

// access is one row of who may do what.
type access struct {
	who       string // both, controller, speaker or nobody
	namespace string // "" for what has none
	group     string
	resource  string // may name a subresource behind a slash
	name      string // "" for any
	verbs     []string
}

// TestInstallPermissions asks the API server what the two service accounts may do.
func TestInstallPermissions(t *testing.T) {
	c, _ := newClient(t)
	applyInstall(t, c)
	read := []string{"get", "list", "watch"}
	write := []string{"create", "update", "patch", "delete"}
	all := slices.Concat(read, write)
	seen := []string{"list", "watch"} // what is kept in memory is not asked for one by one
	own := []string{"create", "update", "delete"}

	table := []access{
		{"both", namespace, "metallb.io", "configurationstates", "", []string{"get", "list", "watch", "create", "update"}},
		{"nobody", namespace, "metallb.io", "configurationstates", "", []string{"patch", "delete"}},
		{"both", namespace, "metallb.io", "configurationstates/status", "", []string{"update"}},
		{"nobody", "default", "metallb.io", "configurationstates", "", all},

		{"both", "default", "", "services", "", seen},
		{"controller", "default", "", "services", "", []string{"get"}},
		{"nobody", "default", "", "services", "", write},
		{"controller", "default", "", "services/status", "", []string{"update"}},
		{"both", "", "", "namespaces", "", seen},
		{"both", "", "", "nodes", "", seen},
		{"speaker", "", "", "namespaces", "", []string{"get"}},
		{"speaker", "", "", "nodes", "", []string{"get"}},
		{"nobody", "", "", "nodes", "", write},
		{"speaker", "default", "discovery.k8s.io", "endpointslices", "", seen},
		{"both", "default", "", "events", "", []string{"create", "patch"}},
		{"nobody", "default", "events.k8s.io", "events", "", all},
		{"both", "", "authentication.k8s.io", "tokenreviews", "", []string{"create"}},
		{"both", "", "authorization.k8s.io", "subjectaccessreviews", "", []string{"create"}},

		{"both", namespace, "", "pods", "", []string{"get"}},
		{"speaker", namespace, "", "pods", "", []string{"list", "watch"}},
		{"nobody", namespace, "", "pods", "", write},
		{"nobody", "default", "", "pods", "", read},
		{"controller", namespace, "apps", "deployments", "controller", []string{"get"}},
		{"nobody", namespace, "apps", "deployments", "", all},

		{"both", namespace, "", "secrets", "any", []string{"get"}},
		{"controller", namespace, "", "secrets", "", []string{"create"}},
		{"nobody", namespace, "", "secrets", "", []string{"list", "watch", "update", "patch", "delete"}},
		{"nobody", "default", "", "secrets", "memberlist", all},
		{"nobody", "", "apiextensions.k8s.io", "customresourcedefinitions", "", all},
	}
	table = append(table,
		access{"controller", namespace, "metallb.io", "ipaddresspools", "", []string{"patch"}}, // finalizers
		access{"nobody", namespace, "metallb.io", "ipaddresspools", "", []string{"create", "update", "delete"}},
		access{"controller", namespace, "barelb.io", "addressclaims", "", []string{"get", "list", "watch", "create", "update", "delete"}},
		access{"nobody", "default", "barelb.io", "addressclaims", "", all},
		access{"both", namespace, "barelb.io", "addressconflicts", "", []string{"list", "watch"}},
		access{"speaker", namespace, "barelb.io", "addressconflicts", "", []string{"create", "delete"}},
		access{"nobody", namespace, "barelb.io", "addressconflicts", "", []string{"update", "patch"}},
		access{"controller", namespace, "coordination.k8s.io", "leases", "", []string{"get", "create", "update"}},
		access{"nobody", "kube-system", "coordination.k8s.io", "leases", "", all},
	)
	for _, r := range []string{"ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities"} {
		if r != "ipaddresspools" {
			table = append(table, access{"nobody", namespace, "metallb.io", r, "", write})
		}
		table = append(table,
			access{"both", namespace, "metallb.io", r, "", seen},
			access{"nobody", namespace, "metallb.io", r, "", []string{"get"}},
			access{"nobody", "default", "metallb.io", r, "", all},
			access{"controller", namespace, "metallb.io", r + "/status", "", []string{"update"}},
			access{"nobody", namespace, "metallb.io", r + "/status", "", []string{"patch"}},
		)
	}
	table = append(table,
		access{"speaker", namespace, "metallb.io", "bgpsessionstatuses", "", slices.Concat([]string{"get", "list"}, own)},
		access{"nobody", namespace, "metallb.io", "bgpsessionstatuses", "", []string{"watch", "patch"}},
		access{"speaker", namespace, "metallb.io", "bgpsessionstatuses/status", "", []string{"update"}},
		access{"nobody", "default", "metallb.io", "bgpsessionstatuses", "", all},
	)
	for _, r := range []string{"servicel2statuses", "servicebgpstatuses"} {
		table = append(table,
			access{"both", namespace, "metallb.io", r, "", seen},
			access{"speaker", namespace, "metallb.io", r, "", slices.Concat([]string{"get"}, own)},
			access{"nobody", namespace, "metallb.io", r, "", []string{"patch"}},
			access{"speaker", namespace, "metallb.io", r + "/status", "", []string{"update"}},
			access{"nobody", "default", "metallb.io", r, "", all},
		)
	}

	checkAccess(t, c, table)
}

// TestWebhookPermissions: the webhook, which is apart, adds the right to keep one Secret, and to
// have the API server trust it.
func TestWebhookPermissions(t *testing.T) {
	c, warned := newClient(t)
	applyInstall(t, c)
	for _, o := range applyFile(t, c, webhookFile) {
		cleanUp(t, c, o)
	}
	for _, w := range warned.take() {
		t.Errorf("the API server warns: %s", w)
	}
	const secret, hooks, hook = "metallb-webhook-cert", "validatingwebhookconfigurations", "metallb-webhook-configuration"
	checkAccess(t, c, []access{
		{"both", namespace, "", "secrets", secret, []string{"get"}},
		{"controller", namespace, "", "secrets", secret, []string{"update"}},
		{"nobody", namespace, "", "secrets", secret, []string{"list", "watch", "patch", "delete"}},
		{"nobody", namespace, "", "secrets", "memberlist", []string{"list", "watch", "update", "patch", "delete"}},
		{"nobody", "default", "", "secrets", secret, []string{"get", "create", "update"}},
		{"controller", "", "admissionregistration.k8s.io", hooks, hook, []string{"get", "patch"}},
		{"nobody", "", "admissionregistration.k8s.io", hooks, hook, []string{"list", "watch", "create", "update", "delete"}},
		{"nobody", "", "admissionregistration.k8s.io", hooks, "another", []string{"get", "patch", "update", "delete"}},
		{"nobody", "", "apiextensions.k8s.io", "customresourcedefinitions", "bgppeers.metallb.io", []string{"get", "patch", "update"}},
	})
}

// checkAccess asks the API server whether the rows are true.
func checkAccess(t *testing.T, c client.Client, table []access) {
	t.Helper()
	for _, row := range table {
		for _, account := range []string{"controller", "speaker"} {
			for _, verb := range row.verbs {
				want := row.who == account || row.who == "both"
				// The server learns of new roles with a delay.
				deadline := time.Now().Add(10 * time.Second)
				got := row.allows(t, c, account, verb)
				for got != want && time.Now().Before(deadline) {
					<-time.After(20 * time.Millisecond)
					got = row.allows(t, c, account, verb)
				}
				if got != want {
					t.Errorf("%s may %s %s: %t, want %t (%+v)", account, verb, row.resource, got, want, row)
				}
			}
		}
	}
}

// allows asks the API server.
func (a access) allows(t *testing.T, c client.Client, account, verb string) bool {
	t.Helper()
	resource, sub, _ := strings.Cut(a.resource, "/")
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   "system:serviceaccount:" + namespace + ":" + account,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: a.namespace, Group: a.group, Resource: resource, Subresource: sub, Name: a.name, Verb: verb, Version: "*",
		},
	}}
	if err := c.Create(t.Context(), review); err != nil {
		t.Fatalf("ask the API server: %v", err)
	}
	return review.Status.Allowed
}
