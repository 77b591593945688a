package bgpmsg

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	version      = 4
	asTrans      = 23456 // stands for an AS of more than 16 bits (RFC 6793 §9)
	paramCaps    = 2     // the optional parameter that holds capabilities (RFC 5492 §4)
	paramExtLong = 255   // the optional parameters are of extended length (RFC 9072 §2)

	capMultiprotocol   = 1  // RFC 4760 §8
	capRouteRefresh    = 2  // RFC 2918 §2
	capExtendedNextHop = 5  // RFC 8950 §4
	capGracefulRestart = 64 // RFC 4724 §3
	capFourOctetAS     = 65 // RFC 6793 §3

	grRestarted    = 0x80 // the Restart State bit, of the first byte
	grNotification = 0x40 // RFC 8538 §2
	grPreserved    = 0x80 // the Forwarding State bit of a family
	grTimeMask     = 0x0fff
)

// MaxRestartTime is the longest restart time that GracefulRestart can tell.
const MaxRestartTime = grTimeMask * time.Second

// Open is an OPEN message (RFC 4271 §4.2) with the capabilities that matter here.
type Open struct {
	ASN      uint32
	HoldTime uint16 // in seconds; 0, or at least 3
	RouterID netip.Addr
	// Families are those whose unicast routes the sender can exchange.
	Families []lb.Family
	// IPv6Hops: IPv4 routes may have IPv6 next hops (RFC 8950).
	IPv6Hops bool
	// FourOctetAS and RouteRefresh are capabilities.
	FourOctetAS, RouteRefresh bool
	// GracefulRestart is nil if the sender does not have that capability.
	GracefulRestart *GracefulRestart
}

// GracefulRestart is the capability of that name (RFC 4724 §3).
type GracefulRestart struct {
	Restarted    bool // the sender has started again
	Notification bool // a NOTIFICATION is survived too (RFC 8538)
	Time         time.Duration
	Families     []lb.Family // whose routes can be kept
	Preserved    []lb.Family // of these, where forwarding went on meanwhile
}

// Append appends the message to b.
func (o *Open) Append(b []byte) []byte {
	start := len(b)
	b = append(begin(b, TypeOpen), version)
	b = binary.BigEndian.AppendUint16(b, twoOctets(o.ASN))
	b = binary.BigEndian.AppendUint16(b, o.HoldTime)
	id := o.RouterID.As4()
	b = append(b, id[:]...)

	caps := o.capabilities()
	// One parameter for all: they are far from filling it.
	b = append(b, byte(len(caps)+2), paramCaps, byte(len(caps)))
	return finish(append(b, caps...), start)
}

func (o *Open) capabilities() []byte {
	var b []byte
	for _, f := range o.Families {
		b = append(b, capMultiprotocol, 4)
		b = append(binary.BigEndian.AppendUint16(b, afiOf(f)), 0, safiUnicast)
	}
	if o.RouteRefresh {
		b = append(b, capRouteRefresh, 0)
	}
	if o.IPv6Hops {
		b = append(b, capExtendedNextHop, 6)
		for _, n := range []uint16{afiOf(lb.IPv4), safiUnicast, afiOf(lb.IPv6)} {
			b = binary.BigEndian.AppendUint16(b, n)
		}
	}
	if gr := o.GracefulRestart; gr != nil {
		b = append(b, capGracefulRestart, byte(2+4*len(gr.Families)))
		word := uint16(min(gr.Time, MaxRestartTime) / time.Second)
		if gr.Restarted {
			word |= grRestarted << 8
		}
		if gr.Notification {
			word |= grNotification << 8
		}
		b = binary.BigEndian.AppendUint16(b, word)
		for _, f := range gr.Families {
			var flags byte
			if slices.Contains(gr.Preserved, f) {
				flags = grPreserved
			}
			b = append(binary.BigEndian.AppendUint16(b, afiOf(f)), safiUnicast, flags)
		}
	}
	if o.FourOctetAS {
		b = binary.BigEndian.AppendUint32(append(b, capFourOctetAS, 4), o.ASN)
	}
	return b
}

// twoOctets is how an AS number is written where there is room for 16 bits.
func twoOctets(asn uint32) uint16 {
	if asn > 0xffff {
		return asTrans
	}
	return uint16(asn)
}

