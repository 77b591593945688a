package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//nolint:gochecknoglobals // the names that every Kubernetes API package exports; never written to
var (
	// GroupVersion is barelb.io/v1alpha1.
	GroupVersion = schema.GroupVersion{Group: "barelb.io", Version: "v1alpha1"}

	// SchemeBuilder collects what adds the types of this package to a scheme.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the types of this package to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&AddressClaim{}, &AddressClaimList{},
		&AddressConflict{}, &AddressConflictList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
