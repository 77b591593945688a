package explain

import (
	"slices"
)

// Drain says what taking all addresses away from a node does.
type Drain struct {
	Node string `json:"node"`
	// Carries are the Services that its speaker says it announces, or that it would by
	// the configuration where nobody says.
	Carries []string `json:"carries"`
	Moves   []Move   `json:"moves"`
	// Stops are those Services that no other node may announce.
	Stops []string `json:"stops,omitempty"`
}

// Drain says what draining a node does.
func (w *World) Drain(node string) (*Drain, error) {
	after, err := Without(w.c, []string{node})
	if err != nil {
		return nil, err
	}
	// The node lives: its endpoints stay, and it alone stops announcing.
	after.Services = w.c.Services
	cmp := Compare(w.c, after)
	d := &Drain{Node: node, Carries: []string{}, Moves: cmp.Moves}
	for _, m := range cmp.Moves {
		if m.Effect == Stops {
			d.Stops = append(d.Stops, m.Service)
		}
	}
	for _, r := range slices.Concat(w.c.L2, w.c.BGP) {
		if r.Node == node {
			d.Carries = append(d.Carries, r.Service.String())
		}
	}
	if w.c.Flags.NoStatus || w.c.gap(FromL2Status) != nil || w.c.gap(FromBGPStatus) != nil {
		for _, m := range cmp.Moves {
			d.Carries = append(d.Carries, m.Service)
		}
	}
	slices.Sort(d.Carries)
	d.Carries = slices.Compact(d.Carries)
	return d, nil
}
