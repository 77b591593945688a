package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ConfigurationResult is what a component makes of the configuration as a whole.
//
// +kubebuilder:validation:Enum=Valid;Invalid;Unknown
type ConfigurationResult string

// The values of ConfigurationResult.
const (
	// ConfigurationValid: every object is in force.
	ConfigurationValid ConfigurationResult = "Valid"
	// ConfigurationInvalid: at least one object is set aside.
	ConfigurationInvalid ConfigurationResult = "Invalid"
	// ConfigurationUnknown: the configuration has not been read yet.
	ConfigurationUnknown ConfigurationResult = "Unknown"
)

// The types of the conditions of a ConfigurationState.
const (
	// ConditionPoolReconcilerValid is the controller's.
	ConditionPoolReconcilerValid = "poolReconcilerValid"
	// ConditionConfigReconcilerValid is a speaker's.
	ConditionConfigReconcilerValid = "configReconcilerValid"
	// ConditionKubeProxyHealthy says whether the kube-proxy of a speaker's node is
	// healthy. It is not there where none is watched.
	ConditionKubeProxyHealthy = "KubeProxyHealthy"
)

// The reasons of the conditions of a ConfigurationState.
const (
	ReasonReconciled         = "Reconciled"
	ReasonConfigurationError = "ConfigurationError"
	ReasonUnknownError       = "UnknownError"
)

// ConfigurationStateStatus is one component's verdict on the configuration.
type ConfigurationStateStatus struct {
	// Result sums it up.
	// +optional
	Result ConfigurationResult `json:"result,omitempty"`

	// ErrorSummary says what is wrong, one line for each problem, or two where the words
	// are MetalLB's. It is empty when Result is Valid.
	// +optional
	ErrorSummary string `json:"errorSummary,omitempty"`

	// Conditions are the verdicts of the component's parts.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:path=configurationstates,scope=Namespaced
// +kubebuilder:printcolumn:name="Result",type=string,JSONPath=`.status.result`
// +kubebuilder:printcolumn:name="ErrorSummary",type=string,JSONPath=`.status.errorSummary`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// ConfigurationState reports what one component, the controller or a speaker,
// makes of the configuration. The label metallb.io/component-type says which, and
// metallb.io/node-name on which node.
type ConfigurationState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status ConfigurationStateStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// ConfigurationStateList is a list of ConfigurationStates.
type ConfigurationStateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ConfigurationState `json:"items"`
}
