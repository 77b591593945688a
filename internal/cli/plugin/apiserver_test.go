package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/cli/plugin"
	"github.com/barelb/barelb/internal/core/explain"
)

const deadline = 20 * time.Second // for whatever is bound to happen

// server is the one API server of all tests: etcd and kube-apiserver on loopback, from
// the directory that BARELB_KUBE_BIN names.
var server struct {
	env *envtest.Environment
	err error
}

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	dir := os.Getenv("BARELB_KUBE_BIN")
	if dir == "" {
		m.Run()
		return
	}
	server.env = &envtest.Environment{
		BinaryAssetsDirectory: dir,
		CRDInstallOptions:     envtest.CRDInstallOptions{Paths: []string{"../../../deploy/crds"}, ErrorIfPathMissing: true},
	}
	server.env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.96.0.0/16")
	_, server.err = server.env.Start()
	defer func() {
		if err := server.env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop API server:", err)
		}
	}()
	m.Run()
}

// cluster is the API server with the objects of a world in it.
type cluster struct {
	t      *testing.T
	client client.Client // may do everything
	users  int
}

// newCluster puts the objects of w into the API server, or skips the test where there is
// none. They are removed at the end.
func newCluster(t *testing.T, w *world) *cluster {
	t.Helper()
	if server.env == nil {
		const missing = "BARELB_KUBE_BIN does not name a directory with kube-apiserver and etcd"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip("SKIPPED, nothing was checked against a real API server: " + missing)
	}
	if server.err != nil {
		t.Fatalf("start API server: %v", server.err)
	}
	c, err := client.New(server.env.Config, client.Options{Scheme: clientgoscheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	l := &cluster{t: t, client: c}
	l.manifest("../../../deploy/manifests/namespace.yaml")
	l.manifest("../../../deploy/manifests/user-rbac.yaml")
	uids := map[string]string{}
	for _, o := range w.objects {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for was, is := range uids {
			text = bytes.ReplaceAll(text, []byte(was), []byte(is))
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(text); err != nil {
			t.Fatal(err)
		}
		was := string(u.GetUID())
		u.SetUID("")
		u.SetCreationTimestamp(metav1.Time{})
		fill(u)
		l.create(u)
		if was != "" {
			uids[was] = string(u.GetUID())
		}
	}
	return l
}

// fill adds what an API server demands and the tests of files do without.
func fill(u *unstructured.Unstructured) {
	if u.GetKind() == "DaemonSet" {
		labels := object{"app": "x"}
		_ = unstructured.SetNestedField(u.Object, labels, "spec", "selector", "matchLabels")
		_ = unstructured.SetNestedField(u.Object, labels, "spec", "template", "metadata", "labels")
	}
}

// create creates o with its status, unless it is there, and removes it at the end.
func (l *cluster) create(u *unstructured.Unstructured) {
	l.t.Helper()
	ctx := l.t.Context()
	status, hasStatus := u.Object["status"]
	err := l.client.Create(ctx, u)
	if apierrors.IsAlreadyExists(err) {
		return
	}
	if err != nil {
		l.t.Fatalf("create %s %s: %v", u.GetKind(), u.GetName(), err)
	}
	l.t.Cleanup(func() {
		if u.GetKind() == "Namespace" { // there is nobody who removes them
			return
		}
		if err := l.client.Delete(context.WithoutCancel(ctx), u, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			l.t.Errorf("delete %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	})
	if !hasStatus {
		return
	}
	if conditions, _, _ := unstructured.NestedSlice(object{"status": status}, "status", "conditions"); u.GetKind() == "Service" {
		for _, c := range conditions {
			c.(object)["lastTransitionTime"] = "2026-01-01T00:00:00Z"
		}
		_ = unstructured.SetNestedSlice(object{"status": status}, conditions, "status", "conditions")
	}
	u.Object["status"] = status
	if err := l.client.Status().Update(ctx, u); err != nil {
		l.t.Fatalf("write status of %s %s: %v", u.GetKind(), u.GetName(), err)
	}
}

func (l *cluster) manifest(file string) {
	l.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatal(err)
	}
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			l.t.Fatal(err)
		}
		if u.Object != nil {
			l.create(u)
		}
	}
}

// user returns a kubeconfig of a user with a ClusterRole; "" for none.
func (l *cluster) user(role string, rules ...rbacv1.PolicyRule) string {
	l.t.Helper()
	l.users++
	name := fmt.Sprintf("%s-%d", strings.ToLower(l.t.Name()), l.users)
	u, err := server.env.AddUser(envtest.User{Name: name}, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := u.KubeConfig()
	if err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(l.t.TempDir(), "kubeconfig")
	write(l.t, file, string(text))
	var objects []client.Object
	if len(rules) > 0 {
		role = name
		objects = append(objects, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules})
	}
	if role != "" {
		objects = append(objects, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}},
		})
	}
	for _, o := range objects {
		if err := l.client.Create(l.t.Context(), o); err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() {
			if err := l.client.Delete(context.WithoutCancel(l.t.Context()), o); err != nil {
				l.t.Error(err)
			}
		})
	}
	return file
}

