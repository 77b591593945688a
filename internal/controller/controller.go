// Package controller is the process that gives Services their addresses.
//
// One goroutine owns everything: it takes what changed from the feed, lets
// core/ipam decide, and hands the wished status to the writer. The book of who
// holds what is made from the Services' own status before anything is given, so
// the process may die at any time.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// feed, statusWriter, stateWriter and eventer are what the controller needs of Kubernetes.
type (
	feed interface {
		Changed() <-chan struct{}
		Ready() <-chan struct{}
		Drain() kube.Delta
	}
	statusWriter interface {
		Set(key lb.Key, want kube.ServiceStatus)
	}
	stateWriter interface {
		Set(s kube.State)
	}
	eventer interface {
		ServiceEvent(svc *lb.Service, warning bool, reason, message string)
	}
	updateCounter interface {
		Update(err error)
		Config(stale bool)
	}
)

// Controller allocates addresses.
type Controller struct {
	log     *slog.Logger
	feed    feed
	status  statusWriter
	state   stateWriter
	events  eventer
	metrics updateCounter
	usage   atomic.Pointer[[]ipam.Usage] // for the metrics
	ready   chan struct{}

	// Owned by Run.
	book     *ipam.Book
	cfg      *config.Config
	services map[lb.Key]*lb.Service
	given    map[lb.Key]kube.ServiceStatus // what was decided last, be it nothing
	refused  map[lb.Key]string             // what its user was told last; it waits for better times
}

// Deps are the parts that a Controller works with.
type Deps struct {
	Log     *slog.Logger
	Feed    feed
	Status  statusWriter
	State   stateWriter
	Events  eventer
	Metrics updateCounter
}

// New returns a Controller.
func New(d Deps) *Controller {
	return &Controller{
		log: d.Log, feed: d.Feed, status: d.Status, state: d.State, events: d.Events, metrics: d.Metrics,
		ready: make(chan struct{}), book: ipam.NewBook(), services: map[lb.Key]*lb.Service{},
		given: map[lb.Key]kube.ServiceStatus{}, refused: map[lb.Key]string{},
	}
}

// Ready is closed after the first pass over all Services.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run allocates until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.feed.Ready():
	}
	c.start(c.feed.Drain())
	close(c.ready)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.feed.Changed():
			c.step(c.feed.Drain())
		}
	}
}

// start takes the whole world in: everything that Services hold is adopted before
// anything is given.
func (c *Controller) start(d kube.Delta) {
	c.takeObjects(d.Objects)
	dirty := c.takeServices(d)
	for _, key := range dirty {
		svc := c.services[key]
		if svc == nil || len(svc.Addrs) == 0 {
			continue
		}
		if !c.book.Adopt(svc) {
			c.log.Warn("address is held twice", "service", key.String(), "addr", fmt.Sprint(svc.Addrs))
			continue
		}
		c.given[key] = kube.ServiceStatus{UID: svc.UID, Addrs: svc.Addrs, Pool: svc.Pool}
	}
	c.log.Info("adopted what services hold", "services", len(c.services), "holders", len(c.given))
	c.settleAll(dirty)
	c.report()
}

func (c *Controller) step(d kube.Delta) {
	dirty := c.takeServices(d)
	if d.Objects != nil {
		c.takeObjects(d.Objects)
		for key := range c.services {
			if _, already := d.Services[key]; !already {
				dirty = append(dirty, key)
			}
		}
		slices.SortFunc(dirty, lb.Key.Compare)
	}
	c.settleAll(dirty)
	c.report()
}

// takeObjects puts a new configuration in force.
func (c *Controller) takeObjects(objs *config.Objects) {
	if objs == nil {
		return
	}
	var known []config.Problem
	if c.cfg != nil {
		known = c.cfg.Problems
	}
	c.cfg = config.Parse(*objs, c.cfg)
	c.book.SetPools(c.cfg.Pools, c.cfg.SetAside)
	c.metrics.Config(len(c.cfg.Problems) > 0)
	for _, p := range config.NewProblems(c.cfg.Problems, known) {
		c.log.Warn("configuration problem", "kind", p.Kind, "name", p.Name, "field", p.Field, "reason", string(p.Reason), "err", p.Message)
	}
}

// takeServices stores the changed Services and returns their keys in order.
func (c *Controller) takeServices(d kube.Delta) []lb.Key {
	for key, svc := range d.Services {
		if old := c.services[key]; old != nil && (svc == nil || svc.UID != old.UID) { // deleted, and perhaps created again
			delete(c.services, key)
			delete(c.refused, key)
			delete(c.given, key)
		}
		if svc != nil {
			c.services[key] = svc
		}
	}
	for _, key := range d.Orphans {
		c.status.Set(key, kube.ServiceStatus{})
	}
	return slices.SortedFunc(maps.Keys(d.Services), lb.Key.Compare)
}

