// Package arch holds the tests of the repository itself: who may import whom,
// that packages are documented, that examples parse and that what the documents
// name exists.
package arch
