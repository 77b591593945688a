package bgp

import (
	"fmt"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// A session that BFD took down waits for BFD to come up, but not for long: many
	// routers begin with BFD when BGP is established (FRR with `bgp listen range`). How
	// long at most doubles up to mostWait.
	mostWait = 30 * time.Second
	// A session that BFD takes down again and again waits longer each time after BFD is
	// up, until it has been well for forgiveFlaps. Where the router is at fault all nodes wait
	// at once, and nobody is left: so it is not long.
	leastDamp    = time.Second
	mostDamp     = 10 * time.Second
	forgiveFlaps = 5 * time.Minute
)

// watch is what BFD says of the router, and what follows from it. It is guarded by
// the mutex of its session, but for the channel.
type watch struct {
	changed chan struct{}
	down    bool   // BFD took the session down and has not come up since
	diag    string // why
	at      time.Time
	flaps   int       // times that it went down in a row
	until   time.Time // no attempt to connect before; zero for none
	hurry   func()    // ends a write that does not end
}

// bfdKey returns the key of the BFD session that watches over the router, and whether
// there shall be one and can be.
func (s *session) bfdKey() (lb.BFDKey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, ok := s.peer.BFDKey()
	if s.peer.Interface != "" {
		key.Peer = s.found
	}
	return key, ok && key.Peer.IsValid()
}

// bfd takes in a change of the BFD session that watches over the router. One that
// somebody took down on purpose has nothing to say (RFC 5882 §4.2).
func (s *session) bfd(change lb.BFDChange, now time.Time) {
	s.mu.Lock()
	w := &s.watch
	switch {
	case change.Up:
		if w.down && w.flaps > 1 {
			w.until = now.Add(min(leastDamp<<min(w.flaps-2, 10), mostDamp))
		} else {
			w.until = time.Time{}
		}
		w.down = false
	case change.Admin:
		w.down, w.until = false, time.Time{}
	default:
		if now.Sub(w.at) > forgiveFlaps {
			w.flaps = 0
		}
		w.flaps++
		w.down, w.diag, w.at, w.until = true, change.Diag, now, now.Add(min(leastDamp<<min(w.flaps-1, 10), mostWait))
		if w.hurry != nil {
			w.hurry()
		}
	}
	s.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// watched returns the failure that BFD reports, if it does.
func (s *session) watched() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.watch.down {
		return nil
	}
	return &failure{
		text: fmt.Sprintf("BFD declared the router down (%s)", s.watch.diag),
		err:  bgpmsg.Cease(bgpmsg.CeaseBFDDown, ""), // RFC 9384
	}
}

// cleared waits until BFD has nothing against an attempt to connect. It returns false
// if the session ends meanwhile.
func (s *session) cleared() bool {
	for {
		s.mu.Lock()
		until := s.watch.until
		s.mu.Unlock()
		wait := time.Until(until)
		if wait <= 0 {
			return s.life.Err() == nil
		}
		if err := s.watched(); err != nil && s.problem != err.Error() {
			s.problem = err.Error() // whatever ended the session first
			s.publish()
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.life.Done():
		case <-s.watch.changed:
		case <-timer.C:
		}
		timer.Stop()
		if s.life.Err() != nil {
			return false
		}
	}
}

// barred says what keeps the session from being opened: BFD that is not up, in strict
// mode; "" for nothing.
func (s *session) barred() string {
	key, known := s.bfdKey()
	if p := s.current().BFD; p != nil && p.Strict && (!known || !s.bfdUp(key)) {
		return "waits for BFD, which is not up: strictMode of BFDProfile " + p.Name
	}
	return ""
}

// admit waits until BFD has nothing against opening the session. It returns false where
// the router has to be found again, or the session ends.
func (s *session) admit() bool {
	why := s.barred()
	if why == "" {
		return true
	}
	if s.problem != why {
		s.log.Info("bgp session waits for bfd", "reason", why)
	}
	s.problem = why
	s.enter(stateIdle)
	var again <-chan time.Time
	if s.finder != nil { // it may be another one meanwhile
		timer := time.NewTimer(lookAgain)
		defer timer.Stop()
		again = timer.C
	}
	for s.barred() != "" {
		select {
		case <-s.life.Done():
			return false
		case <-s.watch.changed:
		case <-s.wake:
			s.publish()
		case <-again:
			return false
		}
	}
	return false // what was found before may have changed
}

func (w *watch) isDown(mu *sync.Mutex) bool {
	mu.Lock()
	defer mu.Unlock()
	return w.down
}

// established takes in that the session is established, whatever BFD said before.
func (w *watch) established(mu *sync.Mutex) {
	mu.Lock()
	defer mu.Unlock()
	w.down, w.until = false, time.Time{}
}

// interrupt has hurry called when BFD takes the session down.
func (w *watch) interrupt(mu *sync.Mutex, hurry func()) {
	mu.Lock()
	defer mu.Unlock()
	w.hurry = hurry
}
