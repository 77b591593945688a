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
			parts = append(parts, p.protocol+" from "+Enumerate(p.nodes, namedNodes))
		}
	}
	if len(parts) == 0 {
		return false, NotAnnounced, "no node announces it: ConfigurationStates say what is wrong with the configuration, the speakers' logs of level debug why each does not announce it"
	}
	return true, Announced, strings.Join(parts, "; ")
}

// Enumerate names the first most of at least one name, and counts the others.
func Enumerate(names []string, most int) string {
	rest := len(names) - most
	switch {
	case len(names) == 1:
		return names[0]
	case rest == 1:
		return strings.Join(names[:most], ", ") + " and 1 other"
	case rest > 1:
		return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), rest)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
