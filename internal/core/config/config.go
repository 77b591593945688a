package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// Config is what is in force. It is immutable; all lists are sorted by name
// unless they say otherwise.
type Config struct {
	Pools []*Pool
	// SetAside are the names of pools that exist but of which no version is in
	// force. Addresses that Services already hold from them stay theirs.
	SetAside map[string]bool
	L2       []*L2Adv
	BGP      []*BGPAdv // oldest first, then by name
	Peers    []*Peer   // oldest first, then by name
	BFD      []*lb.BFDProfile
	Problems []Problem // sorted

	ranges  claims            // of all pools in force
	aliases map[string]string // of communities: which Community object defines each
}

// Problem says what is wrong with an object.
type Problem struct {
	Kind, Name string // the object
	Field      string // such as spec.addresses[1]
	Reason     lb.Reason
	Message    string
	// InForce reports whether the object has effect nevertheless: because an
	// earlier version of it stays in force (LastGood), or because the rest of it does.
	InForce  bool
	LastGood bool
	// Words are MetalLB's for it in a ConfigurationState, where tools compare those; else "".
	Words string
}

// Summary is what a ConfigurationState says of the problem.
func (p Problem) Summary() string {
	if p.Words != "" {
		return "configuration error: " + p.Words
	}
	return p.String()
}

// dangles reports whether all that is wrong is that an advertisement names a pool or a peer
// that is not there.
func (p Problem) dangles() bool {
	return p.Reason == lb.UnknownReference && (strings.HasPrefix(p.Field, fieldPools) || strings.HasPrefix(p.Field, fieldPeers))
}

// InvalidAtSpeaker returns those problems for which a speaker calls the configuration
// invalid. As in MetalLB, advertisements may name what is not there.
func InvalidAtSpeaker(ps []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(ps), Problem.dangles)
}

// InvalidAtController returns those for which the controller does. As MetalLB's, it answers
// for what it allocates by, and for aliases.
func InvalidAtController(ps []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return p.Kind != KindIPAddressPool && p.Kind != KindCommunity })
}

// String returns the problem in one line.
func (p Problem) String() string {
	return p.Kind + " " + p.Name + ": " + p.text()
}

// text says what is wrong, and what becomes of the object.
func (p Problem) text() string {
	state := "set aside"
	switch {
	case p.LastGood:
		state = "the last good version stays in force"
	case p.InForce:
		state = "the rest is in force"
	}
	return fmt.Sprintf("%s: %s (%s)", p.Field, p.Message, state)
}

// NewProblems returns those of now that were not there before, in their order.
func NewProblems(now, before []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(now), func(p Problem) bool { return slices.Contains(before, p) })
}

// L2Adv is an L2Advertisement in force.
type L2Adv struct {
	Name             string
	Pools            Names // pools that it advertises
	NodeSelectors    []lb.Selector
	ServiceSelectors []lb.Selector
	Links            []string // sorted; empty: all
	Preferred        []Preference
	Failback         Failback
}

// Failback says whether a node that comes back takes back the addresses that it
// ranks first for.
type Failback string

// The values of Failback, spelled as in the API.
const (
	FailbackImmediate Failback = "Immediate" // it does
	FailbackNever     Failback = "Never"     // not while the present owner is well
)

// BGPAdv is a BGPAdvertisement in force.
type BGPAdv struct {
	Name             string
	Pools            Names
	NodeSelectors    []lb.Selector
	ServiceSelectors []lb.Selector
	Length4, Length6 int
	Attrs            lb.Attrs // but for Bandwidth
	Weigh            bool     // Bandwidth follows from the endpoints of a Service
	Peers            []string // sorted; empty: all
}

// Length returns the aggregation length for a family.
func (a *BGPAdv) Length(f lb.Family) int {
	if f == lb.IPv4 {
		return a.Length4
	}
	return a.Length6
}

// Peer is a BGPPeer in force, and the nodes that it concerns.
type Peer struct {
	lb.Peer
	NodeSelectors []lb.Selector
}

// Names is a set of object names.
type Names map[string]bool

// Parse makes a Config of objs. prev is the Config that was in force before, or
// nil; the last good version of an object that is bad now is taken from it.
func Parse(objs Objects, prev *Config) *Config {
	if prev == nil {
		prev = &Config{}
	}
	p := &parser{prev: prev, cfg: &Config{SetAside: map[string]bool{}}}
	p.pools(objs.Pools)
	p.l2(objs)
	aliases := p.communities(objs.Communities)
	p.bgp(objs, aliases)
	p.bfd(objs.BFDProfiles)
	p.peers(objs)
	slices.SortFunc(p.cfg.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name),
			strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return p.cfg
}

