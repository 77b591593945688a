package kube

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/explain"
)

// Dump is objects of a cluster as they were read, from files or from the API server.
type Dump struct {
	Services     []corev1.Service
	Slices       []discoveryv1.EndpointSlice
	Nodes        []corev1.Node
	Namespaces   []corev1.Namespace
	Pods         []corev1.Pod
	Events       []corev1.Event
	ConfigMaps   []corev1.ConfigMap
	Secrets      []corev1.Secret
	DaemonSets   []appsv1.DaemonSet
	Deployments  []appsv1.Deployment
	Leases       []coordinationv1.Lease
	Policies     []admissionv1.ValidatingAdmissionPolicyBinding
	ServiceCIDRs []networkingv1.ServiceCIDR

	Pools       []v1beta1.IPAddressPool
	L2          []v1beta1.L2Advertisement
	BGP         []v1beta1.BGPAdvertisement
	Peers       []v1beta2.BGPPeer
	Profiles    []v1beta1.BFDProfile
	Communities []v1beta1.Community
	States      []v1beta1.ConfigurationState
	L2Status    []v1beta1.ServiceL2Status
	BGPStatus   []v1beta1.ServiceBGPStatus
	Sessions    []SessionStatus
	Claims      []v1alpha1.AddressClaim
	Conflicts   []v1alpha1.AddressConflict

	// What is read for a migration alone.
	CRDs     []CRD
	FRR      []metav1.PartialObjectMetadata // FRRConfigurations
	Webhooks []admissionv1.ValidatingWebhookConfiguration
	Rules    []PrometheusRule

	// Class is the loadBalancerClass that BareLB serves, if that is not for its Pods to say.
	Class   string
	Metrics map[string]string         // of speakers, by node
	Known   map[string]*explain.Known // what speakers know, by node
	Silent  map[string]string         // why speakers that were asked do not answer, by node
	Now     time.Time                 // when it was read, by the API server's clock if it was asked
	Denied  []string                  // see explain.Cluster
	Gaps    []explain.Gap
	// NoPolicies is set if the API server has no ValidatingAdmissionPolicies.
	NoPolicies bool
	// NoSecrets are the Secrets that are known not to be there.
	NoSecrets []string
	// Unread counts objects of kinds that nobody here reads.
	Unread int

	// service, if not "", is the name of the one Service whose endpoints are read: they
	// are half of what a large cluster has. passed counts the EndpointSlices of others.
	service string
	passed  atomic.Int64
}

// SessionStatus is what is read of a BGPSessionStatus.
type SessionStatus struct {
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		Node               string `json:"node"`
		BGPPeer            string `json:"bgpPeer"`
		BGPStatus          string `json:"bgpStatus"`
		BFDStatus          string `json:"bfdStatus"`
		Message            string `json:"message"`
		AdvertisedPrefixes int    `json:"advertisedPrefixes"`
	} `json:"status"`
}

func newDump() *Dump {
	return &Dump{Metrics: map[string]string{}, Known: map[string]*explain.Known{}, Silent: map[string]string{}}
}

// maxFile bounds the files that are read, in bytes.
const maxFile = 1 << 30

const sessionKind = "BGPSessionStatus"

// ReadFiles reads the YAML and JSON files in the given directories, or the given files:
// single documents and lists, as kubectl get -o yaml writes them. A file metrics/NODE.txt
// holds the metrics of the speaker on that node, known/NODE.json what it serves at
// KnownPath. Of two objects of one kind and name the
// later one counts. What is not a Kubernetes object is an error.
func ReadFiles(paths ...string) (*Dump, error) { return ReadFilesFor("", paths...) }

// ReadFilesFor is ReadFiles, but leaves out endpoints of all Services but those of the
// name given.
func ReadFilesFor(service string, paths ...string) (*Dump, error) {
	d := newDump()
	d.service = service
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return d.readFile(file)
		})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return d, nil
}

