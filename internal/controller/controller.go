// Package controller is the process that gives Services their addresses.
//
// One goroutine owns everything: it takes what changed from the feed, lets
// core/ipam decide, and hands the wished status to the writer. The book of who
// holds what is made from the Services' own status and from the claims before
// anything is given, so the process may die at any time, and another take over.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// feed, statusWriter, stateWriter and updateCounter are what the controller needs of Kubernetes.
type (
	feed interface {
		Changed() <-chan struct{}
		Ready() <-chan struct{}
		Drain() kube.Delta
		Rewind()
	}
	statusWriter interface {
		Set(key lb.Key, want kube.ServiceStatus, urgent bool)
		Release(key lb.Key, uid string, addr netip.Addr)
	}
	stateWriter interface {
		Set(s kube.State)
	}
	updateCounter interface {
		Update(err error)
		Config(problems []config.Problem, invalid bool)
	}
)

// Options are what does not change while a controller runs.
type Options struct {
	// GuardPools has Services keep their addresses when a pool is edited under them.
	GuardPools bool
	// Retention is how long the addresses of a Service that is gone are kept back for
	// one of the same name, as long as others are free.
	Retention time.Duration
	// Announcements says that the feed tells where Services are announced, for the
	// condition Announced.
	Announcements bool
}

// Deps are the parts that a Controller works with.
type Deps struct {
	Log     *slog.Logger
	Options Options
	Feed    feed
	Status  statusWriter
	State   stateWriter
	Metrics updateCounter
	Usage   *Usage // takes the use of the pools
	// Former are those that addresses are kept for, as the controller before said, in
	// the order in which they went.
	Former []ipam.Former
}

// Controller allocates addresses, as long as it is the one that does.
type Controller struct {
	Deps
	ready chan struct{}

	// Owned by Run.
	book     *ipam.Book
	cfg      *config.Config
	objects  *config.Objects // that cfg was made from
	uses     *config.Uses
	told     []config.Status   // of objects; never changed
	onWire   []lb.WireConflict // as speakers say
	heeded   []lb.WireConflict // those of them that are not given
	services map[lb.Key]*lb.Service
	given    map[lb.Key]kube.ServiceStatus // what was decided last, be it nothing
	refused  map[lb.Key]string             // what its user was told last; it waits for better times
	guarded  map[lb.Key]guarded
	reasons  map[lb.Key]lb.Reason // why, of those for whom that was decided here
	waiting  map[lb.Reason]int    // how many for each reason
	holders  map[string]int       // of each pool
	// releasing are the UIDs of Services, by address, whose claims the writer was told
	// to remove and may not have removed yet.
	releasing map[netip.Addr]map[string]bool
	announced announced
}

// New returns a Controller.
func New(d Deps) *Controller {
	c := &Controller{
		Deps: d, ready: make(chan struct{}), book: ipam.NewBook(), uses: config.NewUses(), services: map[lb.Key]*lb.Service{},
		given: map[lb.Key]kube.ServiceStatus{}, refused: map[lb.Key]string{}, guarded: map[lb.Key]guarded{},
		waiting: map[lb.Reason]int{}, reasons: map[lb.Key]lb.Reason{}, holders: map[string]int{}, releasing: map[netip.Addr]map[string]bool{}, announced: newAnnounced(),
	}
	if d.Options.GuardPools {
		c.book.Guard()
	}
	return c
}

// Ready is closed after the first pass over all Services.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run allocates until ctx ends. It may be called once.
func (c *Controller) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.Feed.Ready():
	}
	c.Feed.Rewind()
	defer c.Usage.last.Store(nil)
	c.start(c.Feed.Drain())
	close(c.ready)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if d, ok := c.announced.wait(time.Now()); ok {
			timer.Reset(d)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.Feed.Changed():
		case <-timer.C:
		}
		if ctx.Err() == nil { // both may have happened
			c.step(c.Feed.Drain())
		}
	}
}

