package layer2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/core/wire"
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
	g.Go(func() error { return a.serve(ctx, s.arp, &a.arpGate, protocol{answerARP, wire.HearARP}) })
	g.Go(func() error { return a.serve(ctx, s.ndp, &a.ndpGate, protocol{answerNDP, wire.HearNDP}) })
	g.Go(func() error { a.announce(ctx); return nil })
	g.Go(func() error { a.joinGroups(ctx); return nil })
	g.Go(func() error { <-ctx.Done(); return s.close() })
	err = g.Wait()
	a.setLinks(ctx, nil) // nothing is answered any more: let Status say so
	return err
}

// sockets are those that answers are given on.
type sockets struct{ arp, ndp *packet.Conn }

func openSockets() (sockets, error) {
	a, err := packet.OpenStamped(unix.ETH_P_ARP, arpPackets())
	if err != nil {
		return sockets{}, err
	}
	n, err := packet.OpenStamped(unix.ETH_P_IPV6, neighborMessages())
	if err != nil {
		return sockets{}, errors.Join(err, a.Close())
	}
	return sockets{a, n}, nil
}

func (s sockets) close() error { return errors.Join(s.arp.Close(), s.ndp.Close()) }

// maxAge is how long a request may have waited to be answered still. One that asks is
// gone by then or asks again, and who has the address may have changed while we did
// not run.
const maxAge = 300 * time.Millisecond

// protocol is what is to be known of ARP, or of Neighbor Discovery.
type protocol struct {
	// answer decides about a frame that arrived on p. It returns the reply, appended to
	// out, and whose it is; nil if the frame is not answered.
	answer func(t *table, p port, frame, out []byte) ([]byte, *entry)
	// hear returns what a frame says about who uses an address.
	hear func(frame []byte, link int) (wire.Claim, bool)
}

func answerARP(t *table, p port, frame, out []byte) ([]byte, *entry) {
	var e *entry
	reply, drop := arp.Answer(frame, p.mac, t.answering(p, &e))
	if drop != arp.Answered {
		return nil, nil
	}
	return reply.Append(out), e
}

func answerNDP(t *table, p port, frame, out []byte) ([]byte, *entry) {
	var e *entry
	reply, drop := ndp.Answer(frame, p.mac, t.answering(p, &e))
	if drop != ndp.Answered {
		return nil, nil
	}
	return reply.Append(out), e
}

// answering returns as what addresses are answered for on p. It leaves the entry that
// was asked for in found.
func (t *table) answering(p port, found **entry) func(netip.Addr) (lb.Role, arp.MAC, bool) {
	return func(addr netip.Addr) (lb.Role, arp.MAC, bool) {
		e := t.addrs[addr]
		if e == nil || !e.on(p) {
			return 0, arp.MAC{}, false
		}
		*found = e
		return e.ann.Role, e.mac(p), true
	}
}

// serve answers what conn receives until ctx ends.
func (a *Announcer) serve(ctx context.Context, conn *packet.Conn, gate *sync.Mutex, proto protocol) error {
	in, out := make([]byte, packet.MaxFrame), make([]byte, 0, ndp.MaxFrameLen)
	for {
		n, link, at, err := conn.ReadStamped(in)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the error is that we were told to stop
		case err != nil && packet.Transient(err):
			a.cfg.Log.DebugContext(ctx, "receive interrupted", "err", err)
		case err != nil:
			return fmt.Errorf("receive frame: %w", err)
		default:
			if at.IsZero() {
				at = time.Now().Round(0)
			}
			gate.Lock()
			t := a.table.Load()
			a.reply(ctx, conn, t, request{link, in[:n], at}, proto, out)
			gate.Unlock()
			// Not behind the gate, so that who is told may call Apply.
			if c, ok := proto.hear(in[:n], link); ok && t.foreign(c, arp.MAC(in[6:12])) {
				a.claimed(t, c, at)
			}
		}
	}
}

// request is a frame that may be one.
type request struct {
	link  int // index
	frame []byte
	at    time.Time // when the kernel received it
}

func (a *Announcer) reply(ctx context.Context, conn *packet.Conn, t *table, q request, proto protocol, out []byte) {
	p, ok := t.ports[q.link]
	if !ok {
		return
	}
	reply, e := proto.answer(t, p, q.frame, out)
	if e == nil {
		return
	}
	e.count.requests.Add(1)
	if time.Since(q.at) > maxAge || !a.cfg.Fresh() {
		a.metrics.discarded.Inc()
		return
	}
	if err := conn.Send(reply, q.link); err != nil {
		a.cfg.Log.DebugContext(ctx, "reply not sent", "addr", e.addr, "link", p.name, "err", err)
		return
	}
	if e.count.replies.Add(1) == 1 {
		a.metrics.first.Observe(time.Since(e.count.since).Seconds())
	}
	a.metrics.answer.Observe(max(0, time.Since(q.at)).Seconds())
}
