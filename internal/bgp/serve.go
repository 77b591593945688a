package bgp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// openTime is how long a router may take to answer our OPEN.
	openTime = 10 * time.Second
	// lookAgain is how often the addresses to name as next hop are looked up again.
	lookAgain = 10 * time.Second
	// leastSendHold is the least time that a router may take nothing in (RFC 9687 §6).
	leastSendHold = 8 * time.Minute
)

// Negotiated is what both ends of an established session agreed on.
type Negotiated struct {
	RouterASN uint32
	RouterID  string
	LocalAddr string // our end of the connection
	// HoldTime and Keepalive are those in force; 0 if there are none.
	HoldTime, Keepalive time.Duration
	// IPv4 and IPv6 tell which unicast routes are carried, IPv6Hops whether IPv4 routes
	// may have IPv6 next hops (RFC 8950).
	IPv4, IPv6, IPv6Hops bool
	RouteRefresh         bool
	// GracefulRestart: the router keeps our routes while this process restarts, for
	// RestartTime (RFC 4724).
	GracefulRestart bool
	RestartTime     time.Duration

	narrow bool // AS numbers have 16 bits
}

func (n Negotiated) carries(f lb.Family) bool {
	return f == lb.IPv4 && n.IPv4 || f == lb.IPv6 && n.IPv6
}

// agree compares our OPEN with the router's.
func agree(p lb.Peer, ours, theirs *bgpmsg.Open) Negotiated {
	n := Negotiated{
		RouterASN: theirs.ASN, RouterID: theirs.RouterID.String(),
		HoldTime:     time.Duration(min(ours.HoldTime, theirs.HoldTime)) * time.Second, // RFC 4271 §4.2
		IPv4:         slices.Contains(ours.Families, lb.IPv4) && slices.Contains(theirs.Families, lb.IPv4),
		IPv6:         slices.Contains(ours.Families, lb.IPv6) && slices.Contains(theirs.Families, lb.IPv6),
		IPv6Hops:     ours.IPv6Hops && theirs.IPv6Hops,
		RouteRefresh: theirs.RouteRefresh,
		narrow:       !theirs.FourOctetAS,
	}
	n.Keepalive = n.HoldTime / 3 // RFC 4271 §4.4
	if p.TimersSet && p.Keepalive > 0 {
		n.Keepalive = min(n.Keepalive, p.Keepalive)
	}
	// A router that keeps no routes of its own over a restart still keeps ours.
	if ours.GracefulRestart != nil && theirs.GracefulRestart != nil {
		n.GracefulRestart, n.RestartTime = true, ours.GracefulRestart.Time
	}
	return n
}

