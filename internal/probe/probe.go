// Package probe asks this node's links who uses the addresses that are given next, and
// hears who does: the sockets and the clock of internal/core/wire, which decides what
// is asked and what the answers mean.
//
//	Apply ──► what to find out ──┐
//	links of this node ──────────┼──► one loop with the wire.Machine ──► Report
//	ARP and NDP sockets ─────────┘         │ at most five packets a second
//	   (claims that matter)                ▼
//	                                  ARP probes, Neighbor Solicitations
//
// It answers nothing, and no neighbour cache learns a wrong entry from it: probes come
// from 0.0.0.0, solicitations from the link's own address. It needs the capability
// NET_RAW and no other.
package probe

import (
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/wire"
)

// Links is where the kernel's links are known from.
type Links interface {
	// Snapshot returns the links as they are now; nil if that is not known yet.
	Snapshot() links.Snapshot
	// Changed returns a channel that is closed, or receives a value, when the
	// present snapshot is replaced.
	Changed() <-chan struct{}
}

// Config is what a Prober needs.
type Config struct {
	Node  string // the name of this node
	Log   *slog.Logger
	Links Links
	// Exclude matches the names of links that are left alone.
	Exclude []*regexp.Regexp
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// Prober finds out which addresses are in use. Its methods may be called by any
// goroutine.
type Prober struct {
	cfg     Config
	want    atomic.Pointer[wire.Want]   // nil before the first Apply
	report  atomic.Pointer[wire.Report] // nil before there is anything to say
	news    chan struct{}               // want was replaced
	changed chan struct{}               // report was replaced
	heeded  atomic.Pointer[map[netip.Addr]bool]
	sent    prometheus.Counter

	// The tests have a clock that runs faster.
	now   func() time.Time
	after func(time.Duration) <-chan time.Time
}

// New returns a Prober that asks nothing yet. It panics if the metrics are registered
// already.
func New(cfg Config) *Prober {
	p := &Prober{
		cfg: cfg, news: make(chan struct{}, 1), changed: make(chan struct{}, 1), now: time.Now, after: time.After,
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "barelb", Subsystem: "speaker", Name: "address_probes_sent_total",
			Help: "ARP probes and Neighbor Solicitations sent to find out who uses an address.",
		}),
	}
	p.heeded.Store(&map[netip.Addr]bool{})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(p.sent, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "barelb", Subsystem: "speaker", Name: "address_conflicts",
			Help: "Addresses of pools that somebody outside the cluster uses, of those that this node asks about.",
		}, func() float64 {
			r, _ := p.Report()
			return float64(len(r.InUse))
		}))
	}
	return p
}

// Apply makes want what is to be found out, all of it. It does not block. The value
// must not be changed any more.
func (p *Prober) Apply(want wire.Want) {
	p.want.Store(&want)
	signal(p.news)
}

// Report returns what was found out, and whether there is anything to say yet: before
// Apply was called and the links are known, silence means nothing.
func (p *Prober) Report() (wire.Report, bool) {
	r := p.report.Load()
	if r == nil {
		return wire.Report{}, false
	}
	return *r, true
}

// Changed signals that there is a new Report.
func (p *Prober) Changed() <-chan struct{} { return p.changed }

// publish makes now the report, unless it says nothing new.
func (p *Prober) publish(now wire.Report) {
	old := p.report.Load()
	if old != nil && old.Equal(now) {
		return
	}
	was := map[netip.Addr]lb.WireConflict{}
	if old != nil {
		for _, c := range old.InUse {
			was[c.Addr] = c
		}
	}
	for _, c := range now.InUse {
		if _, known := was[c.Addr]; !known {
			p.cfg.Log.Info("address is in use by somebody outside the cluster", "addr", c.Addr.String(), "mac", c.MAC, "link", c.Link)
		}
		delete(was, c.Addr)
	}
	for addr, c := range was {
		if p.reportedByOther(addr) {
			continue // it is not over: two have heard the stranger, and the other one stands for it
		}
		p.cfg.Log.Info("address is not in conflict any more", "addr", addr.String(), "mac", c.MAC, "link", c.Link)
	}
	p.report.Store(&now)
	signal(p.changed)
}

// reportedByOther reports whether another node stands for a conflict about addr.
func (p *Prober) reportedByOther(addr netip.Addr) bool {
	want := p.want.Load()
	return want != nil && slices.ContainsFunc(want.Conflicts, func(c lb.WireConflict) bool { return c.Addr == addr && c.Node != p.cfg.Node })
}

func (p *Prober) excluded(name string) bool {
	for _, re := range p.cfg.Exclude {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

func jitter(limit time.Duration) time.Duration {
	return rand.N(limit) //nolint:gosec // it only has to differ from node to node
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
