package measure

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RouteWatchOpts are the options of watch-route.
type RouteWatchOpts struct {
	Prefix netip.Prefix
	// MoreSpecific watches every route within Prefix, not only that to Prefix.
	MoreSpecific bool
	Duration     time.Duration // default: until told to stop
}

func (o *RouteWatchOpts) flags(fs *flag.FlagSet) {
	fs.TextVar(&o.Prefix, "prefix", o.Prefix, "destination of the route, as 192.168.1.250/32")
	fs.BoolVar(&o.MoreSpecific, "more-specific", o.MoreSpecific, "watch all routes within the prefix")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// RouteChange is a route of the main table as it is from At on.
type RouteChange struct {
	// At is when the route, read again from the kernel, was found to be so: never
	// before it was, and later by no more than this process had to wait for a core.
	At      time.Time    `json:"at"`
	Prefix  netip.Prefix `json:"prefix"`
	Present bool         `json:"present"`
	Metric  int          `json:"metric,omitempty"`
	Proto   int          `json:"proto,omitempty"` // who installed it: 2 kernel, 4 static, 11 zebra, 12 bird, 186 bgp
	Hops    []Hop        `json:"hops,omitempty"`
	Initial bool         `json:"initial,omitempty"`
}

// Hop is a next hop of a route.
type Hop struct {
	Via    netip.Addr `json:"via,omitzero"`
	Link   string     `json:"link"`
	Weight int        `json:"weight"`
	// Dead is what the kernel does not use: its link is down, or has no carrier
	// where the kernel was told to mind that.
	Dead bool `json:"dead,omitempty"`
}

// Usable is the number of next hops that the kernel uses.
func (r RouteChange) Usable() int {
	n := 0
	for _, h := range r.Hops {
		if !h.Dead {
			n++
		}
	}
	return n
}

// watchRouteCommand is `watch-route`.
func watchRouteCommand(ctx context.Context, args []string, std Stdio) error {
	var opts RouteWatchOpts
	if err := parse("watch-route", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Prefix.IsValid() {
		return errors.New("parse arguments of watch-route: --prefix is needed")
	}
	opts.Prefix = opts.Prefix.Masked()
	r := &routeWatch{opts: opts, known: make(map[netip.Prefix]RouteChange)}
	// A next hop object or a link may change a route without a message about the
	// route itself.
	const nexthopGroup = 1 << (unix.RTNLGRP_NEXTHOP - 1)
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_ROUTE | nexthopGroup)
	if opts.Prefix.Addr().Is6() {
		groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV6_ROUTE | nexthopGroup
	}
	return watch{
		groups: groups, duration: opts.Duration,
		initial: func() ([]any, error) { return r.look(true) },
		resync:  func() ([]any, error) { return r.look(false) },
		observe: r.observe,
	}.run(ctx, std)
}

// routeWatch knows the routes as they were last printed.
type routeWatch struct {
	opts  RouteWatchOpts
	known map[netip.Prefix]RouteChange
}

func (r *routeWatch) watched(pfx netip.Prefix) bool {
	if r.opts.MoreSpecific {
		return r.opts.Prefix.Bits() <= pfx.Bits() && r.opts.Prefix.Contains(pfx.Addr())
	}
	return pfx == r.opts.Prefix
}

// look reads all routes and returns what differs. At the start it says of a
// single watched route that it is absent, too.
func (r *routeWatch) look(initial bool) ([]any, error) {
	routes, err := listRoutes(family(r.opts.Prefix.Addr()))
	if err != nil {
		return nil, err
	}
	var changes []any
	for _, route := range routes {
		route.Initial = initial
		changes = r.note(changes, route)
	}
	for pfx := range r.known {
		if _, ok := routes[pfx]; !ok {
			changes = r.note(changes, RouteChange{Prefix: pfx})
		}
	}
	if initial && !r.opts.MoreSpecific && len(changes) == 0 {
		changes = append(changes, RouteChange{At: time.Now(), Prefix: r.opts.Prefix, Initial: true})
	}
	return changes, nil
}

// observe takes messages as hints only: the route is read again, for a message
// about one next hop does not tell the others.
func (r *routeWatch) observe(msgs []message) ([]any, error) {
	var touched []netip.Prefix
	links := make(linkNames)
	for _, m := range msgs {
		if m.kind != unix.RTM_NEWROUTE && m.kind != unix.RTM_DELROUTE {
			return r.look(false)
		}
		if route, ok := parseRoute(m, links); ok && r.watched(route.Prefix) && !slices.Contains(touched, route.Prefix) {
			touched = append(touched, route.Prefix)
		}
	}
	var changes []any
	for _, pfx := range touched {
		route, err := readRoute(pfx)
		if errors.Is(err, errShadowed) {
			return r.look(false)
		}
		if err != nil {
			return nil, err
		}
		changes = r.note(changes, route)
	}
	return changes, nil
}

// note appends c to changes if it is watched and differs from what is known.
func (r *routeWatch) note(changes []any, c RouteChange) []any {
	if !r.watched(c.Prefix) {
		return changes
	}
	was, known := r.known[c.Prefix]
	if known == c.Present && was.Metric == c.Metric && was.Proto == c.Proto && slices.Equal(was.Hops, c.Hops) {
		return changes
	}
	if c.Present {
		r.known[c.Prefix] = c
	} else {
		delete(r.known, c.Prefix)
	}
	c.At = time.Now()
	return append(changes, c)
}

// errShadowed: the kernel's answer is a more specific route than was asked for.
var errShadowed = errors.New("a more specific route hides it")

// readRoute asks for the one route to pfx by looking its first address up.
func readRoute(pfx netip.Prefix) (RouteChange, error) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family(pfx.Addr()), byte(pfx.Addr().BitLen())
	binary.NativeEndian.PutUint32(body[8:], unix.RTM_F_FIB_MATCH)
	body = attribute(body, unix.RTA_DST, pfx.Addr().AsSlice())
	absent := RouteChange{Prefix: pfx}
	msgs, err := query(unix.RTM_GETROUTE, 0, body)
	var errno syscall.Errno
	if errors.As(err, &errno) && slices.Contains([]syscall.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ESRCH, unix.EINVAL, unix.EACCES}, errno) {
		return absent, nil // no route at all, or one that refuses
	}
	if err != nil {
		return absent, fmt.Errorf("read route to %s: %w", pfx, err)
	}
	if len(msgs) == 0 {
		return absent, nil
	}
	route, ok := parseRoute(msgs[0], make(linkNames))
	switch {
	case !ok || route.Prefix.Bits() < pfx.Bits():
		return absent, nil
	case route.Prefix.Bits() > pfx.Bits():
		return absent, errShadowed
	}
	return route, nil
}

