package bfd

import (
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// slowStart is the least transmit interval of a session that is not up (RFC 5880
	// §6.8.3), and the least interval at which control packets are asked for while echo
	// packets watch the path (§6.8.9).
	slowStart = time.Second
)

// Event is something that happens to a session: Tick, Received, EchoBack, Configure,
// EchoPath or Disable.
type Event interface{ event() }

// Tick is the time that an Output asked for, or any other. All packets that have
// arrived by now must have been reported before.
type Tick struct{}

// Received is a control packet of the peer that has passed the checks of addresses and
// TTL. At is when it arrived, by the clock of Step.
type Received struct {
	Packet Packet
	At     time.Time
}

// EchoBack is an echo packet that has come back.
type EchoBack struct {
	Echo Echo
	At   time.Time
}

// Configure puts a profile in force. The session stays up.
type Configure struct{ Profile lb.BFDProfile }

// EchoPath says what the node can do on the link to the peer: send echo packets, and
// return those of the peer. At first it can neither.
type EchoPath struct{ Send, Return bool }

// Disable takes the session down administratively, for good.
type Disable struct{}

func (Tick) event()      {}
func (Received) event()  {}
func (EchoBack) event()  {}
func (Configure) event() {}
func (EchoPath) event()  {}
func (Disable) event()   {}

// Output is what follows from an event.
type Output struct {
	Send   []Packet    // control packets, in order
	Echo   *Echo       // an echo packet to send; nil: none
	Change *Transition // a change of the session's state; nil: none
	// Next is when Step wants to be called with Tick; zero: not before another event.
	Next time.Time
}

// Transition is a change of a session's state.
type Transition struct {
	From, To State
	Diag     Diag // why; NoDiag on the way up
	// Remote is the diagnostic that the peer sent last.
	Remote Diag
	// Admin reports that one side was told to take it down.
	Admin bool
}

// Session is the state of one session (RFC 5880 §6.8.1). It belongs to one goroutine.
type Session struct {
	profile lb.BFDProfile
	discr   uint32
	random  func() float64
	state   State
	diag    Diag
	remote  remote

	// A change of an interval is told to the peer by a Poll Sequence. Until it has
	// answered, the more cautious value is in use (§6.8.3).
	sayTx, sayRx time.Duration // what packets say
	useTx, useRx time.Duration // what is in use
	poll         bool          // a Poll Sequence is going on
	settled      bool          // a packet without F has come since the last one ended

	sent     time.Time     // when the last packet that was no answer was sent
	interval time.Duration // between periodic packets, before jitter; 0: none are sent
	next     time.Time     // when to send the next one
	atOnce   bool          // do not wait for next: the peer should know (§6.8.7)

	control watch
	echo    echo
}

// remote is what the peer said last.
type remote struct {
	discr                 uint32 // 0: nothing yet, or too long ago
	state                 State
	diag                  Diag
	demand                bool
	multiplier            uint8
	minTx, minRx, minEcho time.Duration
}

// New returns a session that is down. discr is its discriminator, not 0 and of no
// other session; nonce makes its echo packets hard to forge; random returns numbers in
// [0,1) for the jitter. The first Tick makes it speak, unless it is passive.
func New(profile lb.BFDProfile, discr uint32, nonce uint64, random func() float64) *Session {
	s := &Session{profile: profile, discr: discr, random: random, state: Down}
	s.remote = remote{state: Down, minRx: time.Microsecond} // §6.8.1
	s.echo.nonce = nonce
	s.negotiate()
	return s
}

// Resume returns a session that goes on where another one was that is no more, of which
// st is what was known last: with its discriminator, and up if that was. A Poll Sequence
// asks the peer at once whether it still is. What the intervals are is settled by it
// too; until then the more cautious ones are in use. The peer has the whole detection
// time from now.
func Resume(profile lb.BFDProfile, st Status, now time.Time, nonce uint64, random func() float64) *Session {
	s := New(profile, st.Discr, nonce, random)
	if st.State != Up || st.RemoteDiscr == 0 || st.RemoteMultiplier == 0 {
		return s
	}
	s.state = Up
	s.remote = remote{
		discr: st.RemoteDiscr, state: Up, diag: st.RemoteDiag, multiplier: st.RemoteMultiplier,
		minTx: st.RemoteTransmit, minRx: st.RemoteReceive, minEcho: st.RemoteEcho,
	}
	s.sayTx, s.sayRx = profile.Transmit, profile.Receive
	s.useTx, s.useRx = profile.Transmit, max(profile.Receive, st.Detection/time.Duration(st.RemoteMultiplier))
	if st.Transmit > 0 {
		s.useTx = min(s.useTx, st.Transmit)
	}
	s.poll, s.settled, s.atOnce = true, false, true
	s.control.seen(now)
	return s
}

