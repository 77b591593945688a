package v1beta1

import "k8s.io/apimachinery/pkg/runtime"

// LastGood is the last version of an object's spec that was in force.
type LastGood struct {
	// Generation is the metadata.generation of the object that had it.
	Generation int64 `json:"generation"`

	// Spec is that version. It holds no password; names of communities are replaced by
	// what they stood for.
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec runtime.RawExtension `json:"spec"`
}

// LastGoodPeer is the last version of a BGPPeer's spec that was in force.
type LastGoodPeer struct {
	LastGood `json:",inline"`

	// PasswordInSpec tells that the spec had a password. It is not kept: the one that the
	// object has now is used in its place.
	// +optional
	PasswordInSpec bool `json:"passwordInSpec,omitempty"`

	// BFDProfile is the spec of the BFDProfile that it referred to.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	BFDProfile *runtime.RawExtension `json:"bfdProfile,omitempty"`
}
