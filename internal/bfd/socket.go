package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// receiveBuffer in bytes holds some hundred packets, for moments in which we do not
	// run.
	receiveBuffer = 256 << 10
	// Source ports are from this range (RFC 5881 §4).
	firstPort, lastPort = 49152, 65535
	// tosControl is CS6, for control packets that must not wait behind user traffic.
	tosControl = 0xc0
)

// bell wakes who polls its descriptor.
type bell struct{ fd int }

func newBell() (*bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	return &bell{fd}, os.NewSyscallError("eventfd", err)
}

func (b *bell) ring() {
	_, _ = unix.Write(b.fd, binary.NativeEndian.AppendUint64(nil, 1)) // full means rung
}

func (b *bell) silence() {
	var count [8]byte
	_, _ = unix.Read(b.fd, count[:])
}

func (b *bell) close() { _ = unix.Close(b.fd) }

// place is where packets of sessions of a kind arrive.
type place struct {
	family   lb.Family
	multiHop bool
	vrf      string
}

func placeOf(k lb.BFDKey) place { return place{lb.FamilyOf(k.Peer), k.MultiHop, k.VRF} }

// option is a socket option whose value is a number.
type option struct{ level, name, value int }

// openSocket opens a UDP socket that never blocks, with options, on a device if there
// is a name.
func openSocket(family lb.Family, device string, options ...option) (int, error) {
	domain := unix.AF_INET6
	if family == lb.IPv4 {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("bind to %s: %w", device, err)
		}
	}
	return fd, nil
}

// share lets sockets of ours in several VRFs have the same port.
//
//nolint:gochecknoglobals // a constant
var share = option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}

// listen opens the socket on which packets arrive, with options if there are any.
func listen(p place, options ...option) (int, error) {
	options = append(options, option{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1},
		option{unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer})
	if p.family == lb.IPv4 {
		options = append(options, option{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}, option{unix.IPPROTO_IP, unix.IP_RECVTTL, 1})
	} else {
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}, option{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1})
	}
	fd, err := openSocket(p.family, p.vrf, options...)
	if err != nil {
		return -1, err
	}
	port := bfd.PortSingleHop
	if p.multiHop {
		port = bfd.PortMultiHop
	}
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: port}
	if p.family == lb.IPv4 {
		at = &unix.SockaddrInet4{Port: port}
	}
	if err := unix.Bind(fd, at); err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return -1, fmt.Errorf("another process has UDP port %d: stop the BFD daemon on this node", port)
		}
		return -1, fmt.Errorf("listen on UDP port %d: %w", port, err)
	}
	// Only now, or we would not notice that somebody else has the port.
	_ = unix.SetsockoptInt(fd, share.level, share.name, share.value)
	return fd, nil
}

// arrival is a packet and what the kernel says of it.
type arrival struct {
	data  []byte
	from  netip.Addr // without zone
	to    netip.Addr // zero on packet sockets
	ttl   int        // -1 on packet sockets
	link  int        // index
	mac   [6]byte    // of the sender, on packet sockets
	stamp time.Time  // wall clock; zero if the kernel does not say
}

// receive reads one packet into b. Its data is valid until the next call.
func receive(fd int, b, control []byte) (arrival, error) {
	n, oobn, _, from, err := unix.Recvmsg(fd, b, control, unix.MSG_DONTWAIT)
	if err != nil {
		return arrival{}, err
	}
	a := arrival{data: b[:n], ttl: -1}
	switch sa := from.(type) {
	case *unix.SockaddrInet4:
		a.from = netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		a.from = netip.AddrFrom16(sa.Addr)
	case *unix.SockaddrLinklayer:
		a.link = sa.Ifindex
		copy(a.mac[:], sa.Addr[:])
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return arrival{}, err
	}
	for _, m := range messages {
		a.read(m)
	}
	return a, nil
}

