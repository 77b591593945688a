// Package ndp knows the two messages of Neighbor Discovery (RFC 4861) that resolve
// addresses, with their Ethernet and IPv6 headers: Neighbor Solicitation (NS) and
// Neighbor Advertisement (NA); and which solicitations a node that announces IPv6
// addresses answers. It holds no state; all functions are safe for concurrent use
// and none panics on received bytes.
package ndp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// HopLimit is that of every Neighbor Discovery packet. One that arrives with less
// has passed a router and is forged (RFC 4861 §7.1.1).
const HopLimit = 255

// MaxFrameLen is the length in bytes of the longest frame that Append makes.
const MaxFrameLen = etherLen + ipLen + fixedLen + optionLen

const (
	etherLen  = 14
	ipLen     = 40
	fixedLen  = 24 // of an NS or NA: type, code, checksum, flags, target
	optionLen = 8  // of a link-layer address option for Ethernet

	etherTypeIPv6 = 0x86dd
	protoICMPv6   = 58

	typeSolicitation  = 135
	typeAdvertisement = 136

	optSourceLinkAddr = 1
	optTargetLinkAddr = 2

	flagRouter    = 0x80
	flagSolicited = 0x40
	flagOverride  = 0x20
)

// AllNodes returns ff02::1, the group of every node on a link.
func AllNodes() netip.Addr { return netip.IPv6LinkLocalAllNodes() }

// Group returns the solicited-node group of addr, ff02::1:ffXX:XXXX, that those
// who look for addr send their solicitations to (RFC 4291 §2.7.1).
func Group(addr netip.Addr) netip.Addr {
	a := addr.As16()
	g := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
	return netip.AddrFrom16(g)
}

// GroupMAC returns the Ethernet address of a multicast group (RFC 2464 §7).
func GroupMAC(group netip.Addr) MAC {
	g := group.As16()
	return MAC{0x33, 0x33, g[12], g[13], g[14], g[15]}
}

// Solicitation is an NS with the headers around it.
type Solicitation struct {
	Dst, Src     MAC // of the Ethernet header
	SrcIP, DstIP netip.Addr
	Target       netip.Addr
	// SourceLinkAddr is the option of that name; HasSourceLinkAddr tells whether
	// it is there.
	SourceLinkAddr    MAC
	HasSourceLinkAddr bool
}

// Advertisement is an NA with the headers around it.
type Advertisement struct {
	Dst, Src                    MAC // of the Ethernet header
	SrcIP, DstIP                netip.Addr
	Target                      netip.Addr
	Router, Solicited, Override bool // the flags R, S and O
	TargetLinkAddr              MAC  // the option of that name
	HasTargetLinkAddr           bool
}

// Errors of parsing.
var (
	ErrShort    = errors.New("ndp: frame is too short")
	ErrKind     = errors.New("ndp: not a message of this kind")
	ErrHopLimit = errors.New("ndp: hop limit is not 255")
	ErrChecksum = errors.New("ndp: checksum does not match")
	ErrAddress  = errors.New("ndp: address is not allowed there")
	ErrOption   = errors.New("ndp: option is malformed")
)

// ParseSolicitation reads an Ethernet frame and checks all that RFC 4861 §7.1.1
// asks for. Unknown options are skipped.
func ParseSolicitation(frame []byte) (Solicitation, error) {
	m, err := parse(frame, typeSolicitation)
	if err != nil {
		return Solicitation{}, err
	}
	s := Solicitation{Dst: m.dst, Src: m.src, SrcIP: m.srcIP, DstIP: m.dstIP, Target: m.target}
	s.SourceLinkAddr, s.HasSourceLinkAddr, err = linkAddr(m.options, optSourceLinkAddr)
	switch {
	case err != nil:
		return Solicitation{}, err
	case s.SrcIP.IsMulticast():
		return Solicitation{}, fmt.Errorf("%w: source %s", ErrAddress, s.SrcIP)
	case s.SrcIP.IsUnspecified() && s.DstIP != Group(s.Target):
		return Solicitation{}, fmt.Errorf("%w: destination %s from the unspecified address", ErrAddress, s.DstIP)
	case s.SrcIP.IsUnspecified() && s.HasSourceLinkAddr:
		return Solicitation{}, fmt.Errorf("%w: source link-layer address from the unspecified address", ErrOption)
	}
	return s, nil
}

// ParseAdvertisement reads an Ethernet frame and checks all that RFC 4861 §7.1.2
// asks for. Unknown options are skipped.
func ParseAdvertisement(frame []byte) (Advertisement, error) {
	m, err := parse(frame, typeAdvertisement)
	if err != nil {
		return Advertisement{}, err
	}
	a := Advertisement{
		Dst: m.dst, Src: m.src, SrcIP: m.srcIP, DstIP: m.dstIP, Target: m.target,
		Router: m.flags&flagRouter != 0, Solicited: m.flags&flagSolicited != 0, Override: m.flags&flagOverride != 0,
	}
	a.TargetLinkAddr, a.HasTargetLinkAddr, err = linkAddr(m.options, optTargetLinkAddr)
	switch {
	case err != nil:
		return Advertisement{}, err
	case a.DstIP.IsMulticast() && a.Solicited:
		return Advertisement{}, fmt.Errorf("%w: solicited, but sent to %s", ErrAddress, a.DstIP)
	}
	return a, nil
}

