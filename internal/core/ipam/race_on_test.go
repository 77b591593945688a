//go:build race

package ipam_test

// raceEnabled says that everything takes ten times as long.
const raceEnabled = true
