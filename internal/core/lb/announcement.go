package lb

import (
	"fmt"
	"slices"
	"strings"
)

// namedNodes is how many nodes a message names before it counts the others.
const namedNodes = 10

// Announcement says which nodes announce a Service, as their speakers report it.
// The zero value means nowhere.
type Announcement struct {
	L2  []string // nodes that answer for its addresses, sorted; one as a rule
	BGP []string // nodes that tell routers, sorted
}

// Equal reports whether a and o say the same.
func (a Announcement) Equal(o Announcement) bool {
	return slices.Equal(a.L2, o.L2) && slices.Equal(a.BGP, o.BGP)
}

// Condition returns what the Service's condition Announced says: whether it is
// true, the reason, and a message, which stays short however many nodes there are.
func (a Announcement) Condition() (bool, Reason, string) {
	var parts []string
	for _, p := range []struct {
		protocol string
		nodes    []string
	}{{"layer2", a.L2}, {"bgp", a.BGP}} {
		if len(p.nodes) > 0 {
			parts = append(parts, p.protocol+" from "+enumerate(p.nodes))
		}
	}
	if len(parts) == 0 {
		return false, NotAnnounced, "no node announces it: ConfigurationStates say what is wrong with the configuration, the speakers' logs of level debug why each does not announce it"
	}
	return true, Announced, strings.Join(parts, "; ")
}

// enumerate names the first nodes and counts the others.
func enumerate(nodes []string) string {
	rest := len(nodes) - namedNodes
	switch {
	case len(nodes) == 1:
		return nodes[0]
	case rest == 1:
		return strings.Join(nodes[:namedNodes], ", ") + " and 1 other"
	case rest > 1:
		return fmt.Sprintf("%s and %d others", strings.Join(nodes[:namedNodes], ", "), rest)
	}
	last := len(nodes) - 1
	return strings.Join(nodes[:last], ", ") + " and " + nodes[last]
}
