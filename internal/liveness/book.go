package liveness

import (
	"net/netip"
	"sync"
	"time"

	core "github.com/barelb/barelb/internal/core/liveness"
)

// book is the roster with a lock around it: memberlist's goroutines write in it, the
// planner's and the loop's too.
type book struct {
	mu       sync.Mutex
	roster   *core.Roster
	missing  map[string]int  // speakers whose record is asked for: how often it was
	awaited  map[string]bool // speakers that were asked what they own; nil if none were
	told     chan struct{}   // we have something to tell
	facts    chan struct{}   // somebody's facts changed
	claims   chan struct{}   // somebody's claims changed
	answered chan struct{}   // all that were asked what they own have answered
}

func newBook(node string) *book {
	return &book{
		roster:  core.NewRoster(node, uint64(time.Now().UnixNano())),
		missing: map[string]int{},
		told:    make(chan struct{}, 1), facts: make(chan struct{}, 1), claims: make(chan struct{}, 1), answered: make(chan struct{}, 1),
	}
}

func (b *book) own() *core.Facts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.Own()
}

// setLinks says what our links are now, and setPhase what we are about.
func (b *book) setLinks(links []core.Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(links, b.roster.Own().Phase)
}

func (b *book) setPhase(p core.Phase) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(b.roster.Own().Links, p)
}

func (b *book) set(links []core.Link, p core.Phase) {
	if b.roster.SetFacts(links, p) {
		signal(b.told)
		signal(b.facts)
	}
}

func (b *book) setProxyDown(down bool) { //nolint:revive // a fact, and no flag
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.roster.SetProxyDown(down) {
		signal(b.told)
		signal(b.facts)
	}
}

func (b *book) setClaims(changes []core.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.roster.SetClaims(changes) {
		signal(b.told)
	}
}

func (b *book) drainClaims() map[netip.Addr][]core.Claimant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.DrainClaims()
}

func (b *book) former() map[netip.Addr]uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.Former()
}

func (b *book) claimed(node string, addr netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.Claims(node, addr)
}

// drainFacts returns whose facts changed, and ours.
func (b *book) drainFacts() (map[string]*core.Facts, *core.Facts) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.DrainFacts(), b.roster.Own()
}

func (b *book) tell() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.Tell(maxDelta)
}

func (b *book) head() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.Head()
}

func (b *book) ownState() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.OwnState()
}

func (b *book) state() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.roster.State(time.Now())
}

// apply takes a delta. It returns whom to ask for a record because of it, if anybody.
func (b *book) apply(delta []byte) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	node, gap, err := b.roster.Apply(delta)
	b.changed()
	switch {
	case err != nil || node == "":
		return "", err
	case !gap:
		delete(b.missing, node)
		b.answer(node)
		return "", nil
	case b.missing[node] > 0:
		return "", nil // it is being asked
	}
	b.missing[node] = 1
	return node, nil
}

// merge takes records; from is who sent its own in answer to a question, or empty.
func (b *book) merge(state []byte, from string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.roster.Merge(state, time.Now())
	b.changed()
	if err == nil && from != "" {
		delete(b.missing, from)
		b.answer(from)
	}
	return err
}

// changed wakes those who follow what the roster says.
func (b *book) changed() {
	claims, facts := b.roster.Changed()
	if claims {
		signal(b.claims)
	}
	if facts {
		signal(b.facts)
	}
	if b.roster.Unsaid() {
		signal(b.told)
	}
}

// setMembers says who the members are.
func (b *book) setMembers(members map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roster.SetMembers(members, time.Now())
	b.changed()
}

// overdue returns the speakers to ask again for their record.
func (b *book) overdue() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for node, times := range b.missing {
		if times >= maxAsked {
			delete(b.missing, node) // it comes with the next exchange
			continue
		}
		b.missing[node]++
		out = append(out, node)
	}
	return out
}

// await notes who was asked what it owns.
func (b *book) await(nodes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.awaited = map[string]bool{}
	for _, n := range nodes {
		b.awaited[n] = true
	}
	if len(nodes) == 0 {
		b.awaited = nil
		signal(b.answered)
	}
}

func (b *book) answer(node string) {
	if !b.awaited[node] {
		return
	}
	delete(b.awaited, node)
	if len(b.awaited) == 0 {
		b.awaited = nil
		signal(b.answered)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
