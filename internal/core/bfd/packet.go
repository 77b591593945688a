// Package bfd is Bidirectional Forwarding Detection (RFC 5880, 5881, 5883) without
// sockets and clocks: control and echo packets, and the state machine of a session.
//
// A Session is told what happened and when, and answers what to send, what has
// changed and when it wants to be asked again. It supports the asynchronous mode and
// the echo function; it obeys a peer in demand mode but does not ask for it. There is
// no authentication: packets that carry some are refused.
package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// UDP ports (RFC 5881 §4, RFC 5883 §5), and the TTL that packets of sessions of one
// hop are sent and must arrive with (RFC 5881 §5).
const (
	PortSingleHop = 3784
	PortEcho      = 3785
	PortMultiHop  = 4784
	TTL           = 255
)

// PacketLen in bytes is the length of a control packet without authentication.
const PacketLen = 24

const (
	version     = 1
	authMinLen  = 26
	flagPoll    = 1 << 5
	flagFinal   = 1 << 4
	flagControl = 1 << 3
	flagAuth    = 1 << 2
	flagDemand  = 1 << 1
	flagMulti   = 1
)

// Errors of ParsePacket, by what RFC 5880 §6.8.6 says to check.
var (
	ErrLength        = errors.New("bfd: wrong length")
	ErrVersion       = errors.New("bfd: version is not 1")
	ErrMultiplier    = errors.New("bfd: detect multiplier is zero")
	ErrMultipoint    = errors.New("bfd: multipoint bit is set")
	ErrDiscriminator = errors.New("bfd: discriminator is zero")
	ErrAuth          = errors.New("bfd: authentication is not supported")
)

// State is the state of a session (RFC 5880 §4.1).
type State uint8

// The states.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String returns the name in RFC 5880.
func (s State) String() string {
	if int(s) < len(states) {
		return states[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

//nolint:gochecknoglobals // a table
var states = [...]string{"AdminDown", "Down", "Init", "Up"}

// Diag is a diagnostic: why a session last left the state Up (RFC 5880 §4.1).
type Diag uint8

// The diagnostics.
const (
	NoDiag Diag = iota
	DetectionTimeExpired
	EchoFailed
	NeighborDown
	ForwardingPlaneReset
	PathDown
	ConcatenatedPathDown
	AdministrativelyDown
	ReverseConcatenatedPathDown
)

// String returns the words of RFC 5880.
func (d Diag) String() string {
	if int(d) < len(diags) {
		return diags[d]
	}
	return fmt.Sprintf("Diagnostic %d", uint8(d))
}

//nolint:gochecknoglobals // a table
var diags = [...]string{
	"No Diagnostic", "Control Detection Time Expired", "Echo Function Failed", "Neighbor Signaled Session Down",
	"Forwarding Plane Reset", "Path Down", "Concatenated Path Down", "Administratively Down", "Reverse Concatenated Path Down",
}

// Packet is a control packet (RFC 5880 §4.1). Intervals are multiples of a
// microsecond of at most 2^32-1 of them.
type Packet struct {
	Diag         Diag
	State        State
	Poll, Final  bool
	Independent  bool // C: BFD does not share fate with the control plane
	Demand       bool
	Multiplier   uint8
	MyDiscr      uint32
	YourDiscr    uint32
	DesiredMinTx time.Duration
	RequiredRx   time.Duration // Required Min RX Interval
	RequiredEcho time.Duration // Required Min Echo RX Interval; 0: no echo wanted
}

// Append appends the packet as it goes on the wire.
func (p Packet) Append(b []byte) []byte {
	flags := byte(p.State) << 6
	for _, f := range []struct {
		set bool
		bit byte
	}{{p.Poll, flagPoll}, {p.Final, flagFinal}, {p.Independent, flagControl}, {p.Demand, flagDemand}} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, version<<5|byte(p.Diag)&0x1f, flags, p.Multiplier, PacketLen)
	for _, v := range []uint32{p.MyDiscr, p.YourDiscr, micros(p.DesiredMinTx), micros(p.RequiredRx), micros(p.RequiredEcho)} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}

// ParsePacket decodes the payload of a UDP datagram and makes the checks of RFC 5880
// §6.8.6 that need no session. Bytes behind the packet are ignored.
func ParsePacket(b []byte) (Packet, error) {
	if len(b) < PacketLen {
		return Packet{}, ErrLength
	}
	flags, length := b[1], int(b[3])
	switch {
	case b[0]>>5 != version:
		return Packet{}, ErrVersion
	case length < PacketLen || flags&flagAuth != 0 && length < authMinLen || length > len(b):
		return Packet{}, ErrLength
	case b[2] == 0:
		return Packet{}, ErrMultiplier
	case flags&flagMulti != 0:
		return Packet{}, ErrMultipoint
	}
	word := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	interval := func(at int) time.Duration { return time.Duration(word(at)) * time.Microsecond }
	p := Packet{
		Diag: Diag(b[0] & 0x1f), State: State(flags >> 6),
		Poll: flags&flagPoll != 0, Final: flags&flagFinal != 0,
		Independent: flags&flagControl != 0, Demand: flags&flagDemand != 0,
		Multiplier: b[2], MyDiscr: word(4), YourDiscr: word(8),
		DesiredMinTx: interval(12), RequiredRx: interval(16), RequiredEcho: interval(20),
	}
	switch {
	case p.MyDiscr == 0:
		return Packet{}, ErrDiscriminator
	case p.YourDiscr == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, ErrDiscriminator
	case flags&flagAuth != 0:
		return Packet{}, ErrAuth
	}
	return p, nil
}
