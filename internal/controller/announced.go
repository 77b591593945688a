package controller

import (
	"time"

	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

const (
	// settleTime is how long nothing must have changed in where a Service is announced
	// before that is written: nodes begin one after the other. With many changes under
	// way they report ever later, so it grows by settleEach for each, up to settleMost.
	settleTime = 2 * time.Second
	settleEach = 20 * time.Millisecond
	settleMost = time.Minute
	// longestSettle bounds, in settle times, how long it may go on changing.
	longestSettle = 7
)

// announced is where Services are announced, and what of it is written.
type announced struct {
	known  bool // all that speakers say was read; before, nothing is written
	latest map[lb.Key]lb.Announcement
	shown  map[lb.Key]lb.Announcement
	due    map[lb.Key]pending
}

// pending is a change that is to be written.
type pending struct{ since, at time.Time }

func newAnnounced() announced {
	return announced{latest: map[lb.Key]lb.Announcement{}, shown: map[lb.Key]lb.Announcement{}, due: map[lb.Key]pending{}}
}

// take stores what speakers say now. What is known from the beginning is written at
// once: take reports whether that is so.
func (a *announced) take(news map[lb.Key]lb.Announcement, now time.Time) bool {
	if news == nil {
		return false
	}
	first := !a.known
	a.known = true
	for key, n := range news {
		a.put(a.latest, key, n)
		if first {
			a.put(a.shown, key, n)
			continue
		}
		p, waits := a.due[key]
		if !waits {
			p.since = now
		}
		quiet := min(settleTime+time.Duration(len(a.due))*settleEach, settleMost)
		if p.at = now.Add(quiet); p.at.Sub(p.since) > longestSettle*quiet {
			p.at = p.since.Add(longestSettle * quiet)
		}
		a.due[key] = p
	}
	return first
}

func (a *announced) put(m map[lb.Key]lb.Announcement, key lb.Key, n lb.Announcement) {
	if delete(m, key); len(n.L2)+len(n.BGP) > 0 {
		m[key] = n
	}
}

// settled returns the Services whose change is to be written now.
func (a *announced) settled(now time.Time) map[lb.Key]bool {
	out := map[lb.Key]bool{}
	for key, p := range a.due {
		if !p.at.After(now) {
			delete(a.due, key)
			a.put(a.shown, key, a.latest[key])
			out[key] = true
		}
	}
	return out
}

// wait returns how long it is until settled returns something; false if there is
// nothing to wait for.
func (a *announced) wait(now time.Time) (time.Duration, bool) {
	var next time.Time
	for _, p := range a.due {
		if next.IsZero() || p.at.Before(next) {
			next = p.at
		}
	}
	return max(0, next.Sub(now)), !next.IsZero()
}

// condition returns what the Service is to say of its announcement, if anything. off
// says that nobody will ever tell.
func (a *announced) condition(svc *lb.Service, d ipam.Decision, off bool) (kube.Condition, bool) {
	c := kube.Condition{Type: kube.ConditionAnnounced}
	switch {
	case off:
		c.Gone = true
		return c, svc.ToldAnnounced != ""
	case !a.known:
		return c, false
	case len(d.Addrs) == 0 && svc.ToldAnnounced == "":
		return c, false // it never had anything to announce
	case len(d.Addrs) == 0:
		c.Reason, c.Message = string(lb.NoAddress), "it has no address"
		return c, true
	}
	var reason lb.Reason
	c.True, reason, c.Message = a.shown[svc.Key].Condition()
	c.Reason = string(reason)
	return c, true
}
