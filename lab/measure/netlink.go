package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// What watch-neigh and watch-route need of rtnetlink.

// message is one netlink message without its header.
type message struct {
	kind uint16 // RTM_…
	body []byte
}

// netlinkBuffer holds the largest datagram that the kernel sends.
const netlinkBuffer = 256 << 10

// subscribe opens a socket that receives the messages of groups, a mask of
// RTMGRP_… bits.
func subscribe(groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("subscribe to netlink groups: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// query asks the kernel and returns its answer. Flags are NLM_F_DUMP or 0. A
// dump that the kernel says was changed under its hands is asked for again.
func query(kind, flags uint16, body []byte) ([]message, error) {
	for {
		msgs, whole, err := queryOnce(kind, flags, body)
		if whole || err != nil {
			return msgs, err
		}
	}
}

// queryOnce reports false where a dump has to be asked for again.
func queryOnce(kind, flags uint16, body []byte) ([]message, bool, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, false, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	req = binary.NativeEndian.AppendUint16(req, kind)
	req = binary.NativeEndian.AppendUint16(req, unix.NLM_F_REQUEST|flags)
	req = binary.NativeEndian.AppendUint32(req, 1) // sequence number
	req = binary.NativeEndian.AppendUint32(req, 0) // from us
	if err := unix.Sendto(fd, append(req, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, false, fmt.Errorf("send netlink request: %w", err)
	}
	var a dump
	buf := make([]byte, netlinkBuffer)
	for !a.done {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("receive netlink answer: %w", err)
		}
		if err := a.add(buf[:n]); err != nil {
			return nil, false, err
		}
	}
	return a.msgs, !a.interrupted, nil
}

// dump is an answer of one or more messages.
type dump struct {
	msgs        []message
	done        bool
	interrupted bool
}

// add takes a datagram, of which it keeps nothing.
func (d *dump) add(datagram []byte) error {
	parsed, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return fmt.Errorf("parse netlink answer: %w", err)
	}
	for _, m := range parsed {
		d.interrupted = d.interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
		// A message that is not part of several is the whole answer.
		d.done = d.done || m.Header.Flags&unix.NLM_F_MULTI == 0 || m.Header.Type == unix.NLMSG_DONE
		switch m.Header.Type {
		case unix.NLMSG_DONE:
		case unix.NLMSG_ERROR:
			if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return syscall.Errno(-errno)
			}
		default:
			d.msgs = append(d.msgs, message{kind: m.Header.Type, body: bytes.Clone(m.Data)})
		}
	}
	return nil
}

// attributes walks over attributes, a type and a value each.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			// The upper two bits of the type are flags.
			if !yield(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// attribute appends one attribute to b.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// addrOf is the address in an attribute; invalid if it is none.
func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// linkNames remembers names for as long as one answer of the kernel is read.
type linkNames map[int]string

// name is the name of a link, or its number if it is gone.
func (l linkNames) name(index int) string {
	if n, ok := l[index]; ok {
		return n
	}
	n := "if" + strconv.Itoa(index)
	if link, err := net.InterfaceByIndex(index); err == nil {
		n = link.Name
	}
	l[index] = n
	return n
}

// family is the address family of addr.
func family(addr netip.Addr) byte {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
