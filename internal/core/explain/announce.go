package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// advertisements explains which advertisements are for the Service.
func (c *chain) advertisements() bool {
	var names []string
	for _, a := range c.l2 {
		names = append(names, "L2Advertisement "+a.Name)
	}
	for _, a := range c.bgp {
		names = append(names, "BGPAdvertisement "+a.Name)
	}
	if len(names) == 0 {
		f := broken("advertisement", lb.NoMatchingAdvertisement, "no L2Advertisement and no BGPAdvertisement is for IPAddressPool %s and this Service: it has an address, and nobody announces it", c.Pool).
			with(c.w.missed(c.Pool, c.svc)...).
			remedy("create an L2Advertisement (or BGPPeers and a BGPAdvertisement) with spec.ipAddressPools: [%s]: kubectl barelb advise prints it", c.Pool)
		for _, p := range c.w.cfg.Problems {
			if !p.InForce && (p.Kind == config.KindL2Advertisement || p.Kind == config.KindBGPAdvertisement) {
				f.Reason = SetAside
				f.What += fmt.Sprintf("; %s %s is set aside because of a mistake", p.Kind, p.Name)
				f = f.remedy("kubectl -n %s edit %s %s: %s", c.w.c.Namespace, strings.ToLower(p.Kind), p.Name, p.Field)
				break
			}
		}
		if said := c.w.announcing(c.svc.Key); f.Reason == SetAside && len(said.L2)+len(said.BGP) > 0 {
			nodes := slices.Concat(said.L2, said.BGP)
			slices.Sort(nodes)
			nodes = slices.Compact(nodes)
			f.Level = Warning
			f.What = fmt.Sprintf("%s %s it by the last good version of an advertisement that is set aside now because of a mistake: when the %s again, nobody does",
				list(nodes), verb(len(nodes), "announces", "announce"), verb(len(nodes), "speaker starts", "speakers start"))
		}
		c.add(f)
		return false
	}
	f := ok("advertisement", "%s", list(names))
	for _, p := range c.w.cfg.Problems {
		mine := p.Kind == config.KindL2Advertisement && slices.ContainsFunc(c.l2, func(a *config.L2Adv) bool { return a.Name == p.Name }) ||
			p.Kind == config.KindBGPAdvertisement && slices.ContainsFunc(c.bgp, func(a *config.BGPAdv) bool { return a.Name == p.Name })
		if mine {
			f.Level, f.Reason = Warning, p.Reason
			f.Evidence = append(f.Evidence, p.String())
		}
	}
	c.add(f)
	if all := c.outcomes(c.eligible, layer2); len(c.bgp) == 0 && len(all) == 1 && len(all[lb.SharedIPWithServiceSelector]) > 0 {
		c.add(broken("advertisement", lb.SharedIPWithServiceSelector, "%s", c.eligible[c.w.nodes[0].Name].L2.Message).
			remedy("take serviceSelectors out of the L2Advertisement, or allow-shared-ip off the Service"))
		return false
	}
	return true
}

// missed says of each advertisement why it is not for a Service.
func (w *World) missed(pool string, svc *plan.Service) []string {
	var out []string
	add := func(kind, name string, pools config.Names, sels []lb.Selector) {
		switch {
		case !pools[pool]:
			out = append(out, fmt.Sprintf("%s %s is for %s", kind, name, prefixed("IPAddressPool", slices.Sorted(maps.Keys(pools)))))
		case !lb.MatchesAny(sels, svc.Labels):
			out = append(out, fmt.Sprintf("%s %s has serviceSelectors that the Service's labels do not match: %s", kind, name, selectors(sels)))
		}
	}
	for _, a := range w.cfg.L2 {
		add("L2Advertisement", a.Name, a.Pools, a.ServiceSelectors)
	}
	for _, a := range w.cfg.BGP {
		add("BGPAdvertisement", a.Name, a.Pools, a.ServiceSelectors)
	}
	for _, p := range w.cfg.Problems {
		if p.Kind == config.KindL2Advertisement || p.Kind == config.KindBGPAdvertisement {
			out = append(out, p.String())
		}
	}
	if len(out) == 0 {
		out = []string{"there is no advertisement in namespace " + w.c.Namespace}
	}
	return out
}

func prefixed(word string, names []string) string {
	if len(names) == 0 {
		return "no " + word
	}
	return word + " " + list(names)
}

func selectors(sels []lb.Selector) string {
	parts := make([]string, len(sels))
	for i, s := range sels {
		parts[i] = "{" + s.String() + "}"
	}
	return strings.Join(parts, " or ")
}

