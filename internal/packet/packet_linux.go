// Package packet is raw packet sockets (AF_PACKET) on all links of the network
// namespace, and the filters that the kernel runs for them. It needs the capability
// NET_RAW and no other. It knows no protocol: what the frames mean is for
// internal/core/arp, internal/core/ndp and those who open the sockets.
package packet

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

// MaxFrame in bytes is more than any frame of ARP or Neighbor Discovery that makes
// sense.
const MaxFrame = 2048

// Conn is a raw socket on all links of the network namespace. The kernel hands each
// frame to it once, on the uppermost link: on the bridge or bond and not on its port
// as well, on the VLAN and not on its parent.
type Conn struct {
	conn  *socket.Conn
	raw   syscall.RawConn
	proto uint16 // network byte order
	wait  bool   // whether Send waits for room
}

// OpenReceiver opens a socket for the frames of one protocol (an ETH_P_ constant) that
// pass filter. It drops what it sends if there is no room: an answer that comes late
// is no use.
func OpenReceiver(proto uint16, filter []bpf.Instruction) (*Conn, error) {
	prog, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	p, err := open(proto)
	if err != nil {
		return nil, err
	}
	_ = p.conn.SetReadBuffer(receiveBuffer)
	// The socket belongs to no protocol before Bind, so that the filter is there
	// before the first frame.
	if err := p.conn.SetBPF(prog); err != nil {
		return nil, errors.Join(fmt.Errorf("set filter: %w", err), p.Close())
	}
	if err := p.conn.Bind(&unix.SockaddrLinklayer{Protocol: p.proto}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), p.Close())
	}
	return p, nil
}

// OpenSender opens a socket that receives nothing and waits for room to send.
func OpenSender() (*Conn, error) {
	p, err := open(0)
	if err == nil {
		p.wait = true
	}
	return p, err
}

func open(proto uint16) (*Conn, error) {
	c, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket: %w", err), c.Close())
	}
	return &Conn{conn: c, raw: raw, proto: htons(proto)}, nil
}

// Read reads one frame into b and returns its length and the index of the link that
// it arrived on.
func (p *Conn) Read(b []byte) (int, int, error) {
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

// Send sends one frame on a link, whose index it takes.
func (p *Conn) Send(frame []byte, link int) error {
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

// SetDeadline bounds how long Send waits.
func (p *Conn) SetDeadline(t time.Time) error { return p.conn.SetWriteDeadline(t) }

// Close closes the socket; a Read that waits ends with an error.
func (p *Conn) Close() error { return p.conn.Close() }

// Transient reports whether an error of a packet socket passes by itself.
func Transient(err error) bool {
	for _, e := range []error{unix.ENETDOWN, unix.ENETUNREACH, unix.ENXIO, unix.ENODEV, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// LinkGone reports whether a frame could not be sent because its link is down or
// was taken away. The next snapshot of the links says so too.
func LinkGone(err error) bool {
	return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
