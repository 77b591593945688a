package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// macOf is the MAC of a host's link to the LAN.
func (l *lab) macOf(t *testing.T, host string) string {
	t.Helper()
	mac := ""
	must(t, l.c.Box(host).InNetns(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = link.HardwareAddr.String()
		}
		return err
	}))
	return mac
}

// TestLayer2FailbackNever wants a node that returns to leave the address where it is
// well, and to take back one that has failback Immediate.
func TestLayer2FailbackNever(t *testing.T) {
	l := frr(t)
	// Two addresses of the same owner.
	first := l.rivals(t, "l2back", []string{"192.168.1.218/32"})
	other := first.addr.Next()
	for byFormula(other, l.c.Nodes()) != first.first {
		other = other.Next()
	}
	never := l.rivals(t, "l2never", []string{host(other).String()}, "failback: Never")
	if never.first != first.first {
		t.Fatalf("%s has the owner %s, want %s", other, never.first, first.first)
	}
	p := l.probe(t, cluster.Client, never.addr)
	must(t, l.c.Cut(first.first))
	second := l.ownerIs(t, never.addr, l.without(first.first)...)
	l.ownerIs(t, first.addr, l.without(first.first)...)
	l.steady(t, p)
	must(t, p.Mark("restored"))
	must(t, l.c.Restore(first.first))
	l.ownerIs(t, first.addr, first.first) // it is well, and has its other address again
	l.ownerIs(t, never.addr, second)
	l.steady(t, p)
	if got := l.owner(t, never.addr); got != second {
		t.Errorf("the address went back to %s, want it to stay with %s", got, second)
	}
	r, err := p.Stop()
	must(t, err)
	m, err := r.After("restored")
	must(t, err)
	if m.Lost > 0 {
		t.Errorf("%d probes lost when the node returned", m.Lost)
	}

	// All speakers end at once and start anew: nobody of them knows, but the API server does.
	l.awaitStatus(t, "ServiceL2Status", never.name, second+" []")
	must(t, l.renewSpeakers(t.Context()))
	l.ownerIs(t, first.addr, first.first)
	l.ownerIs(t, never.addr, second)

	// The present owner goes for good reason: then it may move, and back is forward.
	l.changeNode(t, second, exclude, include)
	l.ownerIs(t, never.addr, l.without(second)...)
}

// TestLayer2Paths wants nodes that cannot bring an address's traffic to be passed over
// while others can.
func TestLayer2Paths(t *testing.T) {
	t.Run("no carrier on the named link", pathCarrier)
	t.Run("no prefix of the address", pathPrefix)
}

// pathCarrier gives every node a second link, which alone the address is announced on.
func pathCarrier(t *testing.T) {
	const link = "eth1"
	l := frr(t)
	byMAC := map[string]string{}
	for _, node := range l.c.Nodes() {
		l.undo(t, "take the second cable from "+node, func(context.Context) error { return l.c.RemoveCable(node, link) })
		mac, err := l.c.AddCable(t.Context(), node, link)
		must(t, err)
		byMAC[mac.String()] = node
	}
	l.apply(t, pool("l2carrier", []string{"192.168.1.226/32"}), object("L2Advertisement", "l2carrier", "ipAddressPools: [l2carrier]", "interfaces: ["+link+"]"))
	addr := l.serve(t, system.Service{Name: "l2carrier"}, "l2carrier")
	answers := func(want func(node string) bool) string {
		node := ""
		within(t, patience/3, "one node to answer for "+addr.String()+" on "+link, func() error {
			r, err := measure.WhoHas(t.Context(), l.c.Box(cluster.Client), l.self, measure.WhoHasOpts{Addr: addr, Interval: 50 * time.Millisecond})
			if err != nil {
				return err
			}
			macs := r.MACs()
			if len(macs) != 1 || !want(byMAC[macs[0]]) {
				return fmt.Errorf("answers from %q", macs)
			}
			node = byMAC[macs[0]]
			return nil
		})
		return node
	}
	first := answers(func(n string) bool { return n != "" })
	t.Logf("%s answers on %s, and loses its carrier there", first, link)
	must(t, l.c.Cut(cluster.Port(first, link)))
	second := answers(func(n string) bool { return n != "" && n != first })
	must(t, l.c.Restore(cluster.Port(first, link)))
	answers(func(n string) bool { return n == first })
	t.Logf("%s answered meanwhile", second)
}

