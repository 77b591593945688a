package explain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// mostSkew is how far a node's clock may be ahead before it is worth a word, mostLag how far
// behind: TLS and the tokens of Pods bear minutes, comparing logs does not bear seconds. Kubelets
// renew their Leases each 10 s, so that is how late a clock that is right may look.
const (
	mostSkew = 2 * time.Second
	mostLag  = 40 * time.Second
)

// readiness looks for nodes that are not Ready.
func (w *World) readiness() []Finding {
	const check = "nodes"
	var names, lines []string
	for _, n := range w.nodes {
		if why := notReady(&n); why != "" {
			names, lines = append(names, n.Name), append(lines, why)
		}
	}
	if len(names) == 0 {
		return []Finding{ok(check, "all nodes are Ready")}
	}
	return []Finding{warning(check, NodeNotReady, "%s %s not Ready: Pods there count as not ready, and after a while its addresses go to other nodes", list(names), verb(len(names), "is", "are")).
		with(named(lines)...).remedy(readyAgain, names[0])}
}

const readyAgain = "kubectl describe node %s; on the node: journalctl -u kubelet"

// notReady says since when a node is not Ready; "" if it is.
func notReady(n *lb.Node) string {
	if n.NotReadySince.IsZero() {
		return ""
	}
	return fmt.Sprintf("the condition Ready of %s is not True since %s", n.Name, n.NotReadySince.UTC().Format(time.RFC3339))
}

// proxies looks at the kube-proxy of each node.
func (w *World) proxies() []Finding {
	const check = "kube-proxy"
	var dead, lines, well []string
	for _, n := range w.nodes {
		switch why, known := w.proxyOf(n.Name); {
		case why != "":
			dead, lines = append(dead, n.Name), append(lines, n.Name+": "+why)
		case known:
			well = append(well, n.Name)
		}
	}
	switch g := w.c.gap(FromProxies); {
	case len(dead) > 0:
		return []Finding{broken(check, ProxyNotRunning, "kube-proxy does not run on %s: packets for new endpoints get lost there", list(dead)).with(named(lines)...).
			remedy("kubectl -n kube-system get pods -l k8s-app=kube-proxy -o wide; read its log on %s", dead[0])}
	case len(well) > 0:
		return []Finding{ok(check, "it runs on %s", list(well))}
	case g != nil:
		return []Finding{unknown(check, g)}
	}
	return []Finding{{Level: NotChecked, Check: check, What: "not checked: there is no Pod of kube-proxy, and its health check answers on no node: the network plugin does its work, or it runs outside of Pods"}}
}

func (w *World) ports() []Finding {
	const check = "ports on nodes"
	remedy := "on a node: ss -lntup '( sport = :179 or sport = :7946 or sport = :9120 or sport = :17472 )'"
	if g := w.c.gap(FromWorkloads); g != nil {
		return []Finding{unknown(check, g).remedy("%s", remedy)}
	}
	needed := map[int]string{7946: "speakers meet on it", 9120: "metrics", 17472: "health", 3784: "BFD", 4784: "BFD over several hops"}
	var out []Finding
	for _, l := range w.c.Workloads {
		if l.Product == OwnSpeaker {
			continue
		}
		for _, port := range l.HostPorts {
			if what := needed[port]; what != "" {
				out = append(out, warning(check, PortTaken, "%s %s/%s opens port %d on nodes, which BareLB's speakers need (%s)", l.Kind, l.Namespace, l.Name, port, what).
					remedy("move one of them to another port, or keep them on different nodes"))
			}
		}
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Check: check, What: "no Pod on the host's network declares a port that BareLB needs; processes outside of Pods and firewalls are not seen from here", Remedy: remedy})
	}
	return out
}