// start takes the whole world in: everything that Services hold is adopted before
// anything is given.
func (c *Controller) start(d kube.Delta) {
	c.takeObjects(d.Objects)
	c.uses.SetNodes(d.Nodes)
	dirty, _ := c.takeServices(d)
	claimed := map[string][]netip.Addr{} // by UID
	for _, addr := range slices.SortedFunc(maps.Keys(d.Claims), netip.Addr.Compare) {
		c.book.SetClaim(addr, d.Claims[addr])
		for _, h := range d.Claims[addr] {
			if !h.Released {
				claimed[h.UID] = append(claimed[h.UID], addr)
			}
		}
	}
	c.takeConflicts(d)
	c.announced.take(d.Announced, time.Now())
	for _, f := range c.Former {
		if c.services[f.Key] == nil && c.Options.Retention > 0 {
			c.book.Remember(f.Key, f.Addrs, f.Until)
		}
	}
	if c.cfg != nil {
		c.book.SetPools(c.cfg.Pools, c.cfg.SetAside) // which drops those of pools that are gone
	}
	c.book.Forget(time.Now())
	c.adopt(dirty, claimed)
	c.Log.Info("adopted what services hold", "services", len(c.services), "holders", len(c.given))
	c.settleAll(dirty, false)
	for addr := range d.Claims {
		c.releaseStrays(addr)
	}
	c.report()
}

// adopt records what Services hold by their status; if two that cannot share hold
// one address, he has it who has claimed it, then the first by name. What is claimed
// for a Service without a status was given by one who died before he could write it.
func (c *Controller) adopt(keys []lb.Key, claimed map[string][]netip.Addr) {
	for _, first := range []bool{true, false} {
		for _, key := range keys {
			svc := c.services[key]
			if svc == nil || len(svc.Addrs) == 0 {
				continue
			}
			missing := slices.ContainsFunc(svc.Addrs, func(a netip.Addr) bool { return !slices.Contains(claimed[svc.UID], a) })
			if first == missing {
				continue
			}
			if !c.book.Adopt(svc) {
				c.Log.Warn("address is held twice", "service", key.String(), "addr", fmt.Sprint(svc.Addrs))
				continue
			}
			c.record(svc, kube.ServiceStatus{Holder: lb.HolderOf(svc), Addrs: svc.Addrs, Pool: svc.Pool})
		}
	}
	for _, key := range keys {
		if svc := c.services[key]; svc != nil && len(svc.Addrs) == 0 && len(claimed[svc.UID]) > 0 && c.book.AdoptClaims(svc, claimed[svc.UID]) {
			c.Log.Info("adopted what was claimed", "service", key.String(), "addr", fmt.Sprint(c.book.Holding(key).Addrs))
		}
	}
}

// record notes what was decided for a Service.
func (c *Controller) record(svc *lb.Service, now kube.ServiceStatus) {
	c.forget(svc.Key)
	c.given[svc.Key] = now
	if len(now.Addrs) > 0 {
		c.holders[now.Pool]++
	}
}

// refuse notes what the user of a Service is told that waits, and for what reason; text ""
// notes that it waits no more.
func (c *Controller) refuse(key lb.Key, reason lb.Reason, text string) {
	if was, ok := c.reasons[key]; ok {
		if c.waiting[was]--; c.waiting[was] == 0 {
			delete(c.waiting, was)
		}
	}
	if text == "" {
		delete(c.refused, key)
		delete(c.reasons, key)
		return
	}
	c.refused[key], c.reasons[key] = text, reason
	c.waiting[reason]++
}

// forget drops what was decided for a Service.
func (c *Controller) forget(key lb.Key) {
	if old, ok := c.given[key]; ok && len(old.Addrs) > 0 {
		if c.holders[old.Pool]--; c.holders[old.Pool] == 0 {
			delete(c.holders, old.Pool)
		}
	}
	delete(c.given, key)
}

