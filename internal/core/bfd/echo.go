package bfd

import "time"

// echo is the echo function of a session (RFC 5880 §6.8.9, RFC 5881 §5).
//
// Packets are sent while the session is up and the peer agrees. Only when the first
// has come back does their loss mean anything: a router that promises to return them
// and does not costs nothing but the packets.
type echo struct {
	nonce     uint64
	path      EchoPath
	active    bool
	interval  time.Duration
	next      time.Time // when to send
	seq, last uint32    // the last one sent, and the last one that came back
	confirmed bool
	watch     watch
}

// back takes in an echo packet that has come back: each once, in order.
func (e *echo) back(ev EchoBack) {
	ahead := ev.Echo.Seq - e.last
	if !e.active || ev.Echo.Nonce != e.nonce || ahead == 0 || ahead > e.seq-e.last {
		return
	}
	e.last, e.confirmed = ev.Echo.Seq, true
	e.watch.seen(ev.At)
}

// runEcho starts and stops the echo function, watches it, and sends.
func (s *Session) runEcho(now time.Time, ev Event, out *Output) {
	e := &s.echo
	if !s.profile.Echo || !e.path.Send || s.state != Up || s.remote.minEcho == 0 {
		e.active, e.confirmed = false, false
		return
	}
	every := max(s.profile.EchoInterval, s.remote.minEcho)
	switch {
	case !e.active:
		e.active, e.last, e.watch = true, e.seq, watch{}
		e.interval, e.next = every, now
	case every != e.interval:
		e.interval, e.next = every, now
		e.watch.seen(now)
	}
	if _, tick := ev.(Tick); tick && e.confirmed && e.watch.expired(now, s.echoDetection()) {
		s.enter(Down, EchoFailed, out)
		e.active, e.confirmed = false, false
		return
	}
	if !now.Before(e.next) {
		e.seq++
		out.Echo = &Echo{Discr: s.discr, Seq: e.seq, Nonce: e.nonce}
		e.next = now.Add(s.jitter(e.interval))
	}
}

// echoDetection returns how long no echo packet may come back.
func (s *Session) echoDetection() time.Duration {
	return time.Duration(s.profile.Multiplier) * s.echo.interval
}
