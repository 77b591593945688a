package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// TestConfigurationState goes through what MetalLB's suite wants of the
// ConfigurationStates, and of config_stale_bool, which alerts stand on.
func TestConfigurationState(t *testing.T) {
	l := frr(t)
	l.apply(t, readers)
	s := states{l, l.token(t, "e2e-reader")}
	s.valid(t)
	t.Run("owners", s.owned)
	t.Run("wrong secret type on one node only", s.wrongSecret)
	t.Run("missing BFD profile", s.missingProfile)
	t.Run("reference broken at runtime", s.brokenReference)
	t.Run("recovery after the missing community is created", s.missingCommunity)
	t.Run("errors go one by one", s.oneByOne)
	t.Run("relabelled node brings two peers together", s.relabelled)
	t.Run("state comes back when it is deleted", s.deleted)
	s.valid(t)
}

type states struct {
	*lab
	token string // of who may read metrics
}

// valid waits until every component says that nothing is wrong.
func (s states) valid(t *testing.T) {
	t.Helper()
	for _, c := range s.components(false) {
		s.awaitState(t, c, "Valid", func(summary string) error {
			if summary != "" {
				return fmt.Errorf("it says %q", summary)
			}
			text, err := s.field(t.Context(), "ConfigurationState", c, "status", "errorSummary")
			if err == nil && text != "" {
				err = fmt.Errorf("it sums up %q", text)
			}
			return err
		})
		s.stale(t, c, 0)
	}
}

// invalid waits until a component tells a problem with all of parts.
func (s states) invalid(t *testing.T, component string, parts ...string) {
	t.Helper()
	s.awaitState(t, component, "Invalid", func(summary string) error {
		for line := range strings.Lines(summary) {
			if hasAll(line, parts) {
				return nil
			}
		}
		return fmt.Errorf("it says %q", summary)
	})
	s.stale(t, component, 1)
}

// speakersSay waits until the speakers of nodes sum up the configuration's error in exactly
// MetalLB's words. The controller has nothing to say of what it does not allocate by.
func (s states) speakersSay(t *testing.T, want string, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		eventually(t, "summary of the speaker on "+node, func() error {
			got, err := s.field(t.Context(), "ConfigurationState", "speaker-"+node, "status", "errorSummary")
			if err == nil && got != want {
				err = fmt.Errorf("it says %q, want %q", got, want)
			}
			return err
		})
		s.stale(t, "speaker-"+node, 1)
	}
	s.awaitState(t, "controller", "Valid", func(string) error { return nil })
	s.stale(t, "controller", 0)
}

// owned wants the status of every state to be owned by MetalLB's name for who writes it.
func (s states) owned(t *testing.T) {
	t.Helper()
	for _, c := range s.components(false) {
		o, err := s.objects("ConfigurationState", system.Namespace).Get(t.Context(), c, metav1.GetOptions{})
		must(t, err)
		want := "configReconciler"
		if c == "controller" {
			want = "poolReconciler"
		}
		if !slices.ContainsFunc(o.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
			return m.Subresource == "status" && m.Manager == want
		}) {
			t.Errorf("status of %s is not owned by %s: %v", c, want, o.GetManagedFields())
		}
	}
}

// stale waits until the metrics of a component tell whether its configuration is stale.
func (s states) stale(t *testing.T, component string, want int) {
	t.Helper()
	at := "192.168.1.10"
	for i, node := range s.c.Nodes() {
		if component == "speaker-"+node {
			v4, _ := cluster.NodeAddrs(i + 1)
			at = v4.String()
		}
	}
	eventually(t, fmt.Sprintf("config_stale_bool of %s to be %d", component, want), func() error {
		_, page, err := get(t.Context(), s.c.Box(cluster.Client), "https://"+at+":9120/metrics", s.token)
		for _, line := range []string{fmt.Sprintf("metallb_k8s_client_config_stale_bool %d\n", want), "metallb_k8s_client_config_loaded_bool 1\n"} {
			if err == nil && !strings.Contains(page, line) {
				err = fmt.Errorf("there is no %q", line)
			}
		}
		return err
	})
}

