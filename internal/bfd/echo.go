package bfd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/packet"
)

// echoSockets are packet sockets, one for each family. A UDP socket would not do: an
// echo packet goes to the router's MAC with our own address as its destination, and
// when it comes back, an IPv4 kernel drops what bears its own address as the source.
// They also show with which MAC the router's control packets come.
type echoSockets struct {
	fd4, fd6 int
	err      error
}

// openEcho opens the sockets if a session needs them, and closes them otherwise.
func (e *engine) openEcho() {
	need := false
	for key, s := range e.sessions {
		need = need || s.profile.Echo && !key.MultiHop
	}
	switch {
	case !need:
		e.echo.close()
		e.echo = nil
	case e.echo == nil || e.echo.err != nil:
		e.echo = newEchoSockets()
	}
}

func newEchoSockets() *echoSockets {
	s := &echoSockets{fd4: -1, fd6: -1}
	udp := uint32(unix.IPPROTO_UDP)
	ports := packet.Match{Load: bpf.LoadAbsolute{Off: 22, Size: 2}, Min: bfd.PortSingleHop, Max: bfd.PortEcho}
	s.fd4, s.err = openPacket(unix.ETH_P_IP, packet.AllOf(packet.At(0, 1, 0x45), packet.At(9, 1, udp), ports))
	if s.err == nil {
		ports.Load = bpf.LoadAbsolute{Off: 42, Size: 2}
		s.fd6, s.err = openPacket(unix.ETH_P_IPV6, packet.AllOf(packet.At(6, 1, udp), ports))
	}
	if s.err != nil {
		s.close()
		s.err = fmt.Errorf("echo packets cannot be sent: %w", s.err)
	}
	return s
}

// openPacket opens a socket for IP packets of all Ethernet links that pass a filter.
func openPacket(proto uint16, filter []bpf.Instruction) (int, error) {
	prog, err := bpf.Assemble(filter)
	if err != nil {
		return -1, fmt.Errorf("assemble filter: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	raw := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		raw[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(proto)})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	return fd, nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (s *echoSockets) fds() []int {
	var all []int
	if s != nil && s.err == nil {
		all = []int{s.fd4, s.fd6}
	}
	return all
}

func (s *echoSockets) close() {
	if s == nil {
		return
	}
	for _, fd := range []int{s.fd4, s.fd6} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	s.fd4, s.fd6 = -1, -1
}

// problem says what keeps a session from using the echo function.
func (s *echoSockets) problem(of *session) string {
	if s == nil || !of.profile.Echo || of.key.MultiHop {
		return ""
	}
	if s.err != nil {
		return s.err.Error()
	}
	st := of.machine.Status()
	switch {
	case st.State == bfd.Up && st.RemoteEcho == 0:
		return "echo mode is on, but the router takes no echo packets"
	case st.Echo != 0 && !st.EchoWorks && of.counters.EchoOut > 2*uint64(of.profile.Multiplier):
		return "echo mode is on, but the router returns no echo packets"
	}
	return ""
}

// takeRaw takes in an IP packet: an echo packet of ours that has come back, or a
// control packet, which shows where the router is.
func (e *engine) takeRaw(a arrival, now time.Time) {
	if echo, err := bfd.ParseEcho(a.data); err == nil {
		if s := e.byDiscr(echo.Discr); s != nil && s.path.link == a.link {
			s.counters.EchoIn++
			e.step(s, now, bfd.EchoBack{Echo: echo, At: e.arrived(a, now)})
		}
		return
	}
	// The filter has seen to it that this is UDP, to one of two ports.
	port, ttl := 0, 0
	switch b := a.data; {
	case len(b) >= 28 && b[0]>>4 == 4:
		a.from, a.to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		port, ttl = int(binary.BigEndian.Uint16(b[22:])), int(b[8])
	case len(b) >= 48 && b[0]>>4 == 6:
		a.from, a.to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		port, ttl = int(binary.BigEndian.Uint16(b[42:])), int(b[7])
	}
	if port != bfd.PortSingleHop || ttl != bfd.TTL {
		return // such as an echo packet of the router's
	}
	for _, s := range e.sessions {
		if !s.profile.Echo || s.key.MultiHop || !s.fits(placeOf(s.key), a) {
			continue
		}
		if p := (path{a.link, a.mac, a.to}); s.path != p {
			s.path = p
			e.step(s, now, bfd.EchoPath{Send: true, Return: forwards(a.link, lb.FamilyOf(a.to))})
		}
	}
}

// forwards reports whether the kernel returns echo packets of a neighbour on a link:
// whether it forwards packets.
func forwards(link int, family lb.Family) bool {
	dev, err := net.InterfaceByIndex(link)
	if err != nil {
		return false
	}
	file := "ipv6/conf/all/forwarding"
	if family == lb.IPv4 {
		file = filepath.Join("ipv4/conf", dev.Name, "forwarding")
	}
	text, err := os.ReadFile(filepath.Join("/proc/sys/net", file))
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// sendEcho sends an echo packet to the router's MAC.
func (e *engine) sendEcho(s *session, echo bfd.Echo) {
	if e.echo == nil || e.echo.err != nil {
		return
	}
	fd, proto := e.echo.fd6, uint16(unix.ETH_P_IPV6)
	if s.path.local.Is4() {
		fd, proto = e.echo.fd4, unix.ETH_P_IP
	}
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(proto), Ifindex: s.path.link, Halen: 6}
	copy(to.Addr[:], s.path.mac[:])
	e.out = echo.AppendPacket(e.out[:0], s.path.local)
	if unix.Sendto(fd, e.out, 0, to) == nil { // what is not sent does not come back
		s.counters.EchoOut++
	}
}
