package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v4/pkg/apiutil"

	"github.com/barelb/barelb/internal/core/lb"
)

// batch is how many routes are handed to GoBGP in one go; it serves nothing else
// meanwhile.
const batch = 1000

// reconcile tells GoBGP the difference between what shall be sent and what it has
// been told. It is told nothing until the session is up, and forgets all when it
// is down: between its look at what to send to a new session and the moment when
// changes reach that session, GoBGP loses what it is told.
func (s *session) reconcile() {
	s.mu.Lock()
	routes := s.routes
	s.mu.Unlock()

	want := make(map[netip.Prefix]route, len(routes))
	carried := 0
	lacks := make(map[string]int) // routes that are not sent, by reason
	for pfx, attrs := range routes {
		family := lb.FamilyOf(pfx.Addr())
		hop := s.hop(family)
		if hop.IsValid() {
			want[pfx] = route{attrs, hop}
		}
		switch {
		case !s.facts.carries(family):
			lacks[family.String()+" unicast is not negotiated: activate it for this neighbor on the router"]++
		case !hop.IsValid():
			lacks["the link to the router has no "+family.String()+" address to be the next hop"]++
		default:
			carried++
		}
	}

	var fresh, gone []netip.Prefix
	for pfx, r := range want {
		if old, ok := s.sent[pfx]; !ok || !old.equal(r) {
			fresh = append(fresh, pfx)
		}
	}
	for pfx := range s.sent {
		if _, ok := want[pfx]; !ok {
			gone = append(gone, pfx)
		}
	}
	// What is new goes first: where an aggregate takes the place of single
	// addresses, or they of it, there is no moment without a route.
	for _, err := range []error{s.announce(fresh, want), s.withdraw(gone)} {
		if err != nil {
			lacks[err.Error()]++
		}
	}
	s.wanted, s.advertised, s.lacking = len(routes), carried, explainLacks(lacks)
}

// hop is the next hop for routes of a family; the zero Addr if there is none, as
// before the session is up.
func (s *session) hop(f lb.Family) netip.Addr {
	switch {
	case s.state != stateEstablished:
		return netip.Addr{}
	case lb.FamilyOf(s.local.addr) == f:
		return s.local.addr
	case f == lb.IPv4 && s.facts.ipv6Hops:
		// A router so configured may have no IPv4 address on the link at all.
		return s.local.addr
	}
	return s.local.other
}

func (s *session) announce(pfxs []netip.Prefix, want map[netip.Prefix]route) error {
	for some := range slices.Chunk(pfxs, batch) {
		paths, err := s.paths(some, want)
		if err != nil {
			return err
		}
		if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
			return fmt.Errorf("announce routes: %w", err)
		}
		for _, pfx := range some {
			s.sent[pfx] = want[pfx]
		}
	}
	return nil
}

func (s *session) withdraw(pfxs []netip.Prefix) error {
	for some := range slices.Chunk(pfxs, batch) {
		paths, err := s.paths(some, s.sent)
		if err != nil {
			return err
		}
		if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: paths}); err != nil {
			return fmt.Errorf("withdraw routes: %w", err)
		}
		for _, pfx := range some {
			delete(s.sent, pfx)
		}
	}
	return nil
}

func (s *session) paths(pfxs []netip.Prefix, routes map[netip.Prefix]route) ([]*apiutil.Path, error) {
	paths := make([]*apiutil.Path, len(pfxs))
	for i, pfx := range pfxs {
		var err error
		if paths[i], err = path(s.peer, pfx, routes[pfx]); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// explainLacks puts counts of routes into words, most affected first.
func explainLacks(lacks map[string]int) string {
	var all []string
	for why, n := range lacks {
		all = append(all, fmt.Sprintf("%d not sent: %s", n, why))
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}
