package plan

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/owner"
)

// An election hashes the name of every candidate, which is the dearest thing that a
// Planner does: 10,000 Services and 1,000 nodes are ten million hashes. So the
// result is kept with the slate that it came from, and the next election compares
// the owner only with those who are new since then. That is exact: whoever lost to
// the owner before loses to it again.

// slate is who can own the addresses of the Services that certain L2Advertisements
// are for. It is never changed.
type slate struct {
	advs       []*config.L2Adv
	at         place
	plain      bool              // MetalLB's rule alone
	sticky     bool              // the present owner stays
	candidates []owner.Candidate // sorted by node
	aside      []string          // conditions that would have left nobody
}

// byClaims reports whether claims have a part in the election.
func (s *slate) byClaims() bool {
	return s.sticky || slices.ContainsFunc(s.candidates, func(c owner.Candidate) bool { return c.Down })
}

// deserted reports whether the speakers of all candidates are down: then others than
// candidates take care, and the slate does not tell who they are.
func (s *slate) deserted() bool {
	return len(s.candidates) > 0 && !slices.ContainsFunc(s.candidates, func(c owner.Candidate) bool { return !c.Down })
}

// same reports whether an election on s ends as on o.
func (s *slate) same(o *slate) bool {
	return !s.deserted() && s.plain == o.plain && s.sticky == o.sticky && slices.Equal(s.candidates, o.candidates) && slices.Equal(s.aside, o.aside)
}

// ballot is the outcome of one election.
type ballot struct {
	slate *slate // nil if there was none
	addr  netip.Addr
	local bool // only nodes with an endpoint stood
	owner string
	// caretaker answers for the owner, whose speaker is down; "" if none does.
	caretaker string
	second    bool // the first in rank was passed over
}

// change is how a slate differs from an earlier one. A candidate whose score
// changed is lost and gained.
type change struct {
	lost   map[string]bool
	gained []owner.Candidate
}

// find returns the candidate of that name.
func (s *slate) find(node string) (owner.Candidate, bool) {
	i, ok := slices.BinarySearchFunc(s.candidates, node, func(c owner.Candidate, n string) int { return strings.Compare(c.Node, n) })
	if !ok {
		return owner.Candidate{}, false
	}
	return s.candidates[i], true
}

// since returns how s differs from old.
func (s *slate) since(old *slate) *change {
	c := &change{lost: map[string]bool{}}
	for _, was := range old.candidates {
		if now, ok := s.find(was.Node); !ok || now != was {
			c.lost[was.Node] = true
		}
	}
	for _, now := range s.candidates {
		if was, ok := old.find(now.Node); !ok || now != was {
			c.gained = append(c.gained, now)
		}
	}
	return c
}

// slateOf returns the slate for an address and the L2Advertisements at the given
// places among those of a pool.
func (p *Planner) slateOf(pool string, places []int, addr netip.Addr) *slate {
	at := p.placeOf(addr)
	key := pool + "/" + setKey(places) + "/" + at.key
	s := p.slates[key]
	if s == nil {
		advs := make([]*config.L2Adv, len(places))
		for i, at := range places {
			advs[i] = p.l2Advs[pool][at]
		}
		s = p.newSlate(advs, at)
		p.slates[key] = s
	}
	return s
}

// reelect brings all slates up to date and marks the Services whose outcome changes.
func (p *Planner) reelect() {
	p.deriveCandidates()
	next := map[*slate]*slate{}
	for key, old := range p.slates {
		if s := p.newSlate(old.advs, old.at); !s.same(old) {
			p.slates[key], next[old] = s, s
		}
	}
	for key, st := range p.states {
		s := next[st.ballot.slate]
		if s == nil || p.dirty[key] {
			continue
		}
		b := p.elect(p.services[key], s, st.ballot)
		_, stood := st.ballot.slate.find(p.opts.Node)
		_, stands := s.find(p.opts.Node)
		if stood != stands || b.owner != st.ballot.owner || b.caretaker != st.ballot.caretaker || !slices.Equal(s.aside, st.ballot.slate.aside) {
			p.dirty[key] = true
		}
		st.ballot = b
	}
}

// elect elects the owner of svc from a slate. last is the ballot before.
func (p *Planner) elect(svc *Service, s *slate, last ballot) ballot {
	b := ballot{slate: s, addr: p.leader(svc), local: svc.TrafficLocal}
	stand := s.candidates
	if b.local {
		stand = nil
		for node := range svc.backends().nodes {
			if c, ok := s.find(node); ok {
				stand = append(stand, c)
			}
		}
	}
	b.owner = p.electOwner(&b, stand, last)
	if c, ok := s.find(b.owner); ok && c.Down {
		if !liveness.Claims(p.claims[b.addr], b.owner) {
			// Whose speaker is down keeps what it has, and gets nothing new.
			b.second = true
			b.owner = owner.Elect(b.addr, keep(stand, func(c owner.Candidate) bool { return !c.Down }))
			return b
		}
		b.caretaker = p.caretaker(b.addr, s, b.owner)
	}
	return b
}

func (p *Planner) electOwner(b *ballot, stand []owner.Candidate, last ballot) string {
	s := b.slate
	if s.sticky {
		if now := present(b.addr, p.claims[b.addr], stand); now != "" {
			return now
		}
	}
	if b.local || s.sticky || last.slate == nil || last.addr != b.addr || last.local || last.slate.sticky || last.second {
		return owner.Elect(b.addr, stand)
	}
	c := p.changed(last.slate, s)
	switch stays, ok := s.find(last.owner); {
	case !ok || c.lost[last.owner]:
		return owner.Elect(b.addr, stand)
	case len(c.gained) == 0:
		return last.owner
	default:
		return owner.Elect(b.addr, append([]owner.Candidate{stays}, c.gained...))
	}
}

// present returns the candidate that owns addr by what speakers claim: the one with the
// highest term and, of two, the one that ranks first; "" if none does.
func present(addr netip.Addr, claims []liveness.Claimant, stand []owner.Candidate) string {
	var best []owner.Candidate
	var term uint32
	for _, c := range claims {
		i := slices.IndexFunc(stand, func(s owner.Candidate) bool { return s.Node == c.Node })
		switch {
		case i < 0 || len(best) > 0 && c.Term < term:
		case len(best) > 0 && c.Term == term:
			best = append(best, stand[i])
		default:
			best, term = []owner.Candidate{stand[i]}, c.Term
		}
	}
	return owner.Elect(addr, best)
}

// changed compares two slates, once per plan.
func (p *Planner) changed(from, to *slate) *change {
	key := [2]*slate{from, to}
	c := p.changes[key]
	if c == nil {
		c = to.since(from)
		p.changes[key] = c
	}
	return c
}

// score sums a node's preferences over the advertisements that cover it.
func (p *Planner) score(advs []*config.L2Adv, node string) (score int, covered bool) {
	for _, a := range advs {
		if !p.covers(a.NodeSelectors, node) {
			continue
		}
		covered = true
		for _, pref := range a.Preferred {
			if pref.Selector.Matches(p.nodes[node].Labels) {
				score += pref.Weight
			}
		}
	}
	return score, covered
}

// setKey makes a map key of a set of small numbers.
func setKey(set []int) string {
	b := make([]byte, 0, 16)
	for _, n := range set {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return string(b)
}
