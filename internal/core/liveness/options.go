package liveness

import "time"

// Method is how a node is probed.
type Method uint8

// The methods of probing.
const (
	ARP  Method = iota // an ARP request (RFC 826) to the node's MAC, for its own address
	NS                 // a Neighbor Solicitation (RFC 4861 section 4.3), likewise
	ICMP               // an ICMP or ICMPv6 echo request to the node's own address
	Off                // no probes: nodes are judged by memberlist alone
)

// String returns the method's name.
func (m Method) String() string {
	switch m {
	case ARP:
		return "arp"
	case NS:
		return "ns"
	case ICMP:
		return "icmp"
	case Off:
		return "off"
	}
	return "unknown"
}

// Options are what a Machine is made of. Zero values mean the defaults.
type Options struct {
	// Self is the name of this node.
	Self string
	// Interval is the time between two probes of one node; 100 ms.
	Interval time.Duration
	// Multiplier is how many probes in a row have to stay unanswered, where none are
	// lost otherwise, before a node is suspected; 3.
	Multiplier int
	// Observers is how many nodes probe each node, on each link; 3.
	Observers int
	// SpeakerTimeout is how long a speaker may miss its beats; 600 ms.
	SpeakerTimeout time.Duration
	// CaretakerTimeout is how long a speaker may be down before its addresses are for
	// others to own; 60 s.
	CaretakerTimeout time.Duration
	// SettleTimeout is how long the owners are waited for, after they were asked; 200 ms.
	SettleTimeout time.Duration
	// Method is ARP (which for IPv6 means NS), ICMP or Off.
	Method Method
	// Seed spreads the moments of the probes of different nodes; any value.
	Seed uint64
}

// withDefaults returns o with the defaults in place of zeros.
func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Interval, 100*time.Millisecond)
	def(&o.SpeakerTimeout, 600*time.Millisecond)
	def(&o.CaretakerTimeout, time.Minute)
	def(&o.SettleTimeout, 200*time.Millisecond)
	if o.Multiplier <= 0 {
		o.Multiplier = 3
	}
	if o.Observers <= 0 {
		o.Observers = 3
	}
	if o.Method == NS {
		o.Method = ARP
	}
	return o
}
