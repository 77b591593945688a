//go:build !race

package liveness_test

// raceOn says whether the race detector runs, which slows simulations down tenfold.
const raceOn = false
