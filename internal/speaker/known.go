package speaker

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/liveness"
)

// Known returns what this speaker goes by when it plans, beside objects. It fails if ctx
// ends before the first plan.
func (s *Speaker) Known(ctx context.Context) (*explain.Known, error) {
	k := &explain.Known{Node: s.Options.Node}
	if !s.ask(ctx, func() {
		k.View, k.Claims = s.view, make(map[netip.Addr][]liveness.Claimant, len(s.claims)+len(s.claimed))
		maps.Copy(k.Claims, s.claims)
		for addr, term := range s.claimed {
			k.Claims[addr] = append(slices.Clone(k.Claims[addr]), liveness.Claimant{Node: s.Options.Node, Term: term})
		}
	}) {
		return nil, errors.New("the speaker has no plan yet")
	}
	return k, nil
}
