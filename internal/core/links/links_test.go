package links_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

func eth(name string, change func(*links.Link)) links.Link {
	l := links.Link{
		Index: 2, Name: name, Kind: "device", HardwareAddr: links.MAC{2, 0, 0, 0, 0, 1}, Ethernet: true, Up: true, Broadcast: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, LinkLocal6: netip.MustParseAddr("fe80::1"),
	}
	if change != nil {
		change(&l)
	}
	return l
}

func isVeth(name string) bool { return strings.HasPrefix(name, "veth") }

func TestWhichLinksCarryAnnouncements(t *testing.T) {
	tests := []struct {
		name      string
		link      links.Link
		all, four links.Reason // of any family; of IPv4
		six       links.Reason // of IPv6
	}{
		{"plain", eth("eth0", nil), links.Usable, links.Usable, links.Usable},
		{"no IPv4 address is needed", eth("eth0", func(l *links.Link) { l.Addrs = nil }), links.Usable, links.Usable, links.Usable},
		{"excluded", eth("veth12ab", nil), links.Excluded, "", ""},
		{"loopback", eth("lo", func(l *links.Link) { l.Loopback = true }), links.NotEthernet, "", ""},
		{"tunnel", eth("tun0", func(l *links.Link) { l.Ethernet = false }), links.NotEthernet, "", ""},
		{"bridge port", eth("eth1", func(l *links.Link) { l.Master = 9 }), links.Enslaved, "", ""},
		{"noarp", eth("eth1", func(l *links.Link) { l.NoARP = true }), links.NoARP, "", ""},
		{"down", eth("eth1", func(l *links.Link) { l.Up = false }), links.Down, "", ""},
		{"no broadcast", eth("eth1", func(l *links.Link) { l.Broadcast = false }), links.Usable, links.NoBroadcast, links.Usable},
		{"no link-local", eth("eth1", func(l *links.Link) { l.LinkLocal6 = netip.Addr{} }), links.Usable, links.Usable, links.NoLinkLocal6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.link.Carries(isVeth); got != tt.all {
				t.Fatalf("Carries = %s, want %s", got, tt.all)
			}
			if tt.all != links.Usable {
				return
			}
			got := []links.Reason{tt.link.CarriesFamily(lb.IPv4), tt.link.CarriesFamily(lb.IPv6)}
			if diff := cmp.Diff([]links.Reason{tt.four, tt.six}, got); diff != "" {
				t.Errorf("CarriesFamily (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSnapshot(t *testing.T) {
	snap := links.Snapshot{
		eth("eth0", nil),
		eth("eth1", func(l *links.Link) { l.LinkLocal6 = netip.Addr{} }),
		eth("veth7", nil),
	}
	if l, ok := snap.Named("eth1"); !ok || l.Name != "eth1" {
		t.Errorf("Named(eth1) = %v, %v", l, ok)
	}
	if l, ok := snap.Named("eth2"); ok {
		t.Errorf("Named(eth2) = %v, want none", l)
	}
	if got := snap.Usable(lb.IPv4, isVeth); len(got) != 2 {
		t.Errorf("usable for IPv4: %v", got)
	}
	if got := snap.Usable(lb.IPv6, isVeth); len(got) != 1 || got[0].Name != "eth0" {
		t.Errorf("usable for IPv6: %v", got)
	}
	other := links.Snapshot{snap[0], snap[1], eth("veth7", func(l *links.Link) { l.Epoch++ })}
	if !snap.Equal(snap) || snap.Equal(other) || snap.Equal(snap[:2]) {
		t.Error("Equal is wrong")
	}
}
