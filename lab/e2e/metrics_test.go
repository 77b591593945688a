package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

const readers = `apiVersion: v1
kind: ServiceAccount
metadata: {name: e2e-reader, namespace: metallb-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: e2e-nobody, namespace: metallb-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: e2e-reader}
rules: [{nonResourceURLs: [/metrics], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: e2e-reader}
subjects: [{kind: ServiceAccount, name: e2e-reader, namespace: metallb-system}]
`

// TestMetrics reads the metrics as Prometheus does: over TLS, with a token.
func TestMetrics(t *testing.T) {
	l := frr(t)
	withRouter(t, l)
	l.apply(t, pool("metrics", []string{"192.168.1.232/32"}), object("L2Advertisement", "metrics", "ipAddressPools: [metrics]"),
		object("BGPAdvertisement", "metrics", "ipAddressPools: [metrics]"), readers,
		object("BFDProfile", "metrics"), peer("nobody", "192.168.1.199", routerAS, "bfdProfile: metrics")) // so that BFD has a session
	addr := l.serve(t, system.Service{Name: "metrics"}, "metrics")
	l.wantHops(t, host(addr), l.c.Nodes()...)
	owner := l.owner(t, addr)
	reader, nobody := l.token(t, "e2e-reader"), l.token(t, "e2e-nobody")

	pages := map[string]string{} // by node, and of the controller
	for i, node := range l.c.Nodes() {
		v4, v6 := cluster.NodeAddrs(i + 1)
		for _, at := range []string{v4.String(), "[" + v6.String() + "]"} {
			pages[node] = l.metrics(t, cluster.Client, "https://"+at+":9120/metrics", reader, nobody)
		}
	}
	pages[cluster.Control] = l.metrics(t, cluster.Client, "https://192.168.1.10:9120/metrics", reader, nobody)

	wantDocumented(t, "Controller", []string{"barelb_config_problems"}, pages[cluster.Control])
	wantDocumented(t, "Speaker", []string{"barelb_config_problems", "barelb_liveness_node_down", "barelb_liveness_dropped_total", "barelb_liveness_events_total", "barelb_speaker_bfd_realtime", "barelb_speaker_bfd_process_starts_total"},
		pages["node1"], pages["node2"], pages["node3"])
	for _, node := range l.c.Nodes() {
		for _, protocol := range []string{"bgp", "layer2"} {
			line := fmt.Sprintf("metallb_speaker_announced{ip=%q,node=%q,protocol=%q,service=\"default/metrics\"} 1\n", addr, node, protocol)
			if want := protocol == "bgp" || node == owner; strings.Contains(pages[node], line) != want {
				t.Errorf("%s has %s: %t, want %t", node, line, !want, want)
			}
		}
		wantLine(t, node, pages[node], fmt.Sprintf("metallb_bgp_session_up{peer=%q,vrf=\"default\"} 1\n", router4+":179"))
		wantLine(t, node, pages[node], fmt.Sprintf("metallb_bgp_session_up{peer=%q,vrf=\"default\"} 1\n", router6+":179"))
		wantLine(t, node, pages[node], fmt.Sprintf("metallb_bgp_announced_prefixes_total{peer=%q,vrf=\"default\"} 1\n", router4+":179"))
		wantLine(t, node, pages[node], "metallb_k8s_client_config_loaded_bool 1\n")
		requests := fmt.Sprintf("metallb_layer2_requests_received{ip=%q} ", addr)
		if answers := strings.Contains(pages[node], requests); answers != (node == owner) {
			t.Errorf("%s counts requests for %s: %t, but %s answers them", node, addr, answers, owner)
		}
		if node == owner && strings.Contains(pages[node], "\nbarelb_layer2_first_answer_seconds_count 0\n") {
			t.Errorf("%s has answered nothing for the first time", node)
		}
		if strings.Contains(pages[node], requests+"0\n") {
			t.Errorf("%s has answered requests, but counts none", node)
		}
	}
	wantLine(t, "controller", pages[cluster.Control], "metallb_allocator_addresses_in_use_total{pool=\"metrics\"} 1\n")
	wantLine(t, "controller", pages[cluster.Control], "metallb_allocator_addresses_total{pool=\"metrics\"} 1\n")

	l.delete(t, "metrics")
	l.wantHops(t, host(addr))
	for i, node := range l.c.Nodes() {
		v4, _ := cluster.NodeAddrs(i + 1)
		eventually(t, "metrics of "+node+" to forget "+addr.String(), func() error {
			_, page, err := get(t.Context(), l.c.Box(cluster.Client), "https://"+v4.String()+":9120/metrics", reader)
			if err == nil && strings.Contains(page, addr.String()) {
				err = fmt.Errorf("they name it still")
			}
			return err
		})
	}
}

func wantLine(t *testing.T, who, page, line string) {
	t.Helper()
	if !strings.Contains(page, line) {
		name, _, _ := strings.Cut(line, "{")
		var have []string
		for l := range strings.Lines(page) {
			if strings.HasPrefix(l, name) {
				have = append(have, l)
			}
		}
		t.Errorf("%s has no %s; it has %q", who, line, have)
	}
}

// metrics fetches a page with the token of who may have it, and wants it to be
// refused to everybody else.
func (l *lab) metrics(t *testing.T, from, url, reader, nobody string) string {
	t.Helper()
	b := l.c.Box(from)
	for token, want := range map[string]int{"": http.StatusUnauthorized, "nonsense": http.StatusUnauthorized, nobody: http.StatusForbidden} {
		status, _, err := get(t.Context(), b, url, token)
		must(t, err)
		if status != want {
			t.Errorf("%s answers %d to who may not, want %d", url, status, want)
		}
	}
	status, page, err := get(t.Context(), b, url, reader)
	must(t, err)
	if status != http.StatusOK {
		t.Fatalf("%s answers %d to who may: %s", url, status, page)
	}
	return page
}

// token returns one of a ServiceAccount.
func (l *lab) token(t *testing.T, account string) string {
	t.Helper()
	got, err := l.kube.CoreV1().ServiceAccounts(system.Namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	return got.Status.Token
}
