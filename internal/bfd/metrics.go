package bfd

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

// metrics describes what a Runner reports of each session under one name. The names are
// those that dashboards and alerts for MetalLB use, in its FRR and its FRR-K8s mode.
type metrics struct {
	up       *prometheus.Desc
	counters []counter
}

type counter struct {
	desc  *prometheus.Desc
	value func(Counters) uint64
}

//nolint:gochecknoglobals // constants
var (
	realTimeDesc = prometheus.NewDesc("barelb_speaker_bfd_realtime",
		"1 while BFD runs with real-time priority, 0 while it does not; absent without --realtime.", nil, nil)
	startsDesc = prometheus.NewDesc("barelb_speaker_bfd_process_starts_total",
		"Number of times that the process of BFD was started; absent without --realtime.", nil, nil)
)

func newMetrics() []metrics { return []metrics{named("metallb_bfd_"), named("frrk8s_bfd_")} }

func named(prefix string) metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help, []string{"peer", "vrf"}, nil)
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
	if len(r.cfg.Process) > 0 {
		ch <- realTimeDesc
		ch <- startsDesc
	}
	for _, m := range r.metrics {
		ch <- m.up
		for _, c := range m.counters {
			ch <- c.desc
		}
	}
}

// Collect implements prometheus.Collector. The label peer is the address without port, vrf
// is "default" for none; sessions that differ in other things share them, and are added up.
func (r *Runner) Collect(ch chan<- prometheus.Metric) {
	if len(r.cfg.Process) > 0 {
		realTime := 0.0
		if r.process.realTime.Load() {
			realTime = 1
		}
		ch <- prometheus.MustNewConstMetric(realTimeDesc, prometheus.GaugeValue, realTime)
		ch <- prometheus.MustNewConstMetric(startsDesc, prometheus.CounterValue, float64(r.process.starts.Load()))
	}
	type labels struct{ peer, vrf string }
	type sum struct {
		up     float64
		counts []float64
	}
	counters := r.metrics[0].counters // they differ in name alone
	sums := map[labels]*sum{}
	for _, st := range r.Status() {
		l := labels{st.Key.Peer.String(), lb.VRFLabel(st.Key.VRF)}
		s := sums[l]
		if s == nil {
			s = &sum{up: 1, counts: make([]float64, len(counters))}
			sums[l] = s
		}
		if st.State != bfd.Up {
			s.up = 0 // of several, all must be
		}
		for i, c := range counters {
			s.counts[i] += float64(c.value(st.Counters))
		}
	}
	for l, s := range sums {
		for _, m := range r.metrics {
			ch <- prometheus.MustNewConstMetric(m.up, prometheus.GaugeValue, s.up, l.peer, l.vrf)
			for i, c := range m.counters {
				ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, s.counts[i], l.peer, l.vrf)
			}
		}
	}
}