// PoolByName returns the pool in force, or nil.
func (c *Config) PoolByName(name string) *Pool {
	i, ok := slices.BinarySearchFunc(c.Pools, name, func(p *Pool, n string) int { return strings.Compare(p.Name, n) })
	if !ok {
		return nil
	}
	return c.Pools[i]
}

// PoolOf returns the name of the pool in force that contains addr, or "".
func (c *Config) PoolOf(addr netip.Addr) string {
	if _, x, ok := c.ranges.overlap([]Range{{First: addr, Last: addr}}); ok {
		return x.pool
	}
	return ""
}

type parser struct {
	prev *Config
	cfg  *Config
}

// problem is an error about one field.
type problem struct {
	field   string
	reason  lb.Reason
	message string
	words   string // see Problem
}

// Fields that name other objects, as one of a list.
const (
	fieldPools = "spec.ipAddressPools"
	fieldPeers = "spec.peers"
)

// problems collects what is wrong with one object.
type problems []problem

func (ps *problems) add(field string, reason lb.Reason, format string, args ...any) {
	*ps = append(*ps, problem{field: field, reason: reason, message: fmt.Sprintf(format, args...)})
}

// words gives the last problem MetalLB's words.
func (ps problems) words(format string, args ...any) {
	ps[len(ps)-1].words = fmt.Sprintf(format, args...)
}

// The texts of what MetalLB refuses too contain MetalLB's, which users' tools look for.

// selectors reports what is wrong with a list of selectors.
func (ps *problems) selectors(field string, sels []lb.Selector) {
	seen := map[string]bool{}
	for i, s := range sels {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := s.Validate(); err != nil {
			ps.add(at, lb.InvalidField, "invalid label selector: %v", err)
		}
		if seen[s.String()] {
			ps.add(at, lb.InvalidField, "duplicate definition of %s %q", field[strings.LastIndexByte(field, '.')+1:], s)
		}
		seen[s.String()] = true
	}
}

// unique reports entries that are given twice, in the words of twice.
func (ps *problems) unique(field, twice string, list []string) {
	seen := map[string]bool{}
	for i, s := range list {
		if seen[s] {
			ps.add(fmt.Sprintf("%s[%d]", field, i), lb.InvalidField, "%s %q", twice, s)
		}
		seen[s] = true
	}
}

// effect is what an object has in spite of its problems.
type effect int

const (
	nothing  effect = iota // of it is in force
	theRest                // is in force
	lastGood               // is the version that is in force
)

// report files the problems of one object.
func (p *parser) report(kind, name string, ps problems, e effect) {
	for _, x := range ps {
		p.cfg.Problems = append(p.cfg.Problems, Problem{
			Kind: kind, Name: name, Field: x.field, Reason: x.reason, Message: x.message, InForce: e != nothing, LastGood: e == lastGood, Words: x.words,
		})
	}
}

// settle returns what is in force of one object: now if nothing is wrong with it,
// else its last good version, if any: that which was in force before, or the one that
// was kept, which kept returns, or nil. It files the problems.
func settle[T any](p *parser, o object, now *T, ps problems, last []*T, nameOf func(*T) string, kept func() *T) *T {
	if len(ps) == 0 {
		return now
	}
	var before *T
	if i := slices.IndexFunc(last, func(t *T) bool { return nameOf(t) == o.name }); i >= 0 {
		before = last[i]
	} else {
		before = kept()
	}
	e := nothing
	if before != nil {
		e = lastGood
	}
	p.report(o.kind, o.name, ps, e)
	return before
}

// partly files problems that leave something of the object in force. If nothing
// is left, it returns them: then they concern the object as a whole.
func (p *parser) partly(kind, name string, ps problems, left int) problems {
	if left == 0 {
		return ps
	}
	p.report(kind, name, ps, theRest)
	return nil
}

// selectPools resolves an advertisement's pools: by name, by selector, or all.
// It leaves out, and lists, what names no pool.
func selectPools(names []string, sels []lb.Selector, all []IPAddressPool) (Names, problems) {
	set := Names{}
	byName := Names{}
	for i := range all {
		byName[all[i].Name] = true
		if len(names) == 0 && len(sels) == 0 || len(sels) > 0 && lb.MatchesAny(sels, all[i].Labels) {
			set[all[i].Name] = true
		}
	}
	var ps problems
	for i, n := range names {
		if !byName[n] {
			ps.add(fmt.Sprintf("%s[%d]", fieldPools, i), lb.UnknownReference, "there is no IPAddressPool %q", n)
			continue
		}
		set[n] = true
	}
	return set, ps
}

// byAge orders objects oldest first, then by name.
func byAge(a, b Meta) int {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
}
