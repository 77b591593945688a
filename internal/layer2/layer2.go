// Package layer2 answers ARP and Neighbor Discovery on this node's links for the
// addresses that it is told to announce, and tells the links about them.
//
//	Apply ──► table (immutable, swapped) ◄── link changes
//	            │ looked up by                 │ both also start and stop
//	            ▼                              ▼
//	  ARP and NDP responders            schedule of gratuitous
//	  (one socket each)                 ARP and unsolicited NA
//	                                    (one socket per link)
//
// The bytes and the decisions are those of internal/core/arp and internal/core/ndp.
// It needs the capability NET_RAW and no other.
package layer2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

// defaultRefresh is below the 300 s after which switches commonly forget a station.
const defaultRefresh = 150 * time.Second

// Links is where the kernel's links are known from.
type Links interface {
	// Snapshot returns the links as they are now; nil if that is not known yet.
	Snapshot() links.Snapshot
	// Changed returns a channel that is closed, or receives a value, when the
	// present snapshot is replaced.
	Changed() <-chan struct{}
}

// Config is what an Announcer needs.
type Config struct {
	Log   *slog.Logger
	Links Links
	// Exclude matches the names of links that are never answered on, also if an
	// announcement names them. Nil means DefaultExclude(); empty excludes none.
	Exclude []*regexp.Regexp
	// Refresh is the time between two announcements of an address to its links
	// once all neighbours have surely heard the first ones. 0 means 150 s.
	Refresh time.Duration
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// DefaultExclude returns what matches the names of links that belong to container
// networks; the list is MetalLB's.
func DefaultExclude() []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, s := range []string{
		`^docker.*`, `^cbr.*`, `^dummy.*`, `^virbr.*`, `^lxcbr.*`, `^veth.*`, `^lo$`, `^cali.*`, `^tunl.*`,
		`^flannel.*`, `^kube-ipvs.*`, `^cni.*`, `^nodelocaldns.*`, `^lxc.*`,
	} {
		out = append(out, regexp.MustCompile(s))
	}
	return out
}

// Announcer answers for addresses. Its methods may be called by any goroutine.
type Announcer struct {
	cfg   Config
	table atomic.Pointer[table] // read by anybody; replaced only with mu held
	wake  chan struct{}         // tells the loop of Run that the schedule has changed

	mu    sync.Mutex
	sched *schedule

	// A gate is held from reading the table to having sent what follows from it.
	// Whoever passes all gates after replacing the table knows that nothing of the
	// old one will be sent any more.
	arpGate, ndpGate, scheduleGate sync.Mutex
}

// New returns an Announcer that announces nothing. It panics if the metrics are
// registered already.
func New(cfg Config) *Announcer {
	if cfg.Exclude == nil {
		cfg.Exclude = DefaultExclude()
	}
	if cfg.Refresh <= 0 {
		cfg.Refresh = defaultRefresh
	}
	a := &Announcer{cfg: cfg, wake: make(chan struct{}, 1), sched: newSchedule(cfg.Refresh)}
	a.table.Store(&table{})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(newCollector(a.table.Load))
	}
	return a
}

// Apply makes want what is announced, all of it. What is new is told to its links at
// once, what stays is not told again, and what is gone is not answered any more when
// Apply returns. Apply may be called before Run: then it says what Run begins with.
//
// Addresses that cannot be announced make an error; the others are applied.
func (a *Announcer) Apply(ctx context.Context, want lb.L2) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply announcements: %w", err)
	}
	var errs []error
	for addr := range want {
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
			errs = append(errs, fmt.Errorf("announce %s: not a unicast address", addr))
		}
	}
	a.mu.Lock()
	old := a.table.Load()
	next, changed := old.withAddrs(want)
	if len(changed) > 0 {
		a.table.Store(next)
		now := time.Now()
		for _, addr := range changed {
			for index := range next.ports {
				a.reschedule(old, next, key{addr, index}, now)
			}
		}
	}
	a.mu.Unlock()

	if len(changed) > 0 {
		a.cfg.Log.DebugContext(ctx, "announcements changed", "changed", len(changed), "announced", len(next.addrs))
		a.settle()
		a.wakeLoop()
	}
	return errors.Join(errs...)
}

// followLinks takes over the present links. The channel tells of the next change.
func (a *Announcer) followLinks(ctx context.Context) <-chan struct{} {
	changed := a.cfg.Links.Changed() // before Snapshot, so that nothing is missed
	a.setLinks(ctx, a.cfg.Links.Snapshot())
	return changed
}

// setLinks makes snap the links that are answered on; nil for none.
func (a *Announcer) setLinks(ctx context.Context, snap links.Snapshot) {
	a.mu.Lock()
	old := a.table.Load()
	next, changed := old.withLinks(snap, a.excluded)
	a.table.Store(next)
	now := time.Now()
	for _, index := range changed {
		for addr := range next.addrs {
			a.reschedule(old, next, key{addr, index}, now)
		}
	}
	a.mu.Unlock()
	if snap == nil {
		return // nothing has changed but what we know
	}
	for _, index := range changed {
		was, before := old.ports[index]
		is, after := next.ports[index]
		switch {
		case !before:
			a.cfg.Log.InfoContext(ctx, "link can carry announcements", "link", is.name)
		case !after:
			why := cmp.Or(next.links[was.name], "Gone")
			a.cfg.Log.InfoContext(ctx, "link cannot carry announcements any more", "link", was.name, "reason", why)
		}
	}
}

// reschedule starts or stops to announce k's address on k's link, or does neither,
// when next replaces old. mu is held.
func (a *Announcer) reschedule(old, next *table, k key, now time.Time) {
	_, was, wasOn := old.lookup(k)
	_, is, isOn := next.lookup(k)
	switch {
	case !isOn:
		a.sched.stop(k)
	case !wasOn || was.mac != is.mac || was.epoch != is.epoch:
		a.sched.start(k, now)
	}
}

// settle returns when nothing that follows from a replaced table is still to be sent.
func (a *Announcer) settle() {
	for _, gate := range []*sync.Mutex{&a.arpGate, &a.ndpGate, &a.scheduleGate} {
		gate.Lock()
		gate.Unlock() //nolint:staticcheck // SA2001: passing the gate is all that is wanted
	}
}

func (a *Announcer) wakeLoop() {
	select {
	case a.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

func (a *Announcer) excluded(name string) bool {
	for _, re := range a.cfg.Exclude {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

// Status is what an Announcer does at one moment. It belongs to the caller.
type Status struct {
	Addrs map[netip.Addr]AddrStatus
	// Links says of every link of the node whether it can carry announcements.
	// It is empty while Run does not run.
	Links map[string]links.Reason
}

// AddrStatus is what is done for one address.
type AddrStatus struct {
	Links        []string // that the address is answered for on now, sorted
	MissingLinks []string // that were asked for but do not exist here, sorted

	RequestsReceived uint64 // ARP requests and solicitations that were to be answered
	RepliesSent      uint64
	GratuitousSent   uint64 // frames that nobody had asked for
}

// Status returns what is done now.
func (a *Announcer) Status() Status { return a.table.Load().status() }