// negotiate exchanges OPENs and KEEPALIVEs, so that the session is established when it
// returns nil. Otherwise the error is a *failure.
func (s *session) negotiate(c *conn) error {
	defer context.AfterFunc(s.life, c.close)()
	p := c.peer
	ours := s.open(p, c.way)
	if err := c.write(ours.Append(nil), closeTime); err != nil {
		return explainNoOpen(p, err)
	}
	c.counts.opensOut.Add(1)
	t, body, err := c.next(openTime)
	if err == nil && t == bgpmsg.TypeNotification {
		return received(bgpmsg.ParseNotification(body), p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Deviation from RFC 4271 §8.2.2: no NOTIFICATION (Hold Timer Expired). BIRD would
		// find it when it runs again, and refuse us for a minute because of it.
		return &failure{text: explainSilence(p), err: err}
	}
	var theirs bgpmsg.Open
	switch {
	case err != nil:
	case t != bgpmsg.TypeOpen:
		err = &bgpmsg.Notification{Code: bgpmsg.CodeFSM, Subcode: 1} // RFC 6608
	default:
		theirs, err = bgpmsg.ParseOpen(body)
	}
	if err != nil {
		return c.give(err, func(err error) error { return explainNoOpen(p, err) })
	}
	if f := unacceptable(p, ours, &theirs); f != nil {
		return c.give(f, nil)
	}
	c.facts = agree(p, ours, &theirs)
	c.facts.LocalAddr = c.way.addr.String()
	s.enter(stateOpenConfirm)
	if err := c.write(bgpmsg.AppendKeepalive(nil), closeTime); err != nil {
		return explainNoOpen(p, err)
	}
	c.counts.keepalivesOut.Add(1)
	t, body, err = c.next(openTime)
	switch {
	case err != nil:
		return c.give(err, func(err error) error { return explainNoOpen(p, err) })
	case t == bgpmsg.TypeNotification:
		return received(bgpmsg.ParseNotification(body), p)
	case t != bgpmsg.TypeKeepalive:
		return c.give(&bgpmsg.Notification{Code: bgpmsg.CodeFSM, Subcode: 2}, nil)
	}
	return nil
}

// unacceptable reports what of the router's OPEN we cannot accept: a *failure around
// the NOTIFICATION for it, or nil.
func unacceptable(p lb.Peer, ours, theirs *bgpmsg.Open) error {
	bad := func(subcode uint8, format string, args ...any) error {
		return &failure{text: fmt.Sprintf(format, args...), refused: true, err: &bgpmsg.Notification{Code: bgpmsg.CodeOpen, Subcode: subcode}}
	}
	switch {
	case p.Dynamic == lb.InternalASN && theirs.ASN != p.LocalASN:
		return bad(bgpmsg.SubBadPeerAS,
			"the router is in AS %d, not in our AS %d, but dynamicASN is internal: set it to external, or correct myASN", theirs.ASN, p.LocalASN)
	case p.Dynamic == lb.ExternalASN && theirs.ASN == p.LocalASN:
		return bad(bgpmsg.SubBadPeerAS,
			"the router is in our own AS %d, but dynamicASN is external: set it to internal, or set another myASN", theirs.ASN)
	case p.Dynamic == lb.StaticASN && theirs.ASN != p.PeerASN:
		return bad(bgpmsg.SubBadPeerAS, "the router is in AS %d, not in AS %d: correct peerASN", theirs.ASN, p.PeerASN)
	case internal(p) && theirs.RouterID == ours.RouterID: // RFC 6286 §2.2
		return bad(bgpmsg.SubBadRouterID, "the router has our own router ID %s: set another routerID", ours.RouterID)
	}
	return nil
}

// give sends the NOTIFICATION that is in err, if there is one, and returns err in
// words for the user.
func (c *conn) give(err error, explain func(error) error) error {
	n := (*bgpmsg.Notification)(nil)
	if errors.As(err, &n) {
		c.refuse(n)
		if f := (*failure)(nil); errors.As(err, &f) {
			return err
		}
		return &failure{text: "the router sent what is not understood: " + n.Error(), refused: true, err: err}
	}
	return explain(err)
}

// heard is what the reader of a connection reports.
type heard struct {
	refresh lb.Family // the router asks for the routes of this family again
	err     error     // the connection is of no use any more
}

// listen reads until the connection ends. An UPDATE is not looked into: whatever
// routes it has, they are rejected, and one that is malformed is no different (RFC
// 7606 §2, treat-as-withdraw). So no router can make us keep anything.
func (c *conn) listen(to chan<- heard, quit <-chan struct{}) {
	for {
		var h heard
		t, body, err := c.next(c.facts.HoldTime)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			h.err = &failure{
				text: "nothing was heard from the router for the hold time: it or the way to it failed",
				err:  &bgpmsg.Notification{Code: bgpmsg.CodeHoldTimer},
			}
		case err != nil:
			h.err = err
		case t == bgpmsg.TypeNotification:
			h.err = received(bgpmsg.ParseNotification(body), c.peer)
		case t == bgpmsg.TypeOpen:
			h.err = &bgpmsg.Notification{Code: bgpmsg.CodeFSM, Subcode: 3}
		case t == bgpmsg.TypeRouteRefresh:
			h.refresh = bgpmsg.ParseRouteRefresh(body)
		}
		if h == (heard{}) {
			continue
		}
		select {
		case to <- h:
		case <-quit:
			return
		}
		if h.err != nil {
			return
		}
	}
}

