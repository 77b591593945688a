package kube_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/kube"
)

const (
	hookService = "metallb-webhook-service"
	hookSecret  = "metallb-webhook-cert"
)

// hooked is a lab whose API server asks a webhook, as deploy/manifests/webhook.yaml tells it to.
// Only where the Service leads is another: to ports of this host.
type hooked struct {
	*lab

	config *admissionregistrationv1.ValidatingWebhookConfiguration
}

func newHooked(t *testing.T) *hooked {
	t.Helper()
	h := &hooked{lab: newLab(t)}
	text, err := os.ReadFile("../../deploy/manifests/webhook.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: hookSecret}}
		if err := client.IgnoreNotFound(h.client.Delete(context.WithoutCancel(t.Context()), o)); err != nil {
			t.Error(err)
		}
	})
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			t.Fatal(err)
		}
		switch {
		case o.Object == nil:
			continue
		case o.GetKind() == "Service":
			o.Object["spec"] = map[string]any{"type": "ExternalName", "externalName": "localhost"}
		}
		h.create(o)
		if o.GetKind() == "ValidatingWebhookConfiguration" {
			h.config = &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: o.GetName()}}
		}
	}
	h.refresh(h.config)
	return h
}

// route has the API server ask at these ports: webhooks of the configuration in turn.
func (h *hooked) route(ports ...int) {
	h.t.Helper()
	h.refresh(h.config)
	edit(h.lab, h.config, func(o *admissionregistrationv1.ValidatingWebhookConfiguration) {
		for i := range o.Webhooks {
			port := int32(ports[i%len(ports)])
			o.Webhooks[i].ClientConfig.Service.Port = &port
		}
	})
}

// serve runs a webhook and returns its port.
func (h *hooked) serve(change ...func(*kube.WebhookOptions)) int {
	h.t.Helper()
	opts := kube.WebhookOptions{Port: freePort(h.t), Service: hookService, Secret: hookSecret, Interval: 50 * time.Millisecond}
	for _, f := range change {
		f(&opts)
	}
	h.run(h.connect(kube.Options{}).Webhook(opts).Run)
	return opts.Port
}

// configObject returns an object with a spec in YAML.
func configObject(t *testing.T, apiVersion, kind, namespace, name, spec string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{}}
	var body map[string]any
	if err := yaml.UnmarshalStrict([]byte(spec), &body); err != nil {
		t.Fatal(err)
	}
	o.Object["spec"] = body
	o.SetAPIVersion("metallb.io/" + apiVersion)
	o.SetKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

// asked asks the API server to create a pool that makes no sense, and returns "" if it refuses.
func (h *hooked) asked() string {
	return h.askedFor("IPAddressPool", "addresses: [nonsense]", "invalid CIDR")
}

func (h *hooked) askedFor(kind, spec, want string) string {
	h.t.Helper()
	err := h.client.Create(h.t.Context(), configObject(h.t, "v1beta1", kind, system, "nonsense", spec), client.DryRunAll)
	if err == nil || !strings.Contains(err.Error(), want) {
		return fmt.Sprintf("%s is not refused: %v", kind, err)
	}
	return ""
}

// refusal is a write that MetalLB's webhooks refuse.
type refusal struct {
	kind, version, name, spec string
	want                      string
	update                    string // if not "", the object is created with this spec first
	namespace                 string // if not ours
}

