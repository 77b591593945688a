package v1alpha1

import (
	"net/netip"
	"strings"
)

// ObjectName returns the name of the objects that are about addr: the canonical
// text of an IPv4 address; all eight groups of an IPv6 address, joined by "-", as
// in 2001-0db8-0000-0000-0000-0000-0000-0001. An IPv4-mapped IPv6 address is IPv4.
// One address has one name, and no two addresses share one.
func ObjectName(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	return strings.ReplaceAll(addr.StringExpanded(), ":", "-")
}
