package kube_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// state runs a component's writer of state. Whatever ConfigurationState it makes
// goes at the end of the test.
func (l *lab) state(name string, opts kube.Options) *kube.StateWriter {
	l.t.Helper()
	c := l.connect(opts)
	l.watch(c)
	w := c.StateWriter()
	l.run(w.Run)
	l.t.Cleanup(func() {
		l.eventually(func() string { // the writer has ended or makes it once more
			err := l.client.Delete(l.t.Context(), configurationState(name))
			if apierrors.IsNotFound(err) || l.t.Context().Err() != nil {
				return ""
			}
			return fmt.Sprintf("delete: %v", err)
		})
	})
	return w
}

func configurationState(name string) *v1beta1.ConfigurationState {
	return &v1beta1.ConfigurationState{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}}
}

// configurationStateIs waits for what a ConfigurationState says.
func (l *lab) configurationStateIs(name, want string) *v1beta1.ConfigurationState {
	l.t.Helper()
	o := configurationState(name)
	l.eventually(func() string {
		if err := l.client.Get(l.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err.Error()
		}
		lines := []string{string(o.Status.Result), o.Status.ErrorSummary}
		for _, c := range o.Status.Conditions {
			lines = append(lines, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
		}
		return cmp.Diff(want, strings.Join(lines, "\n"))
	})
	return o
}

// poolStatusIs waits for what a pool's status says.
func (l *lab) poolStatusIs(name, want string) {
	l.t.Helper()
	o := pool(name)
	l.eventually(func() string {
		l.refresh(o)
		s := o.Status
		got := fmt.Sprintf("%d+%d of %d+%d", s.AssignedIPv4, s.AssignedIPv6, s.AvailableIPv4, s.AvailableIPv6)
		if c := meta.FindStatusCondition(s.Conditions, v1beta1.ConditionAccepted); c != nil {
			got += fmt.Sprintf("; %s %s %d: %s", c.Status, c.Reason, c.ObservedGeneration, c.Message)
		}
		return cmp.Diff(want, got)
	})
}

// events returns the Events on an object, as reasons, messages and counts.
func (l *lab) events(o client.Object) []string {
	l.t.Helper()
	var list corev1.EventList
	if err := l.client.List(l.t.Context(), &list, client.InNamespace(o.GetNamespace())); err != nil {
		l.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	var out []string
	for _, e := range list.Items {
		// The API server has something to say of Services, too.
		if e.InvolvedObject.UID == o.GetUID() && strings.HasPrefix(e.Source.Component, "metallb-") {
			out = append(out, fmt.Sprintf("%s %s %s/%s: %s (%d)", e.Source.Component, e.Type, e.InvolvedObject.Kind, e.Reason, e.Message, e.Count))
		}
	}
	slices.Sort(out)
	return out
}

func TestControllersState(t *testing.T) {
	l := newLab(t)
	p := pool("state-1", "192.0.2.0/24")
	l.create(p)
	second := pool("state-2", "198.51.100.0/24")
	l.create(second)
	w := l.state("controller", kube.Options{})
	bad := config.Problem{Kind: config.KindIPAddressPool, Name: "state-2", Field: "spec.addresses[0]", Reason: lb.Overlap, Message: "overlaps"}
	gone := config.Problem{Kind: config.KindBGPPeer, Name: "nobody", Field: "spec", Reason: lb.InvalidField, Message: "is bad"}
	pools := map[string]kube.PoolState{"state-1": {Assigned4: 1, Available4: 255}, "state-2": {}, "no-more": {}}
	well := config.Condition{True: true, Reason: lb.Accepted, Message: "in force as written"}
	objects := func(second config.Condition) []config.Status {
		status := func(name string, c config.Condition) config.Status {
			fine := config.Condition{True: true, Reason: lb.ResolvedRefs}
			return config.Status{Kind: config.KindIPAddressPool, Name: name, Generation: 1, Accepted: c, ResolvedRefs: fine, InUse: fine}
		}
		return []config.Status{status("state-1", well), status("state-2", second)}
	}
	clash := config.Condition{Reason: lb.Overlap, Message: "spec.addresses[0]: overlaps"}

	w.Set(kube.State{Pools: pools, Objects: objects(clash), Problems: []config.Problem{gone, bad}})
	l.poolStatusIs("state-1", "1+0 of 255+0; True Accepted 1: in force as written")
	l.poolStatusIs("state-2", "0+0 of 0+0; False Overlap 1: spec.addresses[0]: overlaps")
	const summary = "IPAddressPool state-2: spec.addresses[0]: overlaps (set aside)" // a peer is the speakers' business
	o := l.configurationStateIs("controller", "Invalid\n"+summary+"\npoolReconcilerValid=False ConfigurationError: "+summary)
	if diff := cmp.Diff(map[string]string{"metallb.io/component-type": "controller"}, o.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}
	wantStatusOwner(t, o, "poolReconciler")

	// Said again and again, it is told once.
	for i := range 3 {
		more := maps.Clone(pools)
		more["state-1"] = kube.PoolState{Assigned4: int64(i + 2), Available4: int64(254 - i)}
		w.Set(kube.State{Pools: more, Objects: objects(clash), Problems: []config.Problem{gone, bad}})
		l.poolStatusIs("state-1", fmt.Sprintf("%d+0 of %d+0; True Accepted 1: in force as written", i+2, 254-i))
	}
	w.Set(kube.State{Pools: pools, Objects: objects(well)})
	l.poolStatusIs("state-2", "0+0 of 0+0; True Accepted 1: in force as written")
	l.configurationStateIs("controller", "Valid\n\npoolReconcilerValid=True Reconciled: ")
	l.eventually(func() string {
		return cmp.Diff([]string{
			"metallb-controller Normal IPAddressPool/InForce: in force as written (1)",
			"metallb-controller Warning IPAddressPool/SetAside: Overlap: spec.addresses[0]: overlaps (1)",
		}, l.events(second))
	})

	// What others change or delete is written again.
	l.refresh(p)
	editStatus(l, p, func(o *v1beta1.IPAddressPool) { o.Status.AssignedIPv4 = 77 })
	l.poolStatusIs("state-1", "1+0 of 255+0; True Accepted 1: in force as written")
	l.delete(configurationState("controller"))
	l.configurationStateIs("controller", "Valid\n\npoolReconcilerValid=True Reconciled: ")

	bad.InForce = true
	w.Set(kube.State{Pools: pools, Objects: objects(clash), Problems: []config.Problem{bad}})
	l.poolStatusIs("state-2", "0+0 of 0+0; False Overlap 1: spec.addresses[0]: overlaps")
	l.eventually(func() string {
		return cmp.Diff("metallb-controller Warning IPAddressPool/PartlyInForce: Overlap: spec.addresses[0]: overlaps (1)", slices.Concat(l.events(second), []string{"", ""})[1])
	})
}

func TestSpeakersState(t *testing.T) {
	l := newLab(t)
	ours := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "speaker-new"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "speaker", Image: "x"}}},
	}
	l.create(ours)
	third := pool("state-3", "192.0.2.0/24")
	l.create(third)
	// Our predecessor has left one that would go with its Pod.
	left := configurationState("speaker-n1")
	left.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "speaker-old", UID: "1"}}
	l.create(left)

	w := l.state("speaker-n1", kube.Options{NodeName: "n1", PodName: ours.Name})
	w.Set(kube.State{})
	l.configurationStateIs("speaker-n1", "Valid\n\nconfigReconcilerValid=True Reconciled: ")
	wantStatusOwner(t, configurationStateOf(l, "speaker-n1"), "configReconciler")
	// A reference that leads nowhere is told of elsewhere.
	dangling := config.Problem{Kind: config.KindL2Advertisement, Name: "l2", Field: "spec.ipAddressPools[0]", Reason: lb.UnknownReference}
	// What MetalLB tells too is told in its words, and in ours beside.
	known := config.Problem{Kind: config.KindBGPPeer, Name: "p", Field: "spec.x", Reason: lb.UnknownReference, Message: "is away", Words: "peer p is lost\nfor good"}
	w.Set(kube.State{Problems: []config.Problem{known, dangling}})
	l.configurationStateIs("speaker-n1", "Invalid\nconfiguration error: peer p is lost\nfor good\n"+
		"configReconcilerValid=False ConfigurationError: BGPPeer p: spec.x: is away (set aside)")
	w.Set(kube.State{Problems: []config.Problem{dangling}})
	l.configurationStateIs("speaker-n1", "Valid\n\nconfigReconcilerValid=True Reconciled: ")

	bad := config.Problem{Kind: config.KindIPAddressPool, Name: "state-3", Field: "spec", Reason: lb.NotSupported, Message: "is bad", InForce: true}
	w.Set(kube.State{Problems: []config.Problem{bad}})
	const summary = "IPAddressPool state-3: spec: is bad (the rest is in force)"
	o := l.configurationStateIs("speaker-n1", "Invalid\n"+summary+"\nconfigReconcilerValid=False ConfigurationError: "+summary)
	want := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: ours.Name, UID: ours.UID}}
	if diff := cmp.Diff(want, o.OwnerReferences); diff != "" {
		t.Errorf("owner: %s", diff)
	}
	l.delete(o)
	o = l.configurationStateIs("speaker-n1", "Invalid\n"+summary+"\nconfigReconcilerValid=False ConfigurationError: "+summary)
	if diff := cmp.Diff(want, o.OwnerReferences); diff != "" {
		t.Errorf("owner: %s", diff)
	}
	if diff := cmp.Diff(map[string]string{"metallb.io/component-type": "speaker", "metallb.io/node-name": "n1"}, o.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}
	if got := l.events(third); len(got) > 0 {
		t.Errorf("each node tells what one controller tells: %v", got)
	}
}

