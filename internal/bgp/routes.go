package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

// bundle is what routes have in common that are sent in the same UPDATEs.
type bundle struct {
	family lb.Family
	attrs  lb.Attrs
	hops   [2]netip.Addr // the second is a link-local one, or zero
}

func (b *bundle) equal(f lb.Family, attrs *lb.Attrs, hops [2]netip.Addr) bool {
	return b.family == f && b.hops == hops && b.attrs.Equal(*attrs)
}

// fresh collects the routes to announce, in bundles.
type fresh struct {
	bundles  []*bundle
	prefixes map[*bundle][]netip.Prefix
}

func (n *fresh) add(pfx netip.Prefix, f lb.Family, attrs lb.Attrs, hops [2]netip.Addr) {
	i := slices.IndexFunc(n.bundles, func(b *bundle) bool { return b.equal(f, &attrs, hops) })
	if i < 0 {
		i = len(n.bundles)
		n.bundles = append(n.bundles, &bundle{f, attrs, hops})
	}
	n.prefixes[n.bundles[i]] = append(n.prefixes[n.bundles[i]], pfx)
}

// reconcile sends the difference between what shall be and what the router has been
// sent. What is new goes first: where an aggregate takes the place of single
// addresses, or they of it, there is no moment without a route.
func (s *session) reconcile(c *conn, send func([]byte) error) error {
	s.mu.Lock()
	routes, graceful, drained, heard := s.routes, s.graceful, s.drained, s.heard
	s.heard = time.Time{}
	s.mu.Unlock()

	hops := map[lb.Family][2]netip.Addr{lb.IPv4: c.hops(lb.IPv4), lb.IPv6: c.hops(lb.IPv6)}
	todo := fresh{prefixes: map[*bundle][]netip.Prefix{}}
	gone := map[lb.Family][]netip.Prefix{}
	announced := 0
	lacks := make(map[string]int) // routes that are not sent, by reason
	for pfx, attrs := range routes {
		family := lb.FamilyOf(pfx.Addr())
		leaving := attrs.GracefulShutdown || graceful
		attrs.GracefulShutdown, attrs.Yield = leaving || attrs.Yield, false // they are the same on the wire
		switch {
		case leaving && drained, attrs.GracefulShutdown && c.sent[pfx] == nil:
			// What goes is not told to who does not know of it: a node that was never to
			// announce says nothing at all.
			continue
		case !c.facts.carries(family):
			lacks[family.String()+" unicast is not negotiated: activate it for this neighbor on the router"]++
		case !hops[family][0].IsValid():
			lacks["the link to the router has no "+family.String()+" address to be the next hop"]++
		default:
			if old := c.sent[pfx]; old == nil || !old.equal(family, &attrs, hops[family]) {
				todo.add(pfx, family, attrs, hops[family])
			}
		}
	}
	for pfx := range c.sent {
		family := lb.FamilyOf(pfx.Addr())
		attrs, ok := routes[pfx]
		if !ok || !hops[family][0].IsValid() || drained && (graceful || attrs.GracefulShutdown) {
			gone[family] = append(gone[family], pfx)
		}
	}
	for _, b := range todo.bundles {
		prefixes := todo.prefixes[b]
		slices.SortFunc(prefixes, netip.Prefix.Compare)
		msgs, n, err := bgpmsg.AppendUpdates(nil, b.family, c.attrs(b), prefixes)
		if err != nil {
			lacks[err.Error()] += len(prefixes)
			continue
		}
		if err := send(msgs); err != nil {
			return err
		}
		c.counts.updatesOut.Add(uint64(n))
		announced += len(prefixes)
		for _, pfx := range prefixes {
			c.sent[pfx] = b
		}
	}
	if err := c.withdraw(gone, send); err != nil {
		return err
	}
	c.lacking = explainLacks(lacks)
	s.logSent(announced, len(gone[lb.IPv4])+len(gone[lb.IPv6]), heard)
	return nil
}

