package config

import (
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// Defaults of a BFDProfile, as FRR has them.
const (
	defaultBFDInterval   = 300 // ms
	defaultBFDMultiplier = 3
	defaultBFDEcho       = 50 // ms
	defaultBFDMinTTL     = 254
)

// bfd parses the profiles. They come before the peers that refer to them.
func (p *parser) bfd(profiles []BFDProfile) {
	sorted := slices.SortedFunc(slices.Values(profiles), func(a, b BFDProfile) int { return strings.Compare(a.Name, b.Name) })
	for i := range sorted {
		o := &sorted[i]
		now, ps := parseProfile(o)
		now = settle(p, object{KindBFDProfile, o.Name}, now, ps, p.prev.BFD, func(q *lb.BFDProfile) string { return q.Name },
			func() *lb.BFDProfile { return keptProfile(o.Last, o.Name) })
		if now != nil {
			p.cfg.BFD = append(p.cfg.BFD, now)
		}
	}
}

// keptProfile returns what a version that was kept says, or nil if that makes no sense.
func keptProfile(last *BFDProfile, name string) *lb.BFDProfile {
	if last == nil {
		return nil
	}
	o := *last
	o.Name = name
	profile, ps := parseProfile(&o)
	if len(ps) > 0 {
		return nil
	}
	return profile
}

func parseProfile(o *BFDProfile) (*lb.BFDProfile, problems) {
	var ps problems
	// number returns the value of a field within its bounds.
	number := func(field string, have *uint32, unset, least, most uint32) uint32 {
		if have == nil {
			return unset
		}
		if *have < least || *have > most {
			ps.add("spec."+field, lb.InvalidField, "%d is not between %d and %d", *have, least, most)
		}
		return *have
	}
	interval := func(field string, have *uint32, unset uint32) time.Duration {
		return time.Duration(number(field, have, unset, 10, 60000)) * time.Millisecond
	}
	profile := &lb.BFDProfile{
		Name:         o.Name,
		Receive:      interval("receiveInterval", o.ReceiveInterval, defaultBFDInterval),
		Transmit:     interval("transmitInterval", o.TransmitInterval, defaultBFDInterval),
		Multiplier:   uint8(number("detectMultiplier", o.DetectMultiplier, defaultBFDMultiplier, 2, 255)),
		Echo:         o.EchoMode,
		EchoInterval: interval("echoInterval", o.EchoInterval, defaultBFDEcho),
		Passive:      o.PassiveMode,
		Strict:       o.StrictMode,
		MinTTL:       uint8(number("minimumTtl", o.MinimumTTL, defaultBFDMinTTL, 1, 254)),
	}
	return profile, ps
}

// peerProfile returns the profile in force that a peer refers to, or nil.
func (p *parser) peerProfile(o *BGPPeer, ps *problems) *lb.BFDProfile {
	if o.BFDProfile == "" {
		return nil
	}
	i := slices.IndexFunc(p.cfg.BFD, func(q *lb.BFDProfile) bool { return q.Name == o.BFDProfile })
	if i < 0 {
		ps.add("spec.bfdProfile", lb.UnknownReference, "there is no BFDProfile %q in force", o.BFDProfile)
		ps.words("peer %s referencing non existing bfd profile %s", o.Name, o.BFDProfile)
		return nil
	}
	return p.cfg.BFD[i]
}
