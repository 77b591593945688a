package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// Condition is one condition of an object, worded as those of the Gateway API are: its
// type is Accepted, ResolvedRefs or InUse.
type Condition struct {
	True    bool
	Reason  lb.Reason
	Message string
}

// Status is what is to be told of one object.
type Status struct {
	Kind, Name string
	Generation int64 // that it is about
	// Accepted says whether the object is in force as written, ResolvedRefs whether all
	// that it refers to is there and fit, InUse whether anything makes use of it.
	Accepted, ResolvedRefs, InUse Condition
	// Keep says that the version as written is in force: it is the one to keep for the
	// time in which a later one is bad.
	Keep bool
	// What the version to keep refers to and may need later: the BFD profile of a peer,
	// and the communities of an advertisement as values.
	Profile     *lb.BFDProfile
	Communities []string
}

// Statuses returns what is to be told of each of objs, from which the configuration was
// made, sorted by kind and name.
func (u *Uses) Statuses(objs Objects) []Status {
	u.changed = false
	problems := map[object][]Problem{}
	for _, p := range u.cfg.Problems {
		o := object{p.Kind, p.Name}
		problems[o] = append(problems[o], p)
	}
	var out []Status
	add := func(kind string, m Meta, refers bool, used Condition) *Status {
		ps := problems[object{kind, m.Name}]
		out = append(out, Status{
			Kind: kind, Name: m.Name, Generation: m.Generation, InUse: used,
			Accepted: accepted(ps), ResolvedRefs: resolvedRefs(ps, refers),
			Keep: !slices.ContainsFunc(ps, wholly),
		})
		return &out[len(out)-1]
	}
	for i := range objs.BFDProfiles {
		add(KindBFDProfile, objs.BFDProfiles[i].Meta, false, u.profile(objs.BFDProfiles[i].Name))
	}
	for i := range objs.BGP {
		o := &objs.BGP[i]
		s := add(KindBGPAdvertisement, o.Meta, true, u.bgpAdv(o.Name))
		if adv := find(u.cfg.BGP, func(a *BGPAdv) bool { return a.Name == o.Name }); adv != nil && s.Keep {
			s.Communities = communityTexts(adv.Attrs)
		}
	}
	for i := range objs.Peers {
		o := &objs.Peers[i]
		s := add(KindBGPPeer, o.Meta, true, u.peer(o.Name))
		if peer := find(u.cfg.Peers, func(p *Peer) bool { return p.Name == o.Name }); peer != nil && s.Keep {
			s.Profile = peer.BFD
		}
	}
	users := u.aliasUsers(objs.BGP)
	for i := range objs.Communities {
		name := objs.Communities[i].Name
		add(KindCommunity, objs.Communities[i].Meta, false, usedBy(users[name], KindBGPAdvertisement, "no BGPAdvertisement uses an alias that it defines"))
	}
	for i := range objs.Pools {
		add(KindIPAddressPool, objs.Pools[i].Meta, false, u.pool(objs.Pools[i].Name))
	}
	for i := range objs.L2 {
		add(KindL2Advertisement, objs.L2[i].Meta, true, u.l2Adv(objs.L2[i].Name))
	}
	slices.SortFunc(out, func(a, b Status) int { return object{a.Kind, a.Name}.compare(object{b.Kind, b.Name}) })
	return out
}

type object struct{ kind, name string }

func (o object) compare(p object) int {
	return cmp.Or(strings.Compare(o.kind, p.kind), strings.Compare(o.name, p.name))
}

// communityTexts returns communities as an advertisement may name them.
func communityTexts(a lb.Attrs) []string {
	var out []string
	for _, c := range a.Communities {
		out = append(out, c.String())
	}
	for _, c := range a.LargeCommunities {
		out = append(out, c.String())
	}
	return out
}

func find[T any](list []*T, is func(*T) bool) *T {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return nil
}

// wholly reports whether a problem has the object as a whole set aside.
func wholly(p Problem) bool { return !p.InForce || p.LastGood }

// aboutRefs reports whether a problem is one of what the object refers to.
func aboutRefs(p Problem) bool {
	return p.Reason == lb.UnknownReference || p.Reason == lb.InvalidReference || p.Reason == lb.PasswordUnknown
}

// accepted is False if anything that is written has no effect, but for references that
// cannot be followed while the rest is in force.
func accepted(ps []Problem) Condition {
	refs := ""
	if slices.ContainsFunc(ps, aboutRefs) {
		refs = ", but for what ResolvedRefs tells"
	}
	all := slices.ContainsFunc(ps, wholly)
	return condition(slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return aboutRefs(p) && !all }), lb.Accepted, "in force as written"+refs)
}

func resolvedRefs(ps []Problem, refers bool) Condition { //nolint:revive // a fact
	well := "all that it refers to is there"
	if !refers {
		well = "it refers to no other object"
	}
	return condition(slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return !aboutRefs(p) }), lb.ResolvedRefs, well)
}

func condition(ps []Problem, well lb.Reason, message string) Condition {
	if len(ps) == 0 {
		return Condition{True: true, Reason: well, Message: message}
	}
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.text()
	}
	return Condition{Reason: ps[0].Reason, Message: strings.Join(lines, "\n")}
}

// mostNamed bounds how many objects a condition names.
const mostNamed = 20

// named lists objects of one kind.
func named(kind string, names []string) string {
	if len(names) > mostNamed {
		names = append(slices.Clone(names[:mostNamed]), "and more")
	}
	return kind + " " + strings.Join(names, ", ")
}

func notInUse(format string, args ...any) Condition {
	return Condition{Reason: lb.NotInUse, Message: fmt.Sprintf(format, args...)}
}

func usedBy(names []string, kind, otherwise string) Condition {
	if len(names) == 0 {
		return notInUse("%s", otherwise)
	}
	return Condition{True: true, Reason: lb.InUse, Message: "used by " + named(kind, names)}
}

// ProblemsOn returns those problems that concern a node with these labels: all but those
// of BGPPeers and BGPAdvertisements whose nodeSelectors choose other nodes, also in the
// version that is in force. objs is what the configuration was made from.
func (c *Config) ProblemsOn(objs Objects, labels map[string]string) []Problem {
	chosen := map[object]bool{}
	choose := func(kind, name string, nodes []lb.Selector) {
		chosen[object{kind, name}] = chosen[object{kind, name}] || lb.MatchesAny(nodes, labels)
	}
	for i := range objs.Peers {
		choose(KindBGPPeer, objs.Peers[i].Name, objs.Peers[i].NodeSelectors)
	}
	for i := range objs.BGP {
		choose(KindBGPAdvertisement, objs.BGP[i].Name, objs.BGP[i].NodeSelectors)
	}
	for _, p := range c.Peers {
		choose(KindBGPPeer, p.Name, p.NodeSelectors)
	}
	for _, a := range c.BGP {
		choose(KindBGPAdvertisement, a.Name, a.NodeSelectors)
	}
	return slices.DeleteFunc(slices.Clone(c.Problems), func(p Problem) bool {
		here, chooses := chosen[object{p.Kind, p.Name}]
		return chooses && !here && !strings.HasPrefix(p.Field, "spec.nodeSelectors")
	})
}
