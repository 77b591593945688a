// Package plan decides what one node announces.
//
// A Planner holds what the node knows of the world (Services, nodes, who is
// alive, configuration) and yields Desired: the addresses to answer for, the
// routes to tell each router, and for every Service the reason why it is or is
// not announced from here. It is deterministic: two Planners that were told the
// same world in any order yield the same.
//
// A change of one Service costs the work for that Service and, if what is announced
// changes with it, one pass over what the others announce. A change of the other
// nodes costs work for the Services whose owner changes. A Planner belongs to one
// goroutine.
package plan

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
)

// Options are what does not change while a speaker runs.
type Options struct {
	Node string // the name of this node
	// IgnoreExcluded announces even from nodes that carry
	// node.kubernetes.io/exclude-from-external-load-balancers.
	IgnoreExcluded bool
}

// Desired is what the node shall announce. It must not be changed: the next plan
// hands out the same maps where they are still right, and sessions share theirs.
type Desired struct {
	L2  handover.Wants
	BGP lb.BGP // sorted by peer name
	// Changed are the Services whose Verdict is new since the plan before, sorted.
	Changed []lb.Key
	// Problems are what this node finds wrong with the configuration beyond what
	// can be said without knowing the node. Sorted.
	Problems []config.Problem
}

// Verdict says what becomes of one Service on this node.
type Verdict struct {
	Addrs []netip.Addr
	L2    Outcome
	BGP   Outcome
	Owner string // the node that answers for it in Layer 2 mode; "" if none
	// Caretaker answers in the owner's name while the owner's speaker is down; "" if none
	// does. Aside are conditions that no candidate fulfils, and that were therefore not
	// asked for.
	Caretaker, Aside string
	Links            []string // where this node answers for it; empty: everywhere
	// Mute says that this node, which owns it, has none of Links, and so answers nowhere.
	Mute  bool
	Peers []string // names of the peers that are told, sorted
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
	view     *liveness.View // nil: every node counts as alive
	claims   map[netip.Addr][]liveness.Claimant
	leaving  string          // why this node is
	unready  map[string]bool // nodes that are not Ready, for long
	proxies  map[string]bool // nodes whose kube-proxy is not healthy
	services map[lb.Key]*Service
	holders  map[netip.Addr]map[lb.Key]bool // Services by their addresses

	verdicts map[lb.Key]*Verdict
	states   map[lb.Key]*state
	last     Desired // the plan before

	dirty      map[lb.Key]bool // Services to decide anew
	allDirty   bool            // the same for all: configuration or this node changed
	nodesDirty bool            // other nodes, or who is alive, changed

	// Derived from configuration and this node when allDirty.
	l2Advs   map[string][]*config.L2Adv // by pool
	bgpAdvs  map[string][]int           // by pool: those that cover this node, by their place in Config.BGP
	advSets  map[string]*advSet
	peers    []*config.Peer
	problems []config.Problem
	// conflicts are the attributes that advertisements contradict each other in, as of
	// the last time that routes were put together.
	conflicts []config.Problem

	// Derived from all nodes as well.
	segments   []liveness.Segment // that nodes are on, sorted
	candidates []string           // nodes that may own addresses, sorted
	slates     map[string]*slate  // by the advertisements that make them
	changes    map[[2]*slate]*change
}

// state is what a Planner keeps of a Service to decide on it again with less work.
type state struct {
	routes []route
	ballot ballot
}

// New returns a Planner that knows of nothing yet.
func New(opts Options) *Planner {
	return &Planner{
		opts: opts, cfg: &config.Config{}, nodes: map[string]*lb.Node{}, services: map[lb.Key]*Service{},
		verdicts: map[lb.Key]*Verdict{}, states: map[lb.Key]*state{}, dirty: map[lb.Key]bool{}, allDirty: true,
		claims: map[netip.Addr][]liveness.Claimant{}, holders: map[netip.Addr]map[lb.Key]bool{},
	}
}

// SetConfig replaces the configuration.
func (p *Planner) SetConfig(cfg *config.Config) {
	p.cfg = cfg
	p.allDirty = true
}

// SetNodes replaces the nodes of the cluster. The slice is kept.
func (p *Planner) SetNodes(nodes []lb.Node) {
	old := p.nodes
	p.nodes = make(map[string]*lb.Node, len(nodes))
	for i := range nodes {
		p.nodes[nodes[i].Name] = &nodes[i]
	}
	if !equalNodes(old[p.opts.Node], p.nodes[p.opts.Node]) {
		p.allDirty = true
	}
	if !maps.EqualFunc(old, p.nodes, equalNodes) {
		p.nodesDirty = true
		p.allDirty = p.allDirty || p.proxies[p.opts.Node]
	}
}

