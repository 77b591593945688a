package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPAdvertisementSpec says which addresses are announced by BGP, with which
// attributes, to which peers, from which nodes and for which Services.
//
// +kubebuilder:validation:XValidation:rule="!has(self.serviceSelectors) || size(self.serviceSelectors) == 0 || ((!has(self.aggregationLength) || self.aggregationLength == 32) && (!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))",message="serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default aggregationLength (32) and aggregationLengthV6 (128)"
type BGPAdvertisementSpec struct {
	// AggregationLength is the prefix length that IPv4 addresses are announced
	// with: 32 announces each by itself, less announces the prefix around it.
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// AggregationLengthV6 is the same for IPv6 addresses.
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=-2147483648
	// +kubebuilder:validation:Maximum=2147483647
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`

	// LocalPref is the LOCAL_PREF attribute (RFC 4271, section 5.1.5), sent to
	// internal peers only; routers prefer the higher one. 0 or unset: 100.
	// +optional
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref uint32 `json:"localPref,omitempty"`

	// MED is the MULTI_EXIT_DISC attribute (RFC 4271, section 5.1.4); routers prefer the
	// lower one of routes from one AS. Unset: none is sent. An addition to MetalLB's
	// fields.
	// +optional
	// +kubebuilder:validation:Format=int64
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *uint32 `json:"med,omitempty"`

	// ASPathPrepend adds the nodes' AS number so many times more to the AS_PATH that
	// external peers see; routers prefer a shorter one. An addition to MetalLB's fields.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	ASPathPrepend uint8 `json:"asPathPrepend,omitempty"`

	// WeightByEndpoints attaches the link bandwidth extended community to the routes of
	// Services with externalTrafficPolicy Local: 1 Mbit/s for each ready endpoint on the
	// node. Routers with weighted ECMP then spread traffic by endpoint, not by node. An
	// addition to MetalLB's fields.
	// +optional
	WeightByEndpoints bool `json:"weightByEndpoints,omitempty"`

	// Communities are attached to the routes. Each is a standard community such as
	// 64512:100, a large one such as large:64512:1:100, or an alias that a
	// Community object defines.
	// +optional
	Communities []string `json:"communities,omitempty"`

	// IPAddressPools names the pools whose addresses are announced. Together with
	// IPAddressPoolSelectors empty: all pools.
	// +optional
	IPAddressPools []string `json:"ipAddressPools,omitempty"`

	// IPAddressPoolSelectors choose pools by label, in addition to IPAddressPools.
	// +optional
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`

	// NodeSelectors choose the nodes that announce; one of them must match. Empty:
	// every node.
	// +optional
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`

	// Peers names the BGPPeers to announce to. Empty: all of them.
	// +optional
	Peers []string `json:"peers,omitempty"`

	// ServiceSelectors choose the Services whose addresses are announced; one of
	// them must match. Empty: every Service.
	// +optional
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// BGPAdvertisementStatus is what BareLB says of the advertisement.
type BGPAdvertisementStatus struct {
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
// +kubebuilder:resource:path=bgpadvertisements,scope=Namespaced
// +kubebuilder:printcolumn:name="IPAddressPools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="IPAddressPool Selectors",type=string,JSONPath=`.spec.ipAddressPoolSelectors`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Node Selectors",type=string,JSONPath=`.spec.nodeSelectors`,priority=10

// BGPAdvertisement has addresses of the chosen pools announced to routers.
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BGPAdvertisementSpec   `json:"spec,omitempty"`
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// BGPAdvertisementList is a list of BGPAdvertisements.
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}
