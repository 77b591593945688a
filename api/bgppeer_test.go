package api_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/v1beta2"
)

// readAs reads o again through a version of its kind.
func readAs(t *testing.T, c client.Client, apiVersion string, o client.Object) *unstructured.Unstructured {
	t.Helper()
	got := &unstructured.Unstructured{}
	got.SetAPIVersion(apiVersion)
	got.SetKind("BGPPeer")
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), got); err != nil {
		t.Fatalf("read %s as %s: %v", o.GetName(), apiVersion, err)
	}
	return got
}

func requireSpec(t *testing.T, what, want string, o *unstructured.Unstructured) {
	t.Helper()
	if d := cmp.Diff(parse(t, want), normal(t, o.Object["spec"])); d != "" {
		t.Errorf("%s:\n%s", what, d)
	}
}

// TestBGPPeerWrittenAsV1beta1 reads as v1beta2 what was written as v1beta1: the
// same fields with the same values; what was absent is absent or has v1beta2's
// default. Timers above all: absent is not zero.
func TestBGPPeerWrittenAsV1beta1(t *testing.T) {
	c, warned := newClient(t)
	const newerDefaults = "\ndisableMP: false\ndualStackAddressFamily: false"

	least := "myASN: 64512\npeerASN: 64513\npeerAddress: 192.0.2.1"
	o := object(t, v1, "BGPPeer", "least", "")
	o.Object["spec"] = parse(t, least)
	create(t, c, o)
	if d := cmp.Diff([]string{"v1beta1 is deprecated, please use v1beta2"}, warned.take()); d != "" {
		t.Errorf("warnings:\n%s", d)
	}
	requireSpec(t, "required fields", least+"\npeerPort: 179"+newerDefaults, readAs(t, c, v2, o))
	if d := warned.take(); d != nil {
		t.Errorf("v1beta2 warns: %q", d)
	}
	peer, ok := typed(t, c, readAs(t, c, v2, o)).(*v1beta2.BGPPeer)
	if !ok || peer.Spec.HoldTime != nil || peer.Spec.KeepaliveTime != nil || peer.Spec.PeerPort != 179 {
		t.Errorf("absent timers became %v and %v, the absent port %d", peer.Spec.HoldTime, peer.Spec.KeepaliveTime, peer.Spec.PeerPort)
	}

	o = object(t, v1, "BGPPeer", "full", "")
	o.Object["spec"] = parse(t, fullPeer)
	create(t, c, o)
	requireSpec(t, "all fields", fullPeer+newerDefaults, readAs(t, c, v2, o))

	o = object(t, v1, "BGPPeer", "any-node", "")
	o.Object["spec"] = parse(t, least+"\nnodeSelectors: [{}]\nholdTime: 0s")
	create(t, c, o)
	requireSpec(t, "empty selector", least+"\nnodeSelectors: [{}]\nholdTime: 0s\npeerPort: 179"+newerDefaults, readAs(t, c, v2, o))
}

// TestBGPPeerPortZero: only v1beta1 can write port 0. It stays readable and its
// status writable through v1beta2, whose schema has 1 as the least.
func TestBGPPeerPortZero(t *testing.T) {
	c, _ := newClient(t)
	o := object(t, v1, "BGPPeer", "port-0", `spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, peerPort: 0}`)
	create(t, c, o)
	newer := readAs(t, c, v2, o)
	if port, _, _ := unstructured.NestedInt64(newer.Object, "spec", "peerPort"); port != 0 {
		t.Errorf("peerPort is %d", port)
	}
	newer.Object["status"] = parse(t, `conditions: [`+accepted+`]`)
	if err := c.Status().Update(t.Context(), newer); err != nil {
		t.Errorf("write status: %v", err)
	}
	newer.SetLabels(map[string]string{"a": "b"})
	if err := c.Update(t.Context(), newer); err != nil {
		t.Errorf("write label: %v", err)
	}
}

