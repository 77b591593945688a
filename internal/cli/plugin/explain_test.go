package plugin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
)

// bgp is a BGP setup for the pool, in place of Layer 2.
const bgp = `
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router1, namespace: metallb-system}
spec: {myASN: 64500, peerASN: 64501, peerAddress: 192.168.1.1}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: bgp, namespace: metallb-system}
spec: {ipAddressPools: [pool]}
`

// byBGP makes the cluster announce by BGP instead.
func byBGP(w *world) {
	w.remove("L2Advertisement/layer2", "ServiceL2Status/")
	w.add(bgp)
	for _, n := range []string{"node1", "node2", "node3"} {
		w.add(fmt.Sprintf(`
apiVersion: metallb.io/v1beta1
kind: ServiceBGPStatus
metadata: {name: bgp-web-%s, namespace: metallb-system}
status: {node: %s, serviceName: web, serviceNamespace: shop, peers: [router1]}`, n, n))
	}
}

// pending takes the address of the Service away.
func pending(w *world) {
	w.remove("AddressClaim/", "ServiceL2Status/")
	w.edit("Service/web", "{metadata: {annotations: {metallb.io/ip-allocated-from-pool: null}}, status: null}")
}

func exclude(w *world, nodes ...string) {
	for _, n := range nodes {
		w.edit("Node/"+n, `{metadata: {labels: {node.kubernetes.io/exclude-from-external-load-balancers: ""}}}`)
	}
}

const notReady = `{status: {conditions: [{type: Ready, status: "False"}], containerStatuses: [{name: x, restartCount: 7, state: {waiting: {reason: CrashLoopBackOff}}}]}}`

// answering is what the owner's speaker says of itself when all is well.
const answering = `# HELP metallb_speaker_announced x
metallb_speaker_announced{ip="192.168.1.240",node="node3",protocol="layer2",service="shop/web"} 1
metallb_layer2_requests_received{ip="192.168.1.240"} 12
metallb_layer2_responses_sent{ip="192.168.1.240"} 12
barelb_link_up{link="eth0",prefix="192.168.1.103/24"} 1
`

func sessions(up ...int) map[string]string {
	out := map[string]string{}
	for i, u := range up {
		out[fmt.Sprintf("node%d", i+1)] = fmt.Sprintf("metallb_bgp_session_up{peer=\"192.168.1.1:179\"} %d\nmetallb_bgp_announced_prefixes_total{peer=\"192.168.1.1:179\"} %d\n", u, u)
	}
	return out
}

