package layer2

import "github.com/prometheus/client_golang/prometheus"

// collector shows the counters of the announced addresses, and of no others. The
// names are MetalLB's.
type collector struct {
	table                         func() *table
	requests, replies, gratuitous *prometheus.Desc
}

func newCollector(table func() *table) *collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("metallb_layer2_"+name, help, []string{"ip"}, nil)
	}
	return &collector{
		table:      table,
		requests:   desc("requests_received", "ARP requests and Neighbor Solicitations received for an announced address"),
		replies:    desc("responses_sent", "ARP replies and solicited Neighbor Advertisements sent for an announced address"),
		gratuitous: desc("gratuitous_sent", "Gratuitous ARP and unsolicited Neighbor Advertisement frames sent for an announced address"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.requests
	ch <- c.replies
	ch <- c.gratuitous
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for addr, e := range c.table().addrs {
		ip := addr.String()
		counter := func(d *prometheus.Desc, n uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), ip)
		}
		counter(c.requests, e.count.requests.Load())
		counter(c.replies, e.count.replies.Load())
		counter(c.gratuitous, e.count.gratuitous.Load())
	}
}