// Step applies an event at a time that never goes back.
func (s *Session) Step(now time.Time, ev Event) Output {
	var out Output
	switch ev := ev.(type) {
	case Tick:
		s.expire(now, &out)
	case Received:
		s.receive(ev, &out)
	case EchoBack:
		s.echo.back(ev)
	case Configure:
		// A new multiplier needs no Poll Sequence (§6.8.12).
		s.atOnce = s.atOnce || s.profile.Multiplier != ev.Profile.Multiplier
		s.profile = ev.Profile
	case EchoPath:
		s.echo.path = ev
	case Disable:
		s.enter(AdminDown, AdministrativelyDown, &out)
	}
	s.runEcho(now, ev, &out)
	s.negotiate()
	s.transmit(now, &out)
	out.Next = s.wake()
	return out
}

// expire takes the session down if the peer has been silent for too long (§6.8.4), and
// forgets the peer's discriminator (§6.8.1).
func (s *Session) expire(now time.Time, out *Output) {
	if s.remote.discr == 0 || !s.control.expired(now, s.detection()) {
		return
	}
	if s.state == Init || s.state == Up {
		s.enter(Down, DetectionTimeExpired, out)
		s.negotiate()
		out.Send = append(out.Send, s.packet()) // while we know to whom
		s.sent, s.atOnce = now, false
	}
	s.remote = remote{state: Down, minRx: time.Microsecond, diag: s.remote.diag}
}

// receive is §6.8.6 from where the session has been found.
func (s *Session) receive(ev Received, out *Output) {
	p := ev.Packet
	if p.YourDiscr != 0 && p.YourDiscr != s.discr {
		return
	}
	s.remote = remote{
		discr: p.MyDiscr, state: p.State, diag: p.Diag, demand: p.Demand, multiplier: p.Multiplier,
		minTx: p.DesiredMinTx, minRx: p.RequiredRx, minEcho: p.RequiredEcho,
	}
	s.control.seen(ev.At)
	switch {
	case s.poll && p.Final:
		s.poll, s.settled = false, false
		s.useTx, s.useRx = s.sayTx, s.sayRx
	case !p.Final:
		s.settled = true
	}
	if s.state == AdminDown {
		return
	}
	switch {
	case p.State == AdminDown && s.state != Down:
		s.enter(Down, NeighborDown, out)
	case p.State == AdminDown:
	case s.state == Down && p.State == Down:
		s.enter(Init, NoDiag, out)
	case s.state == Down && p.State == Init, s.state == Init && p.State >= Init:
		s.enter(Up, NoDiag, out)
	case s.state == Up && p.State == Down:
		s.enter(Down, NeighborDown, out)
	}
	if p.Poll {
		s.negotiate()
		answer := s.packet()
		answer.Poll, answer.Final = false, true // never both (§6.5)
		out.Send = append(out.Send, answer)
	}
}

// enter changes the state.
func (s *Session) enter(to State, diag Diag, out *Output) {
	out.Change = &Transition{
		From: s.state, To: to, Diag: diag, Remote: s.remote.diag,
		Admin: to == AdminDown || to == Down && diag == NeighborDown && s.remote.state == AdminDown,
	}
	s.state, s.diag, s.atOnce = to, diag, true
}

// negotiate makes packets say the intervals that we want, and starts a Poll Sequence if
// that is a change (§6.8.3). While one goes on, or may be taken for the next one
// (§6.5), the change waits.
func (s *Session) negotiate() {
	tx, rx := s.profile.Transmit, s.profile.Receive
	if s.echo.confirmed {
		rx = max(rx, slowStart)
	}
	if s.state != Up {
		s.sayTx, s.sayRx = max(tx, slowStart), rx
		s.useTx, s.useRx = s.sayTx, s.sayRx
		s.poll, s.settled = false, true
		return
	}
	if tx == s.sayTx && rx == s.sayRx || s.poll || !s.settled {
		return
	}
	s.sayTx, s.sayRx = tx, rx
	s.useTx, s.useRx = min(s.useTx, tx), max(s.useRx, rx)
	s.poll, s.atOnce = true, true
}

