package kubeproxy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/kubeproxy"
)

// What kube-proxy of Kubernetes 1.36 answers.
const (
	well    = `{"lastUpdated":"2026-11-26T03:00:00Z","currentTime":"2026-11-26T03:00:00Z","nodeEligible":true,"status":{"IPv4":{"lastUpdated":"2026-11-26T03:00:00Z","healthy":true}}}`
	ill     = `{"lastUpdated":"2026-11-26T03:00:00Z","currentTime":"2026-11-26T03:05:00Z","nodeEligible":true,"status":{"IPv4":{"lastUpdated":"2026-11-26T03:00:00Z","healthy":false}}}`
	deleted = `{"lastUpdated":"2026-11-26T03:00:00Z","currentTime":"2026-11-26T03:05:00Z","nodeEligible":false}`
	foreign = `<html>hello</html>`
)

// proxy is an HTTP server in place of kube-proxy, which needs a cluster; the lab's tests
// ask a real one.
type proxy struct {
	*httptest.Server
	answer atomic.Pointer[answer]
	asked  atomic.Int64
}

type answer struct {
	status int
	body   string
}

func newProxy(t *testing.T, status int, body string) *proxy {
	t.Helper()
	p := &proxy{}
	p.set(status, body)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := p.answer.Load()
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.body))
		p.asked.Add(1)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) set(status int, body string) { p.answer.Store(&answer{status, body}) }

func watch(t *testing.T, url string, required bool) (*kubeproxy.Watcher, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	w, err := kubeproxy.New(kubeproxy.Config{URL: url, Required: required, Interval: 50 * time.Millisecond, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	<-w.Asked()
	return w, reg
}

// until waits for a state that is right.
func until(t *testing.T, w *kubeproxy.Watcher, what string, right func(kubeproxy.State) bool) {
	t.Helper()
	for deadline := time.After(20 * time.Second); !right(w.State()); {
		select {
		case <-w.Changed():
		case <-deadline:
			t.Fatalf("no state that is %s: %+v", what, w.State())
		}
	}
}

func healthy(s kubeproxy.State) bool { return s.Watched && s.Healthy && !s.Doubted && s.Why == "" }

func sick(because string) func(kubeproxy.State) bool {
	return func(s kubeproxy.State) bool { return s.Watched && !s.Healthy && strings.Contains(s.Why, because) }
}

func TestWatchesWhatIsThere(t *testing.T) {
	t.Parallel()
	p := newProxy(t, 200, well)
	w, reg := watch(t, p.URL, false)
	until(t, w, "healthy", healthy)
	checkMetric(t, reg, "1")

	p.set(503, ill)
	until(t, w, "ill", sick("it answers 503"))
	checkMetric(t, reg, "0")
	p.set(200, well)
	until(t, w, "healthy again", healthy)

	p.set(503, deleted)
	for n := p.asked.Load(); p.asked.Load() < n+6; {
		<-time.After(time.Millisecond)
	}
	if !healthy(w.State()) {
		t.Errorf("of a node that is to be deleted: %+v", w.State())
	}
	p.Close()
	until(t, w, "gone", sick("connection refused"))
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.77:0") // a port that is nobody's afterwards
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String() + "/healthz"
	_ = l.Close()

	w, reg := watch(t, url, false)
	if s := w.State(); s.Watched || !s.Healthy {
		t.Errorf("where no kube-proxy is: %+v", s)
	}
	checkMetric(t, reg, "")
	w, reg = watch(t, url, true)
	if s := w.State(); !sick("connection refused")(s) {
		t.Errorf("where kube-proxy is asked for and is not there: %+v", s)
	}
	checkMetric(t, reg, "0")
}

func TestForeignServer(t *testing.T) {
	t.Parallel()
	p := newProxy(t, 503, foreign)
	w, _ := watch(t, p.URL, false)
	if s := w.State(); s.Watched || !s.Healthy {
		t.Errorf("another server's answer: %+v", s)
	}
	w, _ = watch(t, p.URL, true)
	if s := w.State(); !sick("it answers 503")(s) {
		t.Errorf("another server's answer, which was asked for: %+v", s)
	}
	p.set(200, "ok")
	until(t, w, "healthy", healthy)
}

func TestAnswerThatDoesNotCome(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(func() { close(hang); server.Close() })
	w, _ := watch(t, server.URL, true)
	if s := w.State(); !sick("deadline exceeded")(s) {
		t.Errorf("a server that says nothing: %+v", s)
	}
}

// checkMetric demands the metric's value, or none.
func checkMetric(t *testing.T, reg *prometheus.Registry, want string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, f := range families {
		for _, m := range f.Metric {
			got += fmt.Sprint(m.GetGauge().GetValue())
		}
	}
	if got != want {
		t.Errorf("the metric is %q, want %q", got, want)
	}
}
