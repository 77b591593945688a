package speaker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/barelb/barelb/internal/core/liveness"
)

// tellTime bounds how long a speaker that ends waits for the others to hear of it.
const tellTime = 2 * time.Second

// Restart prepares for the end of this process, which another follows: those who take
// care of its addresses meanwhile are told, and have begun when Restart returns. It
// takes 2 s at most.
func (s *Speaker) Restart(ctx context.Context) {
	if s.Members == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	var caretakers []string
	if !s.ask(ctx, func() {
		s.phase = liveness.Restarting
		s.Members.SetPhase(s.phase)
		caretakers = s.planner.Caretakers()
	}) {
		return
	}
	s.Log.Info("restarting: others take care of this node's addresses", "nodes", caretakers)
	var all sync.WaitGroup
	for _, node := range caretakers {
		all.Go(func() {
			if err := s.Members.Tell(ctx, node, []byte{byte(liveness.Restarting)}); err != nil {
				s.Log.Warn("caretaker not told", "node", node, "err", err)
			}
		})
	}
	all.Wait()
}

// Leave gives this node's addresses to others, because of cause, and returns when those
// who use this node have had the drain time to end, or when ctx ends. An address that
// nobody else can own stays here to the end.
func (s *Speaker) Leave(ctx context.Context, cause string) {
	ctx, cancel := context.WithTimeout(ctx, s.Drain+tellTime)
	defer cancel()
	if !s.ask(ctx, func() {
		s.phase = liveness.Leaving
		s.planner.SetLeaving(cause)
		if s.Members != nil {
			s.Members.SetPhase(s.phase)
		}
	}) {
		return
	}
	s.Log.Info("leaving: others take this node's addresses", "cause", cause, "drain", s.Drain.String())
	for left := 0; s.ask(ctx, func() { left = s.answering }) && left > 0; {
		select {
		case <-ctx.Done():
		case <-s.changed:
		}
	}
}

// Told is called when the speaker of another node says that it restarts. It returns when
// a plan is in force that takes that into account.
func (s *Speaker) Told(ctx context.Context, from string, _ []byte) error {
	const again = 5 * time.Millisecond // the speaker's own news may be on their way still
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	for {
		heeded := false
		if s.ask(ctx, func() { heeded = s.view != nil && s.view.Nodes[from].SpeakerDown }) && heeded {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("heed the speaker of %s: %w", from, ctx.Err())
		case <-time.After(again):
		}
	}
}

// ask has the goroutine of the plan do something, and then plan. It reports whether it
// was done.
func (s *Speaker) ask(ctx context.Context, do func()) bool {
	done := make(chan struct{})
	select {
	case s.requests <- func() { do(); close(done) }:
	case <-ctx.Done():
		return false
	}
	<-done
	return true
}
