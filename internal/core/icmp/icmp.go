// Package icmp knows the echo messages of ICMP (RFC 792) and ICMPv6 (RFC 4443 §4) with
// the IP and Ethernet headers around them, for those who ask a station on their own link
// whether it is there. It holds no state; all functions are safe for concurrent use and
// none panics on received bytes.
package icmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

const (
	etherLen = 14
	ip4Len   = 20
	ip6Len   = 40
	echoLen  = 8

	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	protoICMP     = 1
	protoICMPv6   = 58

	request4, reply4 = 8, 0
	request6, reply6 = 128, 129
)

// MaxFrameLen is the length in bytes of the longest frame that Append makes.
const MaxFrameLen = etherLen + ip6Len + echoLen

// Echo is an echo request or reply that carries no data.
type Echo struct {
	Dst, Src     MAC // of the Ethernet header
	SrcIP, DstIP netip.Addr
	Reply        bool
	ID, Seq      uint16
}

// Errors of Parse.
var (
	ErrShort    = errors.New("icmp: frame is too short")
	ErrKind     = errors.New("icmp: not an echo message")
	ErrChecksum = errors.New("icmp: checksum does not match")
)

// Parse reads an Ethernet frame. A fragment, and an IPv6 packet with extension headers,
// is of the wrong kind.
func Parse(frame []byte) (Echo, error) {
	if len(frame) < etherLen {
		return Echo{}, fmt.Errorf("%w: %d bytes", ErrShort, len(frame))
	}
	e := Echo{Dst: MAC(frame[0:6]), Src: MAC(frame[6:12])}
	switch ip := frame[etherLen:]; binary.BigEndian.Uint16(frame[12:]) {
	case etherTypeIPv4:
		return e.parse4(ip)
	case etherTypeIPv6:
		return e.parse6(ip)
	}
	return Echo{}, ErrKind
}

func (e Echo) parse4(ip []byte) (Echo, error) {
	if len(ip) < ip4Len {
		return Echo{}, fmt.Errorf("%w: %d bytes of IPv4", ErrShort, len(ip))
	}
	header, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	const fragment = 0x3fff // more fragments, or an offset (RFC 791 §3.1)
	switch {
	case ip[0]>>4 != 4 || ip[9] != protoICMP || binary.BigEndian.Uint16(ip[6:])&fragment != 0:
		return Echo{}, ErrKind
	case header < ip4Len || total > len(ip) || total < header+echoLen:
		return Echo{}, fmt.Errorf("%w: header of %d in a packet of %d bytes", ErrShort, header, total)
	case checksum(0, ip[:header]) != 0:
		return Echo{}, ErrChecksum
	}
	e.SrcIP, e.DstIP = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	return e.parseEcho(ip[header:total], 0, request4, reply4)
}

func (e Echo) parse6(ip []byte) (Echo, error) {
	if len(ip) < ip6Len {
		return Echo{}, fmt.Errorf("%w: %d bytes of IPv6", ErrShort, len(ip))
	}
	n := int(binary.BigEndian.Uint16(ip[4:]))
	switch {
	case ip[0]>>4 != 6 || ip[6] != protoICMPv6:
		return Echo{}, ErrKind
	case n < echoLen || n > len(ip)-ip6Len:
		return Echo{}, fmt.Errorf("%w: payload length %d", ErrShort, n)
	}
	e.SrcIP, e.DstIP = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	return e.parseEcho(ip[ip6Len:ip6Len+n], pseudo6(ip[8:40], n), request6, reply6)
}

func (e Echo) parseEcho(b []byte, sum uint32, request, reply byte) (Echo, error) {
	switch {
	case b[0] != request && b[0] != reply, b[1] != 0:
		return Echo{}, ErrKind
	case checksum(sum, b) != 0:
		return Echo{}, ErrChecksum
	}
	e.Reply = b[0] == reply
	e.ID, e.Seq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	return e, nil
}

// Append appends the frame to b. Both addresses must be of one family; the hop limit is
// 1, for the frame is not to leave the link.
func (e Echo) Append(b []byte) []byte {
	start := len(b)
	b = append(b, e.Dst[:]...)
	b = append(b, e.Src[:]...)
	if e.DstIP.Unmap().Is4() {
		b = binary.BigEndian.AppendUint16(b, etherTypeIPv4)
		b = append(b, 0x45, 0, 0, ip4Len+echoLen, 0, 0, 0x40, 0, 1, protoICMP, 0, 0) // not to be fragmented
		src, dst := e.SrcIP.Unmap().As4(), e.DstIP.Unmap().As4()
		b = append(append(b, src[:]...), dst[:]...)
		ip := b[start+etherLen:]
		binary.BigEndian.PutUint16(ip[10:], checksum(0, ip[:ip4Len]))
		return e.appendEcho(b, 0, request4, reply4)
	}
	b = binary.BigEndian.AppendUint16(b, etherTypeIPv6)
	b = append(b, 0x60, 0, 0, 0, 0, echoLen, protoICMPv6, 1)
	src, dst := e.SrcIP.As16(), e.DstIP.As16()
	b = append(append(b, src[:]...), dst[:]...)
	return e.appendEcho(b, pseudo6(b[start+etherLen+8:], echoLen), request6, reply6)
}

func (e Echo) appendEcho(b []byte, sum uint32, request, reply byte) []byte {
	typ := request
	if e.Reply {
		typ = reply
	}
	at := len(b)
	b = append(b, typ, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, e.ID)
	b = binary.BigEndian.AppendUint16(b, e.Seq)
	binary.BigEndian.PutUint16(b[at+2:], checksum(sum, b[at:]))
	return b
}

// pseudo6 returns the sum of the pseudo-header of RFC 8200 §8.1: addrs are the source
// and the destination address, n the length of the message.
func pseudo6(addrs []byte, n int) uint32 { return add(uint32(n)+protoICMPv6, addrs[:32]) }

// checksum returns the Internet checksum (RFC 1071) of b, with sum added to it. Over
// bytes that hold their right checksum it is 0.
func checksum(sum uint32, b []byte) uint16 {
	for sum = add(sum, b); sum > 0xffff; {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}