// endpoints explains whether anything can take traffic.
func (c *chain) endpoints() bool {
	if g := c.w.c.gap(FromEndpoints); g != nil {
		c.add(unknown("endpoints", g))
		return true
	}
	if c.anywhere == 0 {
		f := broken("endpoints", lb.NoEndpoint, "no endpoint is ready, so no node announces the address")
		if len(c.svc.Endpoints) == 0 {
			f.Evidence = []string{"there are no endpoints: spec.selector matches no Pod, or the Service has none"}
		} else {
			f.Evidence = []string{fmt.Sprintf("%d endpoints, none of them ready", len(c.svc.Endpoints))}
		}
		c.add(f.remedy("kubectl -n %s get pods,endpointslices; compare the Pods' labels and readiness with the Service's selector", c.svc.Key.Namespace))
		return false
	}
	c.add(ok("endpoints", "%d ready on %s", c.anywhere, list(c.spread())))
	return true
}

// spread says how many endpoints are ready on each node.
func (c *chain) spread() []string {
	var out []string
	for _, node := range slices.Sorted(maps.Keys(c.ready)) {
		out = append(out, fmt.Sprintf("%s (%d)", cmp.Or(node, "an unknown node"), c.ready[node]))
	}
	return out
}

func layer2(v *plan.Verdict) plan.Outcome { return v.L2 }

func byBGP(v *plan.Verdict) plan.Outcome { return v.BGP }

// outcomes counts nodes by what they make of it.
func (c *chain) outcomes(verdicts map[string]*plan.Verdict, of func(*plan.Verdict) plan.Outcome) tally {
	t := tally{}
	for _, n := range c.w.nodes {
		t.add(of(verdicts[n.Name]).Reason, n.Name)
	}
	return t
}

// nodes explains which nodes may announce it if their speakers run.
func (c *chain) nodes() bool {
	if len(c.w.nodes) == 0 {
		c.add(broken("nodes", lb.NotAnnounced, "there is no node"))
		return false
	}
	works := false
	var out []Finding
	if len(c.l2) > 0 {
		t := c.outcomes(c.eligible, layer2)
		if can := slices.Concat(t[lb.Announced], t[lb.NotOwner]); len(t[lb.Announced]) > 0 {
			works = true
			slices.Sort(can)
			delete(t, lb.Announced)
			delete(t, lb.NotOwner)
			out = append(out, ok("nodes (layer2)", "%s can own the address", list(can)).with(t.lines()...))
		} else {
			var sels []lb.Selector
			for _, a := range c.l2 {
				sels = append(sels, a.NodeSelectors...)
			}
			out = append(out, c.noNode("nodes (layer2)", "no node can own the address in Layer 2 mode", t, sels))
		}
	}
	if len(c.bgp) > 0 {
		t := c.outcomes(c.eligible, byBGP)
		if can := t[lb.Announced]; len(can) > 0 {
			works = true
			delete(t, lb.Announced)
			out = append(out, ok("nodes (bgp)", "%s %s to routers", list(can), verb(len(can), "advertises it", "advertise it")).with(t.lines()...))
		} else {
			var sels []lb.Selector
			for _, a := range c.bgp {
				sels = append(sels, a.NodeSelectors...)
			}
			out = append(out, c.noNode("nodes (bgp)", "no node advertises the address by BGP", t, sels))
		}
	}
	for _, f := range out {
		if works && f.Level == Broken {
			f.Level = Warning // the other protocol does it
		}
		c.add(f)
	}
	return works
}

// noNode says why no node announces, in the words of those that come closest.
func (c *chain) noNode(check, what string, t tally, sels []lb.Selector) Finding {
	delete(t, lb.NotOwner) // that is what a node says of an address that nobody can own
	reason := lb.NotAnnounced
	if order := t.order(); len(order) > 0 {
		reason = order[0]
	}
	f := broken(check, reason, "%s", what).with(t.lines()...)
	if c.svc.TrafficLocal && len(t[lb.NoLocalEndpoint]) > 0 {
		var hosts []string
		for _, n := range c.w.nodes {
			if c.ready[n.Name] > 0 {
				hosts = append(hosts, n.Name)
			}
		}
		f.Reason = lb.NoLocalEndpoint
		f.What += fmt.Sprintf(": externalTrafficPolicy is Local, and the nodes that have a ready endpoint (%s) may not announce it", list(hosts))
		return f.remedy("have Pods run on other nodes, let those nodes announce, or set externalTrafficPolicy: Cluster")
	}
	if reason == lb.NoPeer {
		return c.noPeer(f)
	}
	if reason == lb.NoMatchingAdvertisement {
		f.Reason = SelectorsMatchNoNode
		f.Evidence = []string{"nodeSelectors: " + selectors(sels), "labels of nodes: kubectl get nodes --show-labels"}
	}
	why := map[lb.Reason][2]string{
		lb.NoMatchingAdvertisement: {"the nodeSelectors of its advertisements match no node", "correct spec.nodeSelectors of the advertisement, or label a node"},
		lb.NodeExcluded: {
			"all nodes that could carry the label node.kubernetes.io/exclude-from-external-load-balancers",
			"kubectl label nodes --all node.kubernetes.io/exclude-from-external-load-balancers- (kubeadm and Talos set it on control-plane nodes), or start speakers with --ignore-exclude-lb",
		},
		lb.NodeLeaving:            {"all nodes that could are leaving", "kubectl barelb undrain NODE"},
		lb.NodeNetworkUnavailable: {"the condition NetworkUnavailable of all nodes that could is True", "see to the network plugin: kubectl describe node"},
	}[reason]
	if why[0] != "" {
		f.What += ": " + why[0]
	}
	return f.remedy("%s", why[1])
}