// ParseOpen reads an OPEN after its header. The error, if any, is a *Notification
// that tells the sender. Capabilities that are not known are passed over.
func ParseOpen(body []byte) (Open, error) {
	if len(body) < 10 {
		return Open{}, &Notification{Code: CodeOpen}
	}
	if body[0] != version {
		return Open{}, &Notification{Code: CodeOpen, Subcode: subUnsupportedVersion, Data: []byte{0, version}}
	}
	o := Open{
		ASN:      uint32(binary.BigEndian.Uint16(body[1:])),
		HoldTime: binary.BigEndian.Uint16(body[3:]),
		RouterID: netip.AddrFrom4([4]byte(body[5:9])),
	}
	if o.HoldTime == 1 || o.HoldTime == 2 {
		return Open{}, &Notification{Code: CodeOpen, Subcode: SubBadHoldTime}
	}
	if o.RouterID.IsUnspecified() {
		return Open{}, &Notification{Code: CodeOpen, Subcode: SubBadRouterID}
	}
	params, long := body[10:], false
	// The type of the first parameter decides; the short length says nothing then.
	if body[9] != 0 && len(params) >= 3 && params[0] == paramExtLong {
		if int(binary.BigEndian.Uint16(params[1:])) != len(params)-3 {
			return Open{}, &Notification{Code: CodeOpen}
		}
		params, long = params[3:], true
	} else if int(body[9]) != len(params) {
		return Open{}, &Notification{Code: CodeOpen}
	}
	multi := false
	for len(params) > 0 {
		kind, value, rest, err := cut(params, long)
		switch {
		case err != nil:
			return Open{}, &Notification{Code: CodeOpen}
		case kind != paramCaps:
			return Open{}, &Notification{Code: CodeOpen, Subcode: subUnsupportedParameter}
		}
		params = rest
		for len(value) > 0 {
			code, data, rest, err := cut(value, false)
			if err != nil {
				return Open{}, &Notification{Code: CodeOpen}
			}
			value, multi = rest, multi || code == capMultiprotocol
			o.capability(code, data)
		}
	}
	if !multi {
		o.Families = []lb.Family{lb.IPv4} // RFC 4271 knows nothing else
	}
	if o.ASN == 0 { // RFC 7607 §2
		return Open{}, &Notification{Code: CodeOpen, Subcode: SubBadPeerAS}
	}
	return o, nil
}

var errShort = errors.New("it is cut short")

// cut takes one triple of type, length and value from the front of b.
//
//nolint:revive // the length of lengths
func cut(b []byte, long bool) (kind uint8, value, rest []byte, err error) {
	head := 2
	if long {
		head = 3
	}
	if len(b) < head {
		return 0, nil, nil, errShort
	}
	n := int(b[1])
	if long {
		n = int(binary.BigEndian.Uint16(b[1:]))
	}
	if len(b) < head+n {
		return 0, nil, nil, errShort
	}
	return b[0], b[head : head+n], b[head+n:], nil
}

// capability takes in one capability. One of a strange length is passed over, as one
// that is not known.
func (o *Open) capability(code uint8, data []byte) {
	switch code {
	case capMultiprotocol:
		if len(data) == 4 {
			if f := unicast(binary.BigEndian.Uint16(data), data[3]); f != 0 && !slices.Contains(o.Families, f) {
				o.Families = append(o.Families, f)
			}
		}
	case capRouteRefresh:
		o.RouteRefresh = true
	case capExtendedNextHop:
		for ; len(data) >= 6; data = data[6:] {
			o.IPv6Hops = o.IPv6Hops || [6]byte(data) == [6]byte{0, 1, 0, safiUnicast, 0, 2}
		}
	case capFourOctetAS:
		if len(data) == 4 {
			o.ASN, o.FourOctetAS = binary.BigEndian.Uint32(data), true
		}
	case capGracefulRestart:
		if len(data) < 2 {
			return
		}
		word := binary.BigEndian.Uint16(data)
		gr := &GracefulRestart{
			Restarted:    data[0]&grRestarted != 0,
			Notification: data[0]&grNotification != 0,
			Time:         time.Duration(word&grTimeMask) * time.Second,
		}
		for data = data[2:]; len(data) >= 4; data = data[4:] {
			f := unicast(binary.BigEndian.Uint16(data), data[2])
			if f == 0 || slices.Contains(gr.Families, f) {
				continue
			}
			gr.Families = append(gr.Families, f)
			if data[3]&grPreserved != 0 {
				gr.Preserved = append(gr.Preserved, f)
			}
		}
		o.GracefulRestart = gr
	}
}
