package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// Uses knows what configuration objects are used for: which Services hold addresses of
// which pools, and which nodes there are. A change of one Service costs work for that
// Service, in proportion to the advertisements that have serviceSelectors.
type Uses struct {
	cfg      *Config
	nodes    []lb.Node
	services map[lb.Key]use
	// How many Services hold an address of each pool; and, for an advertisement with
	// serviceSelectors, how many of those that it selects.
	pools    map[string]int
	selected map[object]map[string]int
	changed  bool
}

// use is the pool that the addresses of a Service are of, and its labels.
type use struct {
	pool   string
	labels map[string]string
}

// NewUses returns the Uses of an empty configuration.
func NewUses() *Uses {
	return &Uses{cfg: &Config{}, services: map[lb.Key]use{}, pools: map[string]int{}, selected: map[object]map[string]int{}}
}

// Changed reports whether Statuses may have anything else to say than the last time. The
// first Service of a pool and the last one change that, not those between.
func (u *Uses) Changed() bool { return u.changed }

// SetConfig replaces the configuration, which is kept. It costs work for all Services.
func (u *Uses) SetConfig(cfg *Config) {
	u.cfg, u.changed = cfg, true
	u.pools, u.selected = map[string]int{}, map[object]map[string]int{}
	for _, s := range u.services {
		u.count(s, 1)
	}
}

// SetNodes replaces the nodes, which are kept.
func (u *Uses) SetNodes(nodes []lb.Node) {
	same := slices.EqualFunc(u.nodes, nodes, func(a, b lb.Node) bool { return maps.Equal(a.Labels, b.Labels) })
	u.nodes, u.changed = nodes, u.changed || !same
}

// SetService says that a Service with these labels, which are kept, holds addresses of a
// pool; "" if it holds none, or is gone.
func (u *Uses) SetService(key lb.Key, pool string, labels map[string]string) {
	old, had := u.services[key]
	if pool == old.pool && maps.Equal(labels, old.labels) {
		return
	}
	if had {
		delete(u.services, key)
		u.count(old, -1)
	}
	if pool != "" {
		u.services[key] = use{pool, labels}
		u.count(u.services[key], 1)
	}
}

// count adds a Service, or takes it away: n is 1 or -1.
func (u *Uses) count(s use, n int) {
	add := func(to map[string]int) {
		to[s.pool] += n
		u.changed = u.changed || to[s.pool] == 0 || to[s.pool] == 1 && n == 1
		if to[s.pool] == 0 {
			delete(to, s.pool)
		}
	}
	add(u.pools)
	selects := func(o object, covers Names, selectors []lb.Selector) {
		if len(selectors) == 0 || !covers[s.pool] || !lb.MatchesAny(selectors, s.labels) {
			return
		}
		if u.selected[o] == nil {
			u.selected[o] = map[string]int{}
		}
		add(u.selected[o])
	}
	for _, a := range u.cfg.L2 {
		selects(object{KindL2Advertisement, a.Name}, a.Pools, a.ServiceSelectors)
	}
	for _, a := range u.cfg.BGP {
		selects(object{KindBGPAdvertisement, a.Name}, a.Pools, a.ServiceSelectors)
	}
}

func (u *Uses) anyNode(selectors []lb.Selector) bool {
	return len(selectors) == 0 || slices.ContainsFunc(u.nodes, func(n lb.Node) bool { return lb.MatchesAny(selectors, n.Labels) })
}

const (
	noVersion = "no version of it is in force"
	noNode    = "no node matches spec.nodeSelectors"
)

func (u *Uses) pool(name string) Condition {
	var by []string
	if l2 := namesOf(u.cfg.L2, func(a *L2Adv) (string, bool) { return a.Name, a.Pools[name] }); len(l2) > 0 {
		by = append(by, named(KindL2Advertisement, l2))
	}
	if bgp := namesOf(u.cfg.BGP, func(a *BGPAdv) (string, bool) { return a.Name, a.Pools[name] }); len(bgp) > 0 {
		by = append(by, named(KindBGPAdvertisement, bgp))
	}
	covered := "no advertisement covers it"
	if len(by) > 0 {
		covered = "it is covered by " + strings.Join(by, " and ")
	}
	if u.pools[name] == 0 {
		return notInUse("no Service holds an address of it; %s", covered)
	}
	return Condition{True: true, Reason: lb.InUse, Message: "Services hold addresses of it; " + covered}
}

func (u *Uses) l2Adv(name string) Condition {
	a := find(u.cfg.L2, func(a *L2Adv) bool { return a.Name == name })
	if a == nil {
		return notInUse(noVersion)
	}
	return u.adv(object{KindL2Advertisement, name}, a.Pools, a.ServiceSelectors, a.NodeSelectors)
}

func (u *Uses) bgpAdv(name string) Condition {
	a := find(u.cfg.BGP, func(a *BGPAdv) bool { return a.Name == name })
	switch {
	case a == nil:
		return notInUse(noVersion)
	case !slices.ContainsFunc(u.cfg.Peers, func(p *Peer) bool { return a.tells(p.Name) }):
		return notInUse("no BGPPeer in force takes its routes")
	}
	return u.adv(object{KindBGPAdvertisement, name}, a.Pools, a.ServiceSelectors, a.NodeSelectors)
}

// tells reports whether a peer gets the routes of an advertisement.
func (a *BGPAdv) tells(peer string) bool { return len(a.Peers) == 0 || slices.Contains(a.Peers, peer) }

func (u *Uses) adv(o object, covers Names, services, nodes []lb.Selector) Condition {
	if !u.anyNode(nodes) {
		return notInUse(noNode)
	}
	held := u.pools
	if len(services) > 0 {
		held = u.selected[o]
	}
	var pools []string
	for _, name := range slices.Sorted(maps.Keys(covers)) {
		if held[name] > 0 {
			pools = append(pools, name)
		}
	}
	if len(pools) == 0 {
		return notInUse("no Service that it selects holds an address of its pools")
	}
	return Condition{True: true, Reason: lb.InUse, Message: "for Services with addresses of " + named(KindIPAddressPool, pools)}
}

func (u *Uses) peer(name string) Condition {
	p := find(u.cfg.Peers, func(p *Peer) bool { return p.Name == name })
	switch {
	case p == nil:
		return notInUse(noVersion)
	case !u.anyNode(p.NodeSelectors):
		return notInUse(noNode)
	}
	return usedBy(namesOf(u.cfg.BGP, func(a *BGPAdv) (string, bool) { return a.Name, a.tells(name) }),
		KindBGPAdvertisement, "no BGPAdvertisement gives it routes")
}

func (u *Uses) profile(name string) Condition {
	return usedBy(namesOf(u.cfg.Peers, func(p *Peer) (string, bool) { return p.Name, p.BFD != nil && p.BFD.Name == name }),
		KindBGPPeer, "no BGPPeer in force refers to it")
}

// aliasUsers returns which BGPAdvertisements use aliases of which Community objects.
func (u *Uses) aliasUsers(advs []BGPAdvertisement) map[string][]string {
	out := map[string][]string{}
	for i := range advs {
		for _, text := range advs[i].Communities {
			if by := u.cfg.aliases[text]; by != "" {
				out[by] = append(out[by], advs[i].Name)
			}
		}
	}
	for by := range out {
		slices.Sort(out[by])
		out[by] = slices.Compact(out[by])
	}
	return out
}

// namesOf returns the names of those of list that pick picks, sorted.
func namesOf[T any](list []*T, pick func(*T) (name string, ok bool)) []string {
	var out []string
	for _, t := range list {
		if name, ok := pick(t); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
