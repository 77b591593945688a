package link

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/links"
)

// list reads all links and addresses from the kernel. epochs is pruned of links
// that are gone. It may return netlink.ErrDumpInterrupted.
func list(epochs map[int]uint64) (Snapshot, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := map[int][]netlink.Addr{}
	for _, a := range addrs {
		byLink[a.LinkIndex] = append(byLink[a.LinkIndex], a)
	}
	snap := make(Snapshot, 0, len(msgs))
	there := make(map[int]bool, len(msgs))
	for _, m := range msgs {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("read link: %w", err)
		}
		out := fromKernel(l, byLink[l.Attrs().Index])
		out.Epoch = epochs[out.Index] + carrierLosses(m)
		there[out.Index] = true
		snap = append(snap, out)
	}
	for index := range epochs {
		if !there[index] {
			delete(epochs, index)
		}
	}
	slices.SortFunc(snap, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return snap, nil
}

// carrierLosses returns how often the link of an RTM_NEWLINK message has lost its
// carrier. The kernel counts, because it makes one event of a short loss: the one
// that says that all is well.
func carrierLosses(msg []byte) uint64 {
	if len(msg) < unix.SizeofIfInfomsg {
		return 0
	}
	attrs, err := nl.ParseRouteAttr(msg[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_CARRIER_DOWN_COUNT && len(a.Value) == 4 {
			return uint64(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return 0
}

func fromKernel(l netlink.Link, addrs []netlink.Addr) Link {
	at := l.Attrs()
	out := Link{
		Index: at.Index, Name: at.Name, Kind: l.Type(), Master: at.MasterIndex,
		Up:        running(at.RawFlags),
		Broadcast: at.RawFlags&unix.IFF_BROADCAST != 0,
		NoARP:     at.RawFlags&unix.IFF_NOARP != 0,
		Loopback:  at.RawFlags&unix.IFF_LOOPBACK != 0,
	}
	if at.EncapType == "ether" && len(at.HardwareAddr) == len(out.HardwareAddr) {
		out.HardwareAddr, out.Ethernet = links.MAC(at.HardwareAddr), true
	}
	for _, a := range addrs {
		pfx, ok := prefix(a)
		if !ok {
			continue
		}
		out.Addrs = append(out.Addrs, pfx)
		// RFC 4862 §5.4: an address is no source until it is known to be unique.
		const notYet = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
		if ip := pfx.Addr(); isLinkLocal6(ip) && a.Flags&notYet == 0 && (!out.LinkLocal6.IsValid() || ip.Less(out.LinkLocal6)) {
			out.LinkLocal6 = ip
		}
	}
	slices.SortFunc(out.Addrs, netip.Prefix.Compare)
	return out
}

// running reports whether a link with these flags is administratively up and has
// carrier (RFC 2863: operational state up, or unknown to the driver).
func running(flags uint32) bool {
	const both = unix.IFF_UP | unix.IFF_RUNNING
	return flags&both == both
}

func prefix(a netlink.Addr) (netip.Prefix, bool) {
	if a.IPNet == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits), ok
}

func isLinkLocal6(ip netip.Addr) bool { return ip.Is6() && ip.IsLinkLocalUnicast() }

// lostCarrier reports whether an event says that a link is not running. The kernel
// also sends DELLINK for a port that leaves a bridge; counting it too does no harm.
func lostCarrier(ev netlink.LinkUpdate) bool {
	return ev.Header.Type == unix.RTM_DELLINK || !running(ev.Flags)
}

// lostLinkLocal reports whether an event says that an IPv6 link-local address was
// taken away.
func lostLinkLocal(ev netlink.AddrUpdate) bool {
	ip, ok := netip.AddrFromSlice(ev.LinkAddress.IP) //nolint:forbidigo // netlink has them so
	return ok && !ev.NewAddr && isLinkLocal6(ip.Unmap())
}
