// Package explain says why an address can or cannot be reached.
//
// A Cluster is all that is known of a cluster at one moment, as plain values, whatever
// it was read from. A World makes of it what the controller and the speakers make of
// it, by the same packages: config.Parse, ipam.Book and one plan.Planner for each
// node. No rule of allocation or announcement is written down here a second time. What
// is here are the questions: where does the chain from the Service to its endpoints
// break first, what would change if, and what is wrong with the surroundings.
//
// The answers are Findings and reports of them, whose words are for users. They are
// deterministic: the same Cluster gives the same answer.
package explain

import (
	"net/netip"
	"time"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

// Source is one kind of fact about a cluster, which may not be known.
type Source string

// The sources.
const (
	FromNamespaces Source = "namespaces"
	FromEndpoints  Source = "endpointslices"
	FromConfig     Source = "configuration objects"
	FromClaims     Source = "addressclaims"
	FromConflicts  Source = "addressconflicts"
	FromL2Status   Source = "servicel2statuses"
	FromBGPStatus  Source = "servicebgpstatuses"
	FromStates     Source = "configurationstates"
	FromSessions   Source = "bgpsessionstatuses"
	FromPods       Source = "pods of BareLB"
	FromProxies    Source = "pods of kube-proxy"
	FromProxyMode  Source = "configuration of kube-proxy"
	FromEvents     Source = "events"
	FromSpeakers   Source = "live speakers"
	FromKnown      Source = "links, and who is alive"
	FromWorkloads  Source = "daemonsets and deployments"
	FromRanges     Source = "servicecidrs"
	FromLeases     Source = "node leases"
	FromRights     Source = "rights of BareLB"
	FromPolicies   Source = "validatingadmissionpolicybindings"
)

// Gap is a fact that is not known, and what it would take to know it.
type Gap struct {
	From  Source `json:"from"`
	Needs string `json:"needs"`           // such as "list pods in metallb-system"
	Right bool   `json:"right,omitempty"` // Needs is a right that is missing
	Error string `json:"error,omitempty"` // if it failed for another reason than a missing right
}

// Cluster is what is known of a cluster at one moment. It is never changed.
type Cluster struct {
	Now       time.Time // by the API server's clock, if it was asked
	Namespace string    // of the configuration
	Flags     Flags

	Services []plan.Service // ours, sorted by key
	// Sources are the clients that are let in, by Services that do not let in all.
	Sources map[lb.Key][]netip.Prefix
	// Others are the Services of type LoadBalancer that are not ours, with their class,
	// and all other Services that were asked about, with their type.
	Others []OtherService
	Nodes  []Node // sorted by name

	Objects   config.Objects
	Claims    map[netip.Addr][]lb.Holder
	Conflicts []lb.WireConflict
	L2, BGP   []Report // what speakers say that they announce, sorted
	Sessions  []SessionReport
	States    []State // what each component makes of the configuration, sorted
	Events    []Event // oldest first

	Pods     []Pod // of controllers and speakers, sorted by name
	Proxies  []Pod // of kube-proxy
	Proxy    Proxy
	Speakers map[string]*Speaker // by node: what its speaker says of itself now
	Known    map[string]*Known   // by node: what its speaker knows
	// Silent are the nodes whose speakers were asked and did not answer, and why.
	Silent    map[string]string
	Workloads []Workload
	Ranges    []netip.Prefix // of cluster IPs
	// Skews are by how much the clocks of nodes are ahead of the API server's, by node.
	Skews  map[string]time.Duration
	Denied []string // what BareLB's own accounts may not do, though they must
	Fence  Fence    // of what a speaker may say of other nodes
	Gaps   []Gap    // what is not known
}

// Fence says whether the API server holds a speaker to its own node.
type Fence int

// The values of Fence.
const (
	NotFenced      Fence = iota // there is no ValidatingAdmissionPolicy in force that does
	Fenced                      // by such a policy
	CannotBeFenced              // the API server has no such policies
)

// Flags are those of the processes that have a part in what they decide.
type Flags struct {
	Class          string // loadBalancerClass that is served; "" for Services without one
	IgnoreExcluded bool
	GuardPools     bool
	NoStatus       bool // speakers keep no status objects
}

// OtherService is a Service that BareLB does not serve.
type OtherService struct {
	Key   lb.Key
	Type  string
	Class string // "" for none
	Addrs []netip.Addr
	// ClusterIPs are its addresses inside of the cluster.
	ClusterIPs []netip.Addr
}

// Node is a node, with what explanations need beyond what decisions do.
type Node struct {
	lb.Node
	PodRanges []netip.Prefix
	Subnets   []netip.Prefix // that it says of itself to be on-link; empty if unknown
	Drain     string         // value of the annotation barelb.io/drain
	// Unheard says that the API server hears nothing of it, since NotReadySince: it is down,
	// or cut off from the API server and announces as before.
	Unheard bool
}

// Report is a ServiceL2Status or ServiceBGPStatus.
type Report struct {
	Name    string
	Service lb.Key
	Node    string
	Names   []string // links, or BGPPeers
	Pod     string   // of the speaker that wrote it; "" if it runs in none
}

// SessionReport is a BGPSessionStatus: what a speaker says of one of its sessions.
type SessionReport struct {
	Node, Peer string // Peer is the name of the BGPPeer
	State      string // by RFC 4271, section 8.2.2
	BFD        string // by RFC 5880; "" or "N/A" for none
	Message    string // why it is not established
	Advertised int    // prefixes
}

// State is a ConfigurationState.
type State struct {
	Name, Node string // Node is "" for the controller
	Valid      bool
	Summary    string
	Pod        string // of who wrote it; "" if it runs in none
}

// Event is an Event on an object.
type Event struct {
	Kind      string
	Key       lb.Key
	Warning   bool
	Reason    string
	Message   string
	Component string
	Last      time.Time
	Count     int
}

// Pod is a Pod of a component.
type Pod struct {
	Name, Node string
	Component  string // "controller", "speaker" or "kube-proxy"
	Ready      bool
	Why        string // it is not ready
	Restarts   int
}

// Proxy is how kube-proxy is set up.
type Proxy struct {
	Known     bool
	Mode      string // "iptables", "ipvs", "nftables"; "" means the default
	StrictARP bool
}

// Speaker is what a speaker says of itself in its metrics.
type Speaker struct {
	Sessions  map[netip.AddrPort]Session
	Requests  map[netip.Addr]float64 // ARP requests and Neighbor Solicitations, by address
	Responses map[netip.Addr]float64
	// Announced are the addresses that it means to announce, by protocol.
	Announced map[string][]netip.Addr
	Links     []Link // nil if it does not tell
	Stale     bool   // some of the configuration is set aside
	ProxyDown bool   // the kube-proxy of its node is not healthy
}

// Session is the state of a BGP session.
type Session struct {
	Up                 bool
	Announced, Pending int    // prefixes
	Why                string // it is not up, if its speaker says so
	BFD                string // its state if that is asked for and not up
}

// Link is a link of a node.
type Link struct {
	Name     string
	Up       bool // has carrier
	Prefixes []netip.Prefix
}

// Workload is a DaemonSet or Deployment that has to do with load balancing, BGP or the
// ports that BareLB needs.
type Workload struct {
	Kind, Namespace, Name string
	Product               Product
	HostPorts             []int // that it opens on nodes
}

// Product is what a Workload is.
type Product string

// The products that may get into BareLB's way.
const (
	OwnSpeaker    Product = "BareLB"
	OtherMetalLB  Product = "MetalLB"
	ServiceLB     Product = "k3s servicelb"
	KubeVIP       Product = "kube-vip"
	PureLB        Product = "PureLB"
	OpenELB       Product = "OpenELB"
	LoxiLB        Product = "LoxiLB"
	Calico        Product = "Calico"
	KubeRouter    Product = "kube-router"
	Cilium        Product = "Cilium"
	OtherWorkload Product = ""
)

// gap returns what is not known of a source, or nil if it is known.
func (c *Cluster) gap(from Source) *Gap {
	for i := range c.Gaps {
		if c.Gaps[i].From == from {
			return &c.Gaps[i]
		}
	}
	return nil
}

// NotChecked says what it would take to know.
func (g *Gap) NotChecked() string {
	if g.Error != "" {
		return "not checked: " + g.Error
	}
	return "not checked: needs " + g.Needs
}
