package handover

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// Routes is what this node tells its routers, and lets a route that the plan gives to others go
// only when they have had time to take it over (RFC 8326 §3). The plans of all nodes change at
// about the same time, and in no order; so the former next hop stays as the last choice until
// the drain time is over, and with it its session, if the plan has none with that router any more.
//
//	wanted, not wanted           wanted
//	 ── announced ──► announced, as the last choice ──► withdrawn
//	                  └─ drain time, or until yields says no ─┘
//
// It belongs to one goroutine.
type Routes struct {
	drain time.Duration
	want  lb.BGP // of the last step
	told  lb.BGP
	going map[string]map[netip.Prefix]time.Time // by name of the peer: until when routes stay
}

// NewRoutes returns Routes of nothing. With a drain time of 0 routes go at once.
func NewRoutes(drain time.Duration) *Routes { return &Routes{drain: drain} }

// Step returns what to tell the routers, sorted by peer name, and when to decide again if
// nothing else happens; zero: never. want is what the plan asks for; what it shares with others
// is not changed. yields reports whether a route that the plan does not ask for
// could be served by this node still, and is announced by another.
func (r *Routes) Step(now time.Time, want lb.BGP, yields func(netip.Prefix) bool) (told lb.BGP, next time.Time) {
	if len(r.going) == 0 && same(want, r.want) {
		return r.told, time.Time{}
	}
	going := map[string]map[netip.Prefix]time.Time{}
	told = slices.Clone(want)
	for i := range r.told {
		was := &r.told[i]
		at, selected := slices.BinarySearchFunc(told, was.Peer.Name, func(s lb.Session, name string) int { return strings.Compare(s.Peer.Name, name) })
		if !selected && taken(want, was.Peer) {
			continue
		}
		var has map[netip.Prefix]lb.Attrs
		if selected {
			has = told[at].Routes
		}
		stay := r.stay(now, was, has, func(pfx netip.Prefix) bool { return tells(want, pfx) || yields(pfx) })
		if len(stay) == 0 {
			continue
		}
		if !selected {
			told = slices.Insert(told, at, lb.Session{Peer: was.Peer})
		}
		told[at].Routes = maps.Clone(has)
		if has == nil {
			told[at].Routes = make(map[netip.Prefix]lb.Attrs, len(stay))
		}
		for pfx, until := range stay {
			attrs := was.Routes[pfx]
			attrs.Yield = true
			told[at].Routes[pfx] = attrs
			if next.IsZero() || until.Before(next) {
				next = until
			}
		}
		going[was.Peer.Name] = stay
	}
	r.want, r.told, r.going = want, told, going
	return told, next
}

// stay returns the routes of a session that are not asked for any more and stay for now.
func (r *Routes) stay(now time.Time, was *lb.Session, has map[netip.Prefix]lb.Attrs, yields func(netip.Prefix) bool) map[netip.Prefix]time.Time {
	var out map[netip.Prefix]time.Time
	for pfx, attrs := range was.Routes {
		if _, wanted := has[pfx]; wanted || attrs.GracefulShutdown { // which has been draining with its node
			continue
		}
		until, goes := r.going[was.Peer.Name][pfx]
		if !goes {
			until = now.Add(r.drain)
		}
		if !now.Before(until) || !yields(pfx) {
			continue
		}
		if out == nil {
			out = map[netip.Prefix]time.Time{}
		}
		out[pfx] = until
	}
	return out
}

// Going returns how many routes stay for now although the plan does not ask for them.
func (r *Routes) Going() int {
	n := 0
	for _, routes := range r.going {
		n += len(routes)
	}
	return n
}

// same reports whether a and b are the very same: a plan that changes nothing yields the former.
func same(a, b lb.BGP) bool { return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0] }

// taken reports whether the plan has a session with the same router under another name: a
// router has one with each node.
func taken(want lb.BGP, p lb.Peer) bool {
	return slices.ContainsFunc(want, func(s lb.Session) bool { return s.Peer.Endpoint() == p.Endpoint() })
}

// tells reports whether any router is told of pfx by want.
func tells(want lb.BGP, pfx netip.Prefix) bool {
	return slices.ContainsFunc(want, func(s lb.Session) bool { _, told := s.Routes[pfx]; return told })
}
