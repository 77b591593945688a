// Package plan decides what one node announces.
//
// A Planner holds what the node knows of the world (Services, nodes, who is
// alive, configuration) and yields Desired: the addresses to answer for, the
// routes to tell each router, and for every Service the reason why it is or is
// not announced from here. It is deterministic: two Planners that were told the
// same world in any order yield the same.
//
// A change of one Service costs the work for that Service, and one pass over the
// results of the others. A Planner belongs to one goroutine.
package plan

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

// Options are what does not change while a speaker runs.
type Options struct {
	Node string // the name of this node
	// IgnoreExcluded announces even from nodes that carry
	// node.kubernetes.io/exclude-from-external-load-balancers.
	IgnoreExcluded bool
}

// Desired is what the node shall announce.
type Desired struct {
	L2  lb.L2
	BGP lb.BGP // sorted by peer name
	// Changed are the Services whose Verdict is new since the plan before, sorted.
	Changed []lb.Key
	// Problems are what this node finds wrong with the configuration beyond what
	// can be said without knowing the node. Sorted.
	Problems []config.Problem
}

// Verdict says what becomes of one Service on this node.
type Verdict struct {
	Addrs  []netip.Addr
	L2     Outcome
	BGP    Outcome
	Owner  string   // the node that answers for it in Layer 2 mode; "" if none
	Links  []string // where this node answers for it; empty: everywhere
	Peers  []string // names of the peers that are told, sorted
	routes []route
}

// Outcome is a reason with the words for the user.
type Outcome struct {
	Reason  lb.Reason
	Message string
}

// Service is a Service with its endpoints.
type Service struct {
	lb.Service
	Endpoints []lb.Endpoint
}

// Planner makes plans. Use New.
type Planner struct {
	opts     Options
	cfg      *config.Config
	nodes    map[string]*lb.Node
	alive    map[string]bool // nil: every node counts as alive
	services map[lb.Key]*Service
	verdicts map[lb.Key]*Verdict
	dirty    map[lb.Key]bool
	allDirty bool

	// Derived from the above when allDirty.
	candidates []string // nodes that may own addresses, sorted
	peers      []*config.Peer
	problems   []config.Problem
}

// New returns a Planner that knows of nothing yet.
func New(opts Options) *Planner {
	return &Planner{
		opts: opts, cfg: &config.Config{}, nodes: map[string]*lb.Node{},
		services: map[lb.Key]*Service{}, verdicts: map[lb.Key]*Verdict{}, dirty: map[lb.Key]bool{}, allDirty: true,
	}
}

// SetConfig replaces the configuration.
func (p *Planner) SetConfig(cfg *config.Config) {
	p.cfg = cfg
	p.allDirty = true
}

// SetNodes replaces the nodes of the cluster.
func (p *Planner) SetNodes(nodes []lb.Node) {
	p.nodes = make(map[string]*lb.Node, len(nodes))
	for i := range nodes {
		p.nodes[nodes[i].Name] = &nodes[i]
	}
	p.allDirty = true
}

// SetAlive replaces the set of nodes whose speakers are known to live. nil means
// that nobody watches: then every node counts as alive.
func (p *Planner) SetAlive(alive map[string]bool) {
	if maps.Equal(p.alive, alive) && (p.alive == nil) == (alive == nil) {
		return
	}
	p.alive = alive
	p.allDirty = true
}

// SetService replaces one Service; nil removes it.
func (p *Planner) SetService(key lb.Key, svc *Service) {
	if svc == nil {
		delete(p.services, key)
	} else {
		p.services[key] = svc
	}
	p.dirty[key] = true
}

// Verdict returns the verdict on a Service as of the last plan, or nil. It must
// not be changed.
func (p *Planner) Verdict(key lb.Key) *Verdict { return p.verdicts[key] }

// Verdicts returns all verdicts as of the last plan. It must not be changed, and
// is valid until the next plan.
func (p *Planner) Verdicts() map[lb.Key]*Verdict { return p.verdicts }

// Plan decides anew whatever changed since the last plan.
func (p *Planner) Plan() Desired {
	if p.allDirty {
		p.derive()
		for key := range p.services {
			p.dirty[key] = true
		}
		for key := range p.verdicts {
			p.dirty[key] = true
		}
	}
	var d Desired
	for key := range p.dirty {
		svc, old := p.services[key], p.verdicts[key]
		if svc == nil {
			delete(p.verdicts, key)
			if old != nil {
				d.Changed = append(d.Changed, key)
			}
			continue
		}
		v := p.decide(svc)
		if old == nil || !old.equal(v) {
			p.verdicts[key] = v
			d.Changed = append(d.Changed, key)
		}
	}
	p.dirty = map[lb.Key]bool{}
	p.allDirty = false
	slices.SortFunc(d.Changed, lb.Key.Compare)
	d.L2 = p.l2()
	d.BGP = p.bgp()
	d.Problems = p.problems
	return d
}

// derive computes what depends on nodes, liveness and configuration alone.
func (p *Planner) derive() {
	p.candidates = p.candidates[:0]
	for _, name := range slices.Sorted(maps.Keys(p.nodes)) {
		n := p.nodes[name]
		if (p.alive == nil || p.alive[name]) && !n.NetworkUnavailable && (!n.Excluded || p.opts.IgnoreExcluded) {
			p.candidates = append(p.candidates, name)
		}
	}
	p.derivePeers()
}

func (v *Verdict) equal(o *Verdict) bool {
	return v.L2 == o.L2 && v.BGP == o.BGP && v.Owner == o.Owner && slices.Equal(v.Addrs, o.Addrs) &&
		slices.Equal(v.Links, o.Links) && slices.Equal(v.Peers, o.Peers) && slices.Equal(v.routes, o.routes)
}

// decide says what becomes of svc on this node.
func (p *Planner) decide(svc *Service) *Verdict {
	v := &Verdict{Addrs: svc.Addrs}
	pool, no := p.poolOf(&svc.Service)
	if no.Reason != "" {
		v.L2, v.BGP = no, no
		return v
	}
	p.decideL2(svc, pool, v)
	p.decideBGP(svc, pool, v)
	return v
}

// poolOf returns the pool that the Service's addresses are from. Those of a pool
// that is set aside are known by the Service's own record of its pool.
func (p *Planner) poolOf(svc *lb.Service) (string, Outcome) {
	if len(svc.Addrs) == 0 {
		return "", Outcome{lb.NoAddress, "it has no address yet"}
	}
	name := ""
	for _, a := range svc.Addrs {
		pool := p.cfg.PoolOf(a)
		if pool == "" && p.cfg.SetAside[svc.Pool] {
			pool = svc.Pool
		}
		switch {
		case pool == "":
			return "", Outcome{lb.AddressUnknown, a.String() + " belongs to no IPAddressPool"}
		case name != "" && pool != name:
			return "", Outcome{lb.AddressUnknown, "its addresses are from the IPAddressPools " + name + " and " + pool}
		}
		name = pool
	}
	return name, Outcome{}
}

// serving returns the nodes on which an endpoint of svc can take traffic, and
// whether there is any endpoint that can, be its node known or not.
func (s *Service) serving() (nodes map[string]bool, any bool) {
	nodes = map[string]bool{}
	for _, e := range s.Endpoints {
		if !e.Serving {
			continue
		}
		any = true
		if e.Node != "" {
			nodes[e.Node] = true
		}
	}
	return nodes, any
}

// covers reports whether one of sels matches the node, if it is known.
func (p *Planner) covers(sels []lb.Selector, node string) bool {
	n := p.nodes[node]
	return n != nil && lb.MatchesAny(sels, n.Labels)
}
