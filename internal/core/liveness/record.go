package liveness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/barelb/barelb/internal/core/links"
)

// Record is all that a speaker tells of itself.
type Record struct {
	Facts *Facts // never nil
	// Seq counts what the speaker has told since it started.
	Seq    uint64
	Claims map[netip.Addr]uint32 // the term of each address that it claims
	// Absent is for how long the speaker has not been a member; in whole seconds on the
	// wire, so that what is known of those who are gone gets older wherever it is kept.
	Absent time.Duration
}

// Change is a change of one claim.
type Change struct {
	Claim
	Withdrawn bool // it is not claimed any more
}

// Delta is what a speaker tells of changes: those that make its record that with number
// Seq out of the one before. One that holds no change says which is the present one.
type Delta struct {
	Node        string
	Incarnation uint64
	Seq         uint64
	Facts       *Facts // nil if they did not change
	Changes     []Change
}

// maxState in bytes of all records; memberlist takes 20 MiB.
const maxState = 16 << 20

// ErrRecord says that received bytes are no record, no delta or no state.
var ErrRecord = errors.New("liveness: malformed record")

// flags of a link, and of a change
const (
	flagCarrier = 1 << iota
	flagIPv4
	flagIPv6
)

const flagWithdrawn = 1

// flags of facts, at the end of a record or delta: the first speakers did not send them
const flagProxyDown = 1

// Append appends the encoded record to b. Whoever reads it skips what a later version
// has appended at its end.
func (r Record) Append(b []byte) []byte {
	b = r.Facts.append(b)
	b = binary.AppendUvarint(b, r.Seq)
	b = binary.AppendUvarint(b, uint64(r.Absent/time.Second))
	b = binary.AppendUvarint(b, uint64(len(r.Claims)))
	for addr, term := range r.Claims {
		b = binary.AppendUvarint(appendAddr(b, addr), uint64(term))
	}
	return append(b, r.Facts.flags())
}

// ParseRecord reads what [Record.Append] made. It keeps no part of b.
func ParseRecord(b []byte) (Record, error) {
	r := reader{b: b}
	out := Record{Facts: r.facts(), Seq: r.uvarint()}
	const century = 100 * 365 * 24 * 3600
	out.Absent = time.Duration(min(r.uvarint(), century)) * time.Second
	n := r.count(6) // bytes of the shortest claim
	out.Claims = make(map[netip.Addr]uint32, n)
	for range n {
		addr := r.addr()
		out.Claims[addr] = uint32(r.uvarint())
	}
	r.flags(out.Facts)
	if r.failed {
		return Record{}, fmt.Errorf("%w of %d bytes", ErrRecord, len(b))
	}
	return out, nil
}

// Append appends the encoded delta to b.
func (d Delta) Append(b []byte) []byte {
	b = appendString(b, d.Node)
	b = binary.AppendUvarint(b, d.Incarnation)
	b = binary.AppendUvarint(b, d.Seq)
	if d.Facts == nil {
		b = append(b, 0)
	} else {
		b = d.Facts.append(append(b, 1))
	}
	b = binary.AppendUvarint(b, uint64(len(d.Changes)))
	for _, c := range d.Changes {
		b = c.append(b)
	}
	if d.Facts != nil {
		b = append(b, d.Facts.flags())
	}
	return b
}

func (c Change) append(b []byte) []byte {
	flags := byte(0)
	if c.Withdrawn {
		flags = flagWithdrawn
	}
	return binary.AppendUvarint(append(appendAddr(b, c.Addr), flags), uint64(c.Term))
}

