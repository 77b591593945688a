package cli

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/controller"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/kubeproxy"
	"github.com/barelb/barelb/internal/layer2"
	"github.com/barelb/barelb/internal/link"
	"github.com/barelb/barelb/internal/liveness"
	"github.com/barelb/barelb/internal/probe"
	"github.com/barelb/barelb/internal/speaker"
)

// metric is one line of docs/metrics.md.
type metric struct{ name, kind, labels, help string }

// documented returns what docs/metrics.md says of one component's metrics, by name.
func documented(t *testing.T, component string) map[string]metric {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+component+"\n")
	if !ok {
		t.Fatalf("docs/metrics.md has no section %q", component)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	out := map[string]metric{}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+) \\| ([^|]*?) \\| (.*?) \\|$")
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		labels := strings.ReplaceAll(strings.ReplaceAll(m[3], "`", ""), " ", "")
		if _, twice := out[m[1]]; twice {
			t.Errorf("docs/metrics.md: %s has %s twice", component, m[1])
		}
		out[m[1]] = metric{m[1], m[2], labels, m[4]}
	}
	return out
}

// described returns what collectors say of themselves, by name. They do not say the type.
func described(t *testing.T, reg prometheus.Collector) map[string]metric {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		reg.Describe(ch)
	}()
	out := map[string]metric{}
	form := regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "(.*?)"(?:, unit: "")?, constLabels: \{\}, variableLabels: \{(.*)\}\}$`)
	for d := range ch {
		m := form.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("%s is in another form", d)
		}
		labels := slices.Sorted(strings.SplitSeq(m[3], ","))
		out[m[1]] = metric{name: m[1], labels: strings.Join(labels, ","), help: m[2]}
	}
	return out
}

// registries returns what a controller and a speaker register.
func registries(t *testing.T) map[string]*prometheus.Registry {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c, s := prometheus.NewPedanticRegistry(), prometheus.NewPedanticRegistry()
	kube.NewClientMetrics(c, kube.MetalLB)
	c.MustRegister(&controller.Usage{})

	kube.NewClientMetrics(s, kube.MetalLB, kube.FRRK8s)
	speaker.NewAnnounced(s, "node1")
	links := link.New(log)
	s.MustRegister(link.NewCollector(links, nil))
	layer2.New(layer2.Config{Log: log, Links: links, Registerer: s})
	liveness.New(liveness.Config{NodeName: "node1", Log: log, Registerer: s})
	probe.New(probe.Config{Node: "node1", Log: log, Links: links, Registerer: s})
	if _, err := newRouters(bgp.Config{NodeName: "node1", Log: log}, (&speakerFlags{realtime: true}).bfdProcess(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := kubeproxy.New(kubeproxy.Config{URL: kubeproxy.DefaultURL, Log: log, Registerer: s}); err != nil {
		t.Fatal(err)
	}
	return map[string]*prometheus.Registry{"Controller": c, "Speaker": s}
}

// TestMetricsAreDocumented holds docs/metrics.md to the code. The lab holds it to what
// running processes serve, types too.
func TestMetricsAreDocumented(t *testing.T) {
	for component, reg := range registries(t) {
		doc, code := documented(t, component), described(t, reg)
		for name, m := range doc {
			if m.kind != "counter" && m.kind != "gauge" && m.kind != "histogram" {
				t.Errorf("%s: %q is no type", name, m.kind)
			}
			m.kind = ""
			doc[name] = m
		}
		want := fmt.Sprintf("%q", slices.Sorted(maps.Keys(doc)))
		if diff := cmp.Diff(code, doc, cmp.AllowUnexported(metric{})); diff != "" {
			t.Errorf("docs/metrics.md, %s: + is the document, - the code; it has %s\n%s", component, want, diff)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		types := documented(t, component)
		for _, f := range families {
			if got := strings.ToLower(f.GetType().String()); got != types[f.GetName()].kind {
				t.Errorf("%s is a %s, docs/metrics.md says %s", f.GetName(), got, types[f.GetName()].kind)
			}
		}
	}
}

// TestMetalLBsMetrics is the list of MetalLB's metrics with their types and labels, of all
// its modes: none is missing here, or differs. What its native mode exports without the
// label vrf has it here too.
func TestMetalLBsMetrics(t *testing.T) {
	want := map[string]map[string]string{"Controller": {}, "Speaker": {}}
	add := func(component, prefix, kind, labels string, names ...string) {
		for _, n := range names {
			want[component][prefix+n] = kind + " " + labels
		}
	}
	for component, prefixes := range map[string][]string{"Controller": {"metallb_"}, "Speaker": {"metallb_", "frrk8s_"}} {
		for _, p := range prefixes {
			add(component, p+"k8s_client_", "counter", "", "updates_total", "update_errors_total")
			add(component, p+"k8s_client_", "gauge", "", "config_loaded_bool", "config_stale_bool")
		}
	}
	add("Controller", "metallb_allocator_", "gauge", "pool", "addresses_total", "ipv4_addresses_total", "ipv6_addresses_total",
		"addresses_in_use_total", "ipv4_addresses_in_use_total", "ipv6_addresses_in_use_total", "services_allocated_total")
	add("Speaker", "metallb_speaker_", "gauge", "ip,node,protocol,service", "announced")
	add("Speaker", "metallb_layer2_", "counter", "ip", "requests_received", "responses_sent", "gratuitous_sent")
	add("Speaker", "metallb_bgp_", "gauge", "peer,vrf", "pending_prefixes_total")
	add("Speaker", "frrk8s_bgp_", "gauge", "peer,vrf", "received_prefixes_total")
	for _, p := range []string{"metallb_", "frrk8s_"} {
		add("Speaker", p+"bgp_", "gauge", "peer,vrf", "session_up", "announced_prefixes_total")
		add("Speaker", p+"bgp_", "counter", "peer,vrf", "opens_sent", "opens_received", "notifications_sent", "updates_total",
			"updates_total_received", "keepalives_sent", "keepalives_received", "route_refresh_sent", "total_sent", "total_received")
		add("Speaker", p+"bfd_", "gauge", "peer,vrf", "session_up")
		add("Speaker", p+"bfd_", "counter", "peer,vrf", "control_packet_input", "control_packet_output", "echo_packet_input",
			"echo_packet_output", "session_up_events", "session_down_events", "zebra_notifications")
	}
	for component, metrics := range want {
		got := map[string]string{}
		code := described(t, registries(t)[component])
		for name, m := range documented(t, component) {
			if !strings.HasPrefix(name, "barelb_") {
				got[name] = m.kind + " " + code[name].labels
			}
		}
		if diff := cmp.Diff(metrics, got); diff != "" {
			t.Errorf("%s (- MetalLB, + here):\n%s", component, diff)
		}
	}
}
