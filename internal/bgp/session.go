package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// lookAgain is how often the addresses to connect from and to name as next hop
	// are looked up again.
	lookAgain = 10 * time.Second
	// stableTime is how long a session must last to be forgiven earlier failures.
	stableTime = 30 * time.Second
	maxBackoff = 30 * time.Second
)

// The states of RFC 4271 §8.2.2 by name.
const (
	stateIdle        = "Idle"
	stateEstablished = "Established"
)

// session is one BGP session.
//
//	             connect                up                     down
//	no peer ────────────► GoBGP tries ──────► routes flow ────────────► no peer,
//	                      on its own          facts are known           wait a while
//
// The peer is taken out of GoBGP whenever its session falls back to Idle, for
// GoBGP would sit there for 5 s; put in again, it connects within 2 s.
type session struct {
	cfg    Config
	peer   lb.Peer
	log    *slog.Logger
	notify func()            // the status has changed
	after  []<-chan struct{} // what must be closed before it starts

	life   context.Context //nolint:containedctx // it outlives the call that makes it
	stop   context.CancelFunc
	done   chan struct{} // closed when the session is
	inbox  chan any      // event or problem, in the order in which they happened
	wake   chan struct{} // routes have changed
	status atomic.Pointer[SessionStatus]
	quiet  atomic.Bool // established: GoBGP's debug messages are about single routes

	mu     sync.Mutex
	routes map[netip.Prefix]lb.Attrs // what shall be

	counting sync.Mutex
	added    bool   // GoBGP has the peer
	past     uint64 // UPDATEs sent before it was last added

	// What follows is the goroutine's own.

	server     *server.BgpServer // set before added
	retry      *time.Timer       // when to connect
	failures   int               // in a row
	local      local
	state      string
	since      time.Time
	facts      negotiated
	cause      string                 // of the next fall, as far as GoBGP has logged it
	problem    string                 // why it is not established
	sent       map[netip.Prefix]route // what GoBGP has been told
	wanted     int
	advertised int
	lacking    string // which routes are not sent, and why
}

// event is a change of state that GoBGP reports.
type event struct {
	state  bgp.FSMState
	reason string // "" when we removed the peer ourselves
	asn    uint32
	caps   []bgp.ParameterCapabilityInterface
}

// problem is what went wrong, in words for the user.
type problem string

func newSession(cfg Config, want lb.Session, notify func()) *session {
	life, stop := context.WithCancel(context.Background())
	s := &session{
		cfg:    cfg,
		peer:   want.Peer,
		log:    cfg.Log.With("peer", want.Peer.String()),
		notify: notify,
		life:   life,
		stop:   stop,
		done:   make(chan struct{}),
		inbox:  make(chan any, 64),
		wake:   make(chan struct{}, 1),
		routes: want.Routes,
		state:  stateIdle,
		since:  time.Now(),
		sent:   make(map[netip.Prefix]route),
		retry:  time.NewTimer(0),
	}
	s.wanted = len(want.Routes)
	s.publish()
	return s
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

// setRoutes makes routes the desired ones.
func (s *session) setRoutes(routes map[netip.Prefix]lb.Attrs) {
	s.mu.Lock()
	s.routes = routes
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
	if s.life.Err() != nil {
		return
	}
	if err := s.start(); err != nil {
		if s.life.Err() != nil {
			return // told to stop meanwhile
		}
		s.problem = err.Error()
		s.log.Error("bgp session cannot start", "err", err)
		s.publish()
		<-s.life.Done()
		return
	}
	// Stop sends a NOTIFICATION (Cease, Peer De-configured), at which the router
	// drops all routes of the session: without graceful restart there is nothing
	// that withdrawing them one by one before would add.
	defer s.server.Stop()

	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		stale := false
		select {
		case <-s.life.Done():
			return
		case m := <-s.inbox:
			stale = s.handle(m)
		case <-s.wake:
			stale = true
		case <-s.retry.C:
			s.connect()
			stale = true
		case <-look.C:
			stale = s.look()
		}
		if stale {
			s.reconcile()
		}
		s.publish()
	}
}

// wait has the peer added again after a while.
func (s *session) wait() {
	s.retry.Reset(backoff(s.failures))
	s.failures++
}

// backoff is how long to wait after so many failures in a row: not at all, 1 s,
// 2 s … 30 s. GoBGP adds 1.5 to 2 s before it connects.
func backoff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(time.Second<<min(failures-1, 10), maxBackoff)
}

// handle takes in what GoBGP reports, and reports whether the routes to send may
// be others now.
func (s *session) handle(m any) bool {
	switch m := m.(type) {
	case problem:
		s.cause = string(m)
		if s.state != stateEstablished {
			s.problem = s.cause
		}
	case event:
		switch {
		case m.state == bgp.BGP_FSM_ESTABLISHED:
			return s.up(m)
		case m.state == bgp.BGP_FSM_IDLE && m.reason != "":
			return s.down(m.reason)
		case m.state == bgp.BGP_FSM_OPENCONFIRM:
			s.cause = "" // that of an earlier attempt
			s.enter(stateName(m.state))
		case m.state != bgp.BGP_FSM_IDLE:
			s.enter(stateName(m.state))
		}
	}
	return false
}

func (s *session) enter(state string) {
	if s.state != state {
		s.state, s.since = state, time.Now()
	}
	s.quiet.Store(state == stateEstablished)
}

// up takes in that the session is established.
func (s *session) up(e event) bool {
	// GoBGP can only demand one AS or take any.
	if s.peer.Dynamic == lb.ExternalASN && e.asn == s.peer.LocalASN {
		s.cause = fmt.Sprintf("the router is in our own AS %d, but dynamicASN is external: set it to internal, or set another myASN", e.asn)
		return s.down("")
	}
	if !s.confirm() {
		return false // gone already: the event that says so is on its way
	}
	s.enter(stateEstablished)
	s.cause, s.problem = "", ""
	s.facts = negotiate(s.peer, e.caps)
	s.log.Info("bgp session established")
	return true
}

// down takes in that there is no session any more; reason is GoBGP's.
func (s *session) down(reason string) bool {
	s.problem = s.cause
	if s.problem == "" {
		s.problem = explainDown(reason, s.peer)
	}
	s.cause = ""
	if s.state == stateEstablished {
		s.log.Warn("bgp session lost", "reason", s.problem)
		if time.Since(s.since) >= stableTime {
			s.failures = 0
		}
	}
	s.remove()
	s.enter(stateIdle)
	s.facts = negotiated{}
	s.wait()
	return true
}

// look looks up the local addresses again, for they may have come or changed
// since, and reports whether they did.
func (s *session) look() bool {
	found, err := findLocal(s.peer, s.cfg.NodeAddrs())
	up := s.state == stateEstablished
	switch {
	case err != nil && up:
		return false
	case err != nil:
		s.problem = err.Error()
		return false
	case up:
		found.addr = s.local.addr // the connection's, whatever a new one would take
	case found.addr != s.local.addr && s.local.addr.IsValid():
		s.remove()
		s.retry.Reset(0)
	}
	changed := found != s.local
	s.local = found
	return changed
}

// publish makes the status what is now.
func (s *session) publish() {
	now := &SessionStatus{
		Peer: s.peer.Name, Addr: s.peer.Addr, Port: s.peer.Port,
		State: s.state, Since: s.since, LastError: s.problem, Wanted: s.wanted,
	}
	if s.state == stateEstablished {
		now.LastError, now.Advertised = s.lacking, s.advertised
	}
	if old := s.status.Swap(now); old != nil && *old != *now {
		s.notify()
	}
}
