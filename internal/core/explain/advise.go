package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Advice compares the two ways of announcing for this cluster.
type Advice struct {
	Rows []Row `json:"rows"`
	// Works says which way works here now: "Layer 2", "BGP", both, or none.
	Works     []string `json:"works"`
	Advice    string   `json:"advice"`
	Manifests string   `json:"manifests,omitempty"` // YAML to apply
}

// Row is one line of the comparison.
type Row struct {
	Of     string `json:"of"`
	Layer2 string `json:"layer2"`
	BGP    string `json:"bgp"`
}

// defaultHold is the hold time of a session for which none is asked (RFC 4271 §10).
const defaultHold = 90 * time.Second

// Advise reads what is there and asks nothing.
func (w *World) Advise() *Advice {
	var stand, out []string
	for i := range w.c.Nodes {
		n := &w.c.Nodes[i]
		if n.NetworkUnavailable || n.Excluded && !w.c.Flags.IgnoreExcluded || n.Leaving != "" {
			out = append(out, n.Name)
		} else {
			stand = append(stand, n.Name)
		}
	}
	r := &Advice{}
	row := func(of, l2, bgp string) { r.Rows = append(r.Rows, Row{of, l2, bgp}) }
	nodes := fmt.Sprintf("%d (%s)", len(stand), list(stand))
	if len(out) > 0 {
		nodes += fmt.Sprintf("; not %s", list(out))
	}
	row("Nodes that can announce", nodes, nodes)
	row("Node responsibility", "one node per address answers ARP and NDP: a single MAC", fmt.Sprintf("all %d nodes are next hops", len(stand)))
	share := "100 % at the owner"
	spread := "all at one node"
	if len(stand) > 1 {
		spread = fmt.Sprintf("about %d %% at each node", 100/len(stand))
	}
	row("Traffic distribution", share, spread)
	row("Load balancing", "kube-proxy of the owner, over all Pods", "the router by flow (ECMP), then kube-proxy")
	row("Failover", w.layer2Failover(len(stand)), w.bgpFailover())
	row("Limit", "the bandwidth of one node for each address", "open connections may be reset when next hops change, unless the router's ECMP is resilient")
	row("Subnets", w.layer2Subnets(), "any address: routers learn it")
	row("Here now", w.layer2Now(), w.bgpNow())
	row("Missing", w.layer2Missing(stand), w.bgpMissing(stand))
	if w.layer2Missing(stand) == "nothing" {
		r.Works = append(r.Works, "Layer 2")
	}
	if w.bgpMissing(stand) == "nothing" {
		r.Works = append(r.Works, "BGP")
	}
	r.Advice, r.Manifests = w.advice(r.Works), w.manifests()
	return r
}

func (w *World) layer2Failover(stand int) string {
	if stand < 2 {
		return "none: there is no second node"
	}
	return "when others miss the owner; see README for what is measured"
}

func (w *World) bgpFailover() string {
	if len(w.cfg.Peers) == 0 {
		return "the session's hold time, 90 s if none is set"
	}
	var parts []string
	for _, p := range w.cfg.Peers {
		hold := defaultHold
		if p.TimersSet {
			hold = p.HoldTime
		}
		text := hold.String()
		if hold == 0 {
			text = "never (hold time 0)"
		}
		parts = append(parts, fmt.Sprintf("%s at most (hold time of %s)", text, p.Name))
	}
	slices.Sort(parts)
	return list(parts)
}

func (w *World) layer2Subnets() string {
	texts := w.subnetTexts()
	if len(texts) == 0 {
		return "addresses must be in the nodes' subnet, which is not known here"
	}
	return "addresses must be in " + strings.Join(texts, ", ")
}

func (w *World) layer2Now() string {
	names := make([]string, len(w.cfg.L2))
	for i, a := range w.cfg.L2 {
		names[i] = a.Name
	}
	if len(names) == 0 {
		return "no L2Advertisement"
	}
	return "L2Advertisement " + list(names)
}

func (w *World) bgpNow() string {
	if len(w.cfg.BGP) == 0 && len(w.cfg.Peers) == 0 {
		return "no BGPPeer and no BGPAdvertisement"
	}
	up, known := 0, 0
	for _, p := range w.peerings() {
		up, known = up+p.Up, known+p.Known
	}
	text := fmt.Sprintf("%d %s, %d %s", len(w.cfg.Peers), verb(len(w.cfg.Peers), "BGPPeer", "BGPPeers"), len(w.cfg.BGP), verb(len(w.cfg.BGP), "BGPAdvertisement", "BGPAdvertisements"))
	if known > 0 {
		text += fmt.Sprintf(", %d of %d sessions up", up, known)
	}
	return text
}

