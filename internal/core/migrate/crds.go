package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/explain"
)

// crds looks at who owns the CRDs. Helm's uninstall deletes what stands in its release,
// and looks for the annotation there and not in the cluster; its upgrade looks at what is
// in the cluster.
func crds(f *Facts) []explain.Finding {
	const check = "CRDs"
	if gap := f.unknown(check, FromCRDs); gap != nil {
		return gap
	}
	if len(f.CRDs) == 0 {
		return []explain.Finding{{Level: explain.Info, Check: check, What: "there are no CRDs of metallb.io"}}
	}
	var out []explain.Finding
	var lost, owned, old, names []string
	release := ""
	for _, c := range f.CRDs {
		at := fmt.Sprintf("CustomResourceDefinition %s: metadata.annotations", c.Name)
		switch {
		case c.Release == "":
		case !c.Keep:
			lost, names, release = append(lost, at), append(names, c.Name), c.Release
		default:
			owned, release = append(owned, at), c.Release
		}
		if !c.Additions {
			old = append(old, c.Name)
		}
		if c.Converts {
			out = append(out, say(explain.Warning, check, ConversionWebhook, "%s is converted by MetalLB's webhook: its objects cannot be read in the other version while MetalLB's controller is away", c.Name).
				seen(fmt.Sprintf("CustomResourceDefinition %s: spec.conversion.strategy: Webhook", c.Name)).
				remedy(`kubectl patch crd %s --type=merge -p '{"spec":{"conversion":{"strategy":"None","webhook":null}}}', and apply BareLB's CRDs, before MetalLB's controller is stopped: they need no webhook`, c.Name))
		}
	}
	if len(lost) > 0 {
		out = append(out, say(explain.Broken, check, CRDsDeleted, "uninstalling the Helm release %s deletes the CRDs, and with them every pool, advertisement and peer", release).seen(lost...).
			remedy("kubectl annotate crd helm.sh/resource-policy=keep %s; then take them out of the release: helm upgrade … --reuse-values --set crds.enabled=false", strings.Join(names, " ")))
	}
	if len(owned) > 0 {
		ns, name, _ := strings.Cut(release, "/")
		out = append(out, say(explain.Warning, check, CRDsOwned, "the CRDs are marked keep and belong to the Helm release %s: helm uninstall spares them only if the release does not have them any more, and no other release can own them", release).seen(owned...).
			remedy("helm get manifest %s -n %s | grep -c CustomResourceDefinition must say 0 (else: helm upgrade … --reuse-values --set crds.enabled=false); then give them to the release that is to own them, by meta.helm.sh/release-name and release-namespace", name, ns))
	}
	if len(old) > 0 {
		out = append(out, say(explain.Info, check, FieldsPruned, "the schemas are MetalLB's: they drop BareLB's additional fields (failback, med, asPathPrepend, weightByEndpoints, ttlSecurityHops) and conditions").seen(strings.Join(old, ", ")).
			remedy("apply BareLB's CRDs; nothing that is stored changes by that"))
	}
	out = append(out, additions(f)...)
	if len(out) == 0 {
		out = fine(check, "none belongs to a Helm release, and all have BareLB's fields")
	}
	return out
}

// additions names what MetalLB's CRDs drop on the way back.
func additions(f *Facts) []explain.Finding {
	var fields []string
	use := func(used bool, kind, name, field string) {
		if used {
			fields = append(fields, fmt.Sprintf("%s %s: spec.%s", kind, name, field))
		}
	}
	o := &f.Cluster.Objects
	for _, a := range o.L2 {
		use(a.Failback != "", "L2Advertisement", a.Name, "failback")
	}
	for _, a := range o.BGP {
		use(a.MED != nil, "BGPAdvertisement", a.Name, "med")
		use(a.Prepend > 0, "BGPAdvertisement", a.Name, "asPathPrepend")
		use(a.WeightByEndpoints, "BGPAdvertisement", a.Name, "weightByEndpoints")
	}
	for _, p := range o.Peers {
		use(p.TTLSecurityHops > 0, "BGPPeer", p.Name, "ttlSecurityHops")
	}
	if len(fields) == 0 {
		return nil
	}
	return []explain.Finding{say(explain.Warning, "CRDs", FieldsPruned, "MetalLB has no such fields: its CRDs drop them at the next change of the object, on the way back").seen(some(fields)...).
		remedy("keep a copy before going back: kubectl get ipaddresspools,l2advertisements,bgpadvertisements,bgppeers,bfdprofiles,communities -n %s -o yaml", f.Cluster.Namespace)}
}

// peersCRD is the one that MetalLB converts.
const peersCRD = "bgppeers.metallb.io"

// running reports whether MetalLB's controller is to run, with its webhook.
func running(f *Facts) bool {
	return slices.ContainsFunc(f.of(MetalLB, "controller"), func(w *Workload) bool { return w.Replicas > 0 && w.Flags["webhook-mode"] != "disabled" })
}

func webhooks(f *Facts) []explain.Finding {
	const check = "webhook"
	if gap := f.unknown(check, FromWebhooks); gap != nil {
		return gap
	}
	if len(f.Webhooks) == 0 {
		return fine(check, "no ValidatingWebhookConfiguration refuses objects of metallb.io while nobody answers")
	}
	var out []explain.Finding
	if running(f) && slices.ContainsFunc(f.CRDs, func(c CRD) bool { return c.Name == peersCRD && !c.Converts }) {
		out = append(out, say(explain.Warning, check, ConversionMissing, "MetalLB's controller serves no webhook until it has put its certificate into the CRD of BGPPeers, which asks for none: every change of a pool, advertisement or peer is refused").
			seen(fmt.Sprintf("CustomResourceDefinition %s: spec.conversion.strategy: None", peersCRD)).
			remedy("on the way there: go on, it is to be stopped; on the way back: give the CRD MetalLB's conversion again: docs/migration.md, The way back"))
	}
	for _, name := range f.Webhooks {
		out = append(out, say(explain.Warning, check, WebhookRefuses, "once MetalLB's controller is stopped, every change of a pool, advertisement or peer is refused").
			seen(fmt.Sprintf("ValidatingWebhookConfiguration %s: webhooks[].failurePolicy", name)).
			remedy("after stopping MetalLB's controller: kubectl delete validatingwebhookconfiguration %s", name))
	}
	return out
}
