package failover

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/barelb/barelb/lab/measure"
)

// tables are what was measured.
type tables struct{ outages, answers, conns, faults, routes table }

// table is one in Markdown.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) render(out io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	line := func(cells []string) { fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | ")) }
	fmt.Fprintf(out, "\n%s\n\n", t.title)
	line(t.head)
	fmt.Fprintf(out, "|%s\n", strings.Repeat(" --- |", len(t.head)))
	for _, r := range t.rows {
		line(r)
	}
}

// millis is a length as the tables show it.
func millis(m measure.Millis) string {
	const small = 10
	if m < small && m > 0 {
		return fmt.Sprintf("%.2f ms", float64(m))
	}
	return fmt.Sprintf("%.0f ms", float64(m))
}

// spread shows a distribution in four cells.
func spread(samples []time.Duration) []string {
	q := measure.QuantilesOf(samples)
	return []string{millis(q.P50), millis(q.P95), millis(q.P99), millis(q.Max)}
}

// outage adds what a probe saw after the marks of a kind, one a trial.
func (t *tables) outage(what, client string, r measure.ProbeReport, marks []string) error {
	var away, late []time.Duration
	lost, most := 0, 0
	for _, mark := range marks {
		m, err := r.After(mark)
		if err != nil {
			return err
		}
		if m.OpenEnd {
			return fmt.Errorf("%s, %s: the outage after %q had not ended", what, client, mark)
		}
		away, late = append(away, m.LongestDisturbance.Duration()), append(late, m.MaxGap.Duration())
		lost, most = lost+m.Lost, max(most, m.Lost)
	}
	t.outages.title = "Outages that clients see. Each probe is sent 5 ms after the one before; the prober was late by as much as the last column says."
	t.outages.head = []string{"case", "client", "trials", "p50", "p95", "p99", "max", "probes lost: all, most in a trial", "prober late: p99, max"}
	q := measure.QuantilesOf(late)
	t.outages.add(append(append([]string{what, client, fmt.Sprint(len(marks))}, spread(away)...), fmt.Sprintf("%d, %d", lost, most), millis(q.P99)+", "+millis(q.Max))...)
	return nil
}

// answer adds how long those waited who asked, by a distribution over trials.
func (t *tables) answer(what, who string, samples []time.Duration, late measure.Millis) {
	t.answers.title = "How long who asks (ARP, NDP) has no answer."
	t.answers.head = []string{"case", "what", "samples", "p50", "p95", "p99", "max", "asker late: max"}
	t.answers.add(append(append([]string{what, who, fmt.Sprint(len(samples))}, spread(samples)...), millis(late))...)
}

// rtt adds how long answers took.
func (t *tables) rtt(what string, m measure.AskMark) {
	t.answer(what, fmt.Sprintf("round trip of %d answers to %d requests", m.Answered, m.Requests), nil, m.MaxGap)
	row := t.answers.rows[len(t.answers.rows)-1]
	copy(row[2:], []string{fmt.Sprint(m.RTT.Count), millis(m.RTT.P50), millis(m.RTT.P95), millis(m.RTT.P99), millis(m.RTT.Max)})
}

// tally counts what became of connections over the trials of a case.
type tally struct {
	trials, opened, before, after int
	flows, under, failed          int // new connections; of those that failed, what was being opened at the move
	last                          time.Duration
}

func (t *tables) connections(what string, n tally) {
	t.conns.title = "Open connections (10 requests/s on each) and new ones. They move when clients are told of another MAC, or the router's kernel has another next hop: when the drain time is over."
	t.conns.head = []string{"case", "trials", "open connections", "broken before they moved", "broken after", "the last, after", "new connections", "failed", "and while opened as they moved"}
	t.conns.add(what, fmt.Sprint(n.trials), fmt.Sprint(n.opened), fmt.Sprint(n.before), fmt.Sprint(n.after), n.last.Round(time.Millisecond).String(), fmt.Sprint(n.flows), fmt.Sprint(n.failed), fmt.Sprint(n.under))
}

// route adds how soon a router followed.
func (t *tables) route(what, until string, samples []time.Duration) {
	t.routes.title = "How soon the router follows."
	t.routes.head = []string{"case", "until", "samples", "p50", "p95", "p99", "max"}
	t.routes.add(append([]string{what, until, fmt.Sprint(len(samples))}, spread(samples)...)...)
}

// fault adds what a fault did during which nothing may move.
func (t *tables) fault(what string, long time.Duration, addrs int, m measure.AskMark, lost int) {
	t.faults.title = "Faults during which nothing may move. \"Moved\" addresses were claimed with another node's MAC."
	t.faults.head = []string{"case", "for", "addresses", "moved", "requests", "answered", "longest silence", "probes lost", "asker late: max"}
	t.faults.add(what, long.String(), fmt.Sprint(addrs), fmt.Sprint(m.Moved), fmt.Sprint(m.Requests), fmt.Sprint(m.Answered), millis(m.Silence.Max), fmt.Sprint(lost), millis(m.MaxGap))
}
