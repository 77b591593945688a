package wire_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/wire"
)

var comparable = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func link(index int, name string, prefixes ...string) links.Link {
	l := links.Link{
		Index: index, Name: name, HardwareAddr: links.MAC{2, 0, 0, 0, 0, byte(index)}, Ethernet: true, Up: true, Broadcast: true,
		LinkLocal6: netip.MustParseAddr("fe80::1"),
	}
	for _, p := range prefixes {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix(p))
	}
	return l
}

func candidates(addrs ...string) []wire.Candidate {
	var out []wire.Candidate
	for _, a := range addrs {
		out = append(out, wire.Candidate{Addr: netip.MustParseAddr(a), Pool: "p"})
	}
	return out
}

func node(name string, addrs ...string) lb.Node { return lb.Node{Name: name, Addrs: parse(addrs)} }

func nobody(string) bool { return false }

// on shows where targets are asked about.
func on(targets []wire.Target) string {
	s := ""
	for _, t := range targets {
		s += fmt.Sprintf("%s on %d %s; ", t.Addr, t.Link, t.LinkName)
	}
	return s
}

func TestPlaceFindsTheLink(t *testing.T) {
	down := link(9, "eth9", "10.9.0.1/24")
	down.Up = false
	no6 := link(6, "eth6", "2001:db8:6::1/64")
	no6.LinkLocal6 = netip.Addr{}
	snap := links.Snapshot{
		link(2, "eth0", "10.0.0.1/8", "2001:db8::1/64"), link(3, "eth1", "10.1.0.1/16", "10.7.7.7/32"), link(4, "eth2", "10.1.0.2/16"),
		no6, down, link(5, "veth0", "10.5.0.1/24"),
	}
	var p wire.Placer
	peers := p.SetWorld(wire.Want{Node: "node1", Nodes: []lb.Node{
		node("node1", "10.1.0.1"), node("node2", "10.1.0.9", "2001:db8::9", "203.0.113.9"), node("node3", "192.0.2.1"),
	}}, snap, func(name string) bool { return name == "veth0" })
	want := []wire.Peer{{"node2", netip.MustParseAddr("10.1.0.9"), 3}, {"node2", netip.MustParseAddr("2001:db8::9"), 2}}
	if diff := cmp.Diff(want, peers, comparable); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	got := on(p.Place(append(candidates("10.3.0.5", "10.1.2.3", "10.7.7.8", "10.5.0.7", "2001:db8::77", "2001:db8:6::77", "192.168.0.1"),
		wire.Candidate{Addr: netip.MustParseAddr("192.168.0.2"), Pool: "p", Conflict: lb.WireConflict{Addr: netip.MustParseAddr("192.168.0.2"), Node: "node1", Link: "eth9"}})))
	// What veth0 would have is on eth0 too; what is on no link is a target only if this
	// node has reported it.
	if diff := cmp.Diff("10.3.0.5 on 2 eth0; 10.1.2.3 on 3 eth1; 10.7.7.8 on 2 eth0; 10.5.0.7 on 2 eth0; 2001:db8::77 on 2 eth0; 192.168.0.2 on 0 eth9; ", got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// askers counts how many nodes of a cluster ask about each address.
func askers(nodes []lb.Node, alive map[string]bool, cs []wire.Candidate) map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for _, n := range nodes {
		var p wire.Placer
		p.SetWorld(wire.Want{Node: n.Name, Nodes: nodes, Alive: alive}, links.Snapshot{link(2, "eth0", n.Addrs[0].String()+"/16")}, nobody)
		for _, t := range p.Place(cs) {
			out[t.Addr]++
		}
	}
	return out
}

func TestTwoNodesAsk(t *testing.T) {
	var (
		nodes  []lb.Node
		listed []string
		alive  = map[string]bool{}
	)
	for i := range 40 {
		name := fmt.Sprintf("node%d", i)
		nodes = append(nodes, node(name, fmt.Sprintf("10.0.1.%d", i+1)))
		alive[name] = i%2 == 0
		listed = append(listed, fmt.Sprintf("10.0.9.%d", i))
	}
	nodes = append(nodes, node("elsewhere", "10.77.0.1"))
	cs := candidates(listed...)
	for name, alive := range map[string]map[string]bool{"nobody watches": nil, "half of them live": alive} {
		for a, n := range askers(nodes, alive, cs) {
			if n != 2 {
				t.Errorf("%s: %d nodes ask about %s, want 2", name, n, a)
			}
		}
		if got := len(askers(nodes, alive, cs)); got != len(cs) {
			t.Errorf("%s: %d addresses are asked about, want all %d", name, got, len(cs))
		}
	}
	if got := askers(nodes, map[string]bool{}, cs); len(got) != 0 {
		t.Errorf("nobody has met the others yet, but they ask about %d addresses", len(got))
	}
}

// A second network, of which Kubernetes knows no addresses: not all nodes ask there.
func TestEightNodesAskOnALinkThatNobodyKnows(t *testing.T) {
	var nodes []lb.Node
	for i := range 40 {
		nodes = append(nodes, node(fmt.Sprintf("node%d", i), fmt.Sprintf("10.0.1.%d", i+1)))
	}
	count := 0
	cs := candidates("198.51.100.1", "198.51.100.2", "198.51.100.3")
	for i, n := range nodes {
		var p wire.Placer
		p.SetWorld(wire.Want{Node: n.Name, Nodes: nodes}, links.Snapshot{
			link(2, "eth0", n.Addrs[0].String()+"/16"), link(3, "eth1", fmt.Sprintf("198.51.100.%d/24", 100+i)),
		}, nobody)
		count += len(p.Place(cs))
	}
	if count != 8*len(cs) {
		t.Errorf("%d times somebody asks about one of %d addresses, want 8 nodes for each", count, len(cs))
	}
}

func TestWhoAsksAboutConflicts(t *testing.T) {
	two := []lb.Node{node("node1", "192.0.2.101"), node("node2", "192.0.2.102")}
	both := map[string]bool{"node1": true, "node2": true}
	tests := []struct {
		name     string
		reporter string
		nodes    []lb.Node
		alive    map[string]bool
		asks     bool
	}{
		{"we reported it", "node1", two, both, true},
		{"we reported it, and have not met the others yet", "node1", two, map[string]bool{}, true},
		{"another one did", "node2", two, both, false},
		{"another one, whom nobody watches", "node2", two, nil, false},
		{"whose speaker is gone", "node2", two, map[string]bool{"node1": true}, true},
		{"which is no node any more", "node3", two, both, true},
		{"which is gone, but we are lost", "node2", two, map[string]bool{}, false},
	}
	for _, tt := range tests {
		var p wire.Placer
		p.SetWorld(wire.Want{Node: "node1", Nodes: tt.nodes, Alive: tt.alive}, links.Snapshot{link(2, "eth0", "192.0.2.101/24")}, nobody)
		c := wire.Candidate{Addr: addr, Pool: "p", Conflict: reported(addr, tt.reporter)}
		if got := len(p.Place([]wire.Candidate{c})) == 1; got != tt.asks {
			t.Errorf("%s: asks is %v, want %v", tt.name, got, tt.asks)
		}
	}
}

func TestPlacerFollowsTheWorld(t *testing.T) {
	var p wire.Placer
	cs := candidates("192.0.2.200", "192.0.2.201", "192.0.2.202", "192.0.2.203", "192.0.2.204", "192.0.2.205", "192.0.2.206", "192.0.2.207")
	many := []lb.Node{node("node1", "192.0.2.101")}
	for i := range 50 {
		many = append(many, node(fmt.Sprintf("n%d", i), fmt.Sprintf("192.0.2.%d", i+1)))
	}
	snap := links.Snapshot{link(2, "eth0", "192.0.2.101/24")}
	count := func(w wire.Want, snap links.Snapshot) int {
		p.SetWorld(w, snap, nobody)
		return len(p.Place(cs))
	}
	if got := count(wire.Want{Node: "node1", Nodes: many[:1]}, snap); got != len(cs) {
		t.Errorf("alone: %d", got)
	}
	if got := count(wire.Want{Node: "node1", Nodes: many}, snap); got == len(cs) {
		t.Errorf("among 51: %d", got)
	}
	if got := count(wire.Want{Node: "node1", Nodes: many, Alive: map[string]bool{"node1": true}}, snap); got != len(cs) {
		t.Errorf("the others are gone: %d", got)
	}
	if got := count(wire.Want{Node: "node1", Nodes: many[:1]}, nil); got != 0 {
		t.Errorf("without links: %d", got)
	}
}

// What concerns nobody and has no reporter is cleared away by one node.
func TestAbandoned(t *testing.T) {
	nodes := []lb.Node{node("node1"), node("node2"), node("node3")}
	conflicts := []lb.WireConflict{
		reported(netip.MustParseAddr("192.0.2.1"), "node1"), reported(netip.MustParseAddr("192.0.2.2"), "gone"),
		reported(netip.MustParseAddr("192.0.2.3"), "gone"), reported(netip.MustParseAddr("192.0.2.4"), "dead"),
	}
	var got []netip.Addr
	for _, n := range nodes {
		w := wire.Want{
			Node: n.Name, Nodes: append(nodes, node("dead")), Conflicts: conflicts, Candidates: candidates("192.0.2.3"),
			Alive: map[string]bool{"node1": true, "node2": true, "node3": true},
		}
		got = append(got, w.Abandoned()...)
		w.Alive = map[string]bool{}
		if lost := w.Abandoned(); lost != nil {
			t.Errorf("%s has not met the others, but clears away %v", n.Name, lost)
		}
	}
	if len(got) != 2 || got[0] == got[1] {
		t.Errorf("cleared away: %v, want 192.0.2.2 and 192.0.2.4, each once", got)
	}
}

func BenchmarkPlace(b *testing.B) {
	var nodes []lb.Node
	for i := range 1000 {
		nodes = append(nodes, node(fmt.Sprintf("node%d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)))
	}
	var cs []wire.Candidate
	a := netip.MustParseAddr("10.0.100.0")
	for range 20 * 16 {
		a = a.Next()
		cs = append(cs, wire.Candidate{Addr: a, Pool: "p"})
	}
	snap := links.Snapshot{link(2, "eth0", "10.0.0.1/16")}
	alive := map[string]bool{}
	for _, n := range nodes {
		alive[n.Name] = true
	}
	want := wire.Want{Node: "node0", Nodes: nodes, Alive: alive}
	b.Run("anew", func(b *testing.B) {
		for b.Loop() {
			var p wire.Placer
			p.SetWorld(want, snap, nobody)
			p.Place(cs)
		}
	})
	b.Run("as before", func(b *testing.B) {
		var p wire.Placer
		for b.Loop() {
			p.SetWorld(want, snap, nobody)
			p.Place(cs)
		}
	})
}
