package lb_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
)

func TestFamilyOf(t *testing.T) {
	for text, want := range map[string]lb.Family{
		"192.168.1.250": lb.IPv4, "fd00::1": lb.IPv6, "::ffff:192.168.1.250": lb.IPv4, "::": lb.IPv6, "fe80::1%eth0": lb.IPv6,
	} {
		if got := lb.FamilyOf(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %s", text, got)
		}
	}
	if got := lb.FamilyOf(netip.Addr{}); got != 0 || got.String() != "no family" {
		t.Errorf("the zero Addr is %s", got)
	}
	if lb.IPv4.Bits() != 32 || lb.IPv6.Bits() != 128 || lb.IPv4.String() != "IPv4" || lb.IPv6.String() != "IPv6" {
		t.Error("the helpers of Family are wrong")
	}
}

func TestFamiliesOfService(t *testing.T) {
	for name, c := range map[string]struct {
		ips  []string
		want []lb.Family
	}{
		"none":              {nil, nil},
		"IPv4":              {[]string{"10.96.0.1"}, []lb.Family{lb.IPv4}},
		"IPv4 first":        {[]string{"10.96.0.1", "fd00::1"}, []lb.Family{lb.IPv4, lb.IPv6}},
		"IPv6 first":        {[]string{"fd00::1", "10.96.0.1"}, []lb.Family{lb.IPv6, lb.IPv4}},
		"one family twice":  {[]string{"10.96.0.1", "10.96.0.2"}, []lb.Family{lb.IPv4}},
		"mapped and its v4": {[]string{"::ffff:10.96.0.1"}, []lb.Family{lb.IPv4}},
	} {
		var svc lb.Service
		for _, ip := range c.ips {
			svc.ClusterIPs = append(svc.ClusterIPs, netip.MustParseAddr(ip))
		}
		if d := cmp.Diff(c.want, svc.Families()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b := lb.Key{Namespace: "a", Name: "z"}, lb.Key{Namespace: "b", Name: "a"}
	if a.Compare(b) >= 0 || b.Compare(a) <= 0 || a.Compare(a) != 0 || a.String() != "a/z" {
		t.Error("keys are ordered by namespace, then name")
	}
	tcp, udp := lb.Port{Protocol: "TCP", Number: 443}, lb.Port{Protocol: "UDP", Number: 53}
	if tcp.Compare(udp) >= 0 || udp.Compare(tcp) <= 0 || tcp.Compare(lb.Port{Protocol: "TCP", Number: 80}) <= 0 {
		t.Error("ports are ordered by protocol, then number")
	}
}

func TestAttrsNormalize(t *testing.T) {
	one, two := lb.LargeCommunity{Global: 1}, lb.LargeCommunity{Global: 1, Local2: 2}
	a := lb.Attrs{Communities: []lb.Community{7, 3, 7}, LargeCommunities: []lb.LargeCommunity{two, one, two}}
	a.Normalize()
	want := lb.Attrs{Communities: []lb.Community{3, 7}, LargeCommunities: []lb.LargeCommunity{one, two}}
	if d := cmp.Diff(want, a); d != "" || !a.Equal(want) {
		t.Errorf("(-want +got):\n%s", d)
	}
	want.LocalPref = 1
	if a.Equal(want) {
		t.Error("local preference is not compared")
	}
	if got := lb.Community(64512<<16 | 100).String(); got != "64512:100" {
		t.Error(got)
	}
	if got := two.String(); got != "large:1:0:2" {
		t.Error(got)
	}
}

// TestPeerStringHoldsNoSecret: it is what logs print.
func TestPeerStringHoldsNoSecret(t *testing.T) {
	p := lb.Peer{Name: "router1", Addr: netip.MustParseAddr("192.168.1.1"), Port: 179, Password: "hush"}
	if got := p.String(); got != "router1 (192.168.1.1:179)" {
		t.Error(got)
	}
}

func TestEndpointsAreOrdered(t *testing.T) {
	want := []lb.Endpoint{{}, {Serving: true}, {Node: "a"}, {Node: "a", Serving: true}, {Node: "b"}}
	for i, a := range want {
		for j, b := range want {
			if got := a.Compare(b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%+v and %+v: got %d", a, b, got)
			}
		}
	}
}