// equalNodes reports whether two nodes, of which either may be unknown, are alike.
func equalNodes(a, b *lb.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && a.NetworkUnavailable == b.NetworkUnavailable && a.Excluded == b.Excluded &&
		a.Leaving == b.Leaving && maps.Equal(a.Labels, b.Labels)
}

// SetLiveness replaces what is known of who lives. nil means that nobody watches:
// then every node counts as alive. The View is kept.
func (p *Planner) SetLiveness(v *liveness.View) {
	if p.view.Equal(v) {
		return
	}
	if p.view == nil || v == nil || !p.view.Nodes[p.opts.Node].Equal(v.Nodes[p.opts.Node]) {
		p.allDirty = true
	}
	p.allDirty = p.allDirty || p.proxies[p.opts.Node] // whether others can serve matters then
	p.view = v
	p.nodesDirty = true
}

// SetUnready replaces the nodes that have not been Ready for long. The set is kept.
func (p *Planner) SetUnready(nodes map[string]bool) {
	if !maps.Equal(p.unready, nodes) {
		p.allDirty = p.allDirty || p.unready[p.opts.Node] != nodes[p.opts.Node]
		p.unready = nodes
		p.nodesDirty = true
	}
}

// SetProxiesDown replaces the nodes whose kube-proxy is not healthy. The set is kept. A
// node announces nothing by BGP while it is among them, unless nobody else could, or more
// than half of the nodes are: then it is the check that fails, or the rules that are left
// in the kernels are the best there is.
func (p *Planner) SetProxiesDown(nodes map[string]bool) {
	if !maps.Equal(p.proxies, nodes) {
		p.proxies, p.allDirty = nodes, true
	}
}

// SetLeaving says why this node shall carry nothing any more, whatever is known of the
// node; "" if it may.
func (p *Planner) SetLeaving(cause string) {
	if p.leaving != cause {
		p.leaving, p.allDirty = cause, true
	}
}

// SetClaims replaces who claims the addresses that are in claims; the claims of others
// stay. They matter where the present owner stays, or may not work.
func (p *Planner) SetClaims(claims map[netip.Addr][]liveness.Claimant) {
	for addr, now := range claims {
		if len(now) == 0 {
			delete(p.claims, addr)
		} else {
			p.claims[addr] = now
		}
		for key := range p.holders[addr] {
			if st := p.states[key]; st != nil && st.ballot.slate != nil && st.ballot.slate.byClaims() {
				p.dirty[key] = true
			}
		}
	}
}

