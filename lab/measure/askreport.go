package measure

import (
	"net/netip"
	"slices"
	"time"
)

// AskTrace is what ask saw. Times are offsets from Started.
type AskTrace struct {
	Link     string
	Addrs    []netip.Addr
	Interval time.Duration
	Started  time.Time
	Requests []Request // in the order in which they were sent
	Heard    []Heard   // in the order in which they came in
	Marks    []Mark    // in the order in which they were given
}

// Request is a question for the address of that number.
type Request struct {
	Addr int
	At   time.Duration // just before it was sent
}

// Heard is what somebody said of the address of that number.
type Heard struct {
	Addr      int
	At        time.Duration // when the kernel received it
	MAC, From string        // see Holder
	Asked     bool          // addressed to us; otherwise it was said to everybody
	Flags     string
}

// AskReport is what ask says at its end.
type AskReport struct {
	Link     string    `json:"link"`
	Addrs    int       `json:"addrs"`
	Started  time.Time `json:"started"`
	Requests int       `json:"requests"`
	Answered int       `json:"answered"` // of the requests
	// RTT is from just before a request was sent until the kernel received the answer. An
	// answer is taken for one to the latest request for its address.
	RTT   Quantiles `json:"rtt"`
	Marks []AskMark `json:"marks"`
	// MaxGap is the longest time between two requests: how late the asker itself was.
	MaxGap Millis `json:"max_gap_ms"`
}

// AskMark tells what happened from a mark to the next one.
type AskMark struct {
	Name     string    `json:"name"`
	At       time.Time `json:"at"`
	Requests int       `json:"requests"`
	Answered int       `json:"answered"` // of the requests
	RTT      Quantiles `json:"rtt"`
	// Taken is, over the addresses, how long after the mark another one than before it
	// answered, or told everybody: by the sender in the Ethernet header, so that a
	// caretaker counts. Untaken are the addresses for which nobody did.
	Taken   Quantiles `json:"taken"`
	Untaken int       `json:"untaken"`
	// Moved are the addresses that somebody claimed with another MAC than was claimed before
	// the mark. A caretaker's answer, which has the owner's MAC, moves nothing.
	Moved int `json:"moved"`
	// Silence is, over the addresses that were asked for, the longest time in the period
	// for which somebody who kept asking had no answer: from the first request without
	// one to the next answer, or to the end of the period.
	Silence Quantiles `json:"silence"`
	// Answers are those sent to us, by MAC and sender, the earliest first; First and Last
	// count from the mark. Announcements were made to everybody.
	Answers       []Holder `json:"answers"`
	Announcements []Holder `json:"announcements,omitempty"`
	MaxGap        Millis   `json:"max_gap_ms"`
}

// After returns what happened after the last mark of that name.
func (r AskReport) After(mark string) (AskMark, error) {
	for _, m := range slices.Backward(r.Marks) {
		if m.Name == mark {
			return m, nil
		}
	}
	return AskMark{}, notGiven(mark)
}

// MACs are the distinct MACs that answers of the period claimed, sorted.
func (m AskMark) MACs() []string { return macsOf(m.Answers) }

// MACsAfter are those of MACs that answered later than d after the mark, too.
func (m AskMark) MACsAfter(d time.Duration) []string {
	var late []Holder
	for _, a := range m.Answers {
		if a.Last.Duration() > d {
			late = append(late, a)
		}
	}
	return macsOf(late)
}

// Senders are the distinct senders of the period's answers, sorted.
func (m AskMark) Senders() []string {
	from := make([]string, 0, len(m.Answers))
	for _, a := range m.Answers {
		from = append(from, a.From)
	}
	slices.Sort(from)
	return slices.Compact(from)
}

