package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BFDProfileSpec holds the parameters of a BFD session (RFC 5880).
type BFDProfileSpec struct {
	// ReceiveInterval is the shortest interval, in milliseconds, at which the node
	// can receive control packets. Unset: 300.
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	ReceiveInterval *uint32 `json:"receiveInterval,omitempty"`

	// TransmitInterval is the shortest interval, in milliseconds and before jitter,
	// at which the node wants to send control packets. Unset: 300.
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	TransmitInterval *uint32 `json:"transmitInterval,omitempty"`

	// DetectMultiplier is the number of packets that may be missed in a row before
	// the session is down. Unset: 3.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier *uint32 `json:"detectMultiplier,omitempty"`

	// EchoInterval is the shortest interval, in milliseconds, at which the node can
	// handle echo packets. Unset: 50.
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	EchoInterval *uint32 `json:"echoInterval,omitempty"`

	// EchoMode turns on the echo function, which single-hop sessions can use.
	// +optional
	EchoMode *bool `json:"echoMode,omitempty"`

	// PassiveMode has the node wait for the router's first packet.
	// +optional
	PassiveMode *bool `json:"passiveMode,omitempty"`

	// StrictMode keeps the BGP sessions that use the profile from being opened before BFD
	// is up. An addition of BareLB's.
	// +optional
	StrictMode *bool `json:"strictMode,omitempty"`

	// MinimumTTL is the least TTL that packets of a multihop session must arrive
	// with.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL *uint32 `json:"minimumTtl,omitempty"`
}

// BFDProfileStatus is what BareLB says of the profile.
type BFDProfileStatus struct {
	// Conditions say whether the profile is in force, and if not, why.
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
// +kubebuilder:resource:path=bfdprofiles,scope=Namespaced
// +kubebuilder:printcolumn:name="Passive Mode",type=boolean,JSONPath=`.spec.passiveMode`
// +kubebuilder:printcolumn:name="Transmit Interval",type=integer,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Receive Interval",type=integer,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`

// BFDProfile is a set of BFD parameters that BGPPeers refer to by name.
type BFDProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BFDProfileSpec   `json:"spec,omitempty"`
	Status BFDProfileStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// BFDProfileList is a list of BFDProfiles.
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}
