package explain

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
	"github.com/barelb/barelb/internal/core/wire"
)

// World is a Cluster with what follows from it. It belongs to one goroutine.
type World struct {
	c        *Cluster
	cfg      *config.Config
	book     *ipam.Book
	services map[lb.Key]*plan.Service
	keys     []lb.Key // of services, sorted
	nodes    []lb.Node
	byName   map[string]*Node
	holders  map[netip.Addr][]lb.Key
	speakers map[string]Pod       // by node: the best one
	deaf     bool                 // all BGP sessions are known to be down; for Status
	view     *liveness.View       // nil if it is not known which speakers run
	reasons  map[string]lb.Reason // of first broken links, for Status

	// What planners go by; see learn.
	seen    *liveness.View
	claims  map[netip.Addr][]liveness.Claimant
	unready map[string]bool
	witness string // the node whose speaker is believed about others; "" if none was asked
}

// New works out what follows from c, which it keeps.
func New(c *Cluster) *World { return build(c, nil) }

// build is New where prev was in force before.
func build(c *Cluster, prev *config.Config) *World {
	w := &World{
		c: c, cfg: config.Parse(c.Objects, prev), services: make(map[lb.Key]*plan.Service, len(c.Services)),
		byName: map[string]*Node{}, holders: make(map[netip.Addr][]lb.Key, len(c.Services)), speakers: map[string]Pod{},
	}
	for i := range c.Services {
		svc := &c.Services[i]
		if c.gap(FromEndpoints) != nil {
			svc = everywhere(c, svc)
		}
		w.services[svc.Key] = svc
		w.keys = append(w.keys, svc.Key)
	}
	slices.SortFunc(w.keys, lb.Key.Compare)
	for _, key := range w.keys {
		for _, a := range w.services[key].Addrs {
			w.holders[a] = append(w.holders[a], key)
		}
	}
	for i := range c.Nodes {
		w.nodes = append(w.nodes, c.Nodes[i].Node)
		w.byName[c.Nodes[i].Name] = &c.Nodes[i]
	}
	w.takePods()
	w.learn()
	w.book = w.newBook()
	return w
}

// everywhere returns svc with an endpoint on each node: where they are is not known, and
// nothing shall be called broken because of that.
func everywhere(c *Cluster, svc *plan.Service) *plan.Service {
	out := *svc
	out.Endpoints = nil
	for i := range c.Nodes {
		out.Endpoints = append(out.Endpoints, lb.Endpoint{Node: c.Nodes[i].Name, Serving: true})
	}
	return &out
}

// takePods finds out which speakers run. Where no Pod of one is found, and none has
// written anything from a Pod, nothing is known: they may run outside of Pods.
func (w *World) takePods() {
	for _, p := range w.c.Pods {
		if p.Component == "speaker" && (p.Ready || w.speakers[p.Node].Name == "") {
			w.speakers[p.Node] = p
		}
	}
	if w.c.gap(FromPods) != nil || len(w.speakers) == 0 && !w.inPods() {
		return
	}
	w.view = &liveness.View{Nodes: map[string]liveness.Node{}}
	for node, p := range w.speakers {
		if p.Ready {
			w.view.Nodes[node] = liveness.Node{Member: true}
		}
	}
}

// heard reports whether any speaker has written anything, as far as that is known.
func (w *World) heard() bool {
	unknown := w.c.gap(FromStates) != nil || w.c.gap(FromL2Status) != nil || w.c.gap(FromBGPStatus) != nil
	return unknown || len(w.c.L2)+len(w.c.BGP) > 0 || slices.ContainsFunc(w.c.States, func(s State) bool { return s.Node != "" })
}

// inPods reports whether speakers have written anything from Pods.
func (w *World) inPods() bool {
	return slices.ContainsFunc(slices.Concat(w.c.L2, w.c.BGP), func(r Report) bool { return r.Pod != "" }) ||
		slices.ContainsFunc(w.c.States, func(s State) bool { return s.Node != "" && s.Pod != "" })
}

// newBook adopts what Services hold, as a controller that starts does.
func (w *World) newBook() *ipam.Book {
	b := ipam.NewBook()
	if w.c.Flags.GuardPools {
		b.Guard()
	}
	b.SetPools(w.cfg.Pools, w.cfg.SetAside)
	for _, addr := range slices.SortedFunc(maps.Keys(w.c.Claims), netip.Addr.Compare) {
		b.SetClaim(addr, w.c.Claims[addr])
	}
	b.SetOnWire(w.heeded())
	for _, claimed := range []bool{true, false} { // who has claimed it goes first
		for _, key := range w.keys {
			svc := &w.services[key].Service
			if len(svc.Addrs) > 0 && w.claimed(svc) == claimed {
				b.Adopt(svc)
			}
		}
	}
	return b
}

