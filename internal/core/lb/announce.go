package lb

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// L2 is what one node shall answer for on its links: the full desired state,
// address by address. The announcer prunes what is not in it.
type L2 map[netip.Addr]L2Announcement

// Role is as what a node answers for an address.
type Role uint8

// The roles. A node that has none for an address does not answer for it.
const (
	// Own answers with the node's own MAC.
	Own Role = iota
	// Yield answers unicast refreshes alone, with the node's own MAC: those who use this
	// node go on doing so, and those who ask everybody find the new owner.
	Yield
	// Caretake answers with the MAC of the owner, whose speaker does not work: unicast
	// alone, never unasked, from our own MAC in the Ethernet header.
	Caretake
)

// Tell says how an owner tells the links of an address unasked, by gratuitous ARP
// and unsolicited Neighbor Advertisement.
type Tell uint8

// Ways to tell. Only an owner tells.
const (
	TellAtOnce Tell = iota // now, again at growing gaps, and then slowly
	TellSlowly             // only the slow refresh: neighbours have it right already
	TellNever              // nothing: neighbours shall use the former owner for now
)

// L2Announcement says where and how an address is answered for.
type L2Announcement struct {
	// Links are the names of the links to answer on, sorted; empty means every
	// link that can carry announcements.
	Links []string
	Role  Role
	Tell  Tell // for Own alone
	// MACs are, for Caretake alone, what to answer with, by the name of the link of ours.
	// Links that are not in it are not answered on.
	MACs map[string][6]byte
}

// Equal reports whether a and b say the same.
func (a L2Announcement) Equal(b L2Announcement) bool {
	return a.Role == b.Role && a.Tell == b.Tell && slices.Equal(a.Links, b.Links) && maps.Equal(a.MACs, b.MACs)
}

// BGP is what one node shall tell its routers: the full desired state. A session
// that is not in it is closed, a route that is not in it is withdrawn.
type BGP []Session

// Session is one BGP session with all that shall be told on it.
type Session struct {
	Peer   Peer
	Routes map[netip.Prefix]Attrs
	// Since is when what Routes follow from was heard of; zero if that is not known. It is
	// told in the log alone.
	Since time.Time
}

// Peer is a validated BGPPeer as it concerns one node. Name identifies it.
type Peer struct {
	Name     string // name of the BGPPeer object
	LocalASN uint32 // the AS that this router sees (RFC 4271 §4.2)
	PeerASN  uint32 // 0: any AS that Dynamic allows
	Dynamic  DynamicASN
	// Addr is the router's address. It is zero if the router is to be found on the link
	// Interface by its router advertisements (an unnumbered session).
	Addr       netip.Addr
	Interface  string
	VRF        string        // the VRF device that the session runs in; "" for the default one
	Port       uint16        // 1 to 65535
	SourceAddr netip.Addr    // zero: the kernel's choice
	RouterID   netip.Addr    // an IPv4 address; zero: derived from the node
	HoldTime   time.Duration // 0 with HoldTimeSet: no keepalives
	Keepalive  time.Duration
	// TimersSet reports whether HoldTime and Keepalive were asked for; otherwise
	// the defaults are 90 s and a third of the negotiated hold time.
	TimersSet    bool
	ConnectRetry time.Duration // 0: the default
	Password     string        // TCP MD5 (RFC 2385); "" for none. Never log it.
	MultiHop     bool          // eBGP over more than one hop
	// TTLSecurityHops refuses packets from more than so many hops away (GTSM, RFC
	// 5082), 1 to 254; 0 refuses none.
	TTLSecurityHops uint8
	// GracefulRestart offers the capability of that name (RFC 4724): the router keeps
	// the routes while this speaker restarts.
	GracefulRestart bool
	// Families are those whose routes this session carries.
	Families []Family
	BFD      *BFDProfile // watch the router by BFD; nil: do not
}

// DynamicASN is BGPPeer's dynamicASN.
type DynamicASN string

