package layer2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/packet"
)

// Run answers and announces until ctx ends, and then returns nil. Links may come and
// go meanwhile. It fails at once if the sockets cannot be opened. It may be called
// again after it has returned, but not twice at a time.
func (a *Announcer) Run(ctx context.Context) error {
	s, err := openSockets()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serve(ctx, s.arp, &a.arpGate, answerARP) })
	g.Go(func() error { return a.serve(ctx, s.ndp, &a.ndpGate, answerNDP) })
	g.Go(func() error { a.announce(ctx); return nil })
	g.Go(func() error { <-ctx.Done(); return s.close() })
	err = g.Wait()
	a.setLinks(ctx, nil) // nothing is answered any more: let Status say so
	return err
}

// sockets are those that answers are given on.
type sockets struct{ arp, ndp *packet.Conn }

func openSockets() (sockets, error) {
	a, err := packet.OpenReceiver(unix.ETH_P_ARP, arpRequests())
	if err != nil {
		return sockets{}, err
	}
	n, err := packet.OpenReceiver(unix.ETH_P_IPV6, solicitations())
	if err != nil {
		return sockets{}, errors.Join(err, a.Close())
	}
	return sockets{a, n}, nil
}

func (s sockets) close() error { return errors.Join(s.arp.Close(), s.ndp.Close()) }

// answerer decides about a frame that arrived on p. It returns the reply, appended to
// out, and whose it is; nil if the frame is not answered.
type answerer func(t *table, p port, frame, out []byte) ([]byte, *entry)

func answerARP(t *table, p port, frame, out []byte) ([]byte, *entry) {
	var e *entry
	reply, drop := arp.Answer(frame, p.mac, func(addr netip.Addr) bool {
		found, _, ok := t.lookup(key{addr, p.index})
		e = found
		return ok
	})
	if drop != arp.Answered {
		return nil, nil
	}
	return reply.Append(out), e
}

func answerNDP(t *table, p port, frame, out []byte) ([]byte, *entry) {
	var e *entry
	reply, drop := ndp.Answer(frame, p.mac, func(addr netip.Addr) bool {
		found, _, ok := t.lookup(key{addr, p.index})
		e = found
		return ok
	})
	if drop != ndp.Answered {
		return nil, nil
	}
	return reply.Append(out), e
}

// serve answers what conn receives until ctx ends.
func (a *Announcer) serve(ctx context.Context, conn *packet.Conn, gate *sync.Mutex, answer answerer) error {
	in, out := make([]byte, packet.MaxFrame), make([]byte, 0, ndp.MaxFrameLen)
	for {
		n, link, err := conn.Read(in)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the error is that we were told to stop
		case err != nil && packet.Transient(err):
			a.cfg.Log.DebugContext(ctx, "receive interrupted", "err", err)
		case err != nil:
			return fmt.Errorf("receive frame: %w", err)
		default:
			gate.Lock()
			a.reply(ctx, conn, link, answer, in[:n], out)
			gate.Unlock()
		}
	}
}

func (a *Announcer) reply(ctx context.Context, conn *packet.Conn, link int, answer answerer, frame, out []byte) {
	t := a.table.Load()
	p, ok := t.ports[link]
	if !ok {
		return
	}
	reply, e := answer(t, p, frame, out)
	if e == nil {
		return
	}
	e.count.requests.Add(1)
	if err := conn.Send(reply, link); err != nil {
		a.cfg.Log.DebugContext(ctx, "reply not sent", "addr", e.addr, "link", p.name, "err", err)
		return
	}
	e.count.replies.Add(1)
}
