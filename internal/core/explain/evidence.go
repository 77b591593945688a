package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// reports compares what speakers say that they announce with what they should.
func (c *chain) reports() {
	if c.w.c.Flags.NoStatus {
		c.add(Finding{Level: NotChecked, Check: "reports", What: "not checked: speakers keep no status objects (--service-status-objects=false)"})
		return
	}
	if len(c.l2) > 0 && c.Owner != "" {
		if g := c.w.c.gap(FromL2Status); g != nil {
			c.add(unknown("reports (layer2)", g))
		} else {
			c.add(c.reportedL2())
		}
	}
	if len(c.NextHops) > 0 {
		if g := c.w.c.gap(FromBGPStatus); g != nil {
			c.add(unknown("reports (bgp)", g))
		} else {
			c.add(c.reportedBGP())
		}
	}
}

func (c *chain) reportedL2() Finding {
	const check = "reports (layer2)"
	said := c.w.announcing(c.svc.Key).L2
	switch {
	case slices.Equal(said, []string{c.Owner}):
		return ok(check, "%s says that it answers for it (ServiceL2Status)", c.Owner)
	case len(said) == 0:
		return c.silent(check, []string{c.Owner}, "answer for it")
	case len(said) > 1:
		return broken(check, TwoOwners, "%s all say that they answer for it", list(said)).
			with(fmt.Sprintf("by the configuration, %s is the owner", c.Owner)).with(c.w.secrets()...).
			remedy("their speakers do not hear each other: allow TCP and UDP port 7946 between nodes, and see that all have the same memberlist Secret")
	case !c.w.runs(said[0]) || c.w.byName[said[0]] == nil:
		return c.silent(check, []string{c.Owner}, "answer for it").with(said[0] + " is named instead, and its speaker does not run")
	}
	return warning(check, ReportsDiffer, "%s says that it answers for it, and by the configuration %s should", said[0], c.Owner).
		with("it is moving, or speakers know more than is known here: links without carrier, subnets, nodes that are not Ready, failback: Never").
		remedy("if it stays so for more than half a minute, compare the logs of both speakers")
}

func (c *chain) reportedBGP() Finding {
	const check = "reports (bgp)"
	said := c.w.announcing(c.svc.Key).BGP
	var missing, extra []string
	for _, n := range c.NextHops {
		if !slices.Contains(said, n) {
			missing = append(missing, n)
		}
	}
	for _, n := range said {
		if !slices.Contains(c.NextHops, n) {
			extra = append(extra, n)
		}
	}
	switch {
	case len(missing) == len(c.NextHops):
		return c.silent(check, missing, "advertise it")
	case len(missing) > 0:
		f := c.silent(check, missing, "advertise it")
		f.Level = Warning
		return f
	case len(extra) > 0:
		return warning(check, ReportsDiffer, "%s %s that %s, and by the configuration should not", list(extra), verb(len(extra), "says", "say"), verb(len(extra), "it advertises it", "they advertise it")).
			with("the ServiceBGPStatus of a node that failed stays until its Pod is deleted").
			remedy("kubectl -n %s get servicebgpstatuses -l metallb.io/service-name=%s", c.w.c.Namespace, c.svc.Key.Name)
	}
	return ok(check, "%s %s that %s (ServiceBGPStatus)", list(said), verb(len(said), "says", "say"), verb(len(said), "it advertises it", "they advertise it"))
}

// silent says that speakers do not report what they should do.
func (c *chain) silent(check string, nodes []string, what string) Finding {
	f := broken(check, SpeakerSilent, "the %s of %s should %s, and %s not say so", verb(len(nodes), "speaker", "speakers"), list(nodes), what,
		verb(len(nodes), "does", "do"))
	for _, n := range nodes[:min(len(nodes), mostNamed)] {
		f.Evidence = append(f.Evidence, c.w.speakerLines(n)...)
	}
	return f.remedy("that speaker does not reach the API server, has not the latest configuration, or has just started: read its log: kubectl -n %s logs %s",
		c.w.c.Namespace, cmp.Or(c.w.speakers[nodes[0]].Name, "of the speaker on "+nodes[0]))
}