// membership looks for speakers that do not hear each other.
func (w *World) membership() []Finding {
	const check = "membership"
	remedy := "allow TCP and UDP port 7946 between nodes, and see that all speakers have the same memberlist Secret"
	if differ := w.secrets(); len(differ) > 0 {
		return []Finding{broken(check, SecretsDiffer, "speakers do not have the same memberlist secret, and do not hear each other: each part of them announces everything").with(append(differ, w.unheard()...)...).
			remedy("a speaker reads the Secret memberlist when it starts: kubectl -n %s rollout restart daemonset speaker; see that all of them mount that one", w.c.Namespace)}
	}
	if deaf := w.unheard(); len(deaf) > 0 {
		return []Finding{broken(check, SpeakersDoNotMeet, "speakers that run do not hear each other").with(named(deaf)...).remedy("%s", remedy)}
	}
	if g := w.c.gap(FromL2Status); g != nil {
		return []Finding{unknown(check, g)}
	}
	var split []string
	for _, key := range w.keys {
		if said := w.announcing(key).L2; len(said) > 1 {
			split = append(split, fmt.Sprintf("%s: %s", key, list(said)))
		}
	}
	switch {
	case len(split) > 0:
		return []Finding{broken(check, SpeakersDoNotMeet, "several nodes say that they answer for the same Service").with(named(split)...).remedy("%s", remedy)}
	case w.witness != "":
		return []Finding{ok(check, "the speakers that were asked hear all others")}
	}
	return []Finding{ok(check, "no two nodes say that they answer for the same Service")}
}

// unheard says which speaker that was asked does not hear which other that runs.
func (w *World) unheard() []string {
	var out []string
	for _, from := range slices.Sorted(maps.Keys(w.c.Known)) {
		k := w.c.Known[from]
		if !k.tells() {
			continue
		}
		var deaf []string
		for _, n := range w.nodes {
			if x := k.View.Nodes[n.Name]; n.Name != from && w.runs(n.Name) && (!x.Member || x.SpeakerDown) {
				deaf = append(deaf, n.Name)
			}
		}
		if len(deaf) > 0 {
			out = append(out, fmt.Sprintf("the speaker of %s does not hear %s", from, list(deaf)))
		}
	}
	return out
}

// routers looks at the sessions with routers: what comes between them is mostly a port that
// is filtered.
func (w *World) routers() []Finding {
	const check = "BGP sessions"
	var out []Finding
	for _, p := range w.peerings() {
		switch {
		case p.Known == 0:
			continue
		case p.Up == p.Known && len(p.Why) > 0:
			out = append(out, warning(check, BFDDown, "BGPPeer %s: up on %d nodes, and BFD is not: a failure is noticed by the hold time alone", p.Peer, p.Up).with(named(p.Why)...).
				remedy("is UDP port 3784 (4784 over several hops) open between nodes and router, and BFD on for them there?"))
			continue
		case p.Up == p.Known:
			out = append(out, ok(check, "BGPPeer %s: up on %d nodes", p.Peer, p.Up))
			continue
		}
		f := warning(check, SessionDown, "BGPPeer %s: %d of %d sessions are up", p.Peer, p.Up, p.Known).with(named(p.Why)...)
		f = f.remedy("is TCP port 179 open between nodes and router, and is the node's address its neighbour there, with the right AS and password?")
		if strings.Contains(strings.Join(p.Why, " "), "BFD is ") {
			f = f.remedy("is UDP port 3784 (4784 over several hops) open between nodes and router, and BFD on for them there?")
		}
		out = append(out, f)
	}
	if len(out) > 0 {
		return out
	}
	if len(w.cfg.Peers) == 0 {
		return []Finding{ok(check, "there is no BGPPeer")}
	}
	if g := w.c.gap(FromSessions); g != nil {
		return []Finding{unknown(check, g)}
	}
	return []Finding{{Level: NotChecked, Check: check, What: "not checked: no speaker reports a session"}}
}

func (w *World) clocks() []Finding {
	const check = "clocks"
	if g := w.c.gap(FromLeases); g != nil {
		return []Finding{unknown(check, g)}
	}
	var out []Finding
	for _, n := range w.nodes {
		skew, known := w.c.Skews[n.Name]
		way := "ahead of"
		switch {
		case !known, skew <= mostSkew && (skew >= -mostLag || !n.NotReadySince.IsZero()):
			continue
		case skew < 0:
			way, skew = "behind", -skew
		}
		out = append(out, warning(check, ClockSkew, "the clock of %s is about %s %s the API server's", n.Name, skew.Round(time.Second), way).
			with("by the Lease that its kubelet renews").remedy("run NTP or chrony on the node"))
	}
	if len(out) == 0 {
		out = append(out, ok(check, "no node is ahead of the API server by more than %s, or behind it by more than %s", mostSkew, mostLag))
	}
	return out
}
