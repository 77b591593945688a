package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2AdvertisementSpec says which addresses are announced by ARP and NDP, from
// which nodes and links, and for which Services.
type L2AdvertisementSpec struct {
	// IPAddressPools names the pools whose addresses are announced. Together with
	// IPAddressPoolSelectors empty: all pools.
	// +optional
	IPAddressPools []string `json:"ipAddressPools,omitempty"`

	// IPAddressPoolSelectors choose pools by label, in addition to IPAddressPools.
	// +optional
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`

	// NodeSelectors choose the nodes that may announce; one of them must match.
	// Empty: every node.
	// +optional
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`

	// PreferredNodeSelectors rank the nodes that may announce: a node's score is
	// the sum of the weights of the terms that match it, over all advertisements
	// that cover the Service, and the highest score is preferred.
	// +optional
	PreferredNodeSelectors []PreferredNodeSelector `json:"preferredNodeSelectors,omitempty"`

	// Interfaces names the links to announce on. Empty: every suitable link.
	// +optional
	Interfaces []string `json:"interfaces,omitempty"`

	// ServiceSelectors choose the Services whose addresses are announced; one of
	// them must match. Empty: every Service.
	// +optional
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`

	// Failback says whether a node that comes back, or becomes eligible again, takes
	// back the addresses that it ranks first for. Immediate (the default): it does.
	// Never: the node that answers for them keeps them while it is well. Of several
	// advertisements that cover a Service, one that says Never suffices.
	// +optional
	// +kubebuilder:validation:Enum=Immediate;Never
	Failback string `json:"failback,omitempty"`
}

// The values of an L2Advertisement's failback.
const (
	FailbackImmediate = "Immediate"
	FailbackNever     = "Never"
)

// PreferredNodeSelector adds Weight to the score of the nodes that it matches.
type PreferredNodeSelector struct {
	// Weight is what a matching node gains.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`

	// Preference chooses nodes by label.
	Preference metav1.LabelSelector `json:"preference"`
}

// L2AdvertisementStatus is what BareLB says of the advertisement.
type L2AdvertisementStatus struct {
	// Conditions say whether the advertisement is in force, and if not, why.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// LastGood is the last version of the spec that was in force. It stays in force while
	// a later one is set aside.
	// +optional
	LastGood *LastGood `json:"lastGood,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:path=l2advertisements,scope=Namespaced
// +kubebuilder:printcolumn:name="IPAddressPools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="IPAddressPool Selectors",type=string,JSONPath=`.spec.ipAddressPoolSelectors`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Node Selectors",type=string,JSONPath=`.spec.nodeSelectors`,priority=10

// L2Advertisement has addresses of the chosen pools announced on the links of the
// nodes: one node at a time answers ARP and Neighbor Solicitations for each.
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   L2AdvertisementSpec   `json:"spec,omitempty"`
	Status L2AdvertisementStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// L2AdvertisementList is a list of L2Advertisements.
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}
