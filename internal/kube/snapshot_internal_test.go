package kube

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/plan"
)

func newFeed() *Feed {
	return (&Cluster{opts: Options{Log: slog.New(slog.DiscardHandler)}}).Feed()
}

func serviceNamed(namespace, name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u", ResourceVersion: "7", Labels: map[string]string{"app": name}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.1", "fd00::1"}, Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}},
	}
}

func sliceNamed(namespace, name, service string, nodes ...string) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
	for _, n := range nodes {
		o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, NodeName: &n})
	}
	return o
}

func objects() *config.Objects {
	hold := 9 * time.Second
	return &config.Objects{
		Pools: []config.IPAddressPool{{
			Meta: config.Meta{Name: "p", Created: noon, Labels: map[string]string{"a": "b"}}, Addresses: []string{"192.0.2.0/24"}, AutoAssign: true,
			Allocation: &config.ServiceAllocation{NamespaceSelectors: []lb.Selector{{MatchLabels: map[string]string{"x": "y"}}}},
		}},
		L2:  []config.L2Advertisement{{Meta: config.Meta{Name: "l"}, Failback: "Never"}},
		BGP: []config.BGPAdvertisement{{Meta: config.Meta{Name: "b"}, AggregationLength: 32, AggregationLengthV6: 128, Communities: []string{"c"}}},
		Peers: []config.BGPPeer{
			{Meta: config.Meta{Name: "open"}, MyASN: 1, PeerASN: 2, PeerAddress: "192.0.2.254", HoldTime: &hold},
			{Meta: config.Meta{Name: "inline"}, MyASN: 1, PeerASN: 2, PeerAddress: "192.0.2.253", Password: "hunter2"},
			{Meta: config.Meta{Name: "secret"}, MyASN: 1, PeerASN: 2, PeerAddress: "192.0.2.252", PasswordSecret: "s"},
		},
		BFDProfiles: []config.BFDProfile{{Meta: config.Meta{Name: "f"}, ReceiveInterval: new(uint32(50))}},
		Communities: []config.CommunityList{{Meta: config.Meta{Name: "c"}, Aliases: []config.CommunityAlias{{Name: "c", Value: "1:2"}}}},
		Secrets:     map[string]config.Secret{"s": {Type: "kubernetes.io/basic-auth", Password: "hush", HasKey: true}},
	}
}

// heardFeed returns a feed that has read all of a small cluster.
func heardFeed() *Feed {
	f := newFeed()
	f.onNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "red", Labels: map[string]string{"team": "red"}}}, false)
	f.onService(serviceNamed("red", "a"), false)
	f.onService(serviceNamed("red", "b"), false)
	f.onService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "red", Name: "inner"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}}, false)
	f.onSlice(sliceNamed("red", "a-1", "a", "n1", "n2", "n1"), false)
	f.onSlice(sliceNamed("red", "a-2", "a", "n2"), false)
	f.onNode(richNode("n1"), false)
	f.onNode(richNode("n2"), false)
	f.conflicts[netip.MustParseAddr("192.0.2.9")] = lb.WireConflict{Addr: netip.MustParseAddr("192.0.2.9"), MAC: "02:00:00:00:00:01", Node: "n1", Link: "eth0"}
	f.conflictsDirty = true
	f.c.speakers.remember(noon, map[string]netip.Addr{"n1": netip.MustParseAddr("192.0.2.101")}, nil)
	f.publish(objects())
	f.hear()
	return f
}

func isReady(f *Feed) bool {
	select {
	case <-f.Ready():
		return true
	default:
		return false
	}
}

func export(t *testing.T, f *Feed) []byte {
	t.Helper()
	data, err := f.Export()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func unzip(t *testing.T, data []byte) string {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text) // never fails
	_ = w.Close()
	return b.Bytes()
}

var values = cmp.Options{sameAddr}

