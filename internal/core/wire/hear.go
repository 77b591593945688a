package wire

import (
	"net/netip"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/ndp"
)

// Claim is that a station uses an address: it answered for it, announced it, or asked
// something in its name.
type Claim struct {
	Addr netip.Addr
	MAC  MAC
	Link int // index of the link on which it was heard
}

// HearARP returns what a frame says about who uses an address, and whether it says
// anything. Every ARP packet does by its sender address (RFC 5227 §2.1.1), except a
// probe: that claims nothing yet, and our own nodes send them too. Who goes on to use
// the address will announce it, and will answer.
func HearARP(frame []byte, link int) (Claim, bool) {
	p, err := arp.Parse(frame)
	if err != nil || p.SenderAddr.IsUnspecified() || !station(p.SenderMAC) {
		return Claim{}, false
	}
	return Claim{p.SenderAddr, p.SenderMAC, link}, true
}

// HearNDP does the same with Neighbor Discovery: an advertisement claims its target, a
// solicitation its source, unless that is unspecified as in duplicate address detection.
func HearNDP(frame []byte, link int) (Claim, bool) {
	c := Claim{Link: link}
	if a, err := ndp.ParseAdvertisement(frame); err == nil {
		if c.Addr, c.MAC = a.Target, a.Src; a.HasTargetLinkAddr {
			c.MAC = a.TargetLinkAddr
		}
	} else if s, err := ndp.ParseSolicitation(frame); err == nil && !s.SrcIP.IsUnspecified() {
		if c.Addr, c.MAC = s.SrcIP, s.Src; s.HasSourceLinkAddr {
			c.MAC = s.SourceLinkAddr
		}
	}
	return c, c.Addr.IsValid() && !c.Addr.IsUnspecified() && station(c.MAC)
}

// station reports whether m can be the address of one station.
func station(m MAC) bool { return m[0]&1 == 0 && m != MAC{} }
