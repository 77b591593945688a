package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddressClaimSpec says who may use one address.
type AddressClaimSpec struct {
	// Address is the address in its canonical text form. The object's name is made
	// of it.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="Value is immutable"
	Address string `json:"address"`

	// Holders are the Services that the address is given to: one, or several that
	// share it.
	// +optional
	// +listType=map
	// +listMapKey=uid
	Holders []AddressHolder `json:"holders,omitempty"`
}

// AddressHolder is one Service that an address is given to, and what decides
// whether others may share it.
type AddressHolder struct {
	// UID is that of the Service: one that is created again under the same name is
	// another.
	UID string `json:"uid"`
	// Namespace is the namespace of the Service.
	Namespace string `json:"namespace"`
	// Name is the name of the Service.
	Name string `json:"name"`

	// SharingKey is the value of its allow-shared-ip annotation. Empty: it shares
	// with nobody.
	// +optional
	SharingKey string `json:"sharingKey,omitempty"`

	// Backend is its selector if its externalTrafficPolicy is Local: only Services
	// with the same one may share an address then.
	// +optional
	Backend string `json:"backend,omitempty"`

	// Ports are the ports that it listens on, which no sharer may listen on too.
	// +optional
	// +listType=atomic
	Ports []HolderPort `json:"ports,omitempty"`

	// Released says that the address is being taken from the Service: nobody may
	// write it into the Service's status any more.
	// +optional
	Released bool `json:"released,omitempty"`
}

// HolderPort is one port of a Service.
type HolderPort struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol string `json:"protocol"`
	// Port is the number that clients connect to.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:resource:path=addressclaims,scope=Namespaced
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Namespaces",type=string,JSONPath=`.spec.holders[*].namespace`
// +kubebuilder:printcolumn:name="Services",type=string,JSONPath=`.spec.holders[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// AddressClaim says that an address is given, and to whom. The controller makes it
// before it writes the address into a Service's status, and removes it when no
// Service holds the address any more. The API server lets only one writer make or
// change it at a time, so that two controllers cannot give one address twice.
type AddressClaim struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AddressClaimSpec `json:"spec"`
}

// +kubebuilder:object:root=true

// AddressClaimList is a list of AddressClaims.
type AddressClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressClaim `json:"items"`
}
