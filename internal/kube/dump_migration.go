package kube

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/migrate"
)

// CRD is what is read of a CustomResourceDefinition.
type CRD struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Group      string `json:"group"`
		Conversion struct {
			Strategy string `json:"strategy"`
		} `json:"conversion"`
		Versions []struct {
			Schema struct {
				OpenAPIV3Schema struct {
					Properties struct {
						Spec struct {
							Properties map[string]struct{} `json:"properties"`
						} `json:"spec"`
					} `json:"properties"`
				} `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

// PrometheusRule is what is read of an object of that kind.
type PrometheusRule struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
}

// additions are fields that MetalLB's CRDs do not have, by CRD.
//
//nolint:gochecknoglobals // it is never changed
var additions = map[string]string{
	"l2advertisements.metallb.io": "failback", "bgpadvertisements.metallb.io": "med", "bgppeers.metallb.io": "ttlSecurityHops",
}

// Annotations by which Helm knows what is a release's, and what it must not delete.
const (
	helmRelease   = "meta.helm.sh/release-name"
	helmNamespace = "meta.helm.sh/release-namespace"
	helmPolicy    = "helm.sh/resource-policy"
)

// Migration returns what concerns MetalLB in the same cluster. namespace is where the
// configuration is.
func (d *Dump) Migration(namespace string) *migrate.Facts {
	f := &migrate.Facts{Cluster: d.Cluster(namespace), Workloads: d.fleetOf()}
	for _, o := range latestOf(d.CRDs) {
		if o.Spec.Group == v1beta1.GroupVersion.Group {
			f.CRDs = append(f.CRDs, convertCRD(&o))
		}
	}
	for _, o := range latestOf(d.FRR) {
		f.FRR = append(f.FRR, migrate.Object{Kind: frrKind, Namespace: o.Namespace, Name: o.Name})
	}
	for _, o := range latestOf(d.ConfigMaps) {
		x := migrate.Object{Kind: "ConfigMap", Namespace: o.Namespace, Name: o.Name, Keys: slices.Sorted(maps.Keys(o.Data))}
		if o.Namespace == namespace {
			f.ConfigMaps = append(f.ConfigMaps, x)
		}
		f.Graphs = append(f.Graphs, graph(x, strings.Join(slices.Collect(maps.Values(o.Data)), "\n"))...)
	}
	for _, o := range latestOf(d.Rules) {
		f.Graphs = append(f.Graphs, graph(migrate.Object{Kind: ruleKind, Namespace: o.Namespace, Name: o.Name}, string(o.Spec))...)
	}
	f.Secrets, f.Webhooks, f.Legacy = d.speakerSecrets(f.Workloads), d.webhooks(), d.legacyServices()
	return f
}

// speakerSecrets are the Secrets that workloads mount.
func (d *Dump) speakerSecrets(workloads []migrate.Workload) []migrate.Secret {
	var out []migrate.Secret
	for _, o := range latestOf(d.Secrets) {
		if !slices.ContainsFunc(workloads, func(w migrate.Workload) bool { return w.Namespace == o.Namespace && w.Secret == o.Name }) {
			continue
		}
		s := migrate.Secret{Namespace: o.Namespace, Name: o.Name}
		for _, ref := range o.OwnerReferences {
			s.Owner = ref.Kind + " " + ref.Name
		}
		out = append(out, s)
	}
	return out
}

// webhooks are the ValidatingWebhookConfigurations about our group that refuse what nobody answers for.
func (d *Dump) webhooks() []string {
	var out []string
	for _, o := range latestOf(d.Webhooks) {
		for _, h := range o.Webhooks {
			if h.FailurePolicy != nil && *h.FailurePolicy == admissionv1.Ignore {
				continue // such as ours
			}
			for _, r := range h.Rules {
				if slices.Contains(r.APIGroups, v1beta1.GroupVersion.Group) && !slices.Contains(out, o.Name) {
					out = append(out, o.Name)
				}
			}
		}
	}
	return out
}

// legacyServices are the Services with annotations of MetalLB's former prefix.
func (d *Dump) legacyServices() []migrate.Object {
	var out []migrate.Object
	for _, o := range latestOf(d.Services) {
		x := migrate.Object{Kind: "Service", Namespace: o.Namespace, Name: o.Name}
		for k := range o.Annotations {
			if strings.HasPrefix(k, "metallb.universe.tf/") {
				x.Keys = append(x.Keys, k)
			}
		}
		if slices.Sort(x.Keys); len(x.Keys) > 0 {
			out = append(out, x)
		}
	}
	return out
}

// MarkMissingMigration notes what files do not say and a migration depends on. Of kinds
// that a cluster need not have, files without them are taken to say that there are none.
func (d *Dump) MarkMissingMigration() {
	if len(d.CRDs) == 0 {
		d.Gaps = append(d.Gaps, explain.Gap{From: migrate.FromCRDs, Needs: "customresourcedefinitions in the files"})
	}
	if !slices.ContainsFunc(d.Secrets, func(o corev1.Secret) bool { return len(o.Data["password"]) == 0 }) {
		d.Gaps = append(d.Gaps, explain.Gap{From: migrate.FromSecrets, Needs: "the Secret with the memberlist key in the files; its data may be left out"})
	}
}

func convertCRD(o *CRD) migrate.CRD {
	c := migrate.CRD{Name: o.Name, Keep: o.Annotations[helmPolicy] == "keep", Converts: o.Spec.Conversion.Strategy == "Webhook"}
	if name := o.Annotations[helmRelease]; name != "" {
		c.Release = o.Annotations[helmNamespace] + "/" + name
	}
	field, has := additions[o.Name]
	c.Additions = !has
	for _, v := range o.Spec.Versions {
		if _, ok := v.Schema.OpenAPIV3Schema.Properties.Spec.Properties[field]; ok {
			c.Additions = true
		}
	}
	return c
}

var frrMetric = regexp.MustCompile(`frrk8s_[a-z0-9_]+`)

// graph returns what an object asks for that BareLB has not, if anything.
func graph(o migrate.Object, text string) []migrate.Graph {
	names := frrMetric.FindAllString(text, -1)
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	o.Keys = nil
	return []migrate.Graph{{Object: o, Metrics: slices.Compact(names)}}
}

// fleetOf finds the workloads of MetalLB, frr-k8s and BareLB.
func (d *Dump) fleetOf() []migrate.Workload {
	var out []migrate.Workload
	add := func(kind string, o metav1.Object, replicas int, pod *corev1.PodTemplateSpec) {
		if w, ok := convertWorkload(pod); ok {
			w.Object = migrate.Object{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
			w.Replicas = replicas
			out = append(out, w)
		}
	}
	for _, o := range latestOf[appsv1.Deployment](d.Deployments) {
		replicas := 1
		if o.Spec.Replicas != nil {
			replicas = int(*o.Spec.Replicas)
		}
		add("Deployment", &o, replicas, &o.Spec.Template)
	}
	for _, o := range latestOf[appsv1.DaemonSet](d.DaemonSets) {
		add("DaemonSet", &o, 0, &o.Spec.Template)
	}
	slices.SortFunc(out, func(a, b migrate.Workload) int { return cmp.Compare(a.String(), b.String()) })
	return out
}

// convertWorkload says what a Pod template is, if it is of one of the three.
func convertWorkload(pod *corev1.PodTemplateSpec) (migrate.Workload, bool) {
	w := migrate.Workload{
		Component: cmp.Or(pod.Labels["component"], pod.Labels["app.kubernetes.io/component"]), Labels: pod.Labels,
		Flags: map[string]string{}, Env: map[string]string{}, Account: pod.Spec.ServiceAccountName,
	}
	name := cmp.Or(pod.Labels["app"], pod.Labels["app.kubernetes.io/name"])
	for i := range pod.Spec.Containers {
		ctr := &pod.Spec.Containers[i]
		switch {
		case strings.Contains(ctr.Image, "barelb") && (w.Component == v1beta1.ComponentController || w.Component == v1beta1.ComponentSpeaker):
			w.Maker = migrate.BareLB
		case w.Maker == "" && (name == "frr-k8s" || strings.Contains(ctr.Image, "frr-k8s")):
			w.Maker, w.Component = migrate.FRRK8s, ""
		case w.Maker == "" && (name == "metallb" || strings.Contains(ctr.Image, "metallb/")):
			w.Maker = migrate.MetalLB
		}
		for _, p := range ctr.Ports {
			if port := int(p.ContainerPort); pod.Spec.HostNetwork && !slices.Contains(w.Ports, port) {
				w.Ports = append(w.Ports, port)
			}
		}
		if len(pod.Spec.Containers) == 1 || ctr.Name == w.Component {
			parseArgs(w.Flags, slices.Concat(ctr.Command, ctr.Args))
			for _, e := range ctr.Env {
				w.Env[e.Name] = cmp.Or(e.Value, "(from elsewhere)")
			}
		}
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.Secret != nil && strings.Contains(v.Name+v.Secret.SecretName, "memberlist"):
			w.Secret = v.Secret.SecretName
		case v.ConfigMap != nil:
			w.Mounts = append(w.Mounts, v.ConfigMap.Name)
		}
	}
	return w, w.Maker != ""
}

// parseArgs reads flags with one dash or two, with = or a word of its own.
func parseArgs(into map[string]string, args []string) {
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			continue
		}
		name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !given {
			value = "true"
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				value = args[i+1]
			}
		}
		into[name] = value
	}
}
