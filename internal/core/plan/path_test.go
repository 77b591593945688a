package plan_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/owner"
	"github.com/barelb/barelb/internal/core/plan"
)

var lan = netip.MustParsePrefix("192.168.1.0/24")

// telling is a View of nodes whose speakers tell of themselves, all well, each with a
// link in the subnet of the addresses.
func telling(nodes ...string) *liveness.View {
	v := &liveness.View{Nodes: map[string]liveness.Node{}}
	for i, n := range nodes {
		v.Nodes[n] = liveness.Node{Member: true, Facts: &liveness.Facts{Node: n, Version: 1, Phase: liveness.Serving, Links: []liveness.Link{
			{
				Name: "eth0", MAC: [6]byte{2, byte(i + 1)}, Carrier: true, IPv4: true, IPv6: true,
				Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 1, byte(101 + i)}), 24)},
			},
			{
				Name: "eth1", MAC: [6]byte{2, byte(i + 1), 1}, Carrier: true, IPv4: true, IPv6: true,
				Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(101 + i)}), 24)},
			},
		}}}
	}
	return v
}

// change changes what is known of one node.
func change(v *liveness.View, node string, f func(n *liveness.Node, links []liveness.Link)) {
	n := v.Nodes[node]
	facts := *n.Facts
	facts.Links = slices.Clone(facts.Links)
	n.Facts = &facts
	f(&n, facts.Links)
	v.Nodes[node] = n
}

// ranked returns the nodes in the order in which they own addr.
func ranked(addr string) []string {
	return owner.Rank(netip.MustParseAddr(addr), []owner.Candidate{{Node: "node1"}, {Node: "node2"}, {Node: "node3"}})
}

// TestFitness has one thing wrong with the node that ranks first.
func TestFitness(t *testing.T) {
	const addr = "192.168.1.250"
	rank := ranked(addr)
	first, second := rank[0], rank[1]
	at := func(n string) string { return n }
	for name, c := range map[string]struct {
		edit  func(w *world)
		owner string
		why   lb.Reason // why not the first
		aside bool
	}{
		"nothing": {func(*world) {}, at(first), lb.Announced, false},
		"its cable is cut": {func(w *world) {
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[0].Carrier, l[1].Carrier = false, false })
		}, second, lb.NodeUnfit, false},
		"no link of its carries IPv4": {func(w *world) {
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[0].IPv4, l[1].IPv4 = false, false })
		}, second, lb.NodeUnfit, false},
		"the named link has no carrier": {func(w *world) {
			w.objs.L2[0].Interfaces = []string{"eth0"}
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[0].Carrier = false })
		}, second, lb.NodeUnfit, false},
		"another than the named link has no carrier": {func(w *world) {
			w.objs.L2[0].Interfaces = []string{"eth0"}
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[1].Carrier = false })
		}, first, lb.Announced, false},
		"it is not in the subnet": {func(w *world) {
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[0].Addrs = l[1].Addrs })
		}, second, lb.NodeUnfit, false},
		"its link to the subnet has no carrier": {func(w *world) {
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[0].Carrier = false })
		}, second, lb.NodeUnfit, false},
		"nobody is in the subnet": {func(w *world) {
			for _, n := range rank {
				change(w.view, n, func(_ *liveness.Node, l []liveness.Link) { l[0].Addrs = l[1].Addrs })
			}
		}, first, lb.Announced, false},
		"nobody has carrier": {func(w *world) {
			for _, n := range rank {
				change(w.view, n, func(_ *liveness.Node, l []liveness.Link) { l[0].Carrier, l[1].Carrier = false, false })
			}
		}, first, lb.Announced, true},
		"it is not Ready": {func(w *world) { w.unready = map[string]bool{first: true} }, second, lb.NodeUnfit, false},
		"nobody is Ready": {func(w *world) { w.unready = map[string]bool{"node1": true, "node2": true, "node3": true} }, first, lb.Announced, true},
		"it is drained":   {func(w *world) { w.node(first).Leaving = "annotation barelb.io/drain" }, second, lb.NodeLeaving, false},
		"it was deleted":  {func(w *world) { w.nodes = slices.DeleteFunc(w.nodes, func(n lb.Node) bool { return n.Name == first }) }, second, lb.NoMatchingAdvertisement, false},
		"MetalLB's speaker": {func(w *world) {
			change(w.view, first, func(n *liveness.Node, _ []liveness.Link) { n.Facts = nil })
			w.unready = map[string]bool{first: true}
		}, first, lb.Announced, false},
		"among MetalLB's speakers": {func(w *world) {
			change(w.view, second, func(n *liveness.Node, _ []liveness.Link) { n.Facts = nil })
			change(w.view, first, func(_ *liveness.Node, l []liveness.Link) { l[0].Carrier, l[1].Carrier = false, false })
		}, first, lb.Announced, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.view = telling("node1", "node2", "node3")
			c.edit(w)
			_, v := w.plan(t, first)
			if v.Owner != c.owner || v.L2.Reason != c.why || (v.Aside != "") != c.aside {
				t.Errorf("owner %s, %v, set aside %q; want %s, %s", v.Owner, v.L2, v.Aside, c.owner, c.why)
			}
			if v.L2.Message == "" {
				t.Error("no words for it")
			}
		})
	}
}

