package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/measure"
)

func TestTables(t *testing.T) {
	t.Parallel()
	var tab tables
	report := measure.ProbeReport{Marks: []measure.MarkSummary{
		{Name: "cut 0", Lost: 60, LongestDisturbance: 305, MaxGap: 7.5},
		{Name: "back 0"},
		{Name: "cut 1", Lost: 80, LongestDisturbance: 402, MaxGap: 21},
	}}
	if err := tab.outage("cut", "client, IPv4", report, []string{"cut 0", "cut 1"}); err != nil {
		t.Fatal(err)
	}
	if err := tab.outage("cut", "client, IPv4", report, []string{"cut 7"}); err == nil {
		t.Error("a mark that was never given is no error")
	}
	report.Marks[2].OpenEnd = true
	if err := tab.outage("cut", "client, IPv4", report, []string{"cut 1"}); err == nil {
		t.Error("an outage that has not ended is no error")
	}
	tab.answer("kill", "IPv6: no answer", []time.Duration{40 * time.Millisecond, 90 * time.Millisecond}, 12)
	tab.rtt("arp", measure.AskMark{Requests: 5, Answered: 4, RTT: measure.Quantiles{Count: 4, P50: 0.05, P95: 0.1, P99: 0.15, Max: 0.2}})
	tab.fault("loss", time.Minute, 16, measure.AskMark{Moved: 1, Requests: 100, Answered: 80}, 3)
	var out strings.Builder
	tab.render(&out)
	lines := strings.Split(out.String(), "\n")
	for _, want := range []string{
		"| cut | client, IPv4 | 2 | 305 ms | 402 ms | 402 ms | 402 ms | 140, 80 | 21 ms, 21 ms |",
		"| kill | IPv6: no answer | 2 | 40 ms | 90 ms | 90 ms | 90 ms | 12 ms |",
		"| arp | round trip of 4 answers to 5 requests | 4 | 0.05 ms | 0.10 ms | 0.15 ms | 0.20 ms | 0 ms |",
		"| loss | 1m0s | 16 | 1 | 100 | 80 | 0 ms | 3 | 0 ms |",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "connections") {
		t.Error("an empty table is shown")
	}
}

// Each case has a name of its own.
func TestScenarios(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range scenarios() {
		if seen[s.name] || s.run == nil || s.about == "" {
			t.Errorf("case %q is there twice, or does nothing", s.name)
		}
		seen[s.name] = true
	}
}
