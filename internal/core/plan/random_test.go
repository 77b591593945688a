package plan_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
)

// walk tells two kinds of Planners the same world: one that lives through all
// changes, and one that is new at each plan.
type walk struct {
	rng      *rand.Rand
	cfg      *config.Config
	nodes    []lb.Node
	view     *liveness.View
	unready  map[string]bool
	proxies  map[string]bool
	claims   map[netip.Addr][]liveness.Claimant
	services map[lb.Key]*plan.Service
}

func (w *walk) one(texts ...string) string { return texts[w.rng.IntN(len(texts))] }

func (w *walk) some(texts ...string) []string {
	var out []string
	for _, s := range texts {
		if w.rng.IntN(3) == 0 {
			out = append(out, s)
		}
	}
	return out
}

func (w *walk) nodeSelectors() []lb.Selector {
	switch w.rng.IntN(3) {
	case 0:
		return []lb.Selector{label("zone", w.one("a", "b"))}
	case 1:
		return on(w.some("n0", "n1", "n2", "n3", "n4")...)
	}
	return nil
}

func (w *walk) serviceSelectors() []lb.Selector {
	if w.rng.IntN(3) == 0 {
		return []lb.Selector{label("app", w.one("a", "b"))}
	}
	return nil
}

func (w *walk) newConfig() {
	objs := config.Objects{Pools: []config.IPAddressPool{
		{Meta: created("p", 0), Addresses: []string{"10.0.0.0/28", "fd00::/124"}}, {Meta: created("q", 1), Addresses: []string{w.one("10.0.1.0/28", "10.0.1.0/28", "10.0.0.0/16", "junk")}},
	}}
	for i := range 1 + w.rng.IntN(3) {
		a := config.L2Advertisement{
			Meta: created(fmt.Sprint("l2-", i), i), Pools: w.some("p", "q"), NodeSelectors: w.nodeSelectors(), ServiceSelectors: w.serviceSelectors(),
			Interfaces: w.some("eth0", "eth1"),
		}
		if w.rng.IntN(3) == 0 {
			a.Failback = w.one("", "Immediate", "Never")
			a.Preferred = []config.Preference{{Weight: 1 + w.rng.IntN(3), Selector: label("zone", w.one("a", "b"))}}
		}
		objs.L2 = append(objs.L2, a)
	}
	for i := range w.rng.IntN(4) {
		a := bgpAdv(fmt.Sprint("bgp-", i), w.rng.IntN(5), with(w.some("1:1", "1:2", "large:1:2:3")...), peers(w.some("r0", "r1")...), pref(uint32(w.rng.IntN(3))))
		a.Pools, a.NodeSelectors, a.ServiceSelectors = w.some("p", "q"), w.nodeSelectors(), w.serviceSelectors()
		if a.ServiceSelectors == nil && w.rng.IntN(2) == 0 {
			a.AggregationLength, a.AggregationLengthV6 = 28, 124
		}
		objs.BGP = append(objs.BGP, a)
	}
	for i := range w.rng.IntN(4) {
		p := peer(fmt.Sprint("r", i), w.rng.IntN(5), w.one("192.168.1.1", "192.168.1.2", "fd00::1"))
		p.DualStack, p.NodeSelectors = w.rng.IntN(2) == 0, w.nodeSelectors()
		objs.Peers = append(objs.Peers, p)
	}
	w.cfg = config.Parse(objs, w.cfg)
}

func (w *walk) newNodes() {
	w.nodes = slices.Clone(w.nodes) // what was told before must not change
	if len(w.nodes) == 0 || w.rng.IntN(4) == 0 {
		w.nodes = nil
		for _, n := range []string{"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"} {
			if w.rng.IntN(6) > 0 {
				w.nodes = append(w.nodes, lb.Node{Name: n, Labels: map[string]string{"name": n, "zone": w.one("a", "b")}})
			}
		}
		return
	}
	n := &w.nodes[w.rng.IntN(len(w.nodes))]
	switch w.rng.IntN(4) {
	case 0:
		n.NetworkUnavailable = !n.NetworkUnavailable
	case 1:
		n.Excluded = !n.Excluded
	case 2:
		n.Labels = map[string]string{"name": n.Name, "zone": w.one("a", "b")}
	}
	w.rng.Shuffle(len(w.nodes), func(i, j int) { w.nodes[i], w.nodes[j] = w.nodes[j], w.nodes[i] })
}

// newView changes what is known of who lives: a node or all.
func (w *walk) newView() {
	switch w.rng.IntN(8) {
	case 0:
		w.view = nil
		return
	case 1:
		w.view = &liveness.View{}
	}
	next := &liveness.View{Nodes: map[string]liveness.Node{}}
	if w.view != nil {
		maps.Copy(next.Nodes, w.view.Nodes)
	}
	for i := range 8 {
		if n := fmt.Sprint("n", i); next.Nodes[n].Facts == nil && w.rng.IntN(2) == 0 || w.rng.IntN(6) == 0 {
			next.Nodes[n] = w.newNode(n)
		}
	}
	if w.rng.IntN(4) == 0 {
		delete(next.Nodes, fmt.Sprint("n", w.rng.IntN(8)))
	}
	w.view = next
}

