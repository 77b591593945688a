package bgp

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// stableTime is how long a session must last to be forgiven earlier failures.
	stableTime = 30 * time.Second
	// Pauses between attempts to connect double from the least to the most. Where nobody
	// refuses us, they stay below the 2 s within which a router that is back is found.
	leastPause    = 50 * time.Millisecond
	mostPause     = 1500 * time.Millisecond
	mostRefused   = 10 * time.Second // where the router refuses the session by a NOTIFICATION
	leastRefused  = 500 * time.Millisecond
	jitterPercent = 25 // by which a pause may be shorter (RFC 4271 §10)
)

// The states of RFC 4271 §8.2.2 by name. Active is not among them: we never listen.
const (
	stateIdle        = "Idle"
	stateConnect     = "Connect"
	stateOpenSent    = "OpenSent"
	stateOpenConfirm = "OpenConfirm"
	stateEstablished = "Established"
)

// session is one BGP session: connections to one router, one after the other. Its
// goroutine connects, negotiates and then writes; another one reads meanwhile. While a
// write has to wait for the router, routes may change any number of times: what is
// sent next is the difference to the latest.
type session struct {
	cfg    Config
	log    *slog.Logger
	notify func()            // the status has changed
	after  []<-chan struct{} // what must be closed before it starts
	bfdUp  func(lb.BFDKey) bool

	life   context.Context //nolint:containedctx // it outlives the call that makes it
	cancel context.CancelFunc
	done   chan struct{} // closed when the session is
	wake   chan struct{} // routes or peer have changed
	status atomic.Pointer[SessionStatus]
	counts counts

	mu       sync.Mutex
	peer     lb.Peer
	routes   map[netip.Prefix]lb.Attrs // what shall be
	wanted   int                       // those of them that are to stay
	heard    time.Time                 // when what they follow from was, if they were not told yet
	graceful bool                      // all of them are withdrawn soon
	drained  bool                      // those that say so have had their time
	found    netip.Addr                // the router of an unnumbered session; zero before it is found
	ending   ending
	watch    watch

	// What follows is the goroutine's own.

	failures    int // in a row
	refusals    int // those of them that were refusals, at the end of the row
	established time.Time
	ever        bool // it was established before
	state       string
	since       time.Time
	problem     string // why it is not established
	finder      *finder
	conn        *conn // nil unless established
}

// ending says how a session ends its connection.
type ending struct {
	// silent closes it without a NOTIFICATION, so that a router with graceful restart
	// keeps the routes (RFC 4724 §4.2).
	silent  bool
	subcode uint8 // of the Cease otherwise
	text    string
}

func newSession(cfg Config, want lb.Session, notify func()) *session {
	life, cancel := context.WithCancel(context.Background())
	s := &session{
		cfg:    cfg,
		peer:   want.Peer,
		log:    cfg.Log.With("peer", want.Peer.String()),
		notify: notify,
		life:   life,
		cancel: cancel,
		done:   make(chan struct{}),
		wake:   make(chan struct{}, 1),
		routes: want.Routes,
		wanted: staying(want.Routes),
		state:  stateIdle,
		since:  time.Now(),
	}
	s.watch.changed = make(chan struct{}, 1)
	s.publish()
	return s
}

// stop has the session end its connection as e says, and end itself.
func (s *session) stop(e ending) {
	s.mu.Lock()
	s.ending = e
	s.mu.Unlock()
	s.cancel()
}

// closed reports whether the session has ended.
func (s *session) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// current returns the peer as it is now.
func (s *session) current() lb.Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

// set makes want the desired state; its peer differs in nothing that needs another
// connection.
func (s *session) set(want lb.Session) {
	n := staying(want.Routes)
	s.change(func() {
		s.peer, s.routes, s.wanted = want.Peer, want.Routes, n
		if s.heard.IsZero() {
			s.heard = want.Since
		}
	})
}

// staying counts the routes that do not say that they will be withdrawn.
func staying(routes map[netip.Prefix]lb.Attrs) int {
	n := 0
	for _, attrs := range routes {
		if !attrs.GracefulShutdown && !attrs.Yield {
			n++
		}
	}
	return n
}