// AnalyseAsk turns a trace into a report.
func AnalyseAsk(t AskTrace) AskReport {
	r := AskReport{
		Link: t.Link, Addrs: len(t.Addrs), Started: t.Started, Requests: len(t.Requests), Marks: make([]AskMark, len(t.Marks)),
	}
	rtts := answersTo(t)
	var all []time.Duration
	for _, rtt := range rtts {
		if rtt >= 0 {
			all = append(all, rtt)
		}
	}
	r.Answered, r.RTT = len(all), QuantilesOf(all)
	for i := 1; i < len(t.Requests); i++ {
		r.MaxGap = max(r.MaxGap, ToMillis(t.Requests[i].At-t.Requests[i-1].At))
	}
	taken := newTakings(len(t.Addrs))
	next := 0 // of t.Heard
	for i, m := range t.Marks {
		for next < len(t.Heard) && t.Heard[next].At < m.At {
			taken.note(t.Heard[next])
			next++
		}
		taken.mark()
		end := time.Duration(1<<63 - 1)
		if i+1 < len(t.Marks) {
			end = t.Marks[i+1].At
		}
		last := next
		for last < len(t.Heard) && t.Heard[last].At < end {
			last++
		}
		r.Marks[i] = markOf(t, m, end, t.Heard[next:last], rtts, &taken)
		next = last
	}
	return r
}

// answersTo returns for each request how long its answer took, -1 where it has none.
func answersTo(t AskTrace) []time.Duration {
	rtts := make([]time.Duration, len(t.Requests))
	for i := range rtts {
		rtts[i] = -1
	}
	latest := make([]int, len(t.Addrs)) // request by address
	for i := range latest {
		latest[i] = -1
	}
	next := 0
	for _, h := range t.Heard {
		for next < len(t.Requests) && t.Requests[next].At <= h.At {
			latest[t.Requests[next].Addr] = next
			next++
		}
		if i := latest[h.Addr]; h.Asked && i >= 0 && rtts[i] < 0 {
			rtts[i] = h.At - t.Requests[i].At
		}
	}
	return rtts
}

// markOf summarises the period of a mark. It notes in taken what was heard.
func markOf(t AskTrace, m Mark, end time.Duration, heard []Heard, rtts []time.Duration, taken *takings) AskMark {
	s := AskMark{Name: m.Name, At: t.Started.Add(m.At)}
	var took, sent []time.Duration
	for _, h := range heard {
		if taken.note(h) {
			took = append(took, h.At-m.At)
		}
	}
	s.Taken, s.Untaken = QuantilesOf(took), len(t.Addrs)-len(took)
	for _, moved := range taken.moved {
		if moved {
			s.Moved++
		}
	}
	s.Answers, s.Announcements = holdersSince(m.At, heard, true), holdersSince(m.At, heard, false)
	before := m.At
	for i, q := range t.Requests {
		if q.At < m.At || q.At >= end {
			continue
		}
		s.Requests++
		if rtts[i] >= 0 {
			s.Answered++
			sent = append(sent, rtts[i])
		}
		s.MaxGap = max(s.MaxGap, ToMillis(q.At-before))
		before = q.At
	}
	s.RTT = QuantilesOf(sent)
	s.Silence = QuantilesOf(silences(t, m.At, end, heard))
	return s
}

// silences returns the longest silence about each address that was asked for.
func silences(t AskTrace, from, to time.Duration, heard []Heard) []time.Duration {
	const none = time.Duration(-1)
	since := make([]time.Duration, len(t.Addrs)) // the first request without an answer
	longest := make([]time.Duration, len(t.Addrs))
	for i := range since {
		since[i], longest[i] = none, none
	}
	last, next := from, 0
	hear := func(until time.Duration) {
		for ; next < len(heard) && heard[next].At <= until; next++ {
			if h := heard[next]; h.Asked && since[h.Addr] != none {
				longest[h.Addr], since[h.Addr] = max(longest[h.Addr], h.At-since[h.Addr]), none
			}
		}
	}
	for _, q := range t.Requests {
		if q.At < from || q.At >= to {
			continue
		}
		hear(q.At)
		longest[q.Addr] = max(longest[q.Addr], 0)
		if since[q.Addr] == none {
			since[q.Addr] = q.At
		}
		last = q.At
	}
	hear(1<<63 - 1)
	out := []time.Duration{}
	for i, l := range longest {
		if since[i] != none && last > since[i] {
			l = max(l, last-since[i])
		}
		if l != none {
			out = append(out, l)
		}
	}
	return out
}

// holdersSince groups what was heard, counting times from a mark.
func holdersSince(mark time.Duration, heard []Heard, asked bool) []Holder {
	found := []Holder{}
	for _, h := range heard {
		if h.Asked == asked {
			found = addHolder(found, h.MAC, h.From, h.Flags, h.At-mark)
		}
	}
	return found
}
