package layer2

import "github.com/prometheus/client_golang/prometheus"

// metrics are what is counted of all addresses together.
type metrics struct {
	answer    prometheus.Histogram
	first     prometheus.Histogram
	discarded prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		answer: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "barelb", Subsystem: "speaker", Name: "layer2_answer_seconds",
			Help:    "Time from when the kernel received an ARP request or Neighbor Solicitation to when the answer was sent.",
			Buckets: []float64{25e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 20e-3, 100e-3, 300e-3},
		}),
		first: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "barelb", Subsystem: "layer2", Name: "first_answer_seconds",
			Help:    "Time from when this node begins to answer for an address until it first answers a request: how soon somebody asks.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9), // 1 ms to 65 s
		}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "barelb", Subsystem: "speaker", Name: "layer2_requests_discarded_total",
			Help: "ARP requests and Neighbor Solicitations not answered because the speaker had not run for too long.",
		}),
	}
}

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
		requests:   desc("requests_received", "ARP requests and Neighbor Solicitations received for an announced address."),
		replies:    desc("responses_sent", "ARP replies and solicited Neighbor Advertisements sent for an announced address."),
		gratuitous: desc("gratuitous_sent", "Gratuitous ARP and unsolicited Neighbor Advertisement frames sent for an announced address."),
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
