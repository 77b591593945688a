package layer2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// receiveBuffer in bytes holds some thousand requests, for moments in which we do
// not run. Without the capability NET_ADMIN the kernel gives what it allows.
const receiveBuffer = 1 << 20

// packetConn is a raw socket on all links of the network namespace. The kernel hands
// each frame to it once, on the uppermost link: on the bridge or bond and not on its
// port as well, on the VLAN and not on its parent.
type packetConn struct {
	conn  *socket.Conn
	raw   syscall.RawConn
	proto uint16 // network byte order
	wait  bool   // whether send waits for room
}

// openReceiver opens a socket for the frames of one protocol that pass filter. It
// drops what it sends if there is no room: an answer that comes late is no use.
func openReceiver(proto uint16, filter []bpf.Instruction) (*packetConn, error) {
	prog, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	p, err := openPacket(proto)
	if err != nil {
		return nil, err
	}
	_ = p.conn.SetReadBuffer(receiveBuffer)
	// The socket belongs to no protocol before Bind, so that the filter is there
	// before the first frame.
	if err := p.conn.SetBPF(prog); err != nil {
		return nil, errors.Join(fmt.Errorf("set filter: %w", err), p.close())
	}
	if err := p.conn.Bind(&unix.SockaddrLinklayer{Protocol: p.proto}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), p.close())
	}
	return p, nil
}

// openSender opens a socket that receives nothing and waits for room to send.
func openSender() (*packetConn, error) {
	p, err := openPacket(0)
	if err == nil {
		p.wait = true
	}
	return p, err
}

func openPacket(proto uint16) (*packetConn, error) {
	c, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket: %w", err), c.Close())
	}
	return &packetConn{conn: c, raw: raw, proto: htons(proto)}, nil
}

// read reads one frame into b and returns its length and the index of the link that
// it arrived on.
func (p *packetConn) read(b []byte) (int, int, error) {
	n, from, err := p.conn.Recvfrom(context.Background(), b, 0)
	if err != nil {
		return 0, 0, err
	}
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return 0, 0, fmt.Errorf("receive from %T: not a link-layer address", from)
	}
	return n, ll.Ifindex, nil
}

// send sends one frame on a link.
func (p *packetConn) send(frame []byte, link int) error {
	to := &unix.SockaddrLinklayer{Ifindex: link, Halen: 6, Protocol: binary.NativeEndian.Uint16(frame[12:])}
	copy(to.Addr[:], frame[:6])
	var err error
	if werr := p.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), frame, unix.MSG_DONTWAIT, to)
		return !p.wait || !errors.Is(err, unix.EAGAIN)
	}); werr != nil {
		return werr
	}
	return os.NewSyscallError("sendto", err)
}

// setDeadline bounds how long send waits.
func (p *packetConn) setDeadline(t time.Time) error { return p.conn.SetWriteDeadline(t) }

func (p *packetConn) close() error { return p.conn.Close() }

// transient reports whether an error of a packet socket passes by itself.
func transient(err error) bool {
	for _, e := range []error{unix.ENETDOWN, unix.ENETUNREACH, unix.ENXIO, unix.ENODEV, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// linkGone reports whether a frame could not be sent because its link is down or
// was taken away. The next snapshot of the links says so too.
func linkGone(err error) bool {
	return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// match is one condition of a filter: a value at an offset, or of an extension.
type match struct {
	load bpf.Instruction
	val  uint32
}

// allOf returns a filter that accepts frames that meet all conditions and were sent
// to this host, to everybody or to a group: not what we send ourselves, and not what
// is meant for other stations, as which the kernel also marks frames of a VLAN
// that the host is not in.
func allOf(conds ...match) []bpf.Instruction {
	const (
		packetMulticast = 2 // after PACKET_HOST and PACKET_BROADCAST
		wholeFrame      = 1 << 16
	)
	conds = append(conds, match{bpf.LoadExtension{Num: bpf.ExtLinkLayerType}, unix.ARPHRD_ETHER})
	var prog []bpf.Instruction
	for i, c := range conds {
		left := uint8(2*(len(conds)-i-1) + 3)
		prog = append(prog, c.load, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: c.val, SkipTrue: left})
	}
	return append(prog,
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: packetMulticast, SkipTrue: 1},
		bpf.RetConstant{Val: wholeFrame},
		bpf.RetConstant{Val: 0},
	)
}

// arpRequests accepts ARP requests (RFC 826).
func arpRequests() []bpf.Instruction {
	return allOf(match{bpf.LoadAbsolute{Off: 20, Size: 2}, 1})
}

// solicitations accepts Neighbor Solicitations (RFC 4861 §4.3). It sees every IPv6
// packet that the host receives, so what tells most apart comes first.
func solicitations() []bpf.Instruction {
	return allOf(
		match{bpf.LoadAbsolute{Off: 20, Size: 1}, 58},  // next header: ICMPv6
		match{bpf.LoadAbsolute{Off: 54, Size: 1}, 135}, // type
		match{bpf.LoadAbsolute{Off: 21, Size: 1}, 255}, // hop limit
	)
}