func (s states) wrongSecret(t *testing.T) {
	nodes := s.c.Nodes()
	s.apply(t, "apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: e2e-opaque, namespace: "+system.Namespace+"}\nstringData: {password: x}\n",
		peer("state-secret", "192.168.1.70", routerAS, "passwordSecret: {name: e2e-opaque}", onNodes(nodes[0])))
	s.invalid(t, "speaker-"+nodes[0], "BGPPeer state-secret", "spec.passwordSecret", `"Opaque"`)
	s.speakersSay(t, "configuration error: parsing peer state-secret secret type mismatch on \"metallb-system\"/\"e2e-opaque\", "+
		"type \"kubernetes.io/basic-auth\" is expected \nfailed to parse peer state-secret password secret", nodes[0])
	s.awaitCondition(t, "BGPPeer", "state-secret", "ResolvedRefs", "False", "reason:InvalidReference", "e2e-opaque")
	// The others have news of a later problem, and not of this one.
	s.apply(t, object("L2Advertisement", "state-later", "ipAddressPools: [twice, twice]"))
	for _, node := range nodes[1:] {
		s.awaitState(t, "speaker-"+node, "Invalid", func(summary string) error {
			if !strings.Contains(summary, "L2Advertisement state-later") || strings.Contains(summary, "\n") {
				return fmt.Errorf("it says %q", summary)
			}
			return nil
		})
	}
	s.remove(t, "L2Advertisement", "state-later")
	s.remove(t, "BGPPeer", "state-secret")
	s.valid(t)
}

func (s states) missingProfile(t *testing.T) {
	s.apply(t, peer("state-bfd", "192.168.1.71", routerAS, "bfdProfile: state-fast"))
	for _, c := range s.components(true) {
		s.invalid(t, c, "BGPPeer state-bfd", "spec.bfdProfile", `"state-fast"`, "(set aside)")
	}
	s.speakersSay(t, "configuration error: peer state-bfd referencing non existing bfd profile state-fast", s.c.Nodes()...)
	s.awaitCondition(t, "BGPPeer", "state-bfd", "Accepted", "False", "reason:UnknownReference")
	s.apply(t, object("BFDProfile", "state-fast"))
	s.valid(t)
	s.awaitCondition(t, "BGPPeer", "state-bfd", "Accepted", "True")
	s.awaitCondition(t, "BFDProfile", "state-fast", "InUse", "True", "BGPPeer state-bfd")
	s.remove(t, "BGPPeer", "state-bfd")
	s.awaitCondition(t, "BFDProfile", "state-fast", "InUse", "False")
}

func (s states) brokenReference(t *testing.T) {
	s.apply(t, object("BFDProfile", "state-gone"), peer("state-broken", "192.168.1.72", routerAS, "bfdProfile: state-gone"))
	s.awaitCondition(t, "BGPPeer", "state-broken", "ResolvedRefs", "True")
	s.remove(t, "BFDProfile", "state-gone")
	for _, c := range s.components(true) {
		s.invalid(t, c, "BGPPeer state-broken", "spec.bfdProfile", `"state-gone"`, "the last good version stays in force")
	}
	s.speakersSay(t, "configuration error: peer state-broken referencing non existing bfd profile state-gone", s.c.Nodes()...)
	s.awaitCondition(t, "BGPPeer", "state-broken", "ResolvedRefs", "False", "the last good version stays in force")
	s.remove(t, "BGPPeer", "state-broken")
	s.valid(t)
}

func (s states) missingCommunity(t *testing.T) {
	// As in MetalLB's suite, it names a pool that is not there, and nobody minds.
	s.apply(t, object("BGPAdvertisement", "state", "ipAddressPools: [nowhere]", "communities: [state-alias]"))
	for _, c := range s.components(true) {
		s.invalid(t, c, "BGPAdvertisement state", "spec.communities[0]", `"state-alias"`)
	}
	s.speakersSay(t, "configuration error: invalid community format: state-alias\ninvalid community \"state-alias\" in BGP advertisement", s.c.Nodes()...)
	s.apply(t, object("Community", "state", "communities: [{name: state-alias, value: \"64512:70\"}]"))
	s.valid(t)
	s.awaitCondition(t, "BGPAdvertisement", "state", "ResolvedRefs", "False", `"nowhere"`)
	s.remove(t, "BGPAdvertisement", "state")
}

func (s states) oneByOne(t *testing.T) {
	names := []string{"state-a", "state-b", "state-c"}
	for i, name := range names {
		s.apply(t, peer(name, fmt.Sprintf("192.168.1.%d", 73+i), routerAS, "sourceAddress: nowhere"))
	}
	for i, name := range names {
		for _, c := range s.components(true) {
			s.awaitState(t, c, "Invalid", func(summary string) error {
				if n := strings.Count(summary, "spec.sourceAddress"); n != len(names)-i || !strings.Contains(summary, name) {
					return fmt.Errorf("it says %q", summary)
				}
				return nil
			})
		}
		s.remove(t, "BGPPeer", name)
	}
	s.valid(t)
}

