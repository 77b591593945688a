package bgpmsg

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	attrOrigin         = 1
	attrASPath         = 2
	attrNextHop        = 3
	attrMED            = 4
	attrLocalPref      = 5
	attrCommunities    = 8
	attrMPReach        = 14
	attrMPUnreach      = 15
	attrExtCommunities = 16
	attrAS4Path        = 17
	attrLarge          = 32

	flagOptional   = 0x80
	flagTransitive = 0x40
	flagExtended   = 0x10 // the length has two bytes

	wellKnown = flagTransitive
	optional  = flagOptional
	both      = flagOptional | flagTransitive

	originIGP  = 0
	asSequence = 2

	extTwoOctetAS     = 0x00 // types of extended communities (RFC 7153)
	extNonTransitive  = 0x40
	subLinkBandwidth  = 0x04
	bytesPerBandwidth = 125_000 // a unit of bandwidth is 1 Mbit/s
)

// ErrTooLong says that a route has more attributes than fit into a message.
var ErrTooLong = errors.New("its attributes do not fit into a BGP message")

// Attrs are the path attributes of a route (RFC 4271 §5).
type Attrs struct {
	// ASPath is the AS_SEQUENCE, the nearest AS first; empty for our own routes that
	// internal peers are told.
	ASPath []uint32
	// TwoOctetAS: the receiver does not know AS numbers of 32 bits (RFC 6793 §4.2.2).
	TwoOctetAS bool
	// NextHop is one address, or a global and a link-local one (RFC 2545 §3).
	NextHop []netip.Addr
	MED     *uint32
	// LocalPref is for internal peers only.
	LocalPref        *uint32
	Communities      []lb.Community
	LargeCommunities []lb.LargeCommunity
	// Bandwidth is that of the link bandwidth extended community, in Mbit/s; 0 leaves
	// it out. It is of AS BandwidthAS, and marked as transitive for external peers: of
	// others than that, an AS border takes notice of its own only (RFC 4360 §6).
	Bandwidth           uint32
	BandwidthAS         uint32
	BandwidthTransitive bool
}

// attr appends an attribute.
func attr(b []byte, flags, kind uint8, value []byte) []byte {
	if len(value) > math.MaxUint8 {
		b = append(b, flags|flagExtended, kind)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	} else {
		b = append(b, flags, kind, byte(len(value)))
	}
	return append(b, value...)
}

// append appends all attributes but MP_REACH_NLRI, in the order of their types; the
// NEXT_HOP where classic.
//
//nolint:revive // classic is a fact
func (a *Attrs) append(b []byte, classic bool) []byte {
	b = attr(b, wellKnown, attrOrigin, []byte{originIGP})
	path, wide := a.path(a.TwoOctetAS)
	b = attr(b, wellKnown, attrASPath, path)
	if classic {
		hop := a.NextHop[0].As4()
		b = attr(b, wellKnown, attrNextHop, hop[:])
	}
	if a.MED != nil {
		b = attr(b, optional, attrMED, binary.BigEndian.AppendUint32(nil, *a.MED))
	}
	if a.LocalPref != nil {
		b = attr(b, wellKnown, attrLocalPref, binary.BigEndian.AppendUint32(nil, *a.LocalPref))
	}
	if len(a.Communities) > 0 {
		var v []byte
		for _, c := range a.Communities {
			v = binary.BigEndian.AppendUint32(v, uint32(c))
		}
		b = attr(b, both, attrCommunities, v)
	}
	if a.Bandwidth > 0 {
		v := []byte{extTwoOctetAS, subLinkBandwidth}
		if !a.BandwidthTransitive {
			v[0] |= extNonTransitive
		}
		v = binary.BigEndian.AppendUint16(v, twoOctets(a.BandwidthAS))
		v = binary.BigEndian.AppendUint32(v, math.Float32bits(float32(a.Bandwidth)*bytesPerBandwidth))
		b = attr(b, both, attrExtCommunities, v)
	}
	if wide {
		full, _ := a.path(false)
		b = attr(b, both, attrAS4Path, full)
	}
	if len(a.LargeCommunities) > 0 {
		var v []byte
		for _, c := range a.LargeCommunities {
			for _, n := range []uint32{c.Global, c.Local1, c.Local2} {
				v = binary.BigEndian.AppendUint32(v, n)
			}
		}
		b = attr(b, both, attrLarge, v)
	}
	return b
}

