package plugin_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
)

// mixed is a cluster with several Services, of which some do not work.
func mixed(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.add(bgp)
	w.edit("BGPAdvertisement/bgp", "{spec: {ipAddressPools: [routed]}}")
	w.add(`
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: routed, namespace: metallb-system, creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {addresses: [198.51.100.0/30], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: typo, namespace: metallb-system, creationTimestamp: "2026-01-03T00:00:00Z"}
spec: {addresses: [192.168.1.300/32]}
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: shop, uid: u-routed, annotations: {metallb.io/ip-allocated-from-pool: routed}}
spec: {type: LoadBalancer, clusterIPs: [10.96.0.12], ports: [{port: 443, protocol: TCP}], externalTrafficPolicy: Local}
status: {loadBalancer: {ingress: [{ip: 198.51.100.0}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: routed-1, namespace: shop, labels: {kubernetes.io/service-name: routed}}
addressType: IPv4
endpoints:
- {addresses: [10.244.2.9], nodeName: node2, conditions: {ready: true}}
---
apiVersion: metallb.io/v1beta1
kind: ServiceBGPStatus
metadata: {name: bgp-routed, namespace: metallb-system}
status: {node: node2, serviceName: routed, serviceNamespace: shop, peers: [router1]}
---
apiVersion: v1
kind: Service
metadata: {name: waiting, namespace: shop, uid: u-waiting, annotations: {metallb.io/address-pool: none-such}}
spec: {type: LoadBalancer, clusterIPs: [10.96.0.13], ports: [{port: 80, protocol: TCP}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop, uid: u-empty, annotations: {metallb.io/ip-allocated-from-pool: pool}}
spec: {type: LoadBalancer, clusterIPs: [10.96.0.14], ports: [{port: 80, protocol: TCP}]}
status: {loadBalancer: {ingress: [{ip: 192.168.1.241}]}}`)
	w.edit("Pod/speaker-2", notReady)
	return w
}

// unheard is a cluster that announces by BGP, one node of which was switched off hours ago.
func unheard(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	byBGP(w)
	w.edit("Node/node2", fmt.Sprintf(`{status: {conditions: [{type: Ready, status: Unknown, reason: NodeStatusUnknown, lastTransitionTime: %q}]}}`,
		time.Now().Add(-3*time.Hour-time.Minute).UTC().Format(time.RFC3339)))
	w.edit("Pod/speaker-2", `{status: {conditions: [{type: Ready, status: "False"}]}}`)
	w.add(`
apiVersion: metallb.io/v1beta1
kind: BGPSessionStatus
metadata: {name: session-2, namespace: metallb-system}
status: {node: node2, bgpPeer: router1, bgpStatus: Established}`)
	return w
}

// TestUnheardAnnouncesNothing: a Service of which only a node speaks that is not heard of
// any more is not called announced.
func TestUnheardAnnouncesNothing(t *testing.T) {
	w := unheard(t)
	w.remove("ServiceBGPStatus/bgp-web-node1", "ServiceBGPStatus/bgp-web-node3")
	if out := w.ask("status"); !strings.Contains(out, "SpeakerSilent") {
		t.Error(out)
	}
}