// The values of DynamicASN.
const (
	StaticASN   DynamicASN = ""
	InternalASN DynamicASN = "internal"
	ExternalASN DynamicASN = "external"
)

// Attrs are the path attributes that a route is advertised with.
type Attrs struct {
	// LocalPref is sent to internal peers only (RFC 4271 §5.1.5); 0 means the
	// customary default of 100.
	LocalPref        uint32
	Communities      []Community      // sorted, no duplicates
	LargeCommunities []LargeCommunity // sorted, no duplicates
	// MED is the MULTI_EXIT_DISC (RFC 4271 §5.1.4), sent if HasMED.
	MED    uint32
	HasMED bool
	// Prepend is how many times more than once our AS stands in the AS_PATH, for
	// external peers.
	Prepend uint8
	// Bandwidth is what the route tells of how much it can carry beside those of other
	// nodes, in the link bandwidth extended community; 0 leaves that out.
	Bandwidth uint32
	// GracefulShutdown has the router prefer any other route, for this one will be
	// withdrawn soon: community 65535:0 (RFC 8326) and local preference 0.
	GracefulShutdown bool
	// Yield does the same for this route alone, which another node takes over; and it stays until
	// it is not asked for any more.
	Yield bool
}

// GracefulShutdown is the community of that name (RFC 8326 §5).
const GracefulShutdown Community = 0xffff_0000

// Community is a standard community (RFC 1997).
type Community uint32

// String returns the customary form, such as 64512:100.
func (c Community) String() string {
	return strconv.Itoa(int(c>>16)) + ":" + strconv.Itoa(int(c&0xffff))
}

// LargeCommunity is a large community (RFC 8092).
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

// String returns the form of BGPAdvertisement, such as large:64512:1:2.
func (c LargeCommunity) String() string {
	return fmt.Sprintf("large:%d:%d:%d", c.Global, c.Local1, c.Local2)
}

// Compare orders large communities by their parts.
func (c LargeCommunity) Compare(o LargeCommunity) int {
	return cmp.Or(cmp.Compare(c.Global, o.Global), cmp.Compare(c.Local1, o.Local1), cmp.Compare(c.Local2, o.Local2))
}

// String returns name and address, for logs. It holds no secret.
func (p Peer) String() string {
	var b strings.Builder
	b.WriteString(p.Name)
	b.WriteString(" (")
	b.WriteString(p.Endpoint())
	b.WriteString(")")
	return b.String()
}

// Endpoint returns where the router listens: address:port, or link:port if it is to be
// found; with the VRF behind it, if any.
func (p Peer) Endpoint() string {
	at := p.Interface + ":" + strconv.Itoa(int(p.Port))
	if p.Addr.IsValid() {
		at = netip.AddrPortFrom(p.Addr, p.Port).String()
	}
	if p.VRF != "" {
		at += " in " + p.VRF
	}
	return at
}

// VRFLabel returns the label vrf of metrics: FRR's name for it, which is "default" for none.
func VRFLabel(vrf string) string {
	if vrf == "" {
		return "default"
	}
	return vrf
}

// Normalize sorts the communities and drops duplicates.
func (a *Attrs) Normalize() {
	slices.Sort(a.Communities)
	a.Communities = slices.Compact(a.Communities)
	slices.SortFunc(a.LargeCommunities, LargeCommunity.Compare)
	a.LargeCommunities = slices.Compact(a.LargeCommunities)
}

// Equal reports whether a and b say the same. Both must be normalized.
func (a Attrs) Equal(b Attrs) bool {
	return a.LocalPref == b.LocalPref && a.MED == b.MED && a.HasMED == b.HasMED && a.Prepend == b.Prepend &&
		a.Bandwidth == b.Bandwidth && a.GracefulShutdown == b.GracefulShutdown && a.Yield == b.Yield &&
		slices.Equal(a.Communities, b.Communities) && slices.Equal(a.LargeCommunities, b.LargeCommunities)
}
