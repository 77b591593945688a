package lb_test

import (
	"net/netip"
	"testing"

	"github.com/barelb/barelb/internal/core/lb"
)

// TestBFDOfSessions: BGP sessions to one address share a BFD session.
func TestBFDOfSessions(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	fast, slow := &lb.BFDProfile{Name: "fast"}, &lb.BFDProfile{Name: "slow"}
	all := lb.BGP{
		{Peer: lb.Peer{Addr: a, Port: 179, BFD: fast}},
		{Peer: lb.Peer{Addr: a, Port: 1179, BFD: slow}},
		{Peer: lb.Peer{Addr: a, MultiHop: true, BFD: slow}},
		{Peer: lb.Peer{Addr: a, SourceAddr: b, BFD: slow}},
		{Peer: lb.Peer{Addr: b}},
	}.BFD()
	want := map[string]string{"10.0.0.1": "fast", "10.0.0.1 multihop": "slow", "10.0.0.1 from 10.0.0.2": "slow"}
	for key, profile := range all {
		if want[key.String()] != profile.Name {
			t.Errorf("session %s has profile %s, want %q", key, profile.Name, want[key.String()])
		}
		delete(want, key.String())
	}
	if len(want) != 0 {
		t.Errorf("no session %v", want)
	}
}
