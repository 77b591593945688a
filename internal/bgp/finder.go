package bgp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

const (
	// soliciting is how often the router is looked for and told of us: quickly at first,
	// and then as often as is customary for sessions of this kind.
	firstSolicits   = 5
	quickSolicits   = time.Second
	slowSolicits    = 10 * time.Second
	advertLifetime  = 30 * time.Second // of what we advertise
	advertPrefLow   = 0x18             // default router preference: low (RFC 4191 §2.2)
	neighborMaxHops = 255              // RFC 4861 §6.1.2
	leastAdvert     = 12               // bytes after the ICMPv6 header
)

//nolint:gochecknoglobals // a constant
var allRouters = netip.IPv6LinkLocalAllRouters().AsSlice()

// finder finds the router of an unnumbered session: the one on a link that sends
// router advertisements (RFC 4861 §4.2), else the only neighbour there that the kernel
// knows a link-local address of. It also advertises this node to routers, for some
// take their neighbour from that. Only the group of all routers is told, so that no
// host takes this node for its default router.
type finder struct {
	link string
	log  *slog.Logger

	mu      sync.Mutex
	adverts map[netip.Addr]advert // of routers
	failed  error
}

// advert is when a router's advertisement was heard last, and until when it holds.
type advert struct{ heard, until time.Time }

func newFinder(link string, log *slog.Logger) *finder {
	return &finder{link: link, log: log, adverts: map[netip.Addr]advert{}}
}

// router returns the link-local address of the router.
func (f *finder) router() (netip.Addr, error) {
	f.mu.Lock()
	known, failed := f.advertisers(time.Now()), f.failed
	f.mu.Unlock()
	how := "send router advertisements on"
	if len(known) == 0 {
		var err error
		if known, err = neighbors(f.link); err != nil {
			return netip.Addr{}, err
		}
		how = "are known on"
	}
	switch {
	case len(known) == 1:
		return known[0], nil
	case len(known) > 1:
		slices.SortFunc(known, netip.Addr.Compare)
		return netip.Addr{}, &failure{text: fmt.Sprintf("several neighbors %s interface %s (%s): only one may be there", how, f.link, known)}
	case failed != nil:
		return netip.Addr{}, failed
	}
	return netip.Addr{}, &failure{text: fmt.Sprintf(
		"no router is heard on interface %s: have it send router advertisements there", f.link)}
}

// advertisers returns the routers whose advertisements hold. One that has not been heard
// while it was solicited three times does not count beside others that were: it was
// replaced, or has another address now, and its advertisement may hold for hours.
func (f *finder) advertisers(now time.Time) []netip.Addr {
	var holds, recent []netip.Addr
	for addr, a := range f.adverts {
		if !now.Before(a.until) {
			continue
		}
		holds = append(holds, addr)
		if now.Sub(a.heard) < 3*slowSolicits {
			recent = append(recent, addr)
		}
	}
	if len(recent) > 0 {
		return recent
	}
	return holds
}

// hear takes in an advertisement.
func (f *finder) hear(addr netip.Addr, lifetime time.Duration, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.adverts, func(_ netip.Addr, a advert) bool { return now.After(a.until) })
	// One of 0 says that it is no default router, and is our neighbour still.
	f.adverts[addr] = advert{heard: now, until: now.Add(max(lifetime, advertLifetime))}
}

// neighbors returns the link-local addresses that the kernel knows on a link.
func neighbors(name string) ([]netip.Addr, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, &failure{text: fmt.Sprintf("there is no interface %q on this node", name), err: err}
	}
	list, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V6)
	if err != nil {
		return nil, fmt.Errorf("read neighbors on %s: %w", name, err)
	}
	var known []netip.Addr
	for _, n := range list {
		const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
		if addr, ok := netip.AddrFromSlice(n.IP); ok && addr.IsLinkLocalUnicast() && n.State&usable != 0 {
			known = append(known, addr)
		}
	}
	return known, nil
}

// run looks for the router until ctx ends.
func (f *finder) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.search(ctx)
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		f.failed = &failure{text: err.Error(), err: err}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(quickSolicits): // the link may come yet
		}
	}
}

// search solicits, advertises and listens until ctx ends or the link fails.
func (f *finder) search(ctx context.Context) error {
	link, err := net.InterfaceByName(f.link)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", f.link, err)
	}
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return fmt.Errorf("listen for router advertisements: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	p := conn.IPv6PacketConn()
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	if err := errors.Join(p.SetICMPFilter(&filter), p.SetMulticastHopLimit(neighborMaxHops), p.SetMulticastInterface(link),
		p.SetMulticastLoopback(false), p.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit|ipv6.FlagDst, true)); err != nil {
		return fmt.Errorf("prepare the socket for router advertisements: %w", err)
	}
	hear := make(chan error, 1)
	go func() { hear <- f.listen(p, link.Index) }()
	for n := 0; ; n++ {
		if err := f.send(p, link); err != nil {
			_ = conn.Close()
			<-hear //nolint:errcheck // its socket is closed
			return err
		}
		wait := slowSolicits
		if n < firstSolicits {
			wait = quickSolicits
		}
		select {
		case err := <-hear:
			return err
		case <-time.After(wait):
		}
	}
}

// listen takes in router advertisements.
func (f *finder) listen(p *ipv6.PacketConn, index int) error {
	b := make([]byte, 1500)
	for {
		n, about, from, err := p.ReadFrom(b)
		if err != nil {
			return fmt.Errorf("listen for router advertisements: %w", err)
		}
		ip, ok := from.(*net.IPAddr)
		if !ok || about == nil || about.IfIndex != index || about.HopLimit != neighborMaxHops {
			continue
		}
		if about.Dst.Equal(allRouters) {
			continue // what another node says of itself: routers tell nodes (RFC 4861 §4.2)
		}
		addr, ok := netip.AddrFromSlice(ip.IP)
		if !ok || !addr.IsLinkLocalUnicast() {
			continue
		}
		if lifetime, ok := parseAdvert(b[:n]); ok {
			f.hear(addr, lifetime, time.Now())
		}
	}
}

// parseAdvert reads a router advertisement with its ICMPv6 header (RFC 4861 §4.2) and
// returns the router lifetime.
func parseAdvert(b []byte) (time.Duration, bool) {
	const header = 4
	if len(b) < header+leastAdvert || b[0] != byte(ipv6.ICMPTypeRouterAdvertisement) || b[1] != 0 {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint16(b[header+2:])) * time.Second, true
}

// send asks routers on the link who they are, and tells them who we are. The kernel
// fills in the checksums.
func (f *finder) send(p *ipv6.PacketConn, link *net.Interface) error {
	routers, err := net.ResolveIPAddr("ip6", netip.IPv6LinkLocalAllRouters().WithZone(link.Name).String())
	if err != nil {
		return fmt.Errorf("address all routers on interface %s: %w", link.Name, err)
	}
	solicit := []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
	advert := []byte{byte(ipv6.ICMPTypeRouterAdvertisement), 0, 0, 0, 0, advertPrefLow, 0, byte(advertLifetime / time.Second), 0, 0, 0, 0, 0, 0, 0, 0}
	if mac := link.HardwareAddr; len(mac) == 6 { // the source link-layer address option
		option := append([]byte{1, 1}, mac...)
		solicit, advert = append(solicit, option...), append(advert, option...)
	}
	for _, b := range [][]byte{solicit, advert} {
		if _, err := p.WriteTo(b, nil, routers); err != nil {
			return fmt.Errorf("look for routers on interface %s: %w", link.Name, err)
		}
	}
	return nil
}
