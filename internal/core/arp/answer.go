package arp

import (
	"net/netip"

	"github.com/barelb/barelb/internal/core/lb"
)

// Drop says why a frame is not answered. The zero value means that it is.
type Drop uint8

// Reasons, in the order in which they are looked for.
const (
	Answered     Drop = iota
	Malformed         // not an ARP packet for IPv4 over Ethernet
	NotRequest        // a reply, or another operation
	NotToUs           // its Ethernet destination is neither broadcast nor ours
	BadSender         // its sender cannot be replied to, or is ourselves
	Claim             // it asks nothing: a gratuitous ARP by somebody else
	NotAnnounced      // nothing that we answer for on this link
	Yielding          // it asks everybody, and the new owner shall answer
	FromOwner         // the owner asks that we take care for: it knows better
)

// String returns the name of the reason.
func (d Drop) String() string {
	switch d {
	case Answered:
		return "Answered"
	case Malformed:
		return "Malformed"
	case NotRequest:
		return "NotRequest"
	case NotToUs:
		return "NotToUs"
	case BadSender:
		return "BadSender"
	case Claim:
		return "Claim"
	case NotAnnounced:
		return "NotAnnounced"
	case Yielding:
		return "Yielding"
	case FromOwner:
		return "FromOwner"
	}
	return "unknown"
}

// Answering tells as what an address is answered for on a link, and with which MAC:
// our own, or for [lb.Caretake] that of the owner. It returns false if it is not.
type Answering func(netip.Addr) (lb.Role, MAC, bool)

// Answer decides about a frame that arrived on a link whose address is self.
// answering is asked once at most, after all that the frame alone decides. The reply
// is valid if the reason is Answered.
//
// The reply is unicast to the sender's hardware address, also for a probe, whose
// sender address is 0.0.0.0 (RFC 5227 §2.1.1): the prober then knows that the
// address is in use. Its Ethernet source is always self, so that switches learn
// nothing about an owner's MAC from one who takes care for it.
func Answer(frame []byte, self MAC, answering Answering) (Packet, Drop) {
	q, err := Parse(frame)
	switch {
	case err != nil:
		return Packet{}, Malformed
	case q.Op != Request:
		return Packet{}, NotRequest
	case q.Dst != Broadcast() && q.Dst != self:
		return Packet{}, NotToUs
	case !isUnicast(q.SenderMAC) || q.SenderMAC == self || q.Src == self:
		return Packet{}, BadSender
	case q.SenderAddr == q.TargetAddr:
		return Packet{}, Claim
	}
	role, mac, ok := answering(q.TargetAddr)
	switch {
	case !ok:
		return Packet{}, NotAnnounced
	case role == lb.Yield && q.Dst != self:
		return Packet{}, Yielding
	case q.SenderMAC == mac || q.Src == mac:
		return Packet{}, FromOwner
	}
	return Packet{
		Dst: q.SenderMAC, Src: self, Op: Reply,
		SenderMAC: mac, SenderAddr: q.TargetAddr,
		TargetMAC: q.SenderMAC, TargetAddr: q.SenderAddr,
	}, Answered
}
