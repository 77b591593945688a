package kube

import (
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/internal/core/migrate"
)

// Kinds that are read for a migration, and of which only a part matters.
const (
	crdKind  = "CustomResourceDefinition"
	frrKind  = "FRRConfiguration"
	ruleKind = "PrometheusRule"

	// dashboardLabel is on ConfigMaps that Grafana's sidecar loads.
	dashboardLabel = "grafana_dashboard"
)

//nolint:gochecknoglobals // they are never changed
var (
	crdGVK  = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: crdKind}
	frrGVK  = schema.GroupVersionKind{Group: "frrk8s.metallb.io", Version: "v1beta1", Kind: frrKind}
	ruleGVK = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: ruleKind}
)

func addMigrationKinds(m *meta.DefaultRESTMapper) {
	m.Add(crdGVK, meta.RESTScopeRoot)
	m.Add(admissionv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"), meta.RESTScopeRoot)
	m.Add(frrGVK, meta.RESTScopeNamespace)
	m.Add(ruleGVK, meta.RESTScopeNamespace)
}

// readMigration reads what MetalLB leaves in a cluster beside its configuration.
func (g *reading) readMigration() {
	d := g.d
	g.try(migrate.FromCRDs, "list customresourcedefinitions.apiextensions.k8s.io", func() error { return readLoose(g, crdGVK, "", &d.CRDs) })
	g.try(migrate.FromFRR, "list frrconfigurations.frrk8s.metallb.io", func() error { return readLoose(g, frrGVK, "", &d.FRR) })
	g.try(migrate.FromDashboards, "list prometheusrules.monitoring.coreos.com", func() error { return readLoose(g, ruleGVK, "", &d.Rules) })
	g.try(migrate.FromWebhooks, "list validatingwebhookconfigurations.admissionregistration.k8s.io",
		list(g, &admissionv1.ValidatingWebhookConfigurationList{}, "", func(l *admissionv1.ValidatingWebhookConfigurationList) { d.Webhooks = l.Items }))
	take := func(l *corev1.ConfigMapList) { d.ConfigMaps = append(d.ConfigMaps, l.Items...) }
	g.try(migrate.FromConfigMaps, "list configmaps in "+g.namespace, list(g, &corev1.ConfigMapList{}, g.namespace, take))
	g.try(migrate.FromDashboards, "list configmaps", list(g, &corev1.ConfigMapList{}, "", take, client.HasLabels{dashboardLabel}))
}

// readSpeakerSecrets reads of the Secrets that speakers mount what they are removed with,
// and nothing that is in them.
func (g *reading) readSpeakerSecrets() {
	for _, w := range g.d.fleetOf() {
		if w.Secret == "" || w.Component != "speaker" {
			continue
		}
		o := &metav1.PartialObjectMetadata{}
		o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		err := g.client.Get(g.ctx, client.ObjectKey{Namespace: w.Namespace, Name: w.Secret}, o)
		if err == nil {
			g.d.Secrets = append(g.d.Secrets, corev1.Secret{ObjectMeta: o.ObjectMeta})
		} else if !apierrors.IsNotFound(err) {
			g.gap(migrate.FromSecrets, "get secrets in "+w.Namespace, err)
		}
	}
}

// ReadConfigMap reads one ConfigMap of the configuration's namespace.
func (r *Reader) ReadConfigMap(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	var o corev1.ConfigMap
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: name}, &o); err != nil {
		return nil, fmt.Errorf("read ConfigMap %s/%s: %w", r.namespace, name, err)
	}
	return &o, nil
}