// TestBGPPeerWrittenAsV1beta2 reads as v1beta1 what was written as v1beta2: the
// fields that v1beta1 has. Reading loses nothing of what is stored; writing what
// was so read does.
func TestBGPPeerWrittenAsV1beta2(t *testing.T) {
	c, _ := newClient(t)
	o := object(t, v2, "BGPPeer", "newer", "")
	o.Object["spec"] = parse(t, fullPeer+fullPeerNewer)
	create(t, c, o)
	o.Object["status"] = parse(t, `conditions: [`+accepted+`]`)
	if err := c.Status().Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}

	older := readAs(t, c, v1, o)
	requireSpec(t, "as v1beta1", fullPeer, older)
	requireSpec(t, "stored", fullPeer+fullPeerNewer, readAs(t, c, v2, o))

	older.SetLabels(map[string]string{"a": "b"})
	if err := c.Update(t.Context(), older); err != nil {
		t.Fatalf("write as v1beta1: %v", err)
	}
	requireSpec(t, "rewritten as v1beta1", fullPeer+"\ndisableMP: false\ndualStackAddressFamily: false", readAs(t, c, v2, o))
}

// TestGracefulRestartMayChange: MetalLB forbids it, because it cannot do it.
func TestGracefulRestartMayChange(t *testing.T) {
	c, _ := newClient(t)
	o := object(t, v2, "BGPPeer", "restart", `spec: {myASN: 1, enableGracefulRestart: true}`)
	create(t, c, o)
	for _, on := range []bool{false, true} {
		if err := unstructured.SetNestedField(o.Object, on, "spec", "enableGracefulRestart"); err != nil {
			t.Fatal(err)
		}
		if err := c.Update(t.Context(), o); err != nil {
			t.Errorf("change to %t: %v", on, err)
		}
	}
}

// TestApplyRemovesConversionWebhook applies our BGPPeer over one that asks a
// webhook for conversion, as MetalLB leaves it behind, and reads an object of it.
func TestApplyRemovesConversionWebhook(t *testing.T) {
	env := kubeEnv(t)
	c, _ := newClient(t)
	kubectl := filepath.Join(env.BinaryAssetsDirectory, "kubectl")
	if _, err := os.Stat(kubectl); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED, kubectl apply was not checked: %v", err)
	}
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin []byte, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), kubectl, slices.Concat([]string{"--kubeconfig", config}, args)...)
		cmd.Stdin = strings.NewReader(string(stdin))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, out)
		}
	}
	ours := crdFiles(t)["metallb.io_bgppeers.yaml"]
	theirs := map[string]any{}
	if err := yaml.Unmarshal(ours, &theirs); err != nil {
		t.Fatal(err)
	}
	conversion := parse(t, `
strategy: Webhook
webhook:
  conversionReviewVersions: [v1beta1, v1beta2]
  clientConfig: {service: {namespace: metallb-system, name: metallb-webhook-service, path: /convert}}`)
	if err := unstructured.SetNestedMap(theirs, conversion, "spec", "conversion"); err != nil {
		t.Fatal(err)
	}
	left, err := yaml.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	o := object(t, v2, "BGPPeer", "kept", `spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1}`)
	create(t, c, o)

	installs := map[string][]string{
		"by its manifest": {"apply", "-f", "-"},
		"by Helm":         {"apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", "-"},
		"otherwise":       {"replace", "-f", "-"},
	}
	for _, how := range slices.Sorted(maps.Keys(installs)) {
		run(left, installs[how]...)
		run(ours, "apply", "-f", "-")
		if got := conversionOf(t, c); got.Strategy != apiextensionsv1.NoneConverter || got.Webhook != nil {
			t.Errorf("installed %s: conversion is %+v", how, got)
		}
		readAs(t, c, v2, o)
	}

	// Applied on the server's side the null takes nothing from who else owns it, so that
	// docs/migration.md has a command before it.
	run(left, installs["by Helm"]...)
	run(nil, "patch", "crd", "bgppeers.metallb.io", "--type=merge", "-p", `{"spec":{"conversion":{"strategy":"None","webhook":null}}}`)
	run(ours, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if got := conversionOf(t, c); got.Strategy != apiextensionsv1.NoneConverter || got.Webhook != nil {
		t.Errorf("applied on the server's side: conversion is %+v", got)
	}
	readAs(t, c, v2, o)
}

func conversionOf(t *testing.T, c client.Client) *apiextensionsv1.CustomResourceConversion {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("apiextensions.k8s.io/v1")
	u.SetKind("CustomResourceDefinition")
	if err := c.Get(t.Context(), client.ObjectKey{Name: "bgppeers.metallb.io"}, u); err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, crd); err != nil {
		t.Fatal(err)
	}
	return crd.Spec.Conversion
}