// settleAll decides for the Services in dirty, and then, if anything was given
// back, for those that wait.
func (c *Controller) settleAll(dirty []lb.Key) {
	freed := false
	for _, key := range dirty {
		svc := c.services[key]
		if svc == nil {
			freed = c.book.Release(key) || freed
			continue
		}
		freed = c.settle(svc) || freed
	}
	// Each round gives at least one waiting Service something or ends.
	for freed {
		freed = false
		for _, key := range slices.SortedFunc(maps.Keys(c.refused), lb.Key.Compare) {
			if svc := c.services[key]; svc != nil {
				freed = c.settle(svc) || freed
			}
		}
	}
}

// settle decides for one Service and reports whether others may now get what
// they could not get before.
func (c *Controller) settle(svc *lb.Service) (freed bool) {
	had, gave := c.given[svc.Key]
	if gave { // our own book is ahead of the status that we read
		own := *svc
		own.Addrs, own.Pool = had.Addrs, had.Pool
		svc = &own
	}
	d := c.book.Decide(svc)
	now := kube.ServiceStatus{UID: svc.UID, Addrs: d.Addrs, Pool: d.Pool}
	before := c.book.Holding(svc.Key) // that of its namesake, if it was created again
	c.book.Settle(svc, d.Addrs)
	c.tell(svc, d)
	c.given[svc.Key] = now
	c.status.Set(svc.Key, now)
	c.metrics.Update(nil)
	// A lost address is free for others; so may be a kept one, if its Service is
	// ready to share it in another way than before.
	return len(before.Addrs) > 0 && !before.Equal(c.book.Holding(svc.Key))
}

// tell records Events about a decision: one for each thing that is new. svc is as
// it was before.
func (c *Controller) tell(svc *lb.Service, d ipam.Decision) {
	had := svc.Addrs
	if d.Cleared != nil {
		c.events.ServiceEvent(svc, false, kube.EventCleared, string(d.Cleared.Reason)+": "+d.Cleared.Message)
		c.log.Info("took address back", "service", svc.Key.String(), "addr", fmt.Sprint(had), "reason", string(d.Cleared.Reason))
	}
	if len(d.Addrs) > 0 && !slices.Equal(had, d.Addrs) {
		c.events.ServiceEvent(svc, false, kube.EventAllocated, "Assigned IP "+quoted(d.Addrs))
		c.log.Info("allocated", "service", svc.Key.String(), "addr", fmt.Sprint(d.Addrs), "pool", d.Pool)
		if svc.LegacyAnnotations {
			c.events.ServiceEvent(svc, true, kube.EventDeprecated, "annotations under metallb.universe.tf/ are deprecated; write them under metallb.io/")
		}
	}
	if d.Refused == nil {
		delete(c.refused, svc.Key)
		return
	}
	text := string(d.Refused.Reason) + ": " + d.Refused.Message
	news := text
	if d.Refused.Reason == lb.PoolExhausted && len(d.Addrs) > 0 {
		news = string(d.Refused.Reason) // the words depend on where it was looked for
	}
	if c.refused[svc.Key] == news {
		return
	}
	c.refused[svc.Key] = news
	c.log.Warn("not allocated", "service", svc.Key.String(), "reason", string(d.Refused.Reason), "err", d.Refused.Message)
	switch {
	case d.Refused.Reason == lb.InvalidRequest && len(d.Addrs) > 0:
		c.events.ServiceEvent(svc, true, kube.EventRequestInvalid, text)
	case len(d.Addrs) > 0:
		c.events.ServiceEvent(svc, false, kube.EventAdditionFailed, text)
	case d.Refused.Reason == lb.NoClusterIP:
		c.events.ServiceEvent(svc, true, kube.EventNoClusterIPs, text)
	default:
		c.events.ServiceEvent(svc, true, kube.EventAllocFailed, fmt.Sprintf("Failed to allocate IP for %q: %s", svc.Key, text))
	}
}

// quoted prints addresses as MetalLB's Events do.
func quoted(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = fmt.Sprintf("%q", a)
	}
	return "[" + strings.Join(s, " ") + "]"
}

// report publishes counters and problems.
func (c *Controller) report() {
	usage := c.book.Usage()
	c.usage.Store(&usage)
	s := kube.State{Pools: map[string]kube.PoolState{}}
	if c.cfg != nil {
		s.Problems = c.cfg.Problems
		for name := range c.cfg.SetAside {
			s.Pools[name] = kube.PoolState{}
		}
	}
	for _, u := range usage {
		s.Pools[u.Pool] = kube.PoolState{
			Assigned4: u.Assigned4, Assigned6: u.Assigned6,
			Available4: available(u.Total4, u.Assigned4), Available6: available(u.Total6, u.Assigned6),
		}
	}
	c.state.Set(s)
}

// available subtracts, except from a total that is only known to be huge.
func available(total, assigned int64) int64 {
	if total == math.MaxInt64 {
		return total
	}
	return max(0, total-assigned)
}
