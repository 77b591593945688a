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
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// EntryOpts are the options of entry. Zero values mean the defaults.
type EntryOpts struct {
	Target   netip.AddrPort // of the Service; port 0: every port
	Proto    string         // "tcp", "udp" or "any" (default)
	Link     string         // where flows come in; default "eth0"
	Duration time.Duration  // default: until told to stop
}

func (o *EntryOpts) setDefaults() {
	setDefault(&o.Proto, "any")
	setDefault(&o.Link, "eth0")
}

func (o *EntryOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.Target, "target", o.Target, "address:port of the Service; port 0: every port")
	fs.StringVar(&o.Proto, "proto", o.Proto, "tcp, udp or any")
	fs.StringVar(&o.Link, "link", o.Link, "link where flows come in")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// EntryReport tells how many flows for the Service came in at a node, whichever
// node's pod served them.
type EntryReport struct {
	Target netip.AddrPort `json:"target"`
	Link   string         `json:"link"`
	// Flows are the distinct pairs of source address and port, of TCP by SYN
	// (sent again or not) and of UDP by any datagram.
	Flows int `json:"flows"`
	TCP   int `json:"tcp"`
	UDP   int `json:"udp"`
	// Packets that began a flow or, with UDP, belong to one.
	Packets int `json:"packets"`
	// Dropped packets were not seen for want of memory: Flows may be too low.
	Dropped int `json:"dropped"`
}

// entryCommand is `entry`.
func entryCommand(ctx context.Context, args []string, std Stdio) error {
	var opts EntryOpts
	if err := parse("entry", &opts, args, std.Err); err != nil {
		return err
	}
	protos := map[string][]byte{"any": {unix.IPPROTO_TCP, unix.IPPROTO_UDP}, "tcp": {unix.IPPROTO_TCP}, "udp": {unix.IPPROTO_UDP}}[opts.Proto]
	if !opts.Target.Addr().IsValid() || protos == nil {
		return errors.New("parse arguments of entry: --target and --proto tcp, udp or any are needed")
	}
	link, err := net.InterfaceByName(opts.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", opts.Link, err)
	}
	sock, err := openPacket(link, unix.SOCK_DGRAM, unix.ETH_P_ALL, entryFilter(opts.Target.Addr()))
	if err != nil {
		return err
	}
	defer func() { _ = sock.Close() }()
	count := newEntryCount(opts, protos)
	out := newEmitter(std.Out)
	s := session{out: out, status: func() any { return count.report() }}
	ctx, cancel := s.follow(ctx, std.In, opts.Duration)
	defer cancel()
	defer sock.interruptReads(ctx)()
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	if err := count.read(sock); err != nil {
		return err
	}
	r := count.report()
	if r.Dropped, err = sock.dropped(); err != nil {
		return fmt.Errorf("read statistics of packet socket: %w", err)
	}
	return out.emit(event{Event: eventReport, Data: r})
}

// entryCount counts distinct flows; mu guards the rest.
type entryCount struct {
	opts   EntryOpts
	protos []byte

	mu      sync.Mutex
	tcp     map[netip.AddrPort]struct{}
	udp     map[netip.AddrPort]struct{}
	packets int
}

func newEntryCount(opts EntryOpts, protos []byte) *entryCount {
	return &entryCount{
		opts: opts, protos: protos,
		tcp: make(map[netip.AddrPort]struct{}), udp: make(map[netip.AddrPort]struct{}),
	}
}

// read counts until reads are interrupted, then what is queued still.
func (e *entryCount) read(sock packetSocket) error {
	buf := make([]byte, 256)
	for {
		n, err := sock.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return e.drain(sock, buf)
		case errors.Is(err, unix.ENETDOWN):
			continue // told once when the link goes down; it may come back
		case err != nil:
			return fmt.Errorf("read from packet socket: %w", err)
		}
		e.add(buf[:n])
	}
}

// drain takes what had arrived before the end.
func (e *entryCount) drain(sock packetSocket, buf []byte) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if err != nil {
				return // EAGAIN: the queue is empty
			}
			e.add(buf[:n])
		}
	})
}

func (e *entryCount) add(packet []byte) {
	p, ok := parseOpening(packet)
	if !ok || p.dst.Addr() != e.opts.Target.Addr() || e.opts.Target.Port() != 0 && p.dst.Port() != e.opts.Target.Port() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, proto := range e.protos {
		if proto != p.proto {
			continue
		}
		e.packets++
		if proto == unix.IPPROTO_TCP {
			e.tcp[p.src] = struct{}{}
		} else {
			e.udp[p.src] = struct{}{}
		}
	}
}

func (e *entryCount) report() EntryReport {
	e.mu.Lock()
	defer e.mu.Unlock()
	return EntryReport{
		Target: e.opts.Target, Link: e.opts.Link,
		Flows: len(e.tcp) + len(e.udp), TCP: len(e.tcp), UDP: len(e.udp), Packets: e.packets,
	}
}

// opening is a packet that may begin a flow.
type opening struct {
	proto    byte
	src, dst netip.AddrPort
}

// parseOpening reads an IPv4 or IPv6 packet and reports whether it is a TCP SYN
// (without ACK) or a UDP datagram. Fragments after the first carry no ports and
// IPv6 extension headers are not walked: no client in the lab sends either.
func parseOpening(b []byte) (opening, bool) {
	var (
		o        opening
		src, dst netip.Addr
		rest     []byte
	)
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		header := int(b[0]&0x0f) * 4
		if header < 20 || len(b) < header || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return o, false
		}
		o.proto, rest = b[9], b[header:]
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		o.proto, rest = b[6], b[40:]
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return o, false
	}
	if len(rest) < 8 {
		return o, false
	}
	o.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest))
	o.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:]))
	switch o.proto {
	case unix.IPPROTO_UDP:
		return o, true
	case unix.IPPROTO_TCP:
		const syn, ack = 0x02, 0x10
		return o, len(rest) >= 14 && rest[13]&(syn|ack) == syn
	}
	return o, false
}

// entryFilter is a kernel filter for packets from the network header on: sent
// to this host (not flooded by the switch, which a capture would show as well)
// and to dst. What else must hold is checked by parseOpening.
func entryFilter(dst netip.Addr) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret    = unix.BPF_RET | unix.BPF_K
		ipv4At = 16
		ipv6At = 24
		// linux/filter.h: from SKF_AD_OFF on, what the kernel knows of the packet.
		adProtocol = 0xfffff000
		adPktType  = 0xfffff004
	)
	// Pairs of what to load and what it must be.
	checks := [][2]uint32{{adPktType, unix.PACKET_HOST}}
	at, ethertype := uint32(ipv4At), uint32(unix.ETH_P_IP)
	if dst.Is6() {
		at, ethertype = ipv6At, unix.ETH_P_IPV6
	}
	checks = append(checks, [2]uint32{adProtocol, ethertype})
	for word := range dst.BitLen() / 32 {
		value := binary.BigEndian.Uint32(dst.AsSlice()[4*word:])
		checks = append(checks, [2]uint32{at + 4*uint32(word), value})
	}
	var prog []unix.SockFilter
	for i, c := range checks {
		toDrop := uint8(2*(len(checks)-1-i) + 1)
		prog = append(prog, unix.SockFilter{Code: load, K: c[0]}, unix.SockFilter{Code: equal, K: c[1], Jf: toDrop})
	}
	return append(prog, unix.SockFilter{Code: ret, K: 1 << 18}, unix.SockFilter{Code: ret, K: 0})
}
