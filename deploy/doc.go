// Package deploy holds what installs BareLB: the kinds (crds, and their chart crds-chart), the chart, and what make generate
// renders from it with its default values: manifests, which kustomize takes, and install.yaml.
package deploy
