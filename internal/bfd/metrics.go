package bfd

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/bfd"
)

// metrics describes what a Runner reports of each session. The names are those that
// dashboards and alerts for MetalLB use.
type metrics struct {
	up       *prometheus.Desc
	counters []counter
}

type counter struct {
	desc  *prometheus.Desc
	value func(Counters) uint64
}

func newMetrics() metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("metallb_bfd_"+name, help, []string{"peer", "vrf"}, nil)
	}
	return metrics{
		up: desc("session_up", "BFD session state (1 is up, 0 is down)."),
		counters: []counter{
			{desc("control_packet_input", "Number of received BFD control packets."), func(c Counters) uint64 { return c.ControlIn }},
			{desc("control_packet_output", "Number of sent BFD control packets."), func(c Counters) uint64 { return c.ControlOut }},
			{desc("echo_packet_input", "Number of BFD echo packets that came back."), func(c Counters) uint64 { return c.EchoIn }},
			{desc("echo_packet_output", "Number of sent BFD echo packets."), func(c Counters) uint64 { return c.EchoOut }},
			{desc("session_up_events", "Number of times that the BFD session came up."), func(c Counters) uint64 { return c.Ups }},
			{desc("session_down_events", "Number of times that the BFD session went down."), func(c Counters) uint64 { return c.Downs }},
			{desc("zebra_notifications", "Number of changes of the BFD session that BGP was told of."), func(c Counters) uint64 { return c.Told }},
		},
	}
}

// Describe implements prometheus.Collector.
func (r *Runner) Describe(ch chan<- *prometheus.Desc) {
	ch <- r.metrics.up
	for _, c := range r.metrics.counters {
		ch <- c.desc
	}
}

// Collect implements prometheus.Collector. The label peer is the address without port;
// sessions that differ in other things share one, and are added up.
func (r *Runner) Collect(ch chan<- prometheus.Metric) {
	type labels struct{ peer, vrf string }
	type sum struct {
		up     float64
		counts []float64
	}
	sums := map[labels]*sum{}
	for _, st := range r.Status() {
		l := labels{st.Key.Peer.String(), st.Key.VRF}
		s := sums[l]
		if s == nil {
			s = &sum{up: 1, counts: make([]float64, len(r.metrics.counters))}
			sums[l] = s
		}
		if st.State != bfd.Up {
			s.up = 0 // of several, all must be
		}
		for i, c := range r.metrics.counters {
			s.counts[i] += float64(c.value(st.Counters))
		}
	}
	for l, s := range sums {
		ch <- prometheus.MustNewConstMetric(r.metrics.up, prometheus.GaugeValue, s.up, l.peer, l.vrf)
		for i, c := range r.metrics.counters {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, s.counts[i], l.peer, l.vrf)
		}
	}
}
