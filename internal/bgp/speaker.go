// Package bgp keeps BGP sessions with routers and tells them routes
// (docs/adr/0011-own-bgp-speaker.md).
//
// A Speaker takes the full desired state (lb.BGP) and works on the difference: a
// session whose peer is unchanged is never reset, and a change of its routes is
// sent as UPDATEs for those routes alone. Each session has a goroutine that owns it,
// so a session that fails or waits harms no other. It only connects, it never
// listens, and it accepts no route.
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
	"slices"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

// stopTime is how long Run waits for the sessions to close.
const stopTime = 4 * time.Second

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
	// GracefulRestart offers graceful restart to every router (RFC 4724), whatever its
	// peer says.
	GracefulRestart bool
	// RestartTime is how long routers keep the routes of a speaker that restarts; 0 for
	// 120 s.
	RestartTime time.Duration
	// DrainTime is how long routes that say GracefulShutdown stay (RFC 8326 §4.2): routers
	// move to others meanwhile, and then the routes are withdrawn. 0 withdraws at once.
	// Those that have not been told without it before are not told at all.
	DrainTime time.Duration
	// SendHoldTime is how long a router may take nothing in before its session is closed;
	// 0 for 8 min, or twice the hold time if that is more (RFC 9687 §6).
	SendHoldTime time.Duration
}

// Departure says how a Speaker ends its sessions when Run ends. The zero value is a
// restart: the connections are closed without a NOTIFICATION, and routers with
// graceful restart keep the routes until this node's next speaker has sent them
// again, or the restart time is over. All others drop them at once.
type Departure struct {
	// Leaving says that the routes will not be back: routers are told to prefer others
	// (RFC 8326), when the DrainTime is over the routes are withdrawn, and after Linger the
	// sessions closed with a Cease (Administrative Shutdown). Run takes so much longer, but
	// for routes that have been draining before.
	Leaving bool
	Linger  time.Duration
	// Reason is the shutdown communication of that Cease (RFC 9003), at most 255 bytes.
	Reason string
}

// SessionStatus is what is known of one session. It is a snapshot.
type SessionStatus struct {
	Peer string // name of the BGPPeer
	// Addr is the router's address; zero if it is to be found on Interface and has not
	// been yet.
	Addr           netip.Addr
	Port           uint16
	Interface, VRF string // as in the BGPPeer
	// State is the session's state by its name in RFC 4271 §8.2.2.
	State string
	// Since is when State was entered.
	Since time.Time
	// LastError says why the session is not established and what to do about it;
	// of an established session, which routes it cannot carry. "" if all is well.
	LastError string
	// Failures is how many attempts to connect have failed in a row. A change of it alone
	// is not one of the status.
	Failures int
	// Wanted is how many routes the session shall carry, without those that say
	// GracefulShutdown; Advertised how many the router has been sent.
	Wanted, Advertised int
	// Negotiated is what both ends agreed on; zero unless established.
	Negotiated Negotiated

	labels labels // of metrics
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
	metrics []metrics

	mu       sync.Mutex
	phase    phase
	sessions map[string]*session // by name of the peer
	departs  Departure
	leaving  time.Time                // since when routes say GracefulShutdown; zero while none does
	drained  *time.Timer              // withdraws them
	retiring []*session               // told to close, perhaps not closed yet
	refused  map[string]SessionStatus // peers that cannot be as they are

	bfdUp sync.Map // the keys of BFD sessions that are up
}

// New returns a Speaker that does nothing until Run.
func New(cfg Config) *Speaker {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.NodeAddrs == nil {
		cfg.NodeAddrs = func() []netip.Addr { return nil }
	}
	if cfg.RestartTime == 0 {
		cfg.RestartTime = defaultRestartTime
	}
	return &Speaker{
		cfg:      cfg,
		changed:  make(chan struct{}, 1),
		metrics:  newMetrics(),
		sessions: make(map[string]*session),
	}
}

// Depart says how Run ends. It has to be called before the context of Run ends.
func (s *Speaker) Depart(d Departure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.departs = d
}

// Run keeps the sessions until ctx ends, then ends them as Depart has said. It returns
// when they are closed, or an error when they are not within 4 s.
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
	s.phase = stopped // Apply changes nothing any more
	d := s.departs
	s.mu.Unlock()
	how := ending{silent: true}
	if d.Leaving {
		s.leave(d.Linger)
		how = ending{subcode: bgpmsg.CeaseShutdown, text: d.Reason}
	}
	s.mu.Lock()
	open := slices.AppendSeq(slices.Clone(s.retiring), maps.Values(s.sessions))
	for _, session := range s.sessions {
		session.stop(how)
	}
	clear(s.sessions)
	s.mu.Unlock()
	s.notify()

	deadline := time.NewTimer(stopTime)
	defer deadline.Stop()
	for _, session := range open {
		select {
		case <-session.done:
		case <-deadline.C:
			return fmt.Errorf("close session %s: not closed after %s", session.current(), stopTime)
		}
	}
	return nil
}

