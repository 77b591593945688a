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

func newMetrics(reg prometheus.Registerer, r *Runner) *metrics {
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
		reg.MustRegister(m.detection, m.reports, m.probes, m.messages, m.answers, m.drops, newNodes(r))
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

// nodes collects what is known of other nodes: a series for each that is not well, for with a
// thousand nodes that look at each other there is no room for the others, and some for each
// that this one observes.
type nodes struct {
	runner               *Runner
	down, observed, loss *prometheus.Desc
}

func newNodes(r *Runner) *nodes {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("barelb_liveness_"+name, help, labels, nil)
	}
	return &nodes{
		runner:   r,
		down:     desc("node_down", "1 for each node whose kernel does not answer, or whose speaker does not work, as this node knows; none for others.", "node", "what"),
		observed: desc("observed", "1 for each node that this one probes, by its link and what is known: answers, suspect, dead, or proxied.", "node", "link", "state"),
		loss:     desc("probe_loss_ratio", "Loss of probes of an observed node, as estimated of late: 0 to 1.", "node", "link"),
	}
}

// Describe implements prometheus.Collector.
func (c *nodes) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.down, c.observed, c.loss} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *nodes) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for name, n := range c.runner.View().Nodes {
		for what, is := range map[string]bool{"kernel": len(n.Dead) > 0, "speaker": n.SpeakerDown, "gone": n.Gone} {
			if is {
				gauge(c.down, 1, name, what)
			}
		}
	}
	type place struct{ node, link string }
	seen := map[place]bool{} // a node may be on one link twice
	for _, o := range *c.runner.observed.Load() {
		if at := (place{o.Node, o.Link}); !seen[at] {
			seen[at] = true
			gauge(c.observed, 1, o.Node, o.Link, o.State.String())
			gauge(c.loss, o.Loss, o.Node, o.Link)
		}
	}
}
