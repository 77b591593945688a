// Package kubeproxy judges by the answers of a node's kube-proxy whether that keeps up
// the rules by which the node forwards what is sent to Services.
//
// An answer that is missed says little: the rules stay in the kernel while kube-proxy is
// restarted or upgraded, and only become stale. So it takes many of them, but few answers
// in which kube-proxy itself says that it does not get its rules written.
package kubeproxy

// Answer is what came of asking the health endpoint once.
type Answer uint8

// The answers.
const (
	Silence Answer = iota // nobody answers in time, or somebody else does
	Ill                   // kube-proxy answers that it is not well
	Well                  // it is
)

// How many answers of a kind, without Well in between, it takes.
const (
	mostIll    = 3
	mostSilent = 15
	leastWell  = 2 // in a row, to believe in it again
)

// State is what is known of the node's kube-proxy.
type State struct {
	// Watched is false while nothing is known of a kube-proxy that need not be there: then
	// nothing follows from its silence, and Healthy is true.
	Watched bool
	Healthy bool
	// Doubted is true one answer before Healthy becomes false, and as long: the other
	// nodes are to know before this one acts.
	Doubted bool
}

// Judge makes a State of answers. The zero Judge watches kube-proxy from the first sign of
// it on.
type Judge struct {
	// Required has kube-proxy be watched from the start, and not be healthy before it says
	// so: a node that boots has no rules yet.
	Required bool

	seen               bool // an answer of kube-proxy
	down               bool
	ill, silent, wells int
	told               bool // any answer
}

// Take takes in the next answer and returns what follows from it.
func (j *Judge) Take(a Answer) State {
	first := !j.told
	j.told = true
	switch a {
	case Well:
		j.seen = true
		j.ill, j.silent = 0, 0
		j.wells++
		if j.wells >= leastWell || first {
			j.down = false
		}
	case Ill:
		j.seen = true
		j.wells = 0
		j.ill++
	case Silence:
		j.wells = 0
		j.silent++
	}
	if !j.seen && !j.Required {
		j.silent = 0
		return State{Healthy: true}
	}
	if j.ill >= mostIll || j.silent >= mostSilent || first && j.Required && a != Well {
		j.down = true
	}
	return State{
		Watched: true, Healthy: !j.down,
		Doubted: j.down || j.ill == mostIll-1 || j.silent == mostSilent-1,
	}
}
