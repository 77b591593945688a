package bgp

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics describes what a Speaker reports of each session. The names are those
// that dashboards and alerts for MetalLB use.
type metrics struct{ up, announced, pending, updates *prometheus.Desc }

func newMetrics() metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("metallb_bgp_"+name, help, []string{"peer"}, nil)
	}
	return metrics{
		up:        desc("session_up", "BGP session state (1 is up, 0 is down)."),
		announced: desc("announced_prefixes_total", "Number of prefixes currently being advertised on the BGP session."),
		pending:   desc("pending_prefixes_total", "Number of prefixes that should be advertised on the BGP session."),
		updates:   desc("updates_total", "Number of BGP UPDATE messages sent."),
	}
}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.metrics.up, s.metrics.announced, s.metrics.pending, s.metrics.updates} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. The label peer is address:port.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	type sample struct {
		up, announced, pending int
		updates                uint64
	}
	// Peers that differ in sourceAddress alone share a label.
	samples := make(map[netip.AddrPort]sample)
	for _, st := range s.Status() {
		key := netip.AddrPortFrom(st.Addr, st.Port)
		sum := samples[key]
		if st.State == stateEstablished {
			sum.up = 1
		}
		sum.announced += st.Advertised
		sum.pending += st.Wanted
		samples[key] = sum
	}
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	for _, session := range sessions {
		key := netip.AddrPortFrom(session.peer.Addr, session.peer.Port)
		if sum, ok := samples[key]; ok {
			sum.updates += session.updates()
			samples[key] = sum
		}
	}
	for key, v := range samples {
		peer := key.String()
		ch <- prometheus.MustNewConstMetric(s.metrics.up, prometheus.GaugeValue, float64(v.up), peer)
		ch <- prometheus.MustNewConstMetric(s.metrics.announced, prometheus.GaugeValue, float64(v.announced), peer)
		ch <- prometheus.MustNewConstMetric(s.metrics.pending, prometheus.GaugeValue, float64(v.pending), peer)
		ch <- prometheus.MustNewConstMetric(s.metrics.updates, prometheus.CounterValue, float64(v.updates), peer)
	}
}
