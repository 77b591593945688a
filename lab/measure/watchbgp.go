package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// BGPWatchOpts are the options of watch-bgp. Zero values mean the defaults.
type BGPWatchOpts struct {
	Link     string        // where the UPDATEs come in; default "eth0"
	Duration time.Duration // default: until told to stop
}

func (o *BGPWatchOpts) setDefaults() { setDefault(&o.Link, "eth0") }

func (o *BGPWatchOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.StringVar(&o.Link, "link", o.Link, "link where UPDATEs come in")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// Update is an UPDATE with unicast routes, as a router received it.
type Update struct {
	// At is when the kernel received the packet that holds its last byte.
	At        time.Time      `json:"at"`
	From      netip.Addr     `json:"from"`
	Announced []netip.Prefix `json:"announced,omitempty"`
	Withdrawn []netip.Prefix `json:"withdrawn,omitempty"`
}

// watchBGPCommand is `watch-bgp`. It understands connections to the port of BGP.
func watchBGPCommand(ctx context.Context, args []string, std Stdio) error {
	var opts BGPWatchOpts
	if err := parse("watch-bgp", &opts, args, std.Err); err != nil {
		return err
	}
	link, err := net.InterfaceByName(opts.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", opts.Link, err)
	}
	sock, err := openPacket(link, unix.SOCK_DGRAM, unix.ETH_P_ALL, bgpFilter())
	if err != nil {
		return err
	}
	defer func() { _ = sock.Close() }()
	if err := sock.stampReads(); err != nil {
		return err
	}
	out := newEmitter(std.Out)
	ctx, cancel := session{out: out}.follow(ctx, std.In, opts.Duration)
	defer cancel()
	defer sock.interruptReads(ctx)()
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	streams := bgpStreams{}
	buf := make([]byte, 1<<16)
	for {
		n, at, err := sock.readStamped(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			dropped, err := sock.dropped()
			if err == nil && dropped > 0 {
				err = fmt.Errorf("%d packets were not seen for want of memory", dropped)
			}
			return err
		case errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		for _, u := range streams.packet(buf[:n]) {
			u.At = at
			if err := out.emit(event{Event: eventChange, Data: u}); err != nil {
				return err
			}
		}
	}
}

const bgpPort = 179

// bgpFilter is a kernel filter for TCP to the port of BGP, from the network header on;
// an IPv4 header with options does not pass, nor does an IPv6 extension header.
func bgpFilter() []unix.SockFilter {
	const (
		byteAt = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		halfAt = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret    = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: byteAt, K: 0},
		{Code: equal, K: 0x45, Jf: 4},
		{Code: byteAt, K: 9},
		{Code: equal, K: unix.IPPROTO_TCP, Jf: 8},
		{Code: halfAt, K: ipv4Header + 2},
		{Code: equal, K: bgpPort, Jt: 5, Jf: 6},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf0},
		{Code: equal, K: 0x60, Jf: 4},
		{Code: byteAt, K: 6},
		{Code: equal, K: unix.IPPROTO_TCP, Jf: 2},
		{Code: halfAt, K: ipv6Header + 2},
		{Code: equal, K: bgpPort, Jf: 1},
		{Code: ret, K: 1 << 18},
		{Code: ret, K: 0},
	}
}

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	bgpHeader  = 19
)

// bgpStreams are the connections of which packets were seen, by their source.
type bgpStreams map[netip.AddrPort]*bgpStream

// bgpStream puts the messages of one direction of a connection together.
type bgpStream struct {
	next uint32 // the sequence number that follows
	held []byte // a message of which there is more to come
}