// noPeer says why no BGPPeer takes the routes of the Service.
func (c *chain) noPeer(f Finding) Finding {
	f.Evidence = nil
	for _, a := range c.bgp {
		if len(a.Peers) > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("BGPAdvertisement %s is for BGPPeer %s alone (spec.peers)", a.Name, list(a.Peers)))
		}
	}
	for _, p := range c.w.cfg.Peers {
		var fams []string
		for _, fam := range p.Families {
			fams = append(fams, fam.String())
		}
		line := fmt.Sprintf("BGPPeer %s (%s) carries %s", p.Name, p.Addr, strings.Join(fams, " and "))
		if len(p.NodeSelectors) > 0 {
			line += ", for nodes " + selectors(p.NodeSelectors)
		}
		f.Evidence = append(f.Evidence, line)
	}
	for _, p := range c.w.cfg.Problems {
		if p.Kind == config.KindBGPPeer {
			f.Evidence = append(f.Evidence, p.String())
		}
	}
	if p := c.w.badPeer(); p != nil {
		f.Reason = SetAside
		f.What += fmt.Sprintf(": BGPPeer %s, which could carry its routes, is set aside because of a mistake: %s: %s", p.Name, p.Field, p.Message)
		if said := c.w.announcing(c.svc.Key).BGP; len(said) > 0 {
			f.Level = Warning
			f.What += fmt.Sprintf("; %s %s it by the last good version, which stays in force", list(said), verb(len(said), "advertises", "advertise"))
		}
		return f.remedy("correct %s: kubectl -n %s edit bgppeer %s", p.Field, c.w.c.Namespace, p.Name)
	}
	if len(c.w.c.Objects.Peers) == 0 {
		f.What += ": there is no BGPPeer"
		return f.remedy("create a BGPPeer for each router: kubectl barelb advise prints one")
	}
	f.What += ": no BGPPeer in force takes its routes"
	return f.remedy("compare spec.peers of the BGPAdvertisement, and nodeSelectors and families of the BGPPeers, with what the Service needs")
}

// badPeer returns what is wrong with the first BGPPeer that is set aside, or nil.
func (w *World) badPeer() *config.Problem {
	for i, p := range w.cfg.Problems {
		if p.Kind == config.KindBGPPeer && !p.InForce {
			return &w.cfg.Problems[i]
		}
	}
	return nil
}

// l2Names names the L2Advertisements that are for it.
func (c *chain) l2Names() string {
	names := make([]string, len(c.l2))
	for i, a := range c.l2 {
		names[i] = a.Name
	}
	return prefixed("L2Advertisement", names)
}