func (c *Controller) step(d kube.Delta) {
	now := time.Now()
	c.book.Forget(now)
	dirty, changed := c.takeServices(d)
	freed := false
	everything := c.announced.take(d.Announced, now)
	maps.Copy(changed, c.announced.settled(now))
	for _, addr := range slices.SortedFunc(maps.Keys(d.Claims), netip.Addr.Compare) {
		freed = c.takeClaim(addr, d.Claims[addr], changed) || freed
	}
	if d.Nodes != nil {
		c.uses.SetNodes(d.Nodes)
	}
	if d.Objects != nil {
		c.takeObjects(d.Objects)
		everything = true
	}
	if everything {
		for key := range c.services {
			changed[key] = true
		}
	}
	if d.Objects != nil || d.Conflicts != nil {
		freed = c.takeConflicts(d) || freed
	}
	if len(changed) > len(dirty) {
		dirty = slices.SortedFunc(maps.Keys(changed), lb.Key.Compare)
	}
	c.settleAll(dirty, freed)
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
	c.cfg, c.objects = config.Parse(*objs, c.cfg), objs
	c.uses.SetConfig(c.cfg)
	c.book.SetPools(c.cfg.Pools, c.cfg.SetAside)
	c.Metrics.Config(c.cfg.Problems, len(config.InvalidAtController(c.cfg.Problems)) > 0)
	for _, p := range config.NewProblems(c.cfg.Problems, known) {
		c.Log.Warn("configuration problem", "kind", p.Kind, "name", p.Name, "field", p.Field, "reason", string(p.Reason), "err", p.Message)
	}
}

// takeServices stores the changed Services and returns their keys, in order and as a
// set.
func (c *Controller) takeServices(d kube.Delta) ([]lb.Key, map[lb.Key]bool) {
	changed := make(map[lb.Key]bool, len(d.Services))
	for key, svc := range d.Services {
		changed[key] = true
		if old := c.services[key]; old != nil && (svc == nil || svc.UID != old.UID) { // deleted, and perhaps created again
			delete(c.services, key)
			c.refuse(key, "", "")
			delete(c.guarded, key)
			c.forget(key)
		}
		if svc != nil {
			if c.services[key] == nil && svc.ToldNo {
				c.refused[key] = svc.Told // by the one before us, or before he was ours
			}
			c.services[key] = svc
			c.book.NoteWritten(svc)
		}
	}
	for _, key := range d.Orphans {
		c.Status.Set(key, kube.ServiceStatus{}, false)
	}
	return slices.SortedFunc(maps.Keys(d.Services), lb.Key.Compare), changed
}

// takeClaim stores who has claimed addr, and marks the Services that this concerns. It
// reports whether others may now get what they could not get before.
func (c *Controller) takeClaim(addr netip.Addr, holders []lb.Holder, changed map[lb.Key]bool) bool {
	for uid := range c.releasing[addr] {
		if !slices.ContainsFunc(holders, func(o lb.Holder) bool { return o.UID == uid }) {
			c.notReleasing(addr, uid)
		}
	}
	freed := c.book.SetClaim(addr, holders)
	strays := c.releaseStrays(addr)
	for _, key := range c.book.HoldersOf(addr) {
		if strays || !slices.ContainsFunc(holders, c.given[key].Holder.Equal) { // or another was about to take it
			changed[key] = true
		}
	}
	return freed
}

// releaseStrays has claims removed whose Services do not hold addr, and reports
// whether there are any.
func (c *Controller) releaseStrays(addr netip.Addr) bool {
	strays := c.book.Strays(addr)
	for _, h := range strays {
		c.release(h.Key, h.UID, addr)
	}
	return len(strays) > 0
}

// release has a claim removed. It may be called again and again: a claim may come back
// while it is being removed, by a controller that was deposed.
func (c *Controller) release(key lb.Key, uid string, addr netip.Addr) {
	if c.releasing[addr] == nil {
		c.releasing[addr] = map[string]bool{}
	}
	c.releasing[addr][uid] = true
	c.Status.Release(key, uid, addr)
}

// notReleasing notes that a claim is gone, or shall stay.
func (c *Controller) notReleasing(addr netip.Addr, uid string) {
	if delete(c.releasing[addr], uid); len(c.releasing[addr]) == 0 {
		delete(c.releasing, addr)
	}
}