// TestWebhookRefuses asks the API server for what MetalLB's webhooks refuse: it says no with
// MetalLB's words, and nothing is written.
func TestWebhookRefuses(t *testing.T) {
	h := newHooked(t)
	h.create(configObject(t, "v1beta1", "IPAddressPool", system, "hook-old", "addresses: [198.18.1.0/28, 198.18.0.1-198.18.0.100]"))
	h.create(configObject(t, "v1beta1", "BGPAdvertisement", system, "hook-old", "{ipAddressPools: [hook-old], localPref: 100, aggregationLength: 32}"))
	h.create(configObject(t, "v1beta1", "BFDProfile", system, "hook-used", "{}"))
	h.create(configObject(t, "v1beta2", "BGPPeer", system, "hook-old", "{myASN: 64512, peerASN: 64513, peerAddress: 198.18.9.1, bfdProfile: hook-used}"))
	h.create(configObject(t, "v1beta1", "Community", system, "hook-old", "communities: [{name: DUP, value: '1111:2222'}]"))
	h.route(h.serve())
	h.eventually(h.asked)

	const peer = "myASN: 1000, peerASN: 64500, peerAddress: 198.18.9.2"
	sels := "[{matchLabels: {a: b}}, {matchLabels: {a: b}}]"
	table := []refusal{
		{kind: "IPAddressPool", spec: "addresses: [198.18.0.15-198.18.0.20]", want: "overlaps with already defined CIDR"},
		{kind: "IPAddressPool", spec: "addresses: [198.18.0.0/24]", update: "addresses: [198.18.0.101-198.18.0.200]", want: "overlaps with already defined CIDR"},
		{kind: "IPAddressPool", name: "hook-old", spec: "addresses: [198.18.0.9-198.18.0.1]", want: "invalid CIDR"},
		{kind: "IPAddressPool", spec: "{addresses: [198.18.5.0/24], serviceAllocation: {namespaces: [x, x]}}", want: "duplicate definition in namespaces field"},
		{kind: "IPAddressPool", spec: "{addresses: [198.18.5.0/24], serviceAllocation: {serviceSelectors: " + sels + "}}", want: "duplicate definition of serviceSelectors"},
		{kind: "BGPAdvertisement", spec: "{ipAddressPools: [hook-old], aggregationLength: 26}", want: "invalid aggregation length 26: prefix 28 in this pool is more specific than the aggregation length for addresses 198.18.1.0/28"},
		{kind: "BGPAdvertisement", spec: "{aggregationLength: 26}", update: "{localPref: 100}", want: "invalid aggregation length 26"},
		{kind: "BGPAdvertisement", spec: "{aggregationLengthV6: 129}", want: "invalid aggregation length 129 for IPv6"},
		{kind: "BGPAdvertisement", spec: "{aggregationLength: 24, serviceSelectors: [{matchLabels: {a: b}}]}", want: "serviceSelectors and aggregationLength are mutually exclusive"},
		{kind: "BGPAdvertisement", spec: "{localPref: 200}", want: "invalid local preference 200"},
		{kind: "BGPAdvertisement", spec: "{localPref: 100, communities: ['99999999:1']}", want: "invalid community value: invalid section"},
		{kind: "BGPAdvertisement", spec: "{localPref: 100, communities: ['1:1', '1:1']}", want: "duplicate definition of community"},
		{kind: "BGPAdvertisement", spec: "{localPref: 100, peers: [x, x]}", want: "duplicate definition of peers"},
		{kind: "L2Advertisement", spec: "ipAddressPools: [x, x]", want: "duplicate definition of ipAddressPools"},
		{kind: "L2Advertisement", spec: "nodeSelectors: " + sels, want: "duplicate definition of nodeSelectors"},
		{kind: "L2Advertisement", spec: "nodeSelectors: [{matchExpressions: [{key: a, operator: In, values: [x, x]}]}]", want: "duplicate definition of match expression value in label selector"},
		{kind: "L2Advertisement", spec: "nodeSelectors: [{matchExpressions: [{key: a, operator: Near}]}]", update: "{}", want: "invalid label selector"},
		{kind: "Community", spec: "communities: [{name: A, value: '99999999:1'}]", want: "invalid community value: invalid section"},
		{kind: "Community", spec: "communities: [{name: A, value: 'large:9999999999999:1:1'}]", want: "invalid community value: invalid section"},
		{kind: "Community", spec: "communities: [{name: A, value: '99999999:1'}]", update: "communities: []", want: "invalid community value: invalid section"},
		{kind: "Community", spec: "communities: [{name: B, value: '1:2'}, {name: B, value: '1:2'}]", want: "duplicate definition of community"},
		{kind: "Community", spec: "communities: [{name: DUP, value: '1111:2222'}]", want: "duplicate definition of community"},
		{kind: "BGPPeer", version: "v1beta2", spec: "{myASN: 1000, peerASN: 64500, peerAddress: 1.1.1}", want: "invalid BGPPeer address"},
		{kind: "BGPPeer", version: "v1beta1", spec: "{myASN: 1000, peerASN: 64500, peerAddress: 1.1.1}", want: "invalid BGPPeer address"},
		{kind: "BGPPeer", version: "v1beta2", spec: "{" + peer + ", holdTime: 1s}", update: "{" + peer + "}", want: "invalid hold time"},
		{kind: "BGPPeer", version: "v1beta2", spec: "{" + peer + ", dynamicASN: internal}", want: "both peer ASN and dynamicASN specified"},
		{kind: "BGPPeer", version: "v1beta2", spec: "{" + peer + ", password: a, passwordSecret: {name: b}}", want: "can not have both password and secret ref"},
		{kind: "BGPPeer", version: "v1beta2", spec: "{" + peer + ", disableMP: true, routerID: x}", want: "invalid router ID"},
		{kind: "BGPPeer", version: "v1beta2", spec: "{myASN: 64512, peerASN: 64513, peerAddress: 198.18.9.1}", want: "duplicate BGPPeers"},
	}
	for _, kind := range []string{"IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community"} {
		r := refusal{kind: kind, spec: "{}", want: "resource must be created in " + system + " namespace", namespace: h.namespace}
		switch kind {
		case "IPAddressPool":
			r.spec = "addresses: [198.18.7.0/24]"
		case "BGPPeer":
			r.version, r.spec = "v1beta2", "{"+peer+"}"
		case "Community":
			r.spec = "communities: []"
		}
		table = append(table, r)
	}
	for _, r := range table {
		t.Run(r.kind+" "+r.want, func(t *testing.T) {
			l := *h.lab
			l.t = t
			o := configObject(t, orElse(r.version, "v1beta1"), r.kind, orElse(r.namespace, system), orElse(r.name, "hook-new"), r.spec)
			var err error
			if first := o.DeepCopy(); r.update != "" || r.name != "" {
				if r.update != "" {
					first.Object["spec"] = configObject(t, "", "", "", "", r.update).Object["spec"]
					l.create(first)
				} else if err := h.client.Get(t.Context(), client.ObjectKeyFromObject(o), first); err != nil {
					t.Fatal(err)
				}
				o.SetResourceVersion(first.GetResourceVersion())
				err = h.client.Update(t.Context(), o)
			} else {
				err = h.client.Create(t.Context(), o)
			}
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Errorf("the API server says %v, want %q", err, r.want)
			}
			if err == nil && r.update == "" && r.name == "" {
				l.delete(o)
			}
		})
	}

	t.Run("BFDProfile in use", func(t *testing.T) {
		o := configObject(t, "v1beta1", "BFDProfile", system, "hook-used", "{}")
		if err := h.client.Delete(t.Context(), o); err == nil || !strings.Contains(err.Error(), "failed to delete BFDProfile hook-used, used by BGPPeer hook-old") {
			t.Errorf("the API server says %v", err)
		}
	})
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// TestWebhookLetsPass: what is right passes, and what does not become worse.
func TestWebhookLetsPass(t *testing.T) {
	h := newHooked(t)
	bad := configObject(t, "v1beta1", "IPAddressPool", system, "hook-bad", "addresses: [nonsense]")
	h.create(bad) // while nobody serves
	const guard = "barelb.io/test"
	edit(h.lab, bad, func(o *unstructured.Unstructured) { o.SetFinalizers([]string{guard}) })
	h.route(h.serve())
	h.eventually(h.asked)

	h.create(configObject(t, "v1beta1", "IPAddressPool", system, "hook-good", "addresses: [198.18.0.0/24]"))
	h.create(configObject(t, "v1beta2", "BGPPeer", system, "hook-good", "{myASN: 1, peerASN: 2, peerAddress: 198.18.9.1, bfdProfile: later, passwordSecret: {name: later}}"))
	h.create(configObject(t, "v1beta1", "BGPPeer", system, "hook-older", "{myASN: 1, peerASN: 2, peerAddress: 198.18.9.2}"))
	h.create(configObject(t, "v1beta1", "BGPAdvertisement", system, "hook-good", "{communities: [later], peers: [later]}"))
	edit(h.lab, bad, func(o *unstructured.Unstructured) { o.SetLabels(map[string]string{"a": "b"}) })
	h.delete(bad)
	h.refresh(bad)
	edit(h.lab, bad, func(o *unstructured.Unstructured) { o.SetFinalizers(nil) })
	h.create(configObject(t, "v1beta1", "BFDProfile", system, "hook-unused", "{}")) // and deleted at the end
}

// TestWebhookAway: while no webhook answers, or one that the API server does not trust, writes
// go on, as shipped.
func TestWebhookAway(t *testing.T) {
	h := newHooked(t)
	port := freePort(t)
	h.route(port)
	bad := func(name string) *unstructured.Unstructured {
		return configObject(t, "v1beta1", "IPAddressPool", system, name, "addresses: [nonsense]")
	}
	h.create(bad("hook-nobody"))

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	w := h.connect(kube.Options{}).Webhook(kube.WebhookOptions{Port: port, Service: hookService, Secret: hookSecret, Interval: time.Hour})
	go func() { ended <- w.Run(ctx) }()
	h.eventually(h.asked)
	if len(h.bundle()) == 0 {
		t.Error("the API server trusts anybody")
	}
	h.refresh(h.config)
	edit(h.lab, h.config, func(o *admissionregistrationv1.ValidatingWebhookConfiguration) {
		for i := range o.Webhooks {
			o.Webhooks[i].ClientConfig.CABundle = nil
		}
	})
	h.eventually(func() string { // once the API server has heard of it
		if h.asked() == "" {
			return "it is still refused"
		}
		return ""
	})
	h.create(bad("hook-untrusted"))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	h.create(bad("hook-gone"))
}
