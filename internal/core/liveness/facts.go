package liveness

import (
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

// maxAddrs bounds what is told of one link: some have thousands of addresses of Services.
const maxAddrs = 64

// LinksOf returns what a speaker tells of its links: of those that can carry
// announcements, or could if they were up. excluded tells whether a link of this name is
// on the exclusion list. Link-local prefixes are left out: they are the same everywhere.
func LinksOf(snap links.Snapshot, excluded func(name string) bool) []Link {
	var out []Link
	for _, l := range snap {
		why := l.Carries(excluded)
		if why != links.Usable && why != links.Down {
			continue
		}
		t := Link{
			Name: l.Name, MAC: l.HardwareAddr, Carrier: why == links.Usable,
			IPv4: l.CarriesFamily(lb.IPv4) == links.Usable, IPv6: l.CarriesFamily(lb.IPv6) == links.Usable,
		}
		for _, p := range l.Addrs {
			if p.Addr().IsGlobalUnicast() && len(t.Addrs) < maxAddrs {
				t.Addrs = append(t.Addrs, p)
			}
		}
		slices.SortFunc(t.Addrs, netip.Prefix.Compare)
		out = append(out, t)
	}
	return out
}
