package bfd

import (
	"cmp"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// tryAgain is how long to wait before a socket that could not be opened is tried
	// again.
	tryAgain = time.Second
	// linger is how long a session that was taken down says so: long enough for a
	// second packet, should the first be lost.
	linger = 1200 * time.Millisecond
	// atOnce is how many packets are read from a socket before sessions get their turn,
	// so that a flood cannot keep them from sending.
	atOnce = 512
)

// engine owns the sessions and sockets. It belongs to one goroutine.
type engine struct {
	cfg    Config
	notify func()
	bell   *bell
	log    *logger
	random *rand.Rand

	sessions map[lb.BFDKey]*session
	leaving  []*session                  // taken down, still saying so
	resume   map[lb.BFDKey]SessionStatus // what the first sessions go on from
	places   map[place]*listener
	echo     *echoSockets // nil unless a session needs it

	polled  []unix.PollFd
	data    [2048]byte
	control [256]byte
	out     []byte
	drained time.Time // when all sockets were last known to be empty
}

// listener is a socket that packets arrive on, or the reason why there is none.
type listener struct {
	fd    int // -1: none
	err   error
	retry time.Time
}

func newEngine(cfg Config, notify func(), bell *bell) *engine {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails
	resume := map[lb.BFDKey]SessionStatus{}
	for _, st := range cfg.resume {
		resume[st.Key] = st
	}
	return &engine{
		cfg: cfg, notify: notify, bell: bell, log: newLogger(cfg.Log), drained: time.Now(),
		random:   rand.New(rand.NewChaCha8(seed)), //nolint:gosec // seeded by crypto/rand
		sessions: map[lb.BFDKey]*session{}, resume: resume, places: map[place]*listener{},
	}
}

// apply makes want the sessions that there are.
func (e *engine) apply(want lb.BFD, now time.Time) {
	for key, s := range e.sessions {
		if _, ok := want[key]; !ok {
			e.retire(s, now)
		}
	}
	for key, profile := range want {
		s, ok := e.sessions[key]
		switch {
		case !ok:
			e.add(key, profile, now)
		case s.profile != profile:
			s.profile = profile
			e.step(s, now, bfd.Configure{Profile: profile})
			e.notify()
		}
	}
	e.resume = nil
	e.openListeners(now)
	e.openEcho()
}

func (e *engine) add(key lb.BFDKey, profile lb.BFDProfile, now time.Time) {
	// To the router, a session that is leaving and the new one may be the same.
	e.leaving = slices.DeleteFunc(e.leaving, func(s *session) bool {
		same := s.key.Peer == key.Peer && s.key.MultiHop == key.MultiHop
		if same {
			s.close()
		}
		return same
	})
	st := e.resume[key]
	for st.Discr == 0 || e.byDiscr(st.Discr) != nil {
		st.Status = bfd.Status{Discr: e.random.Uint32()}
	}
	s := &session{
		key: key, profile: profile, discr: st.Discr, made: now, since: now, wake: now,
		machine: bfd.Resume(profile, st.Status, now, e.random.Uint64(), e.random.Float64),
		port:    st.Port, counters: st.Counters, lastDown: st.LastDown, lastDiag: st.LastDiag,
	}
	if s.machine.Status().State == st.State {
		s.since = st.Since
	}
	e.sessions[key] = s
	e.open(s, now)
	e.notify()
}

// retire takes a session down; it says so for a while.
func (e *engine) retire(s *session, now time.Time) {
	delete(e.sessions, s.key)
	e.step(s, now, bfd.Disable{})
	s.gone = now.Add(linger)
	e.leaving = append(e.leaving, s)
	e.notify()
}

// disable takes all sessions down, in a hurry.
func (e *engine) disable(now time.Time) {
	for _, s := range e.sessions {
		e.step(s, now, bfd.Disable{})
	}
}

func (e *engine) close() {
	for _, s := range append(slices.Collect(maps.Values(e.sessions)), e.leaving...) {
		s.close()
	}
	for _, l := range e.places {
		l.close()
	}
	e.echo.close()
	e.log.close()
}

func (l *listener) close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
	}
}