func configurationStateOf(l *lab, name string) *v1beta1.ConfigurationState {
	o := configurationState(name)
	l.refresh(o)
	return o
}

// wantStatusOwner wants the status of o to be owned by a manager of that name, as MetalLB's is.
func wantStatusOwner(t *testing.T, o client.Object, want string) {
	t.Helper()
	var got []string
	for _, m := range o.GetManagedFields() {
		if m.Subresource == "status" {
			got = append(got, m.Manager)
		}
	}
	if !slices.Contains(got, want) {
		t.Errorf("the status is owned by %v, want %s", got, want)
	}
}

func TestManyProblems(t *testing.T) {
	l := newLab(t)
	w := l.state("speaker-n2", kube.Options{NodeName: "n2"})
	s := kube.State{}
	for i := range 1000 {
		s.Problems = append(s.Problems, config.Problem{Kind: config.KindCommunity, Name: fmt.Sprint(i), Field: "spec", Reason: lb.InvalidField, Message: "ist ärgerlich für den, der es später lesen soll"})
	}
	w.Set(s)
	o := configurationState("speaker-n2")
	l.eventually(func() string {
		if err := l.client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil || len(o.Status.Conditions) == 0 {
			return fmt.Sprintf("no condition: %v", err)
		}
		return ""
	})
	message := o.Status.Conditions[0].Message
	if !strings.HasSuffix(message, "\n…") || !utf8.ValidString(message) || strings.Count(o.Status.ErrorSummary, "\n") != 999 {
		t.Errorf("message of %d bytes, summary of %d", len(message), len(o.Status.ErrorSummary))
	}
}

