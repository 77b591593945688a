package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// Defaults of a session, as MetalLB's native mode has them.
const (
	DefaultPeerPort = 179
	basicAuth       = "kubernetes.io/basic-auth" // type of the Secrets that peers refer to
	maxDeviceName   = 15                         // IFNAMSIZ, without the NUL
	maxSecurityHops = 254
)

func (p *parser) peers(objs Objects) {
	sorted := slices.SortedFunc(slices.Values(objs.Peers), func(a, b BGPPeer) int { return byAge(a.Meta, b.Meta) })
	for i := range sorted {
		o := &sorted[i]
		peer, ps := parsePeer(o, objs)
		peer.BFD = p.peerProfile(o, &ps)
		peer = settle(p, object{KindBGPPeer, o.Name}, peer, ps, p.prev.Peers, func(q *Peer) string { return q.Name },
			func() *Peer { return p.keptPeer(o, objs) })
		if peer == nil {
			continue
		}
		p.cfg.Peers = append(p.cfg.Peers, peer)
	}
}

// keptPeer returns what the version of a peer that was kept says, or nil if that makes
// no sense, or if there is no password for it. A BFD profile that is gone is as it was.
func (p *parser) keptPeer(o *BGPPeer, objs Objects) *Peer {
	if o.Last == nil || o.Withheld {
		return nil
	}
	last := o.Last.BGPPeer
	last.Meta, last.Password = o.Meta, ""
	if o.Last.Inline {
		if last.Password = o.Password; last.Password == "" {
			return nil
		}
	}
	peer, ps := parsePeer(&last, objs)
	if len(ps) > 0 {
		return nil
	}
	var missing problems
	peer.BFD = p.peerProfile(&last, &missing)
	if len(missing) > 0 {
		if peer.BFD = keptProfile(o.Last.Profile, last.BFDProfile); peer.BFD == nil {
			return nil
		}
	}
	return peer
}

func parsePeer(o *BGPPeer, objs Objects) (*Peer, problems) {
	var ps problems
	peer := &Peer{NodeSelectors: o.NodeSelectors, Peer: lb.Peer{
		Name: o.Name, LocalASN: o.MyASN, PeerASN: o.PeerASN, Dynamic: lb.DynamicASN(o.DynamicASN),
		Port: o.PeerPort, MultiHop: o.MultiHop, GracefulRestart: o.GracefulRestart,
		TTLSecurityHops: o.TTLSecurityHops, VRF: o.VRF, Interface: o.Interface,
	}}
	if o.LocalASN != 0 {
		peer.LocalASN = o.LocalASN
	}
	if peer.Port == 0 {
		peer.Port = DefaultPeerPort
	}
	ps.peerASNs(o)
	ps.peerAddresses(o, &peer.Peer)
	ps.peerTimers(o, &peer.Peer)
	peer.Password = ps.peerPassword(o, objs)
	ps.selectors("spec.nodeSelectors", o.NodeSelectors)

	if o.DualStack || o.Interface != "" { // a link carries both
		peer.Families = []lb.Family{lb.IPv4, lb.IPv6}
	} else if peer.Addr.IsValid() {
		peer.Families = []lb.Family{lb.FamilyOf(peer.Addr)}
	}
	return peer, ps
}

func (ps *problems) peerASNs(o *BGPPeer) {
	if o.MyASN == 0 {
		ps.add("spec.myASN", lb.InvalidField, "missing local ASN")
	}
	switch {
	case o.PeerASN == 0 && o.DynamicASN == "":
		ps.add("spec.peerASN", lb.InvalidField, "missing peer ASN and dynamicASN: one of them is needed")
	case o.PeerASN != 0 && o.DynamicASN != "":
		ps.add("spec.dynamicASN", lb.InvalidField, "both peer ASN and dynamicASN specified: they exclude each other")
	case o.DynamicASN != "" && o.DynamicASN != string(lb.InternalASN) && o.DynamicASN != string(lb.ExternalASN):
		ps.add("spec.dynamicASN", lb.InvalidField, "invalid dynamicASN %q: it is neither internal nor external", o.DynamicASN)
	}
	if o.LocalASN != 0 {
		// It hides our AS from another one.
		switch {
		case o.PeerASN == o.MyASN && o.MyASN != 0, o.DynamicASN == string(lb.InternalASN):
			ps.add("spec.localASN", lb.InvalidField, "is for external peers, but this one is internal")
		case o.LocalASN == o.PeerASN:
			ps.add("spec.localASN", lb.InvalidField, "is that of the router: set myASN to %d if the peer shall be internal", o.PeerASN)
		}
	}
	if o.MultiHop && o.PeerASN == o.MyASN {
		ps.add("spec.ebgpMultiHop", lb.InvalidField, "invalid ebgp-multihop parameter set for an ibgp peer: peerASN equals myASN")
	}
}

