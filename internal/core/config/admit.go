package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// Change is one write of a configuration object that has not taken place yet.
type Change struct {
	Kind, Name    string  // of the object
	Deletes       bool    // it is a deletion
	Before, After Objects // all objects, as they are and as they would be; Secrets do not matter
	// Nodes are those of the cluster, by name and labels. If there is none, any two node
	// selectors are taken to match a common one.
	Nodes []lb.Node
}

// Verdict says what a Change would make worse.
type Verdict struct {
	// Refused is not empty if the change must not take place: an object of its kind would
	// be set aside, in whole or in part, that is not now, because of what is in objects of
	// that kind or in the pools that they name.
	Refused []Problem
	// Warnings are new problems of other kinds of objects, and references to what is not
	// there. An object that is written later may put them right.
	Warnings []Problem
}

// Admit judges a change before it takes place. What is wrong already, and does not become
// worse, stands in the way of nothing. Beside what Parse finds, it refuses what MetalLB's
// webhooks refuse, and what only those who know the nodes see: two BGPPeers that are one on
// some node, two BGPAdvertisements that give one prefix two local preferences, and the
// deletion of a BFDProfile that a BGPPeer names.
func Admit(c Change) Verdict {
	var v Verdict
	if c.Deletes && c.Kind == KindBFDProfile {
		v.Refused = usersOfProfile(c.Name, c.Before.Peers)
		return v
	}
	for _, p := range NewProblems(problemsOf(c.After, c.Nodes), problemsOf(c.Before, c.Nodes)) {
		if p.Kind == c.Kind && slices.Contains([]lb.Reason{lb.InvalidField, lb.Overlap, lb.Conflict, lb.ConflictingAdvertisements}, p.Reason) {
			v.Refused = append(v.Refused, p)
		} else {
			v.Warnings = append(v.Warnings, p)
		}
	}
	return v
}

func usersOfProfile(name string, peers []BGPPeer) []Problem {
	var ps []Problem
	for i := range peers {
		if peers[i].BFDProfile == name {
			ps = append(ps, Problem{
				Kind: KindBFDProfile, Name: name, Field: "metadata.name", Reason: lb.Conflict,
				Message: fmt.Sprintf("failed to delete BFDProfile %s, used by BGPPeer %s", name, peers[i].Name),
			})
		}
	}
	return ps
}

// problemsOf returns all that is wrong with objs.
func problemsOf(objs Objects, nodes []lb.Node) []Problem {
	objs.Peers = slices.Clone(objs.Peers)
	for i := range objs.Peers {
		if p := &objs.Peers[i]; p.Password == "" {
			p.PasswordSecret = "" // whether the Secret is there is not for us to say
		}
	}
	cfg := Parse(objs, nil)
	return slices.Concat(cfg.Problems, samePeers(objs.Peers, nodes), twoPreferences(objs, cfg.Pools, nodes))
}

// samePeers finds pairs of BGPPeers that are one session on a node.
func samePeers(peers []BGPPeer, nodes []lb.Node) []Problem {
	var out []Problem
	var older []*Peer
	for _, o := range slices.SortedFunc(slices.Values(peers), func(a, b BGPPeer) int { return byAge(a.Meta, b.Meta) }) {
		peer, ps := parsePeer(&o, Objects{})
		if len(ps) > 0 {
			continue
		}
		for _, q := range older {
			if q.Endpoint() != peer.Endpoint() {
				continue
			}
			if where, ok := meet(q.NodeSelectors, peer.NodeSelectors, nodes); ok {
				out = append(out, Problem{
					Kind: KindBGPPeer, Name: peer.Name, Field: "spec.peerAddress", Reason: lb.Conflict,
					Message: fmt.Sprintf("peer %s already exists%s as BGPPeer %q, which is older: of duplicate BGPPeers one has a session", peer.Endpoint(), where, q.Name),
				})
			}
		}
		older = append(older, peer)
	}
	return out
}

// twoPreferences finds pairs of BGPAdvertisements that give some of the same routes two
// local preferences, by MetalLB's rule: none is one too, and those for chosen Services
// do not count.
func twoPreferences(objs Objects, pools []*Pool, nodes []lb.Node) []Problem {
	var out []Problem
	var older []*BGPAdv
	for _, o := range slices.SortedFunc(slices.Values(objs.BGP), func(a, b BGPAdvertisement) int { return byAge(a.Meta, b.Meta) }) {
		// An alias that is not defined yet is no reason not to look.
		o.Communities = slices.DeleteFunc(slices.Clone(o.Communities), func(s string) bool { return !strings.Contains(s, ":") })
		adv, ps := parseBGPAdv(&o, nil)
		if len(ps) > 0 || len(adv.ServiceSelectors) > 0 {
			continue
		}
		adv.Pools, _ = selectPools(o.Pools, o.PoolSelectors, objs.Pools)
		for _, q := range older {
			pool := sharedRoutes(q, adv, pools)
			if q.Attrs.LocalPref == adv.Attrs.LocalPref || pool == "" || disjoint(q.Peers, adv.Peers) {
				continue
			}
			if where, ok := meet(q.NodeSelectors, adv.NodeSelectors, nodes); ok {
				out = append(out, Problem{
					Kind: KindBGPAdvertisement, Name: adv.Name, Field: "spec.localPref", Reason: lb.ConflictingAdvertisements, InForce: true,
					Message: fmt.Sprintf("invalid local preference %d: local preference %d was already set for the same type of BGP update of IPAddressPool %q%s by BGPAdvertisement %q, which is older",
						adv.Attrs.LocalPref, q.Attrs.LocalPref, pool, where, q.Name),
				})
			}
		}
		older = append(older, adv)
	}
	return out
}

// sharedRoutes returns a pool of which a and b advertise the same prefixes, or "".
func sharedRoutes(a, b *BGPAdv, pools []*Pool) string {
	for _, pool := range pools {
		if !a.Pools[pool.Name] || !b.Pools[pool.Name] {
			continue
		}
		for _, r := range pool.Ranges {
			if f := lb.FamilyOf(r.First); a.Length(f) == b.Length(f) {
				return pool.Name
			}
		}
	}
	return ""
}

// disjoint reports whether two lists of peers name none in common; an empty one names all.
func disjoint(a, b []string) bool {
	return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// meet reports whether two lists of node selectors match a common node, and says which.
func meet(a, b []lb.Selector, nodes []lb.Node) (where string, ok bool) {
	if len(nodes) == 0 {
		return "", true
	}
	for i := range nodes {
		if lb.MatchesAny(a, nodes[i].Labels) && lb.MatchesAny(b, nodes[i].Labels) {
			return fmt.Sprintf(" on node %q", nodes[i].Name), true
		}
	}
	return "", false
}
