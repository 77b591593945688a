package explain_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
)

// fleet is the speakers of a cluster, each with a planner of its own that lives through
// what happens, and with what it knows of the others.
type fleet struct {
	c        *explain.Cluster
	nodes    []lb.Node
	cfg      *config.Config
	planners map[string]*plan.Planner
	views    map[string]*liveness.View
	claims   map[netip.Addr][]liveness.Claimant
}

// newFleet starts the speakers of c, whose nodes have random links.
func newFleet(r *rand.Rand, c *explain.Cluster) *fleet {
	f := &fleet{c: c, cfg: config.Parse(c.Objects, nil), planners: map[string]*plan.Planner{}, views: map[string]*liveness.View{}, claims: map[netip.Addr][]liveness.Claimant{}}
	all := map[string]liveness.Node{}
	for i, n := range c.Nodes {
		f.nodes = append(f.nodes, n.Node)
		prefix := fmt.Sprintf("10.0.0.%d/16", 100+i)
		if r.IntN(4) == 0 {
			prefix = fmt.Sprintf("10.7.0.%d/16", 100+i)
		}
		links := []liveness.Link{
			{Name: "eth0", Carrier: r.IntN(6) > 0, IPv4: true, IPv6: true, Addrs: []netip.Prefix{netip.MustParsePrefix(prefix)}},
			{Name: "eth1", Carrier: r.IntN(3) > 0, IPv4: true, IPv6: r.IntN(2) > 0},
		}
		all[n.Name] = liveness.Node{Member: true, Facts: &liveness.Facts{Node: n.Name, Version: 1, Phase: liveness.Serving, Links: links[:1+r.IntN(2)]}}
	}
	for _, n := range c.Nodes {
		f.views[n.Name] = &liveness.View{Nodes: maps.Clone(all)}
		p := plan.New(plan.Options{Node: n.Name})
		p.SetConfig(f.cfg)
		f.planners[n.Name] = p
	}
	f.settle(c.Services)
	return f
}

// settle lets all speakers plan, and tell each other what they claim, until that is so.
func (f *fleet) settle(services []plan.Service) {
	unready, _ := plan.Unready(f.nodes, f.c.Now, plan.UnreadyGrace)
	for range 4 {
		claims := map[netip.Addr][]liveness.Claimant{}
		for _, name := range slices.Sorted(maps.Keys(f.planners)) {
			p := f.planners[name]
			p.SetNodes(f.nodes)
			p.SetUnready(unready)
			p.SetLiveness(f.views[name])
			p.SetClaims(f.claims)
			for i := range services {
				p.SetService(services[i].Key, &services[i])
			}
			for addr, want := range p.Plan().L2 {
				if !want.Caretake {
					claims[addr] = append(claims[addr], liveness.Claimant{Node: name, Term: 1})
				}
			}
		}
		gone := map[netip.Addr][]liveness.Claimant{}
		for addr := range f.claims {
			gone[addr] = nil
		}
		maps.Copy(gone, claims)
		f.claims = gone
	}
}

// cut is what the others find out, and what Kubernetes does, when a node's link is cut.
func (f *fleet) cut(gone string, services []plan.Service) {
	delete(f.planners, gone)
	f.nodes = slices.Clone(f.nodes)
	for i := range f.nodes {
		if f.nodes[i].Name == gone {
			f.nodes[i].NotReadySince = f.c.Now.Add(-time.Minute)
		}
	}
	for name := range f.planners {
		v := &liveness.View{Nodes: maps.Clone(f.views[name].Nodes)}
		dead := v.Nodes[gone]
		dead.Member, dead.SpeakerDown, dead.Gone, dead.Dead = false, true, true, map[liveness.Segment]bool{}
		for _, l := range dead.Facts.Links {
			for _, s := range l.Segments() {
				dead.Dead[s] = true
			}
		}
		v.Nodes[gone] = dead
		f.views[name] = v
	}
	f.settle(services)
}

// announced returns from where each Service is announced.
func (f *fleet) announced(services []plan.Service) map[string]explain.Placement {
	out := map[string]explain.Placement{}
	for _, name := range slices.Sorted(maps.Keys(f.planners)) {
		for _, svc := range services {
			v, at := f.planners[name].Verdict(svc.Key), out[svc.Key.String()]
			if v.L2.Reason == lb.Announced {
				at.Owner += name
			}
			if v.BGP.Reason == lb.Announced {
				at.NextHops = append(at.NextHops, name)
			}
			out[svc.Key.String()] = at
		}
	}
	return out
}

// TestWhatIfKnowsLinks compares what-if --without, told by a few speakers, with what a
// fleet of speakers does whose nodes have different links, when one of them is cut off.
func TestWhatIfKnowsLinks(t *testing.T) {
	moved, sticky, plainer := 0, 0, 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 23))
		c := random(r)
		if len(c.Objects.L2) > 0 {
			if r.IntN(3) == 0 {
				c.Objects.L2[0].Interfaces = []string{"eth1", "eth0"}[r.IntN(2):][:1]
			}
			if r.IntN(2) == 0 {
				c.Objects.L2[0].Failback = string(config.FailbackNever)
			}
		}
		f := newFleet(r, c)
		// A preference that comes late: who owns an address now would not be elected.
		if len(c.Objects.L2) > 0 && c.Objects.L2[0].Failback == string(config.FailbackNever) {
			c.Objects.L2[0].Preferred = []config.Preference{{Weight: 9, Selector: lb.Selector{MatchLabels: map[string]string{"zone": "a"}}}}
			f.cfg = config.Parse(c.Objects, nil)
			for _, p := range f.planners {
				p.SetConfig(f.cfg)
			}
			f.settle(c.Services)
			sticky++
		}
		gone := c.Nodes[r.IntN(len(c.Nodes))].Name
		c.Known = map[string]*explain.Known{}
		for _, n := range c.Nodes {
			if n.Name != gone && len(c.Known) < 1+r.IntN(3) {
				c.Known[n.Name] = &explain.Known{Node: n.Name, View: f.views[n.Name], Claims: f.claims}
			}
		}
		after, err := explain.Without(c, []string{gone})
		if err != nil {
			t.Fatal(err)
		}
		was := f.announced(c.Services)
		f.cut(gone, after.Services)
		is := f.announced(c.Services)
		got := map[string]explain.Move{}
		for _, m := range explain.Compare(c, after).Moves {
			got[m.Service] = m
		}
		blind := *c
		blind.Known = nil
		blindAfter, _ := explain.Without(&blind, []string{gone})
		guess := map[string]explain.Move{}
		for _, m := range explain.Compare(&blind, blindAfter).Moves {
			guess[m.Service] = m
		}
		for key, now := range is {
			m, moves := got[key]
			switch changed := was[key].String() != now.String(); {
			case changed != moves:
				t.Errorf("seed %d without %s: %s goes from %q to %q, and what-if says %+v", seed, gone, key, was[key], now, m)
			case changed && m.Effect != explain.Stops && (m.From != was[key].String() || m.To != now.String()):
				t.Errorf("seed %d without %s: %s goes from %q to %q, and what-if says from %q to %q", seed, gone, key, was[key], now, m.From, m.To)
			case changed:
				moved++
				if guess[key].To != m.To {
					plainer++
				}
			}
		}
	}
	if moved == 0 || sticky == 0 || plainer == 0 {
		t.Errorf("%d moves, %d clusters with failback Never, %d moves that objects alone do not tell: it proves nothing", moved, sticky, plainer)
	}
	t.Logf("%d moves, %d clusters with failback Never, %d moves that objects alone would not have told", moved, sticky, plainer)
}