// speakerLines says what is known of a node's speaker.
func (w *World) speakerLines(node string) []string {
	var out []string
	if p := w.speakers[node]; p.Name != "" {
		state := "ready"
		if !p.Ready {
			state = "not ready: " + p.Why
		}
		out = append(out, fmt.Sprintf("Pod %s on %s is %s (%d restarts)", p.Name, node, state, p.Restarts))
	}
	if w.c.gap(FromStates) != nil {
		return out
	}
	for _, s := range w.c.States {
		if s.Node == node {
			if s.Valid {
				return append(out, fmt.Sprintf("ConfigurationState %s is Valid", s.Name))
			}
			return append(out, fmt.Sprintf("ConfigurationState %s: %s", s.Name, cmp.Or(s.Summary, "not Valid")))
		}
	}
	return append(out, fmt.Sprintf("there is no ConfigurationState of the speaker on %s: it has never reached the API server", node))
}

// wire looks at what is known of the links that carry the address.
func (c *chain) wire() {
	check := "wire"
	for _, a := range c.svc.Addrs {
		for _, x := range c.w.c.Conflicts {
			if x.Addr == a {
				c.add(broken(check, lb.AddressInUseOnWire, "%s answers for %s too: traffic goes there by chance", x.MAC, a).
					with(fmt.Sprintf("AddressConflict: heard by the speaker of %s on %s", x.Node, x.Link)).
					remedy("find the host with that MAC and take the address from it, or give the Service another one"))
			}
		}
		if e := c.claimed(a); e != nil {
			who, remedy := "another host", "find the host with that MAC (a switch's table of MACs says at which port) and take the address from it, or give the Service another one"
			if node, ok := strings.CutPrefix(strings.SplitN(e.Message, " claims ", 2)[0], "node "); ok {
				who, remedy = "node "+node, "let their speakers hear each other: the same memberlist secret (restart speakers after a change), and TCP and UDP port 7946 open between nodes; kubectl barelb doctor compares them"
			}
			c.add(broken(check, lb.AddressClaimedOnWire, "%s claims %s: traffic goes there by chance", who, a).with("Event: "+eventLine(*e, c.w.c)).remedy("%s", remedy))
		}
		if n := lb.NodeWith(a, c.w.nodes); n != "" {
			c.add(broken(check, AddressOfNode, "%s is an address of node %s itself", a, n).remedy("take it out of the IPAddressPool, and give the Service another one"))
		}
	}
	if c.Owner == "" {
		return
	}
	if c.w.answersEverywhere() {
		level := warning
		if c.svc.TrafficLocal {
			level = broken
		}
		c.add(level(check, StrictARPOff, "kube-proxy is in mode ipvs without strictARP: all nodes answer ARP for %s, not %s alone", addrs(c.svc.Addrs), c.Owner).
			with(strictARPOff).remedy(strictARPOn))
	}
	c.subnets()
	c.links()
	s := c.w.c.Speakers[c.Owner]
	if s == nil {
		if g := c.w.c.gap(FromSpeakers); g != nil {
			c.add(unknown(check, g))
		} else if why := c.w.c.Silent[c.Owner]; why != "" {
			c.add(warning(check, SpeakerSilent, "the speaker of %s could not be asked: %s", c.Owner, why).
				remedy("see whether the node and its kubelet are well: kubectl describe node %s", c.Owner))
		}
		return
	}
	for _, a := range c.svc.Addrs {
		asked, answered := s.Requests[a], s.Responses[a]
		switch {
		case !slices.Contains(s.Announced["layer2"], a):
			c.add(broken(check, SpeakerSilent, "the speaker of %s does not answer for %s, by its own metrics", c.Owner, a).with(c.w.speakerLines(c.Owner)...).
				remedy("read its log: kubectl -n %s logs %s", c.w.c.Namespace, c.w.speakers[c.Owner].Name))
		case asked == 0:
			c.add(warning(check, NothingArrives, "nobody has asked %s who has %s", c.Owner, a).
				remedy("send something to it from a host in the same Layer 2 network: if this stays so, the request does not reach the node (VLAN, other network, wireless isolation, or a stale neighbour entry on the router)"))
		default:
			c.add(ok(check, "%s has answered %.0f of %.0f questions for %s", c.Owner, answered, asked, a))
		}
	}
}

