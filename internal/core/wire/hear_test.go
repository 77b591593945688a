package wire_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/core/wire"
)

func arpFrame(change func(*arp.Packet)) []byte {
	p := arp.Packet{
		Dst: ownMAC, Src: wire.MAC{2, 0, 0, 0, 0, 0x55}, Op: arp.Reply,
		SenderMAC: hostMAC, SenderAddr: addr, TargetMAC: ownMAC, TargetAddr: netip.IPv4Unspecified(),
	}
	change(&p)
	return p.Append(nil)
}

func TestHearARP(t *testing.T) {
	claim := wire.Claim{Addr: addr, MAC: hostMAC, Link: eth0}
	tests := []struct {
		name  string
		frame []byte
		want  wire.Claim
		ok    bool
	}{
		{"reply to a probe", arpFrame(func(*arp.Packet) {}), claim, true},
		{"announcement", arpFrame(func(p *arp.Packet) { p.Op, p.Dst, p.TargetAddr = arp.Request, arp.Broadcast(), addr }), claim, true},
		{"request in its name", arpFrame(func(p *arp.Packet) { p.Op, p.Dst, p.TargetAddr = arp.Request, arp.Broadcast(), node2 }), claim, true},
		{"probe by another", arp.Probe(addr, hostMAC).Append(nil), wire.Claim{}, false},
		{"from nobody", arpFrame(func(p *arp.Packet) { p.SenderMAC = wire.MAC{} }), wire.Claim{}, false},
		{"from a group", arpFrame(func(p *arp.Packet) { p.SenderMAC = arp.Broadcast() }), wire.Claim{}, false},
		{"no ARP", make([]byte, 60), wire.Claim{}, false},
	}
	for _, tt := range tests {
		got, ok := wire.HearARP(tt.frame, eth0)
		if diff := cmp.Diff(tt.want, got, comparable); diff != "" || ok != tt.ok {
			t.Errorf("%s: claims %v (-want +got):\n%s", tt.name, ok, diff)
		}
	}
}

func TestHearNDP(t *testing.T) {
	claim := wire.Claim{Addr: addr6, MAC: hostMAC, Link: eth0}
	from := netip.MustParseAddr("fe80::9")
	advert := func(change func(*ndp.Advertisement)) []byte {
		a := ndp.Advertisement{
			Dst: ownMAC, Src: wire.MAC{2, 0, 0, 0, 0, 0x55}, SrcIP: addr6, DstIP: from, Target: addr6, Solicited: true,
			TargetLinkAddr: hostMAC, HasTargetLinkAddr: true,
		}
		change(&a)
		return a.Append(nil)
	}
	dad := ndp.Solicitation{Dst: ndp.GroupMAC(ndp.Group(addr6)), Src: hostMAC, DstIP: ndp.Group(addr6), SrcIP: netip.IPv6Unspecified(), Target: addr6}
	tests := []struct {
		name  string
		frame []byte
		want  wire.Claim
		ok    bool
	}{
		{"answer", advert(func(*ndp.Advertisement) {}), claim, true},
		{"answer without the option", advert(func(a *ndp.Advertisement) { a.Src, a.HasTargetLinkAddr = hostMAC, false }), claim, true},
		{"unasked", ndp.Unsolicited(addr6, hostMAC).Append(nil), claim, true},
		{"request in its name", ndp.Solicit(netip.MustParseAddr("2001:db8::1"), hostMAC, addr6).Append(nil), claim, true},
		{"request for it says nothing of it", ndp.Solicit(addr6, hostMAC, from).Append(nil), wire.Claim{Addr: from, MAC: hostMAC, Link: eth0}, true},
		{"duplicate address detection by another", dad.Append(nil), wire.Claim{Link: eth0}, false},
		{"from a group", advert(func(a *ndp.Advertisement) { a.TargetLinkAddr = arp.Broadcast() }), wire.Claim{Addr: addr6, MAC: arp.Broadcast(), Link: eth0}, false},
		{"no NDP", make([]byte, 90), wire.Claim{Link: eth0}, false},
	}
	for _, tt := range tests {
		got, ok := wire.HearNDP(tt.frame, eth0)
		if diff := cmp.Diff(tt.want, got, comparable); diff != "" || ok != tt.ok {
			t.Errorf("%s: claims %v (-want +got):\n%s", tt.name, ok, diff)
		}
	}
}

func FuzzHear(f *testing.F) {
	f.Add(arpFrame(func(*arp.Packet) {}))
	f.Add(arp.Probe(addr, hostMAC).Append(nil))
	f.Add(ndp.Unsolicited(addr6, hostMAC).Append(nil))
	f.Add(ndp.Solicit(addr6, hostMAC, netip.MustParseAddr("fe80::9")).Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		for name, hear := range map[string]func([]byte, int) (wire.Claim, bool){"ARP": wire.HearARP, "NDP": wire.HearNDP} {
			c, ok := hear(frame, eth0)
			if ok && (!c.Addr.IsValid() || c.Addr.IsUnspecified() || c.Addr.IsMulticast() && name == "NDP" || c.MAC[0]&1 != 0 || c.MAC == wire.MAC{} || c.Link != eth0) {
				t.Fatalf("%s: %+v", name, c)
			}
		}
	})
}
