// Package kubeproxy asks a node's kube-proxy, over HTTP, whether it is well, and has
// internal/core/kubeproxy judge its answers.
package kubeproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/kubeproxy"
)

// DefaultURL is where kube-proxy's health is by default.
const DefaultURL = "http://127.0.0.1:10256/healthz"

const (
	defaultInterval = 2 * time.Second
	// seldom is how many times less often kube-proxy is looked for where none was seen.
	seldom = 5
	// maxBody in bytes is how much of an answer is read.
	maxBody = 4096
)

// Config is what a Watcher needs.
type Config struct {
	URL string // "" for DefaultURL
	// Required is set if there must be a kube-proxy: it is not well until it says so, and
	// any answer from the URL counts as its own.
	Required bool
	Log      *slog.Logger
	// Interval is the time between two questions, and how long an answer may take; 0 for
	// 2 s.
	Interval time.Duration
	// Registerer gets the metric; nil for none.
	Registerer prometheus.Registerer
}

// State is what is known of kube-proxy. It is a value.
type State struct {
	kubeproxy.State
	// Why it is not Healthy, for users; "" if it is.
	Why string
}

// Watcher watches a node's kube-proxy. All methods may be called from any goroutine.
type Watcher struct {
	cfg     Config
	client  http.Client
	changed chan struct{}
	asked   chan struct{}
	healthy *prometheus.GaugeVec

	mu    sync.Mutex
	state State
}

// New returns a Watcher that does nothing until Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	w := &Watcher{
		cfg: cfg, changed: make(chan struct{}, 1), asked: make(chan struct{}), state: State{State: kubeproxy.State{Healthy: true}},
		client: http.Client{
			// No proxy of the environment, and a connection for each question: whether one can
			// be had is part of it.
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		healthy: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "barelb", Subsystem: "speaker", Name: "kube_proxy_healthy",
			Help: "1 if this node's kube-proxy is healthy, 0 if it is not, and nothing is announced by BGP; absent while none is watched.",
		}, nil),
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(w.healthy); err != nil {
			return nil, fmt.Errorf("register metrics of kube-proxy: %w", err)
		}
	}
	return w, nil
}

// State returns what is known now.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Changed returns a channel that receives after State has changed; any number of changes
// since the last receive count as one.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Asked is closed when kube-proxy was asked once, whatever came of it.
func (w *Watcher) Asked() <-chan struct{} { return w.asked }

// Run asks until ctx ends. It returns nil.
func (w *Watcher) Run(ctx context.Context) error {
	judge := kubeproxy.Judge{Required: w.cfg.Required}
	for first := true; ; first = false {
		answer, why := w.ask(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the error is that we were told to stop
		}
		state := State{State: judge.Take(answer)}
		w.take(state, why)
		if first {
			close(w.asked)
		}
		wait := w.cfg.Interval
		if !state.Watched {
			wait *= seldom
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// take publishes a state, and says what is new of it. why is what the last answer lacks.
func (w *Watcher) take(now State, why string) {
	w.mu.Lock()
	old := w.state
	if !now.Healthy {
		now.Why = why
		if old.Why != "" && (why == "" || !old.Healthy) {
			now.Why = old.Why // as it was found; every other answer is no news
		}
	}
	switch {
	case !now.Watched:
	case now.Healthy:
		w.healthy.WithLabelValues().Set(1)
	default:
		w.healthy.WithLabelValues().Set(0)
	}
	w.state = now
	w.mu.Unlock()
	if old == now {
		return
	}
	switch {
	case !old.Watched && now.Watched && now.Healthy:
		w.cfg.Log.Info("kube-proxy is watched: this node announces nothing by BGP while it is not healthy", "url", w.cfg.URL)
	case old.Healthy && !now.Healthy:
		w.cfg.Log.Warn("kube-proxy is not healthy", "url", w.cfg.URL, "reason", now.Why)
	case !old.Healthy && now.Healthy:
		w.cfg.Log.Info("kube-proxy is healthy", "url", w.cfg.URL)
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// ask asks once, and returns what is wrong, in words for users.
func (w *Watcher) ask(ctx context.Context) (kubeproxy.Answer, string) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Interval)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.cfg.URL, nil)
	if err != nil {
		return kubeproxy.Silence, err.Error()
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return kubeproxy.Silence, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return kubeproxy.Silence, err.Error()
	}
	return read(resp.StatusCode, body, w.cfg.Required)
}

// read says what an answer means.
func read(status int, body []byte, required bool) (kubeproxy.Answer, string) {
	var said struct {
		LastUpdated  *json.RawMessage `json:"lastUpdated"`
		NodeEligible *bool            `json:"nodeEligible"`
	}
	own := json.Unmarshal(body, &said) == nil && said.LastUpdated != nil
	switch {
	case !own && !required:
		return kubeproxy.Silence, fmt.Sprintf("it answers %d, but not as kube-proxy does", status)
	case status/100 == 2:
		return kubeproxy.Well, ""
	case own && said.NodeEligible != nil && !*said.NodeEligible:
		// It says so of a node that is to be deleted, which leaves in its own way, whether
		// or not its rules are up to date.
		return kubeproxy.Well, ""
	}
	return kubeproxy.Ill, fmt.Sprintf("it answers %d: its rules are not up to date", status)
}
