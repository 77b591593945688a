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
}

// NewAnnounced registers the metric.
func NewAnnounced(reg prometheus.Registerer, node string) *Announced {
	a := &Announced{node: node, gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "metallb", Subsystem: "speaker", Name: "announced",
		Help: "1 for each address of a Service that this node means to announce.",
	}, []string{"service", "protocol", "node", "ip"})}
	reg.MustRegister(a.gauge)
	a.foreign = newForeign(reg)
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
