package liveness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	core "github.com/barelb/barelb/internal/core/liveness"
)

const (
	// beatInterval is the time between two beats on a connection that is held.
	beatInterval = 200 * time.Millisecond
	// hungAfter is how long our own loop may not have run before we claim no more, by
	// beats, to work.
	hungAfter = time.Second
	// countEvery is the time between two accounts of an observer's probes.
	countEvery = time.Second
	// observerSilent is how long a connection is kept on which an observer is silent.
	observerSilent = 30 * time.Second
	// maxSessions bounds the sessions that others hold with us.
	maxSessions = 1024
	// maxFetches bounds those of them in which we serve something at a time.
	maxFetches = 4
)

// What the first byte of an answer in a session to tell or to fetch says.
const (
	answerDone   = 0 // the message was taken; all was sent
	answerData   = 1 // a part follows
	answerFailed = 2 // why follows
)

// accept takes a connection that began with our magic byte.
func (r *Runner) accept(ctx context.Context, conn net.Conn) {
	if r.sessions.Add(1) > maxSessions {
		r.sessions.Add(-1)
		r.metrics.drop(dropSessions)
		_ = conn.Close()
		return
	}
	r.tasks.Go(func() {
		defer r.sessions.Add(-1)
		defer func() { _ = conn.Close() }()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		if err := r.serve(ctx, conn); err != nil && ctx.Err() == nil {
			if errors.Is(err, ErrSecret) || errors.Is(err, errFrame) {
				r.metrics.drop(dropHostile)
			}
			r.cfg.Log.DebugContext(ctx, "session of a speaker ended", "addr", conn.RemoteAddr().String(), "err", err)
		}
	})
}

// serve serves one session to its end.
func (r *Runner) serve(ctx context.Context, conn net.Conn) error {
	s, err := greet(conn, r.cfg.Secret, server)
	if err != nil {
		return err
	}
	// Both speak first, so that both find out about secrets that differ.
	if err := s.write(welcome{r.cfg.NodeName, r.book.own().Incarnation}.append(nil)); err != nil {
		return err
	}
	b, err := s.read(handshakeTimeout)
	if err != nil {
		return err
	}
	h, err := parseHello(b)
	if err != nil {
		return err
	}
	r.meet(h.node, conn.RemoteAddr())
	switch h.purpose {
	case toWatch:
		return r.beWatched(ctx, s, h.node)
	case toTell:
		return r.beTold(ctx, s, h.node)
	case toFetch:
		return r.beAsked(s, h.what)
	}
	return fmt.Errorf("%w: purpose %d", errFrame, h.purpose)
}

// meet has us join a speaker that we do not know, but that knows us: after a restart
// without the API server there may be nobody else to learn of the fleet from.
func (r *Runner) meet(node string, at net.Addr) {
	tcp, ok := at.(*net.TCPAddr)
	if !ok || r.peers.Load().nodes[node] != nil {
		return
	}
	addr, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return
	}
	select {
	case r.strangers <- netip.AddrPortFrom(addr.Unmap(), uint16(r.cfg.BindPort)).String():
	default: // it tries again
	}
}

// beWatched beats until the observer goes away.
func (r *Runner) beWatched(ctx context.Context, s *session, observer string) error {
	var why error // valid when gone is closed
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for why == nil {
			_, why = s.read(observerSilent)
		}
		s.close()
	}()
	defer func() { s.close(); <-gone }()
	r.seen.take(observer) // what it counts begins now
	beat, account := time.NewTicker(beatInterval), time.Now()
	defer beat.Stop()
	for {
		if r.runs(hungAfter) {
			var counts []byte
			if time.Since(account) >= countEvery {
				account = time.Now()
				counts = appendCounts(nil, r.segments(), r.seen.take(observer))
			}
			if err := s.write(counts); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return why
		case <-beat.C:
		}
	}
}

// segments returns those of this node on which it can be probed.
func (r *Runner) segments() []core.Segment {
	var out []core.Segment
	for _, l := range r.book.own().Links {
		for _, p := range l.Addrs {
			out = append(out, p.Masked())
		}
	}
	return out
}

func (r *Runner) beTold(ctx context.Context, s *session, from string) error {
	msg, err := s.read(handshakeTimeout)
	if err != nil {
		return err
	}
	if r.cfg.Told == nil {
		err = errors.New("nobody listens")
	} else {
		err = r.cfg.Told(ctx, from, msg)
	}
	return s.write(verdict(err))
}

func verdict(err error) []byte {
	if err != nil {
		return append([]byte{answerFailed}, err.Error()[:min(len(err.Error()), 1000)]...)
	}
	return []byte{answerDone}
}

func (r *Runner) beAsked(s *session, what string) error {
	f, ok := r.served.Load(what)
	if !ok {
		return s.write(verdict(fmt.Errorf("%q is not served", what)))
	}
	select {
	case r.fetches <- struct{}{}:
		defer func() { <-r.fetches }()
	default:
		return s.write(verdict(errors.New("busy with others")))
	}
	serve, _ := f.(func() ([]byte, error)) // Serve stores nothing else
	b, err := serve()
	for err == nil && len(b) > 0 {
		n := min(len(b), maxFrame-1)
		if err := s.write(append([]byte{answerData}, b[:n]...)); err != nil {
			return err
		}
		b = b[n:]
	}
	return s.write(verdict(err))
}
