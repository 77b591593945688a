// Package v1beta1 holds the Go types of the API group metallb.io in version
// v1beta1: what users write ([IPAddressPool], [L2Advertisement],
// [BGPAdvertisement], [BGPPeer], [BFDProfile], [Community]) and what BareLB
// reports ([ServiceL2Status], [ServiceBGPStatus], [ConfigurationState]).
//
// The JSON names, defaults and bounds are those of MetalLB, so that manifests
// written for it work unchanged; the types carry no logic. What one object can
// say wrong about itself is refused by the schema. What objects say wrong about
// each other, and text that the schema cannot judge (an address, a range, a
// community), is judged in internal/core/config, which sets the one object aside.
//
// A value that the Go types could not hold must not pass the schema: a list that
// has one undecodable item is undecodable as a whole.
//
// The CustomResourceDefinitions in deploy/crds and the deep copies are generated
// from this package: run `make generate` after every change.
//
// +kubebuilder:object:generate=true
// +groupName=metallb.io
package v1beta1
