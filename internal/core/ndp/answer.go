package ndp

import "net/netip"

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
	}
	return "unknown"
}

// Answer decides about a frame that arrived on a link whose address is self.
// announced tells whether an address is answered for on that link; it is asked
// last, and at most once. The advertisement is valid if the reason is Answered.
func Answer(frame []byte, self MAC, announced func(netip.Addr) bool) (Advertisement, Drop) {
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
	case !announced(q.Target):
		return Advertisement{}, NotAnnounced
	}
	if q.SrcIP.IsUnspecified() {
		// RFC 4862 §5.4.3: somebody is about to take the address. RFC 4861 §7.2.4:
		// the defence goes to all nodes, unsolicited.
		return Unsolicited(q.Target, self), Answered
	}
	a := Unsolicited(q.Target, self)
	a.Dst, a.DstIP, a.Solicited = to, q.SrcIP, true
	return a, Answered
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
