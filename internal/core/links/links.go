// Package links is the vocabulary of kernel links (network interfaces) as plain
// values: what is known of each, and whether it can carry Layer 2 announcements.
// internal/link fills it from the kernel; internal/layer2 and the plan read it.
package links

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Link is one kernel link.
type Link struct {
	Index  int    // of the kernel; a link that is made anew has another one
	Name   string // such as eth0
	Kind   string // such as "veth" or "bridge"; "device" for hardware
	Master int    // index of the bridge, bond or VRF that it is a member of; 0 for none

	HardwareAddr MAC  // meaningful only if Ethernet is set
	Ethernet     bool // frames have an Ethernet header and HardwareAddr
	Up           bool // administratively up, and running (it has carrier)
	Broadcast    bool
	NoARP        bool
	Loopback     bool

	// Addrs are the addresses of the link with their prefix lengths, sorted.
	// LinkLocal6 is its IPv6 link-local address that may be used as a source,
	// that is, one past duplicate address detection; zero if there is none.
	Addrs      []netip.Prefix
	LinkLocal6 netip.Addr

	// Gateways are the next hops of default routes that leave by the link, sorted.
	Gateways []netip.Addr

	// Epoch grows each time the link loses its carrier or its IPv6 link-local
	// address, however briefly: what was told to the network before (neighbour
	// entries, multicast groups) may be forgotten there.
	Epoch uint64
}

// Equal reports whether all that is known of l and o is the same.
func (l Link) Equal(o Link) bool {
	if !slices.Equal(l.Addrs, o.Addrs) || !slices.Equal(l.Gateways, o.Gateways) {
		return false
	}
	return l.Index == o.Index && l.Name == o.Name && l.Kind == o.Kind && l.Master == o.Master &&
		l.HardwareAddr == o.HardwareAddr && l.Ethernet == o.Ethernet && l.Up == o.Up &&
		l.Broadcast == o.Broadcast && l.NoARP == o.NoARP && l.Loopback == o.Loopback &&
		l.LinkLocal6 == o.LinkLocal6 && l.Epoch == o.Epoch
}

// Reason says why a link cannot carry announcements, or that it can.
type Reason string

// Reasons, in the order in which they are looked for.
const (
	Usable       Reason = "Usable"
	Excluded     Reason = "Excluded"     // its name is on the exclusion list
	NotEthernet  Reason = "NotEthernet"  // loopback, tunnels, InfiniBand
	Enslaved     Reason = "Enslaved"     // a member of a bridge, bond or VRF
	NoARP        Reason = "NoARP"        // it resolves no addresses
	Down         Reason = "Down"         // administratively, or no carrier
	NoBroadcast  Reason = "NoBroadcast"  // IPv4 only: it cannot be asked
	NoLinkLocal6 Reason = "NoLinkLocal6" // IPv6 only: IPv6 is off, or not ready yet
)

// Carries says whether l can carry announcements at all, of any family. excluded
// tells whether a link of this name is on the exclusion list.
func (l Link) Carries(excluded func(name string) bool) Reason {
	switch {
	case excluded(l.Name):
		return Excluded
	case l.Loopback || !l.Ethernet:
		return NotEthernet
	case l.Master != 0:
		return Enslaved
	case l.NoARP:
		return NoARP
	case !l.Up:
		return Down
	}
	return Usable
}

// CarriesFamily says whether l, which [Link.Carries] found usable, can carry
// announcements of family f.
func (l Link) CarriesFamily(f lb.Family) Reason {
	switch {
	case f == lb.IPv4 && !l.Broadcast:
		return NoBroadcast
	case f == lb.IPv6 && !l.LinkLocal6.IsValid():
		return NoLinkLocal6
	}
	return Usable
}

// Snapshot is all links of a node, sorted by name. It is never changed.
type Snapshot []Link

// Named returns the link of that name, if there is one.
func (s Snapshot) Named(name string) (Link, bool) {
	i, ok := slices.BinarySearchFunc(s, name, func(l Link, n string) int { return strings.Compare(l.Name, n) })
	if !ok {
		return Link{}, false
	}
	return s[i], true
}

// Equal reports whether s and o say the same.
func (s Snapshot) Equal(o Snapshot) bool { return slices.EqualFunc(s, o, Link.Equal) }

// Usable returns the links that can carry announcements of family f.
func (s Snapshot) Usable(f lb.Family, excluded func(name string) bool) Snapshot {
	var out Snapshot
	for _, l := range s {
		if l.Carries(excluded) == Usable && l.CarriesFamily(f) == Usable {
			out = append(out, l)
		}
	}
	return out
}
