// Package bfd runs BFD sessions (RFC 5880, 5881, 5883): sockets and timers around the
// state machine of internal/core/bfd.
//
// A Runner takes the full desired state (lb.BFD) and works on the difference: a
// session that stays is never reset, whatever becomes of its profile. It needs the
// capability NET_RAW for the echo function, and none otherwise.
//
// One goroutine owns all sessions and sockets. What has arrived is read before any
// session is declared down, and counts by the time at which the kernel received it, so
// that a process that gets no CPU for a while does not mistake that for a failure of
// the path. What goes in and comes out is plain values.
//
// With Config.Process, that goroutine is one of another process, all threads of which
// have a real-time priority if that is permitted: the command runs Serve, and the Runner
// tells it what to keep, hears what becomes of it, and starts it again should it end, so
// quickly and with so much of what it knew that routers do not notice.
//
// All methods may be called from any goroutine. A Runner is a prometheus.Collector.
//
//	runner := bfd.New(bfd.Config{Log: slog.Default(), OnChange: tell})
//	go runner.Run(ctx)
//	err := runner.Apply(ctx, lb.BFD{{Peer: addr}: profile})
package bfd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

// ErrStopped is returned by Apply and Run once Run has ended.
var ErrStopped = errors.New("bfd: runner has stopped")

// Config is what a Runner needs.
type Config struct {
	// Log is where sessions that come up and go down are reported; nil for nowhere.
	Log *slog.Logger
	// OnChange is told of each session that comes up or goes down, in order, and before
	// Status says so; nil for nobody. The sessions stand still until it returns: it must
	// not wait for anything, and not call the Runner.
	OnChange func(lb.BFDChange)
	// Process is a command that runs Serve, by its path and arguments, in the network
	// namespace of the thread that calls Run; empty: sessions are kept by this process.
	Process []string

	// resume is what was known last of the sessions by a process that is no more.
	resume []SessionStatus
}

// SessionStatus is what is known of one session. It is a snapshot.
type SessionStatus struct {
	Key     lb.BFDKey
	Profile string
	bfd.Status
	Port  int       // source port of control packets; 0: none yet
	Since time.Time // when State was entered
	// LastDown is when the session last went down, zero if it never did, and LastDiag
	// why.
	LastDown time.Time
	LastDiag bfd.Diag
	// Problem says what is in the way, and what to do about it; "" if nothing is known.
	Problem  string
	Counters Counters
}

// Counters count since the session was made.
type Counters struct {
	ControlIn, ControlOut uint64 // control packets
	EchoIn, EchoOut       uint64 // echo packets that came back, and that were sent
	Refused               uint64 // packets from the peer's address that were not taken
	Ups, Downs            uint64 // how often the session came up and went down
	Told                  uint64 // calls of OnChange
	// Late is the most by which a packet was ever sent after its time.
	Late time.Duration
}

// phase is a Runner's stage of life.
type phase uint8

const (
	waiting phase = iota // for Run
	running
	stopped
)

// Runner runs the BFD sessions of one node.
type Runner struct {
	cfg     Config
	metrics []metrics
	changed chan struct{}
	done    chan struct{} // closed when Run has ended
	process processState

	mu    sync.Mutex // held for moments only: the engine waits for it
	phase phase
	want  lb.BFD                   // what to apply; nil: nothing new
	asked []chan<- []SessionStatus // who waits for a snapshot
	wake  func()                   // while running: has want and asked taken
}

// New returns a Runner that does nothing until Run.
func New(cfg Config) *Runner {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(lb.BFDChange) {}
	}
	return &Runner{cfg: cfg, metrics: newMetrics(), changed: make(chan struct{}, 1), done: make(chan struct{})}
}

// Run keeps the sessions until ctx ends, then takes them down administratively,
// whereupon the routers do not hold it against the path (RFC 5882).
func (r *Runner) Run(ctx context.Context) error {
	if len(r.cfg.Process) > 0 {
		return r.runProcess(ctx)
	}
	bell, err := newBell()
	if err != nil {
		return fmt.Errorf("run bfd: %w", err)
	}
	defer bell.close()
	if !r.begin(bell.ring) {
		return ErrStopped
	}
	defer context.AfterFunc(ctx, bell.ring)()

	e := newEngine(r.cfg, r.notify, bell)
	defer e.close()
	for ctx.Err() == nil {
		want, asked := r.take()
		if want != nil {
			e.apply(want, time.Now())
		}
		for _, ch := range asked {
			ch <- e.status()
		}
		if err := e.turn(); err != nil {
			err = fmt.Errorf("run bfd: %w", err)
			r.stop()
			return err
		}
	}
	e.disable(time.Now())
	r.stop()
	return nil
}