// TestFirstBrokenLink breaks the cluster in many ways; each time the first broken link
// must be named, with its reason.
func TestFirstBrokenLink(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world)
		check  string // "" if nothing is broken
		reason lb.Reason
	}{
		"healthy-layer2": {func(w *world) { w.metrics = map[string]string{owner: answering} }, "", ""},
		"healthy-bgp":    {func(w *world) { byBGP(w); w.metrics = sessions(1, 1, 1) }, "", ""},
		"no-such-service": {func(w *world) {
			w.edit("Service/web", "{metadata: {namespace: store}}")
		}, "service", explain.NoSuchService},
		"not-a-load-balancer": {func(w *world) { w.edit("Service/web", "{spec: {type: ClusterIP}}") }, "service", explain.NotLoadBalancer},
		"other-class":         {func(w *world) { w.edit("Service/web", "{spec: {loadBalancerClass: example.com/lb}}") }, "service", explain.OtherClass},
		"class-not-known": {func(w *world) {
			w.edit("Service/web", "{spec: {loadBalancerClass: example.com/lb}}")
			w.remove("Pod/controller-", "Pod/speaker-")
		}, "", ""},
		"class-of-pods": {func(w *world) {
			w.edit("Service/web", "{spec: {loadBalancerClass: example.com/lb}}")
			w.edit("Pod/controller-x", `{spec: {containers: [{name: controller, image: x, args: [controller, "--lb-class=example.com/lb"]}]}}`)
		}, "", ""},
		"no-pool": {func(w *world) { pending(w); w.remove("IPAddressPool/") }, "address", lb.NoPool},
		"pool-exhausted": {func(w *world) {
			pending(w)
			w.edit("IPAddressPool/pool", "{spec: {addresses: [192.168.1.240/32]}}")
			w.add(`
apiVersion: v1
kind: Service
metadata: {name: first, namespace: shop, uid: u-first, annotations: {metallb.io/ip-allocated-from-pool: pool}}
spec: {type: LoadBalancer, clusterIPs: [10.96.0.11], ports: [{port: 80, protocol: TCP}]}
status: {loadBalancer: {ingress: [{ip: 192.168.1.240}]}}`)
		}, "address", lb.PoolExhausted},
		"address-outside-pools": {func(w *world) { pending(w); w.edit("Service/web", "{spec: {loadBalancerIP: 192.168.9.9}}") }, "address", lb.AddressNotInPool},
		"pool-not-found": {func(w *world) {
			pending(w)
			w.edit("Service/web", "{metadata: {annotations: {metallb.io/address-pool: polo}}}")
		}, "address", lb.PoolNotFound},
		"controller-not-running": {func(w *world) { pending(w); w.edit("Pod/controller-x", notReady) }, "controller", explain.ControllerNotRunning},
		"pool-gone": {func(w *world) {
			w.edit("IPAddressPool/pool", "{spec: {addresses: [192.168.7.0/24]}}")
			w.edit("Service/web", "{metadata: {annotations: {metallb.io/ip-allocated-from-pool: null}}}")
		}, "address", lb.AddressUnknown},
		"pools-overlap": {func(w *world) {
			pending(w)
			w.add(`
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: another, namespace: metallb-system, creationTimestamp: "2026-02-01T00:00:00Z"}
spec: {addresses: [192.168.1.0/24]}`)
			w.edit("Service/web", "{metadata: {annotations: {metallb.io/address-pool: another}}}")
		}, "address", explain.SetAside},
		"no-advertisement": {func(w *world) { w.remove("L2Advertisement/") }, "advertisement", lb.NoMatchingAdvertisement},
		"advertisement-elsewhere": {func(w *world) {
			w.edit("L2Advertisement/layer2", "{spec: {serviceSelectors: [{matchLabels: {app: mail}}]}}")
		}, "advertisement", lb.NoMatchingAdvertisement},
		"selectors-match-nothing": {func(w *world) {
			w.edit("L2Advertisement/layer2", "{spec: {nodeSelectors: [{matchLabels: {zone: c}}]}}")
		}, "nodes (layer2)", explain.SelectorsMatchNoNode},
		"all-excluded": {func(w *world) { exclude(w, "node1", "node2", "node3") }, "nodes (layer2)", lb.NodeExcluded},
		"no-endpoint": {func(w *world) {
			w.edit("EndpointSlice/web-1", "{endpoints: [{addresses: [10.244.1.5], nodeName: node1, conditions: {ready: false}}]}")
		}, "endpoints", lb.NoEndpoint},
		"local-excluded": {func(w *world) {
			w.edit("Service/web", "{spec: {externalTrafficPolicy: Local}}")
			exclude(w, "node1", "node2")
		}, "nodes (layer2)", lb.NoLocalEndpoint},
		"no-speaker": {func(w *world) {
			w.edit("L2Advertisement/layer2", "{spec: {nodeSelectors: [{matchLabels: {zone: b}}]}}")
			w.remove("Pod/speaker-3")
		}, "speakers", explain.SpeakerNotRunning},
		"no-speaker-anywhere": {func(w *world) {
			w.remove("Pod/speaker-")
			for _, n := range []string{"node1", "node2", "node3"} { // left over, until they are collected
				w.edit("ConfigurationState/speaker-"+n, "{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: speaker, uid: x}]}}")
			}
		}, "speakers", explain.SpeakerNotRunning},
		"not-installed": {func(w *world) {
			w.remove("Pod/speaker-", "ServiceL2Status/")
			w.edit("ConfigurationState/controller", "{metadata: {name: left-over}}")
			w.remove("ConfigurationState/speaker-")
		}, "speakers", explain.SpeakerNotRunning},
		"speaker-cut-off": {func(w *world) {
			w.remove("ServiceL2Status/", "ConfigurationState/speaker-"+owner)
		}, "reports (layer2)", explain.SpeakerSilent},
		"two-owners": {func(w *world) {
			w.add(`
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {name: l2-web-2, namespace: metallb-system}
status: {node: node1, serviceName: web, serviceNamespace: shop}`)
		}, "reports (layer2)", explain.TwoOwners},
		"used-by-another-host": {func(w *world) {
			w.add(`
apiVersion: barelb.io/v1alpha1
kind: AddressConflict
metadata: {name: 192.168.1.240, namespace: metallb-system}
spec: {address: 192.168.1.240, mac: "02:00:00:00:00:99", node: node1, interface: eth0}`)
		}, "wire", lb.AddressInUseOnWire},
		"outside-subnets": {func(w *world) {
			w.edit("IPAddressPool/pool", "{spec: {addresses: [10.9.9.0/24]}}")
			w.edit("Service/web", "{status: {loadBalancer: {ingress: [{ip: 10.9.9.1}]}}}")
			w.remove("AddressClaim/")
			w.edit("ServiceL2Status/l2-web", "{status: {node: node2}}") // that address is its own
		}, "wire", explain.OutsideSubnets},
		"link-missing": {func(w *world) {
			w.edit("L2Advertisement/layer2", "{spec: {interfaces: [eth7]}}")
			w.metrics = map[string]string{owner: answering}
		}, "wire", explain.LinkMissing},
		"link-down": {func(w *world) {
			w.edit("L2Advertisement/layer2", "{spec: {interfaces: [eth0]}}")
			w.metrics = map[string]string{owner: strings.Replace(answering, "/24\"} 1", "/24\"} 0", 1)}
		}, "wire", explain.LinkDown},
		"strict-arp-off": {func(w *world) {
			w.edit("ConfigMap/kube-proxy", "{data: {config.conf: \"mode: ipvs\"}}")
		}, "", ""},
		"strict-arp-off-local": {func(w *world) {
			w.edit("Service/web", "{spec: {externalTrafficPolicy: Local}}")
			w.edit("ConfigMap/kube-proxy", "{data: {config.conf: \"mode: ipvs\"}}")
			w.edit("ServiceL2Status/l2-web", "{status: {node: node2}}")
		}, "wire", explain.StrictARPOff},
		"node-not-ready": {func(w *world) {
			for _, n := range []string{"node1", "node2", "node3"} {
				w.edit("Node/"+n, `{status: {conditions: [{type: Ready, status: Unknown, lastTransitionTime: "2026-01-01T00:00:00Z"}]}}`)
			}
		}, "", ""},
		"source-ranges": {func(w *world) {
			w.edit("Service/web", `{spec: {loadBalancerSourceRanges: [203.0.113.0/24, "2001:db8::/32"]}}`)
		}, "", ""},
		"ipv6-pool-alone": {func(w *world) {
			pending(w)
			w.edit("IPAddressPool/pool", `{spec: {addresses: ["2001:db8::/120"]}}`)
		}, "address", lb.PoolExhausted},
		"kube-proxy-dead": {func(w *world) { w.edit("Pod/kube-proxy-3", notReady) }, "data plane", explain.ProxyNotRunning},
		"no-session":      {func(w *world) { byBGP(w); w.metrics = sessions(0, 0, 0) }, "sessions", explain.NoSession},
		"password-refused": {func(w *world) {
			byBGP(w)
			for _, n := range []string{"node1", "node2", "node3"} {
				w.add(fmt.Sprintf(`
apiVersion: metallb.io/v1beta1
kind: BGPSessionStatus
metadata: {name: s-%s, namespace: metallb-system}
status: {node: %s, bgpPeer: router1, bgpStatus: Active, bfdStatus: N/A, message: "the router does not answer: is the password the same on both sides?"}`, n, n))
			}
		}, "sessions", explain.NoSession},
		"sessions-reported": {func(w *world) {
			byBGP(w)
			w.add(`
apiVersion: metallb.io/v1beta1
kind: BGPSessionStatus
metadata: {name: s-1, namespace: metallb-system}
status: {node: node1, bgpPeer: router1, bgpStatus: Established, bfdStatus: Up, advertisedPrefixes: 1}
---
apiVersion: metallb.io/v1beta1
kind: BGPSessionStatus
metadata: {name: s-2, namespace: metallb-system}
status: {node: node2, bgpPeer: router1, bgpStatus: Idle, bfdStatus: Down}`)
		}, "", ""},
		"one-session-down": {func(w *world) { byBGP(w); w.metrics = sessions(1, 0, 1) }, "", ""},
		"another-peer": {func(w *world) {
			byBGP(w)
			w.add(strings.ReplaceAll(strings.Split(bgp, "---")[0], "router1", "router2"))
			w.edit("BGPPeer/router2", "{spec: {peerAddress: 192.168.1.2}}")
			w.edit("BGPAdvertisement/bgp", "{spec: {peers: [router2]}}")
			w.remove("BGPPeer/router1")
			w.edit("BGPPeer/router2", "{spec: {nodeSelectors: [{matchLabels: {zone: z}}]}}")
		}, "nodes (bgp)", lb.NoPeer},
		"peer-profile-missing": {func(w *world) {
			byBGP(w)
			w.edit("BGPPeer/router1", "{spec: {bfdProfile: none-such}}")
			w.metrics = sessions(0, 0, 0)
			w.remove("ServiceBGPStatus/")
		}, "nodes (bgp)", explain.SetAside},
		"no-peer": {func(w *world) { byBGP(w); w.remove("BGPPeer/") }, "nodes (bgp)", lb.NoPeer},
		"community-alias": {func(w *world) {
			byBGP(w)
			w.edit("BGPAdvertisement/bgp", "{spec: {communities: [no-such-alias]}}")
			w.remove("ServiceBGPStatus/")
		}, "advertisement", explain.SetAside},
		"last-good-version": {func(w *world) { w.edit("L2Advertisement/layer2", "{spec: {ipAddressPools: [polo]}}") }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			text := w.ask("explain", "service", "shop/web")
			golden(t, name+".txt", text)
			r := askJSON[explain.ServiceReport](w, "explain", "service", "web", "-n", "shop")
			switch {
			case c.check == "" && r.First != nil:
				t.Errorf("%q is called broken: %s\n%s", r.First.Check, r.First.What, text)
			case c.check == "":
			case r.First == nil:
				t.Errorf("nothing is called broken, want %q\n%s", c.check, text)
			case r.First.Check != c.check || r.First.Reason != c.reason:
				t.Errorf("the first broken link is %q (%s), want %q (%s)\n%s", r.First.Check, r.First.Reason, c.check, c.reason, text)
			case r.First.Remedy == "":
				t.Errorf("it does not say what to do:\n%s", text)
			case !strings.Contains(text, "First broken link: "+c.check+": "+string(c.reason)):
				t.Errorf("the text does not end with it:\n%s", text)
			}
		})
	}
}