func (w *walk) newNode(name string) liveness.Node {
	if w.rng.IntN(12) == 0 {
		return liveness.Node{Member: w.rng.IntN(3) > 0} // MetalLB's
	}
	links := []liveness.Link{{
		Name: "eth0", Carrier: w.rng.IntN(6) > 0, IPv4: true, IPv6: w.rng.IntN(3) > 0,
		Addrs: []netip.Prefix{netip.MustParsePrefix(w.one("10.0.0.1/24", "10.0.0.1/24", "10.1.0.1/24")), netip.MustParsePrefix("fe80::1/64")},
	}}
	if w.rng.IntN(2) == 0 {
		links = append(links, liveness.Link{Name: "eth1", Carrier: true, IPv4: true, IPv6: true, Addrs: []netip.Prefix{netip.MustParsePrefix(w.one("fd00::1/64", "10.0.1.1/24"))}})
	}
	n := liveness.Node{
		Facts:  &liveness.Facts{Node: name, Version: 1, Phase: liveness.Serving, Links: links},
		Member: w.rng.IntN(8) > 0, SpeakerDown: w.rng.IntN(6) == 0, Gone: w.rng.IntN(10) == 0,
	}
	if slices.Contains([]string{"n0", "n1", "n2"}, name) {
		n.SpeakerDown = false // they plan: nobody sees himself dead
		return n
	}
	if w.rng.IntN(8) == 0 {
		n.Facts.Phase = liveness.Starting
	}
	if w.rng.IntN(6) == 0 {
		n.Dead = map[liveness.Segment]bool{links[0].Segments()[0]: true}
	}
	return n
}

// newSet returns a few nodes.
func (w *walk) newSet() map[string]bool {
	set := map[string]bool{}
	for _, n := range w.some("n0", "n1", "n2", "n3") {
		set[n] = true
	}
	return set
}

// newClaims changes the claims of some addresses, and returns those.
func (w *walk) newClaims() map[netip.Addr][]liveness.Claimant {
	now := map[netip.Addr][]liveness.Claimant{}
	for range w.rng.IntN(6) {
		a := netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", w.rng.IntN(17)))
		now[a] = nil
		for _, n := range w.some("n0", "n1", "n2", "n3") {
			now[a] = append(now[a], liveness.Claimant{Node: n, Term: uint32(w.rng.IntN(3))})
		}
	}
	maps.Copy(w.claims, now)
	return now
}

