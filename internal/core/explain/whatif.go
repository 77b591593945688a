package explain

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// Effect is what a change does to a Service.
type Effect string

// The effects, worst first.
const (
	Stops    Effect = "stops"        // it is announced, and would not be
	Loses    Effect = "loses"        // its address, and gets none
	Readdr   Effect = "gets another" // address
	Moves    Effect = "moves"        // to another owner
	Reroutes Effect = "reroutes"     // its next hops change
	Starts   Effect = "starts"       // it is not announced, and would be
)

// Move is what would become of one Service.
type Move struct {
	Service   string       `json:"service"`
	Effect    Effect       `json:"effect"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // before
	From      string       `json:"from,omitempty"`
	To        string       `json:"to,omitempty"`
	Reason    lb.Reason    `json:"reason,omitempty"`
	Message   string       `json:"message,omitempty"`
}

// WhatIf compares a cluster with itself after a change.
type WhatIf struct {
	Moves    []Move    `json:"moves"` // worst first
	Kept     int       `json:"unchanged"`
	Problems []Finding `json:"problems,omitempty"` // of the configuration, that are new
	Notes    []string  `json:"notes,omitempty"`
}

// Without returns the cluster as it is when nodes are gone, and their endpoints with
// them. It fails if one of them is not there.
func Without(c *Cluster, nodes []string) (*Cluster, error) {
	gone := map[string]bool{}
	for _, n := range nodes {
		if !slices.ContainsFunc(c.Nodes, func(x Node) bool { return x.Name == n }) {
			return nil, fmt.Errorf("there is no node %q", n)
		}
		gone[n] = true
	}
	out := *c
	out.Nodes = slices.DeleteFunc(slices.Clone(c.Nodes), func(n Node) bool { return gone[n.Name] })
	out.Pods = slices.DeleteFunc(slices.Clone(c.Pods), func(p Pod) bool { return gone[p.Node] })
	out.Services = slices.Clone(c.Services)
	for i := range out.Services {
		eps := out.Services[i].Endpoints
		if slices.ContainsFunc(eps, func(e lb.Endpoint) bool { return gone[e.Node] }) {
			out.Services[i].Endpoints = slices.DeleteFunc(slices.Clone(eps), func(e lb.Endpoint) bool { return gone[e.Node] })
		}
	}
	return &out, nil
}

// Compare says what becomes of each Service when a cluster that is like before becomes
// like after: which addresses the controller gives, which node owns each, and which
// nodes advertise each. What was in force of a bad object stays in force.
func Compare(before, after *Cluster) *WhatIf {
	was := New(before)
	is := build(after, was.cfg)
	if was.view != nil && is.view == nil { // the last speakers went
		is.view = was.view
		is.learn()
	}
	was.settle()
	is.settle()
	r := &WhatIf{Moves: []Move{}}
	from, to := was.placements(), is.placements()
	for _, key := range slices.SortedFunc(maps.Keys(union(was.services, is.services)), lb.Key.Compare) {
		if m, changed := move(key, was, is, from[key], to[key]); changed {
			r.Moves = append(r.Moves, m)
		} else {
			r.Kept++
		}
	}
	order := []Effect{Stops, Loses, Readdr, Moves, Reroutes, Starts}
	slices.SortStableFunc(r.Moves, func(a, b Move) int { return slices.Index(order, a.Effect) - slices.Index(order, b.Effect) })
	for _, p := range config.NewProblems(is.cfg.Problems, was.cfg.Problems) {
		r.Problems = append(r.Problems, warning("configuration", p.Reason, "%s", p))
	}
	if slices.ContainsFunc(r.Moves, func(m Move) bool { return m.Effect == Reroutes }) {
		r.Notes = append(r.Notes, "when next hops change, routers spread flows anew: open connections of these Services may be reset, unless the router's ECMP is resilient")
	}
	if note := was.unasked(); note != "" {
		r.Notes = append(r.Notes, note)
	}
	for _, g := range before.Gaps {
		if slices.Contains([]Source{FromEndpoints, FromPods, FromNamespaces, FromClaims, FromConflicts}, g.From) {
			r.Notes = append(r.Notes, fmt.Sprintf("%s are %s", g.From, g.NotChecked()))
		}
	}
	return r
}

func union(a, b map[lb.Key]*plan.Service) map[lb.Key]bool {
	out := make(map[lb.Key]bool, len(a))
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// settle gives addresses as a controller does that has seen everything.
func (w *World) settle() {
	waiting := w.keys
	for again := true; again; {
		again = false
		var refused []lb.Key
		for _, key := range waiting {
			svc := *w.services[key]
			d := w.book.Decide(&svc.Service)
			if len(d.Addrs) < len(svc.Families()) || len(d.Addrs) == 0 {
				refused = append(refused, key)
			}
			if slices.Equal(d.Addrs, svc.Addrs) {
				continue
			}
			again = again || len(svc.Addrs) > 0 // others may have what it had
			w.book.Settle(&svc.Service, d.Addrs)
			svc.Addrs, svc.Pool = d.Addrs, d.Pool
			w.services[key] = &svc
		}
		waiting = refused
	}
}

// move says what becomes of one Service, and whether that is anything new.
func move(key lb.Key, was, is *World, from, to Placement) (Move, bool) {
	m := Move{Service: key.String(), From: from.String(), To: to.String()}
	var before, after []netip.Addr
	if svc := was.services[key]; svc != nil {
		before, m.Addresses = svc.Addrs, svc.Addrs
	}
	svc := is.services[key]
	if svc != nil {
		after = svc.Addrs
	}
	wasUp, isUp := len(before) > 0 && from.up(), len(after) > 0 && to.up()
	switch {
	case svc == nil:
		m.Effect, m.Message = Stops, "the Service is gone"
		return m, wasUp
	case len(before) > 0 && len(after) == 0:
		m.Effect, m.From, m.To = Loses, addrs(before), ""
		if d := is.book.Decide(&svc.Service); d.Refused != nil {
			m.Reason, m.Message = d.Refused.Reason, d.Refused.Message
		}
	case wasUp && !isUp:
		m.Effect = Stops
		why := to.L2
		if why.Reason == lb.NoMatchingAdvertisement || why.Reason == lb.NotAnnounced {
			why = to.BGP
		}
		m.Reason, m.Message = why.Reason, why.Message
	case len(before) > 0 && !slices.Equal(before, after):
		m.Effect, m.From, m.To = Readdr, addrs(before), addrs(after)+" from "+svc.Pool
	case !wasUp && isUp:
		m.Effect, m.Addresses = Starts, after
	case from.Owner != to.Owner:
		m.Effect = Moves
	case !slices.Equal(from.NextHops, to.NextHops):
		m.Effect = Reroutes
	default:
		return m, false
	}
	return m, true
}
