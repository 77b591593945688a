package liveness

// ProbeState is what this node knows of another one, or of its place on one link, by its own probes.
type ProbeState uint8

// The states of what is probed.
const (
	Answering ProbeState = iota
	Suspected            // it missed as many probes as prove something; others are being asked
	Dead                 // it is dead, as was agreed
	Proxied              // something else answers for it, so that answers prove nothing
)

// String returns the name of s in metrics.
func (s ProbeState) String() string {
	return [...]string{"answers", "suspect", "dead", "proxied"}[s]
}

// Observed is one attachment of another node that this one probes by itself.
type Observed struct {
	Node, Link string // Link is this node's
	State      ProbeState
	Loss       float64 // of probes and answers, as estimated of late: 0 to 1
}

// Observed returns what this node probes because it is one of its observers: a few nodes on
// each link, however many there are. It leaves out what is probed for others for a moment.
func (m *Machine) Observed() []Observed {
	var out []Observed
	for _, p := range m.paths {
		if !p.watched {
			continue
		}
		o := Observed{Node: p.att.node.name, Link: p.link.name, Loss: p.history.loss()}
		switch {
		case p.att.dead():
			o.State = Dead
		case p.proxied:
			o.State = Proxied
		case p.suspicion != nil:
			o.State = Suspected
		}
		out = append(out, o)
	}
	return out
}