// path encodes the AS_PATH, with AS numbers of 16 bits where narrow; wide reports
// whether that lost one.
//
//nolint:revive // narrow is a fact
func (a *Attrs) path(narrow bool) (b []byte, wide bool) {
	if len(a.ASPath) == 0 {
		return nil, false
	}
	b = []byte{asSequence, byte(len(a.ASPath))}
	for _, asn := range a.ASPath {
		if narrow {
			wide = wide || asn > math.MaxUint16
			b = binary.BigEndian.AppendUint16(b, twoOctets(asn))
		} else {
			b = binary.BigEndian.AppendUint32(b, asn)
		}
	}
	return b, wide
}

// AppendUpdates appends UPDATEs to b that advertise prefixes, which are of family f,
// all with the attributes a: as many in each message as it holds. It returns the
// number of messages, and ErrTooLong if not even one prefix fits.
func AppendUpdates(b []byte, f lb.Family, a *Attrs, prefixes []netip.Prefix) ([]byte, int, error) {
	if f == lb.IPv4 && len(a.NextHop) == 1 && a.NextHop[0].Is4() {
		attrs := a.append(nil, true)
		return pack(b, prefixes, MaxLen-HeaderLen-4-len(attrs), func(b, nlri []byte) []byte {
			b = append(b, 0, 0)
			b = binary.BigEndian.AppendUint16(b, uint16(len(attrs)))
			return append(append(b, attrs...), nlri...)
		})
	}
	// RFC 4760 §3; an IPv4 prefix with an IPv6 next hop RFC 8950 §3. It stands first
	// (RFC 7606 §5.1).
	reach := append(binary.BigEndian.AppendUint16(nil, afiOf(f)), safiUnicast, 0)
	for _, hop := range a.NextHop {
		reach = append(reach, hop.AsSlice()...)
	}
	reach[3] = byte(len(reach) - 4)
	reach = append(reach, 0)
	attrs := a.append(nil, false)
	const head = 4 // of an attribute with extended length
	return pack(b, prefixes, MaxLen-HeaderLen-4-head-len(reach)-len(attrs), func(b, nlri []byte) []byte {
		b = append(b, 0, 0)
		at := len(b)
		b = append(b, 0, 0)
		b = attr(b, optional, attrMPReach, append(slices.Clip(reach), nlri...))
		b = append(b, attrs...)
		binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
		return b
	})
}

// AppendWithdrawals appends UPDATEs to b that withdraw prefixes, which are of family
// f. It returns the number of messages.
func AppendWithdrawals(b []byte, f lb.Family, prefixes []netip.Prefix) ([]byte, int) {
	const room = MaxLen - HeaderLen - 4 - 4 - 3
	b, n, _ := pack(b, prefixes, room, func(b, nlri []byte) []byte { // each prefix fits
		if f == lb.IPv4 {
			b = binary.BigEndian.AppendUint16(b, uint16(len(nlri)))
			return append(append(b, nlri...), 0, 0)
		}
		b = append(b, 0, 0)
		at := len(b)
		b = append(b, 0, 0)
		v := append(binary.BigEndian.AppendUint16(nil, afiOf(f)), safiUnicast)
		b = attr(b, optional, attrMPUnreach, append(v, nlri...))
		binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
		return b
	})
	return b, n
}

// AppendEndOfRIB appends to b the UPDATE that says that all routes of family f have
// been sent (RFC 4724 §2).
func AppendEndOfRIB(b []byte, f lb.Family) []byte {
	start := len(b)
	b = begin(b, TypeUpdate)
	if f == lb.IPv4 {
		return finish(append(b, 0, 0, 0, 0), start)
	}
	v := append(binary.BigEndian.AppendUint16(nil, afiOf(f)), safiUnicast)
	b = append(b, 0, 0, 0, byte(len(v)+3))
	return finish(attr(b, optional, attrMPUnreach, v), start)
}

// pack spreads prefixes over UPDATEs with room for so many bytes of them each.
func pack(b []byte, prefixes []netip.Prefix, room int, body func(b, nlri []byte) []byte) ([]byte, int, error) {
	if room < 1+netip.IPv6Unspecified().BitLen()/8 {
		return b, 0, ErrTooLong
	}
	messages := 0
	nlri := make([]byte, 0, room)
	flush := func() {
		start := len(b)
		b = finish(body(begin(b, TypeUpdate), nlri), start)
		messages++
		nlri = nlri[:0]
	}
	for _, pfx := range prefixes {
		bytes := (pfx.Bits() + 7) / 8
		if len(nlri)+1+bytes > room {
			flush()
		}
		nlri = append(nlri, byte(pfx.Bits()))
		nlri = append(nlri, pfx.Addr().AsSlice()[:bytes]...)
	}
	if len(nlri) > 0 {
		flush()
	}
	return b, messages, nil
}