// heeded are the conflicts on the wire because of which addresses are not given.
func (w *World) heeded() []lb.WireConflict {
	count := map[string]int{}
	return slices.DeleteFunc(slices.Clone(w.c.Conflicts), func(x lb.WireConflict) bool {
		name := w.cfg.PoolOf(x.Addr)
		pool := w.cfg.PoolByName(name)
		count[name]++
		return pool == nil || pool.IgnoreOnWire.Has(x.Addr) || count[name] > wire.MaxConflicts
	})
}

func (w *World) claimed(svc *lb.Service) bool {
	return !slices.ContainsFunc(svc.Addrs, func(a netip.Addr) bool {
		return !slices.ContainsFunc(w.c.Claims[a], func(h lb.Holder) bool { return h.UID == svc.UID && !h.Released })
	})
}

// together returns the Services that hang together with key by sharing addresses, itself
// too: what is decided on one depends on them.
func (w *World) together(key lb.Key) []*plan.Service {
	found := map[lb.Key]bool{key: true}
	for todo := []lb.Key{key}; len(todo) > 0; todo = todo[1:] {
		for _, a := range w.services[todo[0]].Addrs {
			for _, other := range w.holders[a] {
				if !found[other] {
					found[other] = true
					todo = append(todo, other)
				}
			}
		}
	}
	out := make([]*plan.Service, 0, len(found))
	for k := range found {
		out = append(out, w.services[k])
	}
	return out
}

// planner returns a Planner for one node that knows the Services given, and what the
// node's speaker knows.
func (w *World) planner(node string, cfg *config.Config, services []*plan.Service) *plan.Planner {
	p := w.ideal(node, cfg, services)
	p.SetLiveness(w.viewOf(node))
	p.SetUnready(w.unready)
	p.SetClaims(w.claims)
	return p
}

// ideal returns a Planner that goes by objects alone: every speaker runs, and nothing is
// wrong with any link.
func (w *World) ideal(node string, cfg *config.Config, services []*plan.Service) *plan.Planner {
	p := plan.New(plan.Options{Node: node, IgnoreExcluded: w.c.Flags.IgnoreExcluded})
	p.SetConfig(cfg)
	p.SetNodes(w.nodes)
	p.SetProxiesDown(w.proxiesDown())
	for _, svc := range services {
		p.SetService(svc.Key, svc)
	}
	return p
}

// proxiesDown returns the nodes whose kube-proxy is not healthy, as far as speakers say.
func (w *World) proxiesDown() map[string]bool {
	down := map[string]bool{}
	for node, s := range w.c.Speakers {
		if s.ProxyDown {
			down[node] = true
		}
	}
	return down
}

// verdicts returns what each node makes of one Service by planners that planner makes.
func (w *World) verdicts(key lb.Key, planner func(string, *config.Config, []*plan.Service) *plan.Planner) map[string]*plan.Verdict {
	services := w.together(key)
	out := make(map[string]*plan.Verdict, len(w.nodes))
	for _, n := range w.nodes {
		p := planner(n.Name, w.cfg, services)
		p.Plan()
		out[n.Name] = p.Verdict(key)
	}
	return out
}

// all returns all Services, in order.
func (w *World) all() []*plan.Service {
	out := make([]*plan.Service, len(w.keys))
	for i, key := range w.keys {
		out[i] = w.services[key]
	}
	return out
}

// runs reports whether a node's speaker runs, as far as that is known.
func (w *World) runs(node string) bool { return w.view == nil || w.view.Nodes[node].Member }

// silentFor says for how long the API server has heard nothing of a node, whose speaker did
// not answer us either; "" for a node that is heard of. What such a speaker has said last
// stands: nobody can tell a node that is dead from one that is cut off and announces.
func (w *World) silentFor(node string) string {
	if n := w.byName[node]; n != nil && n.Unheard && w.c.Speakers[node] == nil {
		return roundAge(w.c.Now.Sub(n.NotReadySince))
	}
	return ""
}

// announcing returns who says that it announces a Service.
func (w *World) announcing(key lb.Key) lb.Announcement {
	var a lb.Announcement
	for _, r := range reportsOf(w.c.L2, key) {
		a.L2 = append(a.L2, r.Node)
	}
	for _, r := range reportsOf(w.c.BGP, key) {
		a.BGP = append(a.BGP, r.Node)
	}
	slices.Sort(a.L2)
	slices.Sort(a.BGP)
	a.L2, a.BGP = slices.Compact(a.L2), slices.Compact(a.BGP)
	return a
}

// reportsOf returns those of all, which are sorted by Service, that are about one.
func reportsOf(all []Report, key lb.Key) []Report {
	i, found := slices.BinarySearchFunc(all, key, func(r Report, k lb.Key) int { return r.Service.Compare(k) })
	if !found {
		return nil
	}
	n := i
	for n < len(all) && all[n].Service == key {
		n++
	}
	return all[i:n]
}

// CompareReports orders Reports as Cluster has them.
func CompareReports(a, b Report) int {
	return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
}