func TestImportGivesWhatWasExported(t *testing.T) {
	from := heardFeed()
	want := from.Drain()
	data := export(t, from)
	to := newFeed()
	if _, err := to.Export(); !errors.Is(err, ErrNothingKnown) {
		t.Errorf("export of nothing: %v", err)
	}
	if err := to.Import(data); err != nil {
		t.Fatal(err)
	}
	if !isReady(to) {
		t.Error("not ready with what was imported")
	}
	got, news := signalled(to)
	if !news {
		t.Error("it does not say that there is news")
	}
	// What is different on purpose.
	delete(want.Services, lb.Key{Namespace: "red", Name: "inner"})
	want.Objects = withoutSecrets(want.Objects)
	for key, eps := range want.Endpoints {
		want.Endpoints[key] = distinctEndpoints(eps)
	}
	if n := len(want.Endpoints[lb.Key{Namespace: "red", Name: "a"}]); n != 2 || len(want.Services) != 2 || len(want.Nodes) != 2 || len(want.Conflicts) != 1 {
		t.Fatalf("the test wants nothing: %+v", want)
	}
	want.Since = time.Time{} // when another process heard of it
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d := to.Drain(); len(d.Services) > 0 || d.Nodes != nil || d.Objects != nil || d.Conflicts != nil {
		t.Errorf("twice: %+v", d)
	}
	to.Rewind()
	again, _ := signalled(to)
	if diff := cmp.Diff(want, again, values); diff != "" {
		t.Errorf("after Rewind (-want +got):\n%s", diff)
	}
	// And it is handed on, all of it.
	if got := export(t, to); !bytes.Equal(got, data) {
		t.Errorf("exported again: %s", cmp.Diff(unzip(t, data), unzip(t, got)))
	}
	where, _ := from.c.speakers.all()["n1"]
	if got := to.c.importedSpeakers(); got["n1"] != where || got["n2"] != netip.MustParseAddr("192.0.2.9") || len(got) != 2 {
		t.Errorf("speakers: %v", got)
	}
}

func TestExportHoldsNoSecret(t *testing.T) {
	f := heardFeed()
	text := unzip(t, export(t, f))
	for _, secret := range []string{"hunter2", "hush"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in it", secret)
		}
	}
	if f.objects.Peers[1].Password != "hunter2" || f.objects.Secrets["s"].Password != "hush" {
		t.Error("the exporter has lost its passwords")
	}
	to := newFeed()
	if err := to.Import(export(t, f)); err != nil {
		t.Fatal(err)
	}
	cfg := config.Parse(*to.Drain().Objects, nil)
	var said []string
	for _, p := range cfg.Problems {
		said = append(said, p.Name+" "+p.Field+" "+string(p.Reason))
	}
	if diff := cmp.Diff([]string{"inline spec.password PasswordUnknown", "secret spec.passwordSecret PasswordUnknown"}, said); diff != "" {
		t.Error(diff)
	}
	if len(cfg.Peers) != 1 || cfg.Peers[0].Name != "open" {
		t.Errorf("sessions without their passwords: %v", cfg.Peers)
	}
}

