package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/kube"
)

func inSystem(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: system, Name: name} }

// judge is what a controller does with the configuration alone.
type judge struct {
	l      *lab
	view   *view
	cfg    *config.Config
	uses   *config.Uses
	writer *kube.StateWriter
	writes atomic.Int64 // of the status of configuration objects
}

func (l *lab) judge() *judge {
	l.t.Helper()
	j := &judge{l: l, uses: config.NewUses()}
	c := l.connect(kube.Options{}, func(cfg *rest.Config) {
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/status") && !strings.Contains(r.URL.Path, "configurationstates") {
					j.writes.Add(1)
				}
				return next.RoundTrip(r)
			})
		})
	})
	j.view, j.writer = l.watch(c), c.StateWriter()
	l.run(j.writer.Run)
	l.t.Cleanup(func() {
		if err := client.IgnoreNotFound(l.client.Delete(context.WithoutCancel(l.t.Context()), configurationState("controller"))); err != nil {
			l.t.Error(err)
		}
	})
	j.step()
	return j
}

// step judges what is there now.
func (j *judge) step() {
	j.cfg = config.Parse(*j.view.last.Objects, j.cfg)
	j.uses.SetConfig(j.cfg)
	j.writer.Set(kube.State{Problems: j.cfg.Problems, Objects: j.uses.Statuses(*j.view.last.Objects)})
}

// until judges whatever is new until check returns "".
func (j *judge) until(check func() string) {
	j.l.t.Helper()
	j.l.eventually(func() string {
		if j.view.drain().Objects != nil {
			j.step()
		}
		return check()
	})
}

