package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/explain"
)

// frr looks for what frr-k8s does beside MetalLB, and for what it leaves behind.
func frr(f *Facts) []explain.Finding {
	const check = "FRR"
	if gap := f.unknown(check, FromFRR); gap != nil {
		return gap
	}
	var own, others []string
	for _, o := range f.FRR {
		if strings.HasPrefix(o.Name, "metallb-") {
			own = append(own, o.String())
		} else {
			others = append(others, o.String())
		}
	}
	var out []explain.Finding
	if len(others) > 0 {
		out = append(out, say(explain.Warning, check, NoCounterpart, "these configure FRR beside MetalLB, and have no effect on BareLB: received routes, raw configuration, other sessions").seen(some(others)...).
			remedy("find out what each is for; if it is still needed, leave frr-k8s installed and let it peer with other routers than BareLB, or on another address"))
	}
	if len(own) > 0 {
		out = append(out, say(explain.Warning, check, RoutesStay, "frr-k8s goes on advertising a node's routes after MetalLB's speaker has left, from the same address as BareLB").seen(some(own)...).
			remedy("when a node is moved, keep frr-k8s off it by the same label, and kubectl delete frrconfiguration metallb-NODE: docs/migration.md, step 5"))
	}
	for _, w := range f.of(FRRK8s, "") {
		if len(own) == 0 {
			out = append(out, explain.Finding(say(explain.Info, check, NoCounterpart, "frr-k8s runs; BareLB does not use it").seen(w.String())))
		}
	}
	if len(out) == 0 {
		out = fine(check, "frr-k8s has no configuration here")
	}
	return out
}

// configMaps looks for those that MetalLB reads.
func configMaps(f *Facts) []explain.Finding {
	const check = "ConfigMaps"
	if gap := f.unknown(check, FromConfigMaps); gap != nil {
		return gap
	}
	var out []explain.Finding
	mounted := func(name string) bool {
		return slices.ContainsFunc(f.of(BareLB, "speaker"), func(w *Workload) bool { return slices.Contains(w.Mounts, name) })
	}
	for _, o := range f.ConfigMaps {
		switch {
		case o.Name == "bgpextras":
			out = append(out, say(explain.Warning, check, NoCounterpart, "its lines for FRR have no effect on BareLB").seen(o.String()+": data.extras").
				remedy("see whether a field of BGPPeer or BGPAdvertisement does the same: docs/bgp.md"))
		case o.Name == "config" && slices.Contains(o.Keys, "config"):
			out = append(out, say(explain.Warning, check, LegacyConfig, "this is the configuration of MetalLB before 0.13, which nothing reads any more").seen(o.String()+": data.config").
				remedy("kubectl barelb migrate convert prints it as objects"))
		case strings.HasSuffix(o.Name, "excludel2") && !mounted(o.Name):
			out = append(out, say(explain.Warning, check, NotMounted, "it names the links that speakers leave out; BareLB reads it too, if it is mounted, and else has MetalLB's default list").seen(o.String()).
				remedy("mount it in BareLB's DaemonSet at /etc/metallb, if it was changed"))
		case strings.HasSuffix(o.Name, "memberlist-config") && !mounted(o.Name):
			out = append(out, say(explain.Warning, check, NotMounted, "it tunes memberlist; speakers of both must have the same").seen(o.String()).
				remedy("mount it in BareLB's DaemonSet at /etc/metallb/memberlist"))
		}
	}
	if len(out) == 0 {
		out = fine(check, "none that MetalLB reads needs anything to be done")
	}
	return out
}

func graphs(f *Facts) []explain.Finding {
	const check = "metrics"
	if gap := f.unknown(check, FromDashboards); gap != nil {
		return gap
	}
	var out []explain.Finding
	for _, g := range f.Graphs {
		out = append(out, say(explain.Warning, check, MetricsMissing, "it asks for metrics that frr-k8s has and BareLB has not: it stays empty, and alerts do not fire").
			seen(fmt.Sprintf("%s: %s", g.Object, strings.Join(g.Metrics, ", "))).
			remedy("ask for metallb_bgp_… and metallb_bfd_… instead; the label peer is address:port there"))
	}
	if len(out) == 0 {
		out = fine(check, "no dashboard or alert asks for a metric of frr-k8s")
	}
	return out
}

// addresses asks the allocator whether it leaves to everybody what he has.
func addresses(f *Facts) []explain.Finding {
	const check = "addresses"
	if gap := f.unknown(check, explain.FromConfig, explain.FromNamespaces); gap != nil {
		return gap
	}
	kept, lost := explain.Takeover(f.Cluster)
	var out []explain.Finding
	for _, m := range lost {
		what := fmt.Sprintf("Service %s would not keep its address: %s", m.Service, m.Message)
		if m.Effect == explain.Readdr {
			what = fmt.Sprintf("Service %s would get another address: %s", m.Service, m.To)
		}
		out = append(out, say(explain.Broken, check, AddressLost, "%s", what).seen(fmt.Sprintf("Service %s: status.loadBalancer.ingress: %s", m.Service, m.From)).
			remedy("put the address into a pool that may serve it, or settle what it shares: docs/addresses.md"))
	}
	if len(out) == 0 {
		out = fine(check, "BareLB's controller leaves all addresses with the Services that have them (%d)", kept)
	}
	return out
}

// configuration asks what of the objects BareLB takes.
func configuration(f *Facts) []explain.Finding {
	const check = "configuration"
	if gap := f.unknown(check, explain.FromConfig); gap != nil {
		return gap
	}
	var out []explain.Finding
	for _, p := range explain.New(f.Cluster).Problems() {
		out = append(out, say(explain.Warning, check, p.Reason, "%s", p).remedy("correct the field; until then BareLB leaves this object out, alone"))
	}
	for _, p := range f.Cluster.Objects.Peers {
		if p.HoldTime != nil && *p.HoldTime == 0 && p.KeepaliveTime != nil && *p.KeepaliveTime == 0 {
			out = append(out, say(explain.Info, check, TimersZero, "no keepalives are sent, and a router that is gone is noticed by BFD alone; MetalLB's webhook makes that of a v1beta1 object without timers").
				seen(fmt.Sprintf("BGPPeer %s: spec.holdTime: 0s", p.Name)).remedy("set holdTime: 90s, if that was not meant"))
		}
	}
	if len(out) == 0 {
		out = fine(check, "BareLB takes all objects as they are written")
	}
	return out
}

func annotations(f *Facts) []explain.Finding {
	const check = "annotations"
	if len(f.Legacy) == 0 {
		return fine(check, "no Service uses metallb.universe.tf")
	}
	var evidence []string
	for _, o := range f.Legacy {
		evidence = append(evidence, fmt.Sprintf("%s: %s", o, strings.Join(o.Keys, ", ")))
	}
	return []explain.Finding{explain.Finding(say(explain.Info, check, AnnotationLegacy, "annotations of metallb.universe.tf work as those of metallb.io").seen(some(evidence)...))}
}
