package e2e_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/barelb/barelb/lab/system"
)

// chart stands for Helm with MetalLB's chart: a release and the objects in it. Its rules
// are Helm's: an upgrade deletes what the release has not any more, unless the object in
// the cluster has helm.sh/resource-policy: keep; an uninstallation deletes what the
// release has, and looks for that annotation in the release alone.
type chart struct {
	l    *lab
	crds []string // in the release; the chart's do not have the annotation
}

// workloads are the rest of what the chart installs, as far as a migration depends on it.
const workloads = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: metallb-controller, namespace: metallb-system}
spec:
  replicas: 1
  selector: {matchLabels: {app.kubernetes.io/name: metallb, app.kubernetes.io/instance: metallb, app.kubernetes.io/component: controller}}
  template:
    metadata: {labels: {app.kubernetes.io/name: metallb, app.kubernetes.io/instance: metallb, app.kubernetes.io/component: controller}}
    spec:
      containers:
      - name: controller
        image: quay.io/metallb/controller:v0.16.1
        args: [--port=9120, --log-level=info, --tls-min-version=VersionTLS13]
        env: [{name: METALLB_ML_SECRET_NAME, value: metallb-memberlist}, {name: METALLB_DEPLOYMENT, value: metallb-controller}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: metallb-speaker, namespace: metallb-system}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: metallb, app.kubernetes.io/instance: metallb, app.kubernetes.io/component: speaker}}
  template:
    metadata: {labels: {app.kubernetes.io/name: metallb, app.kubernetes.io/instance: metallb, app.kubernetes.io/component: speaker}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 0
      containers:
      - name: speaker
        image: quay.io/metallb/speaker:v0.16.1
        args: [--port=9120, --log-level=info]
        env:
        - {name: METALLB_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: METALLB_ML_BIND_ADDR, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: METALLB_ML_LABELS, value: "app.kubernetes.io/name=metallb,app.kubernetes.io/component=speaker"}
        - {name: METALLB_ML_BIND_PORT, value: "7946"}
        - {name: METALLB_ML_SECRET_KEY_PATH, value: /etc/ml_secret_key}
        ports: [{name: metricshttps, containerPort: 9120}, {name: memberlist-tcp, containerPort: 7946}, {name: memberlist-udp, containerPort: 7946, protocol: UDP}]
      volumes:
      - {name: memberlist, secret: {secretName: metallb-memberlist}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: metallb-webhook-configuration}
webhooks:
- name: ipaddresspoolvalidationwebhook.metallb.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  clientConfig: {service: {name: metallb-webhook-service, namespace: metallb-system, path: /validate-metallb-io-v1beta1-ipaddresspool}}
  rules: [{apiGroups: [metallb.io], apiVersions: [v1beta1], operations: [CREATE, UPDATE], resources: [ipaddresspools]}]
`

// install is helm install.
func (h *chart) install(t *testing.T) {
	t.Helper()
	h.crds = nil
	for _, crd := range metallbCRDs(t) {
		h.crds = append(h.crds, crd.GetName())
		text, err := json.Marshal(crd.Object)
		must(t, err)
		must(t, h.l.c.ApplyYAML(t.Context(), string(text)))
	}
	must(t, h.l.c.ApplyYAML(t.Context(), workloads))
}

// withoutCRDs is helm upgrade --set crds.enabled=false.
func (h *chart) withoutCRDs(t *testing.T) {
	t.Helper()
	for _, name := range h.crds {
		policy, err := h.l.c.Kubectl(t.Context(), "get", "crd", name, "-o", `jsonpath={.metadata.annotations.helm\.sh/resource-policy}`)
		must(t, err)
		if policy != "keep" {
			h.delete(t, "crd", name)
		}
	}
	h.crds = nil
}

// uninstall is helm uninstall.
func (h *chart) uninstall(t *testing.T) {
	t.Helper()
	for _, name := range h.crds {
		h.delete(t, "crd", name)
	}
	h.delete(t, "-n", system.Namespace, "deployment/metallb-controller", "daemonset/metallb-speaker")
	h.delete(t, "validatingwebhookconfiguration", "metallb-webhook-configuration", "--ignore-not-found")
}

func (h *chart) delete(t *testing.T, what ...string) {
	t.Helper()
	_, err := h.l.c.Kubectl(t.Context(), append([]string{"delete"}, what...)...)
	must(t, err)
}

// metallbCRDs are MetalLB's CRDs as its chart has them: ours without what is an addition
// to them, with Helm's marks and the conversion webhook.
func metallbCRDs(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob("../../deploy/crds/metallb.io_*.yaml")
	must(t, err)
	var out []*unstructured.Unstructured
	for _, file := range files {
		crd := &unstructured.Unstructured{}
		must(t, yaml.Unmarshal([]byte(read(t, file)), &crd.Object))
		if crd.GetName() == "bgpsessionstatuses.metallb.io" { // MetalLB's is in another group
			continue
		}
		crd.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "Helm"})
		crd.SetAnnotations(map[string]string{"meta.helm.sh/release-name": "metallb", "meta.helm.sh/release-namespace": system.Namespace})
		versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
		must(t, err)
		for _, v := range versions {
			for _, field := range []string{"failback", "med", "asPathPrepend", "weightByEndpoints", "ttlSecurityHops"} {
				unstructured.RemoveNestedField(v.(map[string]any), "schema", "openAPIV3Schema", "properties", "spec", "properties", field)
			}
		}
		must(t, unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions"))
		if crd.GetName() == "bgppeers.metallb.io" {
			must(t, unstructured.SetNestedMap(crd.Object, map[string]any{
				"strategy": "Webhook",
				"webhook": map[string]any{
					"conversionReviewVersions": []any{"v1beta1", "v1beta2"},
					"clientConfig":             map[string]any{"service": map[string]any{"name": "metallb-webhook-service", "namespace": system.Namespace, "path": "/convert"}},
				},
			}, "spec", "conversion"))
		}
		out = append(out, crd)
	}
	return out
}

// installMetalLB makes the cluster one that MetalLB has served for long.
func (m *migration) installMetalLB(t *testing.T) {
	t.Helper()
	l := m.l
	must(t, l.sys.Controller().Stop(patience))
	names, err := l.c.Kubectl(t.Context(), "get", "crd", "-o", "name")
	must(t, err)
	m.chart = &chart{l: l}
	m.chart.delete(t, strings.Fields(names)...)
	m.chart.delete(t, "-n", system.Namespace, "deployment/controller", "daemonset/speaker")

	// The webhook would refuse what follows, for nobody is behind it.
	m.chart.install(t)
	m.chart.delete(t, "validatingwebhookconfiguration", "metallb-webhook-configuration")
	last := m.addrs()[migrated-1]
	must(t, l.c.ApplyYAML(t.Context(), pool("office", []string{m.first.String() + "-" + last.String()})+
		object("L2Advertisement", "office", "ipAddressPools: [office]")+
		object("BGPPeer", "router", "myASN: 64500", "peerASN: 64501", "peerAddress: 192.168.1.1", "bfdProfile: fast", onNodes("none"))+
		object("BGPAdvertisement", "routed", "ipAddressPools: [none]", "communities: [keep-inside]")+
		object("BFDProfile", "fast", "receiveInterval: 100", "transmitInterval: 100")+
		object("Community", "names", "communities: [{name: keep-inside, value: \"65535:65281\"}]")))
	must(t, l.c.ApplyYAML(t.Context(), workloads))
	m.key(t)
	for _, node := range l.c.Nodes() {
		m.metallbOn(t, node)
	}
	for i, a := range m.addrs() {
		name := fmt.Sprintf("migrate-%d", i)
		must(t, l.sys.CreateService(t.Context(), system.Service{Name: name}))
		m.assign(t, name, a.String())
	}
	m.awaitOwners(t, l.c.Nodes()...)
}

// key gives MetalLB the speakers' key in the Secret that its controller makes: it goes
// with its Deployment.
func (m *migration) key(t *testing.T) {
	t.Helper()
	secrets := m.l.kube.CoreV1().Secrets(system.Namespace)
	o, err := secrets.Get(t.Context(), "memberlist", metav1.GetOptions{})
	must(t, err)
	owner, err := m.l.kube.AppsV1().Deployments(system.Namespace).Get(t.Context(), "metallb-controller", metav1.GetOptions{})
	must(t, err)
	o.ObjectMeta = metav1.ObjectMeta{Name: "metallb-memberlist", Namespace: system.Namespace, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: owner.Name, UID: owner.UID},
	}}
	_, err = secrets.Create(t.Context(), o, metav1.CreateOptions{})
	must(t, err)
}

// assign writes an address into a Service, as MetalLB's controller does.
func (m *migration) assign(t *testing.T, name, addr string) {
	t.Helper()
	o, err := m.l.service(t.Context(), name)
	must(t, err)
	o.Annotations = map[string]string{allocated: "office"}
	o.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
	_, err = m.l.kube.CoreV1().Services(namespace).UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
	must(t, err)
}