func TestTheAPIServerReplacesWhatWasImported(t *testing.T) {
	to := newFeed()
	if err := to.Import(export(t, heardFeed())); err != nil {
		t.Fatal(err)
	}
	to.Drain()
	// It answers bit by bit; nothing of that is told before all is there.
	to.onNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "red"}}, false)
	to.onService(serviceNamed("red", "b"), false)
	to.onService(serviceNamed("red", "c"), false)
	to.onNode(richNode("n3"), false)
	to.publish(&config.Objects{})
	if d := to.Drain(); len(d.Services) > 0 || d.Nodes != nil || d.Objects != nil {
		t.Errorf("half of it: %+v", d)
	}
	if n, heard := to.node("n1"); n == nil || heard {
		t.Errorf("node n1: %+v, heard %t", n, heard)
	}
	to.hear()
	d, news := signalled(to)
	var have, gone []string
	for key, svc := range d.Services {
		if svc == nil {
			gone = append(gone, key.Name)
		} else {
			have = append(have, key.Name)
		}
	}
	slices.Sort(have)
	if !news || !slices.Equal(have, []string{"b", "c"}) || !slices.Equal(gone, []string{"a"}) {
		t.Errorf("news %t, have %v, gone %v", news, have, gone)
	}
	if len(d.Nodes) != 1 || d.Nodes[0].Name != "n3" || d.Objects == nil || len(d.Objects.Pools) > 0 || d.Conflicts == nil || len(d.Conflicts) > 0 {
		t.Errorf("the rest: %+v", d)
	}
	if n, heard := to.node("n1"); n != nil || !heard {
		t.Errorf("node n1: %+v, heard %t", n, heard)
	}
	// From now on others' word counts for nothing.
	if err := to.Import(export(t, heardFeed())); err != nil {
		t.Error(err)
	}
	if d, news := signalled(to); news || len(d.Services) > 0 {
		t.Errorf("an import after the API server was heard: %+v", d)
	}
}

func TestSecondImportReplacesTheFirst(t *testing.T) {
	to, other := newFeed(), heardFeed()
	if err := to.Import(export(t, heardFeed())); err != nil {
		t.Fatal(err)
	}
	to.Drain()
	other.onService(serviceNamed("red", "a"), true)
	if err := to.Import(export(t, other)); err != nil {
		t.Fatal(err)
	}
	d := to.Drain()
	if svc, told := d.Services[lb.Key{Namespace: "red", Name: "a"}]; svc != nil || !told || d.Services[lb.Key{Namespace: "red", Name: "b"}] == nil {
		t.Errorf("got %+v", d.Services)
	}
}

func TestBadSnapshots(t *testing.T) {
	good := export(t, heardFeed())
	head := `{"Version":1}` + "\n" + `{"Objects":{}}` + "\n"
	for name, data := range map[string][]byte{
		"nothing":           nil,
		"no gzip":           []byte("snapshot"),
		"empty":             zipped(""),
		"no version":        zipped(`{"Objects":{}}`),
		"of another":        zipped(`{"Version":2}` + "\n" + `{"Objects":{}}`),
		"no configuration":  zipped(`{"Version":1}`),
		"two of them":       zipped(head + `{"Objects":{}}`),
		"no JSON":           zipped(head + `{"Service":`),
		"no name":           zipped(head + `{"Service":{"Key":{"Namespace":"x"}}}`),
		"no address":        zipped(head + `{"Service":{"Key":{"Namespace":"x","Name":"y"},"Addrs":[""]}}`),
		"bad address":       zipped(head + `{"Service":{"Key":{"Namespace":"x","Name":"y"},"Addrs":["x"]}}`),
		"nameless node":     zipped(head + `{"Node":{}}`),
		"node at nowhere":   zipped(head + `{"Node":{"Name":"n","Addrs":[""]}}`),
		"empty conflict":    zipped(head + `{"Conflict":{}}`),
		"empty speaker":     zipped(head + `{"Speaker":{}}`),
		"cut off":           good[:len(good)-9],
		"bit flip":          slices.Concat(good[:len(good)-5], []byte{good[len(good)-5] ^ 1}, good[len(good)-4:]),
		"long line":         zipped(head + strings.Repeat(" ", lineMax)),
		"many lines":        zipped(head + strings.Repeat("{}\n", linesMax)),
		"large":             zipped(head + strings.Repeat(strings.Repeat(" ", 1<<20)+"{}\n", 64)),
		"large as it is":    make([]byte, snapshotMax+1),
		"deep":              zipped(head + `{"Service":` + strings.Repeat("[", 1<<20)),
		"endless selectors": zipped(head + `{"Objects":{"Pools":` + strings.Repeat(`{"x":`, 1<<18)),
	} {
		f := newFeed()
		if err := f.Import(data); err == nil || isReady(f) {
			t.Errorf("%s: taken, error %v", name, err)
		}
	}
	// What a later version adds is no reason to refuse the rest.
	f := newFeed()
	if err := f.Import(zipped(head + `{"Weather":{"Rain":true}}` + "\n" + `{"Node":{"Name":"n","Colour":"red"}}`)); err != nil || !isReady(f) || len(f.Drain().Nodes) != 1 {
		t.Errorf("of a later version: %v", err)
	}
}