func (s states) relabelled(t *testing.T) {
	nodes := s.c.Nodes()
	with := func(rack string) string { return "nodeSelectors: [{matchLabels: {e2e-rack: " + rack + "}}]" }
	s.apply(t, peer("state-r1", "192.168.1.76", routerAS, with("one")), peer("state-r2", "192.168.1.76", routerAS, "nodeSelectors: [{matchLabels: {e2e-row: two}}]"))
	s.changeNode(t, nodes[0], `{"metadata":{"labels":{"e2e-rack":"one"}}}`, `{"metadata":{"labels":{"e2e-rack":null,"e2e-row":null}}}`)
	s.awaitCondition(t, "BGPPeer", "state-r2", "InUse", "False", "no node matches")
	s.valid(t)
	must(t, s.patchNode(t.Context(), nodes[0], `{"metadata":{"labels":{"e2e-row":"two"}}}`))
	s.invalid(t, "speaker-"+nodes[0], "BGPPeer state-r2", "already has a session", `"state-r1"`)
	s.awaitState(t, "speaker-"+nodes[1], "Valid", func(string) error { return nil })
	must(t, s.patchNode(t.Context(), nodes[0], `{"metadata":{"labels":{"e2e-row":null}}}`))
	s.valid(t)
}

func (s states) deleted(t *testing.T) {
	s.apply(t, pool("state-deleted", []string{"203.0.113.300"}))
	for _, c := range s.components(false) {
		s.invalid(t, c, "IPAddressPool state-deleted")
		s.remove(t, "ConfigurationState", c)
		s.invalid(t, c, "IPAddressPool state-deleted")
	}
	s.owned(t)
	s.remove(t, "IPAddressPool", "state-deleted")
}

// awaitCondition waits until a condition of an object has a status, and says all of parts.
func (l *lab) awaitCondition(t *testing.T, kind, name, condition, status string, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("condition %s of %s %s to be %s", condition, kind, name, status), func() error {
		text, err := l.field(t.Context(), kind, name, "status", "conditions")
		if err != nil {
			return err
		}
		for c := range strings.SplitSeq(text, "map[") {
			if hasAll(c, append([]string{"type:" + condition, "status:" + status}, parts...)) {
				return nil
			}
		}
		return fmt.Errorf("conditions are %q", text)
	})
}

// TestLastGoodPeer makes a BGPPeer bad, and a community that a BGPAdvertisement names,
// and starts every process again: session and route are as before, by what was kept.
func TestLastGoodPeer(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	advertise(t, l, "kept-bgp", []string{"198.51.100.52/32"}, "communities: [kept-alias]")
	l.apply(t, object("Community", "kept", "communities: [{name: kept-alias, value: \"64512:71\"}]"))
	route := l.serve(t, system.Service{Name: "kept-bgp"}, "kept-bgp")
	l.wantHops(t, host(route), l.c.Nodes()...)
	for kind, want := range map[[2]string]string{{"BGPPeer", "router1-v4"}: "peerAddress:" + router4, {"BGPAdvertisement", "kept-bgp"}: "64512:71"} {
		eventually(t, "version of "+kind[1]+" to be kept", func() error {
			text, err := l.field(t.Context(), kind[0], kind[1], "status", "lastGood", "spec")
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("it is %q", text)
			}
			return err
		})
	}

	l.apply(t, peer("router1-v4", "router1", routerAS, "holdTime: "+holdTime.String()), object("Community", "kept", "communities: []"))
	l.awaitCondition(t, "BGPPeer", "router1-v4", "Accepted", "False", "spec.peerAddress", "the last good version stays in force")
	l.awaitCondition(t, "BGPAdvertisement", "kept-bgp", "ResolvedRefs", "False", `"kept-alias"`)
	l.killController(t)
	l.startController(t)
	for _, node := range l.c.Nodes() {
		must(t, l.sys.StopSpeaker(t.Context(), node))
		<-l.sys.Speaker(node).Done()
		l.startSpeaker(t, node)
	}
	l.awaitSessions(t, 4, l.c.Nodes()...)
	l.wantHops(t, host(route), l.c.Nodes()...)
	l.awaitCommunities(t, host(route), "64512:71", "")
	for _, c := range l.components(true) {
		l.awaitState(t, c, "Invalid", func(summary string) error {
			if !hasAll(summary, []string{"BGPPeer router1-v4: spec.peerAddress", "BGPAdvertisement kept-bgp: spec.communities[0]", "the last good version stays in force"}) {
				return fmt.Errorf("it says %q", summary)
			}
			return nil
		})
	}
	l.apply(t, peer("router1-v4", router4, routerAS, "holdTime: "+holdTime.String()), object("Community", "kept", "communities: [{name: kept-alias, value: \"64512:71\"}]"))
	l.awaitNoProblem(t, "BGPPeer", "router1-v4", false)
}
