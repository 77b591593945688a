package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/box"
)

// mirrorProto marks the routes that the mirror made. The kernel does not interpret it.
const mirrorProto netlink.RouteProtocol = 200

// mirror keeps the LAN client's routes like those of a host that listens to its routers: every BGP route of router1 inside
// the LAN's own prefix becomes a route through router1 on the client. A client reaches such an address by routing then, as
// everybody outside the LAN does; for an address without a route it uses ARP, as in Layer 2 mode.
type mirror struct {
	router, client *box.Box
	updates        chan netlink.RouteUpdate
	stop           chan struct{}
	done           chan struct{}
}

func newMirror(router, client *box.Box) (*mirror, error) {
	m := &mirror{
		router: router, client: client,
		updates: make(chan netlink.RouteUpdate, 4096), stop: make(chan struct{}), done: make(chan struct{}),
	}
	ns := netns.NsHandle(router.NetNS())
	if err := netlink.RouteSubscribeWithOptions(m.updates, m.stop, netlink.RouteSubscribeOptions{
		Namespace: &ns, ErrorCallback: func(error) {}, ReceiveBufferSize: 4 << 20,
	}); err != nil {
		return nil, fmt.Errorf("subscribe to routes of router1: %w", err)
	}
	return m, nil
}

// run follows the router's routes until the context ends. A burst of changes is read to its end before the routes are compared.
func (m *mirror) run(ctx context.Context) {
	defer close(m.done)
	defer close(m.stop)
	again := time.NewTicker(time.Second) // should the socket have overflowed
	defer again.Stop()
	for {
		_ = m.apply() // a route can vanish between listing and adding; the next round is never far
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case _, ok := <-m.updates:
			if !ok {
				m.updates = nil // the subscription broke: the ticker is left
				continue
			}
			m.drain()
		}
	}
}

func (m *mirror) drain() {
	for {
		select {
		case _, ok := <-m.updates:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// apply makes the client's mirrored routes equal to the router's.
func (m *mirror) apply() error {
	var want map[netip.Prefix]bool
	err := within(m.router, func(h *netlink.Handle) error {
		var err error
		want, err = insideLAN(h, unix.RTPROT_BGP, unix.RTPROT_ZEBRA, unix.RTPROT_BIRD)
		return err
	})
	if err != nil {
		return err
	}
	return within(m.client, func(h *netlink.Handle) error { return follow(h, want) })
}

// follow makes the mirrored routes of a host equal to those wanted.
func follow(h *netlink.Handle, want map[netip.Prefix]bool) error {
	have, err := insideLAN(h, mirrorProto)
	if err != nil {
		return err
	}
	var errs []error
	for p := range have {
		if !want[p] {
			errs = append(errs, h.RouteDel(&netlink.Route{Dst: ipNet(p), Protocol: mirrorProto}))
		}
	}
	v4, v6 := lanAddrs(routerHost)
	for p := range want {
		gw := v6
		if p.Addr().Is4() {
			gw = v4
		}
		if !have[p] {
			errs = append(errs, h.RouteAdd(&netlink.Route{Dst: ipNet(p), Gw: gw.AsSlice(), Protocol: mirrorProto}))
		}
	}
	return errors.Join(errs...)
}

// insideLAN is the set of routes of some protocols that are more specific than the LAN.
func insideLAN(h *netlink.Handle, protos ...netlink.RouteProtocol) (map[netip.Prefix]bool, error) {
	out := map[netip.Prefix]bool{}
	for _, proto := range protos {
		routes, err := h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Protocol: proto}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			p := prefixOf(r.Dst)
			for _, lan := range []netip.Prefix{LAN4, LAN6} {
				if p.IsValid() && p.Bits() > lan.Bits() && lan.Contains(p.Addr()) {
					out[p] = true
				}
			}
		}
	}
	return out, nil
}
