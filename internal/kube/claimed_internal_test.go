package kube

import (
	"net/netip"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

func TestClaimedEventsAreLimited(t *testing.T) {
	var e claimedEvents
	one := claimed{netip.MustParseAddr("192.0.2.1"), lb.Key{Namespace: "ns", Name: "a"}}
	sharer, other := claimed{one.addr, lb.Key{Namespace: "ns", Name: "b"}}, claimed{netip.MustParseAddr("192.0.2.2"), one.svc}
	now := noon
	for i, c := range []struct {
		wait time.Duration
		what claimed
		want bool
	}{
		{0, one, true},
		{0, one, false},
		{0, sharer, true},
		{0, other, true},
		{9 * time.Second, one, false},
		{time.Second, one, true},
		{time.Second, one, false},
		{time.Hour, one, true},
	} {
		now = now.Add(c.wait)
		if got := e.allow(c.what, now); got != c.want {
			t.Errorf("%d: got %t", i, got)
		}
	}
	if len(e.last) != 1 {
		t.Errorf("it remembers %v", e.last)
	}
}
