package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Reasons of the checks of the surroundings.
const (
	StrictARPOff      lb.Reason = "StrictARPOff"
	TwoLoadBalancers  lb.Reason = "TwoLoadBalancers"
	AllNodesExcluded  lb.Reason = "AllNodesExcluded"
	NodesExcluded     lb.Reason = "NodesExcluded"
	RangesOverlap     lb.Reason = "RangesOverlap"
	PortTaken         lb.Reason = "PortTaken"
	ClockSkew         lb.Reason = "ClockSkew"
	OtherBGPSpeaker   lb.Reason = "OtherBGPSpeaker"
	SpeakersDoNotMeet lb.Reason = "SpeakersDoNotMeet"
	SpeakersNotFenced lb.Reason = "SpeakersNotFenced"
	SecretsDiffer     lb.Reason = "SecretsDiffer"
	NodeNotReady      lb.Reason = "NodeNotReady"
)

// Doctor checks the surroundings: each check yields at least one Finding, be it that it
// could not be made.
func (w *World) Doctor() []Finding {
	var out []Finding
	for _, check := range []func() []Finding{
		w.components, w.readiness, w.rights, w.fence, w.checkConfiguration, w.excluded, w.proxyMode, w.proxies, w.balancers, w.otherBGP, w.ports,
		w.ranges, w.poolSubnets, w.conflicts, w.membership, w.routers, w.clocks,
	} {
		out = append(out, check()...)
	}
	return out
}

func (w *World) rights() []Finding {
	const check = "permissions"
	var out []Finding
	if g := w.c.gap(FromRights); g != nil {
		out = append(out, unknown(check, g))
	} else if len(w.c.Denied) > 0 {
		out = append(out, broken(check, MissingRight, "BareLB's own accounts may not do what they must").with(w.c.Denied...).
			remedy("apply the roles of this version: deploy/manifests/rbac.yaml"))
	} else {
		out = append(out, ok(check, "BareLB's accounts may do what they must"))
	}
	for _, g := range w.c.Gaps {
		if g.From != FromRights && g.Right {
			out = append(out, Finding{
				Level: NotChecked, Check: check, Reason: MissingRight, What: fmt.Sprintf("you may not read %s", g.From), Evidence: []string{"needs " + g.Needs},
				Remedy: "kubectl apply -f deploy/manifests/user-rbac.yaml, and bind the ClusterRole barelb:viewer",
			})
		}
	}
	return out
}

// fence says whether one speaker could write what another says. RBAC cannot tell nodes
// apart.
func (w *World) fence() []Finding {
	const check = "speakers' limits"
	if g := w.c.gap(FromPolicies); g != nil {
		return []Finding{unknown(check, g)}
	}
	switch w.c.Fence {
	case Fenced:
		return []Finding{ok(check, "the API server holds each speaker to the status objects of its own node")}
	case NotFenced:
	case CannotBeFenced:
		return []Finding{{
			Level: Info, Check: check, Reason: SpeakersNotFenced, What: "this API server has no ValidatingAdmissionPolicies: whoever has the token of one speaker can write what any node says",
			Remedy: "upgrade Kubernetes to 1.30 or later",
		}}
	}
	return []Finding{warning(check, SpeakersNotFenced, "no ValidatingAdmissionPolicy is in force for speakers: whoever has the token of one can write what any node says").
		remedy("kubectl apply -f deploy/manifests/admission.yaml, or admissionPolicy.enabled of the chart")}
}

func (w *World) checkConfiguration() []Finding {
	out := w.configuration()
	if len(out) > 0 {
		return out
	}
	if len(w.c.Objects.Pools) == 0 {
		return []Finding{warning("configuration", lb.NoPool, "there is no IPAddressPool in namespace %s", w.c.Namespace).remedy("kubectl barelb advise prints one")}
	}
	for _, p := range w.cfg.Pools {
		used := slices.ContainsFunc(w.cfg.L2, func(a *config.L2Adv) bool { return a.Pools[p.Name] }) ||
			slices.ContainsFunc(w.cfg.BGP, func(a *config.BGPAdv) bool { return a.Pools[p.Name] })
		if !used {
			out = append(out, warning("configuration", lb.NoMatchingAdvertisement, "no advertisement is for IPAddressPool %s: its addresses are given, and not announced", p.Name).
				remedy("create an L2Advertisement or BGPAdvertisement for it: kubectl barelb advise"))
		}
	}
	if len(out) == 0 {
		out = append(out, ok("configuration", "all objects are in force as written"))
	}
	return out
}