func (w *walk) newService() lb.Key {
	s := service(fmt.Sprint("s", w.rng.IntN(12)))
	if w.rng.IntN(6) == 0 {
		delete(w.services, s.Key)
		return s.Key
	}
	if old := w.services[s.Key]; old != nil && w.rng.IntN(2) == 0 { // one thing changes
		next := *old
		switch w.rng.IntN(3) {
		case 0:
			next.TrafficLocal = !next.TrafficLocal
		case 1:
			next.Labels = map[string]string{"app": w.one("a", "b", "c")}
		case 2:
			next.Endpoints = next.Endpoints[:w.rng.IntN(len(next.Endpoints))+1]
		}
		w.services[s.Key] = &next
		return s.Key
	}
	s.Pool, s.Labels, s.Endpoints = w.one("p", "p", "q", ""), map[string]string{"app": w.one("a", "b", "c")}, nil
	s.HasSharing, s.TrafficLocal = w.rng.IntN(4) == 0, w.rng.IntN(3) == 0
	if w.rng.IntN(8) > 0 {
		s.Addrs = append(s.Addrs, netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", w.rng.IntN(6)/5, w.rng.IntN(17))))
	}
	if w.rng.IntN(4) == 0 {
		s.Addrs = append(s.Addrs, netip.MustParseAddr(fmt.Sprintf("fd00::%x", w.rng.IntN(18))))
	}
	for range 1 + w.rng.IntN(4) {
		s.Endpoints = append(s.Endpoints, lb.Endpoint{Node: w.one("n0", "n1", "n2", "n3", "n4", ""), Serving: w.rng.IntN(3) > 0})
	}
	w.services[s.Key] = s
	return s.Key
}

// fresh makes a Planner that is told everything at once, in random order.
func (w *walk) fresh(node string) *plan.Planner {
	p := plan.New(plan.Options{Node: node})
	tell := []func(){
		func() { p.SetConfig(w.cfg) }, func() { p.SetNodes(w.nodes) }, func() { p.SetLiveness(w.view) },
		func() { p.SetUnready(w.unready) }, func() { p.SetProxiesDown(w.proxies) }, func() { p.SetClaims(w.claims) },
		func() {
			for k, s := range w.services {
				p.SetService(k, s)
			}
		},
	}
	w.rng.Shuffle(len(tell), func(i, j int) { tell[i], tell[j] = tell[j], tell[i] })
	for _, f := range tell {
		f()
	}
	return p
}

// deepCopy is for telling whether what was handed out is changed later.
func deepCopy(d plan.Desired) plan.Desired {
	d.L2, d.BGP = maps.Clone(d.L2), slices.Clone(d.BGP)
	for a, n := range d.L2 {
		n.Links, n.MACs = slices.Clone(n.Links), maps.Clone(n.MACs)
		d.L2[a] = n
	}
	for i := range d.BGP {
		d.BGP[i].Routes = maps.Clone(d.BGP[i].Routes)
		for pfx, a := range d.BGP[i].Routes {
			a.Communities, a.LargeCommunities = slices.Clone(a.Communities), slices.Clone(a.LargeCommunities)
			d.BGP[i].Routes[pfx] = a
		}
	}
	return d
}

// TestIncrementalPlanEqualsFreshOne after any changes, in any order: on every node
// the Planner that lived through them and one that was told the outcome say the
// same, what changed is told exactly, at most one node answers for a Service, and
// nothing that was handed out is changed.
func TestIncrementalPlanEqualsFreshOne(t *testing.T) {
	announced := 0
	for _, seed := range []uint64{0, 1, 2, 3, 4, 5, 6, 7, 60} { // 60: all candidates down, and who takes care changes
		w := &walk{rng: rand.New(rand.NewPCG(seed, seed)), cfg: &config.Config{}, services: map[lb.Key]*plan.Service{}, claims: map[netip.Addr][]liveness.Claimant{}}
		w.newConfig()
		w.newNodes()
		nodes := []string{"n0", "n1", "n2"}
		old := map[string]*plan.Planner{}
		last, lastCopy := map[string]plan.Desired{}, map[string]plan.Desired{}
		for _, n := range nodes {
			old[n] = w.fresh(n)
		}
		tell := func(f func(p *plan.Planner)) {
			for _, p := range old {
				f(p)
			}
		}
		for step := range 40 {
			for range 1 + w.rng.IntN(3) {
				switch n := w.rng.IntN(16); {
				case n == 0:
					w.newConfig()
					tell(func(p *plan.Planner) { p.SetConfig(w.cfg) })
				case n < 3:
					w.newNodes()
					tell(func(p *plan.Planner) { p.SetNodes(w.nodes) })
				case n < 5:
					w.newView()
					tell(func(p *plan.Planner) { p.SetLiveness(w.view) })
				case n == 5:
					w.unready = w.newSet()
					tell(func(p *plan.Planner) { p.SetUnready(w.unready) })
				case n == 15:
					w.proxies = w.newSet()
					tell(func(p *plan.Planner) { p.SetProxiesDown(w.proxies) })
				case n == 6:
					claims := w.newClaims()
					tell(func(p *plan.Planner) { p.SetClaims(claims) })
				default:
					k := w.newService()
					tell(func(p *plan.Planner) { p.SetService(k, w.services[k]) })
				}
			}
			answers := map[lb.Key]int{}
			for _, n := range nodes {
				where := fmt.Sprintf("seed %d step %d node %s", seed, step, n)
				before := map[lb.Key]plan.Verdict{}
				for k, v := range old[n].Verdicts() {
					before[k] = *v
				}
				got, p := old[n].Plan(), w.fresh(n)
				want := p.Plan()
				checkChanged(t, where, before, old[n].Verdicts(), got.Changed)
				got.Changed, want.Changed = nil, nil
				if d := cmp.Diff(want, got, opts); d != "" {
					t.Fatalf("%s: plan (-fresh +incremental):\n%s", where, d)
				}
				if d := cmp.Diff(p.Verdicts(), old[n].Verdicts(), opts); d != "" {
					t.Fatalf("%s: verdicts (-fresh +incremental):\n%s", where, d)
				}
				if d := cmp.Diff(lastCopy[n], last[n], opts); d != "" {
					t.Fatalf("%s: the plan before was changed (-was +is):\n%s", where, d)
				}
				last[n], lastCopy[n] = got, deepCopy(got)
				if again := old[n].Plan(); len(again.Changed) > 0 || cmp.Diff(got, again, opts) != "" {
					t.Fatalf("%s: planned again it is another: %+v", where, again)
				}
				for k, v := range old[n].Verdicts() {
					if v.L2.Reason == lb.Announced {
						answers[k]++
						announced++
					}
				}
			}
			for k, n := range answers {
				if n > 1 {
					t.Fatalf("seed %d step %d: %d nodes answer for %s", seed, step, n, k)
				}
			}
		}
	}
	if announced < 200 {
		t.Errorf("only %d announcements: the walk tests nothing", announced)
	}
}

func checkChanged(t *testing.T, where string, before map[lb.Key]plan.Verdict, after map[lb.Key]*plan.Verdict, got []lb.Key) {
	t.Helper()
	var want []lb.Key
	for k, v := range after {
		if old, ok := before[k]; !ok || !cmp.Equal(old, *v, opts) {
			want = append(want, k)
		}
	}
	for k := range before {
		if after[k] == nil {
			want = append(want, k)
		}
	}
	slices.SortFunc(want, lb.Key.Compare)
	if d := cmp.Diff(want, got, opts); d != "" {
		t.Fatalf("%s: changed (-want +got):\n%s", where, d)
	}
}
