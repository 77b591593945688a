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
// For each address the node has a role: it owns it, yields it to a new owner, or takes
// care for an owner whose speaker does not work ([lb.Role]). What others claim to be
// theirs on the links, the responders hear too, and tell Config.OnClaim.
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
	// Fresh is asked before every frame that is sent. While it returns false nothing
	// is: requests are dropped, and what is to be told unasked waits. It must be quick,
	// and is called by several goroutines at a time. Nil means always true.
	Fresh func() bool
	// OnClaim is told that another station uses an address that this node owns, on a
	// link on which it answers for it: at most every 100 ms of one address and MAC. It
	// must not block, and may be called by two goroutines at a time. Nil for nobody.
	OnClaim func(Claim)
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
	// wake tells who announces that the schedule has changed, and regroup who joins
	// groups that the table has.
	wake, regroup chan struct{}

	mu    sync.Mutex
	sched *schedule

	claims  claimLimit
	metrics metrics

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
	if cfg.Fresh == nil {
		cfg.Fresh = func() bool { return true }
	}
	a := &Announcer{cfg: cfg, wake: make(chan struct{}, 1), regroup: make(chan struct{}, 1), sched: newSchedule(cfg.Refresh), metrics: newMetrics()}
	a.table.Store(&table{})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(newCollector(a.table.Load), a.metrics.answer, a.metrics.first, a.metrics.discarded)
	}
	return a
}

// Apply makes want what is answered for, all of it. What is new is told to its links as
// its [lb.Tell] says, what stays is not told again, and what is gone, or is in another
// role now, is not answered for as before any more when Apply returns. Apply may be
// called before Run: then it says what Run begins with.
//
// A change from another role, or from another Tell, to TellAtOnce tells at once; one to
// TellSlowly lets go on what runs.
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
				a.reschedule(old, next, key{addr, index}, now, false)
			}
		}
	}
	a.mu.Unlock()

	if len(changed) > 0 {
		a.cfg.Log.DebugContext(ctx, "announcements changed", "changed", len(changed), "announced", len(next.addrs))
		a.settle()
		poke(a.wake)
		poke(a.regroup)
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
			a.reschedule(old, next, key{addr, index}, now, old.links != nil)
		}
	}
	a.mu.Unlock()
	if len(changed) > 0 {
		poke(a.regroup)
	}
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

// reschedule starts or stops to tell k's link of k's address, or does neither, when next
// replaces old. linkChanged says that the link has come or changed while we ran, so that
// nobody on it can be thought to have heard of the address. mu is held.
func (a *Announcer) reschedule(old, next *table, k key, now time.Time, linkChanged bool) {
	was, before := old.tells(k)
	is, after := next.tells(k)
	switch {
	case is == lb.TellNever:
		a.sched.stop(k)
	case was == lb.TellNever && is == lb.TellSlowly && !linkChanged:
		a.sched.startSlowly(k, now)
	case was == lb.TellNever, was == lb.TellSlowly && is == lb.TellAtOnce,
		before.mac != after.mac, before.epoch != after.epoch:
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

// poke wakes who waits for c.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
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

// Reassert tells the links of an address that this node owns it, once, whatever its Tell
// is; it is meant for when another station has claimed it. It does nothing and returns
// false if the address is not owned and answered for on some link, or if it was
// reasserted less than a second ago (RFC 5227 §2.4 (c) asks for restraint).
func (a *Announcer) Reassert(addr netip.Addr) bool {
	const pause = time.Second
	addr = addr.Unmap()
	a.mu.Lock()
	defer a.mu.Unlock()
	t, now := a.table.Load(), time.Now()
	found := false
	for index := range t.ports {
		k := key{addr, index}
		e, _, ok := t.owned(k)
		switch {
		case !ok:
			continue
		case !found && now.Sub(e.count.reasserted) < pause:
			return false
		}
		e.count.reasserted, found = now, true
		a.sched.once(k, now)
	}
	if found {
		poke(a.wake)
	}
	return found
}