func (ps *problems) peerAddresses(o *BGPPeer, peer *lb.Peer) {
	switch {
	case o.PeerAddress == "" && o.Interface == "":
		ps.add("spec.peerAddress", lb.InvalidField, "missing BGPPeer address and interface: one of them is needed")
	case o.PeerAddress != "" && o.Interface != "":
		ps.add("spec.interface", lb.InvalidField, "both BGPPeer address and interface specified: they exclude each other")
	case o.Interface != "":
		ps.device("spec.interface", o.Interface)
		if o.MultiHop {
			ps.add("spec.ebgpMultiHop", lb.InvalidField, "excludes interface: the router is on the link")
		}
		if o.SourceAddress != "" {
			ps.add("spec.sourceAddress", lb.InvalidField, "cannot be chosen together with interface")
		}
	default:
		peer.Addr = ps.address("spec.peerAddress", "BGPPeer address", o.PeerAddress)
		if peer.Addr.Is6() && peer.Addr.IsLinkLocalUnicast() {
			ps.add("spec.peerAddress", lb.InvalidField, "%s is link-local: give interface in its place", peer.Addr)
		}
	}
	ps.device("spec.vrf", o.VRF)
	switch {
	case o.TTLSecurityHops > maxSecurityHops:
		ps.add("spec.ttlSecurityHops", lb.InvalidField, "%d is more than %d", o.TTLSecurityHops, maxSecurityHops)
	case o.TTLSecurityHops > 0 && o.MultiHop:
		ps.add("spec.ttlSecurityHops", lb.InvalidField, "excludes ebgpMultiHop: it says itself how far away the router may be")
	}
	if o.SourceAddress != "" {
		peer.SourceAddr = ps.address("spec.sourceAddress", "source IP", o.SourceAddress)
		if peer.SourceAddr.IsValid() && peer.Addr.IsValid() && peer.SourceAddr.BitLen() != peer.Addr.BitLen() {
			ps.add("spec.sourceAddress", lb.InvalidField, "%s and peerAddress %s are of different families", peer.SourceAddr, peer.Addr)
		}
	}
	if o.RouterID != "" {
		peer.RouterID = ps.address("spec.routerID", "router ID", o.RouterID)
		if peer.RouterID.IsValid() && !peer.RouterID.Is4() {
			ps.add("spec.routerID", lb.InvalidField, "%s is not an IPv4 address (RFC 4271 §4.2)", peer.RouterID)
		}
	}
}

// device reports what is wrong with the name of a network device; "" is fine.
func (ps *problems) device(field, name string) {
	if len(name) > maxDeviceName || strings.ContainsAny(name, "/ \t\n%") {
		ps.add(field, lb.InvalidField, "%q is no name of a network device (at most %d bytes)", name, maxDeviceName)
	}
}

func (ps *problems) address(field, what, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		ps.add(field, lb.InvalidField, "invalid %s %q: it is not an IP address", what, text)
	}
	return a.Unmap()
}

// peerTimers applies RFC 4271 §4.2 (hold time zero or at least 3 s) and §4.4
// (keepalives at a third of the hold time).
func (ps *problems) peerTimers(o *BGPPeer, peer *lb.Peer) {
	if o.ConnectTime != nil {
		peer.ConnectRetry = *o.ConnectTime
	}
	if o.HoldTime == nil && o.KeepaliveTime == nil {
		return
	}
	peer.TimersSet = true
	switch {
	case o.HoldTime == nil:
		peer.Keepalive = *o.KeepaliveTime
		peer.HoldTime = 3 * peer.Keepalive
	case o.KeepaliveTime == nil:
		peer.HoldTime = *o.HoldTime
		peer.Keepalive = peer.HoldTime / 3
	default:
		peer.HoldTime, peer.Keepalive = *o.HoldTime, *o.KeepaliveTime
	}
	if peer.Keepalive == 0 {
		peer.Keepalive = peer.HoldTime / 3 // a v1beta1 object cannot tell 0 from unset
	}
	hold := peer.HoldTime.Round(time.Second)
	switch {
	case hold != 0 && hold < 3*time.Second:
		ps.add("spec.holdTime", lb.InvalidField, "invalid BGPPeer timers: invalid hold time %q: must be 0 or >=3s", peer.HoldTime)
	case hold > 65535*time.Second:
		ps.add("spec.holdTime", lb.InvalidField, "invalid BGPPeer timers: invalid hold time %q: must be at most 65535s", peer.HoldTime)
	case peer.Keepalive < 0:
		ps.add("spec.keepaliveTime", lb.InvalidField, "invalid BGPPeer timers: invalid keepaliveTime %q: it is negative", peer.Keepalive)
	case peer.Keepalive > peer.HoldTime:
		ps.add("spec.keepaliveTime", lb.InvalidField, "invalid BGPPeer timers: invalid keepaliveTime %q, must be lower than holdTime %q", peer.Keepalive, peer.HoldTime)
	}
	peer.HoldTime = hold
}

func (ps *problems) peerPassword(o *BGPPeer, objs Objects) string {
	if o.Withheld {
		field := "spec.password"
		if o.PasswordSecret != "" {
			field = "spec.passwordSecret"
		}
		ps.add(field, lb.PasswordUnknown, "the password is not known here until the API server can be reached: there is no session before")
		return ""
	}
	if o.PasswordSecret == "" {
		return o.Password
	}
	const field = "spec.passwordSecret"
	if o.Password != "" {
		ps.add(field, lb.InvalidField, "can not have both password and secret ref set in peer config %q: they exclude each other", o.Name)
		return ""
	}
	s, ok := objs.Secrets[o.PasswordSecret]
	unread := func(format string, args ...any) {
		ps.words("parsing peer %s %s\nfailed to parse peer %s password secret", o.Name, fmt.Sprintf(format, args...), o.Name)
	}
	switch {
	case !ok:
		ps.add(field, lb.UnknownReference, "there is no Secret %q in our namespace", o.PasswordSecret)
		unread("secret ref not found for peer config %q/%q", objs.Namespace, o.Name)
	case s.Type != basicAuth:
		ps.add(field, lb.InvalidReference, "Secret %q is of type %q, not %q", o.PasswordSecret, s.Type, basicAuth)
		unread("secret type mismatch on %q/%q, type %q is expected ", objs.Namespace, o.PasswordSecret, basicAuth)
	case !s.HasKey:
		ps.add(field, lb.InvalidReference, "Secret %q has no key \"password\"", o.PasswordSecret)
		unread("password not specified in the secret %q/%q", objs.Namespace, o.PasswordSecret)
	}
	return s.Password
}
