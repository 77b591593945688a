package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// CommunitySpec defines names for communities.
type CommunitySpec struct {
	// Communities are the names with their values.
	// +optional
	Communities []CommunityAlias `json:"communities,omitempty"`
}

// CommunityAlias is a name that BGPAdvertisements may use for a community.
type CommunityAlias struct {
	// Name must be unique among all Community objects.
	// +optional
	Name string `json:"name,omitempty"`

	// Value is a standard community such as 64512:100 or a large one such as
	// large:64512:1:100.
	// +optional
	Value string `json:"value,omitempty"`
}

// CommunityStatus is what BareLB says of the object.
type CommunityStatus struct {
	// Conditions say whether the aliases are in force, and if not, why.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:path=communities,scope=Namespaced

// Community names BGP communities, so that BGPAdvertisements can refer to them by
// name.
type Community struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CommunitySpec   `json:"spec,omitempty"`
	Status CommunityStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// CommunityList is a list of Community objects.
type CommunityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Community `json:"items"`
}