// begin begins the life of a Runner, once. wake has what is asked for taken.
func (r *Runner) begin(wake func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase != waiting {
		return false
	}
	r.phase, r.wake = running, wake
	return true
}

// take takes what has been asked for.
func (r *Runner) take() (lb.BFD, []chan<- []SessionStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, asked := r.want, r.asked
	r.want, r.asked = nil, nil
	return want, asked
}

func (r *Runner) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase, r.wake = stopped, nil
	close(r.done)
}

// Apply makes want the desired state. A session that cannot be is named in the error,
// all others are applied. It returns before that is done; Status says what is.
func (r *Runner) Apply(ctx context.Context, want lb.BFD) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply bfd sessions: %w", err)
	}
	good := make(lb.BFD, len(want))
	var errs []error
	for _, key := range slices.SortedFunc(maps.Keys(want), compareKeys) {
		if err := validate(key, want[key]); err != nil {
			errs = append(errs, fmt.Errorf("apply bfd session %s: %w", key, err))
			continue
		}
		good[key] = want[key]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == stopped {
		return ErrStopped
	}
	r.want = good
	if r.wake != nil {
		r.wake()
	}
	return errors.Join(errs...)
}

// validate reports whether a session can be.
func validate(key lb.BFDKey, p lb.BFDProfile) error {
	switch zone := key.Peer.Zone(); {
	case !key.Peer.IsValid() || key.Peer.Is4In6() || key.Peer.IsUnspecified() || key.Peer.IsMulticast():
		return fmt.Errorf("%s is no address of a router", key.Peer)
	case key.Source.IsValid() && key.Source.Is4() != key.Peer.Is4():
		return fmt.Errorf("%s and %s are of different families", key.Source, key.Peer)
	case zone != "" && key.Link != "" && zone != key.Link:
		return fmt.Errorf("%s is not on %s", key.Peer, key.Link)
	case key.Peer.IsLinkLocalUnicast() && key.Peer.Is6() && zone == "" && key.Link == "":
		return fmt.Errorf("%s needs a link", key.Peer)
	case len(key.Link) >= unix.IFNAMSIZ || len(zone) >= unix.IFNAMSIZ || len(key.VRF) >= unix.IFNAMSIZ:
		return errors.New("the name of a link is too long")
	case p.Multiplier == 0:
		return errors.New("the detect multiplier is 0")
	}
	for _, d := range []time.Duration{p.Transmit, p.Receive, p.EchoInterval} {
		if d < time.Millisecond || d > time.Hour {
			return fmt.Errorf("an interval of %s makes no sense", d)
		}
	}
	return nil
}

// Status returns a snapshot of all sessions, sorted by key; none unless Run runs.
func (r *Runner) Status() []SessionStatus {
	reply := make(chan []SessionStatus, 1)
	r.mu.Lock()
	if r.phase != running {
		r.mu.Unlock()
		return nil
	}
	r.asked = append(r.asked, reply)
	r.wake()
	r.mu.Unlock()
	select {
	case all := <-reply:
		return all
	case <-r.done:
		return nil
	}
}

// Changed returns a channel that receives after Status has changed in more than its
// counters; any number of changes since the last receive count as one.
func (r *Runner) Changed() <-chan struct{} { return r.changed }

func (r *Runner) notify() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func compareKeys(a, b lb.BFDKey) int {
	hops := func(k lb.BFDKey) int {
		if k.MultiHop {
			return 1
		}
		return 0
	}
	return cmp.Or(a.Peer.Compare(b.Peer), a.Source.Compare(b.Source), strings.Compare(a.Link, b.Link),
		strings.Compare(a.VRF, b.VRF), cmp.Compare(hops(a), hops(b)))
}
