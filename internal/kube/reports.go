package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
)

// subject is what an announcement is about.
type subject struct {
	uid   string
	addrs []netip.Addr
}

func (s subject) equal(o subject) bool { return s.uid == o.uid && slices.Equal(s.addrs, o.addrs) }

// recordEvent records that the node announces a Service, if that is new. exists
// says that the object is there: then a former process has said so, and nothing has
// happened since.
func (w *AnnouncementWriter) recordEvent(id reportID, exists bool) { //nolint:revive // a fact
	w.mu.Lock()
	want, wanted := w.want[id]
	said, told := w.said[id]
	if wanted {
		w.said[id] = want.about
	} else {
		delete(w.said, id)
	}
	w.mu.Unlock()
	if !wanted || told && said.equal(want.about) || !told && exists {
		return
	}
	protocol := "layer2"
	if id.bgp {
		protocol = "bgp"
	}
	w.c.ServiceEvent(&lb.Service{Key: want.key, UID: want.about.uid}, false, EventNodeAssigned, NodeAssigned(w.c.opts.NodeName, protocol))
}

// name returns the name of the object about a Service on this node.
func (w *AnnouncementWriter) name(prefix string, key lb.Key) string {
	const digits = 20 // of ten million names no two are equal, but for one chance in ten billion
	sum := sha256.Sum256([]byte(w.c.opts.NodeName + "\n" + key.String()))
	return prefix + hex.EncodeToString(sum[:])[:digits]
}

// nodeLabel returns the value of the label that names a node. The names of nodes
// may be longer than the values of labels: then it is the name's beginning and a
// hash of all of it.
func nodeLabel(node string) string {
	const most, digits = 63, 16
	if len(node) <= most {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return node[:most-digits-1] + "-" + hex.EncodeToString(sum[:])[:digits]
}

// tell makes o's status say what it shall, and reports whether it did not yet.
func (w *AnnouncementWriter) tell(o client.Object, want report) bool {
	node, key := w.c.opts.NodeName, want.key
	switch o := o.(type) {
	case *v1beta1.ServiceL2Status:
		s := v1beta1.ServiceL2StatusStatus{Node: node, ServiceName: key.Name, ServiceNamespace: key.Namespace}
		for _, name := range want.names {
			s.Interfaces = append(s.Interfaces, v1beta1.InterfaceInfo{Name: name})
		}
		was := o.Status
		o.Status = s
		return was.Node != s.Node || was.ServiceName != s.ServiceName || was.ServiceNamespace != s.ServiceNamespace ||
			!slices.Equal(was.Interfaces, s.Interfaces)
	case *v1beta1.ServiceBGPStatus:
		s := v1beta1.ServiceBGPStatusStatus{Node: node, ServiceName: key.Name, ServiceNamespace: key.Namespace, Peers: want.names}
		was := o.Status
		o.Status = s
		return was.Node != s.Node || was.ServiceName != s.ServiceName || was.ServiceNamespace != s.ServiceNamespace ||
			!slices.Equal(was.Peers, s.Peers)
	}
	return false
}
