package kube_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/internal/kube"
)

// stay is a speaker that ends: its node, DaemonSet and Pod.
type stay struct {
	l    *lab
	node *corev1.Node
	set  *appsv1.DaemonSet
	pod  *corev1.Pod
}

func newStay(l *lab) *stay {
	s := &stay{l: l, node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: l.namespace, Labels: map[string]string{"kubernetes.io/os": "linux", "gpus": "4"}}}}
	l.create(s.node)
	spec := corev1.PodSpec{NodeSelector: map[string]string{"kubernetes.io/os": "linux"}, Containers: []corev1.Container{{Name: "c", Image: "x"}}}
	s.set = &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "speaker"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: spec},
	}}
	l.create(s.set)
	s.pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: l.namespace, Labels: map[string]string{"a": "b"}}, Spec: spec}
	s.pod.Spec.NodeName = s.node.Name
	yes := true
	s.pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: s.set.Name, UID: s.set.UID, Controller: &yes}}
	l.create(s.pod)
	return s
}

func (s *stay) options() kube.Options {
	return kube.Options{NodeName: s.node.Name, PodName: s.pod.Name, Endpoints: true}
}

// departs checks what c says of its end; want is part of why it leaves, or "" for a restart.
func (s *stay) departs(c *kube.Cluster, want string) {
	s.l.t.Helper()
	began := time.Now()
	leaving, why := c.Departure(s.l.t.Context())
	if leaving != (want != "") || (why == "") != (want == "") || !strings.Contains(why, want) {
		s.l.t.Errorf("leaving %t, why %q; want %q", leaving, why, want)
	}
	if took := time.Since(began); took > 3*time.Second {
		s.l.t.Errorf("it took %s", took)
	}
}

func (s *stay) affinity(terms ...corev1.NodeSelectorTerm) {
	s.l.t.Helper()
	edit(s.l, s.set, func(o *appsv1.DaemonSet) {
		o.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
		}}
	})
}

func TestDeparture(t *testing.T) {
	term := func(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
	}
	named := func(name string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}}
	}
	for name, c := range map[string]struct {
		change func(*stay)
		want   string
	}{
		"restart":      {func(*stay) {}, ""},
		"upgrade":      {func(s *stay) { s.l.delete(s.pod); s.image("y") }, ""}, // it has a deletion timestamp, and the DaemonSet another image
		"Pod gone":     {func(s *stay) { s.removePod() }, ""},
		"drain":        {func(s *stay) { s.annotate("barelb.io/drain", "true") }, "barelb.io/drain"},
		"drain over":   {func(s *stay) { s.annotate("barelb.io/drain", "false") }, ""},
		"cordon":       {func(s *stay) { edit(s.l, s.node, func(o *corev1.Node) { o.Spec.Unschedulable = true }) }, "cordoned"},
		"excluded":     {func(s *stay) { s.label("node.kubernetes.io/exclude-from-external-load-balancers", "") }, "exclude-from-external"},
		"node gone":    {func(s *stay) { s.l.delete(s.node) }, "is gone"},
		"shutdown":     {func(s *stay) { s.shutDown() }, "shutting down"},
		"autoscaler":   {func(s *stay) { s.taint("ToBeDeletedByClusterAutoscaler", corev1.TaintEffectNoSchedule) }, "ToBeDeletedByClusterAutoscaler"},
		"evicted":      {func(s *stay) { s.taint("maintenance", corev1.TaintEffectNoExecute) }, "taint maintenance"},
		"not evicted":  {func(s *stay) { s.taint("maintenance", corev1.TaintEffectNoSchedule) }, ""},
		"not replaced": {func(s *stay) { s.taint("maintenance", corev1.TaintEffectNoSchedule); s.l.delete(s.pod) }, "taint maintenance"},
		"replaced nevertheless": {func(s *stay) {
			s.taint("node.kubernetes.io/disk-pressure", corev1.TaintEffectNoSchedule)
			s.l.delete(s.pod)
		}, ""},
		"unreachable":  {func(s *stay) { s.taint("node.kubernetes.io/unreachable", corev1.TaintEffectNoExecute) }, ""},
		"not selected": {func(s *stay) { s.selectNodes(map[string]string{"rack": "7"}) }, "nodeSelector"},
		"selected":     {func(s *stay) { s.selectNodes(map[string]string{"gpus": "4"}) }, ""},
		"repelled": {func(s *stay) {
			s.affinity(term("rack", corev1.NodeSelectorOpExists), term("gpus", corev1.NodeSelectorOpGt, "4"))
		}, "affinity"},
		"attracted": {func(s *stay) {
			s.affinity(term("rack", corev1.NodeSelectorOpExists), term("gpus", corev1.NodeSelectorOpGt, "3"))
		}, ""},
		"other name": {func(s *stay) { s.affinity(named("another")) }, "affinity"},
		"own name":   {func(s *stay) { s.affinity(named(s.node.Name)) }, ""},
		"uninstall":  {func(s *stay) { s.l.delete(s.set) }, "DaemonSet speaker is gone"},
		"DaemonSet being deleted": {func(s *stay) {
			edit(s.l, s.set, func(o *appsv1.DaemonSet) { o.Finalizers = []string{"example.com/wait"} })
			s.l.delete(s.set)
			s.l.t.Cleanup(func() {
				s.set.ResourceVersion = ""
				patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
				if err := s.l.client.Patch(context.WithoutCancel(s.l.t.Context()), s.set, patch); err != nil {
					s.l.t.Error(err)
				}
			})
		}, "is being deleted"},
		"uninstall and Pod gone": {func(s *stay) { s.l.delete(s.set); s.removePod() }, ""}, // nobody knows any more whose it was
	} {
		t.Run(name, func(t *testing.T) {
			s := newStay(newLab(t))
			c.change(s)
			s.departs(s.l.connect(s.options()), c.want)
		})
	}
}