// MarkMissing notes what files do not say, for a Dump that was read from files alone.
func (d *Dump) MarkMissing() {
	miss := func(missing bool, from explain.Source, kinds string) {
		if missing {
			d.Gaps = append(d.Gaps, explain.Gap{From: from, Needs: kinds + " in the files"})
		}
	}
	configs := len(d.Pools) + len(d.L2) + len(d.BGP) + len(d.Peers)
	status := len(d.L2Status) + len(d.BGPStatus) + len(d.States)
	component := func(names ...string) bool {
		return slices.ContainsFunc(d.Pods, func(o corev1.Pod) bool { return slices.Contains(names, componentOf(&o)) })
	}
	miss(len(d.Namespaces) == 0, explain.FromNamespaces, "namespaces")
	miss(len(d.Slices) == 0 && d.passed.Load() == 0, explain.FromEndpoints, "endpointslices")
	miss(configs+status == 0, explain.FromConfig, "the objects of metallb.io")
	miss(status == 0, explain.FromL2Status, "servicel2statuses")
	miss(status == 0, explain.FromBGPStatus, "servicebgpstatuses")
	miss(status == 0, explain.FromStates, "configurationstates")
	miss(!component(v1beta1.ComponentController, v1beta1.ComponentSpeaker), explain.FromPods, "pods of BareLB's namespace")
	miss(len(d.Pods) == 0, explain.FromProxies, "pods of kube-system")
	miss(len(d.Events) == 0, explain.FromEvents, "events")
	miss(len(d.ConfigMaps) == 0, explain.FromProxyMode, "the configmap kube-proxy of kube-system")
	miss(len(d.DaemonSets)+len(d.Deployments) == 0, explain.FromWorkloads, "daemonsets and deployments")
	miss(len(d.ServiceCIDRs) == 0, explain.FromRanges, "servicecidrs")
	miss(len(d.Policies) == 0, explain.FromPolicies, "validatingadmissionpolicybindings")
	miss(len(d.Metrics) == 0, explain.FromSpeakers, "the speakers' metrics (metrics/NODE.txt)")
	miss(len(d.Known) == 0, explain.FromKnown, "what speakers know (known/NODE.json)")
	miss(true, explain.FromLeases, "a running cluster instead of files: the time is not")
	miss(true, explain.FromRights, "a running cluster instead of files: rights are not")
}

