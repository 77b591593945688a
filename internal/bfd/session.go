package bfd

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

// session is one session. It belongs to the engine's goroutine.
type session struct {
	key     lb.BFDKey
	profile lb.BFDProfile
	discr   uint32
	machine *bfd.Session
	wake    time.Time // when machine wants a Tick; zero: never
	gone    time.Time // when a session that is leaving is forgotten
	made    time.Time // and when it was made
	since   time.Time // when the state was entered

	sender *sender // nil: not open
	port   int     // source port; 0: not chosen yet
	reopen time.Time

	trouble string // with sending
	refusal string // why the last packet from the peer's address was refused

	lastDown time.Time
	lastDiag bfd.Diag
	counters Counters
	path     path
	terms    terms
}

// terms is what both sides have agreed on.
type terms struct {
	remote              uint32 // discriminator
	transmit, detection time.Duration
}

func termsOf(st bfd.Status) terms { return terms{st.RemoteDiscr, st.Transmit, st.Detection} }

// path is what is known of the link to the peer, for echo packets.
type path struct {
	link  int
	mac   [6]byte
	local netip.Addr // the address that the peer sends to
}

// fits reports whether a packet can be of this session's peer.
func (s *session) fits(p place, a arrival) bool {
	switch {
	case placeOf(s.key) != p || s.key.Peer.WithZone("") != a.from:
		return false
	case s.key.Source.IsValid() && s.key.Source.WithZone("") != a.to:
		return false
	case linkOf(s.key) != "":
		return s.sender != nil && s.sender.link == a.link
	}
	return true
}

// particular is the greater, the more the key of the session says.
func (s *session) particular() int {
	n := 0
	if s.key.Source.IsValid() {
		n++
	}
	if linkOf(s.key) != "" {
		n += 2
	}
	return n
}

func (s *session) refuse(why string) {
	s.counters.Refused++
	s.refusal = why
}

func (s *session) close() {
	if s.sender != nil {
		s.sender.close()
		s.sender = nil
	}
}

// logger writes the log in a goroutine of its own: who writes to a pipe may have to
// wait for its reader.
type logger struct {
	lines chan func()
	done  chan struct{}
	log   *slog.Logger
}

func newLogger(log *slog.Logger) *logger {
	l := &logger{lines: make(chan func(), 256), done: make(chan struct{}), log: log}
	go func() {
		defer close(l.done)
		for line := range l.lines {
			line()
		}
	}()
	return l
}

// say reports a session that came up or went down. If the log is too far behind, it is
// left out.
func (l *logger) say(key lb.BFDKey, c bfd.Transition) {
	line := func() { l.log.Info("bfd session up", "peer", key.String()) }
	if c.To != bfd.Up {
		line = func() {
			l.log.Warn("bfd session down", "peer", key.String(), "reason", c.Diag.String(),
				"remote_reason", c.Remote.String(), "admin", c.Admin)
		}
	}
	select {
	case l.lines <- line:
	default:
	}
}

func (l *logger) close() {
	close(l.lines)
	<-l.done
}