// leave has routers prefer other routes, waits for the drain time, withdraws, and
// waits for linger.
func (s *Speaker) leave(linger time.Duration) {
	s.mu.Lock()
	s.drain(true)
	left := time.Until(s.leaving.Add(s.cfg.DrainTime))
	for _, session := range s.sessions {
		session.change(func() { session.graceful = true })
	}
	s.mu.Unlock()
	time.Sleep(left)
	s.withdraw()
	time.Sleep(linger)
}

// Watched returns the BFD sessions that go with the BGP sessions, as far as the
// addresses of routers are known; Changed tells when that may be others. BGP sessions to
// one address share a BFD session; the profile of the first by name counts.
func (s *Speaker) Watched() lb.BFD {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := lb.BFD{}
	for _, name := range slices.Sorted(maps.Keys(s.sessions)) {
		key, ok := s.sessions[name].bfdKey()
		if _, taken := all[key]; ok && !taken {
			all[key] = *s.sessions[name].current().BFD
		}
	}
	return all
}

// drain starts the drain time, or forgets it. s.mu must be held.
func (s *Speaker) drain(leaving bool) {
	switch {
	case leaving && s.leaving.IsZero():
		s.leaving = time.Now()
		s.drained = time.AfterFunc(s.cfg.DrainTime, s.withdraw)
	case !leaving && !s.leaving.IsZero():
		s.drained.Stop()
		s.leaving = time.Time{}
		for _, session := range s.sessions {
			session.change(func() { session.drained = false })
		}
	}
}

// withdraw takes back all routes that say GracefulShutdown, once the drain time is
// over.
func (s *Speaker) withdraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isDrained() {
		return
	}
	for _, session := range s.sessions {
		session.change(func() { session.drained = true })
	}
}

func (s *Speaker) isDrained() bool {
	return !s.leaving.IsZero() && time.Since(s.leaving) >= s.cfg.DrainTime
}

// leaves reports whether routes say that they will be withdrawn.
func leaves(want lb.BGP) bool {
	for i := range want {
		for _, attrs := range want[i].Routes {
			if attrs.GracefulShutdown {
				return true
			}
		}
	}
	return false
}

// BFD tells the sessions of a change of the BFD session that watches over their
// routers: where it goes down, they do, and wait until it is back. It does not wait
// for anything.
func (s *Speaker) BFD(change lb.BFDChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if change.Up {
		s.bfdUp.Store(change.Key, true)
	} else {
		s.bfdUp.Delete(change.Key)
	}
	for _, session := range s.sessions {
		if key, ok := session.bfdKey(); ok && key == change.Key {
			session.bfd(change, now)
		}
	}
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
	s.drain(leaves(want))

	// Whatever has to go, goes before anything new comes: a router takes a second
	// connection from one address for a collision (RFC 4271 §6.8).
	s.retiring = slices.DeleteFunc(s.retiring, (*session).closed)
	for name, session := range s.sessions {
		w, ok := wanted[name]
		switch {
		case !ok:
			s.retire(name, bgpmsg.CeaseDeconfigured)
		case !onlyLive(w.Peer, session.current()):
			s.retire(name, bgpmsg.CeaseConfigChanged)
		}
	}
	for name, w := range wanted {
		if session, ok := s.sessions[name]; ok {
			session.set(w)
			continue
		}
		s.add(w)
	}
	return err
}

// retire tells a session to close with a Cease, and forgets it.
func (s *Speaker) retire(name string, subcode uint8) {
	session := s.sessions[name]
	delete(s.sessions, name)
	session.stop(ending{subcode: subcode})
	if s.phase == running {
		s.retiring = append(s.retiring, session)
	}
	s.notify()
}

// add makes a session that starts once those with the same router are closed.
func (s *Speaker) add(w lb.Session) {
	session := newSession(s.cfg, w, s.notify)
	session.drained = s.isDrained()
	session.bfdUp = func(key lb.BFDKey) bool { _, up := s.bfdUp.Load(key); return up }
	for _, old := range s.retiring {
		if p := old.current(); p.Addr == w.Peer.Addr && p.Interface == w.Peer.Interface {
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
		device [2]string
	}
	taken := make(map[connection]string)
	wanted := make(map[string]lb.Session, len(want))
	refused := make(map[string]SessionStatus)
	var errs []error
	for _, w := range slices.SortedStableFunc(slices.Values(want), func(a, b lb.Session) int {
		return cmp.Compare(a.Peer.Name, b.Peer.Name)
	}) {
		p := w.Peer
		conn := connection{netip.AddrPortFrom(p.Addr, p.Port), p.SourceAddr, [2]string{p.Interface, p.VRF}}
		err := validate(p)
		if other, ok := taken[conn]; ok && err == nil {
			err = fmt.Errorf("peer %q has the same address and port", other)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("apply peer %s: %w", p, err))
			refused[p.Name] = SessionStatus{
				Peer: p.Name, Addr: p.Addr, Port: p.Port, Interface: p.Interface, VRF: p.VRF, labels: labelsOf(p),
				State: stateIdle, Since: time.Now(), LastError: err.Error(), Wanted: len(w.Routes),
			}
			continue
		}
		taken[conn] = p.Name
		wanted[p.Name] = w
	}
	return wanted, refused, errors.Join(errs...)
}