// turn waits until there is something to do, and does it.
func (e *engine) turn() error {
	e.polled = append(e.polled[:0], unix.PollFd{Fd: int32(e.bell.fd), Events: unix.POLLIN})
	for _, l := range e.places {
		if l.fd >= 0 {
			e.polled = append(e.polled, unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN})
		}
	}
	for _, fd := range e.echo.fds() {
		e.polled = append(e.polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	var timeout *unix.Timespec
	if at := e.next(); !at.IsZero() {
		ts := unix.NsecToTimespec(int64(max(time.Until(at), 0)))
		timeout = &ts
	}
	if _, err := unix.Ppoll(e.polled, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("ppoll", err)
	}
	now := time.Now()
	e.bell.silence()
	e.drain(now)
	for _, s := range e.sessions {
		e.open(s, now)
		if !s.wake.IsZero() && !now.Before(s.wake) {
			e.step(s, now, bfd.Tick{})
		}
	}
	e.leaving = slices.DeleteFunc(e.leaving, func(s *session) bool {
		over := !now.Before(s.gone)
		switch {
		case over:
			s.close()
		case !s.wake.IsZero() && !now.Before(s.wake):
			e.step(s, now, bfd.Tick{})
		}
		return over
	})
	e.openListeners(now)
	return nil
}

// next returns when the next session wants to be asked, or another try is due.
func (e *engine) next() time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, s := range e.sessions {
		sooner(s.wake)
		if s.sender == nil {
			sooner(s.reopen)
		}
	}
	for _, s := range e.leaving {
		sooner(s.wake)
		sooner(s.gone)
	}
	for _, l := range e.places {
		sooner(l.retry)
	}
	return at
}

// drain reads what has arrived.
func (e *engine) drain(now time.Time) {
	empty := true
	for p, l := range e.places {
		if l.fd >= 0 {
			empty = e.read(l.fd, func(a arrival) { e.take(p, a, now) }) && empty
		}
	}
	for _, fd := range e.echo.fds() {
		empty = e.read(fd, func(a arrival) { e.takeRaw(a, now) }) && empty
	}
	if empty {
		e.drained = now
	}
}

// read hands what has arrived at a socket to take, and reports whether that is all.
func (e *engine) read(fd int, take func(arrival)) bool {
	for range atOnce {
		a, err := receive(fd, e.data[:], e.control[:])
		switch {
		case err == nil:
			take(a)
		case errors.Is(err, unix.EAGAIN):
			return true
		}
	}
	return false
}

// arrived returns when a packet arrived by the monotonic clock: since the sockets were
// last empty, whatever has become of the wall clock.
func (e *engine) arrived(a arrival, now time.Time) time.Time {
	if a.stamp.IsZero() {
		return now
	}
	age := time.Now().Round(0).Sub(a.stamp)
	return now.Add(-min(max(age, 0), now.Sub(e.drained)))
}

// take takes in a control packet.
func (e *engine) take(p place, a arrival, now time.Time) {
	packet, err := bfd.ParsePacket(a.data)
	s := e.find(p, a, packet)
	if s == nil {
		return
	}
	least := bfd.TTL
	if p.multiHop {
		least = int(s.profile.MinTTL)
	}
	switch {
	case err != nil:
		s.refuse(fmt.Sprintf("a packet of the router is not taken: %v", err))
		return
	case a.ttl < least:
		s.refuse(fmt.Sprintf("packets of the router arrive with TTL %d, and at least %d is demanded%s", a.ttl, least, whose(p)))
		return
	}
	s.counters.ControlIn++
	s.refusal = ""
	e.step(s, now, bfd.Received{Packet: packet, At: e.arrived(a, now)})
}

// whose says by whose will a TTL is demanded.
func whose(p place) string {
	if p.multiHop {
		return ": see minimumTtl of the BFDProfile"
	}
	return " (RFC 5881): is there a router between?"
}

// find returns the session that a packet belongs to: by the discriminator that it
// names if it names one, else by addresses and link (RFC 5880 §6.3). The addresses
// must fit in both cases.
func (e *engine) find(p place, a arrival, packet bfd.Packet) *session {
	if packet.YourDiscr != 0 {
		if s := e.byDiscr(packet.YourDiscr); s != nil && s.fits(p, a) {
			return s
		}
		return nil
	}
	var best *session
	for _, s := range e.sessions {
		if s.fits(p, a) && (best == nil || s.particular() > best.particular()) {
			best = s
		}
	}
	return best
}

func (e *engine) byDiscr(discr uint32) *session {
	for _, s := range e.sessions {
		if s.discr == discr {
			return s
		}
	}
	for _, s := range e.leaving {
		if s.discr == discr {
			return s
		}
	}
	return nil
}

