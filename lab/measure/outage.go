package measure

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Trace is what a probe saw. Times are offsets from Started on the monotonic
// clock. The sequence number of a probe is its index in Sends.
type Trace struct {
	Target   netip.AddrPort
	Interval time.Duration // planned time between two sends
	Ports    int           // source ports used in turn
	Timeout  time.Duration // an answer after more than this is no answer
	Started  time.Time
	Sends    []Send   // in the order in which they were sent
	Answers  []Answer // in any order, with late ones and duplicates
	Marks    []Mark   // in the order in which they were given
	Skipped  int      // slots of the schedule in which the sender did not run
	Foreign  int      // datagrams to our ports that answer no probe of ours
}

// Send is one probe. Err is why the kernel refused it, empty if it did not; a
// refused probe counts as sent and lost, for a client would have been refused too.
type Send struct {
	At  time.Duration
	Err string
}

// Answer is one datagram that came back from the target.
type Answer struct {
	Seq     uint64
	At      time.Duration
	Backend string // the identity in the answer
}

// Mark is the moment just before an action.
type Mark struct {
	Name string
	At   time.Duration
}

// ProbeReport is what a probe says at its end.
type ProbeReport struct {
	Target   netip.AddrPort `json:"target"`
	Started  time.Time      `json:"started"`
	Ran      Millis         `json:"ran_ms"` // first send to last send
	Interval Millis         `json:"interval_ms"`
	Ports    int            `json:"ports"`

	Sent       int            `json:"sent"`
	Answered   int            `json:"answered"`
	Lost       int            `json:"lost"`
	Late       int            `json:"late,omitempty"`       // of the lost: answered after the timeout
	Duplicates int            `json:"duplicates,omitempty"` // answers beyond the first
	Foreign    int            `json:"foreign,omitempty"`
	SendErrors map[string]int `json:"send_errors,omitempty"` // of the lost: refused by our own kernel
	Backends   []Share        `json:"backends"`              // of the answered
	RTT        Quantiles      `json:"rtt"`

	// MaxGap is the longest time between two sends, Skipped the slots missed by
	// it and others: how late the prober itself was.
	MaxGap  Millis `json:"max_gap_ms"`
	Skipped int    `json:"skipped"`

	// Outages are the runs of consecutive lost probes.
	Outages []Outage `json:"outages"`
	// Disturbances are the periods in which probes were lost at all: two losses
	// belong together unless every flow was answered between them, which takes
	// one turn through the source ports. Where routers spread flows over nodes
	// and one dies, only its flows fail: the runs of consecutive losses are
	// short, and the disturbance is the failover time.
	Disturbances []Outage      `json:"disturbances"`
	Longest      Millis        `json:"longest_outage_ms"`
	LongestDist  Millis        `json:"longest_disturbance_ms"`
	Marks        []MarkSummary `json:"marks"`
}

// Outage is a period with losses.
type Outage struct {
	Start  time.Time `json:"start"`     // of Length, on the wall clock
	Offset Millis    `json:"offset_ms"` // the same, from the probe's start
	// Length runs from the last answered send before to the first answered send
	// after: the service was away for no longer than this.
	Length Millis `json:"length_ms"`
	// Least runs from the first lost send to the last lost send.
	Least     Millis `json:"least_ms"`
	FirstLost Millis `json:"first_lost_ms"` // offset of the first lost send
	Lost      int    `json:"lost"`
	Answered  int    `json:"answered,omitempty"` // within; zero for a run
	// OpenStart: nothing was answered before. OpenEnd: nothing was answered
	// after. Length then begins at the first or ends at the last send, and the
	// true length is unknown beyond it.
	OpenStart bool `json:"open_start,omitempty"`
	OpenEnd   bool `json:"open_end,omitempty"`
	// Stalled is how much of Length the prober itself did not run: so much of
	// it is not known to be an outage.
	Stalled Millis `json:"stalled_ms,omitempty"`
}