func (w *World) excluded() []Finding {
	const check = "exclude label"
	if w.c.Flags.IgnoreExcluded {
		return []Finding{ok(check, "speakers ignore it (--ignore-exclude-lb)")}
	}
	var names []string
	for _, n := range w.nodes {
		if n.Excluded {
			names = append(names, n.Name)
		}
	}
	remedy := "kubectl label nodes NODE node.kubernetes.io/exclude-from-external-load-balancers- (kubeadm and Talos set it on control-plane nodes)"
	switch {
	case len(names) > 0 && len(names) == len(w.nodes):
		return []Finding{broken(check, AllNodesExcluded, "all nodes carry node.kubernetes.io/exclude-from-external-load-balancers: nothing is announced").with(list(names)).remedy("%s", remedy)}
	case len(names) > 0:
		return []Finding{{Level: Info, Check: check, Reason: NodesExcluded, What: fmt.Sprintf("%d of %d nodes carry it, and announce nothing: %s", len(names), len(w.nodes), list(names)), Remedy: remedy}}
	}
	return []Finding{ok(check, "no node carries it")}
}

const (
	strictARPOff = "ConfigMap kube-system/kube-proxy: mode: ipvs, ipvs.strictARP: false"
	strictARPOn  = "set ipvs.strictARP: true in the ConfigMap kube-system/kube-proxy, and restart kube-proxy: kubectl -n kube-system rollout restart daemonset kube-proxy"
)

// answersEverywhere reports whether kube-proxy has every node answer ARP for every address.
func (w *World) answersEverywhere() bool {
	return w.c.Proxy.Known && w.c.Proxy.Mode == "ipvs" && !w.c.Proxy.StrictARP
}

func (w *World) proxyMode() []Finding {
	const check = "kube-proxy mode"
	if g := w.c.gap(FromProxyMode); g != nil {
		return []Finding{unknown(check, g)}
	}
	switch p := w.c.Proxy; {
	case !p.Known:
		return []Finding{{
			Level: NotChecked, Check: check, What: "not checked: there is no ConfigMap kube-proxy in kube-system",
			Remedy: "on a node: ipvsadm -L -n lists Services if it is IPVS; then net.ipv4.conf.all.arp_ignore must be 1 and arp_announce 2",
		}}
	case w.answersEverywhere():
		level := broken
		if len(w.cfg.L2) == 0 {
			level = warning
		}
		return []Finding{level(check, StrictARPOff, "kube-proxy is in mode ipvs without strictARP: all nodes answer ARP for all addresses of Services").
			with(strictARPOff).remedy(strictARPOn)}
	case p.Mode == "":
		return []Finding{ok(check, "the default, which does not answer ARP for addresses of Services")}
	default:
		what := p.Mode
		if p.StrictARP {
			what += " with strictARP"
		}
		return []Finding{ok(check, "%s", what)}
	}
}

// balancers looks for others that serve Services of the same class.
func (w *World) balancers() []Finding {
	const check = "load balancers"
	if g := w.c.gap(FromWorkloads); g != nil {
		return []Finding{unknown(check, g)}
	}
	var out []Finding
	byProduct := map[Product][]string{}
	for _, l := range w.c.Workloads {
		byProduct[l.Product] = append(byProduct[l.Product], l.Namespace+"/"+l.Name)
	}
	class := "Services without a loadBalancerClass"
	if w.c.Flags.Class != "" {
		class = "loadBalancerClass " + w.c.Flags.Class
	}
	for _, p := range []Product{OtherMetalLB, KubeVIP, PureLB, OpenELB, LoxiLB} {
		if names := byProduct[p]; len(names) > 0 {
			out = append(out, warning(check, TwoLoadBalancers, "%s runs too: two that serve %s take addresses from each other", p, class).
				with(list(names)).remedy("give one of them a class of its own (--lb-class), or remove it"))
		}
	}
	if names := byProduct[ServiceLB]; len(names) > 0 {
		out = append(out, broken(check, TwoLoadBalancers, "k3s servicelb serves the same Services: it writes node addresses into their status").
			with(list(names)).remedy("start k3s with --disable servicelb"))
	}
	if names := byProduct[Cilium]; len(names) > 0 {
		out = append(out, Finding{Level: Info, Check: check, What: "Cilium runs: its own load balancing (CiliumLoadBalancerIPPool, CiliumL2AnnouncementPolicy) must not serve the same Services", Evidence: []string{list(names)}})
	}
	if len(out) == 0 {
		out = append(out, ok(check, "none is found"))
	}
	return out
}

func (w *World) otherBGP() []Finding {
	const check = "BGP speakers"
	if g := w.c.gap(FromWorkloads); g != nil {
		return []Finding{unknown(check, g)}
	}
	var out []Finding
	for _, l := range w.c.Workloads {
		if l.Product != Calico && l.Product != KubeRouter && l.Product != Cilium {
			continue
		}
		f := Finding{Level: Info, Check: check, Reason: OtherBGPSpeaker, What: fmt.Sprintf("%s (%s/%s) can speak BGP", l.Product, l.Namespace, l.Name)}
		if len(w.cfg.Peers) > 0 {
			f.Level = Warning
			f.What += fmt.Sprintf(": if it has a session with %s too, the router accepts one of two sessions from a node", w.cfg.Peers[0].Addr)
		}
		out = append(out, f.remedy("let it advertise the addresses of Services (Calico: serviceLoadBalancerIPs), peer with other routers, or turn its BGP off"))
	}
	if len(out) == 0 {
		out = append(out, ok(check, "none is found"))
	}
	return out
}

