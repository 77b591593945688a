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
	"github.com/barelb/barelb/internal/core/ndp"
)

const (
	// sendTime bounds one batch of unasked frames, and so how long Apply may have to
	// wait if a link takes no more frames.
	sendTime = time.Second
	// joinAgain is the pause before groups are joined that could not be.
	joinAgain = time.Second
	// maxFrame in bytes is more than any solicitation that makes sense.
	maxFrame = 2048
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
	g.Go(func() error { a.announce(ctx, s.send); return nil })
	g.Go(func() error { <-ctx.Done(); return s.close() })
	err = g.Wait()
	a.setLinks(ctx, nil) // nothing is answered any more: let Status say so
	return err
}

// sockets are what Run needs of the kernel, but for the group memberships.
type sockets struct{ arp, ndp, send *packetConn }

func openSockets() (sockets, error) {
	var (
		s    sockets
		errs [3]error
	)
	s.arp, errs[0] = openReceiver(unix.ETH_P_ARP, arpRequests())
	s.ndp, errs[1] = openReceiver(unix.ETH_P_IPV6, solicitations())
	s.send, errs[2] = openSender()
	if err := errors.Join(errs[:]...); err != nil {
		return sockets{}, errors.Join(err, s.close())
	}
	return s, nil
}

func (s sockets) close() error {
	var errs []error
	for _, c := range []*packetConn{s.arp, s.ndp, s.send} {
		if c != nil {
			errs = append(errs, c.close())
		}
	}
	return errors.Join(errs...)
}

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
func (a *Announcer) serve(ctx context.Context, conn *packetConn, gate *sync.Mutex, answer answerer) error {
	in, out := make([]byte, maxFrame), make([]byte, 0, ndp.MaxFrameLen)
	for {
		n, link, err := conn.read(in)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && transient(err):
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

func (a *Announcer) reply(ctx context.Context, conn *packetConn, link int, answer answerer, frame, out []byte) {
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
	if err := conn.send(reply, link); err != nil {
		a.cfg.Log.DebugContext(ctx, "reply not sent", "addr", e.addr, "link", p.name, "err", err)
		return
	}
	e.count.replies.Add(1)
}

// announce follows the links, joins groups and sends what nobody has asked for, until
// ctx ends.
func (a *Announcer) announce(ctx context.Context, conn *packetConn) {
	var (
		g         groups
		joinedFor *table           // what groups were last joined for, or tried to
		joinTimer <-chan time.Time // nil unless some could not be joined
	)
	defer g.close()
	changed := a.followLinks(ctx)
	for {
		if t := a.table.Load(); t != joinedFor {
			joinedFor, joinTimer = t, nil
			if err := g.apply(t.memberships()); err != nil {
				a.cfg.Log.WarnContext(ctx, "multicast groups not joined", "err", err)
				joinTimer = time.After(joinAgain)
			}
		}
		var dueTimer <-chan time.Time
		if at, ok := a.announceDue(ctx, conn); ok {
			dueTimer = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			changed = a.followLinks(ctx)
		case <-a.wake:
		case <-joinTimer:
			joinedFor = nil
		case <-dueTimer:
		}
	}
}

// announceDue sends all that is due and returns when more will be.
func (a *Announcer) announceDue(ctx context.Context, conn *packetConn) (time.Time, bool) {
	now := time.Now()
	if err := conn.setDeadline(now.Add(sendTime)); err != nil {
		a.cfg.Log.WarnContext(ctx, "send deadline not set", "err", err)
	}
	var (
		lost int
		last error
	)
	for ctx.Err() == nil {
		a.mu.Lock()
		k, ok := a.sched.due(now)
		at, more := a.sched.deadline()
		a.mu.Unlock()
		if !ok {
			if last != nil && ctx.Err() == nil {
				a.cfg.Log.WarnContext(ctx, "announcements not sent", "announcements", lost, "err", last)
			}
			return at, more
		}
		if err := a.sendUnasked(conn, k); err != nil {
			lost, last = lost+1, err
		}
	}
	return time.Time{}, false
}

// sendUnasked tells a link of an address: by gratuitous ARP, or by unsolicited
// Neighbor Advertisement.
func (a *Announcer) sendUnasked(conn *packetConn, k key) error {
	a.scheduleGate.Lock()
	defer a.scheduleGate.Unlock()
	e, p, ok := a.table.Load().lookup(k)
	if !ok {
		return nil // it was withdrawn a moment ago
	}
	var frames [][]byte
	if k.addr.Is4() {
		for _, packet := range arp.Gratuitous(k.addr, p.mac) {
			frames = append(frames, packet.Append(nil))
		}
	} else {
		frames = append(frames, ndp.Unsolicited(k.addr, p.mac).Append(nil))
	}
	for _, frame := range frames {
		if err := conn.send(frame, k.link); linkGone(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("announce %s on %s: %w", k.addr, p.name, err)
		}
		e.count.gratuitous.Add(1)
	}
	return nil
}
