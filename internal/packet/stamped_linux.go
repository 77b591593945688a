package packet

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Frame is what Poll says of a frame that it has read.
type Frame struct {
	Len  int // in bytes
	Link int // index of the link that it arrived on
	// At is when the kernel received it, by the wall clock and without a monotonic
	// reading; zero if the kernel did not say.
	At time.Time
}

// ErrEmpty is what Poll returns when no frame waits.
var ErrEmpty = errors.New("packet: no frame waits")

// OpenStamped opens a socket as [OpenReceiver] does, whose frames the kernel stamps
// with the time at which it received them (SO_TIMESTAMPNS). It is for those who judge
// by that time: one goroutine calls WaitReadable, another one Poll.
func OpenStamped(proto uint16, filter []bpf.Instruction) (*Conn, error) {
	p, err := OpenReceiver(proto, filter)
	if err != nil {
		return nil, err
	}
	if err := p.conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("stamp frames: %w", err), p.Close())
	}
	return p, nil
}

// WaitReadable blocks until a frame waits, or an error does, or the socket is closed,
// which it returns an error for.
func (p *Conn) WaitReadable() error {
	return p.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
}

// Poll reads a frame that waits into b, and does not block: if there is none it returns
// ErrEmpty. It may be called while WaitReadable blocks.
func (p *Conn) Poll(b []byte) (Frame, error) {
	var (
		oob  [64]byte
		f    Frame
		oobn int
		from unix.Sockaddr
		err  error
	)
	if cerr := p.raw.Control(func(fd uintptr) {
		f.Len, oobn, _, from, err = unix.Recvmsg(int(fd), b, oob[:], unix.MSG_DONTWAIT)
	}); cerr != nil {
		return Frame{}, cerr
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return Frame{}, ErrEmpty
	case err != nil:
		return Frame{}, os.NewSyscallError("recvmsg", err)
	}
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return Frame{}, fmt.Errorf("receive from %T: not a link-layer address", from)
	}
	f.Link, f.At = ll.Ifindex, stamp(oob[:oobn])
	return f, nil
}

// stamp returns the time that the control messages hold, or zero.
func stamp(oob []byte) time.Time {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return time.Time{}
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			var ts unix.Timespec
			copy((*[unsafe.Sizeof(ts)]byte)(unsafe.Pointer(&ts))[:], data) //nolint:gosec // the kernel's structure, whose length was looked at
			return time.Unix(ts.Unix())
		}
		oob = rest
	}
	return time.Time{}
}
