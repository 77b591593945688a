// Package backend is the server behind the lab's Services. It runs in pods and,
// where the lab starts no kubelets, in the namespaces that stand for pods. Every
// answer names the pod and the node that gave it:
//
//	HTTP  GET / and /hostname   "pod=web-1 node=node2"
//	      GET /clientip         the client's address as the pod sees it
//	      GET /healthz          200 while the process lives
//	      GET /readyz           200, and 503 once told to stop
//	UDP   the datagram as it came, a space, the identity
//	TCP   each line as it came, a space, the identity (for connections that last)
//
// A datagram is answered from the very address that it was sent to.
package backend

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options says where the server listens. An empty address switches that listener off.
type Options struct {
	HTTP string
	UDP  string
	TCP  string
	// Drain is how long it serves on, with /readyz saying 503, after it was told to stop.
	Drain    time.Duration
	Identity Identity
}

// Serve answers until ctx ends and Drain has passed, then closes its
// connections and returns nil. A listener that cannot be opened ends it at once.
// It calls listening, which may be nil, when all listeners are open.
func Serve(ctx context.Context, opts Options, listening func() error) error {
	s := &server{id: opts.Identity, conns: make(map[net.Conn]struct{})}
	if err := s.listen(opts); err != nil {
		return errors.Join(err, s.close())
	}
	if listening != nil {
		if err := listening(); err != nil {
			return errors.Join(err, s.close())
		}
	}
	failed := make(chan error, len(s.serve))
	var wg sync.WaitGroup
	for _, serve := range s.serve {
		wg.Go(func() {
			if err := serve(); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
		s.stopping.Store(true)
		drain := time.NewTimer(opts.Drain)
		defer drain.Stop()
		select {
		case <-drain.C:
		case err = <-failed:
		}
	case err = <-failed:
	}
	err = errors.Join(err, s.close())
	wg.Wait()
	return err
}

// server owns the listeners; conns are the line-echo connections that are open.
type server struct {
	id       Identity
	stopping atomic.Bool
	serve    []func() error
	closers  []io.Closer

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func (s *server) listen(opts Options) error {
	if opts.HTTP != "" {
		l, err := net.Listen("tcp", opts.HTTP)
		if err != nil {
			return fmt.Errorf("listen for http on %s: %w", opts.HTTP, err)
		}
		web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
		s.closers = append(s.closers, closeFunc(func() error { return shutdown(web) }), l)
		s.serve = append(s.serve, func() error { return web.Serve(l) })
	}
	if opts.UDP != "" {
		addr, err := net.ResolveUDPAddr("udp", opts.UDP)
		if err != nil {
			return fmt.Errorf("resolve udp address %s: %w", opts.UDP, err)
		}
		c, err := net.ListenUDP("udp", addr)
		if err != nil {
			return fmt.Errorf("listen for udp on %s: %w", opts.UDP, err)
		}
		s.closers = append(s.closers, c)
		s.serve = append(s.serve, func() error { return s.echoDatagrams(c) })
	}
	if opts.TCP != "" {
		l, err := net.Listen("tcp", opts.TCP)
		if err != nil {
			return fmt.Errorf("listen for tcp on %s: %w", opts.TCP, err)
		}
		s.closers = append(s.closers, l)
		s.serve = append(s.serve, func() error { return s.acceptLines(l) })
	}
	return nil
}

// close is for the end of Serve: listeners first, then what they accepted.
func (s *server) close() error {
	var errs []error
	for _, c := range s.closers {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	return errors.Join(errs...)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// shutdown lets requests in progress end; they take no time but may be half received.
func shutdown(web *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		return web.Close()
	}
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	who := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s.id.String()+"\n") }
	mux.HandleFunc("GET /{$}", who)
	mux.HandleFunc("GET /hostname", who)
	mux.HandleFunc("GET /clientip", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, host+"\n")
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.stopping.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}

// echoDatagrams answers each datagram from the address it was sent to, which
// the routing table would not choose on a host with several addresses.
func (s *server) echoDatagrams(c *net.UDPConn) error {
	pinned := wantPacketInfo(c) == nil
	suffix := " " + s.id.String()
	buf, oob := make([]byte, 64<<10), make([]byte, 128)
	for {
		n, oobn, _, from, err := c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return fmt.Errorf("receive datagram: %w", err)
		}
		var ctl []byte
		if pinned {
			ctl = replyFrom(oob[:oobn])
		}
		// A lost answer is for the prober to notice.
		_, _, _ = c.WriteMsgUDPAddrPort(append(buf[:n:n], suffix...), ctl, from)
	}
}

// wantPacketInfo asks the kernel to tell the destination of each datagram. On
// the dual-stack socket that ":8080" makes, IPv4 comes as mapped IPv6.
func wantPacketInfo(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
		if set != nil {
			set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
		}
	})
	return errors.Join(err, set)
}

// replyFrom turns the control message of a received datagram into the one that
// makes its destination the source of the answer; nil leaves it to the kernel.
func replyFrom(oob []byte) []byte {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			var info unix.Inet6Pktinfo
			copy(info.Addr[:], m.Data)
			if info.Addr[0] == 0xfe && info.Addr[1]&0xc0 == 0x80 || info.Addr[0] == 0xff {
				return nil // link-local needs its link, multicast is nobody's source
			}
			return unix.PktInfo6(&info)
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: ifindex, the local address, the header's destination.
			var info unix.Inet4Pktinfo
			copy(info.Spec_dst[:], m.Data[4:8])
			return unix.PktInfo4(&info)
		}
	}
	return nil
}

func (s *server) acceptLines(l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept connection: %w", err)
		}
		if !s.track(c) {
			return net.ErrClosed
		}
		wg.Go(func() {
			defer s.forget(c)
			s.echoLines(c)
		})
	}
}

func (s *server) echoLines(c net.Conn) {
	suffix := " " + s.id.String() + "\n"
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := io.WriteString(c, lines.Text()+suffix); err != nil {
			return
		}
	}
}

// track reports false, and closes c, if the server has been closed meanwhile.
func (s *server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	_ = c.Close()
}
