// Package bgpmsg knows the messages of BGP-4 (RFC 4271) that a speaker needs that
// advertises unicast routes and accepts none: it makes and reads OPEN, NOTIFICATION,
// KEEPALIVE and ROUTE-REFRESH, and makes UPDATEs. It holds no state; all functions are
// safe for concurrent use and none panics on received bytes.
package bgpmsg

import (
	"encoding/binary"
	"fmt"

	"github.com/barelb/barelb/internal/core/lb"
)

// Lengths of messages in bytes, header included (RFC 4271 §4.1).
const (
	HeaderLen = 19
	MaxLen    = 4096
)

// Type is the type of a message.
type Type uint8

// The types (RFC 4271 §4.1, RFC 2918 §3).
const (
	TypeOpen         Type = 1
	TypeUpdate       Type = 2
	TypeNotification Type = 3
	TypeKeepalive    Type = 4
	TypeRouteRefresh Type = 5
)

// String returns the name in RFC 4271.
func (t Type) String() string {
	switch t {
	case TypeOpen:
		return "OPEN"
	case TypeUpdate:
		return "UPDATE"
	case TypeNotification:
		return "NOTIFICATION"
	case TypeKeepalive:
		return "KEEPALIVE"
	case TypeRouteRefresh:
		return "ROUTE-REFRESH"
	}
	return fmt.Sprintf("message of type %d", uint8(t))
}

const (
	markerLen   = 16
	safiUnicast = 1
)

// afiOf returns the Address Family Identifier (RFC 4760).
func afiOf(f lb.Family) uint16 {
	if f == lb.IPv6 {
		return 2
	}
	return 1
}

// unicast returns the family of an AFI and SAFI; 0 if it is none that we carry.
func unicast(afi uint16, safi uint8) lb.Family {
	switch {
	case afi == 1 && safi == safiUnicast:
		return lb.IPv4
	case afi == 2 && safi == safiUnicast:
		return lb.IPv6
	}
	return 0
}

// ParseHeader reads the header of a message and returns its type and the length of
// what follows. The error, if any, is a *Notification that tells the sender.
func ParseHeader(b [HeaderLen]byte) (Type, int, error) {
	for _, m := range b[:markerLen] {
		if m != 0xff {
			return 0, 0, &Notification{Code: CodeHeader, Subcode: subNotSynchronized}
		}
	}
	length, t := int(binary.BigEndian.Uint16(b[markerLen:])), Type(b[markerLen+2])
	least, most := HeaderLen, MaxLen
	switch t {
	case TypeOpen:
		least += 10
	case TypeUpdate:
		least += 4
	case TypeNotification:
		least += 2
	case TypeKeepalive:
		most = HeaderLen
	case TypeRouteRefresh:
		least += 4 // one of another length is an error of its own (RFC 7313 §5)
	default:
		return 0, 0, &Notification{Code: CodeHeader, Subcode: subBadType, Data: []byte{byte(t)}}
	}
	if length < least || length > most {
		return 0, 0, &Notification{Code: CodeHeader, Subcode: subBadLength, Data: b[markerLen : markerLen+2]}
	}
	return t, length - HeaderLen, nil
}

// begin appends a header whose length finish fills in.
func begin(b []byte, t Type) []byte {
	for range markerLen {
		b = append(b, 0xff)
	}
	return append(b, 0, 0, byte(t))
}

// finish fills in the length of the message that starts at start.
func finish(b []byte, start int) []byte {
	binary.BigEndian.PutUint16(b[start+markerLen:], uint16(len(b)-start))
	return b
}

// AppendKeepalive appends a KEEPALIVE to b.
func AppendKeepalive(b []byte) []byte { return finish(begin(b, TypeKeepalive), len(b)) }

// ParseRouteRefresh returns the family whose routes the router asks for again (RFC
// 2918 §3); 0 if there is nothing to be done.
func ParseRouteRefresh(body []byte) lb.Family {
	// The third byte is 0 in a plain request (RFC 7313 §3.2).
	if len(body) != 4 || body[2] != 0 {
		return 0
	}
	return unicast(binary.BigEndian.Uint16(body), body[3])
}
