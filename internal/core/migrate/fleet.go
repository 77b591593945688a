package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/explain"
)

// controllers sees to it that one allocates.
func controllers(f *Facts) []explain.Finding {
	const check = "controllers"
	if gap := f.unknown(check, explain.FromWorkloads); gap != nil {
		return gap
	}
	var theirs, ours []string
	for _, w := range f.of(MetalLB, "controller") {
		if w.Replicas > 0 && w.Flags["webhook-mode"] != "onlywebhook" {
			theirs = append(theirs, fmt.Sprintf("%s: spec.replicas: %d", w, w.Replicas))
		}
	}
	for _, w := range f.of(BareLB, "controller") {
		if w.Replicas > 0 {
			ours = append(ours, fmt.Sprintf("%s: spec.replicas: %d", w, w.Replicas))
		}
	}
	stop := "kubectl -n " + f.Cluster.Namespace + " scale deployment NAME --replicas=0 for the one that is to stop; Services keep their addresses without a controller"
	switch {
	case len(theirs) > 0 && len(ours) > 0:
		return []explain.Finding{say(explain.Broken, check, TwoControllers, "two controllers allocate at once: one address can be given twice").seen(append(theirs, ours...)...).remedy("%s", stop)}
	case len(theirs) > 0:
		return []explain.Finding{say(explain.Warning, check, TwoControllers, "MetalLB's controller must be stopped before BareLB's starts").seen(theirs...).remedy("%s", stop)}
	}
	return fine(check, "at most one allocates")
}

// needed are the ports that BareLB's speakers open on nodes.
//
//nolint:gochecknoglobals // it is never changed
var needed = map[int]string{7946: "memberlist", 9120: "metrics", 17472: "health"}

// nodes looks at what two speakers on one node would do to each other.
func nodes(f *Facts) []explain.Finding {
	const check = "nodes"
	if gap := f.unknown(check, explain.FromWorkloads); gap != nil {
		return gap
	}
	theirs, ours := f.of(MetalLB, "speaker"), f.of(BareLB, "speaker")
	if len(theirs) == 0 {
		return fine(check, "MetalLB has no speakers")
	}
	var out []explain.Finding
	for _, w := range theirs {
		taken := map[int]string{}
		for port, what := range needed {
			if slices.Contains(w.Ports, port) {
				taken[port] = what
			}
		}
		for _, o := range ours {
			taken = map[int]string{}
			for _, port := range w.Ports {
				if slices.Contains(o.Ports, port) {
					taken[port] = "of both"
				}
			}
		}
		var evidence []string
		for _, port := range slices.Sorted(maps.Keys(taken)) {
			evidence = append(evidence, fmt.Sprintf("%s: containers[].ports: %d (%s)", w, port, taken[port]))
		}
		if len(evidence) == 0 && len(ours) > 0 {
			out = append(out, say(explain.Broken, check, TwoOnOneNode, "nothing keeps speakers of both off one node: they declare no port in common, and their BGP sessions would end each other").
				seen(w.String(), ours[0].String()).remedy("give both DaemonSets node selectors that exclude each other: docs/migration.md, step 5"))
		} else {
			out = append(out, say(explain.Warning, check, PortsShared, "a node has room for the speaker of one only: it stays Pending while the other's is there").seen(evidence...).
				remedy("move node by node by a label: docs/migration.md, step 5"))
		}
	}
	return out
}

// membership sees whether speakers of both would find each other: if they do not, each
// kind elects owners of its own, and two nodes answer for one address.
func membership(f *Facts) []explain.Finding {
	const check = "membership"
	if gap := f.unknown(check, explain.FromWorkloads); gap != nil {
		return gap
	}
	var out []explain.Finding
	for _, w := range f.of(MetalLB, "speaker") {
		out = append(out, meets(f, w)...)
	}
	if len(out) == 0 {
		out = fine(check, "speakers of both find each other, and have one key")
	}
	return out
}

// defaultSpeaker is BareLB's DaemonSet as deploy/install.yaml has it, for a cluster in
// which it is not installed yet.
func defaultSpeaker(namespace string) *Workload {
	return &Workload{
		Object: Object{Kind: "DaemonSet", Namespace: namespace, Name: "speaker"}, Maker: BareLB, Component: "speaker", Secret: "memberlist", Account: "speaker",
		Labels: map[string]string{"app": "metallb", "component": "speaker"},
		Env:    map[string]string{"METALLB_ML_LABELS": "app=metallb,component=speaker"},
	}
}

