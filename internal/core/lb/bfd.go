package lb

import (
	"net/netip"
	"strings"
	"time"
)

// BFD is which BFD sessions one node shall have: the full desired state. A session
// that is not in it is taken down administratively and forgotten; one whose profile
// differs gets the new parameters and stays up.
type BFD map[BFDKey]BFDProfile

// BFDKey identifies a BFD session (RFC 5881 §3, RFC 5883 §3). It is a value that
// can be compared; reports name a session by the key that it was asked for with.
type BFDKey struct {
	Peer netip.Addr // the router; its zone, if it has one, must be Link or Link be ""
	// Source is the address that we send from, and that packets must arrive at; zero:
	// the kernel's choice, and any.
	Source   netip.Addr
	Link     string // interface to send on and to receive from; "": any
	VRF      string // device of the VRF; "": the main one
	MultiHop bool   // RFC 5883, on UDP port 4784, rather than RFC 5881 on 3784
}

// String returns the parts that are set, for logs.
func (k BFDKey) String() string {
	var b strings.Builder
	b.WriteString(k.Peer.String())
	if k.MultiHop {
		b.WriteString(" multihop")
	}
	for _, part := range []struct{ word, value string }{{" from ", zeroless(k.Source)}, {" on ", k.Link}, {" in ", k.VRF}} {
		if part.value != "" {
			b.WriteString(part.word)
			b.WriteString(part.value)
		}
	}
	return b.String()
}

func zeroless(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// BFDProfile is a validated BFDProfile: the parameters of a BFD session.
type BFDProfile struct {
	Name string // of the BFDProfile object
	// Transmit is how often we want to send control packets at most
	// (bfd.DesiredMinTxInterval), Receive how often we can receive them
	// (bfd.RequiredMinRxInterval): 10 ms to 60 s.
	Transmit, Receive time.Duration
	// Multiplier is how many of our packets the router may miss in a row before it
	// takes the session for down (bfd.DetectMult): 2 to 255.
	Multiplier uint8
	// Echo turns on the echo function (RFC 5881 §5), for sessions of one hop.
	// EchoInterval is how often we send and can return echo packets: 10 ms to 60 s.
	Echo         bool
	EchoInterval time.Duration
	Passive      bool // say nothing before the router does (RFC 5880 §6.1)
	// Strict keeps the BGP session that BFD watches over from being opened before BFD is up.
	// BFD itself has nothing to do with it.
	Strict bool
	// MinTTL is the least TTL that packets of a multihop session may arrive with: 1
	// to 254. Sessions of one hop demand 255 (RFC 5881 §5).
	MinTTL uint8
}

// BFDChange is a session that came up or went down.
type BFDChange struct {
	Key BFDKey
	Up  bool
	// Admin reports that it is down because one side was told so: the path may be well,
	// and who depends on it has no reason to act (RFC 5882).
	Admin bool
	// Diag says why it is down, in the words of RFC 5880 §4.1; "" if it is up.
	Diag string
}

// BFDKey returns the key of the BFD session that goes with the BGP session, and
// whether there shall be one. That of an unnumbered session lacks its Peer.
func (p Peer) BFDKey() (BFDKey, bool) {
	return BFDKey{
		Peer: p.Addr, Source: p.SourceAddr, Link: p.Interface, VRF: p.VRF, MultiHop: p.MultiHop || p.TTLSecurityHops > 1,
	}, p.BFD != nil
}

// BFD returns the BFD sessions that go with the BGP sessions. BGP sessions to one
// address share a BFD session; the profile of the first of them counts. Unnumbered
// sessions are left out.
func (b BGP) BFD() BFD {
	all := BFD{}
	for i := range b {
		key, ok := b[i].Peer.BFDKey()
		if _, taken := all[key]; ok && !taken && key.Peer.IsValid() {
			all[key] = *b[i].Peer.BFD
		}
	}
	return all
}
