package ndp

import (
	"net/netip"

	"github.com/barelb/barelb/internal/core/lb"
)

// Drop says why a frame is not answered. The zero value means that it is.
type Drop uint8

// Reasons, in the order in which they are looked for.
const (
	Answered     Drop = iota
	Malformed         // not a valid Neighbor Solicitation
	NotToUs           // sent neither to the target, nor to its group
	BadSender         // its sender cannot be replied to, or is ourselves
	Claim             // it comes from the very address that it asks for
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
// answering is asked once at most, after all that the frame alone decides. The
// advertisement is valid if the reason is Answered.
func Answer(frame []byte, self MAC, answering Answering) (Advertisement, Drop) {
	q, err := ParseSolicitation(frame)
	if err != nil {
		return Advertisement{}, Malformed
	}
	// The option says where to reply. Without it, in unicast probes (RFC 4861 §7.2.2)
	// and duplicate address detection, the frame's source has to do.
	to := q.Src
	if q.HasSourceLinkAddr {
		to = q.SourceLinkAddr
	}
	switch {
	case q.Dst != self && q.Dst[0]&1 == 0,
		q.DstIP != q.Target && q.DstIP != Group(q.Target):
		return Advertisement{}, NotToUs
	case !isUnicast(to) || to == self || q.Src == self:
		return Advertisement{}, BadSender
	case q.SrcIP == q.Target:
		return Advertisement{}, Claim
	}
	role, mac, ok := answering(q.Target)
	switch {
	case !ok:
		return Advertisement{}, NotAnnounced
	case role == lb.Yield && (q.Dst != self || q.DstIP != q.Target):
		return Advertisement{}, Yielding
	case to == mac || q.Src == mac:
		return Advertisement{}, FromOwner
	case role == lb.Caretake:
		return inPlaceOf(mac, self, q, to), Answered
	}
	a := Unsolicited(q.Target, self)
	if !q.SrcIP.IsUnspecified() {
		a.Dst, a.DstIP, a.Solicited = to, q.SrcIP, true
	} // else RFC 4862 §5.4.3: somebody is about to take the address. RFC 4861 §7.2.4:
	// the defence goes to all nodes, unsolicited.
	return a, Answered
}

// inPlaceOf returns what a node at self answers to q, whose asker is at to, in the name
// of an owner at mac, whose speaker does not work. To whom asks it says what the owner
// would say, except that O is not set: it is second hand, and must not replace what a
// neighbour has from the owner itself. (A neighbour that holds another MAC for good
// keeps it until it fails, asks all, and then takes this one.)
//
// The frame is unicast also in defence against duplicate address detection, whose
// packet must go to all nodes and unsolicited (RFC 4861 §7.2.4): RFC 6085 allows a
// multicast packet in a unicast frame. So no other neighbour hears it.
func inPlaceOf(mac, self MAC, q Solicitation, to MAC) Advertisement {
	a := Unsolicited(q.Target, mac)
	a.Src, a.Dst, a.Override = self, to, false
	if !q.SrcIP.IsUnspecified() {
		a.DstIP, a.Solicited = q.SrcIP, true
	}
	return a
}

// Unsolicited returns the advertisement that tells everybody on a link that target
// is now at mac.
//
// O is set here and in answers: target is a unicast address that one node owns at a
// time, neither anycast nor proxied, for which RFC 4861 §7.2.4 asks for O=1. So a
// neighbour that still has the address of the previous owner takes ours at once; with
// O=0, as MetalLB answers, it would keep the old one and only doubt it (§7.2.5).
// R is not set: the node does not offer itself as a router to those who ask.
//
// The source is target itself, as a kernel does for an address that it owns. Some
// look at it: ndisc6 takes no advertisement of a global address that comes from a
// link-local one, from which MetalLB sends.
func Unsolicited(target netip.Addr, mac MAC) Advertisement {
	return Advertisement{
		Dst: GroupMAC(AllNodes()), Src: mac,
		SrcIP: target, DstIP: AllNodes(),
		Target: target, Override: true,
		TargetLinkAddr: mac, HasTargetLinkAddr: true,
	}
}

// isUnicast reports whether m can be the address of one station.
func isUnicast(m MAC) bool { return m[0]&1 == 0 && m != MAC{} }