// read reads one control message.
func (a *arrival) read(m unix.SocketControlMessage) {
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(m.Data[at:]) }
	long := func(at int) int64 { return int64(binary.NativeEndian.Uint64(m.Data[at:])) }
	switch kind, n := [2]int{int(m.Header.Level), int(m.Header.Type)}, len(m.Data); {
	case kind == [2]int{unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS} && n >= 16:
		a.stamp = time.Unix(long(0), long(8))
	case kind == [2]int{unix.IPPROTO_IP, unix.IP_TTL} && n >= 4,
		kind == [2]int{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT} && n >= 4:
		a.ttl = int(word(0))
	case kind == [2]int{unix.IPPROTO_IP, unix.IP_PKTINFO} && n >= 12: // struct in_pktinfo
		a.link = int(word(0))
		a.to = netip.AddrFrom4([4]byte(m.Data[8:12]))
	case kind == [2]int{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO} && n >= 20: // struct in6_pktinfo
		a.to = netip.AddrFrom16([16]byte(m.Data[:16]))
		a.link = int(word(16))
	}
}

// sender is the socket that one session sends from.
type sender struct {
	fd   int
	to   unix.Sockaddr
	link int // index of the session's link; 0 if it names none
	port int
}

// openSender opens the socket. It prefers a source port, which is to stay the same as
// long as the session lives; 0 means any.
func openSender(k lb.BFDKey, port int, random func(n int) int) (*sender, error) {
	s := &sender{fd: -1}
	name := linkOf(k)
	if name != "" {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("find link %s: %w", name, err)
		}
		s.link = link.Index
	}
	dest := bfd.PortSingleHop
	if k.MultiHop {
		dest = bfd.PortMultiHop
	}
	options := []option{{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, bfd.TTL}, {unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tosControl}}
	if k.Peer.Is4() {
		options = []option{{unix.IPPROTO_IP, unix.IP_TTL, bfd.TTL}, {unix.IPPROTO_IP, unix.IP_TOS, tosControl}}
		s.to = &unix.SockaddrInet4{Port: dest, Addr: k.Peer.As4()}
	} else {
		s.to = &unix.SockaddrInet6{Port: dest, Addr: k.Peer.As16(), ZoneId: s.scope(k.Peer)}
	}
	// Nobody reads what arrives at the source port.
	options = append(options, option{unix.SOL_SOCKET, unix.SO_RCVBUF, 0})
	device := name
	if device == "" {
		device = k.VRF
	}
	var err error
	if s.fd, err = openSocket(lb.FamilyOf(k.Peer), device, options...); err != nil {
		return nil, err
	}
	if err := s.bind(k, port, random); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// bind binds to the source address and a free port.
func (s *sender) bind(k lb.BFDKey, port int, random func(n int) int) error {
	var err error
	for range 64 {
		if port == 0 {
			port = firstPort + random(lastPort-firstPort+1)
		}
		var at unix.Sockaddr
		if k.Peer.Is4() {
			from := &unix.SockaddrInet4{Port: port}
			if k.Source.IsValid() {
				from.Addr = k.Source.As4()
			}
			at = from
		} else {
			from := &unix.SockaddrInet6{Port: port}
			if k.Source.IsValid() {
				from.Addr, from.ZoneId = k.Source.As16(), s.scope(k.Source)
			}
			at = from
		}
		if err = unix.Bind(s.fd, at); err == nil {
			s.port = port
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		port = 0
	}
	if k.Source.IsValid() {
		return fmt.Errorf("send from %s: %w", k.Source, err)
	}
	return fmt.Errorf("find a source port: %w", err)
}

// scope returns the link of a link-local address.
func (s *sender) scope(a netip.Addr) uint32 {
	if a.IsLinkLocalUnicast() {
		return uint32(s.link)
	}
	return 0
}

func (s *sender) send(b []byte) error {
	return os.NewSyscallError("sendto", unix.Sendto(s.fd, b, 0, s.to))
}

func (s *sender) close() { _ = unix.Close(s.fd) }

// linkOf returns the name of the link that a key names, or "".
func linkOf(k lb.BFDKey) string {
	if k.Link != "" {
		return k.Link
	}
	return k.Peer.Zone()
}
