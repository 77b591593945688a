package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// answers returns the nodes that answer for an address, in order. Several tries
// hear those too who answer only once in a while.
func (l *lab) answers(ctx context.Context, addr netip.Addr, tries int) ([]string, error) {
	r, err := measure.WhoHas(ctx, l.c.Box(cluster.Client), l.self, measure.WhoHasOpts{Addr: addr, Tries: tries, Interval: 100 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	var nodes []string
	for _, mac := range r.MACs() {
		node, ok := l.macs[mac]
		if !ok {
			return nil, fmt.Errorf("%s answers for %s, which is no node", mac, addr)
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// awaitOwner waits until exactly one node answers for an address, and that it
// stays so, and returns it. want, if not nil, says whether it is the right one.
func (l *lab) awaitOwner(t *testing.T, addr netip.Addr, what string, want func(node string) bool) string {
	t.Helper()
	owner := ""
	eventually(t, "one node to answer for "+addr.String()+", "+what, func() error {
		for _, tries := range []int{1, 5} { // a quick look, then a thorough one
			nodes, err := l.answers(t.Context(), addr, tries)
			if err != nil {
				return err
			}
			if len(nodes) != 1 || want != nil && !want(nodes[0]) {
				return fmt.Errorf("answers from %q", nodes)
			}
			owner = nodes[0]
		}
		return nil
	})
	return owner
}

func (l *lab) owner(t *testing.T, addr netip.Addr) string {
	t.Helper()
	return l.awaitOwner(t, addr, "anyone", nil)
}

func (l *lab) ownerIs(t *testing.T, addr netip.Addr, nodes ...string) string {
	t.Helper()
	return l.awaitOwner(t, addr, "one of "+strings.Join(nodes, ", "), func(n string) bool { return slices.Contains(nodes, n) })
}

// awaitSilence waits until nobody answers for an address.
func (l *lab) awaitSilence(t *testing.T, addr netip.Addr) {
	t.Helper()
	eventually(t, "silence about "+addr.String(), func() error { return l.silent(t.Context(), addr, 3) })
}

// silent asks for an address a few times, and returns who answers as an error.
func (l *lab) silent(ctx context.Context, addr netip.Addr, tries int) error {
	nodes, err := l.answers(ctx, addr, tries)
	if err == nil && len(nodes) > 0 {
		err = fmt.Errorf("answers from %q", nodes)
	}
	return err
}

// reachable waits until flows from both clients reach an address: many at a time,
// for every node has to know of the Service, and its kube-proxy may be the last.
func (l *lab) reachable(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	for _, from := range []string{cluster.Client, cluster.Remote} {
		for _, addr := range addrs {
			eventually(t, "flows from "+from+" to "+addr.String(), func() error {
				_, err := l.flows(t.Context(), from, netip.AddrPortFrom(addr, system.Port))
				return err
			})
		}
	}
}

// flows opens a few connections from a host, and wants each of them answered.
func (l *lab) flows(ctx context.Context, from string, to netip.AddrPort) (measure.FlowsReport, error) {
	r, err := measure.RunFlows(ctx, l.c.Box(from), l.self, measure.FlowsOpts{Target: to, Count: 30, Timeout: 2 * time.Second})
	if err == nil && r.Failed > 0 {
		err = fmt.Errorf("%d of %d failed: %v", r.Failed, r.Flows, r.Failures)
	}
	return r, err
}

// probe sends a datagram every few milliseconds from a host to an address, and
// returns when all of its flows are answered.
func (l *lab) probe(t *testing.T, from string, addr netip.Addr) *measure.Probe {
	t.Helper()
	p, err := measure.StartProbe(context.WithoutCancel(t.Context()), l.c.Box(from), l.self, measure.ProbeOpts{
		Target: netip.AddrPortFrom(addr, system.Port), Interval: probeInterval, Ports: probePorts, Timeout: probeTimeout,
	})
	must(t, err)
	t.Cleanup(func() { _, _ = p.Stop() })
	l.steady(t, p) // kube-proxies may only just be learning of the Service
	must(t, p.Mark("begin"))
	return p
}

const (
	nodeAS   = 64500
	routerAS = 64501

	probeInterval = 10 * time.Millisecond
	probePorts    = 100
	// probeTimeout tells what is lost from what is late: on a machine that is busy
	// with other things a backend may have to wait for a core for seconds.
	probeTimeout = 5 * time.Second
)

// steady waits until each flow of a probe is answered since its last mark.
func (l *lab) steady(t *testing.T, p *measure.Probe) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, p.AwaitAnswers(ctx, probePorts+1))
}

// lost ends a probe and returns how many of its datagrams were lost in all, and
// the longest time in which some were.
func (l *lab) lost(t *testing.T, p *measure.Probe) (int, time.Duration) {
	t.Helper()
	must(t, p.Mark("end"))
	l.steady(t, p)
	r, err := p.Stop()
	must(t, err)
	n, longest := 0, time.Duration(0)
	for _, m := range r.Marks {
		n += m.Lost
		longest = max(longest, m.LongestDisturbance.Duration())
		if m.Lost > 0 {
			t.Logf("%s: after %s: %d of %d lost within %s; the prober itself was late by up to %s",
				r.Target, m.Name, m.Lost, m.Sent, m.LongestDisturbance.Duration(), m.MaxGap.Duration())
		}
	}
	return n, longest
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// hops returns the nodes that are next hops of a prefix in the router's kernel.
func (l *lab) hops(ctx context.Context, prefix netip.Prefix) ([]string, error) {
	routes, err := l.c.Routes(ctx, prefix)
	if err != nil {
		return nil, err
	}
	nodes := []string{}
	for _, r := range routes {
		node := l.nodeOf(r.Via)
		if node == "" {
			return nil, fmt.Errorf("next hop %s of %s is no node", r.Via, prefix)
		}
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	return nodes, nil
}

// wantHops waits until the next hops of a prefix are exactly these nodes; none
// means that there is no route.
func (l *lab) wantHops(t *testing.T, prefix netip.Prefix, nodes ...string) {
	t.Helper()
	within(t, patience, fmt.Sprintf("next hops %q of %s", nodes, prefix), func() error { return l.hopsAre(t.Context(), prefix, nodes...) })
}

func (l *lab) hopsAre(ctx context.Context, prefix netip.Prefix, nodes ...string) error {
	got, err := l.hops(ctx, prefix)
	if err == nil && !slices.Equal(got, nodes) {
		err = errors.New("next hops are " + fmt.Sprintf("%q", got))
	}
	return err
}
