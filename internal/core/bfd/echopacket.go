package bfd

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// An echo packet is addressed to its sender and given to the router's MAC, which
// sends it back as it does all packets (RFC 5881 §4). Only its sender reads it.

// ErrEcho is returned for what is not an echo packet of ours.
var ErrEcho = errors.New("bfd: not an echo packet of ours")

// Echo is what an echo packet of ours carries.
type Echo struct {
	Discr uint32 // of the session
	Seq   uint32
	Nonce uint64 // of the session; what nobody outside the path can know
}

const (
	echoMagic    = 0x424c4246 // "BLBF"
	echoLen      = 20
	ipv4Len      = 20
	ipv6Len      = 40
	udpLen       = 8
	protoUDP     = 17
	tosControl   = 0xc0 // CS6, internetwork control
	dontFragment = 0x4000
)

// AppendPacket appends the IP packet that goes from addr to addr. addr must be valid
// and has no zone.
func (e Echo) AppendPacket(b []byte, addr netip.Addr) []byte {
	start := len(b)
	a := addr.AsSlice()
	pseudo := append(append([]byte{}, a...), a...)
	if addr.Is4() {
		b = append(b, 0x45, tosControl, 0, ipv4Len+udpLen+echoLen, 0, 0, dontFragment>>8, 0, TTL, protoUDP, 0, 0)
		b = append(b, pseudo...)
		binary.BigEndian.PutUint16(b[start+10:], checksum(b[start:]))
	} else {
		b = append(b, 0x60|tosControl>>4, tosControl&0xf<<4, 0, 0, 0, udpLen+echoLen, protoUDP, TTL)
		b = append(b, pseudo...)
	}
	pseudo = append(pseudo, 0, protoUDP, 0, udpLen+echoLen)
	udp := len(b)
	for _, v := range []uint16{PortEcho, PortEcho, udpLen + echoLen, 0} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, echoMagic)
	b = binary.BigEndian.AppendUint32(b, e.Discr)
	b = binary.BigEndian.AppendUint32(b, e.Seq)
	b = binary.BigEndian.AppendUint64(b, e.Nonce)
	sum := checksum(append(pseudo, b[udp:]...))
	if sum == 0 {
		sum = 0xffff // RFC 768: zero means none
	}
	binary.BigEndian.PutUint16(b[udp+6:], sum)
	return b
}

// ParseEcho decodes an IP packet that has come back, or returns ErrEcho. It must have
// passed one router at most: its TTL is 254 or 255.
func ParseEcho(b []byte) (Echo, error) {
	var ip, ttl, proto int
	switch {
	case len(b) >= ipv4Len+udpLen+echoLen && b[0] == 0x45:
		ip, ttl, proto = ipv4Len, int(b[8]), int(b[9])
	case len(b) >= ipv6Len+udpLen+echoLen && b[0]>>4 == 6:
		ip, ttl, proto = ipv6Len, int(b[7]), int(b[6])
	default:
		return Echo{}, ErrEcho
	}
	body := b[ip+udpLen:]
	if proto != protoUDP || ttl < TTL-1 || binary.BigEndian.Uint16(b[ip+2:]) != PortEcho ||
		binary.BigEndian.Uint32(body) != echoMagic {
		return Echo{}, ErrEcho
	}
	return Echo{
		Discr: binary.BigEndian.Uint32(body[4:]),
		Seq:   binary.BigEndian.Uint32(body[8:]),
		Nonce: binary.BigEndian.Uint64(body[12:]),
	}, nil
}

// checksum is the Internet checksum (RFC 1071) of b, whose length is even.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
