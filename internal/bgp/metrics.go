package bgp

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics describes what a Speaker reports of each session. The names are those
// that dashboards and alerts for MetalLB use.
type metrics struct {
	up, announced, pending *prometheus.Desc
	counts                 []counter
}

// counter is a metric that counts messages.
type counter struct {
	desc *prometheus.Desc
	of   func(*counts) uint64
}

func newMetrics() metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("metallb_bgp_"+name, help, []string{"peer"}, nil)
	}
	m := metrics{
		up:        desc("session_up", "BGP session state (1 is up, 0 is down)."),
		announced: desc("announced_prefixes_total", "Number of prefixes currently being advertised on the BGP session."),
		pending:   desc("pending_prefixes_total", "Number of prefixes that should be advertised on the BGP session."),
	}
	count := func(name, help string, of func(*counts) uint64) {
		m.counts = append(m.counts, counter{desc(name, help), of})
	}
	count("updates_total", "Number of BGP UPDATE messages sent.", func(c *counts) uint64 { return c.updatesOut.Load() })
	count("updates_total_received", "Number of BGP UPDATE messages received.", func(c *counts) uint64 { return c.updatesIn.Load() })
	count("opens_sent", "Number of BGP OPEN messages sent.", func(c *counts) uint64 { return c.opensOut.Load() })
	count("opens_received", "Number of BGP OPEN messages received.", func(c *counts) uint64 { return c.opensIn.Load() })
	count("notifications_sent", "Number of BGP NOTIFICATION messages sent.", func(c *counts) uint64 { return c.notificationsOut.Load() })
	count("keepalives_sent", "Number of BGP KEEPALIVE messages sent.", func(c *counts) uint64 { return c.keepalivesOut.Load() })
	count("keepalives_received", "Number of BGP KEEPALIVE messages received.", func(c *counts) uint64 { return c.keepalivesIn.Load() })
	count("total_sent", "Number of BGP messages sent.", func(c *counts) uint64 {
		return c.opensOut.Load() + c.notificationsOut.Load() + c.updatesOut.Load() + c.keepalivesOut.Load()
	})
	count("total_received", "Number of BGP messages received.", func(c *counts) uint64 {
		return c.opensIn.Load() + c.notificationsIn.Load() + c.updatesIn.Load() + c.keepalivesIn.Load() + c.refreshesIn.Load()
	})
	return m
}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.metrics.up, s.metrics.announced, s.metrics.pending} {
		ch <- d
	}
	for _, c := range s.metrics.counts {
		ch <- c.desc
	}
}

// sample is what is reported of the sessions that share a label.
type sample struct {
	up, announced, pending int
	counts                 []uint64
}

// Collect implements prometheus.Collector. The label peer is address:port, of an
// unnumbered session interface:port.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	// Peers that differ in sourceAddress alone share a label.
	samples := make(map[string]*sample)
	of := func(label string) *sample {
		if samples[label] == nil {
			samples[label] = &sample{counts: make([]uint64, len(s.metrics.counts))}
		}
		return samples[label]
	}
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	refused := slices.Collect(maps.Values(s.refused))
	s.mu.Unlock()
	for _, r := range refused {
		of(r.endpoint).pending += r.Wanted
	}
	for _, session := range sessions {
		st, sum := session.status.Load(), of(session.current().Endpoint())
		if st.State == stateEstablished {
			sum.up = 1
		}
		sum.announced += st.Advertised
		sum.pending += st.Wanted
		for i, c := range s.metrics.counts {
			sum.counts[i] += c.of(&session.counts)
		}
	}
	for peer, v := range samples {
		ch <- prometheus.MustNewConstMetric(s.metrics.up, prometheus.GaugeValue, float64(v.up), peer)
		ch <- prometheus.MustNewConstMetric(s.metrics.announced, prometheus.GaugeValue, float64(v.announced), peer)
		ch <- prometheus.MustNewConstMetric(s.metrics.pending, prometheus.GaugeValue, float64(v.pending), peer)
		for i, c := range s.metrics.counts {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(v.counts[i]), peer)
		}
	}
}
