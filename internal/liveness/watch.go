package liveness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	core "github.com/barelb/barelb/internal/core/liveness"
)

const (
	dialTimeout = time.Second
	firstRetry  = 100 * time.Millisecond
	lastRetry   = time.Second
	// silent is how long a connection may be silent before another one is tried: what a
	// filter held up, TCP may send again only after minutes.
	silent = 2 * time.Second
	// suspicious is how long it may be before it is found out why.
	suspicious = 2*beatInterval + beatInterval/4
)

// dial begins a session with the speaker of a node.
func (r *Runner) dial(ctx context.Context, node string, h hello) (*session, welcome, error) {
	addr, ok := r.addrOf(node)
	if !ok {
		return nil, welcome{}, fmt.Errorf("reach speaker of %s: its address is not known", node)
	}
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, welcome{}, fmt.Errorf("reach speaker of %s: %w", node, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	h.node = r.cfg.NodeName
	s, w, err := begin(conn, r.cfg.Secret, h)
	if err == nil && w.node != node {
		err = fmt.Errorf("%s is now the address of %s", addr, w.node)
	}
	if err != nil {
		_ = conn.Close()
		return nil, welcome{}, fmt.Errorf("reach speaker of %s: %w", node, err)
	}
	return s, w, nil
}

func begin(conn net.Conn, secret []byte, h hello) (*session, welcome, error) {
	s, err := greet(conn, secret, client)
	if err != nil {
		return nil, welcome{}, err
	}
	if err := s.write(h.encode()); err != nil {
		return nil, welcome{}, err
	}
	b, err := s.read(handshakeTimeout)
	if err != nil {
		return nil, welcome{}, err
	}
	w, err := parseWelcome(b)
	return s, w, err
}

// watch holds a connection to the speaker of a node until ctx ends, and tells the
// machine what becomes of it.
func (r *Runner) watch(ctx context.Context, node string) {
	tell := func(state core.ConnState, incarnation uint64) {
		r.post(ctx, core.Connection{Node: node, State: state, Incarnation: incarnation, At: time.Now()})
	}
	retry, warned := firstRetry, false
	for {
		s, w, err := r.dial(ctx, node, hello{purpose: toWatch})
		if err == nil {
			retry = firstRetry
			tell(core.ConnUp, w.incarnation)
			if err = r.hold(ctx, s, node); ended(err) {
				tell(core.ConnEnded, w.incarnation)
			}
		} else {
			tell(core.ConnFailed, 0)
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrSecret) && !warned {
			warned = true
			r.cfg.Log.WarnContext(ctx, "speaker refused", "node", node, "err", err)
		}
		r.cfg.Log.DebugContext(ctx, "connection to a speaker ended", "node", node, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
			retry = min(2*retry, lastRetry)
		}
	}
}

// hold beats and listens on a session until it ends.
func (r *Runner) hold(ctx context.Context, s *session, node string) error {
	defer s.close()
	defer context.AfterFunc(ctx, s.close)()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		beat := time.NewTicker(beatInterval)
		defer beat.Stop()
		for {
			select {
			case <-stop:
				return
			case <-beat.C:
				if s.write(nil) != nil {
					return // the reader finds out why
				}
			}
		}
	}()
	for heard := time.Now(); ; heard = time.Now() {
		b, err := s.read(suspicious)
		for err != nil && errors.Is(err, os.ErrDeadlineExceeded) && time.Since(heard) < silent && s.in.Buffered() == 0 {
			// A process that hangs leaves its kernel at work, which acknowledges our beats.
			// If that is not heard either, the network does not carry them: that says
			// nothing of the process, and much may be said about the node by others.
			if !acknowledged(s.conn) {
				r.post(ctx, core.Connection{Node: node, State: core.ConnFailed, At: time.Now()})
			}
			b, err = s.read(beatInterval / 4)
		}
		if err != nil {
			return err
		}
		r.post(ctx, core.Connection{Node: node, State: core.ConnBeat, At: time.Now()})
		if len(b) == 0 {
			continue
		}
		counts, err := parseCounts(b)
		if err != nil {
			return err
		}
		for seg, n := range counts {
			r.post(ctx, core.ProbesSeen{Node: node, Segment: seg, Seen: n})
		}
	}
}

// acknowledged reports whether the other's kernel acknowledges what we send, as far as
// ours knows.
func acknowledged(conn net.Conn) bool {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	yes := true
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err != nil || info.Unacked == 0 || time.Duration(info.Last_ack_recv)*time.Millisecond < 2*beatInterval
	})
	return yes
}

// ended reports whether an error says that the other process has ended the connection:
// not that nothing is heard.
func ended(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