// listRoutes reads the main table: of several routes to a prefix the one with
// the lowest metric.
func listRoutes(family byte) (map[netip.Prefix]RouteChange, error) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = family
	msgs, err := query(unix.RTM_GETROUTE, unix.NLM_F_DUMP, body)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	routes, links := make(map[netip.Prefix]RouteChange), make(linkNames)
	for _, m := range msgs {
		route, ok := parseRoute(m, links)
		if !ok {
			continue
		}
		if other, ok := routes[route.Prefix]; !ok || route.Metric < other.Metric {
			routes[route.Prefix] = route
		}
	}
	return routes, nil
}

// parseRoute reads a message about a unicast route of the main table (struct rtmsg).
func parseRoute(m message, links linkNames) (RouteChange, bool) {
	b := m.body
	if m.kind != unix.RTM_NEWROUTE && m.kind != unix.RTM_DELROUTE || len(b) < unix.SizeofRtMsg {
		return RouteChange{}, false
	}
	table, dst := uint32(b[4]), netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	only := Hop{Weight: 1, Dead: flags&unix.RTNH_F_DEAD != 0}
	c := RouteChange{Present: true, Proto: int(b[5])}
	for kind, value := range attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			dst = addrOf(value)
		case unix.RTA_TABLE:
			table = binary.NativeEndian.Uint32(value)
		case unix.RTA_PRIORITY:
			c.Metric = int(binary.NativeEndian.Uint32(value))
		case unix.RTA_MULTIPATH:
			c.Hops = parseHops(value, links)
		default:
			only.set(kind, value, links)
		}
	}
	if c.Hops == nil && only.Link != "" {
		c.Hops = []Hop{only}
	}
	slices.SortFunc(c.Hops, func(a, b Hop) int { return cmp.Or(a.Via.Compare(b.Via), cmp.Compare(a.Link, b.Link)) })
	c.Prefix = netip.PrefixFrom(dst, int(b[1]))
	return c, c.Prefix.IsValid() && table == unix.RT_TABLE_MAIN && b[7] == unix.RTN_UNICAST
}

// set takes an attribute that describes a next hop.
func (h *Hop) set(kind uint16, value []byte, links linkNames) {
	switch kind {
	case unix.RTA_OIF:
		h.Link = links.name(int(int32(binary.NativeEndian.Uint32(value))))
	case unix.RTA_GATEWAY:
		h.Via = addrOf(value)
	case unix.RTA_VIA: // an address of another family: the family, then the address
		if len(value) > 2 {
			h.Via = addrOf(value[2:])
		}
	}
}

// parseHops reads a list of struct rtnexthop: length, flags, weight less one,
// link, attributes.
func parseHops(b []byte, links linkNames) []Hop {
	var hops []Hop
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			break
		}
		h := Hop{
			Link:   links.name(int(int32(binary.NativeEndian.Uint32(b[4:])))),
			Weight: int(b[3]) + 1,
			Dead:   b[2]&unix.RTNH_F_DEAD != 0,
		}
		for kind, value := range attributes(b[unix.SizeofRtNexthop:length]) {
			h.set(kind, value, links)
		}
		hops = append(hops, h)
		b = b[min(len(b), (length+3)&^3):]
	}
	return hops
}
