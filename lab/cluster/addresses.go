package cluster

import (
	"fmt"
	"net/netip"
)

// The address plan. It is the same in every lab.
//
//nolint:gochecknoglobals // constants
var (
	LAN4 = netip.MustParsePrefix("192.168.1.0/24")
	LAN6 = netip.MustParsePrefix("fd00:1::/64")

	remote4 = netip.MustParsePrefix("10.99.0.0/24")
	remote6 = netip.MustParsePrefix("fd00:99::/64")
)

const (
	podCIDRs     = "10.244.0.0/16,fd00:10:244::/48"
	serviceCIDRs = "10.96.0.0/16,fd00:96::/112"
	apiService4  = "10.96.0.1"
	apiService6  = "fd00:96::1"
	apiPort      = 6443
)

// The last part of a host's address on the LAN, the same digits in IPv4 and IPv6.
const (
	routerHost  = 1
	controlHost = 10
	clientHost  = 50
	nodeHost    = 100 // node1 is 101
)

// The names of the boxes besides the nodes.
const (
	Lan     = "lan"
	Router1 = "router1"
	Control = "control"
	Client  = "client"
	Remote  = "remote"
)

// NodeName is the name of node i, counted from 1.
func NodeName(i int) string { return fmt.Sprintf("node%d", i) }

// NodeAddrs are the addresses of node i on the LAN.
func NodeAddrs(i int) (v4, v6 netip.Addr) { //nolint:nonamedreturns // tells the two apart
	return lanAddrs(nodeHost + i)
}

func lanAddrs(host int) (v4, v6 netip.Addr) { //nolint:nonamedreturns // tells the two apart
	return netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", host)), netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", host))
}

func remoteAddrs(host int) (v4, v6 netip.Addr) { //nolint:nonamedreturns // tells the two apart
	return netip.MustParseAddr(fmt.Sprintf("10.99.0.%d", host)), netip.MustParseAddr(fmt.Sprintf("fd00:99::%d", host))
}

// podPrefixes are the pod ranges of node i.
func podPrefixes(i int) (v4, v6 netip.Prefix) { //nolint:nonamedreturns // tells the two apart
	return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i))
}

// podAddrs are the addresses of pod number host on node i; number 1 is the node's own end.
func podAddrs(i, host int) (v4, v6 netip.Addr) { //nolint:nonamedreturns // tells the two apart
	return netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", i, host)), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%d", i, host))
}