// change changes what mu guards, and has the goroutine look at it.
func (s *session) change(what func()) {
	s.mu.Lock()
	what()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run is the session's goroutine.
func (s *session) run() {
	defer close(s.done)
	for _, gone := range s.after {
		<-gone
	}
	if p := s.current(); p.Interface != "" {
		s.finder = newFinder(p.Interface, s.log)
		searched := make(chan struct{})
		go func() {
			defer close(searched)
			s.finder.run(s.life)
		}()
		defer func() { <-searched }()
	}
	for pause := time.Duration(0); s.pause(pause); {
		err := s.attempt()
		if s.life.Err() != nil {
			return
		}
		pause = s.failed(err)
	}
}

// failure is why a session is not established, and in whose words.
type failure struct {
	text    string
	refused bool // by a NOTIFICATION of either side while it was negotiated
	err     error
}

// Error returns the words for the user.
func (f *failure) Error() string { return f.text }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// failed takes in why the latest attempt ended, and returns how long to wait.
func (s *session) failed(err error) time.Duration {
	text := err.Error()
	refused := false
	if f := (*failure)(nil); errors.As(err, &f) {
		refused = f.refused
	}
	up := s.state == stateEstablished
	switch {
	case up:
		s.log.Warn("bgp session lost", "reason", text)
	case text != s.problem:
		s.log.Warn("bgp session cannot be established", "reason", text)
	}
	if up && time.Since(s.established) >= stableTime {
		s.failures, s.refusals = 0, 0
	}
	s.problem = text
	s.conn = nil
	if refused {
		s.enter(stateIdle)
	} else {
		s.enter(stateConnect)
	}
	n := s.failures
	s.failures++
	if refused { // a router that was away may refuse before it has read its configuration
		s.refusals++
	} else {
		s.refusals = 0
	}
	switch retry := s.current().ConnectRetry; {
	case up && n == 0:
		return jitter(leastPause)
	case retry > 0:
		return jitter(retry)
	case refused:
		return jitter(min(leastRefused<<min(s.refusals-1, 10), mostRefused))
	}
	return jitter(min(leastPause<<min(n, 10), mostPause))
}

// jitter shortens d by chance, so that many nodes do not knock at once.
func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)*jitterPercent/100+1)) //nolint:gosec // not a secret
}

// pause waits, and reports whether to try again.
func (s *session) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-s.life.Done():
			return false
		case <-s.wake:
			s.publish() // how many routes are wanted
		case <-timer.C:
			return s.cleared()
		}
	}
}

// attempt connects and keeps the session for as long as it lasts. It returns why it
// does not any more.
func (s *session) attempt() error {
	var p lb.Peer
	var way local
	for admitted := false; !admitted; admitted = s.admit() {
		if s.life.Err() != nil {
			return s.life.Err() //nolint:wrapcheck // nobody reads it
		}
		p = s.current()
		if s.state != stateIdle || s.problem == "" {
			s.enter(stateConnect)
		}
		var err error
		if way, err = s.find(p); err != nil {
			return err
		}
	}
	c, err := dial(s.life, p, way)
	if err != nil {
		return err
	}
	defer c.close()
	c.counts = &s.counts
	s.enter(stateOpenSent)
	if err := s.negotiate(c); err != nil {
		return err
	}
	s.conn, s.established, s.problem = c, time.Now(), ""
	s.watch.established(&s.mu)
	s.enter(stateEstablished)
	s.log.Info("bgp session established", "addr", c.way.addr.String(), "hold", c.facts.HoldTime.String())
	return s.serve(c)
}

// find returns how to reach the router.
func (s *session) find(p lb.Peer) (local, error) {
	if s.finder != nil {
		router, err := s.finder.router()
		if err != nil {
			return local{}, err
		}
		p.Addr = router
		s.mu.Lock()
		if s.found != router.WithZone("") {
			s.found = router.WithZone("")
			defer s.notify() // BFD shall watch over that one
		}
		s.mu.Unlock()
	}
	return findLocal(p, s.cfg.NodeAddrs())
}

func (s *session) enter(state string) {
	if s.state != state {
		s.state, s.since = state, time.Now()
	}
	s.publish()
}

// publish makes the status what is now.
func (s *session) publish() {
	s.mu.Lock()
	now := &SessionStatus{
		Peer: s.peer.Name, Addr: s.peer.Addr, Port: s.peer.Port, Interface: s.peer.Interface, VRF: s.peer.VRF,
		State: s.state, Since: s.since, LastError: s.problem, Failures: s.failures, Wanted: s.wanted,
	}
	s.mu.Unlock()
	if s.state == stateEstablished {
		c := s.conn
		now.LastError, now.Advertised, now.Negotiated = c.lacking, len(c.sent), c.facts
		now.Addr = c.way.router
	}
	old := s.status.Swap(now)
	if old != nil {
		last := *old
		last.Failures = now.Failures
		if last == *now {
			return
		}
	}
	s.notify()
}

// open is the OPEN that p is sent.
func (s *session) open(p lb.Peer, way local) *bgpmsg.Open {
	o := &bgpmsg.Open{
		ASN: p.LocalASN, HoldTime: uint16(holdTime(p) / time.Second),
		RouterID: routerID(p, s.cfg.NodeName, s.cfg.NodeAddrs()),
		Families: p.Families, FourOctetAS: true, RouteRefresh: true,
		IPv6Hops: way.addr.Is6() && carries(p, lb.IPv4),
	}
	if p.GracefulRestart || s.cfg.GracefulRestart {
		// The node forwards whether this process runs or not. It counts as restarted
		// until it has told all of its routes once.
		o.GracefulRestart = &bgpmsg.GracefulRestart{
			Restarted: !s.ever, Time: s.cfg.RestartTime, Families: p.Families, Preserved: p.Families,
		}
	}
	return o
}
