package measure_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/barelb/barelb/lab/measure"
)

func TestAnalyseHold(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) time.Time { return started.Add(d) }
	got := measure.AnalyseHold(measure.HoldTrace{
		Wanted: 4, Started: started,
		NotOpened: map[string]int{"refused": 1},
		Nodes:     map[int]string{0: "node1", 1: "node2", 2: "node2"},
		Waits: []measure.Wait{
			{Asked: 10 * ms, Took: 1 * ms},
			{Asked: 90 * ms, Took: 40 * ms}, // under way at the first mark
			{Asked: 150 * ms, Took: 200 * ms},
		},
		Breaks: []measure.ConnBreak{
			{Conn: 1, At: 50 * ms, Reason: "reset"},
			{Conn: 2, At: 130 * ms, Reason: "timeout"},
			{Conn: 0, At: 170 * ms, Reason: "reset"},
		},
		Marks: []measure.Mark{{Name: "restart", At: 100 * ms}, {Name: "back", At: 300 * ms}},
	})
	want := measure.HoldReport{
		Started: started, Wanted: 4, Opened: 3, Broken: 3, Requests: 3,
		NotOpened: []measure.Share{{Name: "refused", Count: 1, Percent: 25}},
		Reasons:   []measure.Share{{Name: "reset", Count: 2, Percent: 66.7}, {Name: "timeout", Count: 1, Percent: 33.3}},
		Nodes:     []measure.Share{{Name: "node1", Count: 1, Percent: 33.3}, {Name: "node2", Count: 2, Percent: 66.7}},
		Breaks: []measure.BreakReport{
			{Conn: 1, Node: "node2", At: at(50 * ms), After: 50, Reason: "reset"},
			{Conn: 2, Node: "node2", At: at(130 * ms), Mark: "restart", After: 30, Reason: "timeout"},
			{Conn: 0, Node: "node1", At: at(170 * ms), Mark: "restart", After: 70, Reason: "reset"},
		},
		Waits: measure.Quantiles{Count: 3, P50: 40, P95: 200, P99: 200, Max: 200},
		Marks: []measure.HoldMark{
			{Name: "restart", At: at(100 * ms), Broken: 2, First: 30, Last: 70, SlowestWait: 200},
			{Name: "back", At: at(300 * ms), SlowestWait: 200},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
