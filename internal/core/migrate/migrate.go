// Package migrate says what changes when BareLB takes MetalLB's place in a cluster, and
// what is lost if it is done in the wrong order. Facts are what is known of the cluster,
// as plain values; Check makes Findings of them. The ways there and back, in order, are
// in docs/migration.md.
package migrate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
)

// Facts are what is known of a cluster in which MetalLB runs, and BareLB maybe too. They
// are never changed.
type Facts struct {
	Cluster    *explain.Cluster
	CRDs       []CRD
	Workloads  []Workload // MetalLB's, frr-k8s' and BareLB's, sorted
	FRR        []Object   // FRRConfigurations
	ConfigMaps []Object   // of the configuration's namespace
	Graphs     []Graph    // dashboards and alerts
	Secrets    []Secret   // that speakers mount
	Webhooks   []string   // ValidatingWebhookConfigurations about metallb.io
	Legacy     []Object   // Services with annotations of metallb.universe.tf; Keys are the annotations
}

// Object names an object, and the keys of its data.
type Object struct {
	Kind, Namespace, Name string
	Keys                  []string
}

// String returns the object's kind, namespace and name.
func (o Object) String() string { return o.Kind + " " + o.Namespace + "/" + o.Name }

// CRD is a CustomResourceDefinition of metallb.io.
type CRD struct {
	Name      string // such as bgppeers.metallb.io
	Release   string // namespace/name of the Helm release that owns it; "" for none
	Keep      bool   // it has helm.sh/resource-policy: keep
	Converts  bool   // by a webhook
	Additions bool   // its schema has BareLB's additional fields, or there are none for it
}

// Graph is a dashboard or a list of alerts, and the metrics in it that BareLB has not.
type Graph struct {
	Object
	Metrics []string
}

// Secret is what is known of a Secret. What is in it is not.
type Secret struct {
	Namespace, Name string
	Owner           string // what it is removed with, such as "Deployment metallb-controller"; "" for none
}

// Maker says whose a Workload is.
type Maker string

// The makers.
const (
	MetalLB Maker = "MetalLB"
	FRRK8s  Maker = "frr-k8s"
	BareLB  Maker = "BareLB"
)

// Workload is a Deployment or DaemonSet of MetalLB, frr-k8s or BareLB.
type Workload struct {
	Object
	Maker     Maker
	Component string // "controller" or "speaker"
	Replicas  int    // wanted, of a Deployment
	Account   string // ServiceAccount of its Pods
	// Labels are those of its Pods.
	Labels map[string]string
	// Flags and Env are of the container that is the component. A switch without a value
	// is "true".
	Flags, Env map[string]string
	Ports      []int    // that it opens on nodes, as far as it declares them
	Secret     string   // that is mounted where the memberlist key is looked for
	Mounts     []string // ConfigMaps
}

// setting returns the value of a flag, else of the variable that stands for it.
func (w *Workload) setting(flag, env, def string) string {
	return cmp.Or(w.Flags[flag], w.Env[env], def)
}

// The sources of facts beyond those of explain.
const (
	FromCRDs       explain.Source = "customresourcedefinitions"
	FromWebhooks   explain.Source = "validatingwebhookconfigurations"
	FromFRR        explain.Source = "frrconfigurations"
	FromConfigMaps explain.Source = "configmaps of the configuration's namespace"
	FromDashboards explain.Source = "dashboards and alerts"
	FromSecrets    explain.Source = "secrets of speakers"
)

