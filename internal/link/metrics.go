package link

import (
	"regexp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// collector shows the links of this node that can have to do with announcements.
type collector struct {
	watcher *Watcher
	exclude []*regexp.Regexp
	up      *prometheus.Desc
}

// NewCollector returns a collector of the metric barelb_link_up: for each prefix of each
// link, or once with an empty prefix for one that has none, 1 if the link has carrier.
// Links whose name is excluded, those of containers as a rule, are left out, and so is
// loopback.
func NewCollector(w *Watcher, exclude []*regexp.Regexp) prometheus.Collector { //nolint:ireturn // whoever registers it needs no more
	return &collector{watcher: w, exclude: exclude, up: prometheus.NewDesc("barelb_link_up",
		"1 if a link of this node has carrier, 0 if not, for each of its prefixes.", []string{"link", "prefix"}, nil)}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.up }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, l := range c.watcher.Snapshot() {
		if l.Loopback || slices.ContainsFunc(c.exclude, func(re *regexp.Regexp) bool { return re.MatchString(l.Name) }) {
			continue
		}
		up := 0.0
		if l.Up {
			up = 1
		}
		prefixes := []string{""}
		if len(l.Addrs) > 0 {
			prefixes = nil
		}
		for _, p := range l.Addrs {
			prefixes = append(prefixes, p.String())
		}
		for _, p := range prefixes {
			ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up, l.Name, p)
		}
	}
}
