// Package monitoring tests what is in deploy/monitoring with Prometheus' own parser.
// promtool, which tests the alerts, is a tool of this module.
package monitoring

import (
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

const deploy = "../../deploy/monitoring/"

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// documented returns the labels of each metric of docs/metrics.md.
func documented(t *testing.T) map[string]map[string]bool {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+) \\| ([^|]*?) \\|")
	out := map[string]map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(read(t, "../../docs/metrics.md")), -1) {
		known := map[string]bool{"pod": true} // as every way to scrape adds it
		for l := range strings.SplitSeq(m[3], ",") {
			known[strings.Trim(l, " `")] = true
		}
		if m[2] == "histogram" {
			known["le"] = true
			out[m[1]+"_sum"], out[m[1]+"_count"], out[m[1]+"_bucket"] = known, known, known
		} else {
			out[m[1]] = known
		}
	}
	if len(out) < 50 {
		t.Fatalf("docs/metrics.md has %d metrics only", len(out))
	}
	return out
}

// check parses a query, and demands that its metrics and their labels are documented.
func check(t *testing.T, where, query string, known map[string]map[string]bool) {
	t.Helper()
	for _, v := range []string{"$__rate_interval", "$__range"} { // Grafana's
		query = strings.ReplaceAll(query, v, "5m")
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return
	}
	metrics := 0
	grouped := map[string]bool{}
	labelsOf := map[string]bool{}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			metrics++
			if known[n.Name] == nil {
				t.Errorf("%s: %s: there is no metric %s", where, query, n.Name)
				return nil
			}
			for l := range known[n.Name] {
				labelsOf[l] = true
			}
			for _, m := range n.LabelMatchers {
				if m.Name != model.MetricNameLabel && !known[n.Name][m.Name] {
					t.Errorf("%s: %s has no label %s", where, n.Name, m.Name)
				}
			}
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				grouped[l] = true
			}
		}
		return nil
	})
	for l := range grouped {
		if !labelsOf[l] {
			t.Errorf("%s: %s: no metric of it has the label %s", where, query, l)
		}
	}
	if metrics == 0 {
		t.Errorf("%s: %s asks for no metric", where, query)
	}
}

func TestDashboard(t *testing.T) {
	var board struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(read(t, deploy+"grafana-dashboard.json"), &board); err != nil {
		t.Fatal(err)
	}
	known := documented(t)
	rows := map[string]int{}
	row := ""
	for _, p := range board.Panels {
		if p.Type == "row" {
			row = p.Title
			continue
		}
		for _, target := range p.Targets {
			check(t, p.Title, target.Expr, known)
			rows[row]++
		}
	}
	for _, want := range []string{"Pools", "Layer 2", "BGP", "Failover", "Configuration"} {
		if rows[want] == 0 {
			t.Errorf("the board asks nothing about %s", want)
		}
	}
}

func TestAlerts(t *testing.T) {
	plain := read(t, deploy+"alerts.yaml")
	groups, errs := rulefmt.Parse(plain, false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	known, doc, tests := documented(t), string(read(t, "../../docs/alerts.md")), string(read(t, deploy+"alerts_test.yaml"))
	n := 0
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			n++
			check(t, r.Alert, r.Expr, known)
			if !strings.Contains(doc, "\n## "+r.Alert+"\n") {
				t.Errorf("docs/alerts.md says nothing of %s", r.Alert)
			}
			if want := "https://github.com/barelb/barelb/blob/main/docs/alerts.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url is %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
			}
			if !strings.Contains(tests, `alertname="`+r.Alert+`"`) {
				t.Errorf("alerts_test.yaml does not have %s fire", r.Alert)
			}
		}
	}
	if sections := strings.Count(doc, "\n## "); sections != n {
		t.Errorf("docs/alerts.md has %d sections for %d alerts", sections, n)
	}
	var object struct{ Spec, Kind any }
	if err := yaml.Unmarshal(read(t, deploy+"prometheusrule.yaml"), &object); err != nil {
		t.Fatal(err)
	}
	var rules any
	if err := yaml.Unmarshal(plain, &rules); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(rules)       //nolint:errchkjson // it was JSON
	b, _ := json.Marshal(object.Spec) //nolint:errchkjson // it was JSON
	if string(a) != string(b) {
		t.Error("prometheusrule.yaml is not made of alerts.yaml: run make generate")
	}
}

// TestAlertsOfMetalLBsUsers are the rules of MetalLB's chart, by what they ask: they work here.
func TestAlertsOfMetalLBsUsers(t *testing.T) {
	known := documented(t)
	for _, l := range []string{"job", "pod", "container"} {
		for _, m := range known {
			m[l] = true
		}
	}
	for _, query := range []string{
		`metallb_k8s_client_config_stale_bool{job="metallb"} == 1`,
		`metallb_k8s_client_config_loaded_bool{job="metallb"} == 0`,
		`metallb_allocator_addresses_in_use_total >= on(pool) metallb_allocator_addresses_total`,
		`(metallb_allocator_addresses_in_use_total / on(pool) metallb_allocator_addresses_total) * 100 > 85`,
		`metallb_bgp_session_up == 0`,
		`frrk8s_bgp_session_up{peer="192.168.1.1", vrf="default"} == 0`,
		`frrk8s_k8s_client_config_stale_bool == 1`,
		`max_over_time(metallb_bgp_session_up[1d]) - metallb_bgp_session_up != 0`,
	} {
		check(t, "a user's alert", query, known)
	}
}
