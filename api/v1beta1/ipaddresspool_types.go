package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPAddressPoolSpec says which addresses may be given to which Services.
type IPAddressPoolSpec struct {
	// Addresses lists the ranges of the pool. Each is a prefix in CIDR notation or
	// a first and a last address joined by "-"; IPv4 and IPv6 ranges may be mixed.
	Addresses []string `json:"addresses"`

	// AutoAssign allows the pool for Services that ask for no pool or address.
	// When false, it serves only those that ask for it.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// AvoidBuggyIPs leaves out IPv4 addresses that end in .0 or .255, which some
	// devices take for network or broadcast addresses.
	// +optional
	// +kubebuilder:default=false
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// ServiceAllocation reserves the pool for some Services and ranks it among the
	// pools that they may use.
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
}

// ServiceAllocation says which Services a pool is reserved for: those in a chosen
// namespace (if any is named) that match a selector (if there are any).
type ServiceAllocation struct {
	// Priority ranks the pool: lower numbers are used first; 0 or unset comes last.
	// +optional
	Priority int `json:"priority,omitempty"`

	// Namespaces names the namespaces of the Services that may use the pool.
	// +optional
	Namespaces []string `json:"namespaces,omitempty"`

	// NamespaceSelectors choose namespaces by label, in addition to Namespaces.
	// +optional
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`

	// ServiceSelectors choose Services by label; one of them must match.
	// +optional
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// IPAddressPoolStatus counts the addresses of the pool. The counters saturate at
// the largest int64, which IPv6 ranges can exceed.
type IPAddressPoolStatus struct {
	// AssignedIPv4 is the number of IPv4 addresses that Services hold.
	AssignedIPv4 int64 `json:"assignedIPv4"`

	// AssignedIPv6 is the number of IPv6 addresses that Services hold.
	AssignedIPv6 int64 `json:"assignedIPv6"`

	// AvailableIPv4 is the number of IPv4 addresses that are free.
	AvailableIPv4 int64 `json:"availableIPv4"`

	// AvailableIPv6 is the number of IPv6 addresses that are free.
	AvailableIPv6 int64 `json:"availableIPv6"`

	// FormerHolders are Services that are gone, and the addresses that are kept for
	// their return: others get them before only if nothing else is free. They are the
	// latest ones; some may have come back, or be forgotten already.
	// +optional
	// +listType=atomic
	FormerHolders []FormerHolder `json:"formerHolders,omitempty"`

	// Conditions say whether the pool is in force, and if not, why.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// FormerHolder is a Service that is gone.
type FormerHolder struct {
	// Namespace is the namespace that the Service was in.
	Namespace string `json:"namespace"`
	// Name is the name that the Service had.
	Name string `json:"name"`
	// Addresses are those that it held.
	// +listType=atomic
	Addresses []string `json:"addresses"`
	// Until is when they stop being kept.
	Until metav1.Time `json:"until"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:path=ipaddresspools,scope=Namespaced
// +kubebuilder:printcolumn:name="Auto Assign",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="Avoid Buggy IPs",type=boolean,JSONPath=`.spec.avoidBuggyIPs`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`

// IPAddressPool is a set of addresses that Services of type LoadBalancer may be
// given.
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPAddressPoolSpec   `json:"spec"`
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// IPAddressPoolList is a list of IPAddressPools.
type IPAddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAddressPool `json:"items"`
}
