package measure_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/barelb/barelb/lab/measure"
)

const ms = time.Millisecond

// trace makes a trace of probes 5 ms apart: '.' is answered after 1 ms, 'x' is
// not, 'l' is answered after the timeout, 'e' is refused by the kernel, and a
// digit n before a probe means that the prober stalled for n times 10 ms more.
func trace(probes string) measure.Trace {
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	t := measure.Trace{Interval: 5 * ms, Ports: 4, Timeout: 100 * ms, Started: started}
	var at time.Duration
	for _, p := range probes {
		seq := uint64(len(t.Sends))
		switch p {
		case '.':
			t.Answers = append(t.Answers, measure.Answer{Seq: seq, At: at + ms, Backend: "node1/web"})
		case 'l':
			t.Answers = append(t.Answers, measure.Answer{Seq: seq, At: at + 101*ms, Backend: "node1/web"})
		case 'e':
			t.Sends = append(t.Sends, measure.Send{At: at, Err: "network unreachable"})
			at += 5 * ms
			continue
		case 'x':
		default:
			at += time.Duration(p-'0') * 10 * ms
			continue
		}
		t.Sends = append(t.Sends, measure.Send{At: at})
		at += 5 * ms
	}
	return t
}

func TestOutages(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		probes       string
		outages      []measure.Outage // Start is checked against Offset
		disturbances []measure.Outage // nil: as the outages
	}{
		"none":          {probes: "....", outages: []measure.Outage{}},
		"nothing sent":  {probes: "", outages: []measure.Outage{}},
		"one lost":      {probes: "..x.", outages: []measure.Outage{{Offset: 5, FirstLost: 10, Length: 10, Lost: 1}}},
		"a run":         {probes: ".xxx.", outages: []measure.Outage{{Offset: 0, FirstLost: 5, Length: 20, Least: 10, Lost: 3}}},
		"late is lost":  {probes: ".ll.", outages: []measure.Outage{{Offset: 0, FirstLost: 5, Length: 15, Least: 5, Lost: 2}}},
		"refused, lost": {probes: ".ee.", outages: []measure.Outage{{Offset: 0, FirstLost: 5, Length: 15, Least: 5, Lost: 2}}},
		"first lost": {
			probes:  "xx..",
			outages: []measure.Outage{{Offset: 0, FirstLost: 0, Length: 10, Least: 5, Lost: 2, OpenStart: true}},
		},
		"last lost": {
			probes:  "..xx",
			outages: []measure.Outage{{Offset: 5, FirstLost: 10, Length: 10, Least: 5, Lost: 2, OpenEnd: true}},
		},
		"all lost": {
			probes:  "xxx",
			outages: []measure.Outage{{Offset: 0, FirstLost: 0, Length: 10, Least: 10, Lost: 3, OpenStart: true, OpenEnd: true}},
		},
		"one probe, lost": {
			probes:  "x",
			outages: []measure.Outage{{Lost: 1, OpenStart: true, OpenEnd: true}},
		},
		"a stall within": {
			probes:  ".x4x.",
			outages: []measure.Outage{{Offset: 0, FirstLost: 5, Length: 55, Least: 45, Lost: 2, Stalled: 40}},
		},
		"a stall before the first answer after": {
			probes:  ".x4.",
			outages: []measure.Outage{{Offset: 0, FirstLost: 5, Length: 50, Lost: 1, Stalled: 40}},
		},
		"a stall elsewhere": {
			probes:  ".4..x.",
			outages: []measure.Outage{{Offset: 50, FirstLost: 55, Length: 10, Lost: 1}},
		},
		// There are four ports: every fourth probe is of one flow.
		"one flow of several": {
			probes: ".x...x....",
			outages: []measure.Outage{
				{Offset: 0, FirstLost: 5, Length: 10, Lost: 1},
				{Offset: 20, FirstLost: 25, Length: 10, Lost: 1},
			},
			disturbances: []measure.Outage{
				{Offset: 0, FirstLost: 5, Length: 30, Least: 20, Lost: 2, Answered: 3},
			},
		},
		"a whole turn without loss": {
			probes: ".x....x.",
			outages: []measure.Outage{
				{Offset: 0, FirstLost: 5, Length: 10, Lost: 1},
				{Offset: 25, FirstLost: 30, Length: 10, Lost: 1},
			},
		},
		"flows of one node of several": {
			probes: ".x.xx..x.....",
			outages: []measure.Outage{
				{Offset: 0, FirstLost: 5, Length: 10, Lost: 1},
				{Offset: 10, FirstLost: 15, Length: 15, Least: 5, Lost: 2},
				{Offset: 30, FirstLost: 35, Length: 10, Lost: 1},
			},
			disturbances: []measure.Outage{
				{Offset: 0, FirstLost: 5, Length: 40, Least: 30, Lost: 4, Answered: 3},
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := trace(test.probes)
			r := measure.AnalyseProbe(tr)
			if test.disturbances == nil {
				test.disturbances = test.outages
			}
			for _, list := range [][]measure.Outage{test.outages, test.disturbances} {
				for i := range list {
					list[i].Start = tr.Started.Add(list[i].Offset.Duration())
				}
			}
			if diff := cmp.Diff(test.outages, r.Outages); diff != "" {
				t.Errorf("outages (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.disturbances, r.Disturbances); diff != "" {
				t.Errorf("disturbances (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProbeCountsAnswers(t *testing.T) {
	t.Parallel()
	tr := trace("...xle.")
	tr.Foreign, tr.Skipped = 1, 2
	tr.Answers[2].Backend = "node2/web"
	// Answers come back out of order, twice, late and twice, and to nothing that was sent.
	tr.Answers[0], tr.Answers[2] = tr.Answers[2], tr.Answers[0]
	tr.Answers = append(tr.Answers, tr.Answers[0],
		measure.Answer{Seq: 4, At: 300 * ms}, measure.Answer{Seq: 99, At: 300 * ms})
	want := measure.ProbeReport{
		Started: tr.Started, Ran: 30, Interval: 5, Ports: 4,
		Sent: 7, Answered: 4, Lost: 3, Late: 1, Duplicates: 2, Foreign: 2, Skipped: 2,
		SendErrors: map[string]int{"network unreachable": 1},
		Backends:   []measure.Share{{Name: "node1/web", Count: 3, Percent: 75}, {Name: "node2/web", Count: 1, Percent: 25}},
		RTT:        measure.Quantiles{Count: 4, P50: 1, P95: 1, P99: 1, Max: 1},
		MaxGap:     5, Longest: 20, LongestDist: 20,
	}
	got := measure.AnalyseProbe(tr)
	got.Outages, got.Disturbances, got.Marks = nil, nil, nil
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestOutagesAreAssignedToMarks(t *testing.T) {
	t.Parallel()
	//            0    5    10   15   20   25   30   35   40   45   50
	tr := trace(".xx...xxx..")
	tr.Marks = []measure.Mark{
		{Name: "cut", At: 6 * ms},      // the probe sent at 5 ms was under way
		{Name: "back", At: 40 * ms},    // while the second outage lasts
		{Name: "nothing", At: 46 * ms}, // after all
	}
	// What a driver sees has been through JSON.
	text, err := json.Marshal(measure.AnalyseProbe(tr))
	if err != nil {
		t.Fatal(err)
	}
	var r measure.ProbeReport
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	at := func(m measure.Millis) time.Time { return tr.Started.Add(m.Duration()) }
	want := []measure.MarkSummary{
		{Name: "cut", At: at(6), Offset: 6, Sent: 6, Answered: 3, Lost: 3, Outages: 2, Longest: 20, LongestDisturbance: 45, MaxGap: 5},
		{Name: "back", At: at(40), Offset: 40, Sent: 2, Answered: 1, Lost: 1, Outages: 1, Longest: 20, LongestDisturbance: 45, MaxGap: 5},
		{Name: "nothing", At: at(46), Offset: 46, Sent: 1, Answered: 1, MaxGap: 4},
	}
	if diff := cmp.Diff(want, r.Marks); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
	for name, want := range map[string]int{"cut": 2, "back": 1, "nothing": 0} {
		got, err := r.OutagesAfter(name)
		if err != nil || len(got) != want {
			t.Errorf("OutagesAfter(%s) = %d outages, %v; want %d", name, len(got), err, want)
		}
	}
	if _, err := r.OutagesAfter("never"); err == nil {
		t.Error("OutagesAfter of a mark that was not given: no error")
	}
}

func TestOutageThatDoesNotEndIsOpenAfterItsMark(t *testing.T) {
	t.Parallel()
	tr := trace("..xx")
	tr.Marks = []measure.Mark{{Name: "cut", At: 6 * ms}, {Name: "last", At: 17 * ms}}
	r := measure.AnalyseProbe(tr)
	for _, m := range r.Marks {
		if !m.OpenEnd || m.Longest != 10 {
			t.Errorf("after %s: open %v, longest %v; want true, 10", m.Name, m.OpenEnd, m.Longest)
		}
	}
}
