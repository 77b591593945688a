package explain

import (
	"fmt"
	"slices"
	"strings"
)

// dataPlane looks at what happens to a packet once it is on the node.
func (c *chain) dataPlane() {
	const check = "data plane"
	entries := slices.Clone(c.NextHops)
	if c.Owner != "" && !slices.Contains(entries, c.Owner) {
		entries = append(entries, c.Owner)
	}
	slices.Sort(entries)
	c.readiness(entries)
	var dead, lines []string
	known := 0
	for _, n := range entries {
		switch why, asked := c.w.proxyOf(n); {
		case why != "":
			dead, lines = append(dead, n), append(lines, n+": "+why)
		case asked:
			known++
		}
	}
	switch g := c.w.c.gap(FromProxies); {
	case len(dead) > 0:
		c.add(broken(check, ProxyNotRunning, "kube-proxy does not run on %s, where traffic enters: packets for new endpoints get lost there", list(dead)).with(lines...).
			remedy("kubectl -n kube-system get pods -l k8s-app=kube-proxy -o wide; read its log on %s", dead[0]))
		return
	case known == len(entries):
	case g != nil:
		c.add(unknown(check, g))
		return
	default:
		c.add(Finding{Level: NotChecked, Check: check, What: "not checked: there is no Pod of kube-proxy, so something else carries packets from the node to endpoints: the network plugin, or kube-proxy outside of Pods"})
		return
	}
	f := ok(check, "kube-proxy runs on %s", list(entries))
	if c.anywhere > 0 {
		f.What += fmt.Sprintf("; from there traffic goes to endpoints on %s", list(c.spread()))
	}
	c.add(f)
}

// readiness looks at whether the nodes are Ready that traffic enters by.
func (c *chain) readiness(entries []string) {
	var names, lines []string
	for _, n := range entries {
		if why := notReady(&c.w.byName[n].Node); why != "" {
			names, lines = append(names, n), append(lines, why)
		}
	}
	if len(names) > 0 {
		c.add(warning("nodes ready", NodeNotReady, "%s, where traffic enters, %s not Ready", list(names), verb(len(names), "is", "are")).
			with(named(lines)...).remedy(readyAgain, names[0]))
	}
}

// proxyOf says what is wrong with the kube-proxy of a node, and whether that is known: by
// its Pod, and by its health check, if that answers on any node.
func (w *World) proxyOf(node string) (why string, known bool) {
	for _, p := range w.c.Proxies {
		if p.Node != node {
			continue
		}
		if known = true; p.Ready {
			why = ""
			break
		}
		why = p.Name + " is not ready: " + p.Why
	}
	if !known && len(w.c.Proxies) > 0 {
		why, known = "there is no Pod of kube-proxy on it", true
	}
	k := w.c.Known[node]
	if k == nil || !k.ProxyAsked {
		return why, known
	}
	if k.Proxy == "" {
		return "", true
	}
	for _, other := range w.c.Known {
		if other.ProxyAsked && other.Proxy == "" {
			return strings.TrimPrefix(why+"; its health check fails: "+k.Proxy, "; "), true
		}
	}
	return why, known
}
