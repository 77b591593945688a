package measure

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Millis is a length of time in milliseconds, to the microsecond.
type Millis float64

// ToMillis rounds d to microseconds.
func ToMillis(d time.Duration) Millis {
	return Millis(float64(d.Round(time.Microsecond).Microseconds()) / 1000)
}

// Duration is the inverse of ToMillis.
func (m Millis) Duration() time.Duration {
	return time.Duration(math.Round(float64(m)*1000)) * time.Microsecond
}

// Quantiles summarise samples; all are zero where Count is zero.
type Quantiles struct {
	Count int    `json:"count"`
	P50   Millis `json:"p50_ms"`
	P95   Millis `json:"p95_ms"`
	P99   Millis `json:"p99_ms"`
	Max   Millis `json:"max_ms"`
}

// QuantilesOf takes the nearest rank: each figure is a sample that occurred, and
// p99 of fewer than 100 samples is their maximum. It does not change samples.
func QuantilesOf(samples []time.Duration) Quantiles {
	if len(samples) == 0 {
		return Quantiles{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := func(p int) Millis { return ToMillis(sorted[(len(sorted)*p+99)/100-1]) }
	return Quantiles{Count: len(sorted), P50: rank(50), P95: rank(95), P99: rank(99), Max: rank(100)}
}

// Share is a part of a whole under a name: a node, a pod, a reason.
type Share struct {
	Name    string  `json:"name"`
	Count   int     `json:"count"`
	Percent float64 `json:"percent"`
}

// Spread turns counts into shares of total, sorted by name. A total above the
// sum of the counts (flows that failed) keeps the percentages honest; a lower
// one, such as 0, means the sum. Use it to join the reports of several nodes too.
func Spread(counts map[string]int, total int) []Share {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	total = max(total, sum)
	shares := make([]Share, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		n := counts[name]
		shares = append(shares, Share{Name: name, Count: n, Percent: percent(n, total)})
	}
	return shares
}

// Smallest returns the share with the lowest count; the zero Share if there is none.
func Smallest(shares []Share) Share {
	if len(shares) == 0 {
		return Share{}
	}
	return slices.MinFunc(shares, func(a, b Share) int { return cmp.Compare(a.Count, b.Count) })
}

// percent is n of total to one decimal place.
func percent(n, total int) float64 {
	if total == 0 {
		return 0
	}
	return math.Round(float64(n)*1000/float64(total)) / 10
}