// untilAllowed runs a command as a user until the API server knows the user's rights.
func untilAllowed(t *testing.T, args ...string) string {
	t.Helper()
	for end := time.Now().Add(deadline); ; {
		out, err := run(t, args...)
		if err == nil {
			return out
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestLive(t *testing.T) {
	l := newCluster(t, newWorld(t))
	config := l.user("barelb:viewer")
	text := untilAllowed(t, "explain", "service", "web", "-n", "shop", "--kubeconfig", config)
	for _, want := range []string{
		"ok       address            192.168.1.240 from IPAddressPool pool", owner + " owns the address", owner + " says that it answers for it",
		"kube-proxy runs on " + owner, "not checked: needs create pods/portforward", "No broken link was found",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	for _, cmd := range []string{"status", "doctor", "advise", "what-if --without " + owner, "explain address 192.168.1.240", "explain node " + owner} {
		out, err := run(t, append(strings.Fields(cmd), "--kubeconfig", config)...)
		if err != nil || out == "" {
			t.Errorf("%s: %v", cmd, err)
		}
	}
	found := map[string]explain.Finding{}
	for _, f := range doctor(t, config) {
		found[f.Check] = f
		if f.Level == explain.Broken {
			t.Errorf("the doctor calls it broken: %s %s", f.Check, f.What)
		}
	}
	if f := found["kube-proxy mode"]; f.What != "iptables" {
		t.Errorf("kube-proxy mode: %+v", f)
	}
	if f := found["speakers' limits"]; f.Reason != explain.SpeakersNotFenced {
		t.Errorf("without an admission policy: %+v", f)
	}
	l.manifest("../../../deploy/manifests/admission.yaml")
	for _, f := range doctor(t, config) {
		if f.Check == "speakers' limits" && f.Level != explain.OK {
			t.Errorf("with deploy/manifests/admission.yaml: %+v", f)
		}
	}
	if f := found["permissions"]; !strings.Contains(fmt.Sprint(f.Evidence), "create pods/portforward") {
		t.Errorf("it does not say that pods/portforward is missing: %+v", f)
	}
}

func doctor(t *testing.T, config string) []explain.Finding {
	t.Helper()
	out, err := run(t, "doctor", "-o", "json", "--kubeconfig", config)
	if err != nil {
		t.Fatal(err)
	}
	var all []explain.Finding
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRightsMissing: what may not be read is named, and the rest goes on.
func TestRightsMissing(t *testing.T) {
	l := newCluster(t, newWorld(t))
	little := l.user("", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"services", "nodes"}, Verbs: []string{"list"}},
		rbacv1.PolicyRule{APIGroups: []string{"metallb.io"}, Resources: []string{"ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities"}, Verbs: []string{"list"}})
	text := untilAllowed(t, "explain", "service", "shop/web", "--kubeconfig", little)
	for _, want := range []string{
		"ok       address            192.168.1.240 from IPAddressPool pool", "not checked: needs list endpointslices", "not checked: needs list pods in metallb-system",
		"not checked: needs list servicel2statuses.metallb.io in metallb-system", "No broken link was found",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	nobody := l.user("", rbacv1.PolicyRule{APIGroups: []string{"example.com"}, Resources: []string{"nothing"}, Verbs: []string{"list"}})
	if _, err := run(t, "status", "--kubeconfig", nobody); err == nil || !strings.Contains(err.Error(), "you may not list") || !strings.Contains(err.Error(), "barelb:viewer") {
		t.Errorf("without any right: %v", err)
	}
}

// handOver plays the speaker of a node: when the node is marked, it deletes what the
// speaker would.
func (l *cluster) handOver(node string, stop <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			var n corev1.Node
			if err := l.client.Get(l.t.Context(), client.ObjectKey{Name: node}, &n); err != nil || n.Annotations["barelb.io/drain"] == "" {
				continue
			}
			u := &unstructured.Unstructured{}
			u.SetAPIVersion("metallb.io/v1beta1")
			u.SetKind("ServiceL2Status")
			u.SetNamespace("metallb-system")
			u.SetName("l2-web")
			if err := l.client.Delete(l.t.Context(), u); err != nil {
				l.t.Errorf("delete status: %v", err)
			}
			return
		}
	}()
	return done
}

// labelled is a world whose status object carries the labels that speakers write.
func labelled(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.edit("ServiceL2Status/l2-web", "{metadata: {labels: {metallb.io/node: "+owner+"}}}")
	return w
}

func (l *cluster) drainMark(node string) string {
	l.t.Helper()
	var n corev1.Node
	if err := l.client.Get(l.t.Context(), client.ObjectKey{Name: node}, &n); err != nil {
		l.t.Fatal(err)
	}
	return n.Annotations["barelb.io/drain"]
}

func TestDrain(t *testing.T) {
	l := newCluster(t, labelled(t))
	config := l.user("barelb:operator")
	text := untilAllowed(t, "drain", owner, "--dry-run", "--kubeconfig", config)
	if !strings.Contains(text, "Node "+owner+" announces 1 Service.") || !strings.Contains(text, "moves") || l.drainMark(owner) != "" {
		t.Errorf("--dry-run:\n%s", text)
	}
	stop := make(chan struct{})
	done := l.handOver(owner, stop)
	out, err := run(t, "drain", owner, "--kubeconfig", config)
	close(stop)
	<-done
	if err != nil || !strings.Contains(out, "safe to reboot") || l.drainMark(owner) == "" {
		t.Errorf("drain: %v\n%s", err, out)
	}
	out, err = run(t, "drain", owner, "--kubeconfig", config)
	if err != nil || !strings.Contains(out, "was marked already") || !strings.Contains(out, "safe to reboot") {
		t.Errorf("drain again: %v\n%s", err, out)
	}
	out, err = run(t, "undrain", owner, "--kubeconfig", config)
	if err != nil || !strings.Contains(out, "may announce again") || l.drainMark(owner) != "" {
		t.Errorf("undrain: %v\n%s", err, out)
	}
	out, err = run(t, "undrain", owner, "--kubeconfig", config)
	if err != nil || !strings.Contains(out, "was not drained") {
		t.Errorf("undrain again: %v\n%s", err, out)
	}
}

// TestDrainDoesNotEnd: the speaker does not hand over.
func TestDrainDoesNotEnd(t *testing.T) {
	l := newCluster(t, labelled(t))
	config := l.user("barelb:operator")
	untilAllowed(t, "drain", owner, "--dry-run", "--kubeconfig", config)
	_, err := run(t, "drain", owner, "--timeout", "1s", "--kubeconfig", config)
	if err == nil || !strings.Contains(err.Error(), "after 1s it still has 1 announcement: shop/web (layer2); do not reboot it yet") ||
		!strings.Contains(err.Error(), "kubectl barelb undrain "+owner) {
		t.Errorf("deadline: %v", err)
	}
	// Ctrl-C, as soon as it waits.
	ctx, cancel := context.WithCancel(t.Context())
	root := &cobra.Command{Use: "barelb", SilenceUsage: true, SilenceErrors: true}
	root.AddGroup(&plugin.Group)
	root.AddCommand(plugin.Commands()...)
	root.SetOut(cancelOn{"waiting", cancel})
	root.SetArgs([]string{"drain", owner, "--kubeconfig", config})
	err = root.ExecuteContext(ctx)
	if err == nil || !strings.Contains(err.Error(), "interrupted with 1 announcement left: node "+owner+" stays marked") {
		t.Errorf("Ctrl-C: %v", err)
	}
	if l.drainMark(owner) == "" {
		t.Error("it is not marked any more")
	}
}

// cancelOn cancels when something is written that contains a word.
type cancelOn struct {
	word   string
	cancel context.CancelFunc
}

func (c cancelOn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(c.word)) {
		c.cancel()
	}
	return len(b), nil
}

// TestDrainLastNode: only --force takes the last node away from a Service.
func TestDrainLastNode(t *testing.T) {
	w := labelled(t)
	w.edit("L2Advertisement/layer2", "{spec: {nodeSelectors: [{matchLabels: {zone: b}}]}}")
	l := newCluster(t, w)
	config := l.user("barelb:operator")
	out := untilAllowed(t, "drain", owner, "--dry-run", "--kubeconfig", config)
	if !strings.Contains(out, "1 Service would not be announced any more") {
		t.Errorf("--dry-run:\n%s", out)
	}
	_, err := run(t, "drain", owner, "--kubeconfig", config)
	if err == nil || !strings.Contains(err.Error(), "shop/web; --force drains node "+owner+" nevertheless") || l.drainMark(owner) != "" {
		t.Errorf("without --force: %v", err)
	}
	_, err = run(t, "drain", owner, "--force", "--timeout", "1s", "--kubeconfig", config)
	if err == nil || !strings.Contains(err.Error(), "it still has") || l.drainMark(owner) == "" {
		t.Errorf("with --force: %v", err)
	}
	viewer := l.user("barelb:viewer")
	untilAllowed(t, "status", "--kubeconfig", viewer)
	if _, err = run(t, "undrain", owner, "--kubeconfig", viewer); err == nil || !strings.Contains(err.Error(), "you may not patch nodes") {
		t.Errorf("as a viewer: %v", err)
	}
}

// TestStatusOfManyIsFast holds status to 2 s for 2,000 Services.
func TestStatusOfManyIsFast(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 2,000 Services")
	}
	l := newCluster(t, newWorld(t))
	config := l.user("barelb:viewer")
	none := false
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < 2000; i += 8 {
				s := &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("many-%04d", i)},
					Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &none, Ports: []corev1.ServicePort{{Port: 80}}},
				}
				if err := l.client.Create(t.Context(), s); err != nil {
					t.Errorf("create: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := l.client.DeleteAllOf(ctx, &corev1.Service{}, client.InNamespace("shop")); err != nil {
			t.Error(err)
		}
	})
	untilAllowed(t, "status", "--kubeconfig", config)
	best := time.Hour
	for range 3 {
		began := time.Now()
		if _, err := run(t, "status", "--kubeconfig", config); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
	}
	t.Logf("status of 2,001 Services: %s", best)
	if best > 2*time.Second {
		t.Errorf("status takes %s", best)
	}
}
