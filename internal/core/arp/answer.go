package arp

import "net/netip"

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
	}
	return "unknown"
}

// Answer decides about a frame that arrived on a link whose address is self.
// announced tells whether an address is answered for on that link; it is asked
// last, and at most once. The reply is valid if the reason is Answered.
//
// The reply is unicast to the sender's hardware address, also for a probe, whose
// sender address is 0.0.0.0 (RFC 5227 §2.1.1): the prober then knows that the
// address is in use.
func Answer(frame []byte, self MAC, announced func(netip.Addr) bool) (Packet, Drop) {
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
	case !announced(q.TargetAddr):
		return Packet{}, NotAnnounced
	}
	return Packet{
		Dst: q.SenderMAC, Src: self, Op: Reply,
		SenderMAC: self, SenderAddr: q.TargetAddr,
		TargetMAC: q.SenderMAC, TargetAddr: q.SenderAddr,
	}, Answered
}
