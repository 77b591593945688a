package ipam_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// What MetalLB is known to do wrong, and what is done here instead.

// There: one address, two, one, two … for ever.
func TestPreferDualStackWithOneClusterIPDoesNotAlternate(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"10.0.0.0/24", "fd00::/120"}))
	svc := svc4("a")
	svc.FamilyPolicy = lb.PreferDualStack
	for i := range 5 {
		d := settle(b, svc)
		check(t, fmt.Sprint("pass ", i), d, give("p", "10.0.0.0"))
	}
}

// There: the second pass sorts the addresses as text, and the owner moves.
func TestOrderOfRequestedAddressesStays(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"10.0.0.0/24", "1000::/120"}))
	svc := dual("a", lb.RequireDualStack)
	svc.Requested = addrs("1000::5", "10.0.0.5")
	for i := range 3 {
		check(t, fmt.Sprint("pass ", i), settle(b, svc), give("p", "1000::5", "10.0.0.5"))
	}
	svc.Requested = addrs("10.0.0.5", "1000::5")
	check(t, "asked for in another order", settle(b, svc), give("p", "1000::5", "10.0.0.5"))
}

// There: ["<nil>"] is not allowed in config.
func TestIPv6ServiceOnIPv4PoolIsToldWhy(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/24"))
	svc := svc6("a")
	svc.RequestedPool = "p"
	d := b.Decide(svc)
	if d.Refused == nil || d.Refused.Reason != lb.PoolExhausted || !strings.Contains(d.Refused.Message, "no IPv6 address") {
		t.Errorf("%+v", d)
	}
}

// There: at random, and priority 0 is both less and more than itself.
func TestEqualPoolsAreTakenByName(t *testing.T) {
	for _, edits := range [][]func(*config.IPAddressPool){nil, {priority(0)}, {priority(7)}} {
		var pools []config.IPAddressPool
		for i, name := range []string{"d", "b", "a", "c"} {
			pools = append(pools, poolSpec(name, []string{fmt.Sprintf("10.0.%d.0/32", i)}, edits...))
		}
		b := bookOf(t, pools...)
		var got []string
		for i := range pools {
			got = append(got, settle(b, svc4(fmt.Sprint("s", i))).Pool)
		}
		if !slices.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Errorf("taken in the order %v", got)
		}
	}
}

// There: -9223372036854775553 addresses.
func TestHugeBlocksDoNotOverflow(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"fd00::/16", "fd01::/24", "fd02::/120", "10.0.0.0/8"}))
	settle(b, svc6("a"))
	u := b.Usage()[0]
	if want := (ipam.Usage{Pool: "p", Total4: 1 << 24, Total6: math.MaxInt64, Assigned6: 1}); u != want {
		t.Errorf("%+v, want %+v", u, want)
	}
}

// There: both addresses are dropped.
func TestFamilyThatRemainsStaysWhenAPoolBecomesSingle(t *testing.T) {
	b := bookOf(t, poolSpec("p", []string{"10.0.0.0/24", "fd00::/120"}))
	svc := dual("a", lb.PreferDualStack)
	settle(b, svc)
	c := parse(t, v4("p", "10.0.0.0/24"))
	b.SetPools(c.Pools, c.SetAside)
	d := settle(b, svc)
	if d.Pool != "p" || !slices.Equal(d.Addrs, addrs("10.0.0.0")) {
		t.Errorf("%+v", d)
	}
}

// There: an address pool of nothing, and a panic of the validator.
func TestMixedFamilyRangeIsRefused(t *testing.T) {
	cfg := config.Parse(config.Objects{Pools: []config.IPAddressPool{v4("bad", "10.0.0.1-fc00::1"), v4("good", "10.0.1.0/24")}}, nil)
	if len(cfg.Pools) != 1 || !cfg.SetAside["bad"] || len(cfg.Problems) != 1 || cfg.Problems[0].Field != "spec.addresses[0]" {
		t.Errorf("%+v", cfg)
	}
}

// There: a scan from the first address on for each Service, and 65,000 of them here.
func TestNearlyFullPoolGivesItsLastAddresses(t *testing.T) {
	b := bookOf(t, v4("p", "10.0.0.0/16"))
	for i := range 1 << 16 {
		if d := settle(b, svc4(fmt.Sprint("s", i))); len(d.Addrs) == 0 {
			t.Fatalf("number %d: %+v", i, d)
		}
	}
	d := b.Decide(svc4("one-more"))
	if d.Refused == nil || d.Refused.Reason != lb.PoolExhausted {
		t.Errorf("%+v", d)
	}
}
