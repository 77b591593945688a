// Package v1alpha1 holds the kinds of BareLB's own that MetalLB does not have.
// Users need not write any of them; they are in a group apart, so that MetalLB's
// CRDs and these never touch each other.
//
// +kubebuilder:object:generate=true
// +groupName=barelb.io
package v1alpha1
