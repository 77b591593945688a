package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// Status is the whole at a glance: what is wrong first.
type Status struct {
	Wrong    []Finding `json:"wrong"` // worst first
	Pools    []Pool    `json:"pools"`
	Nodes    []NodeRow `json:"nodes"`
	Sessions []Peering `json:"sessions,omitempty"`
	VIPs     []VIP     `json:"addresses"`
	Gaps     []Gap     `json:"notChecked,omitempty"`
}

// Pool is one IPAddressPool.
type Pool struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	Use       string   `json:"use"`
	By        []string `json:"advertisedBy,omitempty"` // kind/name
	State     string   `json:"state"`
}

// NodeRow is one node.
type NodeRow struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Speaker string `json:"speaker"`
	Owns    int    `json:"owns"`   // Services, in Layer 2 mode
	Routes  int    `json:"routes"` // Services, by BGP
}

// Peering is a BGPPeer and the nodes that hold a session with it.
type Peering struct {
	Peer  string   `json:"peer"`
	ASN   uint32   `json:"asn,omitempty"`
	Nodes int      `json:"nodes"`
	Up    int      `json:"up"`
	Known int      `json:"known"` // nodes whose sessions were looked at
	Down  []string `json:"down,omitempty"`
	Why   []string `json:"why,omitempty"` // they, or BFD, are down, by what their speakers say
}

