// Package liveness tells which nodes and which speakers are alive, and carries what
// speakers tell each other.
//
//	memberlist (port 7946) ──► members, records, messages ─┐
//	connections (same port) ──► speakers that end or hang ─┼─► one loop with the
//	packet sockets ──► answers of kernels, foreign frames ─┤   liveness.Machine ──► View
//	links of this node ────────────────────────────────────┘      │
//	                                                               ▼ probes, messages
//
// internal/core/liveness decides; this package is its sockets and its clock. Membership
// is hashicorp/memberlist's, with MetalLB's parameters: the same port, node names as
// member names, and the same key, so that speakers of both see each other during a
// migration. What goes beyond that is said to BareLB's speakers alone. It needs the
// capability NET_RAW and no other.
package liveness

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/links"
	core "github.com/barelb/barelb/internal/core/liveness"
)

// Links is where the kernel's links are known from.
type Links interface {
	// Snapshot returns the links as they are now; nil if that is not known yet.
	Snapshot() links.Snapshot
	// Changed returns a channel that is closed, or receives a value, when the
	// present snapshot is replaced.
	Changed() <-chan struct{}
}

// Config says who we are, how to find the others, and how fast to judge them.
type Config struct {
	NodeName string
	BindAddr string // an address of this node
	BindPort int    // TCP and UDP
	Secret   []byte // "" gossips in clear text
	WAN      bool   // slower timers of memberlist, for nodes that are far apart
	Log      *slog.Logger
	// Speakers returns the addresses of all speakers by the names of their nodes.
	Speakers func(context.Context) (map[string]netip.Addr, error)
	// Tuning is the file of MetalLB's parameters of memberlist, which it prefers to WAN;
	// it may be missing. Empty means none.
	Tuning string

	// Links is where nodes are probed; nil for nowhere: they are judged by memberlist, and
	// their speakers by their connections.
	Links Links
	// Exclude matches the names of links that are left alone.
	Exclude []*regexp.Regexp
	// Local reports whether a station that was heard on the link with this index is
	// behind a port of this node, as its containers are. Nil means that none is.
	Local func(link int, mac links.MAC) bool
	// Interval, Multiplier, CaretakerTimeout and Probe are those of core/liveness's
	// Options; 0 means the default. [Profile] has pairs of the first two.
	Interval         time.Duration
	Multiplier       int
	CaretakerTimeout time.Duration
	Probe            core.Method
	// Told gets what the speaker of another node says with Tell, in any goroutine. What
	// it returns is what the other's Tell returns.
	Told func(ctx context.Context, from string, msg []byte) error
	// Healed is called when the network carries again what it did not: this node is not cut
	// off any more on a link, or one that was dead answers; nil for nothing. It must not block.
	Healed func()
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// Profile returns the interval and the multiplier that go by a name.
func Profile(name string) (time.Duration, int, error) {
	switch name {
	case "default":
		return 100 * time.Millisecond, 3, nil
	case "fast":
		return 50 * time.Millisecond, 3, nil
	}
	return 0, 0, fmt.Errorf("no profile %q: want default or fast", name)
}

// Runner takes part in the company of speakers. Use New, and run it. Its methods may be
// called by any goroutine, and none but Tell and Fetch blocks.
type Runner struct {
	cfg     Config
	metrics *metrics
	book    *book
	roll    *roll
	seen    seen
	began   time.Time

	changed  chan struct{}
	view     atomic.Pointer[core.View]
	alive    atomic.Pointer[map[string]bool]
	peers    atomic.Pointer[peers]
	lastRun  atomic.Int64 // when the loop ran last, in ns since began; 0 before
	settled  atomic.Bool
	observed atomic.Pointer[[]core.Observed] // for metrics, a second old at most

	inbox     chan core.Event
	members   chan struct{} // peers changed
	strangers chan string   // addresses of speakers that know us, and we not them
	jobs      chan job
	fetches   chan struct{}
	served    sync.Map // func() ([]byte, error) by name
	sessions  atomic.Int32
	tasks     sync.WaitGroup // of sessions

	refreshing sync.Mutex // guards the replacement of peers

	lost bool // the others could not be found; owned by keepJoining
}

// New returns a Runner that is not joined yet. It panics if the metrics are registered
// already.
func New(cfg Config) *Runner {
	if cfg.Interval <= 0 {
		cfg.Interval = 100 * time.Millisecond
	}
	r := &Runner{
		cfg: cfg, book: newBook(cfg.NodeName), roll: newRoll(), began: time.Now(),
		changed: make(chan struct{}, 1), inbox: make(chan core.Event, 1024), members: make(chan struct{}, 1), strangers: make(chan string, 1),
		jobs: make(chan job, maxJobs), fetches: make(chan struct{}, maxFetches),
	}
	r.view.Store(&core.View{})
	r.alive.Store(&map[string]bool{})
	r.peers.Store(&peers{})
	r.observed.Store(&[]core.Observed{})
	r.metrics = newMetrics(cfg.Registerer, r)
	return r
}

// View returns what is known of all nodes; of none until we tried to join.
func (r *Runner) View() *core.View { return r.view.Load() }

// Changed signals that View, Alive or what DrainClaims returns changed.
func (r *Runner) Changed() <-chan struct{} { return r.changed }

// Alive returns the nodes whose speakers memberlist calls alive; nobody until we tried to
// join. The map must not be changed.
func (r *Runner) Alive() map[string]bool { return *r.alive.Load() }

// Fresh reports whether this node may answer for what it owns: not while its process has
// not run for more than three intervals, nor after that until the present owners were
// asked. It is cheap.
func (r *Runner) Fresh() bool { return r.settled.Load() && r.runs(3*r.cfg.Interval) }

// runs reports whether the loop ran within the given time.
func (r *Runner) runs(within time.Duration) bool {
	last := r.lastRun.Load()
	return last != 0 && time.Since(r.began)-time.Duration(last) <= within
}

// SetPhase says what this speaker is about. At the end of Run it decides about the
// farewell: with Restarting there is none, unless a member is a speaker of MetalLB's,
// which knows no other way to learn of it.
func (r *Runner) SetPhase(p core.Phase) { r.book.setPhase(p) }

// SetProxyDown says whether this node's kube-proxy is not healthy.
func (r *Runner) SetProxyDown(down bool) { r.book.setProxyDown(down) }

// SetClaims says which of the addresses that this speaker answers for changed.
func (r *Runner) SetClaims(changes []core.Change) { r.book.setClaims(changes) }

// DrainClaims returns, for each address of which it changed since the last call, which
// other speakers claim it now. The slices must not be changed.
func (r *Runner) DrainClaims() map[netip.Addr][]core.Claimant { return r.book.drainClaims() }

// Former returns the terms of the addresses that this node's speaker claimed before it
// started anew, as others remember it; nil if nobody has said. It must not be changed.
func (r *Runner) Former() map[netip.Addr]uint32 { return r.book.former() }

// post tells the loop of an event.
func (r *Runner) post(ctx context.Context, e core.Event) {
	select {
	case r.inbox <- e:
	case <-ctx.Done():
	}
}

func (r *Runner) excluded(name string) bool {
	for _, re := range r.cfg.Exclude {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}
