package bgp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// dialTime bounds one attempt. The kernel sends a second SYN after 1 s and a third
	// not before 3 s: beginning again is sooner.
	dialTime = 1900 * time.Millisecond
	// closeTime is how long the router is given to take what was written last.
	closeTime = time.Second
	// graceTime is for what has arrived while this process did not run.
	graceTime = 100 * time.Millisecond
	readSize  = 16 << 10
)

// conn is one connection to a router.
type conn struct {
	tcp    *net.TCPConn
	read   *bufio.Reader
	way    local
	peer   lb.Peer // as it was when it was dialled
	counts *counts
	broken bool // a message may have been cut: nothing can follow it
	buf    [bgpmsg.MaxLen]byte

	facts   Negotiated
	sent    map[netip.Prefix]*bundle // what the router has been sent
	lacking string                   // which routes are not sent, and why
}

// counts are of messages, over all connections of a session.
type counts struct {
	opensIn, opensOut, notificationsIn, notificationsOut, updatesIn, updatesOut,
	keepalivesIn, keepalivesOut, refreshesIn atomic.Uint64
}

func (c *counts) in(t bgpmsg.Type) {
	switch t {
	case bgpmsg.TypeOpen:
		c.opensIn.Add(1)
	case bgpmsg.TypeUpdate:
		c.updatesIn.Add(1)
	case bgpmsg.TypeNotification:
		c.notificationsIn.Add(1)
	case bgpmsg.TypeKeepalive:
		c.keepalivesIn.Add(1)
	case bgpmsg.TypeRouteRefresh:
		c.refreshesIn.Add(1)
	}
}

// dial connects to p. The error is a *failure.
func dial(ctx context.Context, p lb.Peer, way local) (*conn, error) {
	device := p.VRF
	if device == "" && p.Interface != "" {
		device = p.Interface
	}
	d := net.Dialer{
		Timeout:   dialTime,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(way.addr.WithZone(way.router.Zone()), 0)),
		KeepAlive: -1, // the hold timer does that
		ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
			var err error
			if e := raw.Control(func(fd uintptr) { err = prepare(int(fd), p, way, device) }); e != nil {
				return e
			}
			return err
		},
	}
	if way.addr.Is4() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(way.addr, 0))
	}
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(way.router, p.Port).String())
	if err != nil {
		return nil, &failure{text: explainDial(err, p, way.router), err: err}
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, &failure{text: fmt.Sprintf("connection is a %T", c)}
	}
	return &conn{tcp: tcp, read: bufio.NewReaderSize(tcp, readSize), way: way, peer: p, sent: map[netip.Prefix]*bundle{}}, nil
}

// prepare sets the options of a socket that have to be set before it connects.
func prepare(fd int, p lb.Peer, way local, device string) error {
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("bind to device %s: %w", device, err)
		}
	}
	if p.Password != "" {
		if err := sign(fd, way.router, p.Password); err != nil {
			return fmt.Errorf("set password: %w", err)
		}
	}
	level, ttlOption, leastOption := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL
	if way.addr.Is6() {
		level, ttlOption, leastOption = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	}
	ttl := 0
	switch {
	case p.TTLSecurityHops > 0: // RFC 5082 §3
		ttl = maxTTL
		if err := unix.SetsockoptInt(fd, level, leastOption, maxTTL+1-int(p.TTLSecurityHops)); err != nil {
			return fmt.Errorf("set ttlSecurityHops: %w", err)
		}
	case internal(p):
		return nil // the kernel's
	case p.MultiHop:
		ttl = maxTTL
	default:
		ttl = 1
	}
	if err := unix.SetsockoptInt(fd, level, ttlOption, ttl); err != nil {
		return fmt.Errorf("set TTL: %w", err)
	}
	return nil
}

// sign has the kernel sign what goes to router, and demand the same (RFC 2385).
func sign(fd int, router netip.Addr, password string) error {
	sig := unix.TCPMD5Sig{Keylen: uint16(len(password))}
	copy(sig.Key[:], password)
	sig.Addr.Family = unix.AF_INET
	at := 2 // struct sockaddr_in: port, then address
	if router.Is6() {
		sig.Addr.Family = unix.AF_INET6
		at = 6 // struct sockaddr_in6: port, flow, then address
	}
	copy(sig.Addr.Data[at:], router.AsSlice())
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig) //nolint:wrapcheck // the caller does
}

// close closes the connection, whatever has been written.
func (c *conn) close() { _ = c.tcp.Close() }

// write sends whole messages, all within d.
func (c *conn) write(b []byte, d time.Duration) error {
	if c.broken {
		return net.ErrClosed
	}
	deadline := time.Time{}
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	if err := c.tcp.SetWriteDeadline(deadline); err != nil {
		c.broken = true
		return err //nolint:wrapcheck // nobody reads it
	}
	if _, err := c.tcp.Write(b); err != nil {
		c.broken = true
		return err //nolint:wrapcheck // explained by the caller
	}
	return nil
}

// refuse sends a NOTIFICATION, if that can be.
func (c *conn) refuse(n *bgpmsg.Notification) {
	if c.write(n.Append(nil), closeTime) == nil {
		c.counts.notificationsOut.Add(1)
	}
}

// next reads a message that must have arrived within d of now; 0 is for ever. It
// returns a *bgpmsg.Notification as error where one should be sent.
func (c *conn) next(d time.Duration) (bgpmsg.Type, []byte, error) {
	deadline := time.Time{}
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	var header [bgpmsg.HeaderLen]byte
	if err := c.fill(header[:], deadline); err != nil {
		return 0, nil, err
	}
	t, n, err := bgpmsg.ParseHeader(header)
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // a NOTIFICATION
	}
	body := c.buf[:n]
	if err := c.fill(body, deadline); err != nil {
		return 0, nil, err
	}
	c.counts.in(t)
	return t, body, nil
}

// fill reads into all of b. Where the time is up, it looks once more: this process may
// not have run, and what it waits for may be there.
func (c *conn) fill(b []byte, deadline time.Time) error {
	if err := c.tcp.SetReadDeadline(deadline); err != nil {
		return err //nolint:wrapcheck // explained by the caller
	}
	n, err := io.ReadFull(c.read, b)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err //nolint:wrapcheck // explained by the caller
	}
	if err := c.tcp.SetReadDeadline(time.Now().Add(graceTime)); err != nil {
		return err //nolint:wrapcheck // explained by the caller
	}
	_, err = io.ReadFull(c.read, b[n:])
	return err //nolint:wrapcheck // explained by the caller
}