// MarkSummary tells what happened from a mark to the next one.
type MarkSummary struct {
	Name     string    `json:"name"`
	At       time.Time `json:"at"`
	Offset   Millis    `json:"offset_ms"`
	Sent     int       `json:"sent"`
	Answered int       `json:"answered"`
	Lost     int       `json:"lost"`
	// Outages that overlap the period: one that lasts over a mark counts on
	// both sides of it, so that none is missed by being attributed elsewhere.
	Outages            int    `json:"outages"`
	Longest            Millis `json:"longest_outage_ms"`
	LongestDisturbance Millis `json:"longest_disturbance_ms"`
	// OpenEnd: one of them had not ended when the probe did.
	OpenEnd bool   `json:"open_end,omitempty"`
	MaxGap  Millis `json:"max_gap_ms"` // the prober's own lateness meanwhile
}

// stallFactor: two sends further apart than so many intervals are a stall.
const stallFactor = 3

// AnalyseProbe turns a trace into a report.
func AnalyseProbe(t Trace) ProbeReport {
	r := ProbeReport{
		Target: t.Target, Started: t.Started, Interval: ToMillis(t.Interval), Ports: t.Ports,
		Sent: len(t.Sends), Foreign: t.Foreign, Skipped: t.Skipped,
		SendErrors: make(map[string]int), MaxGap: ToMillis(maxGap(t.Sends)),
	}
	if len(t.Sends) > 0 {
		r.Ran = ToMillis(t.Sends[len(t.Sends)-1].At - t.Sends[0].At)
	}
	answered := r.countAnswers(t)
	for i, s := range t.Sends {
		if answered[i] {
			r.Answered++
			continue
		}
		r.Lost++
		if s.Err != "" {
			r.SendErrors[s.Err]++
		}
	}
	r.Outages = periods(t, answered, 1)
	r.Disturbances = periods(t, answered, max(t.Ports, 1))
	r.Longest, r.LongestDist = longest(r.Outages), longest(r.Disturbances)
	r.Marks = make([]MarkSummary, len(t.Marks))
	for i, m := range t.Marks {
		end := time.Duration(1<<63 - 1)
		if i+1 < len(t.Marks) {
			end = t.Marks[i+1].At
		}
		r.Marks[i] = r.summarise(t, answered, m, end)
	}
	return r
}

// countAnswers fills in what the answers tell and says for each probe whether
// it was answered in time.
func (r *ProbeReport) countAnswers(t Trace) []bool {
	answered := make([]bool, len(t.Sends))
	late := make(map[uint64]struct{})
	backends := make(map[string]int)
	var rtts []time.Duration
	for _, a := range t.Answers {
		if a.Seq >= uint64(len(t.Sends)) {
			r.Foreign++
			continue
		}
		if _, again := late[a.Seq]; again || answered[a.Seq] {
			r.Duplicates++
			continue
		}
		rtt := a.At - t.Sends[a.Seq].At
		if rtt > t.Timeout {
			late[a.Seq] = struct{}{}
			continue
		}
		answered[a.Seq] = true
		backends[a.Backend]++
		rtts = append(rtts, rtt)
	}
	r.Late = len(late)
	r.Backends, r.RTT = Spread(backends, 0), QuantilesOf(rtts)
	return answered
}

// periods finds the periods with losses. Two losses belong to one period if they
// are at most reach probes apart; with 1, no answered probe lies between them.
func periods(t Trace, answered []bool, reach int) []Outage {
	found := []Outage{}
	for first := 0; first < len(answered); first++ {
		if answered[first] {
			continue
		}
		last := first
		for i := first + 1; i < len(answered) && i <= last+reach; i++ {
			if !answered[i] {
				last = i
			}
		}
		found = append(found, period(t, answered, first, last))
		first = last
	}
	return found
}

