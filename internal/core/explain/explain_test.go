package explain_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
)

// large returns a cluster of so many nodes and Services, announced in both modes, all of
// whose speakers say what they should.
func large(nodes, services int) *explain.Cluster {
	c := &explain.Cluster{
		Now: time.Unix(1e9, 0), Namespace: "metallb-system",
		Objects: config.Objects{
			Pools: []config.IPAddressPool{{Meta: config.Meta{Name: "p"}, Addresses: []string{"10.0.0.0/16"}, AutoAssign: true}},
			L2:    []config.L2Advertisement{{Meta: config.Meta{Name: "l2"}}},
			BGP:   []config.BGPAdvertisement{{Meta: config.Meta{Name: "bgp"}, AggregationLength: 32, AggregationLengthV6: 128}},
			Peers: []config.BGPPeer{{Meta: config.Meta{Name: "r"}, MyASN: 1, PeerASN: 2, PeerAddress: "192.168.1.1"}},
		},
	}
	for i := range nodes {
		name := fmt.Sprintf("node-%03d", i)
		c.Nodes = append(c.Nodes, explain.Node{Node: lb.Node{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}})
		c.Pods = append(c.Pods, explain.Pod{Name: "speaker-" + name, Node: name, Component: "speaker", Ready: true})
	}
	c.Pods = append(c.Pods, explain.Pod{Name: "controller", Component: "controller", Ready: true})
	for i := range services {
		key := lb.Key{Namespace: "default", Name: fmt.Sprintf("s%05d", i)}
		c.Services = append(c.Services, plan.Service{
			Service: lb.Service{
				Key: key, UID: key.Name, Pool: "p", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, Ports: []lb.Port{{Protocol: "TCP", Number: 80}},
			},
			Endpoints: []lb.Endpoint{{Node: c.Nodes[i%nodes].Name, Serving: true}, {Node: c.Nodes[(i+1)%nodes].Name, Serving: true}},
		})
		c.BGP = append(c.BGP, explain.Report{Name: key.Name, Service: key, Node: c.Nodes[0].Name})
	}
	slices.SortFunc(c.BGP, explain.CompareReports)
	return c
}

func BenchmarkExplainService(b *testing.B) {
	c := large(100, 10_000)
	for b.Loop() {
		r := explain.New(c).Service(c.Services[5000].Key)
		if r.Owner == "" || len(r.NextHops) != 100 {
			b.Fatal(r)
		}
	}
}

func BenchmarkStatus(b *testing.B) {
	c := large(100, 10_000)
	for b.Loop() {
		if s := explain.New(c).Status(); len(s.VIPs) != 10_000 {
			b.Fatal(len(s.VIPs))
		}
	}
}

func BenchmarkWhatIf(b *testing.B) {
	c := large(100, 10_000)
	after, err := explain.Without(c, []string{"node-007"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if r := explain.Compare(c, after); len(r.Moves) != 10_000 {
			b.Fatal(len(r.Moves))
		}
	}
}

// random returns a cluster that may be configured in any way.
func random(r *rand.Rand) *explain.Cluster {
	c := large(2+r.IntN(6), 1+r.IntN(20))
	maybe := func() bool { return r.IntN(3) == 0 }
	seldom := func() bool { return r.IntN(9) == 0 }
	zone := func() map[string]string { return map[string]string{"zone": string(rune('a' + r.IntN(3)))} }
	for i := range c.Nodes {
		c.Nodes[i].Labels = zone()
		c.Nodes[i].Labels["kubernetes.io/hostname"] = c.Nodes[i].Name
		c.Nodes[i].Excluded, c.Nodes[i].NetworkUnavailable = seldom(), seldom()
	}
	for i := range c.Services {
		c.Services[i].TrafficLocal = maybe()
		c.Services[i].Labels = zone()
		for j := range c.Services[i].Endpoints {
			c.Services[i].Endpoints[j].Serving = !maybe()
		}
	}
	if maybe() {
		c.Objects.L2 = nil
	} else if maybe() {
		c.Objects.L2[0].NodeSelectors = []lb.Selector{{MatchLabels: zone()}}
		c.Objects.L2[0].Preferred = []config.Preference{{Weight: 3, Selector: lb.Selector{MatchLabels: zone()}}}
	}
	if maybe() {
		c.Objects.BGP[0].NodeSelectors = []lb.Selector{{MatchLabels: zone()}}
	}
	if maybe() {
		c.Objects.Peers[0].NodeSelectors = []lb.Selector{{MatchLabels: zone()}}
	}
	return c
}

// TestWhatIfIsWhatHappens compares what-if with what the speakers of the nodes that are
// left then plan, each of them for itself, when they hear that a node is gone.
func TestWhatIfIsWhatHappens(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		c := random(r)
		gone := c.Nodes[r.IntN(len(c.Nodes))].Name
		after, err := explain.Without(c, []string{gone})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]explain.Move{}
		for _, m := range explain.Compare(c, after).Moves {
			got[m.Service] = m
		}
		was, is := announced(c, "", c.Services), announced(c, gone, after.Services)
		for _, svc := range c.Services {
			before, now := was[svc.Key], is[svc.Key]
			m, moved := got[svc.Key.String()]
			switch {
			case reflect.DeepEqual(before, now):
				if moved {
					t.Errorf("seed %d without %s: %s %s from %s to %s, and nothing happens to it", seed, gone, svc.Key, m.Effect, m.From, m.To)
				}
			case !moved:
				t.Errorf("seed %d without %s: nothing becomes of %s, and it goes from %v to %v", seed, gone, svc.Key, before, now)
			case (now.Owner == "" && len(now.NextHops) == 0) != (m.Effect == explain.Stops):
				t.Errorf("seed %d without %s: %s %s, and it goes from %v to %v", seed, gone, svc.Key, m.Effect, before, now)
			case m.To != now.String() && m.Effect != explain.Stops:
				t.Errorf("seed %d without %s: %s goes to %q, and should to %q", seed, gone, svc.Key, m.To, now)
			}
		}
	}
}