// TestTranscripts holds what the commands print.
func TestTranscripts(t *testing.T) {
	for name, c := range map[string]struct {
		world  func(*testing.T) *world
		args   string
		change string // a file for -f
	}{
		"status-healthy":     {newWorld, "status", ""},
		"status-mixed":       {mixed, "status", ""},
		"status-sessions":    {changed(func(w *world) { byBGP(w); w.metrics = sessions(0, 0, 0) }), "status", ""},
		"status-wrong":       {mixed, "status --wrong -o yaml", ""},
		"status-unheard":     {unheard, "status", ""},
		"node-unheard":       {unheard, "explain node node2", ""},
		"service-unheard":    {unheard, "explain service shop/web", ""},
		"address-web":        {newWorld, "explain address 192.168.1.240", ""},
		"address-free":       {newWorld, "explain address 192.168.1.242", ""},
		"address-elsewhere":  {newWorld, "explain address 8.8.8.8", ""},
		"address-of-node":    {newWorld, "explain address 192.168.1.101", ""},
		"address-cluster-ip": {changed(func(w *world) { w.edit("Service/web", "{spec: {type: ClusterIP}, status: null}") }), "explain address 10.96.0.10", ""},
		"node-owner":         {newWorld, "explain node " + owner, ""},
		"node-down":          {mixed, "explain node node2", ""},
		"node-unknown":       {newWorld, "explain node node9", ""},
		"without-owner":      {newWorld, "what-if --without " + owner, ""},
		"without-other":      {newWorld, "what-if --without " + next, ""},
		"without-all":        {newWorld, "what-if --without node1,node2,node3", ""},
		"without-routes":     {changed(byBGP), "what-if --without node2", ""},
		"pool-moved":         {newWorld, "what-if", "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: pool}\nspec: {addresses: [192.168.1.200/31]}\n"},
		"pool-typo":          {newWorld, "what-if", "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: pool}\nspec: {addresses: [192.168.1.200/33]}\n"},
		"preferred":          {newWorld, "what-if", "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: layer2}\nspec: {ipAddressPools: [pool], preferredNodeSelectors: [{weight: 5, preference: {matchLabels: {kubernetes.io/hostname: node2}}}]}\n"},
		"new-service":        {newWorld, "what-if -n shop", "apiVersion: v1\nkind: Service\nmetadata: {name: new}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n"},
		"same-service":       {newWorld, "what-if -n shop", "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: {app: web}}\nspec: {type: LoadBalancer, ports: [{port: 80, protocol: TCP}]}\n"},
		"doctor-healthy":     {changed(func(w *world) { w.metrics[owner] = answering }), "doctor", ""},
		"doctor-ill":         {ill, "doctor", ""},
		"advise-layer2":      {newWorld, "advise", ""},
		"advise-nothing":     {changed(func(w *world) { w.remove("IPAddressPool/", "L2Advertisement/") }), "advise", ""},
		"advise-both":        {mixed, "advise", ""},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(c.args)
			if c.change != "" {
				file := filepath.Join(t.TempDir(), "change.yaml")
				write(t, file, c.change)
				args = append(args, "-f", file)
			}
			golden(t, name+".txt", c.world(t).ask(args...))
		})
	}
}

// TestClassIsGiven: --lb-class says which Services are BareLB's.
func TestClassIsGiven(t *testing.T) {
	w := newWorld(t)
	w.edit("Service/web", "{spec: {loadBalancerClass: example.com/lb}}")
	if out := w.ask("explain", "service", "shop/web", "--lb-class=example.com/lb"); !strings.Contains(out, "No broken link") {
		t.Error(out)
	}
}

