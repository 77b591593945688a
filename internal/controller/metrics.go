package controller

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// Usage shows the use of the pools, and why Services wait, while this controller is at
// work. The zero value shows nothing yet.
type Usage struct{ last atomic.Pointer[use] }

// use is what was so after one pass. It is never changed.
type use struct {
	pools   []ipam.Usage
	holders map[string]int    // Services that hold an address of each pool
	waiting map[lb.Reason]int // Services that were refused something
}

// poolMetric is one of MetalLB's. All have the label pool.
type poolMetric struct {
	desc *prometheus.Desc
	of   func(ipam.Usage, *use) int64
}

func poolMetrics() []poolMetric {
	return []poolMetric{
		{poolDesc("addresses_total", "Number of usable addresses, per pool."), func(p ipam.Usage, _ *use) int64 { return sum(p.Total4, p.Total6) }},
		{poolDesc("ipv4_addresses_total", "Number of usable IPv4 addresses, per pool."), func(p ipam.Usage, _ *use) int64 { return p.Total4 }},
		{poolDesc("ipv6_addresses_total", "Number of usable IPv6 addresses, per pool."), func(p ipam.Usage, _ *use) int64 { return p.Total6 }},
		{poolDesc("addresses_in_use_total", "Number of addresses in use, per pool."), func(p ipam.Usage, _ *use) int64 { return p.Assigned4 + p.Assigned6 }},
		{poolDesc("ipv4_addresses_in_use_total", "Number of IPv4 addresses in use, per pool."), func(p ipam.Usage, _ *use) int64 { return p.Assigned4 }},
		{poolDesc("ipv6_addresses_in_use_total", "Number of IPv6 addresses in use, per pool."), func(p ipam.Usage, _ *use) int64 { return p.Assigned6 }},
		{poolDesc("services_allocated_total", "Number of Services that hold an address, per pool."), func(p ipam.Usage, now *use) int64 { return int64(now.holders[p.Pool]) }},
	}
}

func servicesDesc() *prometheus.Desc {
	return prometheus.NewDesc("barelb_controller_services",
		"Number of Services that hold an address (reason Allocated), and of those that wait for one, or for another, by the reason.", []string{"reason"}, nil)
}

func poolDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("metallb_allocator_"+name, help, []string{"pool"}, nil)
}

// Describe implements prometheus.Collector.
func (u *Usage) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range poolMetrics() {
		ch <- m.desc
	}
	ch <- servicesDesc()
}

// Collect implements prometheus.Collector: what was so after the last pass.
func (u *Usage) Collect(ch chan<- prometheus.Metric) {
	now := u.last.Load()
	if now == nil {
		return
	}
	metrics := poolMetrics()
	for _, p := range now.pools {
		for _, m := range metrics {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, float64(m.of(p, now)), p.Pool)
		}
	}
	desc := servicesDesc()
	services := func(reason lb.Reason, n int) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), string(reason))
	}
	held := 0
	for _, n := range now.holders {
		held += n
	}
	services(lb.Allocated, held)
	for reason, n := range now.waiting {
		services(reason, n)
	}
}

// sum adds two counts that stop at the largest int64.
func sum(a, b int64) int64 {
	if s := a + b; s >= a {
		return s
	}
	return max(a, b)
}
