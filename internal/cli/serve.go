package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/task"
)

// serve starts what both components serve: metrics, health, profiles. Health is
// served on host, which is "" for all addresses. Beside it metrics and what local names,
// by path, are served, unless that is nil.
func serve(ctx context.Context, tasks *task.Group, cluster *kube.Cluster, f common, host string, ready <-chan struct{}, local map[string]http.Handler) error {
	tlsConfig, err := f.tlsConfig()
	if err != nil {
		return err
	}
	metrics, err := cluster.MetricsServer(kube.MetricsOptions{Port: f.port, CertDir: f.certDir, TLS: tlsConfig})
	if err != nil {
		return err
	}
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := cluster.Registry().Register(c); err != nil {
			return fmt.Errorf("register metrics of the process: %w", err)
		}
	}
	tasks.Go(ctx, "metrics", metrics)
	if f.localAddress != "" {
		tasks.Go(ctx, "local metrics", func(ctx context.Context) error {
			return kube.ServeLocalMetrics(ctx, f.localAddress, cluster.LocalMetrics())
		})
	}
	if local != nil {
		local["/metrics"] = cluster.LocalMetrics()
	}
	tasks.Go(ctx, "health", func(ctx context.Context) error {
		return kube.ServeHealth(ctx, net.JoinHostPort(host, strconv.Itoa(f.healthPort)), ready, local)
	})
	if f.pprof != "" {
		tasks.Go(ctx, "profiles", func(ctx context.Context) error { return servePprof(ctx, f.pprof) })
	}
	return nil
}

// servePprof serves Go's profiles until ctx ends.
func servePprof(ctx context.Context, addr string) error {
	const readTimeout = 5 * time.Second
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("--pprof-bind-address: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: readTimeout}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve profiles: %w", err)
	}
	return nil
}
