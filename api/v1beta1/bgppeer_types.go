package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPPeerSpec is the part of the BGPPeer of v1beta2 that v1beta1 knows. BareLB
// itself reads v1beta2 only.
type BGPPeerSpec struct {
	// MyASN is the AS number of the nodes.
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MyASN uint32 `json:"myASN"`

	// PeerASN is the AS number that the router must have.
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	PeerASN uint32 `json:"peerASN"`

	// PeerAddress is the address of the router.
	PeerAddress string `json:"peerAddress"`

	// SourceAddress is the address that the node connects from.
	// +optional
	SourceAddress string `json:"sourceAddress,omitempty"`

	// PeerPort is the TCP port of the router. 0 or unset: 179.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16384
	PeerPort uint16 `json:"peerPort,omitempty"`

	// HoldTime is the hold time to propose (RFC 4271, section 4.2).
	// +optional
	// +kubebuilder:validation:XValidation:rule="string(duration(self)) != ''",message="must be a duration such as 90s"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// KeepaliveTime is the greatest interval between keepalives.
	// +optional
	// +kubebuilder:validation:XValidation:rule="string(duration(self)) != ''",message="must be a duration such as 30s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// RouterID is the BGP Identifier of the nodes, written as an IPv4 address.
	// +optional
	RouterID string `json:"routerID,omitempty"`

	// NodeSelectors choose the nodes that connect; one of them must match. Empty:
	// every node.
	// +optional
	NodeSelectors []BGPPeerNodeSelector `json:"nodeSelectors,omitempty"`

	// Password protects the session by TCP MD5 signatures (RFC 2385).
	// +optional
	Password string `json:"password,omitempty"`

	// BFDProfile names the BFDProfile that watches over the session. Empty: no BFD.
	// +optional
	BFDProfile string `json:"bfdProfile,omitempty"`

	// EBGPMultiHop tells that an external router is more than one hop away.
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`
}

// BGPPeerNodeSelector is a label selector as v1beta1 writes it. Its JSON is that
// of metav1.LabelSelector.
type BGPPeerNodeSelector struct {
	// MatchLabels holds labels that a node must carry.
	// +optional
	MatchLabels map[string]string `json:"matchLabels,omitempty"`

	// MatchExpressions are further requirements; all must hold.
	// +optional
	MatchExpressions []BGPPeerNodeRequirement `json:"matchExpressions,omitempty"`
}

// BGPPeerNodeRequirement is one requirement of a BGPPeerNodeSelector.
type BGPPeerNodeRequirement struct {
	// Key is the label that is looked at.
	Key string `json:"key"`
	// Operator is In, NotIn, Exists or DoesNotExist.
	Operator string `json:"operator"`
	// Values are what In and NotIn compare with.
	// +kubebuilder:validation:MinItems=1
	Values []string `json:"values"`
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
	LastGood *LastGoodPeer `json:"lastGood,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:deprecatedversion:warning="v1beta1 is deprecated, please use v1beta2"
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
