// Package bgp keeps BGP sessions with routers and tells them routes. It is the
// only place that knows of the embedded GoBGP.
//
// A Speaker takes the full desired state (lb.BGP) and works on the difference: a
// session whose peer is unchanged is never reset, and a change of its routes is
// sent as UPDATEs for those routes alone. Each session has a BGP server of its own
// and one goroutine that owns it (docs/adr/0003-embedded-gobgp.md says why), so a
// session that fails harms no other. It only connects, it never listens, and it
// accepts no route.
//
// All methods may be called from any goroutine. A Speaker is a
// prometheus.Collector.
//
//	speaker := bgp.New(bgp.Config{NodeName: "node1", Log: slog.Default()})
//	go speaker.Run(ctx)
//	err := speaker.Apply(ctx, lb.BGP{{Peer: peer, Routes: routes}})
package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// stopTime is how long Run waits for the sessions to close.
const stopTime = 3 * time.Second

// ErrStopped is returned by Apply and Run once Run has ended.
var ErrStopped = errors.New("bgp: speaker has stopped")

// Config is what a Speaker needs to know about its node.
type Config struct {
	// NodeName tells this node's router ID from those of the others when no IPv4
	// address is known to take it from.
	NodeName string
	// NodeAddrs returns the node's own addresses, best first; nil for none. The
	// first IPv4 address is the router ID of peers that set none. They serve as
	// next hops where the link to the router has no address of a family. It is
	// called from several goroutines, often.
	NodeAddrs func() []netip.Addr
	// Log is where sessions that come and go are reported; nil for nowhere.
	Log *slog.Logger
}

// SessionStatus is what is known of one session. It is a snapshot.
type SessionStatus struct {
	Peer string // name of the BGPPeer
	Addr netip.Addr
	Port uint16
	// State is the session's state by its name in RFC 4271 §8.2.2.
	State string
	// Since is when State was entered.
	Since time.Time
	// LastError says why the session is not established and what to do about it;
	// of an established session, which routes it cannot carry. "" if all is well.
	LastError string
	// Wanted is how many routes the session shall carry, Advertised how many the
	// router has been sent.
	Wanted, Advertised int
}

// phase is a Speaker's stage of life.
type phase uint8

const (
	waiting phase = iota // for Run
	running
	stopped
)

// Speaker runs the BGP sessions of one node.
type Speaker struct {
	cfg     Config
	changed chan struct{}
	metrics metrics

	mu       sync.Mutex
	phase    phase
	sessions map[string]*session      // by name of the peer
	retiring []*session               // told to close, perhaps not closed yet
	refused  map[string]SessionStatus // peers that cannot be as they are
}

// New returns a Speaker that does nothing until Run.
func New(cfg Config) *Speaker {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.NodeAddrs == nil {
		cfg.NodeAddrs = func() []netip.Addr { return nil }
	}
	return &Speaker{
		cfg:      cfg,
		changed:  make(chan struct{}, 1),
		metrics:  newMetrics(),
		sessions: make(map[string]*session),
	}
}

// Run keeps the sessions until ctx ends, then closes them with a NOTIFICATION
// (Cease), whereupon the routers drop the routes at once (RFC 4271 §6.7, §8.2.2).
// It returns when they are closed, or an error when they are not within 3 s.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.phase != waiting {
		s.mu.Unlock()
		return ErrStopped
	}
	s.phase = running
	for _, session := range s.sessions {
		go session.run()
	}
	s.mu.Unlock()

	<-ctx.Done()

	s.mu.Lock()
	for name := range s.sessions {
		s.retire(name)
	}
	s.phase = stopped
	open := s.retiring
	s.mu.Unlock()

	deadline := time.NewTimer(stopTime)
	defer deadline.Stop()
	for _, session := range open {
		select {
		case <-session.done:
		case <-deadline.C:
			return fmt.Errorf("close session %s: not closed after %s", session.peer, stopTime)
		}
	}
	return nil
}

