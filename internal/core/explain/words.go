package explain

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
)

// mostNamed is how many things a sentence names before it counts the others.
const mostNamed = 8

// list names the first things and counts the others.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return lb.Enumerate(names, mostNamed)
}

// verb returns the form of a verb for so many: "node1 runs", "node1 and node2 run".
func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// roundAge prints a time as kubectl does.
func roundAge(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// tally counts nodes by their reasons.
type tally map[lb.Reason][]string

func (t tally) add(r lb.Reason, node string) { t[r] = append(t[r], node) }

// lines says which nodes have which reason, the most frequent one first.
func (t tally) lines() []string {
	var out []string
	for _, r := range t.order() {
		out = append(out, fmt.Sprintf("%s: %s", r, list(t[r])))
	}
	return out
}

// order returns the reasons, the most frequent one first; but last that nothing selects a
// node, which says nothing of those that something does select.
func (t tally) order() []lb.Reason {
	reasons := slices.Sorted(maps.Keys(t))
	rank := func(r lb.Reason) int {
		if r == lb.NoMatchingAdvertisement {
			return 0
		}
		return len(t[r])
	}
	slices.SortStableFunc(reasons, func(a, b lb.Reason) int { return rank(b) - rank(a) })
	return reasons
}

// named returns the first lines, and says how many more there are.
func named(lines []string) []string {
	if n := len(lines) - mostNamed; n > 1 {
		return append(slices.Clone(lines[:mostNamed]), fmt.Sprintf("and %d more", n))
	}
	return lines
}
