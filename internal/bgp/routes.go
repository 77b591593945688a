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

	hops := map[lb.Family]netip.Addr{lb.IPv4: s.hop(lb.IPv4), lb.IPv6: s.hop(lb.IPv6)}
	var fresh, gone []told
	lacks := make(map[string]int) // routes that are not sent, by reason
	for pfx, attrs := range routes {
		family := lb.FamilyOf(pfx.Addr())
		r := route{attrs, hops[family]}
		switch {
		case s.state != stateEstablished:
			continue
		case !s.facts.carries(family):
			lacks[family.String()+" unicast is not negotiated: activate it for this neighbor on the router"]++
		case !r.hop.IsValid():
			lacks["the link to the router has no "+family.String()+" address to be the next hop"]++
		default:
			if old, ok := s.sent[pfx]; !ok || !old.equal(r) {
				fresh = append(fresh, told{pfx, r})
			}
		}
	}
	for pfx, r := range s.sent {
		family := lb.FamilyOf(pfx.Addr())
		if _, ok := routes[pfx]; !ok || !s.facts.carries(family) || !hops[family].IsValid() {
			gone = append(gone, told{pfx, r})
		}
	}
	// What is new goes first: where an aggregate takes the place of single
	// addresses, or they of it, there is no moment without a route.
	if err := s.announce(fresh); err != nil {
		lacks[err.Error()] += len(fresh)
	}
	if err := s.withdraw(gone); err != nil {
		lacks[err.Error()] += len(gone)
	}
	s.wanted, s.advertised, s.lacking = len(routes), len(s.sent), explainLacks(lacks)
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

// told is a route that GoBGP is to be told, or has been.
type told struct {
	pfx netip.Prefix
	route
}

func (s *session) announce(routes []told) error {
	for some := range slices.Chunk(routes, batch) {
		paths, err := s.paths(some)
		if err != nil {
			return err
		}
		if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
			return fmt.Errorf("announce routes: %w", err)
		}
		for _, r := range some {
			s.sent[r.pfx] = r.route
		}
	}
	return nil
}

func (s *session) withdraw(routes []told) error {
	for some := range slices.Chunk(routes, batch) {
		paths, err := s.paths(some)
		if err != nil {
			return err
		}
		if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: paths}); err != nil {
			return fmt.Errorf("withdraw routes: %w", err)
		}
		for _, r := range some {
			delete(s.sent, r.pfx)
		}
	}
	return nil
}

func (s *session) paths(routes []told) ([]*apiutil.Path, error) {
	paths := make([]*apiutil.Path, len(routes))
	for i, r := range routes {
		var err error
		if paths[i], err = path(s.peer, r.pfx, r.route); err != nil {
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
