package liveness

import (
	"time"

	"github.com/barelb/barelb/internal/core/links"
)

// Event is something that a Machine is told. Times are those at which the kernel
// received what is told of, on the clock of Step's now.
type Event interface{ event() }

// World is all that memberlist and the speakers tell, in full. A node that is in neither
// map is forgotten. The Machine keeps neither map, but does keep the Facts.
type World struct {
	// Members are the nodes that memberlist knows, by name: true for those that it counts
	// among the living, false for those that left or failed.
	Members map[string]bool
	// Facts are what the speakers told last, this node's own included, by name.
	Facts map[string]*Facts
}

// Answer is an answer to a Probe.
type Answer struct {
	Node    string
	Segment Segment
	// MAC is who answered: the Ethernet source of an echo reply, the sender hardware
	// address of ARP or the target link-layer address of NDP. Zero if unknown.
	MAC    links.MAC
	Method Method    // of the probe that is answered
	At     time.Time // when the kernel received it
}

// GatewayAnswer is an answer of a gateway to a ProbeGateway.
type GatewayAnswer struct {
	Link string // own, by name
	At   time.Time
}

// Heard is a frame (of ARP or NDP) on a link of this node, that this node did not send.
// One for each Interval, link and MAC is enough.
type Heard struct {
	Link string    // own, by name
	MAC  links.MAC // Ethernet source
	At   time.Time
}

// SpeakerHeard is a frame on a link that the speaker of a node has sent: a probe, or an
// answer or announcement of an address of a Service. One for each Interval and node is enough.
type SpeakerHeard struct {
	Node string
	At   time.Time
}

// ProbesSeen is what the observed speaker says, over its connection, of the probes that
// this node sent it: how many it saw on the segment since it said so last. It shall be
// given about once a second, and not for the first time that covers less than that.
type ProbesSeen struct {
	Node    string
	Segment Segment
	Seen    uint32
}

// ConnState is what became of a connection to a speaker.
type ConnState uint8

// The states of a connection.
const (
	ConnUp     ConnState = iota // it is established and authenticated
	ConnBeat                    // a beat came
	ConnEnded                   // it was up, and ended or was reset
	ConnFailed                  // it could not be established, which says nothing
)

// Connection is news of the connection to the speaker of a node in Watched.
type Connection struct {
	Node        string
	State       ConnState
	Incarnation uint64 // of the speaker, as it said when the connection was made; 0 if unknown
	At          time.Time
}

// Received is a message of another speaker, authenticated.
type Received struct {
	From    string
	Message Message
}

// Stall says that this process did not run for a while, or late. What the sockets hold
// from that time comes after it, and before the next Tick.
type Stall struct{ From, To time.Time }

// OwnersAnswered says that all speakers that AskOwners reached have answered.
type OwnersAnswered struct{}

// Tick says that the time of Next has come. The sockets shall have been drained before.
type Tick struct{}

func (World) event()          {}
func (Answer) event()         {}
func (GatewayAnswer) event()  {}
func (Heard) event()          {}
func (SpeakerHeard) event()   {}
func (ProbesSeen) event()     {}
func (Connection) event()     {}
func (Received) event()       {}
func (Stall) event()          {}
func (OwnersAnswered) event() {}
func (Tick) event()           {}
