package liveness

import (
	"github.com/prometheus/client_golang/prometheus"

	core "github.com/barelb/barelb/internal/core/liveness"
)

// Why something that came is dropped.
const (
	dropFull     = "full"     // there is no room for more messages
	dropHostile  = "hostile"  // it is malformed, or not authenticated
	dropSessions = "sessions" // there are too many connections
)

// metrics are what is counted.
type metrics struct {
	detection        prometheus.Histogram
	reports          *prometheus.CounterVec
	probes, messages *prometheus.CounterVec
	answers          prometheus.Counter
	drops            *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, view func() *core.View) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "barelb", Subsystem: "liveness", Name: name, Help: help}, labels)
	}
	m := &metrics{
		detection: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "barelb", Subsystem: "liveness", Name: "detection_seconds",
			Help:    "Time from the last answer of a node to our finding that it is dead.",
			Buckets: []float64{.1, .15, .2, .25, .3, .35, .4, .5, .7, 1, 2, 5},
		}),
		reports:  counter("events_total", "What was found of nodes, speakers and ourselves.", "what"),
		probes:   counter("probes_total", "Probes sent to nodes.", "method"),
		messages: counter("messages_total", "Messages to and from other speakers.", "direction", "kind"),
		answers: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "barelb", Subsystem: "liveness", Name: "answers_total", Help: "Answers of nodes to probes.",
		}),
		drops: counter("dropped_total", "Messages and connections of other speakers that were dropped.", "why"),
	}
	if reg != nil {
		reg.MustRegister(m.detection, m.reports, m.probes, m.messages, m.answers, m.drops, newDown(view))
	}
	return m
}

func (m *metrics) drop(why string) { m.drops.WithLabelValues(why).Inc() }

func (m *metrics) sent(kind byte)     { m.messages.WithLabelValues("sent", kindName(kind)).Inc() }
func (m *metrics) received(kind byte) { m.messages.WithLabelValues("received", kindName(kind)).Inc() }

func kindName(kind byte) string {
	switch kind {
	case userDelta:
		return "delta"
	case userAsk:
		return "ask"
	case userRecord:
		return "record"
	case userMachine:
		return "liveness"
	}
	return "unknown"
}

func (m *metrics) report(r core.Report) {
	m.reports.WithLabelValues(r.Kind.String()).Inc()
	if r.Kind == core.NodeDead {
		m.detection.Observe(r.After.Seconds())
	}
}

// down is a series for each node of which something is down: with a thousand nodes that
// look at each other there is no room for those that are well.
type down struct {
	view func() *core.View
	desc *prometheus.Desc
}

func newDown(view func() *core.View) *down {
	return &down{view, prometheus.NewDesc("barelb_liveness_node_down",
		"1 for each node whose kernel does not answer, or whose speaker does not work, as this node knows; none for others.", []string{"node", "what"}, nil)}
}

// Describe implements prometheus.Collector.
func (d *down) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

// Collect implements prometheus.Collector.
func (d *down) Collect(ch chan<- prometheus.Metric) {
	for name, n := range d.view().Nodes {
		for what, is := range map[string]bool{"kernel": len(n.Dead) > 0, "speaker": n.SpeakerDown, "gone": n.Gone} {
			if is {
				ch <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, 1, name, what)
			}
		}
	}
}
