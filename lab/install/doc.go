// Package install holds the test that Helm installs BareLB on real nodes, and takes it away again.
package install