// speakers explains whether the speakers run that are to announce.
func (c *chain) speakers() bool {
	if g := c.w.c.gap(FromPods); g != nil {
		c.add(unknown("speakers", g))
		return true
	}
	if c.w.view == nil && !c.w.heard() {
		c.add(broken("speakers", SpeakerNotRunning, "no Pod of a speaker is found in namespace %s, and no speaker reports anything", c.w.c.Namespace).
			remedy("install BareLB (kubectl apply -f deploy/install.yaml), or give its namespace by --system-namespace"))
		return false
	}
	if c.w.view == nil {
		c.add(Finding{Level: NotChecked, Check: "speakers", What: "no Pod of a speaker is found in namespace " + c.w.c.Namespace + ": they do not run, or not in Pods with the label component=speaker"})
		return true
	}
	down, lines, reason := c.away()
	if c.Owner == "" && len(c.NextHops) == 0 {
		f := broken("speakers", reason, "nothing announces it from the nodes that may (%s)", list(down)).with(lines...)
		if reason == SpeakerNotRunning {
			f.What = fmt.Sprintf("no speaker runs on the nodes that may announce it (%s)", list(down))
		}
		c.add(f.remedy("%s", c.w.revive(reason)))
		return false
	}
	caretaker := c.now[c.w.judge()].Caretaker
	if c.Owner != "" && !c.w.runs(c.Owner) && len(c.NextHops) == 0 {
		f := broken("speakers", SpeakerNotRunning, "the speaker of %s, which owns the address, does not run", c.Owner).with(lines...)
		if caretaker != "" {
			f.What += fmt.Sprintf("; %s takes care of it for a minute", caretaker)
		}
		c.add(f.remedy("%s", c.w.revive(SpeakerNotRunning)))
		return false
	}
	var who []string
	if c.Owner != "" {
		who = append(who, c.Owner+" owns the address in Layer 2 mode")
	}
	if caretaker != "" {
		who = append(who, fmt.Sprintf("%s answers in its name, because its speaker is down", caretaker))
	}
	if len(c.NextHops) > 0 {
		who = append(who, list(c.NextHops)+" "+verb(len(c.NextHops), "advertises", "advertise")+" it by BGP")
	}
	f := ok("speakers", "%s", strings.Join(who, "; "))
	if len(down) > 0 {
		f.Level, f.Reason, f.Evidence, f.Remedy = Warning, reason, lines, c.w.revive(reason)
		f.What += fmt.Sprintf("; %s %s not take part", list(down), verb(len(down), "does", "do"))
		if reason == SpeakerNotRunning {
			f.What = strings.Join(who, "; ") + fmt.Sprintf("; the %s of %s %s not run", verb(len(down), "speaker", "speakers"), list(down), verb(len(down), "does", "do"))
		}
	}
	for _, n := range c.w.nodes {
		if v := c.now[n.Name]; v.L2.Reason == lb.NodeUnfit {
			f.Evidence = append(f.Evidence, n.Name+": "+v.L2.Message)
		}
	}
	c.add(f)
	return true
}

// away returns the nodes that may announce it and take no part, with why, and the reason
// of the first one.
func (c *chain) away() (nodes, lines []string, reason lb.Reason) {
	reason = SpeakerNotRunning
	for _, n := range c.w.nodes {
		v := c.eligible[n.Name]
		if v.L2.Reason != lb.Announced && (v.L2.Reason != lb.NotOwner || len(c.l2) == 0) && v.BGP.Reason != lb.Announced {
			continue
		}
		why, because := c.w.absent(n.Name)
		if why == "" {
			continue
		}
		if len(nodes) == 0 {
			reason = because
		}
		if nodes = append(nodes, n.Name); len(lines) < mostNamed {
			lines = append(lines, n.Name+": "+why)
		}
	}
	return nodes, lines, reason
}

// absent says why a node takes no part, as far as its Pod and other speakers tell; "" if
// it does.
func (w *World) absent(node string) (string, lb.Reason) {
	x, seen := w.seen.Nodes[node]
	others := w.witness != "" && w.witness != node
	silent := w.silentFor(node)
	switch {
	case others && silent != "" && len(x.Dead) > 0: // said below
	case !w.runs(node) && silent != "":
		return "nothing is heard of it for " + silent, NotHeardOf
	case !w.runs(node):
		return cmp.Or(w.speakers[node].Why, "there is no Pod of a speaker on it"), SpeakerNotRunning
	}
	switch {
	case others && len(x.Dead) > 0:
		var where []string
		for s := range x.Dead {
			where = append(where, s.String())
		}
		slices.Sort(where)
		return fmt.Sprintf("it does not answer on %s, as the speaker of %s sees it", list(where), w.witness), NodeDead
	case others && x.SpeakerDown:
		return fmt.Sprintf("its speaker does not answer that of %s", w.witness), NotMember
	case others && (!seen || !x.Member):
		why := fmt.Sprintf("the speaker of %s does not hear its speaker", w.witness)
		if a, b := w.c.Known[w.witness], w.c.Known[node]; a != nil && b != nil && a.Company != b.Company && a.Company != "" && b.Company != "" {
			why += ": they have different memberlist secrets"
		}
		return why, NotMember
	}
	return "", ""
}

// revive says what to do about a node that is absent.
func (w *World) revive(reason lb.Reason) string {
	switch reason { //nolint:exhaustive // those of absent
	case NodeDead:
		return "see to the node, its link (cable, port, VLAN) and its switch: ip -br link on the node; kubectl describe node"
	case NotHeardOf:
		return "see to the node and to its way to the API server: kubectl describe node; if it is gone for good, delete its Node"
	case NotMember:
		return "allow TCP and UDP port 7946 between nodes; all speakers need the same memberlist Secret"
	}
	return fmt.Sprintf("kubectl -n %s get pods -o wide; kubectl -n %s describe daemonset speaker (tolerations, nodeSelector, image)", w.c.Namespace, w.c.Namespace)
}

// addrs prints addresses for people.
func addrs(all []netip.Addr) string {
	out := make([]string, len(all))
	for i, a := range all {
		out[i] = a.String()
	}
	return list(out)
}