// ill is a cluster whose surroundings are wrong in many ways.
func ill(t *testing.T) *world {
	t.Helper()
	w := mixed(t)
	exclude(w, "node1", "node2", "node3")
	w.edit("ConfigMap/kube-proxy", "{data: {config.conf: \"mode: ipvs\"}}")
	w.edit("IPAddressPool/pool", "{spec: {addresses: [192.168.1.100-192.168.1.120, 10.96.1.0/24, 10.244.2.0/28]}}")
	for i, image := range []string{"quay.io/metallb/speaker:v0.14", "rancher/klipper-lb:v0.4", "ghcr.io/kube-vip/kube-vip:v0.8", "docker.io/calico/node:v3.29", "quay.io/cilium/cilium:v1.16"} {
		ds := "other" + string(rune('a'+i))
		if strings.Contains(image, "klipper") {
			ds = "svclb-web-1234"
		}
		w.add(fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: %s, namespace: other}
spec: {template: {spec: {hostNetwork: true, containers: [{name: x, image: "%s", ports: [{containerPort: 7946}]}]}}}`, ds, image))
	}
	w.add(`
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {name: l2-web-2, namespace: metallb-system}
status: {node: node1, serviceName: web, serviceNamespace: shop}`)
	return w
}

// TestDoctorNames has the doctor find each fault of the surroundings.
func TestDoctorNames(t *testing.T) {
	found := askJSON[[]explain.Finding](ill(t), "doctor")
	reasons := map[lb.Reason]bool{}
	for _, f := range found {
		reasons[f.Reason] = true
		if (f.Level == explain.Broken || f.Level == explain.Warning) && (f.Remedy == "" || f.What == "") {
			t.Errorf("%q has no remedy", f.What)
		}
	}
	for _, want := range []lb.Reason{
		explain.StrictARPOff, explain.TwoLoadBalancers, explain.AllNodesExcluded, explain.RangesOverlap, explain.PortTaken,
		explain.OtherBGPSpeaker, explain.SpeakersDoNotMeet, explain.SpeakerNotRunning, lb.InvalidField,
	} {
		if !reasons[want] {
			t.Errorf("the doctor does not find %s", want)
		}
	}
}

// TestErrors holds what wrong arguments are told.
func TestErrors(t *testing.T) {
	dir := newWorld(t).write()
	bad, empty := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bad, "x.yaml"), "kind: Service\nmetadata: {name: x}\nspec: {ports: 5}\n")
	for _, c := range []struct{ args, want string }{
		{"explain service a/b/c --offline " + dir, `"a/b/c" is not NAMESPACE/NAME of a Service`},
		{"explain address x --offline " + dir, `"x" is not an IP address`},
		{"what-if --offline " + dir, "say what would change: --without NODE, or -f FILE"},
		{"what-if --without node9 --offline " + dir, `there is no node "node9"`},
		{"status -o toml --offline " + dir, `--output: "toml" is neither json nor yaml`},
		{"status --offline " + filepath.Join(dir, "none"), "no such file or directory"},
		{"status --offline " + empty, "neither a Service nor a Node"},
		{"status --offline " + bad, "x.yaml: Service x: json: cannot unmarshal number"},
		{"status --kubeconfig " + filepath.Join(dir, "none"), "find the cluster: "},
	} {
		if _, err := run(t, strings.Fields(c.args)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.args, err, c.want)
		}
	}
}

// TestHelpTeaches demands examples of every command.
func TestHelpTeaches(t *testing.T) {
	for _, cmd := range []string{
		"status", "explain", "explain service", "explain address", "explain node", "what-if", "doctor", "advise", "drain", "undrain", "migrate check", "migrate convert",
	} {
		out, err := run(t, append(strings.Fields(cmd), "--help")...)
		if err != nil || !strings.Contains(out, "Examples:\n") || !strings.Contains(out, "kubectl barelb "+cmd) || !strings.Contains(out, "--context") {
			t.Errorf("%s --help: %v\n%s", cmd, err, out)
		}
	}
}

// TestCompletion completes names of nodes and Services.
func TestCompletion(t *testing.T) {
	dir := newWorld(t).write()
	for _, c := range []struct{ args, want string }{
		{"explain node --offline DIR no", "node1\nnode2\nnode3\n"},
		{"explain service --offline DIR sh", "shop/web\n"},
		{"explain service -n shop --offline DIR w", "web\n"},
		{"what-if --offline DIR --without node3", "node3\n"},
		{"expl", "explain\t"},
	} {
		args := append([]string{"__complete"}, strings.Fields(strings.ReplaceAll(c.args, "DIR", dir))...)
		if out, err := run(t, args...); err != nil || !strings.HasPrefix(out, c.want) {
			t.Errorf("%s: %v\n%s\nwant %s", c.args, err, out, c.want)
		}
	}
}

// changed returns a maker of the cluster in which everything works, changed.
func changed(change func(*world)) func(*testing.T) *world {
	return func(t *testing.T) *world {
		t.Helper()
		w := newWorld(t)
		change(w)
		return w
	}
}
