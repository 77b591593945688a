package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
)

// Known is what a node's speaker knows beyond what objects say: of the links of all
// nodes, who lives, and who claims which address.
type Known struct {
	Node string `json:"node"`
	// View is nil, or empty, where nobody watches who lives.
	View *liveness.View `json:"view,omitempty"`
	// Claims are those of all speakers, its own too.
	Claims map[netip.Addr][]liveness.Claimant `json:"claims,omitempty"`
	// Proxy is what is wrong with the kube-proxy of the node, by its health check; "" if
	// that says that it is well, or was not asked.
	Proxy string `json:"proxy,omitempty"`
	// ProxyAsked reports whether it was asked.
	ProxyAsked bool `json:"proxyAsked,omitempty"`
	// Company is the same for speakers that have the same memberlist secret; "none" if it has none,
	// "" if it does not tell.
	Company string `json:"company,omitempty"`
}

// tells reports whether k says anything of who lives.
func (k *Known) tells() bool { return k != nil && k.View != nil && len(k.View.Nodes) > 0 }

// learn makes what the planners go by, beside objects: of what speakers know or, where
// none of them was asked, of which of them run and what they report, as if all their links
// were fit.
func (w *World) learn() {
	w.unready, _ = plan.Unready(w.nodes, w.c.Now, plan.UnreadyGrace)
	witness := w.findWitness()
	if witness == "" {
		w.seen, w.claims = w.assume(), w.reportedClaims()
		return
	}
	w.witness = witness
	w.seen = w.present(w.c.Known[witness].View)
	for name, k := range w.c.Known { // each knows its own links best
		if own, ok := w.seen.Nodes[name]; ok && k.tells() && k.View.Nodes[name].Facts != nil {
			own.Facts = k.View.Nodes[name].Facts
			w.seen.Nodes[name] = own
		}
	}
	w.claims = w.knownClaims()
	if w.c.gap(FromPods) != nil && w.view == nil {
		w.view = w.seen
	}
}

// findWitness returns the node whose speaker is believed about others: of those that were
// asked and are not cut off, the one that sees most of them living; "" if none was.
func (w *World) findWitness() string {
	best, most := "", 0
	for _, name := range slices.Sorted(maps.Keys(w.c.Known)) {
		k := w.c.Known[name]
		if !k.tells() {
			continue
		}
		n := 1
		for _, x := range k.View.Nodes {
			if x.Member && len(x.Dead) == 0 && len(k.View.CutOff) == 0 {
				n++
			}
		}
		if n > most {
			best, most = name, n
		}
	}
	return best
}

// secrets says which speakers have which memberlist secret, if those that were asked do not all
// have the same; the rarest first.
func (w *World) secrets() []string {
	having := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(w.c.Known)) {
		if s := w.c.Known[name].Company; s != "" {
			having[s] = append(having[s], name)
		}
	}
	if len(having) < 2 {
		return nil
	}
	groups := slices.SortedFunc(maps.Values(having), func(a, b []string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), slices.Compare(a, b))
	})
	var out []string
	for _, nodes := range groups {
		line := fmt.Sprintf("%s %s one secret", list(nodes), verb(len(nodes), "has", "have"))
		if slices.Equal(nodes, having["none"]) {
			line = fmt.Sprintf("%s %s none (--ml-secret-key-path)", list(nodes), verb(len(nodes), "has", "have"))
		}
		out = append(out, line)
	}
	return out
}

// present returns v without nodes that are not there any more.
func (w *World) present(v *liveness.View) *liveness.View {
	out := &liveness.View{Nodes: map[string]liveness.Node{}, CutOff: v.CutOff}
	for name, n := range v.Nodes {
		if w.byName[name] != nil {
			out.Nodes[name] = n
		}
	}
	return out
}

// viewOf returns what the speaker of a node goes by, as far as it is known.
func (w *World) viewOf(node string) *liveness.View {
	if k := w.c.Known[node]; k.tells() {
		return w.present(k.View)
	}
	return w.seen
}

// judge returns the node whose decisions stand for all: one that lives.
func (w *World) judge() string {
	if w.byName[w.witness] != nil {
		return w.witness
	}
	for _, n := range w.nodes {
		if x := w.seen.Nodes[n.Name]; x.Member && len(x.Dead) == 0 {
			return n.Name
		}
	}
	return w.nodes[0].Name
}

// assume returns a View in which the speakers that run, all if that is not known, have
// every link that an L2Advertisement names, and are in no subnet.
func (w *World) assume() *liveness.View {
	names := map[string]bool{"": true}
	for _, a := range w.cfg.L2 {
		for _, l := range a.Links {
			names[l] = true
		}
	}
	var fit []liveness.Link
	for _, l := range slices.Sorted(maps.Keys(names)) {
		fit = append(fit, liveness.Link{Name: l, Carrier: true, IPv4: true, IPv6: true})
	}
	out := &liveness.View{Nodes: map[string]liveness.Node{}}
	for _, n := range w.nodes {
		if w.runs(n.Name) {
			out.Nodes[n.Name] = liveness.Node{Member: true, Facts: &liveness.Facts{Node: n.Name, Phase: liveness.Serving, Links: fit}}
		}
	}
	return out
}

// reportedClaims takes who says in status objects that it answers for a Service for who
// claims its addresses.
func (w *World) reportedClaims() map[netip.Addr][]liveness.Claimant {
	out := map[netip.Addr][]liveness.Claimant{}
	for _, r := range w.c.L2 {
		svc := w.services[r.Service]
		if svc == nil || w.byName[r.Node] == nil || !w.runs(r.Node) {
			continue
		}
		for _, a := range svc.Addrs {
			out[a] = append(out[a], liveness.Claimant{Node: r.Node, Term: 1})
		}
	}
	return out
}

// knownClaims puts together what speakers know of claims: each of its own at first hand.
func (w *World) knownClaims() map[netip.Addr][]liveness.Claimant {
	out := map[netip.Addr][]liveness.Claimant{}
	for _, from := range slices.Sorted(maps.Keys(w.c.Known)) {
		for a, all := range w.c.Known[from].Claims {
			for _, c := range all {
				first := w.c.Known[c.Node].tells()
				if w.byName[c.Node] == nil || first && c.Node != from || liveness.Claims(out[a], c.Node) {
					continue
				}
				out[a] = append(out[a], c)
			}
		}
	}
	return out
}

// unasked says what of the links and of who lives was assumed; "" if speakers told.
func (w *World) unasked() string {
	if w.witness != "" {
		return ""
	}
	how := "not checked: no speaker was asked"
	for _, from := range []Source{FromKnown, FromSpeakers} {
		if g := w.c.gap(from); g != nil {
			how = g.NotChecked()
			break
		}
	}
	return "links, subnets and who is alive are " + how + "; all links are taken to be fit, and who reports an address to own it"
}
