package kube_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
)

// auditPolicy has the API server write down what our accounts ask for.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata}
`

// right is what a rule grants, or a request needs.
type right struct{ account, group, resource, verb string }

func (r right) String() string {
	return fmt.Sprintf("%s: %s %s.%s", r.account, r.verb, r.resource, r.group)
}

// untried are rights that code uses which no test here runs as that account, and where that is tried.
var untried = map[right]string{
	{"controller", "authentication.k8s.io", "tokenreviews", "create"}:        "the speaker's metrics server is the same",
	{"controller", "authorization.k8s.io", "subjectaccessreviews", "create"}: "the speaker's metrics server is the same",
	{"controller", "", "pods", "get"}:                                        "the speaker's StateWriter is the same",
	{"controller", "metallb.io", "configurationstates", "update"}:            "the speaker's StateWriter is the same",
	{"speaker", "metallb.io", "servicebgpstatuses", "get"}:                   "servicel2statuses are written by the same code",
	{"speaker", "metallb.io", "bgpsessionstatuses", "get"}:                   "SessionWriter.write, after somebody took the label away",
}

// audit starts the log of what is asked for.
func audit() error {
	dir, err := os.MkdirTemp("", "barelb-audit-")
	if err != nil {
		return err
	}
	server.auditDir = dir
	policy := filepath.Join(dir, "policy.yaml")
	server.env.ControlPlane.GetAPIServer().Configure().
		Set("audit-policy-file", policy).Set("audit-log-path", filepath.Join(dir, "log")).Set("audit-log-maxsize", "0")
	return os.WriteFile(policy, []byte(auditPolicy), 0o600)
}

// checkRights compares what controller and speaker asked for in all tests of this package, which has all the code
// that talks to the API server, with what their roles grant.
func checkRights() error {
	granted, err := grantedRights()
	if err != nil {
		return err
	}
	used, refused, err := usedRights()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range slices.SortedFunc(maps.Keys(granted), compareRights) {
		watch := r
		watch.verb = "watch"
		why, excused := untried[r]
		switch {
		case used[r] && excused:
			errs = append(errs, fmt.Errorf("used, so it needs no excuse (%s): %s", why, r))
		case used[r], excused:
		case r.verb == "list" && used[watch]: // a watch begins with a list where the API server cannot send one
		default:
			errs = append(errs, fmt.Errorf("granted, and never used: %s", r))
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(refused), compareRights) {
		if !granted[r] { // tests may take rights away, but none asks for one that there is not
			errs = append(errs, fmt.Errorf("used, and not granted: %s", r))
		}
	}
	return errors.Join(errs...)
}

func compareRights(a, b right) int { return strings.Compare(a.String(), b.String()) }

// wholeRun reports whether all tests have run, so that what was not asked for never is.
func wholeRun() bool {
	for _, name := range []string{"test.run", "test.skip", "test.bench", "test.fuzz", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return !testing.Short()
}

func grantedRights() (map[right]bool, error) {
	text, err := os.ReadFile("../../deploy/manifests/rbac.yaml")
	if err != nil {
		return nil, err
	}
	out := map[right]bool{}
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		var role rbacv1.Role // a ClusterRole has the same rules
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			return nil, fmt.Errorf("parse rbac.yaml: %w", err)
		}
		account := "speaker"
		if strings.Contains(role.Name, "controller") {
			account = "controller"
		}
		for _, rule := range role.Rules {
			for _, g := range rule.APIGroups {
				for _, res := range rule.Resources {
					for _, v := range rule.Verbs {
						out[right{account, g, res, v}] = true
					}
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("rbac.yaml grants nothing")
	}
	return out, nil
}

func usedRights() (used, refused map[right]bool, err error) { //nolint:nonamedreturns // tells the two apart
	f, err := os.Open(filepath.Join(server.auditDir, "log"))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	used, refused = map[right]bool{}, map[right]bool{}
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return used, refused, nil // the end, or half a line
		}
		if !bytes.Contains(line, []byte("system:serviceaccount:"+system)) {
			continue
		}
		var e struct {
			Verb             string
			ImpersonatedUser struct{ Username string }
			ObjectRef        struct{ APIGroup, Resource, Subresource string }
			Annotations      map[string]string
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, nil, fmt.Errorf("parse audit log: %w", err)
		}
		account, ok := strings.CutPrefix(e.ImpersonatedUser.Username, "system:serviceaccount:"+system+":")
		if !ok || e.ObjectRef.Resource == "" {
			continue
		}
		r := right{account, e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.Verb}
		if e.ObjectRef.Subresource != "" {
			r.resource += "/" + e.ObjectRef.Subresource
		}
		if used[r] = true; e.Annotations["authorization.k8s.io/decision"] == "forbid" {
			refused[r] = true
		}
	}
}

// onNode is a speaker's client, with the rights of its ServiceAccount and the token of a Pod on that node.
//
//nolint:ireturn // the library gives no other
func (l *lab) onNode(node string) client.Client {
	l.t.Helper()
	cfg := rest.CopyConfig(server.env.Config)
	cfg.Impersonate = impersonate("speaker", node)
	c, err := client.New(cfg, client.Options{Scheme: l.client.Scheme()})
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// TestSpeakerWritesOfItsOwnNode: what RBAC cannot say, the ValidatingAdmissionPolicy does.
func TestSpeakerWritesOfItsOwnNode(t *testing.T) {
	l := newLab(t)
	own, other := l.onNode("node-a"), l.onNode("node-b")
	labels := map[string]string{v1beta1.LabelNode: "node-a"}
	meta := metav1.ObjectMeta{Namespace: system, Name: "of-" + l.namespace, Labels: labels}
	denied := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			t.Errorf("%s: %v", what, err)
		}
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The policy is not in force at once.
	l.eventually(func() string {
		o := &v1beta1.ServiceBGPStatus{ObjectMeta: *meta.DeepCopy()}
		err := other.Create(t.Context(), o, client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			return fmt.Sprintf("another node's object: %v", err)
		}
		return ""
	})
	objects := map[string]func() client.Object{
		"ServiceL2Status":  func() client.Object { return &v1beta1.ServiceL2Status{ObjectMeta: *meta.DeepCopy()} },
		"ServiceBGPStatus": func() client.Object { return &v1beta1.ServiceBGPStatus{ObjectMeta: *meta.DeepCopy()} },
		"BGPSessionStatus": func() client.Object { return &v1beta1.BGPSessionStatus{ObjectMeta: *meta.DeepCopy()} },
	}
	for kind, object := range objects {
		denied("create "+kind, other.Create(t.Context(), object()))
		o := object()
		must("create own "+kind, own.Create(t.Context(), o))
		o.SetAnnotations(map[string]string{"a": "b"})
		denied("update "+kind, other.Update(t.Context(), o))
		mine := object()
		mine.SetLabels(map[string]string{v1beta1.LabelNode: "node-b"})
		mine.SetResourceVersion(o.GetResourceVersion())
		denied("seize "+kind, other.Update(t.Context(), mine))
		must("update own "+kind, own.Update(t.Context(), o))
		if kind == "ServiceL2Status" { // who answers now deletes what the last one said
			must("delete another's "+kind, other.Delete(t.Context(), o))
			continue
		}
		denied("delete "+kind, other.Delete(t.Context(), o))
		must("delete own "+kind, own.Delete(t.Context(), o))
	}

	lie := &v1beta1.ServiceL2Status{ObjectMeta: *meta.DeepCopy()}
	must("create", own.Create(t.Context(), lie))
	lie.Status = v1beta1.ServiceL2StatusStatus{Node: "node-b"}
	denied("status of another node", own.Status().Update(t.Context(), lie))
	lie.Status.Node = "node-a"
	must("own status", own.Status().Update(t.Context(), lie))
	must("delete", own.Delete(t.Context(), lie))

	state := &v1beta1.ConfigurationState{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "speaker-node-a"}}
	denied("another's ConfigurationState", other.Create(t.Context(), state.DeepCopy()))
	denied("the controller's", own.Create(t.Context(), &v1beta1.ConfigurationState{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "controller-x"}}))
	must("own ConfigurationState", own.Create(t.Context(), state.DeepCopy(), client.DryRunAll))

	conflict := &v1alpha1.AddressConflict{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "192.0.2.77"},
		Spec:       v1alpha1.AddressConflictSpec{Address: "192.0.2.77", MAC: "02:00:00:00:00:01", Node: "node-a", Interface: "eth0"},
	}
	denied("another's AddressConflict", other.Create(t.Context(), conflict.DeepCopy(), client.DryRunAll))
	must("own AddressConflict", own.Create(t.Context(), conflict.DeepCopy(), client.DryRunAll))

	event := func(host string) *corev1.Event {
		return &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: l.namespace, Name: "e-" + host},
			InvolvedObject: corev1.ObjectReference{Namespace: l.namespace, Kind: "Service", Name: "s"}, Source: corev1.EventSource{Host: host},
		}
	}
	denied("another's Event", other.Create(t.Context(), event("node-a")))
	must("own Event", own.Create(t.Context(), event("node-a")))
}

// removeAudit removes the log.
func removeAudit() {
	if err := os.RemoveAll(server.auditDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(os.Stderr, "remove audit log:", err)
	}
}
