package e2e_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

const (
	// failover bounds the outage when a node or its speaker dies without a word:
	// the others have to notice, and to agree that it is so.
	failover = 10 * time.Second
	// takeover bounds the time until another node answers when a speaker says that
	// it leaves; to notice it without a word takes longer than this.
	takeover = 4 * time.Second
	// handover bounds the outage when an address goes back to a node that returns:
	// for a moment both believe that it is theirs.
	handover = 3 * time.Second
)

// TestLayer2Failover takes the owner of an address away in every way that there is.
func TestLayer2Failover(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2fail", []string{"192.168.1.208/32", "fd00:1::2:20/128"}), object("L2Advertisement", "l2fail", "ipAddressPools: [l2fail]"))
	addrs := l.serveAll(t, dualStack(system.Service{Name: "l2fail"}), "l2fail", 2)
	addr := addrs[0]
	first := l.owner(t, addr)
	others := l.without(first)
	// The outage of a pod is not that of the address: the owner has none.
	l.endpointsOn(t, "l2fail", others...)
	l.reachable(t, addr)

	o := owned{l, addr, addrs[1], first}
	t.Run("link cut", o.cut)
	t.Run("speaker killed", o.kill)
	t.Run("speaker stopped", o.stop)
	for name, change := range map[string]struct{ to, back, sub string }{
		"label exclude-from-external-load-balancers": {exclude, include, ""},
		"condition NetworkUnavailable":               {unavailable, available, "status"},
	} {
		t.Run(name, func(t *testing.T) {
			var sub []string
			if change.sub != "" {
				sub = append(sub, change.sub)
			}
			p := l.probe(t, cluster.Client, addr)
			l.changeNode(t, first, change.to, change.back, sub...)
			l.ownerIs(t, addr, others...)
			must(t, l.patchNode(t.Context(), first, change.back, sub...))
			l.ownerIs(t, addr, first)
			// The node that steps down forwards until the client hears of the other.
			if n, _ := l.lost(t, p); n > 0 {
				t.Errorf("%d probes were lost while the address moved and returned", n)
			}
		})
	}
}

// owned is an address of each family, and the node that owns them while all is well.
type owned struct {
	l           *lab
	addr, addr6 netip.Addr
	first       string
}

func (o owned) cut(t *testing.T) {
	l, addr, addr6, first := o.l, o.addr, o.addr6, o.first
	p := l.probe(t, cluster.Client, addr)
	p6 := l.probe(t, cluster.Remote, addr6)
	must(t, p.Mark("cut"))
	must(t, p6.Mark("cut"))
	must(t, l.c.Cut(first))
	second := l.ownerIs(t, addr, l.without(first)...)
	l.ownerIs(t, addr6, second)
	l.steady(t, p)
	l.steady(t, p6)
	must(t, p.Mark("restored"))
	must(t, p6.Mark("restored"))
	must(t, l.c.Restore(first))
	l.ownerIs(t, addr, first)
	l.ownerIs(t, addr6, first)
	l.steady(t, p)
	l.steady(t, p6)
	for from, p := range map[string]*measure.Probe{cluster.Client: p, cluster.Remote: p6} {
		r, err := p.Stop()
		must(t, err)
		for mark, limit := range map[string]time.Duration{"cut": failover, "restored": handover} {
			m, err := r.After(mark)
			must(t, err)
			t.Logf("%s from %s, %s: %d lost within %s", r.Target, from, mark, m.Lost, m.LongestDisturbance.Duration())
			if m.OpenEnd || m.LongestDisturbance.Duration() > limit {
				t.Errorf("%s from %s, %s: away for %s, want %s at most", r.Target, from, mark, m.LongestDisturbance.Duration(), limit)
			}
		}
	}
}

// kill kills the speaker of a node that is well otherwise: it still forwards,
// but answers nobody.
func (o owned) kill(t *testing.T) {
	l, addr, first := o.l, o.addr, o.first
	p := l.probe(t, cluster.Client, addr)
	l.killSpeaker(t, first)
	l.ownerIs(t, addr, l.without(first)...)
	l.startSpeaker(t, first)
	l.ownerIs(t, addr, first)
	n, longest := l.lost(t, p)
	if longest > failover {
		t.Errorf("%d probes lost within %s, want %s at most", n, longest, failover)
	}
}

// stop ends a speaker as an upgrade does. Nothing may be lost: it tells the
// others, who take over, while its node forwards what still comes. Clients that
// know no MAC yet must not wait until the others notice by themselves.
func (o owned) stop(t *testing.T) {
	l, addr, first := o.l, o.addr, o.first
	p := l.probe(t, cluster.Client, addr)
	told := time.Now()
	must(t, l.sys.StopSpeaker(t.Context(), first))
	<-l.sys.Speaker(first).Done()
	l.ownerIs(t, addr, l.without(first)...)
	if took := time.Since(told); took > takeover {
		t.Errorf("another node answers after %s, want %s at most", took, takeover)
	}
	l.steady(t, p)
	l.startSpeaker(t, first)
	l.ownerIs(t, addr, first)
	if n, longest := l.lost(t, p); n > 0 {
		t.Errorf("%d probes lost within %s, want none", n, longest)
	}
}

func TestLayer2NodeSelectors(t *testing.T) {
	l := frr(t)
	adv := func(nodes ...string) string {
		return object("L2Advertisement", "l2nodes", "ipAddressPools: [l2nodes]", onNodes(nodes...))
	}
	l.apply(t, pool("l2nodes", []string{"192.168.1.209/32"}), adv("node2"))
	addr := l.serve(t, system.Service{Name: "l2nodes"}, "l2nodes")
	l.ownerIs(t, addr, "node2")
	l.apply(t, adv("node1", "node3"))
	l.ownerIs(t, addr, "node1", "node3")
	l.apply(t, adv("node7"))
	l.awaitSilence(t, addr)

	// A node that gets the label later.
	l.apply(t, object("L2Advertisement", "l2nodes", "ipAddressPools: [l2nodes]", "nodeSelectors: [{matchLabels: {e2e: here}}]"))
	l.changeNode(t, "node3", `{"metadata":{"labels":{"e2e":"here"}}}`, `{"metadata":{"labels":{"e2e":null}}}`)
	l.ownerIs(t, addr, "node3")
	l.reachable(t, addr)
}

func TestLayer2TrafficLocal(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2local", []string{"192.168.1.210/32"}), object("L2Advertisement", "l2local", "ipAddressPools: [l2local]"))
	addr := l.serve(t, system.Service{Name: "l2local", Local: true}, "l2local")
	for _, node := range l.c.Nodes() {
		l.endpointsOn(t, "l2local", node)
		l.ownerIs(t, addr, node)
	}
	l.reachable(t, addr)
	l.endpointsOn(t, "l2local")
	l.awaitSilence(t, addr)
}
