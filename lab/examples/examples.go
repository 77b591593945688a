// Package examples holds the manifests that `make lab` applies and the demo measures.
package examples

import _ "embed" // the manifests

// Pool is the README's pool of one address, to the letter.
//
//go:embed pool.yaml
var Pool string

// Layer2 announces the pool by Layer 2.
//
//go:embed layer2.yaml
var Layer2 string

// BGP announces the pool to router1, the lab's router with its default AS numbers.
//
//go:embed bgp.yaml
var BGP string
