package bgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	defaultHoldTime    = 90 * time.Second // RFC 4271 §10
	maxHoldTime        = math.MaxUint16 * time.Second
	defaultLocalPref   = 100
	defaultRestartTime = 120 * time.Second
	maxPassword        = 80 // TCP_MD5SIG_MAXKEYLEN
	maxTTL             = 255
	maxDevice          = 15 // IFNAMSIZ, without the NUL
)

// validate reports whether a session with p can be.
func validate(p lb.Peer) error {
	var errs []error
	refuse := func(condition bool, format string, args ...any) {
		if condition {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(p.Name == "", "name: missing")
	refuse(p.LocalASN == 0, "myASN: missing")
	refuse(!p.Addr.IsValid() && p.Interface == "", "peerAddress: missing")
	refuse(p.Addr.IsValid() && p.Interface != "", "interface: excludes peerAddress")
	refuse(p.Addr.IsValid() && (p.Addr.IsUnspecified() || p.Addr.IsMulticast()), "peerAddress: %s is not a router's address", p.Addr)
	refuse(p.Addr.IsLinkLocalUnicast() && p.Addr.Is6(), "peerAddress: %s is link-local: give interface in its place", p.Addr)
	refuse(len(p.Interface) > maxDevice, "interface: longer than %d bytes", maxDevice)
	refuse(len(p.VRF) > maxDevice, "vrf: longer than %d bytes", maxDevice)
	refuse(p.TTLSecurityHops == maxTTL, "ttlSecurityHops: more than %d", maxTTL-1)
	refuse(p.TTLSecurityHops > 0 && p.MultiHop, "ttlSecurityHops: excludes ebgpMultiHop")
	refuse(p.Port == 0, "peerPort: missing")
	refuse(len(p.Families) == 0, "families: none to carry")
	refuse(p.SourceAddr.IsValid() && p.Interface != "", "sourceAddress: cannot be chosen together with interface")
	refuse(p.SourceAddr.IsValid() && p.Addr.IsValid() && lb.FamilyOf(p.SourceAddr) != lb.FamilyOf(p.Addr),
		"sourceAddress: %s is of another family than peerAddress %s", p.SourceAddr, p.Addr)
	refuse(p.RouterID.IsValid() && (!p.RouterID.Unmap().Is4() || p.RouterID.IsUnspecified()),
		"routerID: %s is not an IPv4 address", p.RouterID)
	refuse(len(p.Password) > maxPassword, "password: longer than %d bytes", maxPassword)
	hold := holdTime(p)
	refuse(p.TimersSet && (p.HoldTime < 0 || p.HoldTime > maxHoldTime || hold == time.Second || hold == 2*time.Second),
		"holdTime: %s is neither 0 nor from 3s to %s", p.HoldTime, maxHoldTime) // RFC 4271 §4.2
	refuse(p.TimersSet && p.Keepalive > p.HoldTime, "keepaliveTime: %s is more than holdTime %s", p.Keepalive, p.HoldTime)
	switch p.Dynamic {
	case lb.StaticASN:
		refuse(p.PeerASN == 0, "peerASN: missing")
	case lb.InternalASN, lb.ExternalASN:
		refuse(p.PeerASN != 0, "dynamicASN: excludes peerASN")
	default:
		refuse(true, "dynamicASN: %q is neither internal nor external", string(p.Dynamic))
	}
	return errors.Join(errs...)
}

// internal reports whether p is of our own AS (iBGP).
func internal(p lb.Peer) bool {
	return p.Dynamic == lb.InternalASN || p.Dynamic == lb.StaticASN && p.PeerASN == p.LocalASN
}

// holdTime is p's hold time, in whole seconds as the OPEN message carries it.
func holdTime(p lb.Peer) time.Duration {
	if !p.TimersSet {
		return defaultHoldTime
	}
	return p.HoldTime.Round(time.Second)
}

// carries reports whether p shall carry routes of a family.
func carries(p lb.Peer, f lb.Family) bool { return slices.Contains(p.Families, f) }

// onlyLive reports whether two versions of a peer differ at most in what needs no
// other connection. What was asked for graceful restart is told when the session is
// next established.
func onlyLive(a, b lb.Peer) bool {
	for _, p := range []*lb.Peer{&a, &b} {
		p.GracefulRestart, p.ConnectRetry, p.BFD = false, 0, nil
	}
	return reflect.DeepEqual(a, b)
}

// routerID is the BGP Identifier (RFC 6286 §2.1) that p shall see: its own
// setting, else the node's first IPv4 address, else a number made of the node's
// name. The last is kept out of 0/8 and 224/3, which some routers refuse.
func routerID(p lb.Peer, nodeName string, nodeAddrs []netip.Addr) netip.Addr {
	if p.RouterID.IsValid() {
		return p.RouterID.Unmap()
	}
	for _, addr := range nodeAddrs {
		if addr = addr.Unmap(); addr.Is4() && !addr.IsUnspecified() && !addr.IsLoopback() {
			return addr
		}
	}
	h := fnv.New32a()
	h.Write([]byte(nodeName))
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], h.Sum32())
	id[0] = 1 + id[0]%223
	return netip.AddrFrom4(id)
}