// Apply makes want the desired state. It returns before the routers know of it;
// Status says what is. A peer that cannot be is named in the error and in Status,
// all others are applied. The routes of want must not be changed afterwards.
func (s *Speaker) Apply(ctx context.Context, want lb.BGP) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply bgp sessions: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == stopped {
		return ErrStopped
	}

	wanted, refused, err := sift(want)
	for name := range refused {
		if old, ok := s.refused[name]; ok && old.LastError == refused[name].LastError {
			refused[name] = old // keep Since
		}
	}
	if !maps.Equal(refused, s.refused) {
		s.notify()
	}
	s.refused = refused

	// Whatever has to go, goes before anything new comes: a router takes a second
	// connection from one address for a collision (RFC 4271 §6.8).
	s.retiring = slices.DeleteFunc(s.retiring, (*session).closed)
	for name, session := range s.sessions {
		if w, ok := wanted[name]; !ok || !reflect.DeepEqual(w.Peer, session.peer) {
			s.retire(name)
		}
	}
	for name, w := range wanted {
		if session, ok := s.sessions[name]; ok {
			session.setRoutes(w.Routes)
			continue
		}
		s.add(w)
	}
	return err
}

// retire tells a session to close and forgets it.
func (s *Speaker) retire(name string) {
	session := s.sessions[name]
	delete(s.sessions, name)
	session.stop()
	if s.phase == running {
		s.retiring = append(s.retiring, session)
	}
	s.notify()
}

// add makes a session that starts once those with the same router are closed.
func (s *Speaker) add(w lb.Session) {
	session := newSession(s.cfg, w, s.notify)
	for _, old := range s.retiring {
		if old.peer.Addr == w.Peer.Addr {
			session.after = append(session.after, old.done)
		}
	}
	s.sessions[w.Peer.Name] = session
	if s.phase == running {
		go session.run()
	}
	s.notify()
}

// Status returns a snapshot of all sessions, sorted by name of the peer.
func (s *Speaker) Status() []SessionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]SessionStatus, 0, len(s.sessions)+len(s.refused))
	for _, session := range s.sessions {
		all = append(all, *session.status.Load())
	}
	all = slices.AppendSeq(all, maps.Values(s.refused))
	slices.SortFunc(all, func(a, b SessionStatus) int { return cmp.Compare(a.Peer, b.Peer) })
	return all
}

// Changed returns a channel that receives after Status has changed; any number of
// changes since the last receive count as one.
func (s *Speaker) Changed() <-chan struct{} { return s.changed }

func (s *Speaker) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// sift divides want into what can be and, by name, what cannot and why.
func sift(want lb.BGP) (map[string]lb.Session, map[string]SessionStatus, error) {
	type connection struct {
		router netip.AddrPort
		source netip.Addr
	}
	taken := make(map[connection]string)
	wanted := make(map[string]lb.Session, len(want))
	refused := make(map[string]SessionStatus)
	var errs []error
	for _, w := range slices.SortedStableFunc(slices.Values(want), func(a, b lb.Session) int {
		return cmp.Compare(a.Peer.Name, b.Peer.Name)
	}) {
		p := w.Peer
		conn := connection{netip.AddrPortFrom(p.Addr, p.Port), p.SourceAddr}
		err := validate(p)
		if other, ok := taken[conn]; ok && err == nil {
			err = fmt.Errorf("peer %q has the same address and port", other)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("apply peer %s: %w", p, err))
			refused[p.Name] = SessionStatus{
				Peer: p.Name, Addr: p.Addr, Port: p.Port,
				State: stateIdle, Since: time.Now(), LastError: err.Error(), Wanted: len(w.Routes),
			}
			continue
		}
		taken[conn] = p.Name
		wanted[p.Name] = w
	}
	return wanted, refused, errors.Join(errs...)
}
