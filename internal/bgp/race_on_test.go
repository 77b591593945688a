//go:build race

package bgp_test

// raceEnabled says that the process is larger, by what nobody can foretell.
const raceEnabled = true