// announced returns from where each Service is announced, by one speaker on each node but
// the one that is gone. That node's object is there still.
func announced(c *explain.Cluster, gone string, services []plan.Service) map[lb.Key]explain.Placement {
	cfg := config.Parse(c.Objects, nil)
	view := &liveness.View{Nodes: map[string]liveness.Node{}}
	var nodes []lb.Node
	for _, n := range c.Nodes {
		nodes = append(nodes, n.Node)
		if n.Name != gone {
			view.Nodes[n.Name] = liveness.Node{Member: true}
		}
	}
	out := map[lb.Key]explain.Placement{}
	for _, n := range nodes {
		if n.Name == gone {
			continue
		}
		p := plan.New(plan.Options{Node: n.Name})
		p.SetConfig(cfg)
		p.SetNodes(nodes)
		p.SetLiveness(view)
		for i := range services {
			p.SetService(services[i].Key, &services[i])
		}
		p.Plan()
		for i := range services {
			key := services[i].Key
			v, at := p.Verdict(key), out[key]
			if v.L2.Reason == lb.Announced {
				at.Owner = n.Name
			}
			if v.BGP.Reason == lb.Announced {
				at.NextHops = append(at.NextHops, n.Name)
			}
			out[key] = at
		}
	}
	return out
}

// TestExplainNeverContradictsStatus: what explain calls fine on random clusters, status
// does too, and what it does not, status has the same reason for.
func TestExplainNeverContradictsStatus(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 11))
		c := random(r)
		c.BGP = nil
		c.Flags.NoStatus = true
		for i := range c.Nodes {
			c.Pods[i].Ready = seed%2 == 0 || r.IntN(3) > 0
		}
		w := explain.New(c)
		for _, v := range w.Status().VIPs {
			ns, name := v.Service[:7], v.Service[8:]
			first := w.Service(lb.Key{Namespace: ns, Name: name}).First
			want := string(lb.Announced)
			if first != nil {
				want = string(first.Reason)
			}
			if v.State != want {
				t.Errorf("seed %d: status says %s of %s, explain's first broken link is %v", seed, v.State, v.Service, first)
			}
		}
	}
}

func TestSameAnswerTwice(t *testing.T) {
	c := random(rand.New(rand.NewPCG(3, 4)))
	if a, b := explain.New(c).Status(), explain.New(c).Status(); !reflect.DeepEqual(a, b) {
		t.Errorf("%+v\n%+v", a, b)
	}
	for _, svc := range c.Services {
		if a, b := explain.New(c).Service(svc.Key), explain.New(c).Service(svc.Key); !reflect.DeepEqual(a, b) {
			t.Errorf("%+v\n%+v", a, b)
		}
	}
}

func FuzzParseMetrics(f *testing.F) {
	f.Add("metallb_bgp_session_up{peer=\"192.168.1.1:179\"} 1\nx{a=\"b\\\"c\\n\"} 2 3\n# HELP\n")
	f.Add("barelb_link_up{link=\"eth0\",prefix=\"10.0.0.1/24\"} 1")
	f.Add("x{")
	f.Fuzz(func(t *testing.T, text string) {
		if explain.ParseMetrics(text) == nil {
			t.Error("nothing")
		}
	})
}

func TestParseMetrics(t *testing.T) {
	s := explain.ParseMetrics(`
# TYPE metallb_bgp_session_up gauge
metallb_bgp_session_up{peer="192.168.1.1:179"} 1
metallb_bgp_announced_prefixes_total{peer="192.168.1.1:179"} 3
metallb_bgp_session_up{peer="fe80::1:179",vrf=""} 0 1700000000
metallb_bgp_session_up{peer="[2001:db8::1]:179",vrf=""} 1
metallb_bgp_session_up{peer="eth0:179",vrf=""} 1
metallb_layer2_requests_received{ip="192.168.1.240"} 1.5e1
metallb_speaker_announced{ip="192.168.1.240",node="a\"b",protocol="layer2",service="x/y"} 1
barelb_link_up{link="eth0",prefix="192.168.1.101/24"} 1
barelb_link_up{link="eth0",prefix="2001:db8::1/64"} 1
barelb_link_up{link="eth1",prefix=""} 0
metallb_k8s_client_config_stale_bool 1
barelb_speaker_kube_proxy_healthy 0
rubbish
x{y="z 1
`)
	want := &explain.Speaker{
		Sessions: map[netip.AddrPort]explain.Session{
			netip.MustParseAddrPort("192.168.1.1:179"): {Up: true, Announced: 3}, netip.MustParseAddrPort("[fe80::1]:179"): {},
			netip.MustParseAddrPort("[2001:db8::1]:179"): {Up: true},
		},
		Requests: map[netip.Addr]float64{netip.MustParseAddr("192.168.1.240"): 15}, Responses: map[netip.Addr]float64{},
		Announced: map[string][]netip.Addr{"layer2": {netip.MustParseAddr("192.168.1.240")}},
		Links: []explain.Link{
			{Name: "eth0", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.101/24"), netip.MustParsePrefix("2001:db8::1/64")}}, {Name: "eth1"},
		},
		Stale: true, ProxyDown: true,
	}
	if diff := cmp.Diff(want, s, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
