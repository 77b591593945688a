package liveness

import (
	"net/netip"
	"time"

	"github.com/barelb/barelb/internal/core/links"
)

// Action is something that a Machine wants done, at once and in order.
type Action interface{ action() }

// Probe asks for one probe of a node.
type Probe struct {
	ID      uint64 // counts the probes of this Machine; for an echo request's identity
	Node    string
	Segment Segment
	Link    string     // own, on which to send
	Addr    netip.Addr // the node's own, within Segment
	MAC     links.MAC  // the node's, to send to
	Method  Method     // ARP, NS or ICMP
}

// ProbeGateway asks for one ARP request or Neighbor Solicitation to each gateway (at most
// two) that the node's routes name on the link; where there is none, nothing is to be done.
type ProbeGateway struct{ Link string }

// Send asks for a message to one speaker. It may be lost.
type Send struct {
	To      string
	Message Message
}

// Broadcast asks for a message to every other speaker, directly. It is repeated by the
// Machine a few times, so each may be lost.
type Broadcast struct{ Message Message }

// AskOwners asks to ask all speakers what they own. OwnersAnswered ends the wait for it.
type AskOwners struct{}

// Beacon asks for a frame on each link, to all, by which others hear that this speaker
// works (see SpeakerHeard): messages do not reach them.
type Beacon struct{}

// ReportKind says what a Report is about.
type ReportKind uint8

// The kinds of reports.
const (
	NodeDead    ReportKind = iota // Node was found dead on Segment, by us; After its last answer
	NodeTold                      // Node was told by By to be dead on Segment
	NodeAlive                     // Node lives again on Segment, as By found
	Refuted                       // we were said by By to be dead, and said no
	Rejected                      // we suspected Node, and By reaches it
	Down                          // Node's speaker is down
	Up                            // Node's speaker is up again; After is how long it was down
	GoneAway                      // Node's addresses are for others to own
	Cut                           // this node may be cut off, on Link
	Regained                      // this node is not cut off any more, on Link; After is for how long
	ProxiedNode                   // something else than Node answers for it on Segment
	Stalled                       // this process did not run for After
)

// String returns the kind's name.
func (k ReportKind) String() string {
	names := [...]string{
		"node dead", "node told dead", "node alive", "refuted", "rejected", "speaker down",
		"speaker up", "gone", "cut off", "regained", "proxied", "stalled",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Report is worth a line in the log and a metric.
type Report struct {
	Kind    ReportKind
	Node    string        // whom it is about; empty for Cut, Regained, Stalled
	Segment Segment       // zero where it is about a speaker or a link
	Link    string        // own; of Cut and Regained
	By      string        // who said so; this node's name if it did
	After   time.Duration // see the kinds
	Alone   bool          // of NodeDead: nobody else was there to agree
}

func (Probe) action()        {}
func (ProbeGateway) action() {}
func (Send) action()         {}
func (Broadcast) action()    {}
func (AskOwners) action()    {}
func (Beacon) action()       {}
func (Report) action()       {}
