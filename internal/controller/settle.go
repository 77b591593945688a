package controller

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// settleAll decides for the Services in dirty, and then, if anything was given
// back, for those that wait.
func (c *Controller) settleAll(dirty []lb.Key, freed bool) {
	for _, key := range dirty {
		svc := c.services[key]
		if svc == nil {
			freed = c.leave(key) || freed
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

// leave takes back what a Service held that is gone, and keeps it for its return.
func (c *Controller) leave(key lb.Key) bool {
	had := c.book.Holding(key)
	if len(had.Addrs) > 0 && c.Options.Retention > 0 {
		c.book.Remember(key, had.Addrs, time.Now().Add(c.Options.Retention))
	}
	freed := c.book.Release(key)
	c.uses.SetService(key, "", nil)
	for _, a := range had.Addrs {
		c.release(key, had.UID, a)
	}
	return freed
}

// settle decides for one Service and reports whether others may now get what
// they could not get before.
func (c *Controller) settle(live *lb.Service) (freed bool) {
	svc := live
	had, gave := c.given[svc.Key]
	if gave && !c.givenByAnother(live, had) { // our own book is ahead of the status that we read
		own := *svc
		own.Addrs, own.Pool = had.Addrs, had.Pool
		svc = &own
	}
	d := c.book.Decide(svc)
	if len(live.Addrs) == 0 {
		d.Cleared = nil // nobody has seen what it had
	}
	now := kube.ServiceStatus{
		Holder: lb.HolderOf(svc), Addrs: d.Addrs, Pool: d.Pool, Conditions: []kube.Condition{allocated(d)},
	}
	if cond, ok := c.announced.condition(live, d, !c.Options.Announcements); ok {
		now.Conditions = append(now.Conditions, cond)
	}
	before := c.book.Holding(svc.Key) // that of its namesake, if it was created again
	c.book.Settle(svc, d.Addrs)
	c.uses.SetService(svc.Key, d.Pool, svc.Labels)
	for _, a := range before.Addrs {
		if !slices.Contains(d.Addrs, a) {
			c.release(svc.Key, before.UID, a)
		}
	}
	for _, a := range d.Addrs {
		c.notReleasing(a, svc.UID) // it was to be taken, and shall stay
	}
	now.Events = c.tell(svc, d)
	if !gave || !had.Equal(now) || len(now.Events) > 0 || !c.said(live, now) {
		urgent := !slices.Equal(live.Addrs, d.Addrs) || len(before.Addrs) > 0 && !before.SharesAs(now.Holder)
		c.Status.Set(svc.Key, now, urgent)
		now.Events = nil
		c.record(svc, now)
	}
	c.Metrics.Update(nil)
	// A lost address is free for others; so may be a kept one, if its Service is
	// ready to share it in another way than before.
	return len(before.Addrs) > 0 && !before.Equal(c.book.Holding(svc.Key))
}

// said reports whether the status of svc says what was decided, and the claims too.
func (c *Controller) said(svc *lb.Service, now kube.ServiceStatus) bool {
	for _, a := range now.Addrs {
		if !slices.ContainsFunc(c.book.Claims(a), now.Holder.Equal) {
			return false
		}
	}
	if len(now.Conditions) > 1 && now.Conditions[1].Told() != svc.ToldAnnounced {
		return false
	}
	cond := now.Conditions[0]
	return slices.Equal(svc.Addrs, now.Addrs) && svc.Pool == now.Pool && svc.Told == cond.Reason+": "+cond.Message && svc.ToldNo == !cond.True
}

// givenByAnother reports whether the status of svc says addresses that are not those
// that we mean to give it, and that were claimed for it: another controller, which was
// deposed meanwhile, was faster. Then it shall keep those.
func (c *Controller) givenByAnother(svc *lb.Service, had kube.ServiceStatus) bool {
	if len(svc.Addrs) == 0 || slices.Equal(svc.Addrs, had.Addrs) || len(c.book.Holding(svc.Key).Written) > 0 {
		return false
	}
	return !slices.ContainsFunc(svc.Addrs, func(a netip.Addr) bool {
		return c.releasing[a][svc.UID] || !slices.ContainsFunc(c.book.Claims(a), func(h lb.Holder) bool { return h.UID == svc.UID && !h.Released })
	})
}

// allocated is the condition that follows from a decision.
func allocated(d ipam.Decision) kube.Condition {
	c := kube.Condition{Type: kube.ConditionAllocated, True: len(d.Addrs) > 0, Reason: string(lb.Allocated)}
	var parts []string
	if c.True {
		parts = append(parts, fmt.Sprintf("%s from IPAddressPool %s", ipam.List(d.Addrs), d.Pool))
	}
	if d.Guarded != nil {
		parts = append(parts, keptNote(d))
	}
	if d.Refused != nil {
		if !c.True {
			c.Reason = string(d.Refused.Reason)
			parts = append(parts, d.Refused.Message)
		} else {
			parts = append(parts, string(d.Refused.Reason)+": "+d.Refused.Message)
		}
	}
	c.Message = strings.Join(parts, "; ")
	return c
}

// keptNote says what a Service keeps in spite of its pool.
func keptNote(d ipam.Decision) string {
	return fmt.Sprintf("kept, although %s: %s", d.Guarded.Reason, d.Guarded.Message)
}

// tell logs a decision and returns Events about it: one for each thing that is new.
// svc is as it was before.
func (c *Controller) tell(svc *lb.Service, d ipam.Decision) []kube.Event {
	var events []kube.Event
	add := func(warning bool, reason, message string) {
		events = append(events, kube.Event{Warning: warning, Reason: reason, Message: message})
	}
	had := svc.Addrs
	if d.Cleared != nil {
		add(false, kube.EventCleared, string(d.Cleared.Reason)+": "+d.Cleared.Message)
		c.Log.Info("took address back", "service", svc.Key.String(), "addr", fmt.Sprint(had), "reason", string(d.Cleared.Reason))
	}
	if len(d.Addrs) > 0 && !slices.Equal(had, d.Addrs) {
		add(false, kube.EventAllocated, "Assigned IP "+quoted(d.Addrs))
		c.Log.Info("allocated", "service", svc.Key.String(), "addr", fmt.Sprint(d.Addrs), "pool", d.Pool)
		if svc.LegacyAnnotations {
			add(true, kube.EventDeprecated, "annotations under metallb.universe.tf/ are deprecated; write them under metallb.io/")
		}
	}
	if note := c.guards(svc, d); note != "" {
		add(true, kube.EventEditHeldBack, note)
	}
	if d.Refused == nil {
		c.refuse(svc.Key, "", "")
		return events
	}
	text := string(d.Refused.Reason) + ": " + d.Refused.Message
	known := c.refused[svc.Key] == text || strings.Contains(svc.Told, text) // the one before us may have told it
	c.refuse(svc.Key, d.Refused.Reason, text)
	if known {
		return events
	}
	c.Log.Warn("not allocated", "service", svc.Key.String(), "reason", string(d.Refused.Reason), "err", d.Refused.Message)
	switch {
	case d.Refused.Reason == lb.InvalidRequest && len(d.Addrs) > 0:
		add(true, kube.EventRequestInvalid, text)
	case len(d.Addrs) > 0:
		add(false, kube.EventAdditionFailed, text)
	case d.Refused.Reason == lb.NoClusterIP:
		add(true, kube.EventNoClusterIPs, text)
	default:
		add(true, kube.EventAllocFailed, fmt.Sprintf("Failed to allocate IP for %q: %s", svc.Key, text))
	}
	return events
}

// guarded is a Service that keeps what its pool would not give it any more.
type guarded struct {
	pool string
	text string // with its addresses
}

// guards notes whether a Service keeps what its pool would not give it, and returns
// what is to be said of it, if that is new.
func (c *Controller) guards(svc *lb.Service, d ipam.Decision) string {
	if d.Guarded == nil {
		delete(c.guarded, svc.Key)
		return ""
	}
	now := guarded{d.Pool, fmt.Sprintf("%s (%s)", svc.Key, ipam.List(d.Addrs))}
	_, was := c.guarded[svc.Key]
	c.guarded[svc.Key] = now
	if note := keptNote(d); !was && !strings.Contains(svc.Told, note) {
		return note
	}
	return ""
}

// quoted prints addresses as MetalLB's Events do.
func quoted(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = fmt.Sprintf("%q", a)
	}
	return "[" + strings.Join(s, " ") + "]"
}