// serve keeps an established session. It returns why it ended.
func (s *session) serve(c *conn) error {
	quit, read := make(chan struct{}), make(chan struct{})
	in := make(chan heard)
	go func() {
		defer close(read)
		c.listen(in, quit)
	}()
	// A router that takes nothing in must not hold up what we are told to do.
	hurry := func() { _ = c.tcp.SetWriteDeadline(time.Now().Add(closeTime / 2)) }
	defer context.AfterFunc(s.life, hurry)()
	s.watch.interrupt(&s.mu, hurry)
	err := s.exchange(c, in)
	s.watch.interrupt(&s.mu, nil)
	if err != nil {
		err = c.give(err, func(err error) error { return explainLost(err, c.peer) })
	} else {
		s.end(c)
	}
	close(quit)
	// What the router still sends is read, lest the kernel resets the connection and
	// with it what was written last.
	_ = c.tcp.CloseWrite()
	_ = c.tcp.SetReadDeadline(time.Now().Add(closeTime))
	select {
	case <-read:
	case <-time.After(closeTime / 2):
	}
	c.close()
	<-read
	return err
}

// end sends what the session shall end with.
func (s *session) end(c *conn) {
	s.mu.Lock()
	e := s.ending
	s.mu.Unlock()
	if !e.silent {
		c.refuse(bgpmsg.Cease(e.subcode, e.text))
	}
}

// exchange sends routes and keepalives until the session is told to stop, which is
// nil, or ends otherwise.
func (s *session) exchange(c *conn, in <-chan heard) error {
	sendHold := s.cfg.SendHoldTime
	if sendHold == 0 {
		sendHold = max(leastSendHold, 2*c.facts.HoldTime)
	}
	if c.facts.HoldTime == 0 {
		sendHold = 0
	}
	var keepalive <-chan time.Time
	if c.facts.Keepalive > 0 {
		ticker := time.NewTicker(c.facts.Keepalive)
		defer ticker.Stop()
		keepalive = ticker.C
	}
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	send := func(b []byte) error { return s.send(c, b, sendHold) }

	if err := s.first(c, send); err != nil {
		return s.why(err, in)
	}
	for {
		var err error
		select {
		case <-s.life.Done():
			return nil
		case <-s.watch.changed:
			err = s.watched()
		case <-s.wake:
			err = s.reconcile(c, send)
		case h := <-in:
			if h.err != nil {
				return h.err
			}
			c.forget(h.refresh)
			err = s.reconcile(c, send)
		case <-keepalive:
			err = send(bgpmsg.AppendKeepalive(nil))
			c.counts.keepalivesOut.Add(1)
		case <-look.C:
			if c.look(s.cfg.NodeAddrs()) {
				err = s.reconcile(c, send)
			}
		}
		if err != nil {
			return s.why(err, in)
		}
		s.publish()
	}
}

// first sends all routes, and then says that these were all (RFC 4724 §4.1).
func (s *session) first(c *conn, send func([]byte) error) error {
	s.mu.Lock()
	s.heard = time.Time{} // how long there was no session is another matter
	s.mu.Unlock()
	if err := s.reconcile(c, send); err != nil {
		return err
	}
	var b []byte
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		if c.facts.carries(f) {
			b = bgpmsg.AppendEndOfRIB(b, f)
		}
	}
	if err := send(b); err != nil {
		return err
	}
	s.ever = true
	s.publish()
	return nil
}

// send writes messages; the error says what became of it.
func (s *session) send(c *conn, b []byte, hold time.Duration) error {
	if len(b) == 0 {
		return nil
	}
	err := c.write(b, hold)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.life.Err() == nil && !s.watch.isDown(&s.mu) {
		return &failure{
			text: fmt.Sprintf("the router has taken nothing in for %s (RFC 9687): it is stuck", hold),
			err:  &bgpmsg.Notification{Code: bgpmsg.CodeSendHold},
		}
	}
	return err
}

// why returns the reason for which a write failed: what the reader knows is better.
func (s *session) why(err error, in <-chan heard) error {
	if s.life.Err() != nil {
		return nil //nolint:nilerr // the write was cut off because we were told to stop
	}
	if s.watch.isDown(&s.mu) {
		return s.watched()
	}
	if f := (*failure)(nil); errors.As(err, &f) {
		return err
	}
	select {
	case h := <-in:
		if h.err != nil {
			return h.err
		}
	case <-time.After(graceTime):
	}
	return err
}
