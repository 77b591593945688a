package layer2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/packet"
)

const (
	// sendTime is how long an unasked frame may wait for room, and so how long Apply
	// may have to wait for a link that takes no more frames.
	sendTime = 50 * time.Millisecond
	// joinAgain is the pause before groups are joined that could not be.
	joinAgain = time.Second
	// freshAgain is the pause before Fresh is asked anew.
	freshAgain = 50 * time.Millisecond
)

// errNotFresh is why nothing is sent now, and will be later.
var errNotFresh = errors.New("not fresh")

// announce follows the links and sends what nobody has asked for, until ctx ends.
func (a *Announcer) announce(ctx context.Context) {
	out := senders{}
	defer out.keep(nil)
	changed := a.followLinks(ctx)
	for {
		out.keep(a.table.Load().ports)
		var dueTimer <-chan time.Time
		if at, ok := a.announceDue(ctx, out); ok {
			dueTimer = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			changed = a.followLinks(ctx)
		case <-a.wake:
		case <-dueTimer:
		}
	}
}

// joinGroups keeps the groups joined that the table needs, until ctx ends. The kernel
// takes the longer for each the more there are, half a second for the first 10,000, and
// nothing that is to be told may wait for that.
func (a *Announcer) joinGroups(ctx context.Context) {
	var g groups
	defer g.close()
	for {
		var again <-chan time.Time
		if err := g.apply(a.table.Load().memberships()); err != nil {
			a.cfg.Log.WarnContext(ctx, "multicast groups not joined", "err", err)
			again = time.After(joinAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.regroup:
		case <-again:
		}
	}
}

// announceDue sends all that is due and returns when more will be; false if nothing
// will. What a link does not take in time is lost, and with it the rest of what is due
// on that link: the schedule repeats it.
func (a *Announcer) announceDue(ctx context.Context, out senders) (time.Time, bool) {
	var (
		now   = time.Now()
		lost  int
		last  error
		stuck = map[int]bool{} // by link index
	)
	for ctx.Err() == nil {
		fresh := a.cfg.Fresh()
		a.mu.Lock()
		var k key
		at, more := a.sched.deadline()
		isDue := more && !at.After(now)
		if isDue && fresh {
			k, _ = a.sched.due(now)
		}
		a.mu.Unlock()
		switch {
		case isDue && !fresh:
			return now.Add(freshAgain), true
		case !isDue:
			if lost > 0 {
				a.cfg.Log.WarnContext(ctx, "announcements not sent", "announcements", lost, "err", last)
			}
			return at, more
		}
		if stuck[k.link] {
			lost++
			continue
		}
		switch err := a.sendUnasked(out, k); {
		case errors.Is(err, errNotFresh):
			a.mu.Lock()
			a.sched.again(k, now)
			a.mu.Unlock()
		case err != nil:
			lost, last = lost+1, err
			stuck[k.link] = errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return time.Time{}, false
}

// sendUnasked tells a link of an address: by gratuitous ARP, or by unsolicited
// Neighbor Advertisement.
func (a *Announcer) sendUnasked(out senders, k key) error {
	a.scheduleGate.Lock()
	defer a.scheduleGate.Unlock()
	e, p, ok := a.table.Load().owned(k)
	if !ok {
		return nil // it was withdrawn a moment ago
	}
	var frames [][]byte
	if k.addr.Is4() {
		for _, claim := range arp.Gratuitous(k.addr, p.mac) {
			frames = append(frames, claim.Append(nil))
		}
	} else {
		frames = append(frames, ndp.Unsolicited(k.addr, p.mac).Append(nil))
	}
	for _, frame := range frames {
		if !a.cfg.Fresh() {
			return errNotFresh
		}
		if err := out.send(frame, k.link); packet.LinkGone(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("announce %s on %s: %w", k.addr, p.name, err)
		}
		e.count.gratuitous.Add(1)
	}
	return nil
}

// senders are sockets by link index, one for each link so that one which takes no
// more frames does not hold up the others. Only one goroutine may use them.
type senders map[int]*packet.Conn

// send sends a frame on a link. It waits up to sendTime for room.
func (s senders) send(frame []byte, link int) error {
	conn := s[link]
	if conn == nil {
		var err error
		if conn, err = packet.OpenSender(); err != nil {
			return err
		}
		s[link] = conn
	}
	if err := conn.SetDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	return conn.Send(frame, link)
}

// keep closes the sockets of links that are not among ports.
func (s senders) keep(ports map[int]port) {
	for link, conn := range s {
		if _, ok := ports[link]; !ok {
			_ = conn.Close() // nothing depends on what it says
			delete(s, link)
		}
	}
}