// packet takes in a packet that passed bgpFilter, and returns the UPDATEs that it
// completes. What is sent again is passed over; after a gap it begins anew at the next
// packet that begins with a message.
func (s bgpStreams) packet(b []byte) []Update {
	var src netip.Addr
	switch {
	case len(b) >= ipv4Header && b[0] == 0x45:
		length := int(binary.BigEndian.Uint16(b[2:]))
		if length < ipv4Header || length > len(b) {
			return nil
		}
		src, b = netip.AddrFrom4([4]byte(b[12:16])), b[ipv4Header:length]
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		length := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
		if length > len(b) {
			return nil
		}
		src, b = netip.AddrFrom16([16]byte(b[8:24])), b[ipv6Header:length]
	default:
		return nil
	}
	if len(b) < tcpHeader || len(b) < int(b[12]>>4)*4 || b[12]>>4 < tcpHeader/4 {
		return nil
	}
	from := netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	seq, payload := binary.BigEndian.Uint32(b[4:]), b[int(b[12]>>4)*4:]
	if len(payload) == 0 {
		return nil
	}
	stream := s[from]
	if stream == nil {
		stream = &bgpStream{next: seq}
		s[from] = stream
	}
	updates := stream.take(seq, payload)
	for i := range updates {
		updates[i].From = src
	}
	return updates
}

func (s *bgpStream) take(seq uint32, payload []byte) []Update {
	if behind := int32(s.next - seq); behind > 0 { // some of it was seen
		if int(behind) >= len(payload) {
			return nil
		}
		seq, payload = s.next, payload[behind:]
	}
	if seq != s.next {
		s.held = nil
	}
	s.next = seq + uint32(len(payload))
	s.held = append(s.held, payload...)
	var updates []Update
	for len(s.held) >= bgpHeader {
		length := int(binary.BigEndian.Uint16(s.held[16:]))
		if s.held[0] != 0xff || s.held[15] != 0xff || length < bgpHeader {
			s.held = nil // not the beginning of a message
			break
		}
		if len(s.held) < length {
			break
		}
		const update = 2
		if s.held[18] == update {
			if u, ok := parseUpdate(s.held[bgpHeader:length]); ok {
				updates = append(updates, u)
			}
		}
		s.held = s.held[length:]
	}
	return updates
}

// parseUpdate reads the routes of an UPDATE (RFC 4271 §4.3, RFC 4760). It returns false
// for one that has none, as End-of-RIB.
func parseUpdate(b []byte) (Update, bool) {
	var u Update
	withdrawn, rest, ok := counted(b)
	if !ok {
		return u, false
	}
	attrs, nlri, ok := counted(rest)
	if !ok {
		return u, false
	}
	u.Withdrawn, u.Announced = prefixes(withdrawn, 4), prefixes(nlri, 4)
	for len(attrs) >= 3 {
		const (
			extended  = 0x10
			mpReach   = 14
			mpUnreach = 15
		)
		head, length := 3, int(attrs[2])
		if attrs[0]&extended != 0 {
			if len(attrs) < 4 {
				break
			}
			head, length = 4, int(binary.BigEndian.Uint16(attrs[2:]))
		}
		if len(attrs) < head+length {
			break
		}
		kind, value := attrs[1], attrs[head:head+length]
		attrs = attrs[head+length:]
		if len(value) < 3 {
			continue
		}
		size := 4
		if binary.BigEndian.Uint16(value) == 2 {
			size = 16
		}
		switch kind {
		case mpReach: // family, next hop with its length, a reserved byte
			if len(value) >= 5 && len(value) >= 5+int(value[3]) {
				u.Announced = append(u.Announced, prefixes(value[5+int(value[3]):], size)...)
			}
		case mpUnreach:
			u.Withdrawn = append(u.Withdrawn, prefixes(value[3:], size)...)
		}
	}
	return u, len(u.Announced)+len(u.Withdrawn) > 0
}

// counted takes what the length in the first two bytes tells from the front.
//
//nolint:nonamedreturns // two of a kind
func counted(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// prefixes reads prefixes of addresses of size bytes, up to one that makes no sense.
func prefixes(b []byte, size int) []netip.Prefix {
	var all []netip.Prefix
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 8*size || len(b) < 1+n {
			break
		}
		full := make([]byte, size)
		copy(full, b[1:1+n])
		addr, _ := netip.AddrFromSlice(full)
		all = append(all, netip.PrefixFrom(addr, bits))
		b = b[1+n:]
	}
	return all
}