func (w *world) node(name string) *lb.Node {
	return &w.nodes[slices.IndexFunc(w.nodes, func(n lb.Node) bool { return n.Name == name })]
}

// TestLiveness has the node that ranks first in all states that others can see it in.
func TestLiveness(t *testing.T) {
	const addr = "192.168.1.250"
	rank := ranked(addr)
	claimed := func(node string, term uint32) map[netip.Addr][]liveness.Claimant {
		return map[netip.Addr][]liveness.Claimant{netip.MustParseAddr(addr): {{Node: node, Term: term}}}
	}
	for name, c := range map[string]struct {
		edit      func(w *world, n *liveness.Node)
		owner     string
		caretaker string
	}{
		"well": {func(*world, *liveness.Node) {}, rank[0], ""},
		"dead": {func(_ *world, n *liveness.Node) { n.Dead = map[liveness.Segment]bool{lan: true} }, rank[1], ""},
		"dead on another link": {func(_ *world, n *liveness.Node) {
			n.Dead = map[liveness.Segment]bool{netip.MustParsePrefix("10.0.0.0/24"): true}
		}, rank[0], ""},
		"starting":               {func(_ *world, n *liveness.Node) { f := *n.Facts; f.Phase = liveness.Starting; n.Facts = &f }, rank[1], ""},
		"gone":                   {func(_ *world, n *liveness.Node) { n.Gone, n.SpeakerDown = true, true }, rank[1], ""},
		"not a member, but well": {func(_ *world, n *liveness.Node) { n.Member = false }, rank[0], ""},
		"its speaker is down": {func(w *world, n *liveness.Node) {
			n.SpeakerDown, n.Member = true, false
			w.claims = claimed(rank[0], 1)
		}, rank[0], rank[1]},
		"its speaker is down, and it had nothing": {func(_ *world, n *liveness.Node) { n.SpeakerDown = true }, rank[1], ""},
		"it restarts": {func(w *world, n *liveness.Node) {
			f := *n.Facts
			f.Phase, n.Facts, n.SpeakerDown = liveness.Starting, &f, true
			w.claims = claimed(rank[0], 1)
		}, rank[0], rank[1]},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.view = telling("node1", "node2", "node3")
			change(w.view, rank[0], func(n *liveness.Node, _ []liveness.Link) { c.edit(w, n) })
			d, v := w.plan(t, rank[1])
			if v.Owner != c.owner || v.Caretaker != c.caretaker {
				t.Errorf("owner %q, caretaker %q; want %q, %q", v.Owner, v.Caretaker, c.owner, c.caretaker)
			}
			want := handover.Wants{}
			switch rank[1] {
			case c.owner:
				want[v.Addrs[0]] = handover.Want{}
			case c.caretaker:
				f := w.view.Nodes[rank[0]].Facts
				want[v.Addrs[0]] = handover.Want{Caretake: true, Of: rank[0], MACs: map[string][6]byte{"eth0": f.Links[0].MAC, "eth1": f.Links[1].MAC}}
			}
			if diff := cmp.Diff(want, d.L2, opts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestCaretakerOfTheOnlyCandidate is a node that could not own the address itself.
func TestCaretakerOfTheOnlyCandidate(t *testing.T) {
	w := newWorld()
	w.objs.L2[0].NodeSelectors = on("node2")
	w.view = telling("node1", "node2")
	change(w.view, "node2", func(n *liveness.Node, _ []liveness.Link) { n.SpeakerDown = true })
	w.claims = map[netip.Addr][]liveness.Claimant{w.services[0].Addrs[0]: {{Node: "node2", Term: 1}}}
	if _, v := w.plan(t, "node1"); v.Caretaker != "node1" || v.L2.Reason != lb.Caretaker {
		t.Errorf("%+v", v)
	}
	p := w.planner("node2")
	p.Plan()
	if got := p.Caretakers(); !slices.Equal(got, []string{"node1"}) {
		t.Errorf("caretakers %v", got)
	}
}

func TestFailback(t *testing.T) {
	const addr = "192.168.1.250"
	rank := ranked(addr)
	for name, c := range map[string]struct {
		never  bool
		claims []liveness.Claimant
		edit   func(v *liveness.View)
		owner  string
	}{
		"immediate":               {false, []liveness.Claimant{{Node: rank[2], Term: 2}}, nil, rank[0]},
		"never":                   {true, []liveness.Claimant{{Node: rank[2], Term: 2}}, nil, rank[2]},
		"never, nobody had it":    {true, nil, nil, rank[0]},
		"never, the later claim":  {true, []liveness.Claimant{{Node: rank[1], Term: 1}, {Node: rank[2], Term: 2}}, nil, rank[2]},
		"never, claims of a term": {true, []liveness.Claimant{{Node: rank[2], Term: 2}, {Node: rank[1], Term: 2}}, nil, rank[1]},
		"never, the owner is dead": {true, []liveness.Claimant{{Node: rank[2], Term: 2}}, func(v *liveness.View) {
			change(v, rank[2], func(n *liveness.Node, _ []liveness.Link) { n.Dead = map[liveness.Segment]bool{lan: true} })
		}, rank[0]},
		"never, the owner's speaker is down": {true, []liveness.Claimant{{Node: rank[2], Term: 2}}, func(v *liveness.View) {
			change(v, rank[2], func(n *liveness.Node, _ []liveness.Link) { n.SpeakerDown = true })
		}, rank[2]},
		"never, but MetalLB's speaker is there": {true, []liveness.Claimant{{Node: rank[2], Term: 2}}, func(v *liveness.View) {
			change(v, rank[1], func(n *liveness.Node, _ []liveness.Link) { n.Facts = nil })
		}, rank[0]},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.view = telling("node1", "node2", "node3")
			w.claims = map[netip.Addr][]liveness.Claimant{netip.MustParseAddr(addr): c.claims}
			if c.never {
				w.objs.L2[0].Failback = string(config.FailbackNever)
			}
			if c.edit != nil {
				c.edit(w.view)
			}
			if _, v := w.plan(t, me); v.Owner != c.owner {
				t.Errorf("owner %s, want %s", v.Owner, c.owner)
			}
		})
	}
}

// TestSharedAddressHasOneOwner, be it the second of one Service and the only one of
// another, and whoever of them comes or goes.
func TestSharedAddressHasOneOwner(t *testing.T) {
	v4, v6 := "192.168.1.10", "fd00::10"
	if ranked(v4)[0] == ranked(v6)[0] {
		v6 = "fd00::11"
	}
	if ranked(v4)[0] == ranked(v6)[0] {
		t.Fatal("the addresses rank alike: choose others")
	}
	both, second := service("both", v4, v6), service("second", v6)
	w := newWorld()
	w.services = []*plan.Service{second}
	p := w.planner(me)
	p.Plan()
	expect := func(what string, key lb.Key, want string) {
		t.Helper()
		if got := p.Verdict(key).Owner; got != want {
			t.Errorf("%s: %s is owned by %s, want %s", what, key, got, want)
		}
	}
	expect("alone", second.Key, ranked(v6)[0])
	p.SetService(both.Key, both)
	p.Plan()
	expect("together", both.Key, ranked(v4)[0])
	expect("together", second.Key, ranked(v4)[0])
	p.SetService(both.Key, nil)
	p.Plan()
	expect("alone again", second.Key, ranked(v6)[0])
}

func TestUnready(t *testing.T) {
	now := time.Unix(1000, 0)
	ago := func(d time.Duration) lb.Node { return lb.Node{Name: d.String(), NotReadySince: now.Add(-d)} }
	ready := func(n int) []lb.Node { return make([]lb.Node, n) }
	const grace = 10 * time.Second
	for name, c := range map[string]struct {
		nodes []lb.Node
		want  []string
		next  time.Duration
	}{
		"all Ready":          {ready(3), nil, 0},
		"one for long":       {append(ready(2), ago(grace)), []string{"10s"}, 0},
		"one for a moment":   {append(ready(2), ago(time.Second)), nil, 9 * time.Second},
		"half of them":       {append(ready(1), ago(time.Minute)), []string{"1m0s"}, 0},
		"more than half":     {append(ready(1), ago(time.Minute), ago(2*time.Minute)), nil, 0},
		"one for long, more": {append(ready(3), ago(time.Minute), ago(4*time.Second), ago(2*time.Second)), []string{"1m0s"}, 6 * time.Second},
	} {
		got, at := plan.Unready(c.nodes, now, grace)
		var names []string
		for n := range got {
			names = append(names, n)
		}
		var next time.Duration
		if !at.IsZero() {
			next = at.Sub(now)
		}
		if !slices.Equal(names, c.want) || next != c.next {
			t.Errorf("%s: %v, next in %s; want %v, %s", name, names, next, c.want, c.next)
		}
	}
}

// TestMute names links that the owner does not have, of those that are known.
func TestMute(t *testing.T) {
	first := ranked("192.168.1.250")[0]
	for name, c := range map[string]struct {
		links   []string
		unknown bool // which links nodes have
		want    bool
	}{
		"all":                    {nil, false, false},
		"one that is there":      {[]string{"eth1", "foo"}, false, false},
		"none that is there":     {[]string{"bar", "foo"}, false, true},
		"nothing known of links": {[]string{"foo"}, true, false},
	} {
		w := newWorld()
		w.objs.L2[0].Interfaces = c.links
		w.view = telling("node1", "node2", "node3")
		for n := range w.view.Nodes {
			if c.unknown {
				change(w.view, n, func(n *liveness.Node, _ []liveness.Link) { n.Facts.Links = nil })
			}
		}
		if _, v := w.plan(t, first); v.L2.Reason != lb.Announced || v.Mute != c.want {
			t.Errorf("%s: mute is %t, %v", name, v.Mute, v.L2)
		}
	}
}
