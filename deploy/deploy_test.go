package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const namespace = "metallb-system"

// helm runs Helm in this folder, and returns what it prints.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatalf("build Helm: %v", err)
	}
	return run(t, binary, args...)
}

// built builds Helm, if it is not yet, and says where it is.
var built = sync.OnceValues(func() (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "tool", "-modfile=../tools/helm/go.mod", "-n", "helm").Output()
	return strings.TrimSpace(string(out)), err
})

func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return complaint.String() + out.String(), err
	}
	return out.String(), nil
}

// render returns the objects of a chart by kind and name.
func render(t *testing.T, chart string, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	text, err := helm(t, append([]string{"template", "barelb", chart, "--namespace", namespace}, args...)...)
	if err != nil {
		t.Fatalf("helm template %s %s: %v\n%s", chart, strings.Join(args, " "), err, text)
	}
	return parse(t, text)
}

func parse(t *testing.T, text string) map[string]*unstructured.Unstructured {
	t.Helper()
	out := map[string]*unstructured.Unstructured{}
	for r := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		o := &unstructured.Unstructured{}
		if err == nil {
			err = yaml.UnmarshalStrict(doc, &o.Object)
		}
		if err != nil {
			t.Fatalf("parse: %v\n%s", err, doc)
		}
		if o.Object == nil {
			continue // comments
		}
		key := o.GetKind() + " " + o.GetName()
		if out[key] != nil {
			t.Errorf("%s twice", key)
		}
		out[key] = o
	}
}

func plain(objects ...map[string]*unstructured.Unstructured) map[string]any {
	out := map[string]any{}
	for _, set := range objects {
		for key, o := range set {
			out[key] = o.Object
		}
	}
	return out
}

func read(t *testing.T, file string) map[string]*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// TestOneSource holds the ways to install to the same objects: kubectl, kustomize, Helm.
func TestOneSource(t *testing.T) {
	want := plain(read(t, "install.yaml"))
	charts := plain(read(t, "manifests/namespace.yaml"), render(t, "crds-chart"), render(t, "chart"))
	if diff := cmp.Diff(want, charts); diff != "" {
		t.Errorf("the charts differ from install.yaml; run `make generate`:\n%s", diff)
	}
	hook := render(t, "chart", "--set", "controller.webhookMode=enabled", "--show-only", "templates/webhook.yaml")
	if diff := cmp.Diff(plain(read(t, "manifests/webhook.yaml")), plain(hook)); diff != "" {
		t.Errorf("the chart differs from webhook.yaml; run `make generate`:\n%s", diff)
	}
	source, err := os.ReadFile("monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if copied, err := os.ReadFile("chart/files/alerts.yaml"); err != nil || !bytes.Equal(source, copied) {
		t.Errorf("the chart's alerts are not those of deploy/monitoring (%v); run `make generate`", err)
	}
	kubectl := "kubectl"
	if bin := os.Getenv("BARELB_KUBE_BIN"); bin != "" {
		kubectl = filepath.Join(bin, kubectl)
	} else if _, err := exec.LookPath(kubectl); err != nil {
		t.Skip("SKIPPED: there is no kubectl: set BARELB_KUBE_BIN, as make test does")
	}
	text, err := run(t, kubectl, "kustomize", ".")
	if err != nil {
		t.Fatalf("kubectl kustomize: %v\n%s", err, text)
	}
	if diff := cmp.Diff(want, plain(parse(t, text))); diff != "" {
		t.Errorf("kustomize differs from install.yaml:\n%s", diff)
	}
}

func TestLint(t *testing.T) {
	for _, chart := range []string{"chart", "crds-chart"} {
		if text, err := helm(t, "lint", "--strict", chart); err != nil {
			t.Errorf("helm lint %s: %v\n%s", chart, err, text)
		}
	}
}

// TestKindsAreKept: no way of uninstalling the chart of the kinds deletes a pool.
func TestKindsAreKept(t *testing.T) {
	kinds := render(t, "crds-chart")
	if len(kinds) == 0 {
		t.Fatal("the chart has no kinds")
	}
	for key, o := range kinds {
		if o.GetKind() != "CustomResourceDefinition" || o.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would go with the chart", key)
		}
	}
}
