package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddressConflictSpec says who uses an address that a pool could give.
type AddressConflictSpec struct {
	// Address is the address in its canonical text form. The object's name is made
	// of it.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="Value is immutable"
	Address string `json:"address"`

	// MAC is the link-layer address that answers for the address, in lower case
	// with colons.
	MAC string `json:"mac"`

	// Node is the node whose speaker heard the answer. It asks again each minute,
	// and removes this object when nobody answers any more.
	Node string `json:"node"`

	// Interface is the link of that node on which the answer came.
	// +optional
	Interface string `json:"interface,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:resource:path=addressconflicts,scope=Namespaced
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.spec.mac`
// +kubebuilder:printcolumn:name="Seen by",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// AddressConflict says that somebody outside the cluster answers for an address of
// a pool that no Service holds. The controller does not give that address. It is
// written by a speaker.
type AddressConflict struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AddressConflictSpec `json:"spec"`
}

// +kubebuilder:object:root=true

// AddressConflictList is a list of AddressConflicts.
type AddressConflictList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressConflict `json:"items"`
}
