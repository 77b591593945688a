package speaker

import (
	"context"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
)

const (
	// formerTime is how long what was so before this speaker matters.
	formerTime = time.Minute
	// ownedTimeout bounds the wait for what the API server knows of that.
	ownedTimeout = 2 * time.Second
	// ownedTerm is the term of what this node owned by the API server: above those of the
	// speakers that, as all were starting, found nobody who claimed it.
	ownedTerm = 1 << 16
)

// takeLiveness takes what is new of the other speakers.
func (s *Speaker) takeLiveness() {
	s.seenAt = time.Time{}
	if view := s.Members.View(); view != s.view {
		s.view, s.alive, s.seenAt = view, view.Alive(), time.Now()
		s.planner.SetLiveness(view)
	}
	touched := s.Members.DrainClaims()
	for addr, now := range touched {
		if len(now) == 0 {
			delete(s.claims, addr)
		} else {
			s.claims[addr] = now
		}
	}
	if !s.joined && len(s.alive) > 0 {
		s.joined, s.formerUntil = true, time.Now().Add(formerTime)
		s.former = map[netip.Addr]uint32{}
		maps.Copy(s.former, s.Members.Former())
		for addr := range s.owned {
			if _, known := s.former[addr]; !known {
				s.former[addr] = ownedTerm
			}
		}
		for addr := range s.former {
			touched[addr] = nil
		}
	}
	if s.former != nil && time.Now().After(s.formerUntil) {
		for addr := range s.former {
			touched[addr] = nil
		}
		s.former = nil
	}
	s.tellPlanner(maps.Keys(touched))
}

// readOwned asks the API server which addresses this node owned, where they stay with
// their owner. If all speakers were restarted, nobody else knows, and another may have taken
// one in the meantime: then it gives it back. It has to be asked before the first plan, for
// what that does not account for is deleted.
func (s *Speaker) readOwned(ctx context.Context) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	if s.Owned == nil || s.cfg == nil || !slices.ContainsFunc(s.cfg.L2, func(a *config.L2Adv) bool { return a.Failback == config.FailbackNever }) {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, ownedTimeout)
	defer cancel()
	keys, err := s.Owned(ctx)
	if err != nil {
		s.Log.Warn("which addresses with failback Never this node owned is not known; they may move", "err", err)
		return out
	}
	for _, key := range keys {
		if svc := s.services[key]; svc != nil {
			for _, a := range svc.Addrs {
				out[a] = true
			}
		}
	}
	s.Log.Debug("owned before", "services", keys, "addresses", len(out))
	return out
}

// tellPlanner tells the planner who claims certain addresses, this node included.
func (s *Speaker) tellPlanner(addrs iter.Seq[netip.Addr]) {
	now := map[netip.Addr][]liveness.Claimant{}
	for addr := range addrs {
		now[addr] = s.claimants(addr)
		if term, ours := s.claimed[addr]; ours {
			now[addr] = append(slices.Clone(now[addr]), liveness.Claimant{Node: s.Options.Node, Term: term})
		}
	}
	s.planner.SetClaims(now)
}

// claimants returns who claims addr but this process: other speakers, and the one before
// it on this node.
func (s *Speaker) claimants(addr netip.Addr) []liveness.Claimant {
	all := s.claims[addr]
	if term, was := s.former[addr]; was {
		all = append(slices.Clone(all), liveness.Claimant{Node: s.Options.Node, Term: term})
	}
	return all
}

// applyL2 lets the book decide how this node gets from what it answers for to what the
// plan wants, announces that, and tells the other speakers what it claims.
func (s *Speaker) applyL2(ctx context.Context, desired plan.Desired) error {
	out := s.book.Step(handover.Input{
		Now: time.Now(), Want: desired.L2, View: s.view, Elsewhere: s.planner.Elsewhere,
		Claims: s.claimants,
	})
	s.handoverAt, s.wants = out.Next, desired.L2
	if n := len(out.L2); n != s.answering {
		s.answering = n
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	err := s.L2.Apply(ctx, out.L2)
	if !s.seenAt.IsZero() && len(out.Claims) > len(s.claimed) {
		s.Announced.takeover.Observe(time.Since(s.seenAt).Seconds())
	}
	if s.Members != nil && s.joined {
		// With the news that this speaker serves ends what its forerunner claimed. Were that
		// first, others would find an address that nobody claims, and take it.
		s.claim(out.Claims)
		s.Members.SetPhase(s.phase)
	}
	return err
}

// claim makes now what the others are told that this node claims.
func (s *Speaker) claim(now map[netip.Addr]uint32) {
	var changes []liveness.Change
	for addr, term := range now {
		if was, there := s.claimed[addr]; !there || was != term {
			changes = append(changes, liveness.Change{Claim: liveness.Claim{Addr: addr, Term: term}})
		}
		delete(s.former, addr)
	}
	for addr := range s.claimed {
		if _, stays := now[addr]; !stays {
			changes = append(changes, liveness.Change{Claim: liveness.Claim{Addr: addr}, Withdrawn: true})
		}
	}
	if s.claimed = now; len(changes) == 0 {
		return
	}
	s.Log.Debug("claims", "changes", changes)
	s.Members.SetClaims(changes)
	s.tellPlanner(func(yield func(netip.Addr) bool) {
		for _, c := range changes {
			if !yield(c.Addr) {
				return
			}
		}
	})
}

// due returns a channel that receives when something is to be decided again although
// nothing happened; nil if nothing is.
func (s *Speaker) due() <-chan time.Time {
	var at time.Time
	for _, t := range []time.Time{s.handoverAt, s.routesAt, s.unreadyAt} {
		if at.IsZero() || !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}
