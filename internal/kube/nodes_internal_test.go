package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/internal/core/lb"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// A point in time, in the API's precision.
var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func ready(status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
	return corev1.NodeCondition{Type: corev1.NodeReady, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(noon)}
}

func TestConvertNode(t *testing.T) {
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeStatus {
		return corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready(corev1.ConditionTrue, "", ""), {Type: kind, Status: status}}}
	}
	conditions := func(c ...corev1.NodeCondition) corev1.NodeStatus { return corev1.NodeStatus{Conditions: c} }
	const exclude = "node.kubernetes.io/exclude-from-external-load-balancers"
	for name, c := range map[string]struct {
		labels map[string]string
		status corev1.NodeStatus
		want   knownNode
	}{
		"plain":           {nil, corev1.NodeStatus{}, knownNode{}},
		"ready":           {nil, conditions(ready(corev1.ConditionTrue, "KubeletReady", "")), knownNode{}},
		"not ready":       {nil, conditions(ready(corev1.ConditionFalse, "KubeletNotReady", "")), knownNode{Node: lb.Node{NotReadySince: noon}}},
		"silent":          {nil, conditions(ready(corev1.ConditionUnknown, "NodeStatusUnknown", "")), knownNode{Node: lb.Node{NotReadySince: noon}}},
		"disk pressure":   {nil, condition(corev1.NodeDiskPressure, corev1.ConditionTrue), knownNode{}},
		"no network":      {nil, condition(corev1.NodeNetworkUnavailable, corev1.ConditionTrue), knownNode{Node: lb.Node{NetworkUnavailable: true}}},
		"network":         {nil, condition(corev1.NodeNetworkUnavailable, corev1.ConditionFalse), knownNode{}},
		"network unknown": {nil, condition(corev1.NodeNetworkUnavailable, corev1.ConditionUnknown), knownNode{}},
		"excluded":        {map[string]string{exclude: ""}, corev1.NodeStatus{}, knownNode{Node: lb.Node{Excluded: true}}},
		"excluded, false": {map[string]string{exclude: "false"}, corev1.NodeStatus{}, knownNode{Node: lb.Node{Excluded: true}}}, // any value, as in Kubernetes
		"addresses": {nil, corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "n"},
			{Type: corev1.NodeExternalIP, Address: "203.0.113.9"},
			{Type: corev1.NodeInternalIP, Address: "2001:db8::9"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.9"},
			{Type: corev1.NodeExternalIP, Address: "192.0.2.9"},
			{Type: corev1.NodeInternalIP, Address: "nonsense"},
		}}, knownNode{
			Internal: netip.MustParseAddr("2001:db8::9"),
			Node:     lb.Node{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Name, c.want.Labels = "n", c.labels
			got := convertNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: c.labels}, Status: c.status})
			if diff := cmp.Diff(c.want, got, sameAddr); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	// A condition without a time is as old as the node, and never zero.
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	o.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
	if convertNode(o).NotReadySince.IsZero() {
		t.Error("a node that is not ready passes for one that is")
	}
	o.CreationTimestamp = metav1.NewTime(noon)
	if got := convertNode(o).NotReadySince; !got.Equal(noon) {
		t.Errorf("not ready since %s", got)
	}
}

// A node may leave for several reasons: the first one is told.
func TestLeaving(t *testing.T) {
	drain := map[string]string{"barelb.io/drain": ""}
	taints := func(keys ...string) (out []corev1.Taint) {
		for _, k := range keys {
			out = append(out, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
		}
		return out
	}
	shutdown := ready(corev1.ConditionFalse, "KubeletNotReady", "[container runtime is down, node is shutting down]. WARNING: x")
	for name, c := range map[string]struct {
		annotations map[string]string
		taints      []corev1.Taint
		ready       corev1.NodeCondition
		want        string
	}{
		"nothing":                 {want: ""},
		"drain":                   {annotations: drain, want: "annotation barelb.io/drain"},
		"drain, true":             {annotations: map[string]string{"barelb.io/drain": "true"}, want: "annotation barelb.io/drain"},
		"drain, false":            {annotations: map[string]string{"barelb.io/drain": "false"}, want: ""},
		"out of service":          {taints: taints("x", "node.kubernetes.io/out-of-service"), want: "taint node.kubernetes.io/out-of-service"},
		"autoscaler":              {taints: taints("ToBeDeletedByClusterAutoscaler"), want: "taint ToBeDeletedByClusterAutoscaler"},
		"both taints":             {taints: taints("ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/out-of-service"), want: "taint node.kubernetes.io/out-of-service"},
		"cordoned":                {taints: taints("node.kubernetes.io/unschedulable"), want: ""},
		"shutdown":                {ready: shutdown, want: "node is shutting down"},
		"shutdown and drain":      {ready: shutdown, annotations: drain, want: "annotation barelb.io/drain"},
		"not ready":               {ready: ready(corev1.ConditionFalse, "KubeletNotReady", "container runtime is down"), want: ""},
		"silent":                  {ready: ready(corev1.ConditionUnknown, "NodeStatusUnknown", "node is shutting down"), want: ""},
		"somebody else's message": {ready: ready(corev1.ConditionFalse, "Other", "node is shutting down"), want: ""},
	} {
		o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: c.annotations}, Spec: corev1.NodeSpec{Taints: c.taints}}
		if c.ready.Type != "" {
			o.Status.Conditions = []corev1.NodeCondition{c.ready}
		}
		if got := convertNode(o).Leaving; got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// richNode is a node with all that kubelets and others write.
func richNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"kubernetes.io/hostname": name, "rack": "7"},
			Annotations: map[string]string{"barelb.io/drain": "yes", "csi.volume.kubernetes.io/nodeid": "{}"},
		},
		Spec: corev1.NodeSpec{
			PodCIDR: "10.244.1.0/24", ProviderID: "x", Unschedulable: true,
			Taints: []corev1.Taint{{Key: "node.kubernetes.io/unschedulable", Effect: corev1.TaintEffectNoSchedule}},
		},
		Status: corev1.NodeStatus{
			Images: []corev1.ContainerImage{{Names: []string{"i"}}}, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.9"}},
			Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue},
				{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse},
				{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
				ready(corev1.ConditionFalse, "KubeletNotReady", "node is shutting down"),
			},
		},
	}
}

