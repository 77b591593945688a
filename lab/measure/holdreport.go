package measure

import (
	"net/netip"
	"slices"
	"time"
)

// HoldTrace is what tcp-hold saw. Times are offsets from Started.
type HoldTrace struct {
	Target    netip.AddrPort
	Wanted    int
	Started   time.Time
	NotOpened map[string]int // by reason
	Nodes     map[int]string // serving node of each connection that was opened
	Waits     []Wait         // answered requests, in the order of their answers
	Breaks    []ConnBreak    // in the order in which they happened
	Marks     []Mark         // in the order in which they were given
}

// Wait is how long an answered request waited for its answer.
type Wait struct{ Asked, Took time.Duration }

// ConnBreak is the end of a connection that should have lasted.
type ConnBreak struct {
	Conn   int
	At     time.Duration
	Reason string
}

// HoldReport is what tcp-hold says at its end.
type HoldReport struct {
	Target    netip.AddrPort `json:"target"`
	Started   time.Time      `json:"started"`
	Wanted    int            `json:"wanted"`
	Opened    int            `json:"opened"`
	NotOpened []Share        `json:"not_opened,omitempty"` // by reason
	Broken    int            `json:"broken"`
	Reasons   []Share        `json:"reasons,omitempty"` // of the broken
	Nodes     []Share        `json:"nodes"`             // serving nodes of the opened
	Breaks    []BreakReport  `json:"breaks"`
	Requests  int            `json:"requests"` // answered
	Waits     Quantiles      `json:"waits"`    // of answered requests
	Marks     []HoldMark     `json:"marks"`
}

// BreakReport is one broken connection.
type BreakReport struct {
	Conn   int       `json:"conn"`
	Node   string    `json:"node"` // that served it
	At     time.Time `json:"at"`
	Mark   string    `json:"mark,omitempty"` // the last before it
	After  Millis    `json:"after_ms"`       // since that mark, else since the start
	Reason string    `json:"reason"`
}

// HoldMark tells what happened from a mark to the next one.
type HoldMark struct {
	Name   string    `json:"name"`
	At     time.Time `json:"at"`
	Broken int       `json:"broken"`
	First  Millis    `json:"first_ms"` // from the mark to the first break; 0 if none
	Last   Millis    `json:"last_ms"`
	// SlowestWait is the longest that an answered request waited of those that
	// were unanswered at some moment of the period.
	SlowestWait Millis `json:"slowest_wait_ms"`
}

// After returns what happened after the last mark of that name.
func (r HoldReport) After(mark string) (HoldMark, error) {
	for _, m := range slices.Backward(r.Marks) {
		if m.Name == mark {
			return m, nil
		}
	}
	return HoldMark{}, notGiven(mark)
}

// AnalyseHold turns a trace into a report.
func AnalyseHold(t HoldTrace) HoldReport {
	r := HoldReport{
		Target: t.Target, Started: t.Started, Wanted: t.Wanted, Opened: len(t.Nodes),
		NotOpened: Spread(t.NotOpened, t.Wanted), Broken: len(t.Breaks), Requests: len(t.Waits),
		Breaks: make([]BreakReport, len(t.Breaks)), Marks: make([]HoldMark, len(t.Marks)),
	}
	nodes, reasons := make(map[string]int), make(map[string]int)
	for _, node := range t.Nodes {
		nodes[node]++
	}
	took := make([]time.Duration, len(t.Waits))
	for i, w := range t.Waits {
		took[i] = w.Took
	}
	for i, m := range t.Marks {
		r.Marks[i] = HoldMark{Name: m.Name, At: t.Started.Add(m.At), SlowestWait: slowest(t, i)}
	}
	for i, b := range t.Breaks {
		reasons[b.Reason]++
		report := BreakReport{
			Conn: b.Conn, Node: t.Nodes[b.Conn], At: t.Started.Add(b.At), After: ToMillis(b.At), Reason: b.Reason,
		}
		if m := markBefore(t.Marks, b.At); m >= 0 {
			report.Mark, report.After = t.Marks[m].Name, ToMillis(b.At-t.Marks[m].At)
			r.Marks[m].add(report.After)
		}
		r.Breaks[i] = report
	}
	r.Nodes, r.Reasons, r.Waits = Spread(nodes, 0), Spread(reasons, 0), QuantilesOf(took)
	return r
}

func (m *HoldMark) add(after Millis) {
	if m.Broken == 0 {
		m.First = after
	}
	m.Broken++
	m.Last = after
}

// markBefore is the index of the last mark at or before at, -1 if there is none.
func markBefore(marks []Mark, at time.Duration) int {
	for i, mark := range slices.Backward(marks) {
		if mark.At <= at {
			return i
		}
	}
	return -1
}

// slowest is the longest wait that overlaps the period of mark i.
func slowest(t HoldTrace, i int) Millis {
	var longest time.Duration
	for _, w := range t.Waits {
		if w.Asked+w.Took >= t.Marks[i].At && (i+1 == len(t.Marks) || w.Asked < t.Marks[i+1].At) {
			longest = max(longest, w.Took)
		}
	}
	return ToMillis(longest)
}
