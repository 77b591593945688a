package plan

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
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
	candidates []owner.Candidate // sorted by node
}

// ballot is the outcome of one election.
type ballot struct {
	slate *slate // nil if there was none
	addr  netip.Addr
	local bool // only nodes with an endpoint stood
	owner string
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

// deriveCandidates finds the nodes that may own addresses.
func (p *Planner) deriveCandidates() {
	p.candidates = nil
	for _, name := range slices.Sorted(maps.Keys(p.nodes)) {
		n := p.nodes[name]
		if (p.alive == nil || p.alive[name]) && !n.NetworkUnavailable && (!n.Excluded || p.opts.IgnoreExcluded) {
			p.candidates = append(p.candidates, name)
		}
	}
}

// slateOf returns the slate for the L2Advertisements at the given places among
// those of a pool.
func (p *Planner) slateOf(pool string, places []int) *slate {
	key := pool + "/" + setKey(places)
	s := p.slates[key]
	if s == nil {
		advs := make([]*config.L2Adv, len(places))
		for i, at := range places {
			advs[i] = p.l2Advs[pool][at]
		}
		s = p.newSlate(advs)
		p.slates[key] = s
	}
	return s
}

func (p *Planner) newSlate(advs []*config.L2Adv) *slate {
	s := &slate{advs: advs}
	for _, name := range p.candidates {
		if score, covered := p.score(advs, name); covered {
			s.candidates = append(s.candidates, owner.Candidate{Node: name, Score: score})
		}
	}
	return s
}

// reelect brings all slates up to date and marks the Services whose owner changes.
func (p *Planner) reelect() {
	p.deriveCandidates()
	next := map[*slate]*slate{}
	for key, old := range p.slates {
		if s := p.newSlate(old.advs); !slices.Equal(s.candidates, old.candidates) {
			p.slates[key], next[old] = s, s
		}
	}
	if len(next) == 0 {
		return
	}
	for key, st := range p.states {
		if s := next[st.ballot.slate]; s != nil && !p.dirty[key] {
			b := p.elect(p.services[key], s, st.ballot)
			if b.owner != st.ballot.owner {
				p.dirty[key] = true
			}
			st.ballot = b
		}
	}
}

// elect elects the owner of svc from a slate. last is the ballot before.
func (p *Planner) elect(svc *Service, s *slate, last ballot) ballot {
	b := ballot{slate: s, addr: svc.Addrs[0], local: svc.TrafficLocal}
	if b.local {
		var cands []owner.Candidate
		for node := range svc.backends().nodes {
			if c, ok := s.find(node); ok {
				cands = append(cands, c)
			}
		}
		b.owner = owner.Elect(b.addr, cands)
		return b
	}
	if last.slate == nil || last.addr != b.addr || last.local {
		b.owner = owner.Elect(b.addr, s.candidates)
		return b
	}
	c := p.changed(last.slate, s)
	switch stays, ok := s.find(last.owner); {
	case !ok || c.lost[last.owner]:
		b.owner = owner.Elect(b.addr, s.candidates)
	case len(c.gained) == 0:
		b.owner = last.owner
	default:
		b.owner = owner.Elect(b.addr, append([]owner.Candidate{stays}, c.gained...))
	}
	return b
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