func TestSlimNodeLosesNothingThatIsRead(t *testing.T) {
	node := richNode("n")
	before := convertNode(node)
	if _, err := slim(node); err != nil {
		t.Fatal(err)
	}
	if len(node.Annotations) != 1 || node.Spec.PodCIDR != "" || node.Status.Images != nil || len(node.Status.Conditions) != 2 {
		t.Errorf("it keeps %+v", node)
	}
	if diff := cmp.Diff(before, convertNode(node), sameAddr); diff != "" {
		t.Error(diff)
	}
}

func TestHeartbeatsAreNoNews(t *testing.T) {
	f := (&Cluster{}).Feed()
	o := richNode("n")
	o.Annotations, o.Spec, o.Status.Conditions = nil, corev1.NodeSpec{}, []corev1.NodeCondition{ready(corev1.ConditionTrue, "KubeletReady", "")}
	for _, c := range []struct {
		name   string
		change func()
		news   bool
	}{
		{"new", func() {}, true},
		{"heartbeat", func() { o.Status.Conditions[0].LastHeartbeatTime = metav1.Now(); o.ResourceVersion = "7" }, false},
		{"images", func() { o.Status.Images = nil }, false},
		{"other annotation", func() { o.Annotations = map[string]string{"x": "y"} }, false},
		{"other taint", func() { o.Spec.Taints = []corev1.Taint{{Key: "x"}} }, false},
		{"disk pressure", func() {
			o.Status.Conditions = append(o.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
		}, false},
		{"label", func() { o.Labels = maps.Clone(o.Labels); o.Labels["a"] = "c" }, true},
		{"address", func() { o.Status.Addresses[0].Address = "192.0.2.10" }, true},
		{"cordon", func() { o.Spec.Unschedulable = true }, true},
		{"uncordon", func() { o.Spec.Unschedulable = false }, true},
		{"not ready", func() { o.Status.Conditions[0] = ready(corev1.ConditionFalse, "KubeletNotReady", "x") }, true},
		{"heartbeat while not ready", func() {
			o.Status.Conditions[0].Message, o.Status.Conditions[0].LastHeartbeatTime = "y", metav1.Now()
		}, false},
		{"silent", func() {
			o.Status.Conditions[0].Status, o.Status.Conditions[0].LastTransitionTime = corev1.ConditionUnknown, metav1.NewTime(noon.Add(time.Minute))
		}, false},
		{"ready again", func() { o.Status.Conditions[0] = ready(corev1.ConditionTrue, "KubeletReady", "") }, true},
		{"shutdown", func() {
			o.Status.Conditions[0] = ready(corev1.ConditionFalse, "KubeletNotReady", "node is shutting down")
		}, true},
		{"drain", func() { o.Annotations = map[string]string{"barelb.io/drain": ""} }, true},
		{"drain again", func() { o.Annotations = map[string]string{"barelb.io/drain": "2026-07-01"} }, false},
		{"network", func() { o.Status.Conditions[1].Type = corev1.NodeNetworkUnavailable }, true},
	} {
		c.change()
		f.onNode(o.DeepCopy(), false)
		d, ok := signalled(f)
		if ok != c.news || ok && len(d.Nodes) != 1 {
			t.Errorf("%s: news %t, nodes %v", c.name, ok, d.Nodes)
		}
	}
	f.onNode(o, true)
	if d, ok := signalled(f); !ok || d.Nodes == nil || len(d.Nodes) > 0 {
		t.Errorf("gone: news %t, nodes %v", ok, d.Nodes)
	}
}

// BenchmarkHeartbeats is a heartbeat of each of 1,000 nodes.
func BenchmarkHeartbeats(b *testing.B) {
	const nodes = 1000
	f := (&Cluster{}).Feed()
	objects := make([]*corev1.Node, nodes)
	for i := range objects {
		objects[i] = richNode(fmt.Sprint("node", i))
		slimNode(objects[i])
		f.onNode(objects[i], false)
	}
	signalled(f)
	b.ReportAllocs()
	for b.Loop() {
		for _, o := range objects {
			f.onNode(o, false)
		}
	}
	if d, ok := signalled(f); ok {
		b.Errorf("heartbeats are news: %+v", d)
	}
}
