package measure

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Frames of who-has. This is on purpose not the product's codec.

// claim is what a frame says about who has an address.
type claim struct {
	addr netip.Addr
	mac  net.HardwareAddr // in the ARP payload or the target link-layer address option
	from net.HardwareAddr // in the Ethernet header
	// asked: addressed to us, thus an answer. Otherwise it was said to everybody.
	asked bool
	flags string // of a Neighbor Advertisement: some of "RSO"
}

// ethernet headers are 14 octets: destination, source, type.
func ethernet(dst, src net.HardwareAddr, ethertype uint16, payload []byte) []byte {
	b := make([]byte, 0, 14+len(payload))
	b = append(append(b, dst...), src...)
	b = binary.BigEndian.AppendUint16(b, ethertype)
	return append(b, payload...)
}

// meant reports whether a frame is for us or for several, not one that a switch
// flooded on its way to somebody else.
func meant(frame []byte, self net.HardwareAddr) bool {
	return frame[0]&1 == 1 || bytes.Equal(frame[:6], self)
}

// arpRequest asks everybody on the link for target (RFC 826).
func arpRequest(mac net.HardwareAddr, src, target netip.Addr) []byte {
	p := []byte{
		0, 1, 8, 0, // Ethernet, IPv4
		6, 4, // lengths of their addresses
		0, 1, // request
	}
	p = append(append(p, mac...), src.AsSlice()...)
	p = append(append(p, make([]byte, 6)...), target.AsSlice()...)
	return ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP, p)
}

// parseARP reads a frame in which somebody says that an address is his: a reply,
// or an announcement, which names the same address as sender and target.
func parseARP(frame []byte, self net.HardwareAddr) (claim, bool) {
	if len(frame) < 14+28 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		return claim{}, false
	}
	p := frame[14:]
	if !bytes.Equal(p[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return claim{}, false
	}
	op := binary.BigEndian.Uint16(p[6:])
	sender, target := p[14:18], p[24:28]
	announces := op == 1 && bytes.Equal(sender, target)
	if op != 2 && !announces || !meant(frame, self) {
		return claim{}, false
	}
	return claim{
		addr:  netip.AddrFrom4([4]byte(sender)),
		mac:   bytes.Clone(p[8:14]),
		from:  bytes.Clone(frame[6:12]),
		asked: op == 2 && bytes.Equal(frame[:6], self),
	}, true
}

// neighborSolicitation asks for target at its solicited-node group (RFC 4861 §4.3).
func neighborSolicitation(mac net.HardwareAddr, src, target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	body := []byte{135, 0, 0, 0, 0, 0, 0, 0}
	body = append(body, t[:]...)
	body = append(append(body, 1, 1), mac...) // source link-layer address
	binary.BigEndian.PutUint16(body[2:], checksum(src, group, body))
	p := []byte{0x60, 0, 0, 0}
	p = binary.BigEndian.AppendUint16(p, uint16(len(body)))
	p = append(p, unix.IPPROTO_ICMPV6, 255)
	p = append(append(p, src.AsSlice()...), group.AsSlice()...)
	dst := net.HardwareAddr{0x33, 0x33, 0xff, t[13], t[14], t[15]}
	return ethernet(dst, mac, unix.ETH_P_IPV6, append(p, body...))
}

// parseAdvertisement reads a Neighbor Advertisement that is valid by RFC 4861
// §7.1.2: hop limit 255, right checksum, code 0.
func parseAdvertisement(frame []byte, self net.HardwareAddr) (claim, bool) {
	if len(frame) < 14+40+24 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IPV6 || !meant(frame, self) {
		return claim{}, false
	}
	p := frame[14:]
	length := int(binary.BigEndian.Uint16(p[4:]))
	if p[0]>>4 != 6 || p[6] != unix.IPPROTO_ICMPV6 || p[7] != 255 || length < 24 || len(p) < 40+length {
		return claim{}, false
	}
	body := p[40 : 40+length]
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	if body[0] != 136 || body[1] != 0 || checksum(src, dst, body) != 0 {
		return claim{}, false
	}
	c := claim{
		addr:  netip.AddrFrom16([16]byte(body[8:24])),
		from:  bytes.Clone(frame[6:12]),
		asked: bytes.Equal(frame[:6], self),
	}
	for i, name := range "RSO" {
		if body[4]&(0x80>>i) != 0 {
			c.flags += string(name)
		}
	}
	// Without the option the answer comes from the address it speaks of.
	c.mac = c.from
	for opts := body[24:]; len(opts) >= 8 && opts[1] > 0 && len(opts) >= 8*int(opts[1]); opts = opts[8*int(opts[1]):] {
		if opts[0] == 2 && opts[1] == 1 {
			c.mac = bytes.Clone(opts[2:8])
		}
	}
	return c, true
}

// checksum is that of ICMPv6 (RFC 4443 §2.3): 0 over a message whose checksum
// is right, the value to put in over one whose field is 0.
func checksum(src, dst netip.Addr, body []byte) uint16 {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	var sum uint32
	for _, part := range [][]byte{pseudo, body} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
		if len(part)%2 == 1 {
			sum += uint32(part[len(part)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