func meets(f *Facts, theirs *Workload) []explain.Finding {
	const check = "membership"
	ours := defaultSpeaker(f.Cluster.Namespace)
	if all := f.of(BareLB, "speaker"); len(all) > 0 {
		ours = all[0]
	}
	var out []explain.Finding
	labels := func(w *Workload) string { return w.setting("ml-labels", "METALLB_ML_LABELS", "") }
	if labels(theirs) == "" {
		return []explain.Finding{say(explain.Broken, check, NoMembership, "MetalLB's speakers do not use memberlist: with speakers of both kinds, two nodes answer for one address").
			seen(fmt.Sprintf("%s: env METALLB_ML_LABELS is not set", theirs)).
			remedy("turn memberlist on before migrating (chart: speaker.memberlist.enabled=true), or replace all speakers at once")}
	}
	if theirs.Namespace != ours.Namespace {
		out = append(out, say(explain.Broken, check, OtherNamespace, "speakers look for each other in their own namespace").seen(theirs.String(), ours.String()).
			remedy("install BareLB in namespace %s", theirs.Namespace))
	}
	if !selects(labels(theirs), ours.Labels) && !selects(labels(ours), theirs.Labels) {
		out = append(out, say(explain.Broken, check, LabelsDiffer, "speakers of the two do not find each other: two nodes would answer for one address").
			seen(fmt.Sprintf("%s: env METALLB_ML_LABELS: %s", theirs, labels(theirs)), fmt.Sprintf("%s: env METALLB_ML_LABELS: %s", ours, labels(ours))).
			remedy("add the labels %s to the Pod template of BareLB's DaemonSet", labels(theirs)))
	}
	if theirs.Secret != ours.Secret {
		out = append(out, say(explain.Broken, check, KeyDiffers, "speakers of the two have keys from different Secrets, and do not hear each other: two nodes would answer for one address").
			seen(fmt.Sprintf("%s: Secret %q", theirs, theirs.Secret), fmt.Sprintf("%s: Secret %q", ours, ours.Secret)).
			remedy("have BareLB use Secret %s: the volume memberlist of its DaemonSet, and METALLB_ML_SECRET_NAME of its controller", theirs.Secret))
	}
	return out
}

// rights sees whether installing one takes away what the speakers of the other may do. Roles
// have the names that MetalLB's manifests give them, so that what is installed over MetalLB has
// no more rights than it needs.
func rights(f *Facts) []explain.Finding {
	const check = "rights"
	if gap := f.unknown(check, explain.FromWorkloads); gap != nil {
		return gap
	}
	ours := defaultSpeaker(f.Cluster.Namespace)
	if all := f.of(BareLB, "speaker"); len(all) > 0 {
		ours = all[0]
	}
	var out []explain.Finding
	for _, w := range f.of(MetalLB, "speaker") {
		release, fromChart := strings.CutSuffix(w.Name, "-speaker")
		switch {
		case w.Namespace != ours.Namespace || ours.Name != "speaker":
		case w.Account != "" && w.Account == ours.Account:
			out = append(out, say(explain.Warning, check, RightsReplaced, "MetalLB's speakers have the ServiceAccount of BareLB's, whose roles replace MetalLB's: those that still run may then not read Secrets and ConfigMaps, nor write FRRConfigurations").
				seen(fmt.Sprintf("%s: spec.template.spec.serviceAccountName: %s", w, w.Account)).
				remedy("give them a copy of MetalLB's roles before BareLB is applied: docs/migration.md, MetalLB installed by its manifests"))
		case fromChart && release == w.Namespace:
			out = append(out, say(explain.Broken, check, RightsReplaced, "MetalLB's ClusterRoles have the names of BareLB's, which replace them, and helm uninstall deletes them").
				seen(fmt.Sprintf("%s: ClusterRole %s:speaker", w, release)).
				remedy("give BareLB's other names: helm install barelb deploy/chart --set fullnameOverride=barelb, or helm template in place of deploy/install.yaml"))
		}
	}
	if len(out) == 0 {
		out = fine(check, "installing one takes no rights from the other")
	}
	return out
}

// selects reports whether labels, written a=b,c=d, are all among those of a Pod.
func selects(labels string, pod map[string]string) bool {
	for pair := range strings.SplitSeq(labels, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || pod[k] != strings.TrimPrefix(v, "=") {
			return false
		}
	}
	return true
}

// key sees whether the Secret with the key outlives MetalLB.
func key(f *Facts) []explain.Finding {
	const check = "memberlist key"
	if gap := f.unknown(check, FromSecrets); gap != nil {
		return gap
	}
	var out []explain.Finding
	for _, s := range f.Secrets {
		if s.Owner == "" {
			continue
		}
		ours := slices.ContainsFunc(f.of(BareLB, "controller"), func(w *Workload) bool { return s.Owner == "Deployment "+w.Name })
		if ours && len(f.of(MetalLB, "speaker")) == 0 {
			continue
		}
		out = append(out, say(explain.Broken, check, KeyDeleted, "the Secret with the speakers' key is removed together with %s: speakers that start after that have no key, or another", s.Owner).
			seen(fmt.Sprintf("Secret %s/%s: metadata.ownerReferences", s.Namespace, s.Name)).
			remedy(`kubectl -n %s patch secret %s --type=merge -p '{"metadata":{"ownerReferences":null}}'`, s.Namespace, s.Name))
	}
	if len(out) == 0 {
		out = fine(check, "its Secret stays when MetalLB goes")
	}
	return out
}
