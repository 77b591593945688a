package controller

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/ipam"
)

// Usage shows the use of the pools as MetalLB's allocator metrics, while this
// controller is at work.
type Usage struct{ last atomic.Pointer[[]ipam.Usage] }

func (u *Usage) set(now []ipam.Usage) { u.last.Store(&now) }

// Describe sends nothing: which pools there are is known only when asked.
func (u *Usage) Describe(chan<- *prometheus.Desc) {}

// Collect sends MetalLB's allocator metrics, as of the last pass.
func (u *Usage) Collect(ch chan<- prometheus.Metric) {
	usage := u.last.Load()
	if usage == nil {
		return
	}
	gauge := func(name, help, pool string, v int64) {
		desc := prometheus.NewDesc("metallb_allocator_"+name, help, []string{"pool"}, nil)
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), pool)
	}
	for _, u := range *usage {
		gauge("addresses_total", "Number of usable addresses, per pool.", u.Pool, sum(u.Total4, u.Total6))
		gauge("ipv4_addresses_total", "Number of usable IPv4 addresses, per pool.", u.Pool, u.Total4)
		gauge("ipv6_addresses_total", "Number of usable IPv6 addresses, per pool.", u.Pool, u.Total6)
		gauge("addresses_in_use_total", "Number of addresses in use, per pool.", u.Pool, u.Assigned4+u.Assigned6)
		gauge("ipv4_addresses_in_use_total", "Number of IPv4 addresses in use, per pool.", u.Pool, u.Assigned4)
		gauge("ipv6_addresses_in_use_total", "Number of IPv6 addresses in use, per pool.", u.Pool, u.Assigned6)
	}
}

// sum adds two counts that stop at the largest int64.
func sum(a, b int64) int64 {
	if s := a + b; s >= a {
		return s
	}
	return max(a, b)
}