// transmit sends the periodic packet if it is time (§6.8.7).
func (s *Session) transmit(now time.Time, out *Output) {
	if every := s.transmitInterval(); every != s.interval {
		s.interval = every
		s.next = s.sent.Add(s.jitter(every))
	}
	if s.interval == 0 || !s.atOnce && now.Before(s.next) {
		return
	}
	out.Send = append(out.Send, s.packet())
	s.sent, s.atOnce = now, false
	s.next = now.Add(s.jitter(s.interval))
}

// transmitInterval returns the time between periodic packets before jitter, or 0 if
// none may be sent.
func (s *Session) transmitInterval() time.Duration {
	switch {
	case s.profile.Passive && s.remote.discr == 0:
	case s.remote.minRx == 0:
	case s.remote.demand && s.state == Up && s.remote.state == Up && !s.poll:
	default:
		return max(s.useTx, s.remote.minRx)
	}
	return 0
}

// jitter takes up to a quarter off an interval; if one missed packet is enough to be
// taken for down, then at least a tenth (§6.8.7).
func (s *Session) jitter(d time.Duration) time.Duration {
	most := 1.0
	if s.profile.Multiplier == 1 {
		most = 0.9
	}
	return time.Duration(float64(d) * (0.75 + (most-0.75)*s.random()))
}

// detection returns how long the peer may be silent (§6.8.4).
func (s *Session) detection() time.Duration {
	return time.Duration(s.remote.multiplier) * max(s.useRx, s.remote.minTx)
}

func (s *Session) packet() Packet {
	p := Packet{
		Diag: s.diag, State: s.state, Poll: s.poll, Multiplier: s.profile.Multiplier, MyDiscr: s.discr, YourDiscr: s.remote.discr,
		DesiredMinTx: s.sayTx, RequiredRx: s.sayRx,
	}
	if s.profile.Echo && s.echo.path.Return {
		p.RequiredEcho = s.profile.EchoInterval
	}
	return p
}

// wake returns when to be called next.
func (s *Session) wake() time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if s.interval != 0 {
		sooner(s.next)
	}
	if s.remote.discr != 0 {
		sooner(s.control.deadline(s.detection()))
	}
	if s.echo.active {
		sooner(s.echo.next)
		if s.echo.confirmed {
			sooner(s.echo.watch.deadline(s.echoDetection()))
		}
	}
	return at
}

// Status is a snapshot of a session.
type Status struct {
	State, RemoteState State
	Diag, RemoteDiag   Diag // why each side last went down; NoDiag if it is up
	Discr, RemoteDiscr uint32
	// Transmit is the interval in use for control packets before jitter, 0 if none are
	// sent; Detection is how long the peer may be silent, 0 if it has not spoken yet.
	Transmit, Detection time.Duration
	// RemoteTransmit, RemoteReceive and RemoteEcho are the intervals that the peer asks
	// for, RemoteMultiplier its detect multiplier.
	RemoteTransmit, RemoteReceive, RemoteEcho time.Duration
	RemoteMultiplier                          uint8
	Poll                                      bool // a Poll Sequence is going on
	// Echo is the interval at which echo packets are sent, 0 if none are. They count
	// for detection once the first has come back: EchoWorks.
	Echo      time.Duration
	EchoWorks bool
}

// Status returns a snapshot.
func (s *Session) Status() Status {
	st := Status{
		State: s.state, RemoteState: s.remote.state, Diag: s.diag, RemoteDiag: s.remote.diag,
		Discr: s.discr, RemoteDiscr: s.remote.discr, Transmit: s.interval,
		RemoteTransmit: s.remote.minTx, RemoteReceive: s.remote.minRx, RemoteEcho: s.remote.minEcho,
		RemoteMultiplier: s.remote.multiplier, Poll: s.poll, EchoWorks: s.echo.confirmed,
	}
	if s.remote.discr != 0 {
		st.Detection = s.detection()
	}
	if s.echo.active {
		st.Echo = s.echo.interval
	}
	return st
}