// Solicit returns the NS by which a node at mac, with the link-local address from,
// asks who has target (RFC 4861 §7.2.2). The answer comes to that node alone.
func Solicit(target netip.Addr, mac MAC, from netip.Addr) Solicitation {
	group := Group(target)
	return Solicitation{
		Dst: GroupMAC(group), Src: mac, SrcIP: from, DstIP: group, Target: target,
		SourceLinkAddr: mac, HasSourceLinkAddr: true,
	}
}

// Append appends the frame to b.
func (s Solicitation) Append(b []byte) []byte {
	m := message{dst: s.Dst, src: s.Src, srcIP: s.SrcIP, dstIP: s.DstIP, target: s.Target}
	if !s.HasSourceLinkAddr {
		return m.append(b, typeSolicitation, nil)
	}
	opt := linkAddrOption(optSourceLinkAddr, s.SourceLinkAddr)
	return m.append(b, typeSolicitation, opt[:])
}

// Append appends the frame, at most MaxFrameLen bytes, to b.
func (a Advertisement) Append(b []byte) []byte {
	m := message{dst: a.Dst, src: a.Src, srcIP: a.SrcIP, dstIP: a.DstIP, target: a.Target}
	if a.Router {
		m.flags |= flagRouter
	}
	if a.Solicited {
		m.flags |= flagSolicited
	}
	if a.Override {
		m.flags |= flagOverride
	}
	if !a.HasTargetLinkAddr {
		return m.append(b, typeAdvertisement, nil)
	}
	opt := linkAddrOption(optTargetLinkAddr, a.TargetLinkAddr)
	return m.append(b, typeAdvertisement, opt[:])
}

func linkAddrOption(typ byte, mac MAC) [optionLen]byte {
	return [optionLen]byte{typ, optionLen / 8, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]}
}

// message is what NS and NA have in common.
type message struct {
	dst, src     MAC
	srcIP, dstIP netip.Addr
	flags        byte
	target       netip.Addr
	options      []byte
}

func parse(frame []byte, typ byte) (message, error) {
	if len(frame) < etherLen+ipLen+fixedLen {
		return message{}, fmt.Errorf("%w: %d bytes", ErrShort, len(frame))
	}
	ip := frame[etherLen:]
	// Extension headers do not occur: RFC 6980 forbids the only one that ever did.
	if binary.BigEndian.Uint16(frame[12:]) != etherTypeIPv6 || ip[0]>>4 != 6 || ip[6] != protoICMPv6 {
		return message{}, ErrKind
	}
	n := int(binary.BigEndian.Uint16(ip[4:]))
	if n < fixedLen || n > len(ip)-ipLen {
		return message{}, fmt.Errorf("%w: payload length %d", ErrShort, n)
	}
	icmp := ip[ipLen : ipLen+n] // what follows is padding
	m := message{
		dst: MAC(frame[0:6]), src: MAC(frame[6:12]),
		srcIP: netip.AddrFrom16([16]byte(ip[8:24])), dstIP: netip.AddrFrom16([16]byte(ip[24:40])),
		flags: icmp[4], target: netip.AddrFrom16([16]byte(icmp[8:24])), options: icmp[fixedLen:],
	}
	switch {
	case icmp[0] != typ || icmp[1] != 0:
		return message{}, ErrKind
	case ip[7] != HopLimit:
		return message{}, fmt.Errorf("%w: %d", ErrHopLimit, ip[7])
	case m.target.IsMulticast():
		return message{}, fmt.Errorf("%w: target %s", ErrAddress, m.target)
	case checksum(ip[8:40], icmp) != 0:
		return message{}, ErrChecksum
	}
	return m, nil
}

// linkAddr finds the link-layer address option of the given type. Every option
// must have a length (RFC 4861 §4.6), those behind the one that is found too.
func linkAddr(options []byte, typ byte) (MAC, bool, error) {
	var (
		mac   MAC
		found bool
	)
	for len(options) > 0 {
		if len(options) < 2 || options[1] == 0 || int(options[1])*8 > len(options) {
			return MAC{}, false, ErrOption
		}
		n := int(options[1]) * 8
		if options[0] == typ && n == optionLen && !found {
			mac, found = MAC(options[2:8]), true
		}
		options = options[n:]
	}
	return mac, found, nil
}

func (m message) append(b []byte, typ byte, options []byte) []byte {
	start := len(b)
	b = append(b, m.dst[:]...)
	b = append(b, m.src[:]...)
	b = binary.BigEndian.AppendUint16(b, etherTypeIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(fixedLen+len(options)))
	b = append(b, protoICMPv6, HopLimit)
	b = appendAddr(b, m.srcIP)
	b = appendAddr(b, m.dstIP)
	b = append(b, typ, 0, 0, 0, m.flags, 0, 0, 0)
	b = appendAddr(b, m.target)
	b = append(b, options...)
	ip := b[start+etherLen:]
	binary.BigEndian.PutUint16(ip[ipLen+2:], checksum(ip[8:40], ip[ipLen:]))
	return b
}

func appendAddr(b []byte, addr netip.Addr) []byte {
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	a := addr.As16()
	return append(b, a[:]...)
}

// checksum returns the ICMPv6 checksum (RFC 4443 §2.3) over source and destination
// address and the message. Over a message that holds its right checksum it is 0.
func checksum(addrs, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + protoICMPv6
	for _, part := range [][]byte{addrs, icmp} {
		for len(part) >= 2 {
			sum += uint32(binary.BigEndian.Uint16(part))
			part = part[2:]
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
