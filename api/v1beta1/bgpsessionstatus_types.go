package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPSessionStatusStatus says how one node's session with one router is. The first
// five fields are those of FRR-K8s' BGPSessionState.
type BGPSessionStatusStatus struct {
	// Node is the node that holds the session.
	// +optional
	Node string `json:"node,omitempty"`

	// Peer is the address of the router; empty if it is to be found on a link and has
	// not been yet.
	// +optional
	Peer string `json:"peer,omitempty"`

	// VRF is the VRF that the session runs in; empty for the default one.
	// +optional
	VRF string `json:"vrf,omitempty"`

	// BGPStatus is the state of the session by its name in RFC 4271, section 8.2.2, such
	// as Established.
	// +optional
	BGPStatus string `json:"bgpStatus,omitempty"`

	// BFDStatus is the state of the BFD session by its name in RFC 5880, such as Up; N/A
	// if there is none.
	// +optional
	BFDStatus string `json:"bfdStatus,omitempty"`

	// BGPPeer is the name of the BGPPeer.
	// +optional
	BGPPeer string `json:"bgpPeer,omitempty"`

	// Since is when the session entered its state.
	// +optional
	Since metav1.Time `json:"since,omitempty"`

	// Message says why the session is not established and what to do about it, or which
	// routes it cannot carry.
	// +optional
	Message string `json:"message,omitempty"`

	// LocalAddress is the node's end of the connection, RouterASN and RouterID are what
	// the router says of itself.
	// +optional
	LocalAddress string `json:"localAddress,omitempty"`
	// +optional
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	RouterASN uint32 `json:"routerASN,omitempty"`
	// +optional
	RouterID string `json:"routerID,omitempty"`

	// HoldTime and KeepaliveTime are those in force.
	// +optional
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`
	// +optional
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// AddressFamilies are those whose routes the session carries.
	// +optional
	AddressFamilies []string `json:"addressFamilies,omitempty"`

	// GracefulRestart tells that the router keeps the routes while the speaker restarts.
	// +optional
	GracefulRestart bool `json:"gracefulRestart,omitempty"`

	// WantedPrefixes is how many routes the session shall carry, AdvertisedPrefixes how
	// many the router has been sent.
	// +optional
	WantedPrefixes int32 `json:"wantedPrefixes,omitempty"`
	// +optional
	AdvertisedPrefixes int32 `json:"advertisedPrefixes,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:path=bgpsessionstatuses,scope=Namespaced
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.node`
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.status.peer`
// +kubebuilder:printcolumn:name="VRF",type=string,JSONPath=`.status.vrf`
// +kubebuilder:printcolumn:name="BGP",type=string,JSONPath=`.status.bgpStatus`
// +kubebuilder:printcolumn:name="BFD",type=string,JSONPath=`.status.bfdStatus`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=10

// BGPSessionStatus reports how one node's session with one BGPPeer is. It is written
// by that node's speaker, some seconds behind.
type BGPSessionStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status BGPSessionStatusStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// BGPSessionStatusList is a list of BGPSessionStatus objects.
type BGPSessionStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPSessionStatus `json:"items"`
}
