package cli

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/bfd"
	"github.com/barelb/barelb/internal/bgp"
	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

func TestSessionStates(t *testing.T) {
	since := time.Unix(1, 0)
	got := sessionStates([]bgp.SessionStatus{
		{Peer: "a", Addr: netip.MustParseAddr("10.0.0.1"), State: "Established", Since: since, Wanted: 3, Advertised: 2, Negotiated: bgp.Negotiated{
			RouterASN: 64513, RouterID: "10.0.0.2", LocalAddr: "10.0.0.9", HoldTime: time.Minute, Keepalive: time.Second, IPv4: true, IPv6: true, GracefulRestart: true,
		}},
		{Peer: "b", Addr: netip.MustParseAddr("fe80::1%eth0"), VRF: "red", State: "Connect", LastError: "why"},
		{Peer: "c", Interface: "eth0", State: "Connect"},
	}, []bfd.SessionStatus{{Key: lb.BFDKey{Peer: netip.MustParseAddr("fe80::1")}, Status: core.Status{State: core.Up}}})
	want := []kube.SessionState{
		{
			Peer: "a", Router: "10.0.0.1", BGP: "Established", Since: since, LocalAddr: "10.0.0.9", RouterASN: 64513, RouterID: "10.0.0.2",
			HoldTime: time.Minute, Keepalive: time.Second, Families: []lb.Family{lb.IPv4, lb.IPv6}, GracefulRestart: true, Wanted: 3, Advertised: 2,
		},
		{Peer: "b", Router: "fe80::1%eth0", VRF: "red", BGP: "Connect", BFD: "Up", Message: "why"},
		{Peer: "c", BGP: "Connect"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
