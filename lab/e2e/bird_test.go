package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// TestBIRD has a cluster of its own: two nodes and BIRD, with internal sessions
// and a password.
func TestBIRD(t *testing.T) {
	const password = "sesame"
	l := use(t, cluster.Config{
		Name: "e2e-bird", Nodes: 2, Router: cluster.BIRD, BGP: cluster.BGP{NodeAS: nodeAS, RouterAS: nodeAS, Password: password},
	})
	l.apply(t, peer("router1-v4", router4, nodeAS, "password: "+password), peer("router1-v6", router6, nodeAS, "password: "+password))
	advertise(t, l, "bird", []string{"198.51.100.0/30", "2001:db8:51::/126"}, "localPref: 150", "communities: ['64500:10', 'large:64500:1:2']", "med: 7")
	addrs := l.serveAll(t, dualStack(system.Service{Name: "bird"}), "bird", 2)
	for _, a := range addrs {
		l.wantHops(t, host(a), l.c.Nodes()...)
		l.awaitBIRD(t, host(a), "BGP.local_pref: 150", "BGP.med: 7", "BGP.community: (64500,10)", "BGP.large_community: (64500, 1, 2)")
	}
	l.reachable(t, addrs...)

	// A preference that changes, in the running sessions.
	l.apply(t, object("BGPAdvertisement", "bird", "ipAddressPools: [bird]", "localPref: 250"))
	l.awaitBIRD(t, host(addrs[0]), "BGP.local_pref: 250")

	l.apply(t, object("BGPAdvertisement", "bird", "ipAddressPools: [bird]", "aggregationLength: 30", "aggregationLengthV6: 126"))
	net4, net6 := netip.MustParsePrefix("198.51.100.0/30"), netip.MustParsePrefix("2001:db8:51::/126")
	l.wantHops(t, net4, l.c.Nodes()...)
	l.wantHops(t, net6, l.c.Nodes()...)
	l.wantHops(t, host(addrs[0]))
	l.awaitBIRD(t, net4, "BGP.local_pref: 100") // RFC 4271 §5.1.5 wants one; this is the customary default

	l.apply(t, object("BGPAdvertisement", "bird", "ipAddressPools: [bird]", onNodes("node2")))
	l.wantHops(t, host(addrs[0]), "node2")
	l.wantHops(t, host(addrs[1]), "node2")
	l.apply(t, object("BGPAdvertisement", "bird", "ipAddressPools: [bird]"))
	l.wantHops(t, host(addrs[0]), l.c.Nodes()...)

	must(t, l.sys.StopSpeaker(t.Context(), "node1"))
	l.wantHops(t, host(addrs[0]), "node2")
	l.wantHops(t, host(addrs[1]), "node2")
	<-l.sys.Speaker("node1").Done()
	l.startSpeaker(t, "node1")
	l.wantHops(t, host(addrs[0]), l.c.Nodes()...)

	l.delete(t, "bird")
	for _, a := range addrs {
		l.wantHops(t, host(a))
	}
	eventually(t, "all sessions", func() error { return l.sessionsUp(t.Context()) })
}

// awaitBIRD waits until every path that BIRD has to a prefix, one from each node,
// has the given attributes.
func (l *lab) awaitBIRD(t *testing.T, prefix netip.Prefix, attributes ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q on %s", attributes, prefix), func() error {
		out, err := l.c.Birdc(t.Context(), "show route all for "+prefix.String())
		if err != nil {
			return err
		}
		for _, a := range attributes {
			if n := strings.Count(out, a+"\n"); n != len(l.c.Nodes()) {
				return fmt.Errorf("%d paths have %s:\n%s", n, a, out)
			}
		}
		return nil
	})
}

// sessionsUp wants a session of each node in both families.
func (l *lab) sessionsUp(ctx context.Context) error {
	out, err := l.c.Birdc(ctx, "show protocols")
	if err != nil {
		return err
	}
	if up := strings.Count(out, established); up != 2*len(l.c.Nodes()) {
		return fmt.Errorf("%d sessions are up:\n%s", up, out)
	}
	return nil
}
