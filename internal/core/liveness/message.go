package liveness

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// MessageVersion is the version of the messages that this package makes. It reads those
// of later versions as far as it knows them.
const MessageVersion = 1

// Kind is what a Message says.
type Kind uint8

// The kinds of messages. Their numbers are on the wire.
const (
	// Suspect asks whether Node answers on Segment. Sent to Node itself too.
	Suspect Kind = 1
	// Opinion answers Suspect: Reachable says whether it does.
	Opinion Kind = 2
	// Verdict says whether Node is dead on Segment: it is if Epoch is odd. The higher Epoch wins.
	Verdict Kind = 3
	// SpeakerVerdict says whether the speaker of Node, of that Incarnation, is down: it is
	// if Epoch is odd. The later Incarnation wins, then the higher Epoch.
	SpeakerVerdict Kind = 4
)

// Message is what speakers tell one another about who is alive.
type Message struct {
	Kind        Kind
	Node        string  // at most 253 bytes
	Segment     Segment // of Suspect, Opinion and Verdict; else zero
	Epoch       uint32
	Incarnation uint64 // of SpeakerVerdict; else 0
	Reachable   bool   // of Opinion; of SpeakerVerdict: whoever says it is in touch with the speaker
	Asks        bool   // of SpeakerVerdict: whoever is in touch with the speaker shall say so
}

// Errors of Parse.
var (
	ErrMessage = errors.New("parse liveness message: malformed")
	ErrKind    = errors.New("parse liveness message: unknown kind") // of a later version: to be ignored
)

const maxName = 253 // bytes in the name of a node

// Flags of a message.
const (
	flagReachable = 1 << iota
	flagAsks
)

// Append appends the encoding of m to b: the version, the kind, the name with its length,
// the segment (its bits, the address with its length), Epoch, Incarnation, flags; numbers in
// network order.
func Append(b []byte, m Message) []byte {
	name := m.Node[:min(len(m.Node), maxName)]
	b = append(b, MessageVersion, byte(m.Kind), byte(len(name)))
	b = append(b, name...)
	if m.Segment.IsValid() {
		b = append(b, byte(m.Segment.Bits()), byte(m.Segment.Addr().BitLen()/8))
		b = append(b, m.Segment.Addr().AsSlice()...)
	} else {
		b = append(b, 0, 0)
	}
	b = binary.BigEndian.AppendUint32(b, m.Epoch)
	b = binary.BigEndian.AppendUint64(b, m.Incarnation)
	flags := byte(0)
	if m.Reachable {
		flags |= flagReachable
	}
	if m.Asks {
		flags |= flagAsks
	}
	return append(b, flags)
}

// Parse reads one message. Bytes after it, which a later version may have added, are
// ignored; a kind that is not known is ErrKind, all else that is wrong is ErrMessage.
func Parse(b []byte) (Message, error) {
	if len(b) < 3 || b[0] == 0 {
		return Message{}, ErrMessage
	}
	m := Message{Kind: Kind(b[1])}
	if m.Kind < Suspect || m.Kind > SpeakerVerdict {
		return Message{}, ErrKind
	}
	n := int(b[2])
	b = b[3:]
	if n == 0 || n > maxName || len(b) < n+2 {
		return Message{}, ErrMessage
	}
	m.Node = string(b[:n])
	bits, size := int(b[n]), int(b[n+1])
	b = b[n+2:]
	if len(b) < size+13 {
		return Message{}, ErrMessage
	}
	if size > 0 {
		addr, ok := netip.AddrFromSlice(b[:size])
		m.Segment = netip.PrefixFrom(addr, bits)
		if !ok || !m.Segment.IsValid() || addr.Is4In6() || m.Segment != m.Segment.Masked() {
			return Message{}, ErrMessage
		}
	}
	if (m.Kind == SpeakerVerdict) == m.Segment.IsValid() {
		return Message{}, ErrMessage
	}
	b = b[size:]
	m.Epoch = binary.BigEndian.Uint32(b)
	m.Incarnation = binary.BigEndian.Uint64(b[4:])
	m.Reachable, m.Asks = b[12]&flagReachable != 0, b[12]&flagAsks != 0
	return m, nil
}
