// Package api holds no code: the types of the Kubernetes API are in the packages
// below it, one for each version. Its tests hold the generated
// CustomResourceDefinitions and the install manifest against a real API server.
package api
