package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// fault is one thing that goes wrong in a cluster where all was well.
type fault struct {
	name string
	// seed breaks something, and has it repaired at the end of the test.
	seed func(f *faulty)
	// service is what is then asked about.
	service string
	// check and reason are those of the first broken link; of what the doctor finds, if
	// there is no service.
	check, reason string
	// says are words that it must be told in: the object at fault, above all.
	says []string
	// warned: traffic does not stop because of it.
	warned bool
}

// faulty is a cluster with two Services that work, why by Layer 2 and whybgp by BGP.
type faulty struct {
	*lab
	t     *testing.T // of the fault that is seeded
	addr  netip.Addr // of why
	owner string     // of why
}

// TestExplainNamesTheFault breaks a cluster in one way after the other, and each time asks
// the binary, which must name the fault, the object and a remedy first.
func TestExplainNamesTheFault(t *testing.T) {
	f := &faulty{lab: frr(t)}
	f.pods(t)
	f.apply(t, peer("why", router4, routerAS, "connectTime: 1s"))
	f.byBGP(t, "whybgp", "198.51.100.50/32", "peers: [why]")
	f.addr = f.byL2(t, "why", "192.168.1.246/32")
	f.owner = f.lab.owner(t, f.addr)
	for _, all := range [][]fault{allocationFaults(), announcementFaults(), wireFaults(), routerFaults(), processFaults(), surroundings()} {
		for _, x := range all {
			t.Run(strings.ReplaceAll(x.name, " ", "-"), func(t *testing.T) {
				f.t = t
				x.seed(f)
				if x.service == "" {
					f.wantFinding(t, x)
				} else {
					f.wantBroken(t, x)
				}
			})
		}
	}
	t.Run("clients-that-the-service-does-not-let-in", func(t *testing.T) {
		f.t = t
		f.patch(t, "why", `{"spec":{"loadBalancerSourceRanges":["203.0.113.0/24"]}}`, `{"spec":{"loadBalancerSourceRanges":null}}`)
		eventually(t, "an explanation that says so", func() error {
			e, err := f.explain(t.Context(), "why")
			if err == nil && (e.First != nil || len(e.Next) == 0 || !hasAll(e.Next[0], []string{"203.0.113.0/24", "spec.loadBalancerSourceRanges"})) {
				err = fmt.Errorf("it says %+v", e)
			}
			return err
		})
	})
	for _, service := range []string{"why", "whybgp"} {
		f.wantBroken(t, fault{name: "all is well again", service: service})
	}
}

// wantBroken waits until the first broken link is as wanted.
func (f *faulty) wantBroken(t *testing.T, x fault) {
	t.Helper()
	within(t, patience/2, x.name, func() error {
		e, err := f.explain(t.Context(), x.service)
		switch {
		case err != nil:
			return err
		case e.First == nil && x.check == "":
			return nil
		case e.First == nil && e.Warned != nil && x.warned:
			return x.is(*e.Warned)
		case e.First == nil:
			return errors.New("it calls nothing broken")
		}
		return x.is(*e.First)
	})
}

// wantFinding waits until the doctor finds it.
func (f *faulty) wantFinding(t *testing.T, x fault) {
	t.Helper()
	within(t, patience/2, x.name, func() error {
		out, err := f.barelb(t.Context(), "doctor", "-o", "json")
		if err != nil {
			return err
		}
		var all []finding
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			return err
		}
		var errs []error
		for _, found := range all {
			if found.Check != x.check {
				continue
			}
			err := x.is(found)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(append(errs, errors.New("the doctor does not find it"))...)
	})
}

// is says how a finding differs from what is wanted.
func (x fault) is(found finding) error {
	text := strings.Join(append(found.Evidence, found.What, found.Remedy), " ")
	if found.Check == x.check && found.Reason == x.reason && found.Remedy != "" && hasAll(text, x.says) {
		return nil
	}
	return fmt.Errorf("it says %+v, want %s: %s with %q", found, x.check, x.reason, x.says)
}

// pods makes, for the time of the test, the Pods that kubelets would make of what runs.
func (f *faulty) pods(t *testing.T) {
	t.Helper()
	f.pod(t, system.Namespace, "controller", "node1", map[string]string{"app": "metallb", "component": "controller"})
	for _, node := range f.c.Nodes() {
		f.pod(t, metav1.NamespaceSystem, "kube-proxy-"+node, node, map[string]string{"k8s-app": "kube-proxy"})
	}
}

