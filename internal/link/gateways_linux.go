package link

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes are the gateways that were listed last.
type routes struct {
	gateways map[int][]netip.Addr // by the index of the link
	changed  bool                 // they may be others by now
}

// lose notes that a link has lost its carrier, and with it its routes, for which there
// is no event.
func (r *routes) lose(link int) { r.changed = r.changed || len(r.gateways[link]) > 0 }

// list lists again if there is a reason to: the table may be long.
func (r *routes) list() error {
	if !r.changed {
		return nil
	}
	gws, err := listGateways()
	if err == nil {
		r.gateways, r.changed = gws, false
	}
	return err
}

// listGateways reads the next hops of the main table's default routes, by the index of
// the link that they are on.
func listGateways() (map[int][]netip.Addr, error) {
	out := map[int][]netip.Addr{}
	add := func(link int, gw []byte) {
		if addr, ok := netip.AddrFromSlice(gw); ok && !slices.Contains(out[link], addr.Unmap()) {
			out[link] = append(out[link], addr.Unmap())
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := netlink.RouteListFilteredIter(family, &netlink.Route{}, netlink.RT_FILTER_DST, func(r netlink.Route) bool {
			add(r.LinkIndex, r.Gw)
			for _, hop := range r.MultiPath {
				add(hop.LinkIndex, hop.Gw)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
	}
	for _, gws := range out {
		slices.SortFunc(gws, netip.Addr.Compare)
	}
	return out, nil
}

// isDefault reports whether an event is about a default route of the main table.
func isDefault(ev netlink.RouteUpdate) bool {
	if ev.Table != unix.RT_TABLE_MAIN {
		return false
	}
	if ev.Dst == nil {
		return true
	}
	bits, _ := ev.Dst.Mask.Size()
	return bits == 0 && ev.MPLSDst == nil
}