// ranges compares the pools with what nodes, Pods and Services use.
func (w *World) ranges() []Finding {
	const check = "address ranges"
	var out []Finding
	for _, p := range w.cfg.Pools {
		for _, what := range w.overlaps(p) {
			out = append(out, broken(check, RangesOverlap, "IPAddressPool %s overlaps with %s", p.Name, what).remedy("take those addresses out of the pool"))
		}
	}
	if len(out) == 0 {
		out = append(out, ok(check, "no pool overlaps with addresses of nodes, Pods, cluster IPs or routers"))
	}
	if g := w.c.gap(FromRanges); g != nil {
		out = append(out, unknown(check, g).with("the cluster IPs of all Services were compared instead"))
	}
	return out
}

// overlaps says what a pool must not overlap with and does.
func (w *World) overlaps(p *config.Pool) []string {
	var out []string
	for _, n := range w.c.Nodes {
		for _, a := range n.Addrs {
			if p.Contains(a) {
				out = append(out, fmt.Sprintf("the address %s of node %s", a, n.Name))
			}
		}
		for _, pods := range n.PodRanges {
			if meets(p, pods) {
				out = append(out, fmt.Sprintf("the Pod range %s of node %s", pods, n.Name))
			}
		}
	}
	for _, r := range w.c.Ranges {
		if meets(p, r) {
			out = append(out, fmt.Sprintf("the range %s of cluster IPs", r))
		}
	}
	if key, a, in := w.clusterIPIn(p); in {
		out = append(out, fmt.Sprintf("cluster IPs: %s is that of Service %s", a, key))
	}
	for _, peer := range w.cfg.Peers {
		if p.Contains(peer.Addr) {
			out = append(out, fmt.Sprintf("the address %s of BGPPeer %s", peer.Addr, peer.Name))
		}
	}
	return out
}

// meets reports whether a pool shares an address with a prefix.
func meets(p *config.Pool, pfx netip.Prefix) bool {
	return slices.ContainsFunc(p.Ranges, func(r config.Range) bool {
		return pfx.Contains(r.First) || pfx.Contains(r.Last) || r.Contains(pfx.Masked().Addr())
	})
}

func (w *World) clusterIPIn(p *config.Pool) (lb.Key, netip.Addr, bool) {
	for _, key := range w.keys {
		for _, a := range w.services[key].ClusterIPs {
			if p.Contains(a) {
				return key, a, true
			}
		}
	}
	for _, o := range w.c.Others {
		for _, a := range o.ClusterIPs {
			if p.Contains(a) {
				return o.Key, a, true
			}
		}
	}
	return lb.Key{}, netip.Addr{}, false
}

// poolSubnets compares the pools that Layer 2 announces with the subnets of nodes.
func (w *World) poolSubnets() []Finding {
	const check = "subnets"
	subnets := map[string]bool{}
	known := 0
	for _, n := range w.nodes {
		at := w.prefixes(n.Name)
		if len(at) > 0 {
			known++
		}
		for _, p := range at {
			subnets[p.String()] = true
		}
	}
	if known == 0 {
		f := Finding{Level: NotChecked, Check: check, What: "not checked: the subnets of nodes are not known", Remedy: "compare the pools with the output of ip -br addr on the nodes"}
		if g := w.c.gap(FromSpeakers); g != nil {
			f.What = g.NotChecked()
		}
		return []Finding{f}
	}
	var out []Finding
	for _, p := range w.cfg.Pools {
		if !slices.ContainsFunc(w.cfg.L2, func(a *config.L2Adv) bool { return a.Pools[p.Name] }) {
			continue
		}
		for _, r := range p.Ranges {
			inside := 0
			for _, n := range w.nodes {
				if at := w.prefixes(n.Name); within(at, r.First) && within(at, r.Last) {
					inside++
				}
			}
			if inside == 0 && known == len(w.nodes) {
				out = append(out, warning(check, OutsideSubnets, "%s of IPAddressPool %s is in no subnet of a node, so Layer 2 cannot reach it unless routers send it to the nodes' subnet", r, p.Name).
					with("subnets: "+strings.Join(w.subnetTexts(), ", ")).remedy("use addresses of the nodes' subnet, or BGP"))
			}
		}
	}
	if len(out) == 0 {
		out = append(out, ok(check, "as far as known, each range is in a subnet of a node (%s)", strings.Join(w.subnetTexts(), ", ")))
	}
	return out
}