// claimLasts is for how long after its last Event a claim of another host counts: Events
// are not repeated more often than each minute or so.
const claimLasts = 5 * time.Minute

// claimed returns the last Event that says that another host claims a, or nil.
func (c *chain) claimed(a netip.Addr) *Event {
	for i := len(c.w.c.Events) - 1; i >= 0; i-- {
		e := &c.w.c.Events[i]
		if e.Reason == string(lb.AddressClaimedOnWire) && e.Key == c.svc.Key && strings.Contains(e.Message, "claims "+a.String()+":") &&
			c.w.c.Now.Sub(e.Last) < claimLasts {
			return e
		}
	}
	return nil
}

// subnets checks that a node is in a subnet that contains the addresses, as far as known.
func (c *chain) subnets() {
	known, inside := 0, []string(nil)
	for _, n := range c.w.c.Nodes {
		at := c.w.prefixes(n.Name)
		if len(at) == 0 {
			continue
		}
		known++
		if !slices.ContainsFunc(c.svc.Addrs, func(a netip.Addr) bool { return !within(at, a) }) {
			inside = append(inside, n.Name)
		}
	}
	switch {
	case known == 0 || slices.Contains(inside, c.Owner):
	case len(inside) == 0 && known == len(c.w.c.Nodes):
		c.add(broken("wire", OutsideSubnets, "no node is in a subnet that contains %s, so no host asks for it by ARP or NDP", addrs(c.svc.Addrs)).
			with("subnets of nodes: " + list(c.w.subnetTexts())).
			remedy("use addresses of the nodes' own subnet in the pool, announce them by BGP, or route them to the nodes' subnet on the router"))
	case len(c.w.prefixes(c.Owner)) > 0:
		c.add(warning("wire", OutsideSubnets, "%s is in no subnet that contains %s", c.Owner, addrs(c.svc.Addrs)).
			with("nodes that are: " + list(inside)).
			remedy("leave that node out by spec.nodeSelectors of the L2Advertisement"))
	}
}

// prefixes returns the subnets that a node is in, as far as known.
func (w *World) prefixes(node string) []netip.Prefix {
	var out []netip.Prefix
	if n := w.byName[node]; n != nil {
		out = slices.Clone(n.Subnets)
	}
	for _, l := range w.links(node) {
		out = append(out, l.Prefixes...)
	}
	for i := range out {
		out[i] = out[i].Masked()
	}
	return slices.DeleteFunc(out, func(p netip.Prefix) bool { return p.IsSingleIP() || p.Addr().IsLinkLocalUnicast() })
}

// links returns the links of a node, nil if they are not known: from what its speaker says
// now, or else has told others.
func (w *World) links(node string) []Link {
	if s := w.c.Speakers[node]; s != nil && s.Links != nil {
		return s.Links
	}
	f := w.seen.Nodes[node].Facts
	if w.witness == "" || f == nil {
		return nil
	}
	out := make([]Link, len(f.Links))
	for i, l := range f.Links {
		out[i] = Link{Name: l.Name, Up: l.Carrier, Prefixes: l.Addrs}
	}
	return out
}

