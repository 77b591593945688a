package bgp

import (
	"maps"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
)

// metrics describes what a Speaker reports of each session under one name. The names and
// labels are those that dashboards and alerts for MetalLB use: metallb_bgp of the speaker
// itself, where the label peer is address:port, and frrk8s_bgp of MetalLB's FRR-K8s mode,
// where it is the address alone.
type metrics struct {
	up, announced, pending, received *prometheus.Desc // nil where the name does not exist
	counts                           []counter
	peer                             func(labels) string
}

// labels tell the sessions apart in metrics. A router that is to be found on a link has the
// link's name in place of an address.
type labels struct {
	at   string
	port uint16
	vrf  string
}

// counter is a metric that counts messages.
type counter struct {
	desc *prometheus.Desc
	of   func(*counts) uint64
}

func labelsOf(p lb.Peer) labels {
	l := labels{at: p.Interface, port: p.Port, vrf: lb.VRFLabel(p.VRF)}
	if p.Addr.IsValid() {
		l.at = p.Addr.String()
	}
	return l
}

// endpoint is address and port as MetalLB's label has them, IPv6 too: without brackets.
func (l labels) endpoint() string {
	return l.at + ":" + strconv.Itoa(int(l.port))
}

func newMetrics() []metrics {
	native, frrk8s := named("metallb_bgp_"), named("frrk8s_bgp_")
	native.peer = labels.endpoint
	native.pending = prometheus.NewDesc("metallb_bgp_pending_prefixes_total",
		"Number of prefixes that should be advertised on the BGP session.", []string{"peer", "vrf"}, nil)
	frrk8s.peer = func(l labels) string { return l.at }
	frrk8s.received = prometheus.NewDesc("frrk8s_bgp_received_prefixes_total",
		"Number of prefixes accepted from the BGP session: 0, as a speaker takes no routes.", []string{"peer", "vrf"}, nil)
	return []metrics{native, frrk8s}
}

// named returns the metrics that both names have.
func named(prefix string) metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help, []string{"peer", "vrf"}, nil)
	}
	m := metrics{
		up:        desc("session_up", "BGP session state (1 is up, 0 is down)."),
		announced: desc("announced_prefixes_total", "Number of prefixes currently being advertised on the BGP session."),
	}
	count := func(name, help string, of func(*counts) uint64) {
		m.counts = append(m.counts, counter{desc(name, help), of})
	}
	count("updates_total", "Number of BGP UPDATE messages sent.", func(c *counts) uint64 { return c.updatesOut.Load() })
	count("updates_total_received", "Number of BGP UPDATE messages received.", func(c *counts) uint64 { return c.updatesIn.Load() })
	count("opens_sent", "Number of BGP OPEN messages sent.", func(c *counts) uint64 { return c.opensOut.Load() })
	count("opens_received", "Number of BGP OPEN messages received.", func(c *counts) uint64 { return c.opensIn.Load() })
	count("notifications_sent", "Number of BGP NOTIFICATION messages sent.", func(c *counts) uint64 { return c.notificationsOut.Load() })
	count("keepalives_sent", "Number of BGP KEEPALIVE messages sent.", func(c *counts) uint64 { return c.keepalivesOut.Load() })
	count("keepalives_received", "Number of BGP KEEPALIVE messages received.", func(c *counts) uint64 { return c.keepalivesIn.Load() })
	count("route_refresh_sent", "Number of BGP ROUTE-REFRESH messages sent: 0, as a speaker takes no routes.", func(*counts) uint64 { return 0 })
	count("total_sent", "Number of BGP messages sent.", func(c *counts) uint64 {
		return c.opensOut.Load() + c.notificationsOut.Load() + c.updatesOut.Load() + c.keepalivesOut.Load()
	})
	count("total_received", "Number of BGP messages received.", func(c *counts) uint64 {
		return c.opensIn.Load() + c.notificationsIn.Load() + c.updatesIn.Load() + c.keepalivesIn.Load() + c.refreshesIn.Load()
	})
	return m
}

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range s.metrics {
		for _, d := range []*prometheus.Desc{m.up, m.announced, m.pending, m.received} {
			if d != nil {
				ch <- d
			}
		}
		for _, c := range m.counts {
			ch <- c.desc
		}
	}
}

// sample is what is reported of the sessions that share labels.
type sample struct {
	sessions, up       int
	announced, pending int
	counts             []uint64
}

// Collect implements prometheus.Collector. The label peer names the interface in place of
// an address for an unnumbered session; vrf is "default" for none.
func (s *Speaker) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	sessions := slices.Collect(maps.Values(s.sessions))
	refused := slices.Collect(maps.Values(s.refused))
	s.mu.Unlock()
	for _, m := range s.metrics {
		m.collect(ch, sessions, refused)
	}
}

func (m *metrics) collect(ch chan<- prometheus.Metric, sessions []*session, refused []SessionStatus) {
	// Peers that differ in sourceAddress alone share labels, and without a port more do.
	samples := make(map[[2]string]*sample)
	of := func(l labels) *sample {
		key := [2]string{m.peer(l), l.vrf}
		if samples[key] == nil {
			samples[key] = &sample{counts: make([]uint64, len(m.counts))}
		}
		return samples[key]
	}
	for _, r := range refused {
		of(r.labels).pending += r.Wanted
	}
	for _, session := range sessions {
		st, sum := session.status.Load(), of(labelsOf(session.current()))
		sum.sessions++
		if st.State == stateEstablished {
			sum.up++
		}
		sum.announced += st.Advertised
		sum.pending += st.Wanted
		for i, c := range m.counts {
			sum.counts[i] += c.of(&session.counts)
		}
	}
	for key, v := range samples {
		gauge := func(d *prometheus.Desc, value int) {
			if d != nil {
				ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), key[:]...)
			}
		}
		up := 0
		if v.sessions > 0 && v.up == v.sessions { // of several, all must be
			up = 1
		}
		gauge(m.up, up)
		gauge(m.announced, v.announced)
		gauge(m.pending, v.pending)
		gauge(m.received, 0)
		for i, c := range m.counts {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(v.counts[i]), key[:]...)
		}
	}
}