// ParseDelta reads what [Delta.Append] made. It keeps no part of b.
func ParseDelta(b []byte) (Delta, error) {
	r := reader{b: b}
	d := Delta{Node: r.string(maxName), Incarnation: r.uvarint(), Seq: r.uvarint()}
	if r.byte() != 0 {
		d.Facts = r.facts()
		r.failed = r.failed || d.Facts.Node != d.Node || d.Facts.Incarnation != d.Incarnation
	}
	for range r.count(7) {
		c := Change{Claim: Claim{Addr: r.addr()}, Withdrawn: r.byte()&flagWithdrawn != 0}
		c.Term = uint32(r.uvarint())
		d.Changes = append(d.Changes, c)
	}
	if d.Facts != nil {
		r.flags(d.Facts)
	}
	if r.failed || d.Node == "" {
		return Delta{}, fmt.Errorf("%w: delta of %d bytes", ErrRecord, len(b))
	}
	return d, nil
}

// appendState appends encoded records, each with its length before it.
func appendState(b []byte, records [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(records)))
	for _, r := range records {
		b = append(binary.AppendUvarint(b, uint64(len(r))), r...)
	}
	return b
}

// parseState reads what appendState made.
func parseState(b []byte) ([]Record, error) {
	r := reader{b: b}
	var out []Record
	for range r.count(1) {
		rec, err := ParseRecord(r.bytes(int(min(r.uvarint(), maxState))))
		if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	if r.failed {
		return nil, fmt.Errorf("%w: state of %d bytes", ErrRecord, len(b))
	}
	return out, nil
}

func (f *Facts) append(b []byte) []byte {
	b = appendString(b, f.Node)
	b = binary.AppendUvarint(b, uint64(f.Version))
	b = binary.AppendUvarint(b, f.Incarnation)
	b = append(b, byte(f.Phase))
	b = binary.AppendUvarint(b, uint64(len(f.Links)))
	for _, l := range f.Links {
		b = appendString(b, l.Name)
		b = append(b, l.MAC[:]...)
		flags := byte(0)
		for flag, set := range map[byte]bool{flagCarrier: l.Carrier, flagIPv4: l.IPv4, flagIPv6: l.IPv6} {
			if set {
				flags |= flag
			}
		}
		b = append(b, flags)
		b = binary.AppendUvarint(b, uint64(len(l.Addrs)))
		for _, p := range l.Addrs {
			b = append(appendAddr(b, p.Addr()), byte(p.Bits()))
		}
	}
	return b
}

func (f *Facts) flags() byte {
	if f.ProxyDown {
		return flagProxyDown
	}
	return 0
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	raw := a.WithZone("").AsSlice()
	return append(append(b, byte(len(raw))), raw...)
}

// reader reads received bytes. Once it has failed, all that it returns is zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) bytes(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.failed || n <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads how many things of at least size bytes follow, which is no more than
// what follows has room for.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.failed = true
		return 0
	}
	return int(n)
}

func (r *reader) string(limit int) string {
	n := r.uvarint()
	if n > uint64(limit) {
		r.failed = true
		return ""
	}
	return string(r.bytes(int(n)))
}

func (r *reader) addr() netip.Addr {
	a, ok := netip.AddrFromSlice(r.bytes(int(r.byte())))
	r.failed = r.failed || !ok || a.Is4In6()
	return a
}

func (r *reader) facts() *Facts {
	f := &Facts{Node: r.string(maxName), Version: uint16(r.uvarint()), Incarnation: r.uvarint(), Phase: Phase(r.byte())}
	r.failed = r.failed || f.Node == ""
	for range r.count(9) {
		l := Link{Name: r.string(maxName)}
		copy(l.MAC[:], r.bytes(len(links.MAC{})))
		flags := r.byte()
		l.Carrier, l.IPv4, l.IPv6 = flags&flagCarrier != 0, flags&flagIPv4 != 0, flags&flagIPv6 != 0
		for range r.count(6) {
			addr := r.addr()
			p := netip.PrefixFrom(addr, int(r.byte()))
			r.failed = r.failed || !p.IsValid()
			l.Addrs = append(l.Addrs, p)
		}
		f.Links = append(f.Links, l)
	}
	return f
}

// flags reads the flags of f, if they are there.
func (r *reader) flags(f *Facts) {
	if !r.failed && len(r.b) > 0 {
		f.ProxyDown = r.byte()&flagProxyDown != 0
	}
}
