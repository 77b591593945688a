package measure_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/measure"
)

func TestQuantilesAreSamples(t *testing.T) {
	t.Parallel()
	upTo := func(n int) []time.Duration {
		var d []time.Duration
		for i := n; i > 0; i-- {
			d = append(d, time.Duration(i)*time.Millisecond)
		}
		return d
	}
	tests := map[string]struct {
		samples []time.Duration
		want    measure.Quantiles
	}{
		"none":   {nil, measure.Quantiles{}},
		"one":    {upTo(1), measure.Quantiles{Count: 1, P50: 1, P95: 1, P99: 1, Max: 1}},
		"two":    {upTo(2), measure.Quantiles{Count: 2, P50: 1, P95: 2, P99: 2, Max: 2}},
		"100":    {upTo(100), measure.Quantiles{Count: 100, P50: 50, P95: 95, P99: 99, Max: 100}},
		"micros": {[]time.Duration{1234567}, measure.Quantiles{Count: 1, P50: 1.235, P95: 1.235, P99: 1.235, Max: 1.235}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, measure.QuantilesOf(test.samples)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	counts := map[string]int{"node2": 1, "node1": 2}
	tests := map[string]struct {
		total int
		want  []measure.Share
	}{
		"of the sum":     {0, []measure.Share{{Name: "node1", Count: 2, Percent: 66.7}, {Name: "node2", Count: 1, Percent: 33.3}}},
		"of all, failed": {4, []measure.Share{{Name: "node1", Count: 2, Percent: 50}, {Name: "node2", Count: 1, Percent: 25}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := measure.Spread(counts, test.total)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if s := measure.Smallest(got); s.Name != "node2" {
				t.Errorf("smallest is %q, want node2", s.Name)
			}
		})
	}
}