// withdraw takes routes back.
func (c *conn) withdraw(gone map[lb.Family][]netip.Prefix, send func([]byte) error) error {
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		slices.SortFunc(gone[f], netip.Prefix.Compare)
		msgs, n := bgpmsg.AppendWithdrawals(nil, f, gone[f])
		if err := send(msgs); err != nil {
			return err
		}
		c.counts.updatesOut.Add(uint64(n))
		for _, pfx := range gone[f] {
			delete(c.sent, pfx)
		}
	}
	return nil
}

// logSent tells that routes were sent, and how long after what they follow from was heard
// of, if it is known.
func (s *session) logSent(announced, withdrawn int, heard time.Time) {
	if announced+withdrawn == 0 || !s.log.Enabled(s.life, slog.LevelDebug) {
		return
	}
	log := s.log
	if !heard.IsZero() {
		log = log.With("heard", heard, "after", time.Since(heard).String())
	}
	log.Debug("bgp routes sent", "announced", announced, "withdrawn", withdrawn)
}

// attrs are the path attributes of b on the wire.
func (c *conn) attrs(b *bundle) *bgpmsg.Attrs {
	p, a := c.peer, &b.attrs
	out := &bgpmsg.Attrs{
		TwoOctetAS: c.facts.narrow, Communities: a.Communities, LargeCommunities: a.LargeCommunities,
		Bandwidth: a.Bandwidth, BandwidthAS: p.LocalASN, BandwidthTransitive: !internal(p),
	}
	for _, hop := range b.hops {
		if hop.IsValid() {
			out.NextHop = append(out.NextHop, hop.WithZone(""))
		}
	}
	if a.HasMED {
		out.MED = &a.MED
	}
	if a.GracefulShutdown && !slices.Contains(a.Communities, lb.GracefulShutdown) {
		// Not in place: the slice belongs to many.
		out.Communities = append(slices.Clone(a.Communities), lb.GracefulShutdown)
		slices.Sort(out.Communities)
	}
	if internal(p) { // RFC 4271 §5.1.5, §5.1.2: a local preference and an empty AS_PATH
		pref := a.LocalPref
		switch {
		case a.GracefulShutdown:
			pref = 0 // RFC 8326 §4.2
		case pref == 0:
			pref = defaultLocalPref
		}
		out.LocalPref = &pref
		return out
	}
	out.ASPath = slices.Repeat([]uint32{p.LocalASN}, 1+int(a.Prepend))
	return out
}

// hops is the next hop for routes of a family, with a link-local one beside it or
// alone where there are such; zero if there is none.
func (c *conn) hops(f lb.Family) [2]netip.Addr {
	own := [2]netip.Addr{c.way.addr}
	if c.way.addr.IsLinkLocalUnicast() && c.way.global.IsValid() {
		own = [2]netip.Addr{c.way.global, c.way.addr} // RFC 2545 §3
	}
	switch {
	case lb.FamilyOf(c.way.addr) == f:
		return own
	case f == lb.IPv4 && c.facts.IPv6Hops:
		// A router so configured may have no IPv4 address on the link at all.
		return own
	}
	return [2]netip.Addr{c.way.other}
}

// forget has all routes of a family sent again.
func (c *conn) forget(f lb.Family) {
	for pfx := range c.sent {
		if lb.FamilyOf(pfx.Addr()) == f {
			c.sent[pfx] = &bundle{} // it equals none, and is withdrawn if need be
		}
	}
}

// look looks up the addresses again that serve as next hops, for they may have come
// or changed since, and reports whether they did.
func (c *conn) look(nodeAddrs []netip.Addr) bool {
	p := c.peer
	p.Addr = c.way.router
	found, err := findLocal(p, nodeAddrs)
	if err != nil {
		return false
	}
	found.addr = c.way.addr // the connection's, whatever a new one would take
	changed := found != c.way
	c.way = found
	return changed
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