func TestServiceEvents(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	c := l.connect(kube.Options{})
	l.watch(c)
	svc := &lb.Service{Key: l.key("a"), UID: string(a.UID)}
	c.ServiceEvent(svc, false, kube.EventAllocated, `Assigned IP ["192.0.2.1"]`)
	c.ServiceEvent(svc, true, kube.EventNoClusterIPs, strings.Repeat("long ", 500))
	c.ServiceEvent(&lb.Service{Key: l.key("gone"), UID: "1"}, true, kube.EventAllocFailed, "no")
	l.eventually(func() string {
		return cmp.Diff([]string{
			`metallb-controller Normal Service/IPAllocated: Assigned IP ["192.0.2.1"] (1)`,
			"metallb-controller Warning Service/not enough clusterips: " + strings.Repeat("long ", 500) + " (1)",
		}, l.events(a))
	})
}

func TestClaimedOnWireIsAnEventOfTheService(t *testing.T) {
	l := newLab(t)
	a := l.loadBalancer("a")
	l.create(a)
	c := l.connect(kube.Options{NodeName: "n1"})
	l.watch(c)
	svc := &lb.Service{Key: l.key("a"), UID: string(a.UID)}
	w := lb.WireConflict{Addr: netip.MustParseAddr("192.0.2.1"), MAC: "02:00:00:00:00:01", Node: "n1", Link: "eth0"}
	nobody := func() string { return "" }
	if !c.AddressClaimed(svc, w, nobody) || c.AddressClaimed(svc, w, nobody) {
		t.Error("the first one is recorded, one right after it is not")
	}
	w.Addr = netip.MustParseAddr("2001:db8::1")
	if !c.AddressClaimed(svc, w, func() string { return "n2" }) {
		t.Error("another address has a limit of its own")
	}
	const text = "metallb-speaker Warning Service/AddressClaimedOnWire: %s claims %s: MAC 02:00:00:00:00:01, heard on link eth0 of node n1, which answers for it%s (1)"
	l.eventually(func() string {
		return cmp.Diff([]string{
			fmt.Sprintf(text, "another host", "192.0.2.1", ""),
			fmt.Sprintf(text, "node n2", "2001:db8::1", "; the speakers of the two do not hear each other"),
		}, l.events(a))
	})
}

