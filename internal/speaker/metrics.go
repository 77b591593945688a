package speaker

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
)

// Announced is the metric of what this node announces, by MetalLB's name.
type Announced struct {
	node    string
	gauge   *prometheus.GaugeVec
	foreign prometheus.Counter
	// takeover is how long it takes from knowing that a node is dead, or gone, until its
	// addresses are answered for here.
	takeover prometheus.Histogram
}

// NewAnnounced registers the metric.
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
	reg.MustRegister(a.takeover)
	return a
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
