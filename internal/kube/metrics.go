package kube

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/barelb/barelb/internal/core/config"
)

// ClientMetrics are metrics of the conversation with Kubernetes, and of the configuration
// that it brought.
type ClientMetrics struct {
	named    []clientMetrics
	problems *prometheus.GaugeVec
}

// clientMetrics are those of MetalLB.
type clientMetrics struct {
	updates, errors prometheus.Counter
	loaded, stale   prometheus.Gauge
}

// The names under which components of MetalLB have the client metrics: controller and
// speaker under one, the daemon of its FRR-K8s mode under the other.
const (
	MetalLB = "metallb"
	FRRK8s  = "frrk8s"
)

// NewClientMetrics registers the metrics, MetalLB's under each of the names.
func NewClientMetrics(reg prometheus.Registerer, names ...string) *ClientMetrics {
	m := &ClientMetrics{problems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "barelb", Subsystem: "config", Name: "problems",
		Help: "Number of problems of the configuration, by the kind of the object and the reason.",
	}, []string{"kind", "reason"})}
	reg.MustRegister(m.problems)
	for _, namespace := range names {
		opts := func(name, help string) prometheus.Opts {
			return prometheus.Opts{Namespace: namespace, Subsystem: "k8s_client", Name: name, Help: help}
		}
		n := clientMetrics{
			updates: prometheus.NewCounter(prometheus.CounterOpts(opts("updates_total", "Number of changes taken from Kubernetes."))),
			errors:  prometheus.NewCounter(prometheus.CounterOpts(opts("update_errors_total", "Number of changes that could not be put into effect."))),
			loaded:  prometheus.NewGauge(prometheus.GaugeOpts(opts("config_loaded_bool", "1 once a configuration was loaded."))),
			stale:   prometheus.NewGauge(prometheus.GaugeOpts(opts("config_stale_bool", "1 while some of the configuration is set aside, as ConfigurationState says."))),
		}
		reg.MustRegister(n.updates, n.errors, n.loaded, n.stale)
		m.named = append(m.named, n)
	}
	return m
}

// Update counts one change, and whether putting it into effect failed.
func (m *ClientMetrics) Update(err error) {
	for _, n := range m.named {
		n.updates.Inc()
		if err != nil {
			n.errors.Inc()
		}
	}
}

// Config says that a configuration is in force, what of it is not, and whether the component
// calls it invalid for that.
func (m *ClientMetrics) Config(problems []config.Problem, invalid bool) { //nolint:revive // a fact
	m.problems.Reset()
	for _, p := range problems {
		m.problems.WithLabelValues(p.Kind, string(p.Reason)).Inc()
	}
	for _, n := range m.named {
		n.loaded.Set(1)
		if n.stale.Set(0); invalid {
			n.stale.Set(1)
		}
	}
}

// Registry is where metrics are registered to be served.
//
//nolint:ireturn // whoever registers needs no more
func (c *Cluster) Registry() prometheus.Registerer { return metrics.Registry }

// MetricsOptions say how metrics are served.
type MetricsOptions struct {
	Port    int    // 0: not at all
	CertDir string // with tls.crt and tls.key; "": a certificate that we sign ourselves
	TLS     func(*tls.Config)
}

// MetricsServer returns a server of /metrics over TLS. Those who ask are
// authenticated and authorized by the API server.
func (c *Cluster) MetricsServer(opts MetricsOptions) (func(context.Context) error, error) {
	if opts.Port == 0 {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }, nil
	}
	httpClient, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return nil, fmt.Errorf("make client for metrics: %w", err)
	}
	srv, err := metricsserver.NewServer(metricsserver.Options{
		BindAddress: ":" + strconv.Itoa(opts.Port), SecureServing: true, CertDir: opts.CertDir,
		FilterProvider: func(*rest.Config, *http.Client) (metricsserver.Filter, error) { return newGuard(c.client).wrap, nil },
		TLSOpts:        []func(*tls.Config){opts.TLS},
	}, c.rest, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make metrics server: %w", err)
	}
	return srv.Start, nil
}

// LocalMetrics answers with the same metrics to whoever asks. Serve it on loopback alone.
func (c *Cluster) LocalMetrics() http.Handler {
	return promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{})
}

// ReadyPath is /readyz by a name that no other speaker knows. A Pod that starts while the one before it is still ending on its
// node must not count as ready because that one says so on the port of both.
const ReadyPath = "/readyz/plan"

// ServeHealth answers /healthz always and /readyz and ReadyPath once ready is closed, until ctx
// ends; and what local names, by its path.
func ServeHealth(ctx context.Context, addr string, ready <-chan struct{}, local map[string]http.Handler) error {
	mux := http.NewServeMux() // no part of it asks the API server
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	for _, path := range []string{"/readyz", ReadyPath} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			select {
			case <-ready:
				_, _ = w.Write([]byte("ok"))
			default:
				http.Error(w, "not ready: the first plan is not in force yet", http.StatusServiceUnavailable)
			}
		})
	}
	for path, h := range local {
		mux.Handle("GET "+path, h)
	}
	return serveHTTP(ctx, addr, "health probes", mux)
}

// ServeLocalMetrics answers /metrics by local until ctx ends.
func ServeLocalMetrics(ctx context.Context, addr string, local http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", local)
	return serveHTTP(ctx, addr, "local metrics", mux)
}

func serveHTTP(ctx context.Context, addr, what string, handler http.Handler) error {
	const readTimeout = 5 * time.Second
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: readTimeout}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", what, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", what, err)
	}
	return nil
}