func (f *faulty) pod(t *testing.T, in, name, node string, labels map[string]string) {
	t.Helper()
	pods := f.kube.CoreV1().Pods(in)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: true, Containers: []corev1.Container{{Name: "x", Image: "none"}}, TerminationGracePeriodSeconds: new(int64),
			AutomountServiceAccountToken: new(bool),
		},
	}
	f.undo(t, "delete pod "+name, func(ctx context.Context) error { return gone(pods.Delete(ctx, name, metav1.DeleteOptions{})) })
	_, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
	must(t, f.setReady(t.Context(), in, name, true))
}

// ready writes of a Pod what its kubelet would.
func (f *faulty) setReady(ctx context.Context, in, pod string, is bool) error {
	status := `"False","message":"containers with unready status: [x]"`
	if is {
		status = `"True","message":""`
	}
	patch := fmt.Sprintf(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":%s}]}}`, status)
	_, err := f.kube.CoreV1().Pods(in).Patch(ctx, pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

// byL2 makes a Service with a pool and an L2Advertisement of its own.
func (f *faulty) byL2(t *testing.T, name, addresses string, adv ...string) netip.Addr {
	t.Helper()
	f.apply(t, reserved(name, addresses), object("L2Advertisement", name, append([]string{"ipAddressPools: [" + name + "]"}, adv...)...))
	return f.serve(t, system.Service{Name: name}, name)
}

// byBGP does the same by BGP.
func (f *faulty) byBGP(t *testing.T, name, addresses string, adv ...string) {
	t.Helper()
	f.apply(t, reserved(name, addresses), object("BGPAdvertisement", name, append([]string{"ipAddressPools: [" + name + "]"}, adv...)...))
	f.serve(t, system.Service{Name: name}, name)
}

// reserved is a pool that gives addresses to those alone who ask for it.
func reserved(name, addresses string, more ...string) string {
	return pool(name, []string{addresses}, append([]string{"autoAssign: false"}, more...)...)
}

// change changes an object until the end of the test.
func (f *faulty) change(t *testing.T, changed, usual string) {
	t.Helper()
	was, err := parse(usual)
	must(t, err)
	f.undo(t, "apply what was", func(ctx context.Context) error { return f.applyAll(ctx, was...) })
	f.apply(t, changed)
}

// advertise changes the L2Advertisement of the Service why.
func (f *faulty) advertise(t *testing.T, spec ...string) {
	t.Helper()
	f.change(t, object("L2Advertisement", "why", spec...), object("L2Advertisement", "why", "ipAddressPools: [why]"))
}

// patch changes a Service until the end of the test.
func (f *faulty) patch(t *testing.T, service, patch, undoing string) {
	t.Helper()
	apply := func(ctx context.Context, text string) error {
		_, err := f.kube.CoreV1().Services(namespace).Patch(ctx, service, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		return err
	}
	f.undo(t, "restore service "+service, func(ctx context.Context) error { return apply(ctx, undoing) })
	must(t, apply(t.Context(), patch))
}

// wants makes a Service with annotations, in pairs, that gets no address.
func (f *faulty) wants(t *testing.T, name string, change func(*corev1.Service), annotations ...string) {
	t.Helper()
	s := system.Service{Name: name, Annotations: map[string]string{}}
	for i := 0; i+1 < len(annotations); i += 2 {
		s.Annotations[annotations[i]] = annotations[i+1]
	}
	o := s.Object()
	if change != nil {
		change(o)
	}
	f.undo(t, "delete service "+name, func(ctx context.Context) error { return f.sys.DeleteService(ctx, namespace, name) })
	_, err := f.kube.CoreV1().Services(namespace).Create(t.Context(), o, metav1.CreateOptions{})
	must(t, err)
}

func (f *faulty) onAllNodes(t *testing.T, patch, undoing string, sub ...string) {
	t.Helper()
	for _, node := range f.c.Nodes() {
		f.changeNode(t, node, patch, undoing, sub...)
	}
}

func allocationFaults() []fault {
	return []fault{
		{"no pool", func(f *faulty) { f.wants(f.t, "lost", nil) }, "lost", "address", "NoPool", []string{"IPAddressPool why (192.168.1.246", "autoAssign"}, false},
		{"pool exhausted", func(f *faulty) { f.wants(f.t, "late", nil, fromPool, "why") }, "late", "address", "PoolExhausted", []string{"why", "add addresses"}, false},
		{"no such pool", func(f *faulty) { f.wants(f.t, "typo", nil, fromPool, "wyh") }, "typo", "address", "PoolNotFound", []string{"wyh", "metallb.io/address-pool"}, false},
		{"address outside pools", func(f *faulty) { f.wants(f.t, "outside", nil, askFor, "192.0.2.77") }, "outside", "address", "AddressNotInPool", []string{"192.0.2.77"}, false},
		{"junk instead of an address", func(f *faulty) { f.wants(f.t, "junk", nil, askFor, "192.168.1") }, "junk", "address", "InvalidRequest", []string{`"192.168.1" is not`, "annotation loadBalancerIPs"}, false},
		{"wrong lb class", func(f *faulty) {
			class := "example.com/lb"
			f.wants(f.t, "class", func(o *corev1.Service) { o.Spec.LoadBalancerClass = &class })
		}, "class", "service", "OtherClass", []string{"example.com/lb", "--lb-class"}, false},
		{"not of type LoadBalancer", func(f *faulty) {
			f.wants(f.t, "inside", func(o *corev1.Service) {
				o.Spec.Type, o.Spec.ExternalTrafficPolicy, o.Spec.AllocateLoadBalancerNodePorts = corev1.ServiceTypeClusterIP, "", nil
			})
		}, "inside", "service", "NotLoadBalancer", []string{"ClusterIP"}, false},
		{"no such service", func(*faulty) {}, "whyy", "service", "NoSuchService", []string{"whyy", "there is"}, false},
		{"pool for other namespaces", func(f *faulty) {
			f.apply(f.t, reserved("shop", "192.168.1.245/32", "serviceAllocation: {namespaces: [shop]}"))
			f.wants(f.t, "buyer", nil, fromPool, "shop")
		}, "buyer", "address", "PoolNotAllowed", []string{"shop", "serviceAllocation"}, false},
		{"address of another service", func(f *faulty) { f.wants(f.t, "second", nil, askFor, f.addr.String()) }, "second", "address", "AddressInUse", []string{"default/why", "allow-shared-ip"}, false},
		{"another sharing key", func(f *faulty) {
			f.apply(f.t, reserved("share", "192.168.1.245/32"))
			f.serve(f.t, system.Service{Name: "one", Annotations: map[string]string{shareBy: "a"}}, "share")
			f.wants(f.t, "two", nil, fromPool, "share", askFor, "192.168.1.245", shareBy, "b")
		}, "two", "address", "SharingKeyDiffers", []string{"default/one", "allow-shared-ip"}, false},
		{"the same port under one key", func(f *faulty) {
			f.apply(f.t, reserved("share", "192.168.1.245/32"))
			f.serve(f.t, system.Service{Name: "one", Annotations: map[string]string{shareBy: "a"}}, "share")
			f.wants(f.t, "two", nil, fromPool, "share", askFor, "192.168.1.245", shareBy, "a")
		}, "two", "address", "PortConflict", []string{"default/one", "different ports"}, false},
		{"IPv6 from a pool of IPv4", func(f *faulty) {
			f.wants(f.t, "six", func(o *corev1.Service) { o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, fromPool, "why")
		}, "six", "address", "PoolExhausted", []string{"why", "IPv6"}, false},
		{"IPv4 from a pool of IPv6", func(f *faulty) {
			f.apply(f.t, reserved("sixes", "fd00:1::2:50/128"))
			f.wants(f.t, "four", nil, fromPool, "sixes")
		}, "four", "address", "PoolExhausted", []string{"sixes", "IPv4", "spec.ipFamilies"}, false},
		{"two pools overlap", func(f *faulty) {
			f.apply(f.t, reserved("over", "192.168.1.244-192.168.1.247"))
			f.wants(f.t, "under", nil, fromPool, "over")
		}, "under", "address", "SetAside", []string{"over", "why", "kubectl"}, false},
		{"an address that another host uses", func(f *faulty) {
			f.used(f.t)
			f.wants(f.t, "robbed", nil, askFor, "192.168.1.243")
		}, "robbed", "address", "AddressInUseOnWire", []string{"192.168.1.243", "MAC"}, false},
		{"a pool whose addresses other hosts use", func(f *faulty) {
			f.used(f.t)
			f.wants(f.t, "robbed", nil, fromPool, "used")
		}, "robbed", "address", "PoolExhausted", []string{"192.168.1.243 of IPAddressPool used is used by MAC"}, false},
	}
}

// used makes a pool whose one address another host has.
func (f *faulty) used(t *testing.T) {
	t.Helper()
	mac := f.useElsewhere(t, "192.168.1.243/24")
	f.apply(t, reserved("used", "192.168.1.243/32"))
	f.awaitConflicts(t, "192.168.1.243 "+mac+" eth0")
}

func announcementFaults() []fault {
	return []fault{
		{"no advertisement for the pool", func(f *faulty) {
			f.apply(f.t, reserved("spare", "192.168.1.245/32"))
			f.advertise(f.t, "ipAddressPools: [spare]")
		}, "why", "advertisement", "NoMatchingAdvertisement", []string{"L2Advertisement why is for IPAddressPool spare", "spec.ipAddressPools: [why]"}, false},
		{"advertisement for other services", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", "serviceSelectors: [{matchLabels: {app: mail}}]")
		}, "why", "advertisement", "NoMatchingAdvertisement", []string{"L2Advertisement why", "serviceSelectors", "app=mail"}, false},
		{"node selector matches nothing", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", "nodeSelectors: [{matchLabels: {zone: nowhere}}]")
		}, "why", "nodes (layer2)", "SelectorsMatchNoNode", []string{"zone=nowhere", "spec.nodeSelectors"}, false},
		{
			"exclude label on all nodes", func(f *faulty) { f.onAllNodes(f.t, exclude, include) },
			"why", "nodes (layer2)", "NodeExcluded",
			[]string{"node.kubernetes.io/exclude-from-external-load-balancers", "kubectl label nodes"},
			false,
		},
		{
			"exclude label on all nodes, by BGP", func(f *faulty) { f.onAllNodes(f.t, exclude, include) },
			"whybgp", "nodes (bgp)", "NodeExcluded",
			[]string{"kubectl label nodes"},
			false,
		},
		{"exclude label on the only node", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", onNodes("node1"))
			f.changeNode(f.t, "node1", exclude, include)
		}, "why", "nodes (layer2)", "NodeExcluded", []string{"NodeExcluded: node1", "kubectl label nodes"}, false},
		{
			"network unavailable on all nodes", func(f *faulty) { f.onAllNodes(f.t, unavailable, available, "status") },
			"why", "nodes (layer2)", "NodeNetworkUnavailable",
			[]string{"NetworkUnavailable", "network plugin"},
			false,
		},
		{"the only node is drained", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", onNodes(f.owner))
			f.changeNode(f.t, f.owner, `{"metadata":{"annotations":{"barelb.io/drain":"now"}}}`, `{"metadata":{"annotations":{"barelb.io/drain":null}}}`)
		}, "why", "nodes (layer2)", "NodeLeaving", []string{"undrain"}, false},
		{"no ready endpoint", func(f *faulty) { f.endpoints(f.t, "why") }, "why", "endpoints", "NoEndpoint", []string{"none of them ready", "kubectl -n default get pods"}, false},
		{"no endpoint at all", func(f *faulty) {
			f.apply(f.t, reserved("blind", "192.168.1.245/32"), object("L2Advertisement", "blind", "ipAddressPools: [blind]"))
			f.wants(f.t, "blind", func(o *corev1.Service) { o.Spec.Selector = nil }, fromPool, "blind")
			f.addresses(f.t, "blind", 1)
		}, "blind", "endpoints", "NoEndpoint", []string{"spec.selector"}, false},
		{"local endpoints on an excluded node", func(f *faulty) {
			f.patch(f.t, "why", `{"spec":{"externalTrafficPolicy":"Local"}}`, `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
			f.endpoints(f.t, "why", "node2")
			f.changeNode(f.t, "node2", exclude, include)
		}, "why", "nodes (layer2)", "NoLocalEndpoint", []string{"node2", "externalTrafficPolicy"}, false},
		{"service selectors and a shared address", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", "serviceSelectors: [{matchExpressions: [{key: x, operator: DoesNotExist}]}]")
			f.patch(f.t, "why", `{"metadata":{"annotations":{"`+shareBy+`":"a"}}}`, `{"metadata":{"annotations":{"`+shareBy+`":null}}}`)
		}, "why", "advertisement", "SharedIPWithServiceSelector", []string{"L2Advertisement why", "serviceSelectors"}, false},
	}
}

// endpoints leaves a Service endpoints on some nodes alone, until the end of the test.
func (f *faulty) endpoints(t *testing.T, service string, nodes ...string) {
	t.Helper()
	f.undo(t, "give "+service+" its endpoints", func(ctx context.Context) error { return f.sys.WriteEndpoints(ctx, namespace, service) })
	f.endpointsOn(t, service, nodes...)
}

func wireFaults() []fault {
	return []fault{
		{
			"no such interface", func(f *faulty) { f.advertise(f.t, "ipAddressPools: [why]", "interfaces: [eth7]") },
			"why", "wire", "LinkMissing",
			[]string{"eth7", "L2Advertisement why", "it has eth0"},
			false,
		},
		{"link down on the owner", func(f *faulty) {
			const link = "lan2"
			_, err := f.c.AddCable(f.t.Context(), f.owner, link)
			must(f.t, err)
			f.undo(f.t, "remove cable", func(context.Context) error { return f.c.RemoveCable(f.owner, link) })
			must(f.t, f.c.Cut(cluster.Port(f.owner, link)))
			f.advertise(f.t, "ipAddressPools: [why]", "interfaces: ["+link+"]", onNodes(f.owner))
		}, "why", "wire", "LinkDown", []string{"lan2", "no carrier", "ip -d link show lan2"}, false},
		{"the only node's link is cut", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", onNodes("node3"))
			f.ownerIs(f.t, f.addr, "node3")
			f.undo(f.t, "restore the link", func(context.Context) error { return f.c.Restore("node3") })
			must(f.t, f.c.Cut("node3"))
		}, "why", "speakers", "NodeDead", []string{"node3", "192.168.1.0/24", "cable"}, false},
		{
			"address outside all subnets", func(f *faulty) { f.byL2(f.t, "far", "203.0.113.9/32") },
			"far", "wire", "OutsideSubnets",
			[]string{"203.0.113.9", "192.168.1.0/24", "pool"},
			false,
		},
		{"address of a node", func(f *faulty) {
			v4, _ := cluster.NodeAddrs(2)
			f.apply(f.t, reserved("node", v4.String()+"/32"), object("L2Advertisement", "node", "ipAddressPools: [node]"))
			f.serve(f.t, system.Service{Name: "node"}, "node")
		}, "node", "wire", "AddressOfNode", []string{"node2", "IPAddressPool"}, false},
		{"another host claims the address", func(f *faulty) {
			_, err := measure.Claim(f.t.Context(), f.c.Box(quiet), f.self, measure.ClaimOpts{Addr: f.byL2(f.t, "stolen", "192.168.1.242/32"), Count: 20})
			must(f.t, err)
		}, "stolen", "wire", "AddressClaimedOnWire", []string{"another host", "192.168.1.242", "MAC"}, false},
		{"a node with another secret claims the address", func(f *faulty) {
			differentSecrets(f)
			f.byL2(f.t, "split", "192.168.1.243/32")
			eventually(f.t, "an Event that names the node", func() error {
				all, err := f.kube.CoreV1().Events(metav1.NamespaceDefault).List(f.t.Context(), metav1.ListOptions{FieldSelector: "reason=AddressClaimedOnWire,involvedObject.name=split"})
				if err != nil {
					return err
				}
				for _, e := range all.Items {
					if strings.HasPrefix(e.Message, "node node") && strings.Contains(e.Message, "do not hear each other") {
						return nil
					}
				}
				return fmt.Errorf("%d Events, none of which does", len(all.Items))
			})
		}, "split", "reports (layer2)", "TwoOwners", []string{"node3 has one secret", "node1 and node2 have one secret", "7946"}, false},
	}
}

func routerFaults() []fault {
	// with makes a Service that one BGPPeer alone is told of.
	with := func(name string, spec ...string) func(f *faulty) {
		return func(f *faulty) {
			f.apply(f.t, object("BGPPeer", name, append(spec, fmt.Sprintf("myASN: %d", nodeAS), "connectTime: 1s")...))
			f.byBGP(f.t, name, "198.51.100.51/32", "peers: ["+name+"]")
		}
	}
	as := func(n int) string { return fmt.Sprintf("peerASN: %d", n) }
	return []fault{
		{"peer refuses the password", func(f *faulty) {
			f.startSecond(f.t)
			with("pass", "peerAddress: "+secondAddr, as(secondAS), "password: wrong")(f)
		}, "pass", "sessions", "NoSession", []string{"BGPPeer pass", "password"}, false},
		{"wrong peer ASN", with("asn", `peerAddress: "`+router6+`"`, as(routerAS+7), "dualStackAddressFamily: true"), "asn", "sessions", "NoSession", []string{"BGPPeer asn", fmt.Sprint(routerAS), "peerASN"}, false},
		{"nobody at the peer's address", with("nobody", "peerAddress: 192.168.1.77", as(routerAS)), "nobody", "sessions", "NoSession", []string{"BGPPeer nobody", "192.168.1.77", "no answer"}, false},
		{"no router at the peer's address", with("host", "peerAddress: "+secondAddr, as(secondAS)), "host", "sessions", "NoSession", []string{"BGPPeer host", "refuses"}, false},
		{"a router that says nothing", func(f *faulty) {
			router := f.startSecond(f.t).process
			f.undo(f.t, "let the router go on", func(context.Context) error { return router.Signal(syscall.SIGCONT) })
			must(f.t, router.Signal(syscall.SIGSTOP)) // its kernel still accepts connections
			with("silent", "peerAddress: "+secondAddr, as(secondAS), "password: "+secondPassword)(f)
		}, "silent", "sessions", "NoSession", []string{"BGPPeer silent", "accepts the connection but says nothing"}, false},
		{"BFD down", func(f *faulty) {
			f.apply(f.t, object("BFDProfile", "quick", "receiveInterval: 100", "transmitInterval: 100"))
			with("bfd", `peerAddress: "`+router6+`"`, as(routerAS), "dualStackAddressFamily: true", "bfdProfile: quick")(f)
		}, "bfd", "sessions", "BFDDown", []string{"BGPPeer bfd", "BFD is Down", "3784"}, true},
		{"BFDProfile missing", with("profile", "peerAddress: 192.168.1.78", as(routerAS), "bfdProfile: none-such"), "profile", "nodes (bgp)", "SetAside", []string{"BGPPeer profile", "none-such", "spec.bfdProfile"}, false},
		{"secret missing", with("secret", "peerAddress: 192.168.1.78", as(routerAS), "passwordSecret: {name: none-such}"), "secret", "nodes (bgp)", "SetAside", []string{"BGPPeer secret", "none-such", "spec.passwordSecret"}, false},
		{"secret in another namespace", func(f *faulty) {
			f.apply(f.t, "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/basic-auth\nmetadata: {name: elsewhere, namespace: default}\nstringData: {username: any, password: x}")
			with("space", "peerAddress: 192.168.1.78", as(routerAS), "passwordSecret: {name: elsewhere}")(f)
		}, "space", "nodes (bgp)", "SetAside", []string{"BGPPeer space", "elsewhere", "namespace"}, false},
		{"advertisement names another peer", func(f *faulty) {
			f.apply(f.t, peer("other", "192.168.1.79", routerAS, "nodeSelectors: [{matchLabels: {zone: nowhere}}]"))
			f.byBGP(f.t, "named", "198.51.100.51/32", "peers: [other]")
		}, "named", "nodes (bgp)", "NoPeer", []string{"BGPAdvertisement named", "BGPPeer other", "spec.peers"}, false},
		{"advertisement names no peer that is there", func(f *faulty) {
			f.byBGP(f.t, "unnamed", "198.51.100.51/32", "peers: [none-such]")
		}, "unnamed", "advertisement", "SetAside", []string{"BGPAdvertisement unnamed", "none-such", "spec.peers"}, false},
		{"community alias missing", func(f *faulty) {
			f.byBGP(f.t, "alias", "198.51.100.51/32", "peers: [why]", "communities: [no-such-alias]")
		}, "alias", "advertisement", "SetAside", []string{"BGPAdvertisement alias", "no-such-alias", "spec.communities"}, false},
		{"aggregate that is larger than the pool", func(f *faulty) {
			f.byBGP(f.t, "whole", "198.51.100.51/32", "peers: [why]", "aggregationLength: 24")
		}, "whole", "advertisement", "SetAside", []string{"BGPAdvertisement whole", "aggregationLength"}, false},
		{"BGP filtered on the way", func(f *faulty) {
			f.undo(f.t, "filter nothing", func(ctx context.Context) error { return f.c.StopDropping(ctx, cluster.Router1) })
			must(f.t, f.c.DropInput(f.t.Context(), cluster.Router1, "tcp dport 179", "tcp sport 179"))
			f.change(f.t, peer("why", router4, routerAS, "connectTime: 1s", "holdTime: 3s"), peer("why", router4, routerAS, "connectTime: 1s"))
		}, "whybgp", "sessions", "NoSession", []string{"BGPPeer why", "filtered"}, false},
	}
}

func processFaults() []fault {
	return []fault{
		{"speaker does not run on the only node", func(f *faulty) {
			f.advertise(f.t, "ipAddressPools: [why]", onNodes("node3"))
			f.undo(f.t, "start speaker", func(ctx context.Context) error { return f.sys.StartSpeaker(ctx, "node3") })
			must(f.t, f.sys.StopSpeaker(f.t.Context(), "node3"))
			must(f.t, f.sys.AwaitSpeaker(f.t.Context(), "node3", false))
		}, "why", "speakers", "SpeakerNotRunning", []string{"node3", "describe daemonset speaker"}, false},
		{"speaker that does not reach the API server", func(f *faulty) {
			f.apply(f.t, reserved("deaf", "192.168.1.241/32"))
			f.apply(f.t, object("L2Advertisement", "deaf", "ipAddressPools: [deaf]", onNodes("node2")))
			f.undo(f.t, "filter nothing", func(ctx context.Context) error { return f.c.StopDropping(ctx, "node2") })
			must(f.t, f.c.DropInput(f.t.Context(), "node2", "tcp sport 6443"))
			f.serve(f.t, system.Service{Name: "deaf"}, "deaf")
		}, "deaf", "reports (layer2)", "SpeakerSilent", []string{"node2", "API server", "logs speaker-node2"}, false},
		{"kube-proxy dead on the owner", func(f *faulty) {
			owner := f.lab.owner(f.t, f.addr)
			p := f.c.Proxy(owner)
			f.undo(f.t, "start kube-proxy", func(ctx context.Context) error { return f.c.StartProxy(ctx, owner) })
			must(f.t, p.Signal(syscall.SIGKILL))
			<-p.Done()
			f.undo(f.t, "mark it ready", func(ctx context.Context) error {
				return f.setReady(ctx, metav1.NamespaceSystem, "kube-proxy-"+owner, true)
			})
			must(f.t, f.setReady(f.t.Context(), metav1.NamespaceSystem, "kube-proxy-"+owner, false))
		}, "why", "data plane", "ProxyNotRunning", []string{"10256", "kube-system get pods"}, false},
		{"controller does not run", func(f *faulty) {
			f.apply(f.t, reserved("idle", "192.168.1.240/32"), object("L2Advertisement", "idle", "ipAddressPools: [idle]"))
			f.undo(f.t, "start controller", func(ctx context.Context) error {
				return errors.Join(f.sys.StartController(ctx), f.setReady(ctx, system.Namespace, "controller", true))
			})
			f.killController(f.t)
			must(f.t, f.setReady(f.t.Context(), system.Namespace, "controller", false))
			f.wants(f.t, "idle", nil, fromPool, "idle")
		}, "idle", "controller", "ControllerNotRunning", []string{"Pod controller", "describe pod"}, false},
	}
}

func surroundings() []fault {
	return []fault{
		{"speakers that do not hear each other", func(f *faulty) {
			f.undo(f.t, "filter nothing", func(ctx context.Context) error { return f.c.StopDropping(ctx, "node3") })
			must(f.t, f.c.DropInput(f.t.Context(), "node3", "tcp dport 7946", "tcp sport 7946", "udp dport 7946"))
		}, "", "membership", "SpeakersDoNotMeet", []string{"node3", "7946", "memberlist Secret"}, false},
		{"speakers with different secrets", differentSecrets, "", "membership", "SecretsDiffer", []string{"node3 has one secret", "node1 and node2 have one secret", "Secret memberlist"}, false},
		{"a clock that is ahead", func(f *faulty) {
			leases := f.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
			f.undo(f.t, "delete lease", func(ctx context.Context) error { return gone(leases.Delete(ctx, "node2", metav1.DeleteOptions{})) })
			_, err := leases.Create(f.t.Context(), &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now().Add(time.Hour)}},
			}, metav1.CreateOptions{})
			must(f.t, err)
		}, "", "clocks", "ClockSkew", []string{"node2", "ahead of the API server", "NTP"}, false},
		{"a node that is not Ready", func(f *faulty) { f.changeNode(f.t, "node2", unready, ready, "status") }, "", "nodes", "NodeNotReady", []string{"node2", "kubelet"}, false},
		{
			"nodes that are not Ready where traffic enters", func(f *faulty) { f.onAllNodes(f.t, unready, ready, "status") },
			"whybgp", "nodes ready", "NodeNotReady",
			[]string{"node1, node2 and node3", "kubectl describe node node1"},
			true,
		},
		{
			"pool with the router's address", func(f *faulty) { f.apply(f.t, reserved("gateway", router4+"/32")) },
			"", "address ranges", "RangesOverlap",
			[]string{"IPAddressPool gateway", router4, "BGPPeer why"},
			false,
		},
		{"IPVS without strictARP, as a Service has it", withoutStrictARP, "why", "wire", "StrictARPOff", []string{"strictARP: true"}, true},
		{"IPVS without strictARP", withoutStrictARP, "", "kube-proxy mode", "StrictARPOff", []string{"strictARP: true", "rollout restart"}, false},
		{
			"k3s servicelb", func(f *faulty) { f.daemonSet(f.t, "svclb-traefik", "rancher/klipper-lb", 0) },
			"", "load balancers", "TwoLoadBalancers",
			[]string{"svclb-traefik", "--disable servicelb"},
			false,
		},
		{
			"a CNI that speaks BGP", func(f *faulty) { f.daemonSet(f.t, "calico-node", "calico/node:v3", 0) },
			"", "BGP speakers", "OtherBGPSpeaker",
			[]string{"calico-node", "serviceLoadBalancerIPs"},
			false,
		},
		{
			"a port that another takes", func(f *faulty) { f.daemonSet(f.t, "gossip", "example.com/gossip", 7946) },
			"", "ports on nodes", "PortTaken",
			[]string{"gossip", "7946"},
			false,
		},
		{
			"pool in the range of cluster IPs", func(f *faulty) { f.apply(f.t, reserved("inside", "10.96.7.0/28")) },
			"", "address ranges", "RangesOverlap",
			[]string{"IPAddressPool inside", "cluster IPs"},
			false,
		},
	}
}

// differentSecrets gives the speaker of node3 another secret than the others have. It shall not claim
// the address of why, which the others would report for minutes.
func differentSecrets(f *faulty) {
	f.advertise(f.t, "ipAddressPools: [why]", onNodes("node1", "node2"))
	binary, err := input("BARELB_BIN", "../../bin/barelb", "run `make build`")
	must(f.t, err)
	dir := f.t.TempDir()
	must(f.t, os.WriteFile(filepath.Join(dir, "secretkey"), []byte("another secret than theirs"), 0o600))
	f.undo(f.t, "give the speaker its secret", func(ctx context.Context) error {
		f.sys.SetSpeakerCommand("node3")
		return f.restart(ctx, "node3")
	})
	f.sys.SetSpeakerCommand("node3", "env", "METALLB_ML_SECRET_KEY_PATH="+dir, binary, "speaker")
	must(f.t, f.restart(f.t.Context(), "node3"))
}

// restart ends a speaker without warning, and starts it again.
func (f *faulty) restart(ctx context.Context, node string) error {
	return errors.Join(f.sys.KillSpeaker(ctx, node), f.sys.StartSpeaker(ctx, node))
}

// withoutStrictARP sets kube-proxy up, as far as its ConfigMap says.
func withoutStrictARP(f *faulty) {
	maps := f.kube.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	f.undo(f.t, "delete configmap", func(ctx context.Context) error { return maps.Delete(ctx, "kube-proxy", metav1.DeleteOptions{}) })
	_, err := maps.Create(f.t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy"}, Data: map[string]string{"config.conf": "mode: ipvs\nipvs: {strictARP: false}\n"},
	}, metav1.CreateOptions{})
	must(f.t, err)
}

// What kubelets, or who watches over them, would write.
const (
	unready = `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Test","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	ready   = `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Test","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
)

// daemonSet makes a DaemonSet on the host's network, which nobody runs.
func (f *faulty) daemonSet(t *testing.T, name, image string, port int32) {
	t.Helper()
	labels := map[string]string{"app": name}
	spec := corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "x", Image: image}}}
	if port != 0 {
		spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port}}
	}
	sets := f.kube.AppsV1().DaemonSets(metav1.NamespaceSystem)
	f.undo(t, "delete daemonset "+name, func(ctx context.Context) error { return sets.Delete(ctx, name, metav1.DeleteOptions{}) })
	_, err := sets.Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}, metav1.CreateOptions{})
	must(t, err)
}
