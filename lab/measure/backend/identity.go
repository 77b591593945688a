package backend

import "strings"

// Identity says which pod on which node gave an answer. Both are names
// without spaces; either may be empty where it is not known.
type Identity struct {
	Pod  string
	Node string
}

// String is the form on the wire and in a user's terminal: "pod=web-1 node=node2".
func (i Identity) String() string {
	return "pod=" + i.Pod + " node=" + i.Node
}

// ParseIdentity finds an identity in an answer and reports whether there was
// one. What stands around it is ignored, so that it serves for HTTP bodies,
// datagrams and lines alike.
func ParseIdentity(answer string) (Identity, bool) {
	var id Identity
	pod, node := false, false
	for field := range strings.FieldsSeq(answer) {
		if v, ok := strings.CutPrefix(field, "pod="); ok {
			id.Pod, pod = v, true
		}
		if v, ok := strings.CutPrefix(field, "node="); ok {
			id.Node, node = v, true
		}
	}
	return id, pod && node
}