// conditions waits for the conditions of o.
func (j *judge) conditions(o client.Object, want ...string) {
	j.l.t.Helper()
	j.until(func() string {
		j.l.refresh(o)
		var got []string
		for _, c := range *kube.ConditionsOf(o) {
			got = append(got, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
			if c.ObservedGeneration != o.GetGeneration() {
				got = append(got, fmt.Sprintf("of generation %d, not %d", c.ObservedGeneration, o.GetGeneration()))
			}
		}
		return cmp.Diff(want, got)
	})
}

const (
	acceptedText = "Accepted=True Accepted: in force as written"
	refsText     = "ResolvedRefs=True ResolvedRefs: all that it refers to is there"
	noRefsText   = "ResolvedRefs=True ResolvedRefs: it refers to no other object"
)

func bgpPeer(name string) *v1beta2.BGPPeer {
	return &v1beta2.BGPPeer{ObjectMeta: inSystem(name), Spec: v1beta2.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.1"}}
}

// TestConditionsAreWritten: on all kinds, and not again when nothing is new.
func TestConditionsAreWritten(t *testing.T) {
	l := newLab(t)
	p := pool("cond-pool", "192.0.2.0/24")
	l2 := &v1beta1.L2Advertisement{ObjectMeta: inSystem("cond-l2"), Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: []string{"cond-pool"}}}
	bgp := &v1beta1.BGPAdvertisement{ObjectMeta: inSystem("cond-bgp"), Spec: v1beta1.BGPAdvertisementSpec{
		IPAddressPools: []string{"cond-pool", "nope"}, Communities: []string{"cond-alias"},
	}}
	profile := &v1beta1.BFDProfile{ObjectMeta: inSystem("cond-bfd")}
	peer := bgpPeer("cond-peer")
	peer.Spec.BFDProfile = profile.Name
	community := &v1beta1.Community{ObjectMeta: inSystem("cond-community"), Spec: v1beta1.CommunitySpec{
		Communities: []v1beta1.CommunityAlias{{Name: "cond-alias", Value: "64512:7"}},
	}}
	all := []client.Object{p, l2, bgp, profile, peer, community}
	for _, o := range all {
		l.create(o)
	}
	j := l.judge()
	j.conditions(l2, acceptedText, refsText, "InUse=False NotInUse: no Service that it selects holds an address of its pools")
	j.conditions(bgp, acceptedText+", but for what ResolvedRefs tells",
		`ResolvedRefs=False UnknownReference: spec.ipAddressPools[1]: there is no IPAddressPool "nope" (the rest is in force)`,
		"InUse=False NotInUse: no Service that it selects holds an address of its pools")
	j.conditions(profile, acceptedText, noRefsText, "InUse=True InUse: used by BGPPeer cond-peer")
	j.conditions(peer, acceptedText, refsText, "InUse=True InUse: used by BGPAdvertisement cond-bgp")
	j.conditions(community, acceptedText, noRefsText, "InUse=True InUse: used by BGPAdvertisement cond-bgp")
	// The versions to keep: whole, with values for aliases.
	if got := string(bgp.Status.LastGood.Spec.Raw); !strings.Contains(got, `"communities":["64512:7"]`) || bgp.Status.LastGood.Generation != 1 {
		t.Errorf("kept: %s of generation %d", got, bgp.Status.LastGood.Generation)
	}
	if got := string(peer.Status.LastGood.BFDProfile.Raw); !strings.Contains(got, `"receiveInterval":300`) {
		t.Errorf("kept: %s", got)
	}

	// It has written each once. Said again, it writes nothing: not before what it writes
	// of another object after it.
	before := versions(l, all)
	writes := j.writes.Load()
	j.step()
	edit(l, profile, func(o *v1beta1.BFDProfile) { o.Spec.DetectMultiplier = new(uint32(5)) })
	j.conditions(profile, acceptedText, noRefsText, "InUse=True InUse: used by BGPPeer cond-peer")
	j.until(func() string { // the peer's version is kept with the new profile
		l.refresh(peer)
		if got := string(peer.Status.LastGood.BFDProfile.Raw); !strings.Contains(got, `"detectMultiplier":5`) {
			return got
		}
		return ""
	})
	after := versions(l, all)
	delete(before, "cond-bfd")
	delete(after, "cond-bfd")
	delete(before, "cond-peer")
	delete(after, "cond-peer")
	if diff := cmp.Diff(before, after); diff != "" || j.writes.Load() != writes+2 {
		t.Errorf("%d writes more, want 2; versions:\n%s", j.writes.Load()-writes, diff)
	}

	// What others change is put right.
	editStatus(l, community, func(o *v1beta1.Community) { o.Status.Conditions = nil })
	j.conditions(community, acceptedText, noRefsText, "InUse=True InUse: used by BGPAdvertisement cond-bgp")
}

func versions(l *lab, objects []client.Object) map[string]string {
	out := map[string]string{}
	for _, o := range objects {
		l.refresh(o)
		out[o.GetName()] = o.GetResourceVersion()
	}
	return out
}

// TestLastGoodVersionIsKept: one who has never seen it takes it from the object; no
// password is written anywhere, and the object takes it with it when it goes.
func TestLastGoodVersionIsKept(t *testing.T) {
	l := newLab(t)
	peer := bgpPeer("kept-peer")
	peer.Spec.Password = "hunter2"
	l.create(peer)
	profile := &v1beta1.BFDProfile{ObjectMeta: inSystem("kept-bfd"), Spec: v1beta1.BFDProfileSpec{ReceiveInterval: new(uint32(50))}}
	l.create(profile)
	j := l.judge()
	j.conditions(peer, acceptedText, refsText, "InUse=False NotInUse: no BGPAdvertisement gives it routes")
	j.conditions(profile, acceptedText, noRefsText, "InUse=False NotInUse: no BGPPeer in force refers to it")
	kept := peer.Status.LastGood.DeepCopy()
	if text := string(kept.Spec.Raw); strings.Contains(text, "hunter2") || !kept.PasswordInSpec || !strings.Contains(text, "192.0.2.1") {
		t.Errorf("kept: %s, password in the spec: %t", text, kept.PasswordInSpec)
	}

	edit(l, peer, func(o *v1beta2.BGPPeer) { o.Spec.PeerAddress = "router" })
	const bad = `InvalidField: spec.peerAddress: invalid BGPPeer address "router": it is not an IP address (the last good version stays in force)`
	j.conditions(peer, "Accepted=False "+bad, refsText, "InUse=False NotInUse: no BGPAdvertisement gives it routes")
	if diff := cmp.Diff(kept, peer.Status.LastGood); diff != "" {
		t.Errorf("the version to keep has changed (-want +got):\n%s", diff)
	}

	// Speaker and controller start again.
	for _, opts := range []kube.Options{{NodeName: "n1"}, {}} {
		objs := *l.watch(l.connect(opts)).last.Objects
		got := config.Parse(objs, nil)
		i := slices.IndexFunc(got.Peers, func(p *config.Peer) bool { return p.Name == "kept-peer" })
		if i < 0 || got.Peers[i].Addr.String() != "192.0.2.1" || got.Peers[i].Password != "hunter2" {
			t.Errorf("after a restart: %v, problems %v", got.Peers, got.Problems)
		}
	}

	// Through the other version of the API it is not lost either.
	old := &v1beta1.BGPPeer{ObjectMeta: inSystem("kept-peer")}
	l.refresh(old)
	edit(l, old, func(o *v1beta1.BGPPeer) { o.Labels = map[string]string{"touched": "yes"} })
	old.Spec.PeerAddress = "switch"
	if err := l.client.Update(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	l.refresh(peer)
	if diff := cmp.Diff(kept, peer.Status.LastGood); diff != "" {
		t.Errorf("v1beta1 has lost it (-want +got):\n%s", diff)
	}

	// Made anew it has none, and is set aside.
	l.delete(peer)
	j.until(func() string {
		if len(j.view.last.Objects.Peers) > 0 {
			return "the peer is still there"
		}
		return ""
	})
	again := bgpPeer("kept-peer")
	again.Spec.PeerAddress = "router"
	l.create(again)
	j.conditions(again, `Accepted=False InvalidField: spec.peerAddress: invalid BGPPeer address "router": it is not an IP address (set aside)`, refsText, "InUse=False NotInUse: no version of it is in force")
	if again.Status.LastGood != nil {
		t.Errorf("kept: %v", again.Status.LastGood)
	}
}

// TestKeptVersionThatMakesNoSense is what somebody may have written there.
func TestKeptVersionThatMakesNoSense(t *testing.T) {
	l := newLab(t)
	peer := bgpPeer("odd-peer")
	peer.Spec.PeerAddress = "router"
	l.create(peer)
	for text, want := range map[string]int{
		`{}`: 0, `{"myASN":"many"}`: 0, `{"myASN":1,"peerASN":2,"peerAddress":"192.0.2.9","password":"smuggled","more":[1]}`: 1,
	} {
		editStatus(l, peer, func(o *v1beta2.BGPPeer) {
			o.Status.LastGood = &v1beta1.LastGoodPeer{}
			o.Status.LastGood.Spec.Raw = []byte(text)
		})
		got := config.Parse(*l.watch(l.connect(kube.Options{NodeName: "n1"})).last.Objects, nil)
		if len(got.Peers) != want || want > 0 && got.Peers[0].Password != "" {
			t.Errorf("%s: in force %v", text, got.Peers)
		}
	}
}

// TestSetAsideIsToldOnce: also when another controller takes over.
func TestSetAsideIsToldOnce(t *testing.T) {
	l := newLab(t)
	adv := &v1beta1.L2Advertisement{ObjectMeta: inSystem("told"), Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: []string{"nope"}}}
	l.create(adv)
	controller := func(name string, fn func(l *lab, j *judge)) {
		t.Run(name, func(t *testing.T) {
			own := *l
			own.t = t
			fn(&own, own.judge())
		})
	}
	const (
		text  = `UnknownReference: spec.ipAddressPools[0]: there is no IPAddressPool "nope"`
		well  = "metallb-controller Normal L2Advertisement/InForce: in force as written (1)"
		aside = "metallb-controller Warning L2Advertisement/SetAside: " + text + " (1)"
		idle  = "InUse=False NotInUse: no Service that it selects holds an address of its pools"
	)
	controller("first", func(l *lab, j *judge) {
		j.conditions(adv, "Accepted=False "+text+" (set aside)", "ResolvedRefs=False "+text+" (set aside)", "InUse=False NotInUse: no version of it is in force")
		l.eventually(func() string { return cmp.Diff([]string{aside}, l.events(adv)) })
	})
	controller("second", func(l *lab, j *judge) {
		edit(l, adv, func(o *v1beta1.L2Advertisement) { o.Spec.IPAddressPools = nil })
		j.conditions(adv, acceptedText, refsText, idle)
		l.eventually(func() string { return cmp.Diff([]string{well, aside}, l.events(adv)) })
	})
	controller("third", func(l *lab, j *judge) {
		edit(l, adv, func(o *v1beta1.L2Advertisement) { o.Spec.IPAddressPools = []string{"nope"} })
		j.conditions(adv, "Accepted=False "+text+" (the last good version stays in force)", "ResolvedRefs=False "+text+" (the last good version stays in force)", idle)
	})
	l.refresh(adv)
	edit(l, adv, func(o *v1beta1.L2Advertisement) { o.Spec.IPAddressPools = nil })
	controller("fourth finds that it was mended meanwhile", func(l *lab, j *judge) {
		j.conditions(adv, acceptedText, refsText, idle)
		partly := strings.Replace(aside, "SetAside", "PartlyInForce", 1)
		l.eventually(func() string { return cmp.Diff([]string{well, well, partly, aside}, l.events(adv)) })
	})
}

// TestCRDsThatKeepNoConditions: those of MetalLB. What the API server drops is written
// once, not for ever.
func TestCRDsThatKeepNoConditions(t *testing.T) {
	l := newLab(t)
	l.pruneStatus("communities.metallb.io")
	community := &v1beta1.Community{ObjectMeta: inSystem("pruned"), Spec: v1beta1.CommunitySpec{
		Communities: []v1beta1.CommunityAlias{{Name: "pruned-alias", Value: "64512:8"}},
	}}
	l.create(community)
	other := &v1beta1.BFDProfile{ObjectMeta: inSystem("beside")}
	l.create(other)
	j := l.judge()
	j.conditions(other, acceptedText, noRefsText, "InUse=False NotInUse: no BGPPeer in force refers to it")
	for i := range 3 { // as Services come and go, all is said again and again
		before := j.writes.Load()
		j.step()
		edit(l, other, func(o *v1beta1.BFDProfile) { o.Spec.DetectMultiplier = new(uint32(5 + i)) })
		j.conditions(other, acceptedText, noRefsText, "InUse=False NotInUse: no BGPPeer in force refers to it")
		if n := j.writes.Load() - before; n != 1 && i > 0 {
			t.Errorf("%d writes more, want 1", n)
		}
	}
	if l.refresh(community); len(community.Status.Conditions) > 0 {
		t.Error("the API server has kept conditions: this test shows nothing")
	}
	edit(l, community, func(o *v1beta1.Community) { o.Spec.Communities[0].Value = "?" })
	j.until(func() string {
		if got := l.events(community); len(got) != 1 {
			return fmt.Sprintf("events: %v", got)
		}
		return ""
	})
}

// pruneStatus has the API server keep no conditions of a kind, until the end of the test.
func (l *lab) pruneStatus(crd string) {
	l.t.Helper()
	ctx := context.WithoutCancel(l.t.Context())
	o := &apiextensionsv1.CustomResourceDefinition{}
	o.Name = crd
	key := client.ObjectKeyFromObject(o)
	change := func(fn func(*apiextensionsv1.CustomResourceDefinition)) {
		l.eventually(func() string {
			if err := l.client.Get(ctx, key, o); err != nil {
				return err.Error()
			}
			fn(o)
			if err := l.client.Update(ctx, o); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	var whole apiextensionsv1.JSONSchemaProps
	change(func(o *apiextensionsv1.CustomResourceDefinition) {
		status := o.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"]
		whole = *status.DeepCopy()
		o.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"] = apiextensionsv1.JSONSchemaProps{Type: "object"}
	})
	keeps := func(want bool) {
		l.eventually(func() string {
			probe := &v1beta1.Community{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, GenerateName: "probe-"}}
			if err := l.client.Create(ctx, probe); err != nil {
				return err.Error()
			}
			probe.Status.Conditions = []metav1.Condition{{Type: "X", Status: "True", Reason: "X", LastTransitionTime: metav1.Now()}}
			if err := l.client.Status().Update(ctx, probe); err != nil {
				return err.Error()
			}
			if has := len(probe.Status.Conditions) > 0; has != want {
				return fmt.Sprintf("it keeps conditions: %t", has)
			}
			return ""
		})
	}
	l.t.Cleanup(func() {
		l.t.Helper()
		change(func(o *apiextensionsv1.CustomResourceDefinition) {
			o.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"] = whole
		})
		keeps(true)
	})
	keeps(false)
}
