package cluster

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/box"
)

// handle opens a netlink socket in a box. Close it.
func handle(b *box.Box) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(b.NetNS()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", b.Name(), err)
	}
	return h, nil
}

// within opens a netlink socket in a box for the time of fn.
func within(b *box.Box, fn func(h *netlink.Handle) error) error {
	h, err := handle(b)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := fn(h); err != nil {
		return fmt.Errorf("network of %s: %w", b.Name(), err)
	}
	return nil
}

// end is one end of a cable.
type end struct {
	box  *box.Box
	name string
	mac  net.HardwareAddr
}

// plug lays a cable (a veth pair) between two boxes. Both ends are down.
func plug(a, b end) error {
	return within(a.box, func(h *netlink.Handle) error {
		err := h.LinkAdd(&netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: a.name, HardwareAddr: a.mac},
			PeerName:         b.name,
			PeerHardwareAddr: b.mac,
			PeerNamespace:    netlink.NsFd(b.box.NetNS()),
		})
		if err != nil {
			return fmt.Errorf("add cable to %s of %s: %w", b.name, b.box.Name(), err)
		}
		return nil
	})
}

// macOf is the hardware address of a host on the LAN, recognisable in a capture.
func macOf(host int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xba, 0x1b, 0, 0, byte(host & 0xff)}
}

// bringUp gives a link its addresses and sets it up.
func bringUp(h *netlink.Handle, name string, addrs ...netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	for _, a := range addrs {
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, name, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// route adds a route by gateway; an invalid prefix means the default route of the gateway's family.
func route(h *netlink.Handle, dst netip.Prefix, gw netip.Addr) error {
	if !dst.IsValid() {
		dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if gw.Is4() {
			dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
	}
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: gw.AsSlice()}); err != nil {
		return fmt.Errorf("add route %s via %s: %w", dst, gw, err)
	}
	return nil
}

// ipNet converts to what netlink takes.
func ipNet(p netip.Prefix) *net.IPNet { //nolint:forbidigo // what netlink takes
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())} //nolint:forbidigo // what netlink takes
}

// prefixOf converts from what netlink gives; nil is invalid.
func prefixOf(n *net.IPNet) netip.Prefix { //nolint:forbidigo // what netlink gives
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}
