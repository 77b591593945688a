// Package config turns what users wrote into what is in force.
//
// Parse takes all configuration objects at once, as plain values, and returns a
// Config: every object that makes sense, and a Problem for everything that does
// not. A bad object is set aside alone. If an earlier version of it was good,
// that version stays in force, so that a typing error withdraws nothing.
//
// The result is deterministic: it depends on the objects and on the previous
// Config alone, never on their order.
package config

import (
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// Kinds of configuration objects, as in the API.
const (
	KindIPAddressPool    = "IPAddressPool"
	KindL2Advertisement  = "L2Advertisement"
	KindBGPAdvertisement = "BGPAdvertisement"
	KindBGPPeer          = "BGPPeer"
	KindBFDProfile       = "BFDProfile"
	KindCommunity        = "Community"
)

// Objects are all configuration objects of the cluster as the user wrote them.
type Objects struct {
	Namespace   string // that they are in
	Pools       []IPAddressPool
	L2          []L2Advertisement
	BGP         []BGPAdvertisement
	Peers       []BGPPeer
	BFDProfiles []BFDProfile
	Communities []CommunityList
	// Secrets are the Secrets that peers refer to, by name; one that does not
	// exist is absent.
	Secrets map[string]Secret
}

// Meta is what every object has.
type Meta struct {
	Name       string
	Labels     map[string]string
	Created    time.Time
	Generation int64 // of the spec
}

// IPAddressPool is the spec of an IPAddressPool.
type IPAddressPool struct {
	Meta
	Addresses     []string
	AutoAssign    bool
	AvoidBuggyIPs bool
	Allocation    *ServiceAllocation
	Terminating   bool // it has a deletion timestamp
	Guarded       bool // it has our finalizer: what Services hold from it stays theirs
	// IgnoreOnWire is the annotation of that name: addresses separated by commas, or
	// "all".
	IgnoreOnWire string
}

// ServiceAllocation says which Services a pool is for.
type ServiceAllocation struct {
	Priority           int // lower is tried earlier; 0 is last
	Namespaces         []string
	NamespaceSelectors []lb.Selector
	ServiceSelectors   []lb.Selector
}

// L2Advertisement is the spec of an L2Advertisement.
type L2Advertisement struct {
	Meta
	Pools            []string
	PoolSelectors    []lb.Selector
	NodeSelectors    []lb.Selector
	ServiceSelectors []lb.Selector
	Interfaces       []string
	Preferred        []Preference
	Failback         string // "Immediate", "Never" or "", which is the first
	// Last is the last good version of the spec as the controller has kept it, or nil.
	// So it is in the other kinds. Of its Meta nothing matters.
	Last *L2Advertisement
}

// Preference adds Weight to the score of the nodes that Selector matches.
type Preference struct {
	Weight   int
	Selector lb.Selector
}

// BGPAdvertisement is the spec of a BGPAdvertisement.
type BGPAdvertisement struct {
	Meta
	AggregationLength   int // 32 if unset
	AggregationLengthV6 int // 128 if unset
	LocalPref           uint32
	MED                 *uint32
	Prepend             uint8 // asPathPrepend
	WeightByEndpoints   bool
	Communities         []string
	Pools               []string
	PoolSelectors       []lb.Selector
	NodeSelectors       []lb.Selector
	ServiceSelectors    []lb.Selector
	Peers               []string
	Last                *BGPAdvertisement // with values in place of aliases
}

// BGPPeer is the spec of a BGPPeer (v1beta2).
type BGPPeer struct {
	Meta
	MyASN, PeerASN, LocalASN             uint32
	DynamicASN                           string
	PeerAddress, SourceAddress           string
	Interface, VRF                       string
	PeerPort                             uint16
	HoldTime, KeepaliveTime              *time.Duration
	ConnectTime                          *time.Duration
	RouterID                             string
	NodeSelectors                        []lb.Selector
	Password                             string
	PasswordSecret                       string // name; looked up in our own namespace
	BFDProfile                           string
	TTLSecurityHops                      uint8
	MultiHop, GracefulRestart, DualStack bool
	// Withheld says that the peer has a password that this copy of it leaves out:
	// it comes from another speaker, while the API server cannot be reached.
	Withheld bool
	Last     *LastPeer
}

// LastPeer is the last good version of a BGPPeer. It has no password: where it needs
// one that was written in the object (Inline), that is the one that is written there now.
type LastPeer struct {
	BGPPeer
	Inline  bool
	Profile *BFDProfile // that it referred to; it may be gone
}

// BFDProfile is the spec of a BFDProfile; intervals are in milliseconds, nil is unset.
type BFDProfile struct {
	Meta
	ReceiveInterval, TransmitInterval, EchoInterval *uint32
	DetectMultiplier, MinimumTTL                    *uint32
	EchoMode, PassiveMode, StrictMode               bool
	Last                                            *BFDProfile
}

// CommunityList is the spec of a Community object: aliases and their values.
type CommunityList struct {
	Meta
	Aliases []CommunityAlias
}

// CommunityAlias names a community.
type CommunityAlias struct{ Name, Value string }

// Secret is what peers need of a Secret.
type Secret struct {
	Type     string
	Password string
	HasKey   bool // key "password" is there
}