// VIP is a Service with its addresses.
type VIP struct {
	Service   string       `json:"service"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Pool      string       `json:"pool,omitempty"`
	L2        []string     `json:"layer2,omitempty"`     // nodes that answer
	BGP       []string     `json:"bgp,omitempty"`        // nodes that advertise
	Unheard   []string     `json:"notHeardOf,omitempty"` // those of which nothing is heard any more
	State     string       `json:"state"`
}

// Status sums up the cluster.
func (w *World) Status() *Status {
	s := &Status{Gaps: w.gapsOfStatus(), Pools: w.pools(), VIPs: []VIP{}, Wrong: []Finding{}}
	places := w.placements()
	w.deaf = w.allSessionsDown()
	w.reasons = map[string]lb.Reason{}
	owns, routes := map[string]int{}, map[string]int{}
	troubles := map[lb.Reason][]string{}
	for _, key := range w.keys {
		v := w.vip(key, places[key])
		for _, n := range v.L2 {
			owns[n]++
		}
		for _, n := range v.BGP {
			routes[n]++
		}
		if v.State != "" && v.State != string(lb.Announced) {
			reason := lb.Reason(v.State)
			troubles[reason] = append(troubles[reason], key.String())
		}
		s.VIPs = append(s.VIPs, v)
	}
	s.Nodes, s.Sessions = w.nodeRows(owns, routes), w.peerings()
	s.Wrong = append(s.Wrong, w.components()...)
	s.Wrong = append(s.Wrong, w.configuration()...)
	for _, r := range tally(troubles).order() {
		names := troubles[r]
		s.Wrong = append(s.Wrong, broken("services", r, "%d %s: %s", len(names), verb(len(names), "Service", "Services"), list(names)).
			remedy("kubectl barelb explain service %s", names[0]))
	}
	s.Wrong = append(s.Wrong, w.conflicts()...)
	for _, p := range s.Sessions {
		if p.Known > p.Up {
			s.Wrong = append(s.Wrong, warning("sessions", SessionDown, "BGPPeer %s: the sessions of %s are down", p.Peer, list(p.Down)).with(named(p.Why)...))
		}
	}
	slices.SortStableFunc(s.Wrong, func(a, b Finding) int { return severity(a.Level) - severity(b.Level) })
	return s
}

// gapsOfStatus returns what is not known that a Status depends on.
func (w *World) gapsOfStatus() []Gap {
	var out []Gap
	for _, g := range w.c.Gaps {
		if !slices.Contains([]Source{FromLeases, FromRights, FromPolicies, FromWorkloads, FromRanges, FromProxyMode, FromProxies, FromEvents, FromKnown}, g.From) {
			out = append(out, g)
		}
	}
	return out
}

// vip says from where a Service is announced, or the reason why it is not.
func (w *World) vip(key lb.Key, at Placement) VIP {
	svc := w.services[key]
	v := VIP{Service: key.String(), Addresses: svc.Addrs, Pool: w.poolOf(svc), State: string(lb.Announced)}
	if len(svc.Addrs) == 0 {
		v.State, v.Pool = string(cmp.Or(w.firstBroken(svc), NotYetWritten)), ""
		return v
	}
	said := w.announcing(key)
	v.L2, v.BGP = said.L2, said.BGP
	known := !w.c.Flags.NoStatus && w.c.gap(FromL2Status) == nil && w.c.gap(FromBGPStatus) == nil
	if !known {
		v.BGP = at.NextHops
		if v.L2 = nil; at.Owner != "" {
			v.L2 = []string{at.Owner}
		}
	}
	for _, n := range slices.Concat(v.L2, v.BGP) {
		if w.silentFor(n) != "" && !slices.Contains(v.Unheard, n) {
			v.Unheard = append(v.Unheard, n)
		}
	}
	heard := slices.ContainsFunc(slices.Concat(said.L2, said.BGP), func(n string) bool { return !slices.Contains(v.Unheard, n) })
	planned := at.Owner != "" || len(at.NextHops) > 0
	switch {
	case w.c.gap(FromEndpoints) == nil && !planned:
		v.State = string(cmp.Or(w.firstBroken(svc), at.L2.Reason))
	case known && !heard:
		v.State = string(SpeakerSilent)
	case len(said.L2) > 1:
		v.State = string(TwoOwners)
	case len(v.L2) == 0 && len(v.BGP) > 0 && w.deaf:
		v.State = string(NoSession)
	}
	for _, a := range svc.Addrs {
		if slices.ContainsFunc(w.c.Conflicts, func(x lb.WireConflict) bool { return x.Addr == a }) {
			v.State = string(lb.AddressInUseOnWire)
		}
	}
	return v
}

// firstBroken returns the reason of the first broken link of a Service that nobody announces, as
// Service explains it; "" if no link is. Services that differ in nothing that matters are explained once.
func (w *World) firstBroken(svc *plan.Service) lb.Reason {
	if len(svc.Addrs) == 0 {
		return reasonOf(w.Service(svc.Key).First)
	}
	c := &chain{ServiceReport: &ServiceReport{Pool: w.poolOf(svc)}, w: w, svc: svc, ready: map[string]int{}}
	c.find()
	said := w.announcing(svc.Key)
	var families []lb.Family
	for _, a := range svc.Addrs {
		families = append(families, lb.FamilyOf(a))
	}
	like := fmt.Sprint(c.Pool, string(families), c.l2, c.bgp, svc.HasSharing, c.anywhere > 0, said.L2, said.BGP, svc.TrafficLocal)
	if svc.TrafficLocal {
		like += fmt.Sprint(slices.Sorted(maps.Keys(c.ready)))
	}
	if _, known := w.reasons[like]; !known {
		w.reasons[like] = reasonOf(w.Service(svc.Key).First)
	}
	return w.reasons[like]
}

func reasonOf(f *Finding) lb.Reason {
	if f == nil {
		return ""
	}
	return f.Reason
}

// pools lists all pools, those that are set aside too.
func (w *World) pools() []Pool {
	out := []Pool{}
	usage := map[string]ipam.Usage{}
	for _, u := range w.book.Usage() {
		usage[u.Pool] = u
	}
	for _, o := range w.c.Objects.Pools {
		p := Pool{Name: o.Name, Addresses: o.Addresses, State: "in force"}
		if u, inForce := usage[o.Name]; inForce {
			p.Use = UsageText(u)
		} else {
			p.State = "set aside"
		}
		if o.Terminating {
			p.State = "being deleted"
		}
		for _, a := range w.cfg.L2 {
			if a.Pools[o.Name] {
				p.By = append(p.By, "L2Advertisement/"+a.Name)
			}
		}
		for _, a := range w.cfg.BGP {
			if a.Pools[o.Name] {
				p.By = append(p.By, "BGPAdvertisement/"+a.Name)
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (w *World) nodeRows(owns, routes map[string]int) []NodeRow {
	out := []NodeRow{}
	for i := range w.c.Nodes {
		n := &w.c.Nodes[i]
		r := NodeRow{Name: n.Name, State: "ready", Speaker: "not checked", Owns: owns[n.Name], Routes: routes[n.Name]}
		age := w.silentFor(n.Name)
		switch {
		case age != "":
			r.State = "not heard of for " + age
		case n.NetworkUnavailable:
			r.State = "network unavailable"
		case n.Excluded:
			r.State = "excluded"
		case n.Leaving != "" || n.Drain != "":
			r.State = "leaving"
		case !n.NotReadySince.IsZero():
			r.State = "not ready"
		case n.Unschedulable:
			r.State = "cordoned"
		}
		if w.view != nil {
			switch r.Speaker = "not running"; {
			case w.runs(n.Name):
				r.Speaker = "running"
			case age != "":
				r.Speaker = "not known"
			}
		}
		out = append(out, r)
	}
	return out
}

// peerings lists the BGPPeers in force and the nodes that hold sessions with them.
func (w *World) peerings() []Peering {
	var out []Peering
	for _, p := range w.cfg.Peers {
		row := Peering{Peer: p.String(), ASN: p.PeerASN}
		for _, n := range w.nodes {
			if !lb.MatchesAny(p.NodeSelectors, n.Labels) || !w.runs(n.Name) || w.silentFor(n.Name) != "" {
				continue
			}
			row.Nodes++
			at, _, known := w.session(n.Name, p.Name)
			if !known {
				continue
			}
			row.Known++
			if at.Up {
				row.Up++
				if why := n.Name + ": BFD is " + at.BFD; at.BFD != "" {
					row.Why = append(row.Why, why)
				}
				continue
			}
			row.Down = append(row.Down, n.Name)
			if at.Why != "" && !slices.Contains(row.Why, at.Why) {
				row.Why = append(row.Why, at.Why)
			}
		}
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b Peering) int { return strings.Compare(a.Peer, b.Peer) })
	return out
}

// allSessionsDown reports whether sessions were looked at and not one of them is up.
func (w *World) allSessionsDown() bool {
	known := 0
	for _, p := range w.peerings() {
		if known += p.Known; p.Up > 0 {
			return false
		}
	}
	return known > 0
}

// configuration says what is wrong with configuration objects.
func (w *World) configuration() []Finding {
	var out []Finding
	if g := w.c.gap(FromConfig); g != nil {
		return []Finding{unknown("configuration", g)}
	}
	for _, p := range w.cfg.Problems {
		f := warning("configuration", p.Reason, "%s %s: %s: %s", p.Kind, p.Name, p.Field, p.Message)
		switch {
		case p.LastGood:
			f.Evidence = []string{"its last good version stays in force"}
		case !p.InForce:
			f.Evidence = []string{"it is set aside, or its last good version is in force where the processes had one"}
		}
		if p.Kind == config.KindBGPPeer && p.Reason == lb.NotSupported {
			f.Level = Info
		}
		out = append(out, f.remedy("kubectl -n %s edit %s %s", w.c.Namespace, strings.ToLower(p.Kind), p.Name))
	}
	for _, s := range w.c.States {
		if !s.Valid && len(w.cfg.Problems) == 0 {
			out = append(out, warning("configuration", SetAside, "%s calls the configuration invalid, and as it is now nothing is wrong with it", s.Name).
				with(s.Summary).remedy("it has not the latest configuration, if this stays so: see whether it reaches the API server"))
		}
	}
	return out
}

// conflicts says which addresses of Services others on the wire use.
func (w *World) conflicts() []Finding {
	var out []Finding
	free := 0
	for _, x := range w.c.Conflicts {
		if holders := w.holders[x.Addr]; len(holders) > 0 {
			out = append(out, broken("wire", lb.AddressInUseOnWire, "%s of Service %s is used by %s too, which %s heard on %s", x.Addr, holders[0], x.MAC, x.Node, x.Link).
				remedy("find the host with that MAC and take the address from it"))
		} else {
			free++
		}
	}
	if free > 0 {
		out = append(out, Finding{
			Level: Info, Check: "wire", Reason: lb.AddressInUseOnWire,
			What: fmt.Sprintf("%d free %s of pools %s used by hosts outside of the cluster, and not given", free, verb(free, "address", "addresses"), verb(free, "is", "are")),
		})
	}
	return out
}

// components says which processes do not run.
func (w *World) components() []Finding {
	if g := w.c.gap(FromPods); g != nil {
		return []Finding{unknown("components", g)}
	}
	var out []Finding
	if running, lines := w.controllers(); len(running) == 0 {
		out = append(out, broken("components", ControllerNotRunning, "no controller runs: no Service gets an address").with(lines...).
			remedy("kubectl -n %s describe deployment controller", w.c.Namespace))
	}
	if w.view == nil {
		level := broken
		if w.heard() {
			level = warning
		}
		return append(out, level("components", SpeakerNotRunning, "no Pod of a speaker is found in namespace %s: nothing is announced, unless speakers run outside of Pods", w.c.Namespace).
			remedy("kubectl apply -f deploy/install.yaml, or give the namespace by --system-namespace"))
	}
	var down, lines []string
	for _, n := range w.nodes {
		if age := w.silentFor(n.Name); age != "" {
			out = append(out, w.silence(n.Name, age))
		} else if !w.runs(n.Name) {
			down = append(down, n.Name)
			lines = append(lines, n.Name+": "+cmp.Or(w.speakers[n.Name].Why, "there is no Pod of a speaker"))
		}
	}
	if len(down) > 0 {
		out = append(out, warning("components", SpeakerNotRunning, "no speaker runs on %s", list(down)).with(named(lines)...).
			remedy("kubectl -n %s describe daemonset speaker (tolerations, nodeSelector)", w.c.Namespace))
	}
	return out
}