// subnetTexts lists the subnets of all nodes, each once.
func (w *World) subnetTexts() []string {
	var out []string
	for _, n := range w.nodes {
		for _, p := range w.prefixes(n.Name) {
			out = append(out, p.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// links checks the links that the owner is to answer on, if they are known.
func (c *chain) links() {
	links := c.w.links(c.Owner)
	if links == nil {
		return
	}
	for _, name := range c.now[c.Owner].Links {
		i := slices.IndexFunc(links, func(l Link) bool { return l.Name == name })
		switch {
		case i < 0:
			var have []string
			for _, l := range links {
				have = append(have, l.Name)
			}
			c.add(broken("wire", LinkMissing, "%s has no link %q, on which alone it is to answer", c.Owner, name).with("it has "+list(have)).
				remedy("correct spec.interfaces of %s", c.l2Names()))
		case !links[i].Up:
			c.add(broken("wire", LinkDown, "link %s of %s has no carrier", name, c.Owner).remedy("see to cable, port and driver: ip -d link show %s", name))
		}
	}
}

// sessions looks at the BGP sessions that carry the routes.
func (c *chain) sessions() {
	if len(c.NextHops) == 0 {
		return
	}
	const check = "sessions"
	c.peers()
	g := c.w.c.gap(FromSpeakers)
	var up, down, slow []string
	for _, node := range c.NextHops {
		for _, name := range c.now[node].Peers {
			at, text, known := c.w.session(node, name)
			switch text = node + " to " + text; {
			case !known:
			case at.Up:
				up = append(up, fmt.Sprintf("%s (%d prefixes)", text, at.Announced))
				if at.BFD != "" {
					slow = append(slow, text+": BFD is "+at.BFD)
				}
			case at.Why != "":
				down = append(down, text+": "+at.Why)
			default:
				down = append(down, text)
			}
		}
	}
	const bfd = "on the router: does it run BFD with the node's address, with timers that fit the BFDProfile? Between them: is UDP port 3784 (4784 over several hops) open?"
	reason, remedy := NoSession, "on the router: is the node's address its neighbour, with the right AS and password? Then the log of the speaker"
	if c.bfdDown() {
		reason, remedy = BFDDown, bfd
	}
	switch {
	case len(up)+len(down) == 0 && g != nil:
		c.add(unknown(check, g))
	case len(up)+len(down) == 0:
	case len(up) == 0:
		c.add(broken(check, reason, "no BGP session that should carry its route is up").with(named(down)...).remedy("%s", remedy))
	case len(down) > 0:
		c.add(warning(check, SessionDown, "%d of %d BGP sessions are up", len(up), len(up)+len(down)).with(named(down)...).remedy("%s", remedy))
	case len(slow) > 0:
		c.add(warning(check, BFDDown, "all %d BGP sessions are up, and BFD is not: a failure is noticed by the hold time alone", len(up)).with(named(slow)...).remedy(bfd))
	default:
		c.add(ok(check, "up: %s", list(up)))
	}
}

// bfdDown reports whether all sessions of its routes that are not up lack BFD.
func (c *chain) bfdDown() bool {
	lack := false
	for _, r := range c.w.c.Sessions {
		if !slices.Contains(c.NextHops, r.Node) || !slices.Contains(c.now[r.Node].Peers, r.Peer) || r.State == "Established" {
			continue
		}
		if r.BFD == "" || r.BFD == "N/A" || r.BFD == "Up" {
			return false
		}
		lack = true
	}
	return lack
}

// peers tells what is wrong with the BGPPeers that are told of the Service.
func (c *chain) peers() {
	told := map[string]bool{}
	for _, node := range c.NextHops {
		for _, name := range c.now[node].Peers {
			told[name] = true
		}
	}
	for _, p := range c.w.cfg.Problems {
		if p.Kind == config.KindBGPPeer && told[p.Name] {
			c.add(warning("peers", p.Reason, "BGPPeer %s: %s: %s", p.Name, p.Field, p.Message).
				remedy("kubectl -n %s edit bgppeer %s", c.w.c.Namespace, p.Name))
		}
	}
}

// session returns the state of a node's session with a BGPPeer, what to call it, and
// whether its state is known: from what the speaker says now, or else has reported.
func (w *World) session(node, peer string) (at Session, text string, known bool) {
	text = peer
	live := w.c.Speakers[node]
	for _, p := range w.cfg.Peers {
		if p.Name == peer {
			key := netip.AddrPortFrom(p.Addr, p.Port)
			text = fmt.Sprintf("BGPPeer %s (%s)", peer, key)
			if live != nil {
				at, known = live.Sessions[key], true
			}
		}
	}
	for _, r := range w.c.Sessions {
		if r.Node != node || r.Peer != peer {
			continue
		}
		if !known {
			at, known = Session{Up: r.State == "Established", Announced: r.Advertised}, true
		}
		if r.BFD != "" && r.BFD != "N/A" && r.BFD != "Up" {
			at.BFD = r.BFD
		}
		if !at.Up {
			at.Why = r.State
			if r.Message != "" {
				at.Why += ": " + r.Message
			}
			if at.BFD != "" {
				at.Why += "; BFD is " + at.BFD
			}
		}
	}
	return at, text, known
}