// SetService replaces one Service; nil removes it.
func (p *Planner) SetService(key lb.Key, svc *Service) {
	if old := p.services[key]; old != nil {
		for _, a := range old.Addrs {
			p.touchSharers(a, key)
			delete(p.holders[a], key)
			if len(p.holders[a]) == 0 {
				delete(p.holders, a)
			}
		}
	}
	if svc == nil {
		delete(p.services, key)
	} else {
		p.services[key] = svc
		for _, a := range svc.Addrs {
			if p.holders[a] == nil {
				p.holders[a] = map[lb.Key]bool{}
			}
			p.holders[a][key] = true
			p.touchSharers(a, key)
		}
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
	everything := p.allDirty
	p.changes = map[[2]*slate]*change{}
	switch {
	case p.allDirty:
		p.derive()
		for key := range p.services {
			p.dirty[key] = true
		}
	case p.nodesDirty && p.deriveSegments():
		p.derive()
		for key := range p.services {
			p.dirty[key] = true
		}
	case p.nodesDirty:
		p.reelect()
	}
	d := Desired{L2: p.last.L2, BGP: p.last.BGP, Problems: p.problems}
	newL2, newBGP := everything || p.nodesDirty, everything
	for key := range p.dirty {
		old, before := p.verdicts[key], p.states[key]
		v, now := p.decide(p.services[key], before)
		newL2 = newL2 || !p.sameL2(v, old)
		newBGP = newBGP || !now.sameRoutes(before)
		if !v.equal(old) {
			d.Changed = append(d.Changed, key)
		}
		if v == nil {
			delete(p.verdicts, key)
			delete(p.states, key)
		} else {
			p.verdicts[key], p.states[key] = v, now
		}
	}
	if newL2 {
		d.L2 = p.l2()
	}
	if newBGP {
		d.BGP = p.bgp()
	}
	d.Problems = p.allProblems()
	slices.SortFunc(d.Changed, lb.Key.Compare)
	p.dirty, p.allDirty, p.nodesDirty, p.changes = map[lb.Key]bool{}, false, false, nil
	p.last = d
	return d
}

// derive computes what depends on nodes, liveness and configuration alone.
func (p *Planner) derive() {
	p.l2Advs, p.bgpAdvs = map[string][]*config.L2Adv{}, map[string][]int{}
	for _, a := range p.cfg.L2 {
		for pool := range a.Pools {
			p.l2Advs[pool] = append(p.l2Advs[pool], a)
		}
	}
	for i, a := range p.cfg.BGP {
		for pool := range a.Pools {
			if p.covers(a.NodeSelectors, p.opts.Node) {
				p.bgpAdvs[pool] = append(p.bgpAdvs[pool], i)
			}
		}
	}
	p.advSets, p.slates = map[string]*advSet{}, map[string]*slate{}
	p.deriveSegments()
	p.deriveCandidates()
	p.derivePeers()
}

// equal reports whether v and o say the same. Either may be nil, for no Service.
func (v *Verdict) equal(o *Verdict) bool {
	if v == nil || o == nil {
		return v == o
	}
	return v.L2 == o.L2 && v.BGP == o.BGP && v.Owner == o.Owner && v.Caretaker == o.Caretaker && v.Aside == o.Aside && v.Mute == o.Mute && slices.Equal(v.Addrs, o.Addrs) &&
		slices.Equal(v.Links, o.Links) && slices.Equal(v.Peers, o.Peers)
}

// decision is one Service in the making of its verdict.
type decision struct {
	svc      *Service
	pool     string // that its addresses are from
	backends backends
	last     ballot // of the decision before
	*Verdict
	*state
}

// decide says what becomes of svc on this node, and nothing if svc is nil. before
// is the state that the last decision left, or nil.
func (p *Planner) decide(svc *Service, before *state) (*Verdict, *state) {
	if svc == nil {
		return nil, nil
	}
	d := decision{svc: svc, backends: svc.backends(), Verdict: &Verdict{Addrs: svc.Addrs}, state: &state{}}
	if before != nil {
		d.last = before.ballot
	}
	var no Outcome
	if d.pool, no = p.poolOf(&svc.Service); no.Reason != "" {
		d.L2, d.BGP = no, no
	} else {
		p.decideL2(&d)
		p.decideBGP(&d)
	}
	return d.Verdict, d.state
}

// poolOf returns the pool that the Service's addresses are from. Those of a pool
// that is set aside, or that does not have them any more but is guarded, are known by
// the Service's own record of its pool.
func (p *Planner) poolOf(svc *lb.Service) (string, Outcome) {
	if len(svc.Addrs) == 0 {
		return "", Outcome{lb.NoAddress, "it has no address yet"}
	}
	name := ""
	for _, a := range svc.Addrs {
		pool := svc.Pool
		if !p.cfg.SetAside[pool] {
			in := p.cfg.PoolOf(a)
			if own := p.cfg.PoolByName(pool); in != "" || own == nil || !own.Guarded {
				pool = in
			}
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

// backends is where the endpoints of a Service are that can take traffic.
type backends struct {
	some bool // there is one, be its node known or not
	// nodes are those that have one; nil unless externalTrafficPolicy is Local.
	nodes map[string]bool
}

func (s *Service) backends() backends {
	var b backends
	if s.TrafficLocal {
		b.nodes = map[string]bool{}
	}
	for _, e := range s.Endpoints {
		if !e.Serving {
			continue
		}
		b.some = true
		if s.TrafficLocal && e.Node != "" {
			b.nodes[e.Node] = true
		}
	}
	return b
}

// weight returns how much of the traffic to addresses of a family a node can take: how
// many endpoints of that family it has. It is 0 unless externalTrafficPolicy is Local.
func (s *Service) weight(node string, f lb.Family) uint32 {
	n := uint32(0)
	for _, e := range s.Endpoints {
		if s.TrafficLocal && e.Serving && e.Node == node && (e.Family == f || e.Family == 0) {
			n++
		}
	}
	return n
}

// covers reports whether one of sels matches the node, if it is known.
func (p *Planner) covers(sels []lb.Selector, node string) bool {
	n := p.nodes[node]
	return n != nil && lb.MatchesAny(sels, n.Labels)
}
