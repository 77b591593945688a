package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packetSocket is an AF_PACKET socket on one link. Read takes one packet.
type packetSocket struct{ *os.File }

// openPacket opens a socket of kind SOCK_RAW (with the Ethernet header) or
// SOCK_DGRAM (from the network header) that takes what link receives, not what
// it sends. The filter is in place before the first packet can be.
func openPacket(link *net.Interface, kind int, ethertype uint16, filter []unix.SockFilter) (packetSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return packetSocket{}, fmt.Errorf("open packet socket: %w", err)
	}
	if err := setUpPacket(fd, link, ethertype, filter); err != nil {
		_ = unix.Close(fd)
		return packetSocket{}, fmt.Errorf("set up packet socket on %s: %w", link.Name, err)
	}
	return packetSocket{os.NewFile(uintptr(fd), "packet:"+link.Name)}, nil
}

func setUpPacket(fd int, link *net.Interface, ethertype uint16, filter []unix.SockFilter) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return err
	}
	// A burst of flows must not overflow the queue while this process waits for a core.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if len(filter) > 0 {
		prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
			return err
		}
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(ethertype), Ifindex: link.Index})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// stampReads has the kernel note when it receives each packet, for readStamped.
func (s packetSocket) stampReads() error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}); err != nil {
		return err
	}
	if serr != nil {
		return fmt.Errorf("stamp packets: %w", serr)
	}
	return nil
}

// readStamped reads a packet and the time at which the kernel received it.
func (s packetSocket) readStamped(buf []byte) (int, time.Time, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, time.Time{}, err
	}
	oob := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.Timespec{}))))
	var n, oobn int
	var rerr error
	if err := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
		return !errors.Is(rerr, unix.EAGAIN)
	}); err != nil {
		return 0, time.Time{}, err
	}
	if rerr != nil {
		return 0, time.Time{}, rerr
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("parse control message: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			sec, nsec := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			return n, time.Unix(int64(sec), int64(nsec)), nil
		}
	}
	return n, time.Now(), nil
}

// interruptReads makes a blocked or later Read fail once ctx ends. The returned
// function undoes it.
func (s packetSocket) interruptReads(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
}

// dropped is the number of packets that the kernel could not queue since it was last asked.
func (s packetSocket) dropped() (int, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	var serr error
	if err := raw.Control(func(fd uintptr) {
		stats, serr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, serr
	}
	return int(stats.Drops), nil
}
