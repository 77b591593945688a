package speaker

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
)

// Announced is the metrics of what this node announces, why or why not, and how long that
// took.
type Announced struct {
	node    string
	gauge   *prometheus.GaugeVec // by MetalLB's name
	why     *prometheus.GaugeVec
	foreign prometheus.Counter
	// takeover is how long it takes from knowing that a node is dead, or gone, until its
	// addresses are answered for here.
	takeover prometheus.Histogram
	// plan is how long it takes to decide after a change, apply to put that into effect.
	plan, apply prometheus.Histogram
}

// NewAnnounced registers the metrics.
func NewAnnounced(reg prometheus.Registerer, node string) *Announced {
	a := &Announced{node: node, gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "metallb", Subsystem: "speaker", Name: "announced",
		Help: "1 for each address of a Service that this node means to announce.",
	}, []string{"service", "protocol", "node", "ip"})}
	reg.MustRegister(a.gauge)
	a.foreign = newForeign(reg)
	a.takeover = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "barelb", Subsystem: "layer2", Name: "takeover_seconds",
		Help:    "Time from knowing that addresses are another node's no more until this node answers for them.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12), // 0.5 ms to 1 s
	})
	a.why = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "barelb", Subsystem: "speaker", Name: "services",
		Help: "Number of Services by why this node announces them, or does not, for each protocol.",
	}, []string{"protocol", "reason"})
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "barelb", Subsystem: "speaker", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 10), // 0.1 ms to 2 s
		})
	}
	a.plan = seconds("plan_seconds", "Time to decide, after a change, what this node announces.")
	a.apply = seconds("apply_seconds", "Time to put a plan into effect, in Layer 2 and BGP.")
	reg.MustRegister(a.takeover, a.why, a.plan, a.apply)
	return a
}

// moved counts a Service whose reason for a protocol was one and is another; "" is none.
func (a *Announced) moved(protocol string, was, is lb.Reason) {
	if was == is {
		return
	}
	if was != "" {
		a.why.WithLabelValues(protocol, string(was)).Dec()
	}
	if is != "" {
		a.why.WithLabelValues(protocol, string(is)).Inc()
	}
}

func (a *Announced) add(key lb.Key, protocol string, addrs []netip.Addr) {
	for _, addr := range addrs {
		a.gauge.WithLabelValues(key.String(), protocol, a.node, addr.String()).Set(1)
	}
}

func (a *Announced) remove(key lb.Key, protocol string, addrs []netip.Addr) {
	for _, addr := range addrs {
		a.gauge.DeleteLabelValues(key.String(), protocol, a.node, addr.String())
	}
}