// A pool that is to be kept is not gone when it is deleted, until it is not to be
// kept any more.
func TestPoolInUseIsKept(t *testing.T) {
	l := newLab(t)
	p := pool("kept", "192.0.2.0/24")
	l.create(p)
	w := l.state("controller", kube.Options{})
	says := func(kind string) string {
		l.refresh(p)
		c := meta.FindStatusCondition(p.Status.Conditions, kind)
		if c == nil {
			return "nothing"
		}
		return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	}
	w.Set(kube.State{Pools: map[string]kube.PoolState{"kept": {Keep: true}}})
	l.eventually(func() string {
		l.refresh(p)
		return cmp.Diff([]string{v1beta1.FinalizerInUse}, p.Finalizers)
	})
	if got := says(v1beta1.ConditionEditHeldBack) + says(v1beta1.ConditionAddressesInUseOnWire); got != "nothingnothing" {
		t.Errorf("it says %s", got)
	}
	l.delete(p)
	w.Set(kube.State{Pools: map[string]kube.PoolState{"kept": {Keep: true, HeldBack: "default/web", OnWire: "192.0.2.7"}}})
	l.eventually(func() string {
		return cmp.Diff("True EditHeldBack: default/web", says(v1beta1.ConditionEditHeldBack))
	})
	if got := says(v1beta1.ConditionAddressesInUseOnWire); got != "True AddressesInUseOnWire: 192.0.2.7" {
		t.Errorf("it says %s", got)
	}
	w.Set(kube.State{Pools: map[string]kube.PoolState{"kept": {Keep: true, HeldBack: "default/web"}}})
	l.eventually(func() string {
		return cmp.Diff("False None: nobody else on the wire uses addresses of this pool", says(v1beta1.ConditionAddressesInUseOnWire))
	})
	w.Set(kube.State{Pools: map[string]kube.PoolState{"kept": {}}})
	l.eventually(func() string {
		err := l.client.Get(t.Context(), client.ObjectKeyFromObject(p), p)
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprintf("it is there: %v %v", err, p.Finalizers)
	})
}
