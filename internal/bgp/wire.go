package bgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/barelb/barelb/internal/core/lb"
)

const (
	defaultHoldTime     = 90 * time.Second // RFC 4271 §10
	defaultConnectRetry = 2 * time.Second  // GoBGP's least; its own default is 120 s
	maxHoldTime         = math.MaxUint16 * time.Second
	defaultLocalPref    = 100
	maxPassword         = 80  // TCP_MD5SIG_MAXKEYLEN
	multiHopTTL         = 255 // what customary routers use for eBGP multihop
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
	refuse(!p.Addr.IsValid(), "peerAddress: missing")
	refuse(p.Addr.IsValid() && (p.Addr.IsUnspecified() || p.Addr.IsMulticast()), "peerAddress: %s is not a router's address", p.Addr)
	refuse(p.Addr.IsLinkLocalUnicast() && p.Addr.Is6(), "peerAddress: %s is link-local, which is not supported yet", p.Addr)
	refuse(p.Port == 0, "peerPort: missing")
	refuse(len(p.Families) == 0, "families: none to carry")
	refuse(p.SourceAddr.IsValid() && lb.FamilyOf(p.SourceAddr) != lb.FamilyOf(p.Addr),
		"sourceAddress: %s is of another family than peerAddress %s", p.SourceAddr, p.Addr)
	refuse(p.RouterID.IsValid() && (!p.RouterID.Unmap().Is4() || p.RouterID.IsUnspecified()),
		"routerID: %s is not an IPv4 address", p.RouterID)
	refuse(len(p.Password) > maxPassword, "password: longer than %d bytes", maxPassword)
	hold := holdSeconds(p)
	refuse(p.TimersSet && (p.HoldTime < 0 || p.HoldTime > maxHoldTime || hold == 1 || hold == 2),
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

// holdSeconds is p's hold time as the OPEN message carries it.
func holdSeconds(p lb.Peer) uint64 { return uint64(p.HoldTime.Round(time.Second) / time.Second) }

// neighbor says in GoBGP's terms how to reach p from the address source.
func neighbor(p lb.Peer, source netip.Addr) *api.Peer {
	n := &api.Peer{
		Conf: &api.PeerConf{
			LocalAsn:        p.LocalASN,
			PeerAsn:         p.PeerASN,
			NeighborAddress: p.Addr.String(),
			AuthPassword:    p.Password,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime:               uint64(defaultHoldTime / time.Second),
			ConnectRetry:           seconds(defaultConnectRetry),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{
			LocalAddress: source.String(),
			RemotePort:   uint32(p.Port),
		},
	}
	if p.Dynamic == lb.InternalASN {
		n.Conf.PeerAsn = p.LocalASN
	}
	if p.TimersSet {
		n.Timers.Config.HoldTime = holdSeconds(p)
		n.Timers.Config.KeepaliveInterval = seconds(p.Keepalive)
		if n.Timers.Config.HoldTime == 0 {
			// Deviation: GoBGP takes 0 for "the default", so no keepalives cannot be
			// offered. The longest hold time leaves the choice to the router: the
			// smaller of the two is in force (RFC 4271 §4.2), and 0 is a router's
			// to choose.
			n.Timers.Config.HoldTime = uint64(maxHoldTime / time.Second)
			n.Timers.Config.KeepaliveInterval = 0
		}
	}
	if p.ConnectRetry > 0 {
		n.Timers.Config.ConnectRetry = seconds(p.ConnectRetry)
	}
	if p.MultiHop && !internal(p) {
		n.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: multiHopTTL}
	}
	for _, f := range p.Families {
		n.AfiSafis = append(n.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiFamily(f), Enabled: true}})
	}
	return n
}