func (s *stay) image(name string) {
	s.l.t.Helper()
	edit(s.l, s.set, func(o *appsv1.DaemonSet) { o.Spec.Template.Spec.Containers[0].Image = name })
}

func (s *stay) removePod() {
	s.l.t.Helper()
	if err := s.l.client.Delete(s.l.t.Context(), s.pod, client.GracePeriodSeconds(0)); err != nil {
		s.l.t.Fatal(err)
	}
}

func (s *stay) annotate(key, value string) {
	s.l.t.Helper()
	edit(s.l, s.node, func(o *corev1.Node) { o.Annotations = map[string]string{key: value} })
}

func (s *stay) label(key, value string) {
	s.l.t.Helper()
	edit(s.l, s.node, func(o *corev1.Node) { o.Labels[key] = value })
}

func (s *stay) taint(key string, effect corev1.TaintEffect) {
	s.l.t.Helper()
	edit(s.l, s.node, func(o *corev1.Node) { o.Spec.Taints = []corev1.Taint{{Key: key, Effect: effect}} })
}

func (s *stay) selectNodes(sel map[string]string) {
	s.l.t.Helper()
	edit(s.l, s.set, func(o *appsv1.DaemonSet) { o.Spec.Template.Spec.NodeSelector = sel })
}

func (s *stay) shutDown() {
	s.l.t.Helper()
	editStatus(s.l, s.node, func(o *corev1.Node) {
		o.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: "node is shutting down", LastTransitionTime: metav1.Now(),
		}}
	})
}

// Where the exclude label is not heeded, it is no reason to leave.
func TestDepartureIgnoresWhatPlanningIgnores(t *testing.T) {
	s := newStay(newLab(t))
	s.label("node.kubernetes.io/exclude-from-external-load-balancers", "")
	opts := s.options()
	opts.IgnoreExcluded = true
	s.departs(s.l.connect(opts), "")
}

func TestDepartureWithoutRights(t *testing.T) {
	l := newLab(t)
	s := newStay(l)
	// A token that is not valid any more, as after the ServiceAccount was deleted.
	s.departs(l.connect(s.options(), func(cfg *rest.Config) {
		cfg.Impersonate = rest.ImpersonationConfig{}
		cfg.CertData, cfg.KeyData, cfg.CertFile, cfg.KeyFile = nil, nil, "", ""
		cfg.BearerToken = "gone"
	}), "token")

	// A user without rights is no evidence, unless he had them before.
	user := l.namespace + "-user"
	as := func(cfg *rest.Config) { cfg.Impersonate = rest.ImpersonationConfig{UserName: user} }
	s.departs(l.connect(s.options(), as), "")
	var bindings []client.Object
	subjects := []rbacv1.Subject{{Kind: "User", Name: user, APIGroup: rbacv1.GroupName}}
	bindings = append(bindings,
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "metallb-system:speaker"}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: user}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pod-lister"}})
	for _, b := range bindings {
		l.create(b)
	}
	c := l.connect(s.options(), as)
	l.watch(c)
	s.departs(c, "")
	for _, b := range bindings {
		l.delete(b)
	}
	l.eventually(func() string { // the API server is told by a watch of its own
		if leaving, why := c.Departure(t.Context()); !leaving || !strings.Contains(why, "rights") {
			return fmt.Sprintf("leaving %t, why %q", leaving, why)
		}
		return ""
	})
}

// Without an API server, what was known last has to do.
func TestDepartureWithoutAPIServer(t *testing.T) {
	l := newLab(t)
	s := newStay(l)
	wire := newLine(t)
	c := l.connect(s.options(), wire.through)
	v := l.watch(c)
	wire.set(true)
	s.departs(c, "")
	wire.set(false)
	s.annotate("barelb.io/drain", "")
	v.until(func() string {
		for _, n := range v.last.Nodes {
			if n.Name == s.node.Name && n.Leaving != "" {
				return ""
			}
		}
		return "it does not leave"
	})
	wire.set(true)
	s.departs(c, "barelb.io/drain")

	// And it is never waited for for long.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if leaving, _ := c.Departure(ctx); !leaving {
		t.Error("it forgets when there is no time")
	}
	fresh := l.connect(s.options(), wire.through)
	s.departs(fresh, "")
}
