package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/lb"
)

// local is how this node reaches a router.
type local struct {
	router netip.Addr // with its zone if it is link-local
	addr   netip.Addr // where our end of the connection is; the next hop of its family
	other  netip.Addr // the next hop of the other family; zero if there is none
	global netip.Addr // beside a link-local addr: the global IPv6 next hop; zero if there is none
}

// linkAddr is an address of a link.
type linkAddr struct {
	prefix netip.Prefix // the address with the prefix length of the link
	// lasting: set by an administrator, not by autoconfiguration or DHCP.
	// secondary: temporary (RFC 8981), deprecated, or after another one of the same
	// prefix.
	lasting, secondary bool
}

// findLocal asks the kernel by which address and link it reaches p. Addresses of
// the other family are taken from the same link, else from nodeAddrs.
func findLocal(p lb.Peer, nodeAddrs []netip.Addr) (local, error) {
	if p.Interface != "" {
		return findOnLink(p.Interface, p.Addr, nodeAddrs)
	}
	options := &netlink.RouteGetOptions{VrfName: p.VRF}
	if p.SourceAddr.IsValid() {
		options.SrcAddr = p.SourceAddr.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(p.Addr.AsSlice(), options)
	if err != nil {
		if missing := (netlink.LinkNotFoundError{}); p.VRF != "" && errors.As(err, &missing) {
			return local{}, fmt.Errorf("there is no device %q on this node: correct vrf", p.VRF)
		}
		if p.SourceAddr.IsValid() {
			return local{}, fmt.Errorf("find a route to %s from sourceAddress %s (is it on this node?): %w", p.Addr, p.SourceAddr, err)
		}
		return local{}, fmt.Errorf("find a route to %s: %w", p.Addr, err)
	}
	if len(routes) == 0 {
		return local{}, fmt.Errorf("find a route to %s: there is none", p.Addr)
	}
	source, _ := netip.AddrFromSlice(routes[0].Src)
	addrs, err := addrsOf(routes[0].LinkIndex)
	if err != nil {
		return local{}, err
	}
	l := local{router: p.Addr, addr: source.Unmap()}
	switch {
	case p.SourceAddr.IsValid():
		l.addr = p.SourceAddr.Unmap()
	case l.addr.Is6():
		l.addr = sourceFor(p.Addr, l.addr, addrs)
	}
	if !l.addr.IsValid() {
		return local{}, fmt.Errorf("find a source address for %s: the link to it has none", p.Addr)
	}
	other := lb.IPv4
	if l.addr.Is4() {
		other = lb.IPv6
	}
	l.other = best(addrs, other, nodeAddrs)
	return l, nil
}

// findOnLink returns how the link-local address router of a link is reached.
func findOnLink(name string, router netip.Addr, nodeAddrs []netip.Addr) (local, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return local{}, fmt.Errorf("find interface %s: %w", name, err)
	}
	addrs, err := addrsOf(link.Attrs().Index)
	if err != nil {
		return local{}, err
	}
	i := slices.IndexFunc(addrs, func(a linkAddr) bool { return a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast() })
	if i < 0 {
		return local{}, fmt.Errorf("interface %s has no IPv6 link-local address (is IPv6 disabled on it?)", name)
	}
	return local{
		router: router.WithZone(name), addr: addrs[i].prefix.Addr(),
		other: best(addrs, lb.IPv4, nodeAddrs), global: best(addrs, lb.IPv6, nil),
	}, nil
}

// sourceFor returns the address to connect to an IPv6 router from. The kernel's
// choice follows whatever address a router advertisement has just brought, so that
// a session that the router knows by another address would be refused; a lasting
// one is preferred.
func sourceFor(router, kernels netip.Addr, addrs []linkAddr) netip.Addr {
	for _, a := range addrs {
		if a.prefix.Addr() == kernels && a.lasting {
			return kernels
		}
	}
	for _, a := range addrs {
		if a.lasting && !a.secondary && a.prefix.Addr().IsGlobalUnicast() && a.prefix.Contains(router) {
			return a.prefix.Addr()
		}
	}
	return kernels
}

// best returns the address of family f that routers on the link can reach, else
// the first such one of nodeAddrs, else the zero Addr.
func best(addrs []linkAddr, f lb.Family, nodeAddrs []netip.Addr) netip.Addr {
	usable := slices.DeleteFunc(slices.Clone(addrs), func(a linkAddr) bool {
		return lb.FamilyOf(a.prefix.Addr()) != f || !a.prefix.Addr().IsGlobalUnicast()
	})
	for _, wanted := range []func(linkAddr) bool{
		func(a linkAddr) bool { return a.lasting && !a.secondary },
		func(a linkAddr) bool { return !a.secondary },
		func(linkAddr) bool { return true },
	} {
		if i := slices.IndexFunc(usable, wanted); i >= 0 {
			return usable[i].prefix.Addr()
		}
	}
	for _, addr := range nodeAddrs {
		if addr = addr.Unmap(); lb.FamilyOf(addr) == f && addr.IsGlobalUnicast() {
			return addr
		}
	}
	return netip.Addr{}
}

// addrsOf returns the addresses of a link that can be used, in the kernel's order.
func addrsOf(index int) ([]linkAddr, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("read link %d: %w", index, err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read addresses of link %s: %w", link.Attrs().Name, err)
	}
	var addrs []linkAddr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		bits, _ := a.Mask.Size()
		addrs = append(addrs, linkAddr{
			prefix:    netip.PrefixFrom(addr.Unmap(), bits),
			lasting:   a.Flags&unix.IFA_F_PERMANENT != 0,
			secondary: a.Flags&(unix.IFA_F_SECONDARY|unix.IFA_F_DEPRECATED) != 0,
		})
	}
	return addrs, nil
}