// pathPrefix has two nodes be in the subnet of an address, of which the third one would
// be the owner if none were.
func pathPrefix(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2prefix", []string{"192.168.77.10/32"}), object("L2Advertisement", "l2prefix", "ipAddressPools: [l2prefix]"))
	addr := l.serve(t, system.Service{Name: "l2prefix"}, "l2prefix")
	first := l.owner(t, addr) // nobody is in the subnet: that must not leave nobody
	address := func(i int, verb string) []string {
		return []string{"addr", verb, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 77, byte(100 + i)}), 24).String(), "dev", "eth0"}
	}
	for i, node := range l.c.Nodes() {
		if node == first {
			continue
		}
		l.undo(t, "take the subnet from "+node, func(ctx context.Context) error {
			_ = l.c.Box(node).Command(ctx, "ip", address(i, "del")...).Run()
			return nil
		})
		must(t, l.c.Box(node).Command(t.Context(), "ip", address(i, "add")...).Run())
	}
	l.ownerIs(t, addr, l.without(first)...)
	for i, node := range l.c.Nodes() {
		if node != first {
			must(t, l.c.Box(node).Command(t.Context(), "ip", address(i, "del")...).Run())
		}
	}
	l.ownerIs(t, addr, first)
}

// TestLayer2ProxyARP has the switch answer ARP for the owner's own address and pass no
// request on, as fabrics do that suppress ARP. A dead node must not live on by that.
func TestLayer2ProxyARP(t *testing.T) {
	l := frr(t)
	o := l.rivals(t, "l2proxy", []string{"192.168.1.227/32"})
	v4, _ := cluster.NodeAddrs(slices.Index(l.c.Nodes(), o.first) + 1)
	mac, err := net.ParseMAC(l.mac(t, o.first))
	must(t, err)
	l.undo(t, "let the switch pass ARP on", func(ctx context.Context) error { return l.c.StopDropping(ctx, cluster.Lan) })
	others := l.without(o.first)
	fabric, err := measure.StartRespond(context.WithoutCancel(t.Context()), l.c.Box(cluster.Lan), l.self, measure.RespondOpts{
		Links: strings.Join(others, ","), Addr: v4, MAC: mac,
	})
	must(t, err)
	t.Cleanup(func() { _, _ = fabric.Stop() })
	must(t, l.c.DropIngress(t.Context(), cluster.Lan, others, "arp operation request arp daddr ip "+v4.String()))
	p := l.probe(t, cluster.Client, o.addr)
	a := l.ask(t, quiet, o.addr)
	// The speakers need to notice, while both live, that the owner sees no requests.
	must(t, a.AwaitRequests(limited(t, patience), int(5*time.Second/askInterval)))
	must(t, p.Mark("cut"))
	must(t, l.c.Cut(o.first))
	l.ownerIs(t, o.addr, others...)
	l.steady(t, p)
	r, err := p.Stop()
	must(t, err)
	m, err := r.After("cut")
	must(t, err)
	t.Logf("away for %s", m.LongestDisturbance.Duration())
	if m.LongestDisturbance.Duration() > failover {
		t.Errorf("away for %s, want %s at most", m.LongestDisturbance.Duration(), failover)
	}
	if begin, err := r.After("begin"); err != nil || begin.Lost > 0 {
		t.Errorf("%d probes lost before the cable was cut (%v)", begin.Lost, err)
	}
	// The next test shall find the fleet well again.
	must(t, l.c.StopDropping(t.Context(), cluster.Lan))
	must(t, l.c.Restore(o.first))
	l.ownerIs(t, o.addr, o.first)
}