func (w *World) layer2Missing(stand []string) string {
	var missing []string
	if len(w.cfg.Pools) == 0 {
		missing = append(missing, "an IPAddressPool")
	}
	if len(w.cfg.L2) == 0 {
		missing = append(missing, "an L2Advertisement")
	}
	if len(stand) == 0 {
		missing = append(missing, "a node that is not excluded")
	}
	if p := w.c.Proxy; p.Mode == "ipvs" && !p.StrictARP {
		missing = append(missing, "strictARP of kube-proxy")
	}
	return nothingOr(missing)
}

func (w *World) bgpMissing(stand []string) string {
	var missing []string
	if len(w.cfg.Pools) == 0 {
		missing = append(missing, "an IPAddressPool")
	}
	if len(w.cfg.Peers) == 0 {
		missing = append(missing, "a BGPPeer (and a router that speaks BGP)")
	}
	if len(w.cfg.BGP) == 0 {
		missing = append(missing, "a BGPAdvertisement")
	}
	if len(stand) == 0 {
		missing = append(missing, "a node that is not excluded")
	}
	for _, p := range w.peerings() {
		if p.Known > 0 && p.Up == 0 {
			missing = append(missing, "a session with "+p.Peer+" that is up")
		}
	}
	return nothingOr(missing)
}

func nothingOr(missing []string) string {
	if len(missing) == 0 {
		return "nothing"
	}
	return list(missing)
}

func (w *World) advice(works []string) string {
	switch {
	case len(works) == 2:
		return "Both are set up. BGP spreads traffic over nodes; Layer 2 needs nothing of routers. A pool that both announce is reachable by either."
	case slices.Contains(works, "BGP"):
		return "BGP is set up, and spreads the traffic over nodes. Layer 2 would add nothing but reachability for hosts in the nodes' own subnet."
	case slices.Contains(works, "Layer 2"):
		return "Layer 2 is set up and needs nothing of the network. If one node's bandwidth is too little for an address and your router speaks BGP, apply the BGP manifests below."
	}
	return "Begin with Layer 2: it needs nothing of the network but that nodes and their router are in one subnet. With a router that speaks BGP, use BGP: it spreads the traffic over nodes."
}

// manifests returns what is missing for both, ready to be applied once the addresses in
// it are right.
func (w *World) manifests() string {
	var docs []string
	head := func(version, kind, name string) string {
		return fmt.Sprintf("apiVersion: metallb.io/%s\nkind: %s\nmetadata:\n  name: %s\n  namespace: %s\n", version, kind, name, w.c.Namespace)
	}
	pool := "first-pool"
	if len(w.cfg.Pools) > 0 {
		pool = w.cfg.Pools[0].Name
	} else {
		docs = append(docs, "# Addresses that nobody else uses: ask who runs the network.\n"+head("v1beta1", "IPAddressPool", pool)+"spec:\n  addresses:\n  - "+w.exampleRange()+"\n")
	}
	if len(w.cfg.L2) == 0 {
		docs = append(docs, "# Layer 2\n"+head("v1beta1", "L2Advertisement", "layer2")+"spec:\n  ipAddressPools:\n  - "+pool+"\n")
	}
	if len(w.cfg.Peers) == 0 {
		docs = append(docs, "# BGP: the AS numbers and the address of your router\n"+head("v1beta2", "BGPPeer", "router1")+"spec:\n  myASN: 64500\n  peerASN: 64501\n  peerAddress: "+w.exampleRouter()+"\n")
	}
	if len(w.cfg.BGP) == 0 {
		docs = append(docs, head("v1beta1", "BGPAdvertisement", "bgp")+"spec:\n  ipAddressPools:\n  - "+pool+"\n")
	}
	return strings.Join(docs, "---\n")
}

// subnet returns the subnet of the nodes, or a guess at it: the /24 of a node's address.
func (w *World) subnet() netip.Prefix {
	for _, n := range w.nodes {
		for _, a := range n.Addrs {
			if !a.Is4() {
				continue
			}
			for _, p := range w.prefixes(n.Name) {
				if p.Contains(a) {
					return p
				}
			}
			p, _ := a.Prefix(24)
			return p
		}
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 24)
}

// exampleRange returns addresses of the nodes' subnet that no node has, as far as known.
func (w *World) exampleRange() string {
	b := w.subnet().Addr().As4()
	b[3] |= 240
	last := b
	last[3] |= 10
	return netip.AddrFrom4(b).String() + "-" + netip.AddrFrom4(last).String()
}

func (w *World) exampleRouter() string { return w.subnet().Addr().Next().String() }