// FuzzImport: whatever is imported, nothing panics, neither here nor in the core that
// it is handed to.
func FuzzImport(f *testing.F) {
	for _, text := range []string{
		"", `{"Version":1}`, `{"Version":1}` + "\n" + `{"Objects":{"Pools":[{"Name":"p","Addresses":["::/0","1.2.3.4-1.2.3.9"]}]}}` + "\n" +
			`{"Service":{"Key":{"Namespace":"n","Name":"s"},"Addrs":["1.2.3.4"],"TrafficLocal":true,"Endpoints":[{"Node":"n"},{}]}}` + "\n" +
			`{"Node":{"Name":"n","Labels":{"a":"b"}}}`,
	} {
		f.Add([]byte(text), true)
	}
	feed := heardFeed()
	data, err := feed.Export()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, false)
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		f.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, true)
	f.Fuzz(func(t *testing.T, data []byte, zip bool) {
		if zip {
			data = zipped(string(data))
		}
		to := newFeed()
		if to.Import(data) != nil {
			return
		}
		d := to.Drain()
		p := plan.New(plan.Options{Node: "n"})
		p.SetConfig(config.Parse(*d.Objects, nil))
		p.SetNodes(d.Nodes)
		for key, svc := range d.Services {
			p.SetService(key, &plan.Service{Service: *svc, Endpoints: d.Endpoints[key]})
		}
		p.Plan()
		if _, err := to.Export(); err != nil && len(data) < lineMax/4 {
			t.Errorf("what was imported cannot be exported: %v", err)
		}
	})
}

// Export, the feed and its reader run at the same time.
func TestExportWhileThingsChange(t *testing.T) {
	const rounds = 200
	f := heardFeed()
	var all sync.WaitGroup
	all.Go(func() {
		for i := range rounds {
			f.onService(serviceNamed("red", fmt.Sprint("s", i%7)), i%3 == 0)
			f.onSlice(sliceNamed("red", fmt.Sprint("x", i%5), "a", fmt.Sprint("n", i)), i%4 == 0)
			f.onNode(richNode(fmt.Sprint("n", i%9)), i%5 == 0)
			f.publish(objects())
		}
	})
	all.Go(func() {
		for range rounds {
			f.Drain()
		}
	})
	to := newFeed()
	for range rounds / 10 {
		if err := to.Import(export(t, f)); err != nil {
			t.Error(err)
		}
		to.Drain()
		export(t, to)
	}
	all.Wait()
}

// bigFeed is a feed of 10,000 Services with 10 endpoints each, and 1,000 nodes.
func bigFeed() *Feed {
	const services, nodes, endpoints = 10_000, 1000, 10
	f := heardFeed()
	for i := range nodes {
		f.onNode(richNode(fmt.Sprint("node", i)), false)
	}
	for i := range services {
		name := fmt.Sprint("service", i)
		var on []string
		for j := range endpoints {
			on = append(on, fmt.Sprint("node", (i*7+j*13)%nodes))
		}
		f.onService(serviceNamed("red", name), false)
		f.onSlice(sliceNamed("red", name+"-1", name, on...), false)
	}
	return f
}

func BenchmarkExport(b *testing.B) {
	f := bigFeed()
	var data []byte
	for b.Loop() {
		var err error
		if data, err = f.Export(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(data)), "bytes")
}

func BenchmarkImport(b *testing.B) {
	data, err := bigFeed().Export()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := newFeed().Import(data); err != nil {
			b.Fatal(err)
		}
	}
}
