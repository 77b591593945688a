// Package lb is the vocabulary of BareLB: Services, Endpoints, Nodes, Pools and
// what is said of them, as plain values. Nothing here reads a clock, a socket or
// Kubernetes; every other core package is written in these words.
//
// All values are treated as immutable once they are handed on: a producer makes
// new slices and maps instead of changing those that others may read.
package lb

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Family is an IP address family.
type Family uint8

// The two families. The zero value is no family.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "no family"
}

// Bits returns the length of an address of the family: 32 or 128.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}

// FamilyOf returns the family of addr. An IPv4-mapped IPv6 address is IPv4, as
// Kubernetes reads it. The zero Addr has no family.
func FamilyOf(addr netip.Addr) Family {
	switch {
	case !addr.IsValid():
		return 0
	case addr.Is4() || addr.Is4In6():
		return IPv4
	}
	return IPv6
}

// Key names a namespaced object.
type Key struct{ Namespace, Name string }

// String returns namespace/name.
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Compare orders keys by namespace, then name.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(k.Namespace, o.Namespace), strings.Compare(k.Name, o.Name))
}

// Port is one port that a Service listens on at its external address.
type Port struct {
	Protocol string // "TCP", "UDP" or "SCTP"
	Number   uint16
}

// Compare orders ports by protocol, then number.
func (p Port) Compare(o Port) int {
	return cmp.Or(strings.Compare(p.Protocol, o.Protocol), cmp.Compare(p.Number, o.Number))
}

// FamilyPolicy is a Service's ipFamilyPolicy.
type FamilyPolicy string

// The values of FamilyPolicy, spelled as in Kubernetes.
const (
	SingleStack      FamilyPolicy = "SingleStack"
	PreferDualStack  FamilyPolicy = "PreferDualStack"
	RequireDualStack FamilyPolicy = "RequireDualStack"
)

// Service is what BareLB knows of one Service of type LoadBalancer that is its
// own to serve (its class is ours).
type Service struct {
	Key    Key
	UID    string
	Labels map[string]string
	// Version is the resourceVersion that this was read at; it only grows.
	Version uint64

	ClusterIPs   []netip.Addr
	FamilyPolicy FamilyPolicy
	Ports        []Port // sorted
	TrafficLocal bool   // externalTrafficPolicy: Local

	// Backend tells apart the endpoint sets of Services with
	// externalTrafficPolicy Local; it is empty for Cluster.
	Backend string
	// SharingKey is the value of the allow-shared-ip annotation; "" shares with
	// nobody. HasSharing reports whether the annotation is there at all.
	SharingKey string
	HasSharing bool

	// RequestedPool is the address-pool annotation. Requested is what the
	// loadBalancerIPs annotation or spec.loadBalancerIP asks for, in the user's
	// order, and RequestField which of them; RequestErr says what is wrong with it,
	// if anything.
	RequestedPool string
	Requested     []netip.Addr
	RequestField  string // where they are asked for, such as "spec.loadBalancerIP"
	RequestErr    string

	// Addrs are the addresses in the Service's status, in its order; Pool is the
	// ip-allocated-from-pool annotation.
	Addrs []netip.Addr
	Pool  string

	// Told is what the condition AddressAllocated in its status says, with the reason
	// before the message; ToldNo reports whether it says that there is no address.
	// ToldAnnounced is the same for the condition Announced, with "true" or "false"
	// before it.
	Told          string
	ToldNo        bool
	ToldAnnounced string

	// NamespaceLabels are the labels of the Service's namespace.
	NamespaceLabels map[string]string

	// LegacyAnnotations reports whether it carries annotations under the old
	// prefix, metallb.universe.tf.
	LegacyAnnotations bool
}

// Families returns the families of the Service's cluster IPs, the primary one first.
func (s *Service) Families() []Family {
	var fams []Family
	for _, a := range s.ClusterIPs {
		if f := FamilyOf(a); f != 0 && (len(fams) == 0 || fams[0] != f) {
			fams = append(fams, f)
		}
	}
	return fams
}

// Endpoint is one backend of a Service, reduced to what announcing needs.
type Endpoint struct {
	Node   string // name of the node it runs on; "" if unknown
	Family Family // of its address; the zero value if unknown
	// Serving reports whether it can take traffic: ready, or else serving while
	// it terminates.
	Serving bool
}

// Compare orders endpoints by node, family, and then those that do not serve first.
func (e Endpoint) Compare(o Endpoint) int {
	if c := cmp.Or(strings.Compare(e.Node, o.Node), cmp.Compare(e.Family, o.Family)); c != 0 || e.Serving == o.Serving {
		return c
	}
	if o.Serving {
		return -1
	}
	return 1
}

// Node is what BareLB knows of one node.
type Node struct {
	Name               string
	Labels             map[string]string
	Addrs              []netip.Addr // internal and external ones, sorted
	NetworkUnavailable bool         // condition NetworkUnavailable is True
	Excluded           bool         // carries node.kubernetes.io/exclude-from-external-load-balancers

	// NotReadySince is when the node's condition Ready ceased to be True; zero while it is
	// True, and if there is none.
	NotReadySince time.Time
	// Unschedulable reports whether the node is cordoned. That alone changes nothing.
	Unschedulable bool
	// Leaving is why the node shall carry no traffic any more, in words for users, such as
	// "annotation barelb.io/drain"; "" if it may. Excluded is not repeated in it.
	Leaving string
}

// NodeWith returns the name of the node that has addr itself, or "".
func NodeWith(addr netip.Addr, nodes []Node) string {
	for i := range nodes {
		if slices.Contains(nodes[i].Addrs, addr) {
			return nodes[i].Name
		}
	}
	return ""
}