// period describes the losses from probe first to probe last, both lost.
func period(t Trace, answered []bool, first, last int) Outage {
	from, to := max(first-1, 0), min(last+1, len(answered)-1)
	start := t.Sends[from].At
	o := Outage{
		Start: t.Started.Add(start), Offset: ToMillis(start),
		Length:    ToMillis(t.Sends[to].At - start),
		Least:     ToMillis(t.Sends[last].At - t.Sends[first].At),
		FirstLost: ToMillis(t.Sends[first].At),
		OpenStart: from == first, OpenEnd: to == last,
	}
	var stalled time.Duration
	for i := from; i <= to; i++ {
		if i > from {
			if gap := t.Sends[i].At - t.Sends[i-1].At; gap > stallFactor*t.Interval {
				stalled += gap - t.Interval
			}
		}
		switch {
		case !answered[i]:
			o.Lost++
		case i > first && i < last:
			o.Answered++
		}
	}
	o.Stalled = ToMillis(stalled)
	return o
}

func (r *ProbeReport) summarise(t Trace, answered []bool, m Mark, end time.Duration) MarkSummary {
	s := MarkSummary{Name: m.Name, At: t.Started.Add(m.At), Offset: ToMillis(m.At)}
	before := m.At
	for i, sent := range t.Sends {
		if sent.At < m.At || sent.At >= end {
			continue
		}
		s.Sent++
		if answered[i] {
			s.Answered++
		} else {
			s.Lost++
		}
		s.MaxGap = max(s.MaxGap, ToMillis(sent.At-before))
		before = sent.At
	}
	outages := overlapping(r.Outages, ToMillis(m.At), ToMillis(end))
	s.Outages, s.Longest = len(outages), longest(outages)
	s.OpenEnd = slices.ContainsFunc(outages, func(o Outage) bool { return o.OpenEnd })
	s.LongestDisturbance = longest(overlapping(r.Disturbances, ToMillis(m.At), ToMillis(end)))
	return s
}

// overlapping returns the periods that end after from and begin before to. An
// outage begins with its first lost send: the last answered one says nothing bad.
func overlapping(all []Outage, from, to Millis) []Outage {
	var some []Outage
	for _, o := range all {
		if (o.Offset+o.Length > from || o.OpenEnd) && o.FirstLost < to {
			some = append(some, o)
		}
	}
	return some
}

func longest(all []Outage) Millis {
	var l Millis
	for _, o := range all {
		l = max(l, o.Length)
	}
	return l
}

func maxGap(sends []Send) time.Duration {
	var gap time.Duration
	for i := 1; i < len(sends); i++ {
		gap = max(gap, sends[i].At-sends[i-1].At)
	}
	return gap
}

// After returns the summary of the last mark of that name. A name that was never
// given is an error: it must not read as "no outage".
func (r ProbeReport) After(mark string) (MarkSummary, error) {
	i, err := r.lastMark(mark)
	if err != nil {
		return MarkSummary{}, err
	}
	return r.Marks[i], nil
}

// OutagesAfter returns the outages from the last mark of that name to the mark
// after it, by the rule of MarkSummary.Outages.
func (r ProbeReport) OutagesAfter(mark string) ([]Outage, error) {
	return r.after(mark, r.Outages)
}

// DisturbancesAfter is OutagesAfter for disturbances.
func (r ProbeReport) DisturbancesAfter(mark string) ([]Outage, error) {
	return r.after(mark, r.Disturbances)
}

func (r ProbeReport) after(mark string, all []Outage) ([]Outage, error) {
	i, err := r.lastMark(mark)
	if err != nil {
		return nil, err
	}
	end := ToMillis(1<<63 - 1)
	if i+1 < len(r.Marks) {
		end = r.Marks[i+1].Offset
	}
	return overlapping(all, r.Marks[i].Offset, end), nil
}

func (r ProbeReport) lastMark(mark string) (int, error) {
	for i, v := range slices.Backward(r.Marks) {
		if v.Name == mark {
			return i, nil
		}
	}
	return 0, notGiven(mark)
}

func notGiven(mark string) error { return fmt.Errorf("find mark %q in the report: not given", mark) }
