package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
)

// NodeReport says what one node does, and what keeps it from doing more.
type NodeReport struct {
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Findings  []Finding    `json:"findings"`
	// Owns are the Services whose addresses it answers for by the configuration, Said
	// those of which it says so, Routes is how many it advertises by BGP.
	Owns   []string `json:"owns,omitempty"`
	Said   []string `json:"saysItOwns,omitempty"`
	Routes int      `json:"services,omitempty"`
	Peers  []string `json:"peers,omitempty"`
	First  *Finding `json:"firstBrokenLink,omitempty"`
}

// Node explains one node.
func (w *World) Node(name string) *NodeReport {
	r := &NodeReport{Node: name}
	add := func(f Finding) { r.Findings = append(r.Findings, f) }
	n := w.byName[name]
	if n == nil {
		names := make([]string, len(w.nodes))
		for i := range w.nodes {
			names[i] = w.nodes[i].Name
		}
		add(broken("node", lb.UnknownReference, "there is no node %s", name).with("there is " + list(names)))
		r.First = first(r.Findings, Broken)
		return r
	}
	r.Addresses = n.Addrs
	for _, f := range w.stands(n) {
		add(f)
	}
	switch g := w.c.gap(FromPods); {
	case g != nil:
		add(unknown("speaker", g))
	case w.view == nil:
		add(Finding{Level: NotChecked, Check: "speaker", What: "no Pod of a speaker is found anywhere"})
	case !w.runs(name) && w.silentFor(name) != "":
		add(Finding{Level: NotChecked, Check: "speaker", What: "nothing is heard of its speaker either"})
	case !w.runs(name):
		add(broken("speaker", SpeakerNotRunning, "no speaker runs on it: %s", cmp.Or(w.speakers[name].Why, "there is no Pod")).
			remedy("kubectl -n %s describe daemonset speaker (tolerations, nodeSelector)", w.c.Namespace))
	default:
		add(ok("speaker", "its speaker runs").with(w.speakerLines(name)...))
	}
	p := w.planner(name, w.cfg, w.all())
	d := p.Plan()
	for _, session := range d.BGP {
		line, f := w.sessionOf(name, session.Peer)
		r.Peers = append(r.Peers, line)
		if f != nil {
			add(*f)
		}
	}
	for _, x := range d.Problems {
		add(warning("sessions", x.Reason, "%s", x))
	}
	for _, key := range w.keys {
		v := p.Verdict(key)
		if v.Owner == name {
			r.Owns = append(r.Owns, fmt.Sprintf("%s (%s)", key, addrs(v.Addrs)))
		}
		if v.BGP.Reason == lb.Announced {
			r.Routes++
		}
	}
	for _, x := range w.c.L2 {
		if x.Node == name {
			r.Said = append(r.Said, x.Service.String())
		}
	}
	r.Said = slices.Compact(r.Said)
	r.First = first(r.Findings, Broken)
	return r
}

// sessionOf names a node's session with its state, as far as known, and says what is
// wrong with it, if anything.
func (w *World) sessionOf(node string, peer lb.Peer) (string, *Finding) {
	at, _, known := w.session(node, peer.Name)
	switch {
	case !known:
		return peer.String(), nil
	case w.silentFor(node) != "":
		return peer.String() + " not known", nil
	case at.Up:
		return peer.String() + " up", nil
	}
	f := warning("sessions", SessionDown, "its BGP session with BGPPeer %s is down", peer)
	if at.Why != "" {
		f = f.with(at.Why)
	}
	return peer.String() + " down", &f
}

// silence is the Finding about a node of which nothing is heard.
func (w *World) silence(node, age string) Finding {
	said := 0
	for _, r := range slices.Concat(w.c.L2, w.c.BGP) {
		if r.Node == node {
			said++
		}
	}
	sessions := 0
	for _, r := range w.c.Sessions {
		if r.Node == node {
			sessions++
		}
	}
	f := warning("node", NotHeardOf, "nothing is heard of %s for %s: it is down, or cut off from the API server and announces as before", node, age).
		remedy("kubectl describe node %s; if it is gone for good: kubectl delete node %s", node, node)
	if said+sessions > 0 {
		f = f.with(fmt.Sprintf("what its speaker said last stands until its Node or Pod is deleted: %d %s that it announces, %d of its BGP sessions", said, verb(said, "object", "objects"), sessions))
	}
	return f
}

// stands says what a node's own object has against announcing from it.
func (w *World) stands(n *Node) []Finding {
	var out []Finding
	switch {
	case n.NetworkUnavailable:
		out = append(out, broken("node", lb.NodeNetworkUnavailable, "its condition NetworkUnavailable is True: nothing is announced from it").
			remedy("see to the network plugin: kubectl describe node %s", n.Name))
	case n.Excluded && !w.c.Flags.IgnoreExcluded:
		out = append(out, broken("node", lb.NodeExcluded, "it carries the label node.kubernetes.io/exclude-from-external-load-balancers: nothing is announced from it").
			remedy("kubectl label node %s node.kubernetes.io/exclude-from-external-load-balancers-", n.Name))
	case n.Drain != "" || n.Leaving != "":
		out = append(out, warning("node", lb.NodeLeaving, "it is leaving: %s", cmp.Or(n.Leaving, "annotation barelb.io/drain")).
			with("since "+cmp.Or(n.Drain, "unknown")).remedy("kubectl barelb undrain %s", n.Name))
	case w.silentFor(n.Name) == "":
		out = append(out, ok("node", "it may announce"))
	}
	if age := w.silentFor(n.Name); age != "" {
		f := w.silence(n.Name, age)
		f.Level = Broken
		out = append(out, f)
	} else if !n.NotReadySince.IsZero() {
		out = append(out, warning("node", NodeNotReady, "it is not Ready since %s", roundAge(w.c.Now.Sub(n.NotReadySince))).remedy("kubectl describe node %s", n.Name))
	}
	if s := w.c.Speakers[n.Name]; s != nil && s.ProxyDown {
		out = append(out, warning("node", lb.ProxyUnhealthy, "its kube-proxy is not healthy: it announces nothing by BGP that other nodes can").
			remedy("kubectl -n kube-system get pods -l k8s-app=kube-proxy -o wide; read its log"))
	}
	if n.Unschedulable {
		out = append(out, Finding{Level: Info, Check: "node", What: "it is cordoned, which changes nothing for announcements"})
	}
	return out
}