// seconds rounds up, for GoBGP counts whole seconds and takes 0 for its default.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func apiFamily(f lb.Family) *api.Family {
	if f == lb.IPv6 {
		return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

func wireFamily(f lb.Family) bgp.Family {
	if f == lb.IPv6 {
		return bgp.RF_IPv6_UC
	}
	return bgp.RF_IPv4_UC
}

// route is one route as it is sent: what of it is compared to find a change.
type route struct {
	attrs lb.Attrs
	hop   netip.Addr // the NEXT_HOP
}

func (r route) equal(o route) bool {
	return r.hop == o.hop && r.attrs.LocalPref == o.attrs.LocalPref &&
		slices.Equal(r.attrs.Communities, o.attrs.Communities) &&
		slices.Equal(r.attrs.LargeCommunities, o.attrs.LargeCommunities)
}

// path says in GoBGP's terms that pfx is reached by r. AS_PATH is GoBGP's to add:
// empty for internal peers, our AS for external ones (RFC 4271 §5.1.2).
func path(p lb.Peer, pfx netip.Prefix, r route) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(pfx)
	if err != nil {
		return nil, fmt.Errorf("encode prefix %s: %w", pfx, err)
	}
	family := wireFamily(lb.FamilyOf(pfx.Addr()))
	attrs := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if family == bgp.RF_IPv4_UC && r.hop.Is4() {
		hop, err := bgp.NewPathAttributeNextHop(r.hop)
		if err != nil {
			return nil, fmt.Errorf("encode next hop %s: %w", r.hop, err)
		}
		attrs = append(attrs, hop)
	} else {
		// RFC 4760 §3; for IPv4 by an IPv6 next hop RFC 8950 §3.
		reach, err := bgp.NewPathAttributeMpReachNLRI(family, []bgp.PathNLRI{{NLRI: nlri}}, r.hop)
		if err != nil {
			return nil, fmt.Errorf("encode next hop %s: %w", r.hop, err)
		}
		attrs = append(attrs, reach)
	}
	if internal(p) { // RFC 4271 §5.1.5: never to external peers
		pref := r.attrs.LocalPref
		if pref == 0 {
			pref = defaultLocalPref
		}
		attrs = append(attrs, bgp.NewPathAttributeLocalPref(pref))
	}
	if len(r.attrs.Communities) > 0 {
		list := make([]uint32, len(r.attrs.Communities))
		for i, c := range r.attrs.Communities {
			list[i] = uint32(c)
		}
		attrs = append(attrs, bgp.NewPathAttributeCommunities(list))
	}
	if len(r.attrs.LargeCommunities) > 0 {
		list := make([]*bgp.LargeCommunity, len(r.attrs.LargeCommunities))
		for i, c := range r.attrs.LargeCommunities {
			list[i] = bgp.NewLargeCommunity(c.Global, c.Local1, c.Local2)
		}
		attrs = append(attrs, bgp.NewPathAttributeLargeCommunities(list))
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attrs}, nil
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

// negotiated is what both ends of an established session can do.
type negotiated struct {
	ipv4, ipv6 bool
	// ipv6Hops: the router takes IPv4 routes with IPv6 next hops (RFC 8950 §4).
	ipv6Hops bool
}

func (n negotiated) carries(f lb.Family) bool {
	return f == lb.IPv4 && n.ipv4 || f == lb.IPv6 && n.ipv6
}

// negotiate compares what p shall carry with the capabilities of the router.
func negotiate(p lb.Peer, remote []bgp.ParameterCapabilityInterface) negotiated {
	var n negotiated
	for _, c := range remote {
		switch c := c.(type) {
		case *bgp.CapMultiProtocol:
			n.ipv4 = n.ipv4 || c.CapValue == bgp.RF_IPv4_UC && slices.Contains(p.Families, lb.IPv4)
			n.ipv6 = n.ipv6 || c.CapValue == bgp.RF_IPv6_UC && slices.Contains(p.Families, lb.IPv6)
		case *bgp.CapExtendedNexthop:
			for _, t := range c.Tuples {
				n.ipv6Hops = n.ipv6Hops || bgp.NewFamily(t.NLRIAFI, uint8(t.NLRISAFI)) == bgp.RF_IPv4_UC && t.NexthopAFI == bgp.AFI_IP6
			}
		}
	}
	return n
}
