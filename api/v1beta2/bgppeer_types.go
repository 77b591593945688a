package v1beta2

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/api/v1beta1"
)

// DynamicASN says which AS number a router may have when none is given.
//
// +kubebuilder:validation:Enum=internal;external
type DynamicASN string

// The values of DynamicASN.
const (
	// DynamicASNInternal accepts the AS number of the nodes only.
	DynamicASNInternal DynamicASN = "internal"
	// DynamicASNExternal accepts any other AS number.
	DynamicASNExternal DynamicASN = "external"
)

// BGPPeerSpec says which router to hold a session with, and how.
type BGPPeerSpec struct {
	// MyASN is the AS number of the nodes.
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MyASN uint32 `json:"myASN"`

	// PeerASN is the AS number that the router must have. Give either this or
	// DynamicASN.
	// +optional
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	PeerASN uint32 `json:"peerASN,omitempty"`

	// DynamicASN accepts whatever AS number the router has, as long as it is the
	// nodes' own (internal) or not (external).
	// +optional
	DynamicASN DynamicASN `json:"dynamicASN,omitempty"`

	// LocalASN is the AS number that the nodes show to this router in place of
	// MyASN.
	// +optional
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	LocalASN uint32 `json:"localASN,omitempty"`

	// PeerAddress is the address of the router. Give either this or Interface.
	// +optional
	PeerAddress string `json:"peerAddress,omitempty"`

	// Interface is the link behind which the router is found by its router
	// advertisements (an unnumbered session).
	// +optional
	Interface string `json:"interface,omitempty"`

	// SourceAddress is the address that the node connects from.
	// +optional
	SourceAddress string `json:"sourceAddress,omitempty"`

	// PeerPort is the TCP port of the router. An object that was written through
	// v1beta1 may hold 0, which means 179.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16384
	PeerPort uint16 `json:"peerPort,omitempty"`

	// HoldTime is the hold time to propose (RFC 4271, section 4.2): 0, which sends
	// no keepalives, or at least 3 s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="string(duration(self)) != ''",message="must be a duration such as 90s"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// KeepaliveTime is the greatest interval between keepalives. Unset: a third of
	// the hold time.
	// +optional
	// +kubebuilder:validation:XValidation:rule="string(duration(self)) != ''",message="must be a duration such as 30s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// ConnectTime is the time between attempts to connect.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535",message="connect time should be between 1 seconds to 65535"
	// +kubebuilder:validation:XValidation:rule="duration(self).getMilliseconds() % 1000 == 0",message="connect time should contain a whole number of seconds"
	ConnectTime *metav1.Duration `json:"connectTime,omitempty"`

	// RouterID is the BGP Identifier of the nodes, written as an IPv4 address.
	// +optional
	RouterID string `json:"routerID,omitempty"`

	// NodeSelectors choose the nodes that connect; one of them must match. Empty:
	// every node.
	// +optional
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`

	// Password protects the session by TCP MD5 signatures (RFC 2385). Give either
	// this or PasswordSecret.
	// +optional
	Password string `json:"password,omitempty"`

	// PasswordSecret names a Secret of type kubernetes.io/basic-auth, in the
	// namespace of BareLB, whose key "password" holds the password.
	// +optional
	PasswordSecret corev1.SecretReference `json:"passwordSecret,omitempty"`

	// BFDProfile names the BFDProfile that watches over the session. Empty: no BFD.
	// +optional
	BFDProfile string `json:"bfdProfile,omitempty"`

	// EnableGracefulRestart has the router keep the routes while a speaker
	// restarts (RFC 4724).
	// +optional
	EnableGracefulRestart bool `json:"enableGracefulRestart,omitempty"`

	// EBGPMultiHop tells that an external router is more than one hop away.
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`

	// TTLSecurityHops refuses packets of routers that are more than so many hops away
	// (GTSM, RFC 5082); 1 is a router on the same link. The router must do the same for
	// the nodes. It excludes EBGPMultiHop. 0 or unset: none is refused. An addition to
	// MetalLB's fields.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=254
	TTLSecurityHops uint8 `json:"ttlSecurityHops,omitempty"`

	// VRF names the VRF device of the node that the session runs in.
	// +optional
	VRF string `json:"vrf,omitempty"`

	// DisableMP has no effect.
	//
	// Deprecated: use DualStackAddressFamily.
	// +optional
	// +kubebuilder:default=false
	DisableMP bool `json:"disableMP,omitempty"`

	// DualStackAddressFamily carries routes of both address families on the
	// session, whichever of them the session itself uses.
	// +optional
	// +kubebuilder:default=false
	DualStackAddressFamily bool `json:"dualStackAddressFamily,omitempty"`
}

// BGPPeerStatus is what BareLB says of the peer.
type BGPPeerStatus struct {
	// Conditions say whether the peer is in force, and if not, why.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// LastGood is the last version of the spec that was in force. It stays in force while
	// a later one is set aside.
	// +optional
	LastGood *v1beta1.LastGoodPeer `json:"lastGood,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:path=bgppeers,scope=Namespaced
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.peerAddress`
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="BFD Profile",type=string,JSONPath=`.spec.bfdProfile`
// +kubebuilder:printcolumn:name="Multi Hops",type=string,JSONPath=`.spec.ebgpMultiHop`

// BGPPeer is a router that the nodes hold a BGP session with.
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BGPPeerSpec   `json:"spec,omitempty"`
	Status BGPPeerStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// BGPPeerList is a list of BGPPeers.
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}
