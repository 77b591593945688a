package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
)

// native looks for what MetalLB refuses where its speakers speak BGP themselves. One such
// object has a speaker that starts load no configuration at all: it announces nothing, by
// Layer 2 neither, while the others take it for the owner of what is its by the formula.
func native(f *Facts) []explain.Finding {
	const check = "native mode"
	if gap := f.unknown(check, explain.FromWorkloads, explain.FromConfig); gap != nil {
		return gap
	}
	speakers := slices.DeleteFunc(f.of(MetalLB, "speaker"), func(w *Workload) bool {
		mode := w.setting("", "METALLB_BGP_TYPE", "native")
		return mode != "native"
	})
	if len(speakers) == 0 {
		return fine(check, "MetalLB has no speakers in native mode, which refuses objects that FRR and BareLB take")
	}
	refused := refusedByNative(&f.Cluster.Objects)
	if len(refused) == 0 {
		return fine(check, "MetalLB's speakers, which are in native mode, take all objects")
	}
	level := explain.Warning
	if len(f.of(BareLB, "speaker")) > 0 {
		level = explain.Broken
	}
	return []explain.Finding{say(level, check, RefusedByMetalLB, "MetalLB's speakers in native mode refuse these objects, and with them the whole configuration: one that starts announces nothing, and nobody answers for its addresses").
		seen(append(some(refused), speakers[0].String()+": env METALLB_BGP_TYPE is not frr or frr-k8s")...).
		remedy("take the fields and objects away while speakers of MetalLB run, or have MetalLB use frr-k8s")}
}

// refusedByNative names the fields and objects that only MetalLB's FRR modes know.
func refusedByNative(o *config.Objects) []string {
	var out []string
	use := func(used bool, kind, name, field string) {
		if used {
			out = append(out, fmt.Sprintf("%s %s: spec.%s", kind, name, field))
		}
	}
	for _, p := range o.BFDProfiles {
		out = append(out, "BFDProfile "+p.Name)
	}
	for i := range o.Peers {
		p := &o.Peers[i]
		for field, used := range map[string]bool{
			"bfdProfile": p.BFDProfile != "", "keepaliveTime": p.KeepaliveTime != nil && *p.KeepaliveTime != 0, "vrf": p.VRF != "", "connectTime": p.ConnectTime != nil,
			"enableGracefulRestart": p.GracefulRestart, "dualStackAddressFamily": p.DualStack, "dynamicASN": p.DynamicASN != "", "interface": p.Interface != "", "localASN": p.LocalASN != 0,
		} {
			use(used, config.KindBGPPeer, p.Name, field)
		}
	}
	for i := range o.Pools {
		p := &o.Pools[i]
		six := slices.ContainsFunc(p.Addresses, func(a string) bool { return strings.Contains(a, ":") })
		use(six && slices.ContainsFunc(o.BGP, func(a config.BGPAdvertisement) bool { return selectsPool(&a, p) }), config.KindIPAddressPool, p.Name, "addresses (IPv6, of a BGPAdvertisement)")
	}
	large := func(value string) bool { return strings.HasPrefix(value, "large:") }
	for i := range o.BGP {
		use(slices.ContainsFunc(o.BGP[i].Communities, large), config.KindBGPAdvertisement, o.BGP[i].Name, "communities (large)")
	}
	for _, c := range o.Communities {
		use(slices.ContainsFunc(c.Aliases, func(a config.CommunityAlias) bool { return large(a.Value) }), config.KindCommunity, c.Name, "communities (large)")
	}
	slices.Sort(out)
	return out
}

func selectsPool(a *config.BGPAdvertisement, p *config.IPAddressPool) bool {
	if len(a.Pools) == 0 && len(a.PoolSelectors) == 0 {
		return true
	}
	return slices.Contains(a.Pools, p.Name) || slices.ContainsFunc(a.PoolSelectors, func(s lb.Selector) bool { return s.Matches(p.Labels) })
}
