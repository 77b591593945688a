// Package v1beta2 holds the Go types of the API group metallb.io in version
// v1beta2: [BGPPeer], the only kind of that version. It is the version that is
// stored and the one that BareLB reads; see docs/adr/0002-bgppeer-conversion.md
// for how it relates to that of v1beta1, and the package v1beta1 for the rest.
//
// +kubebuilder:object:generate=true
// +groupName=metallb.io
package v1beta2