// step hands an event to a session and does what it says.
func (e *engine) step(s *session, now time.Time, ev bfd.Event) {
	// Also if something that has arrived comes first: what is due is sent with it.
	if !s.wake.IsZero() && !s.wake.Equal(s.made) {
		s.counters.Late = max(s.counters.Late, now.Sub(s.wake))
	}
	out := s.machine.Step(now, ev)
	s.wake = out.Next
	if t := termsOf(s.machine.Status()); t != s.terms {
		s.terms = t
		e.notify()
	}
	for _, p := range out.Send {
		e.send(s, p, now)
	}
	if out.Echo != nil {
		e.sendEcho(s, *out.Echo)
	}
	if out.Change != nil {
		e.changed(s, *out.Change, now)
	}
}

// open opens the socket of a session that has none, if it is time to try.
func (e *engine) open(s *session, now time.Time) {
	if s.sender != nil || now.Before(s.reopen) {
		return
	}
	s.reopen = now.Add(tryAgain)
	sender, err := openSender(s.key, s.port, e.random.IntN)
	if err != nil {
		e.trouble(s, err)
		return
	}
	s.sender, s.port = sender, sender.port
}

// send sends a control packet.
func (e *engine) send(s *session, p bfd.Packet, now time.Time) {
	e.open(s, now)
	if s.sender == nil {
		return
	}
	e.out = p.Append(e.out[:0])
	if err := s.sender.send(e.out); err != nil {
		// The link may have come back as another one.
		s.close()
		e.trouble(s, fmt.Errorf("send to the router: %w", err))
		return
	}
	s.counters.ControlOut++
	e.trouble(s, nil)
}

func (e *engine) trouble(s *session, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if s.trouble != text {
		s.trouble = text
		e.notify()
	}
}

// changed reports a change of a session's state.
func (e *engine) changed(s *session, c bfd.Transition, now time.Time) {
	s.since = now
	up, down := c.To == bfd.Up, c.From == bfd.Up
	if up || down {
		change := lb.BFDChange{Key: s.key, Up: up, Admin: c.Admin}
		if up {
			s.counters.Ups++
		} else {
			s.counters.Downs++
			s.lastDown, s.lastDiag = now, c.Diag
			change.Diag = c.Diag.String()
		}
		s.counters.Told++
		e.cfg.OnChange(change)
		e.log.say(s.key, c)
	}
	e.notify()
}

// status returns a snapshot.
func (e *engine) status() []SessionStatus {
	all := make([]SessionStatus, 0, len(e.sessions))
	for _, s := range e.sessions {
		all = append(all, e.statusOf(s))
	}
	slices.SortFunc(all, func(a, b SessionStatus) int { return compareKeys(a.Key, b.Key) })
	return all
}

func (e *engine) statusOf(s *session) SessionStatus {
	problem := s.trouble
	if l := e.places[placeOf(s.key)]; l != nil && l.err != nil {
		problem = l.err.Error()
	}
	problem = cmp.Or(problem, s.refusal, e.echo.problem(s))
	return SessionStatus{
		Key: s.key, Profile: s.profile.Name, Status: s.machine.Status(), Port: s.port, Since: s.since,
		LastDown: s.lastDown, LastDiag: s.lastDiag, Problem: problem, Counters: s.counters,
	}
}

// openListeners opens the sockets that the sessions need, and closes the others.
func (e *engine) openListeners(now time.Time) {
	for p, l := range e.places {
		if !slices.ContainsFunc(e.leaving, func(s *session) bool { return placeOf(s.key) == p }) && !e.needs(p) {
			l.close()
			delete(e.places, p)
		}
	}
	for key := range e.sessions {
		p := placeOf(key)
		l := e.places[p]
		if l != nil && (l.fd >= 0 || now.Before(l.retry)) {
			continue
		}
		var options []option
		for other := range e.places {
			if other != p && other == (place{p.family, p.multiHop, other.vrf}) {
				options = []option{share}
			}
		}
		fresh := &listener{}
		fresh.fd, fresh.err = listen(p, options...)
		if fresh.err != nil {
			fresh.retry = now.Add(tryAgain)
		}
		if l == nil || l.err == nil || fresh.err == nil || l.err.Error() != fresh.err.Error() {
			e.notify()
		}
		e.places[p] = fresh
	}
}

func (e *engine) needs(p place) bool {
	for key := range e.sessions {
		if placeOf(key) == p {
			return true
		}
	}
	return false
}