func (d *Dump) readFile(file string) error {
	ext, dir := filepath.Ext(file), filepath.Base(filepath.Dir(file))
	isMetrics := ext == ".txt" && dir == "metrics"
	node := strings.TrimSuffix(filepath.Base(file), ext)
	if !isMetrics && ext != ".yaml" && ext != ".yml" && ext != ".json" {
		return nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s is too large", file)
	}
	if t := info.ModTime(); t.After(d.Now) {
		d.Now = t
	}
	text, err := os.ReadFile(file)
	switch {
	case err != nil:
		return err
	case isMetrics:
		d.Metrics[node] = string(text)
		return nil
	case ext == ".json" && dir == "known":
		d.Known[node], err = parseKnown(text)
	case ext == ".json":
		err = d.addJSON(text)
	default:
		err = d.addYAML(string(text))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func (d *Dump) addYAML(text string) error {
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		if err := inOrder(d.splitList(doc), func(item string) (func() error, error) {
			raw, err := yaml.YAMLToJSON([]byte(item))
			if err != nil {
				return nil, err
			}
			add, err := d.parse("", raw)
			if add == nil && err == nil { // a list
				return func() error { return d.addJSON(raw) }, nil
			}
			return add, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// inOrder calls parse for all items, several at once, and then what it returned for each,
// in order. The first error ends it.
func inOrder[T any](items []T, parse func(T) (func() error, error)) error {
	type parsed struct {
		add func() error
		err error
	}
	out := make([]parsed, len(items))
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), len(items)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(items); i = next.Add(1) - 1 {
				out[i].add, out[i].err = parse(items[i])
			}
		})
	}
	wg.Wait()
	for _, p := range out {
		if p.err != nil {
			return p.err
		}
		if err := p.add(); err != nil {
			return err
		}
	}
	return nil
}

// splitList takes the items out of a list as kubectl writes it: they stand at the left
// edge, and what follows them begins without a dash. So each is read alone, and those of
// kinds that nobody reads are not read at all. Any other document is returned as it is.
func (d *Dump) splitList(doc string) []string {
	_, items, found := strings.Cut(doc, "\nitems:\n- ")
	if !found || strings.Contains(items, "\n  \t") {
		return []string{doc}
	}
	items, _, found = strings.Cut(items, "\nkind: ") // the list's own
	if !found {
		return []string{doc}
	}
	out := strings.Split(items, "\n- ")
	out = slices.DeleteFunc(out, func(item string) bool { return !d.reads(item) })
	for i := range out {
		out[i] = "  " + out[i]
	}
	return out
}

// reads reports whether an item of a list is read here.
func (d *Dump) reads(item string) bool {
	_, kind, found := strings.Cut(item, "\n  kind: ")
	if !found {
		return true // it is for the real parser to say what is wrong
	}
	kind, _, _ = strings.Cut(kind, "\n")
	kind = strings.TrimSpace(kind)
	return d.target(kind) != nil && !d.passes(kind, item)
}

// passes reports whether an object is one of the EndpointSlices that are left out: one
// that does not even contain the name of the Service.
func (d *Dump) passes(kind, text string) bool {
	if kind != "EndpointSlice" || d.service == "" || strings.Contains(text, d.service) {
		return false
	}
	d.passed.Add(1)
	return true
}

// addJSON adds an object, or the objects of a list.
func (d *Dump) addJSON(raw []byte) error {
	if add, err := d.parse("", raw); err != nil {
		return err
	} else if add != nil {
		return add()
	}
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	kind := cmp.Or(strings.TrimSuffix(list.Kind, "List"), "object of a list") // of items that do not say it
	return inOrder(list.Items, func(item json.RawMessage) (func() error, error) { return d.parse(kind, item) })
}

// parse reads one object, of kind unless it says another, and returns what adds it to d.
// For a list it returns nil.
func (d *Dump) parse(kind string, raw []byte) (func() error, error) {
	var head struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if text := bytes.TrimSpace(raw); len(text) == 0 || string(text) == "null" {
		return func() error { return nil }, nil
	}
	if d.service != "" && isSlice(kind, raw) && d.passes("EndpointSlice", string(raw)) {
		return func() error { return nil }, nil
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	if head.Kind == "" {
		head.Kind = kind
	}
	switch {
	case head.Kind == "":
		return nil, errors.New("an object has no kind")
	case strings.HasSuffix(head.Kind, "List") && kind == "":
		return nil, nil //nolint:nilnil // that is what a list is
	}
	take := d.target(head.Kind)
	if take == nil {
		return func() error { d.Unread++; return nil }, nil
	}
	add, err := take(raw)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
	}
	return func() error { add(); return nil }, nil
}

// isSlice reports whether an item of a list is an EndpointSlice: without reading it, for
// there are as many as Services. kind is that of the list's items, if the list says so.
func isSlice(kind string, raw []byte) bool {
	return kind == "EndpointSlice" || kind != "" && bytes.Contains(raw, []byte(`"kind": "EndpointSlice"`))
}

// target returns what takes the objects of a kind, nil if nothing does.
func (d *Dump) target(kind string) parser {
	switch kind {
	case "Service":
		return into(&d.Services)
	case "EndpointSlice":
		return into(&d.Slices)
	case "Node":
		return into(&d.Nodes)
	case "Namespace":
		return into(&d.Namespaces)
	case "Pod":
		return into(&d.Pods)
	case "Event":
		return into(&d.Events)
	case "ConfigMap":
		return into(&d.ConfigMaps)
	case "Secret":
		return into(&d.Secrets)
	case "DaemonSet":
		return into(&d.DaemonSets)
	case "Deployment":
		return into(&d.Deployments)
	case "Lease":
		return into(&d.Leases)
	case "ValidatingAdmissionPolicyBinding":
		return into(&d.Policies)
	case "ServiceCIDR":
		return into(&d.ServiceCIDRs)
	case crdKind:
		return into(&d.CRDs)
	case frrKind:
		return into(&d.FRR)
	case "ValidatingWebhookConfiguration":
		return into(&d.Webhooks)
	case ruleKind:
		return into(&d.Rules)
	}
	return d.configTarget(kind)
}

func (d *Dump) configTarget(kind string) parser {
	switch kind {
	case "IPAddressPool":
		return into(&d.Pools)
	case "L2Advertisement":
		return into(&d.L2)
	case "BGPAdvertisement":
		return into(&d.BGP)
	case "BGPPeer":
		return into(&d.Peers) // both versions have the same fields in JSON
	case "BFDProfile":
		return into(&d.Profiles)
	case "Community":
		return into(&d.Communities)
	case "ConfigurationState":
		return into(&d.States)
	case "ServiceL2Status":
		return into(&d.L2Status)
	case "ServiceBGPStatus":
		return into(&d.BGPStatus)
	case sessionKind:
		return into(&d.Sessions)
	case "AddressClaim":
		return into(&d.Claims)
	case "AddressConflict":
		return into(&d.Conflicts)
	}
	return nil
}

// parser reads one object and returns what adds it.
type parser func(raw []byte) (add func(), err error)

// into returns a parser of objects for a list.
func into[T any](list *[]T) parser {
	return func(raw []byte) (func(), error) {
		var o T
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, err
		}
		return func() { *list = append(*list, o) }, nil
	}
}

// latestOf returns the objects of list without those that a later one of the same
// namespace and name replaces, in order.
func latestOf[T any, P interface {
	*T
	metav1.Object
}](list []T) []T {
	at := make(map[[2]string]int, len(list))
	out := make([]T, 0, len(list))
	for i := range list {
		o := P(&list[i])
		key := [2]string{o.GetNamespace(), o.GetName()}
		if j, has := at[key]; has {
			out[j] = list[i]
			continue
		}
		at[key] = len(out)
		out = append(out, list[i])
	}
	return out
}
