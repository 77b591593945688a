package liveness

import "time"

// Machine decides for one node who is alive. It belongs to one goroutine; the Views that
// it returns may be handed on.
type Machine struct {
	opts Options
	view *View
}

// New returns a Machine that knows nobody yet.
func New(o Options) *Machine {
	return &Machine{opts: o.withDefaults(), view: &View{}}
}

// Step tells the Machine what happened, and returns what is to be done now. now never goes
// back. The cost does not depend on the number of nodes, except for a World.
func (m *Machine) Step(_ time.Time, _ Event) []Action { return nil }

// Next returns when to give the next Tick, if ever. It may change with every Step.
func (m *Machine) Next() (time.Time, bool) { return time.Time{}, false }

// View returns what is known now: the same pointer while nothing changed.
func (m *Machine) View() *View { return m.view }

// Watched returns the names of the nodes to whose speakers a connection shall be held,
// sorted. The slice is not changed later, and is the same while nothing changed.
func (m *Machine) Watched() []string { return nil }

// Settled reports whether this node may answer for what it owns: it is false for a short
// while after a stall, until the present owners are known.
func (m *Machine) Settled() bool { return true }