// Reasons of the Findings.
const (
	CRDsDeleted       lb.Reason = "CRDsDeletedWithRelease"
	CRDsOwned         lb.Reason = "CRDsOwnedByRelease"
	FieldsPruned      lb.Reason = "FieldsPruned"
	ConversionWebhook lb.Reason = "ConversionWebhook"
	ConversionMissing lb.Reason = "ConversionWebhookMissing"
	RefusedByMetalLB  lb.Reason = "RefusedByMetalLB"
	TwoControllers    lb.Reason = "TwoControllers"
	PortsShared       lb.Reason = "PortsShared"
	TwoOnOneNode      lb.Reason = "TwoSpeakersOnOneNode"
	NoMembership      lb.Reason = "NoMembership"
	KeyDiffers        lb.Reason = "MemberlistKeyDiffers"
	KeyDeleted        lb.Reason = "MemberlistKeyDeleted"
	LabelsDiffer      lb.Reason = "MemberlistLabelsDiffer"
	OtherNamespace    lb.Reason = "OtherNamespace"
	RightsReplaced    lb.Reason = "RightsReplaced"
	WebhookRefuses    lb.Reason = "WebhookRefuses"
	NoCounterpart     lb.Reason = "NoCounterpart"
	RoutesStay        lb.Reason = "RoutesStay"
	NotMounted        lb.Reason = "NotMounted"
	LegacyConfig      lb.Reason = "LegacyConfiguration"
	MetricsMissing    lb.Reason = "MetricsMissing"
	FlagUnknown       lb.Reason = "FlagUnknown"
	FlagIgnored       lb.Reason = "FlagIgnored"
	FlagToCarry       lb.Reason = "FlagToCarryOver"
	FlagDiffers       lb.Reason = "FlagDiffers"
	AddressLost       lb.Reason = "AddressLost"
	AnnotationLegacy  lb.Reason = "AnnotationLegacy"
	TimersZero        lb.Reason = "TimersZero"
)

// Check says what is different, worst first. Each check yields at least one Finding, be
// it that it could not be made.
func Check(f *Facts) []explain.Finding {
	var out []explain.Finding
	for _, check := range []func(*Facts) []explain.Finding{
		installed, crds, controllers, nodes, membership, key, rights, settings, webhooks, native, frr, configMaps, graphs, addresses, configuration, annotations,
	} {
		out = append(out, check(f)...)
	}
	slices.SortStableFunc(out, func(a, b explain.Finding) int { return slices.Index(order, a.Level) - slices.Index(order, b.Level) })
	return out
}

//nolint:gochecknoglobals // it is never changed
var order = []explain.Level{explain.Broken, explain.NotChecked, explain.Warning, explain.Info, explain.OK}

// Safe reports whether nothing was found that makes an address or an object be lost, and
// everything that could be such was looked at.
func Safe(found []explain.Finding) bool {
	return !slices.ContainsFunc(found, func(x explain.Finding) bool { return x.Level == explain.Broken || x.Level == explain.NotChecked })
}

// finding is an explain.Finding in the making.
type finding explain.Finding

func say(level explain.Level, check string, reason lb.Reason, format string, args ...any) finding {
	return finding{Level: level, Check: check, Reason: reason, What: fmt.Sprintf(format, args...)}
}

func fine(check, format string, args ...any) []explain.Finding {
	return []explain.Finding{{Level: explain.OK, Check: check, What: fmt.Sprintf(format, args...)}}
}

func (x finding) seen(evidence ...string) finding {
	x.Evidence = evidence
	return x
}

func (x finding) remedy(format string, args ...any) explain.Finding {
	x.Remedy = fmt.Sprintf(format, args...)
	return explain.Finding(x)
}

// unknown returns the Finding about a source that could not be read, if that is so.
func (f *Facts) unknown(check string, sources ...explain.Source) []explain.Finding {
	for _, g := range f.Cluster.Gaps {
		if slices.Contains(sources, g.From) {
			return []explain.Finding{{Level: explain.NotChecked, Check: check, What: g.NotChecked(), Remedy: "run this as an administrator of the cluster; it reads only"}}
		}
	}
	return nil
}

// of returns the workloads of a maker that are a component.
func (f *Facts) of(m Maker, component string) []*Workload {
	var out []*Workload
	for i := range f.Workloads {
		if w := &f.Workloads[i]; w.Maker == m && w.Component == component {
			out = append(out, w)
		}
	}
	return out
}

// some returns the first of a list, and how many more there are.
func some(all []string) []string {
	const most = 10
	if len(all) <= most {
		return all
	}
	return append(slices.Clone(all[:most]), fmt.Sprintf("and %d more", len(all)-most))
}

func installed(f *Facts) []explain.Finding {
	const check = "installed"
	if gap := f.unknown(check, explain.FromWorkloads); gap != nil {
		return gap
	}
	var out []string
	for i := range f.Workloads {
		out = append(out, fmt.Sprintf("%s: %s", f.Workloads[i].Maker, f.Workloads[i]))
	}
	if len(out) == 0 {
		return []explain.Finding{{Level: explain.Info, Check: check, What: "neither MetalLB nor BareLB is found in any Deployment or DaemonSet"}}
	}
	return []explain.Finding{{Level: explain.OK, Check: check, What: strings.Join(out, "; ")}}
}
