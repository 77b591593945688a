package link

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/links"
)

// Local reports whether the station at mac, that was heard on the link with this index,
// is behind a port of this node, such as a container: the link is a bridge, and one of the
// node's own virtual links is the port at which it knows mac. It asks the kernel, which
// takes microseconds. May be called by any goroutine.
func (w *Watcher) Local(index int, mac links.MAC) bool {
	snap := w.Snapshot()
	byIndex := func(index int) (Link, bool) {
		i := slices.IndexFunc(snap, func(l Link) bool { return l.Index == index })
		if i < 0 {
			return Link{}, false
		}
		return snap[i], true
	}
	if l, ok := byIndex(index); !ok || l.Kind != "bridge" {
		return false
	}
	at, ok := portOf(index, mac)
	if !ok {
		return false
	}
	port, ok := byIndex(at)
	return ok && slices.Contains([]string{"veth", "tuntap", "macvlan", "macvtap", "bridge"}, port.Kind)
}

// Neighbours returns the addresses that the kernel knows to have a hardware address: of hosts
// with which it has spoken lately. It returns none if it cannot ask.
func Neighbours(mac [6]byte) []netip.Addr {
	var out []netip.Addr
	all, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	for _, n := range all {
		if a, ok := netip.AddrFromSlice(n.IP); ok && bytes.Equal(n.HardwareAddr, mac[:]) {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// portOf returns the index of the port behind which a bridge knows mac.
func portOf(bridge int, mac links.MAC) (int, bool) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE})
	req.AddData(nl.NewRtAttr(unix.NDA_LLADDR, mac[:]))
	req.AddData(nl.NewRtAttr(unix.NDA_MASTER, binary.NativeEndian.AppendUint32(nil, uint32(bridge))))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil || len(msgs) != 1 {
		return 0, false // it has forgotten it, or the kernel is older than 5.0
	}
	n, err := netlink.NeighDeserialize(msgs[0])
	if err != nil {
		return 0, false
	}
	return n.LinkIndex, true
}
