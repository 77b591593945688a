// Package arp knows ARP over Ethernet (RFC 826, RFC 5227): its frames as values,
// and which of them a node that announces IPv4 addresses answers. It holds no
// state; all functions are safe for concurrent use and none panics on received
// bytes.
package arp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Op is an ARP operation.
type Op uint16

// The operations of RFC 826.
const (
	Request Op = 1
	Reply   Op = 2
)

// FrameLen is the length in bytes of an ARP frame without padding.
const FrameLen = etherLen + packetLen

const (
	etherLen  = 14
	packetLen = 28

	etherTypeARP  = 0x0806
	etherTypeIPv4 = 0x0800
	hardwareEther = 1
)

// Broadcast returns the Ethernet address of everybody.
func Broadcast() MAC { return MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// Packet is an ARP packet with its Ethernet header.
type Packet struct {
	Dst, Src MAC // of the Ethernet header
	Op       Op

	SenderMAC  MAC
	SenderAddr netip.Addr // IPv4; 0.0.0.0 in a probe (RFC 5227 §1.1)
	TargetMAC  MAC
	TargetAddr netip.Addr // IPv4
}

// Errors of Parse.
var (
	ErrShort = errors.New("arp: frame is too short")
	ErrKind  = errors.New("arp: not ARP for IPv4 over Ethernet")
)

// Parse reads an Ethernet frame. Bytes after the packet are padding.
func Parse(frame []byte) (Packet, error) {
	if len(frame) < FrameLen {
		return Packet{}, fmt.Errorf("%w: %d bytes", ErrShort, len(frame))
	}
	b := frame[etherLen:]
	if binary.BigEndian.Uint16(frame[12:]) != etherTypeARP ||
		binary.BigEndian.Uint16(b) != hardwareEther ||
		binary.BigEndian.Uint16(b[2:]) != etherTypeIPv4 ||
		b[4] != 6 || b[5] != 4 {
		return Packet{}, ErrKind
	}
	return Packet{
		Dst:        MAC(frame[0:6]),
		Src:        MAC(frame[6:12]),
		Op:         Op(binary.BigEndian.Uint16(b[6:])),
		SenderMAC:  MAC(b[8:14]),
		SenderAddr: netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC:  MAC(b[18:24]),
		TargetAddr: netip.AddrFrom4([4]byte(b[24:28])),
	}, nil
}

// Append appends the frame, FrameLen bytes, to b. An address of p that is not IPv4
// is written as 0.0.0.0.
func (p Packet) Append(b []byte) []byte {
	b = append(b, p.Dst[:]...)
	b = append(b, p.Src[:]...)
	b = binary.BigEndian.AppendUint16(b, etherTypeARP)
	b = binary.BigEndian.AppendUint16(b, hardwareEther)
	b = binary.BigEndian.AppendUint16(b, etherTypeIPv4)
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, uint16(p.Op))
	b = append(b, p.SenderMAC[:]...)
	b = appendAddr(b, p.SenderAddr)
	b = append(b, p.TargetMAC[:]...)
	return appendAddr(b, p.TargetAddr)
}

func appendAddr(b []byte, addr netip.Addr) []byte {
	if addr = addr.Unmap(); !addr.Is4() {
		return append(b, 0, 0, 0, 0)
	}
	a := addr.As4()
	return append(b, a[:]...)
}

// Gratuitous returns the two frames that tell everybody on a link that addr is now
// at mac: a request and a reply with equal sender and target address (RFC 5227 §3).
// Some hosts heed only the one, some only the other.
func Gratuitous(addr netip.Addr, mac MAC) [2]Packet {
	p := Packet{Dst: Broadcast(), Src: mac, Op: Request, SenderMAC: mac, SenderAddr: addr, TargetMAC: Broadcast(), TargetAddr: addr}
	q := p
	q.Op = Reply
	return [2]Packet{p, q}
}

// Probe returns the frame by which a station at mac asks whether anybody uses addr
// (RFC 5227 §2.1.1). Its sender address is 0.0.0.0, so that no cache learns from it.
func Probe(addr netip.Addr, mac MAC) Packet {
	return Packet{Dst: Broadcast(), Src: mac, Op: Request, SenderMAC: mac, SenderAddr: netip.IPv4Unspecified(), TargetAddr: addr}
}

// isUnicast reports whether m can be the address of one station.
func isUnicast(m MAC) bool { return m[0]&1 == 0 && m != MAC{} }
