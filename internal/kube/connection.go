package kube

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

const (
	// dialTime bounds an attempt to connect.
	dialTime = 5 * time.Second
	// answerTime is how long the API server may take for an answer that costs it nothing,
	// until the connection is held for stuck.
	answerTime = 500 * time.Millisecond
	// renewAgain is how old a connection is at least when it is given up: the network gets
	// well by and by, and each time that is said.
	renewAgain = 5 * time.Second
	// firstPause and longestPause bound the pauses of a watch that cannot reach the API
	// server, but for their jitter.
	firstPause, longestPause = time.Second, 20 * time.Second
	// tryTime bounds how long a watch tries until those who want it get an error.
	tryTime = 5 * time.Minute
)

// connection is what all watches and writes go by: one, by HTTP/2, that can be given up.
//
// Whoever cannot reach the other tries again after ever longer pauses: the API server's
// TCP sends what was lost again (RFC 6298, section 5.5), ours its SYN, a watch its request.
// When the network is well again, the next time may be as far away as the failure was long,
// and until then a node goes by what was true before. Retry ends all those pauses.
type connection struct {
	log    *slog.Logger
	told   *watchLog
	http   *http.Client
	dialer *connrotation.Dialer
	probe  string // a URL whose answer costs the API server nothing
	checks chan struct{}

	mu     sync.Mutex
	period context.Context //nolint:containedctx // ends with the next retry
	end    context.CancelFunc
}

func newConnection(cfg *rest.Config, log *slog.Logger) (*connection, error) {
	c := &connection{log: log, told: newWatchLog(log), checks: make(chan struct{}, 1)}
	c.period, c.end = context.WithCancel(context.Background())
	c.dialer = connrotation.NewDialer(c.dial)
	cfg = rest.CopyConfig(cfg)
	cfg.Dial = c.dialer.DialContext
	var err error
	if c.http, err = rest.HTTPClientFor(cfg); err != nil {
		return nil, fmt.Errorf("make HTTP client: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	c.probe = base.JoinPath("version").String()
	return c, nil
}

// untilRetry is a context that the next retry ends.
func (c *connection) untilRetry() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.period
}

func (c *connection) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	defer context.AfterFunc(c.untilRetry(), cancel)()
	return (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, network, addr) //nolint:wrapcheck // it names the address
}

// retry ends all pauses, and has run find out whether the connection is stuck.
func (c *connection) retry() {
	c.mu.Lock()
	c.end()
	c.period, c.end = context.WithCancel(context.Background())
	c.mu.Unlock()
	select {
	case c.checks <- struct{}{}:
	default: // one is due already
	}
}

// run looks after the connection until ctx ends.
func (c *connection) run(ctx context.Context) {
	var renewed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.checks:
		}
		if err := c.ask(ctx); err != nil && ctx.Err() == nil && time.Since(renewed) >= renewAgain {
			renewed = time.Now()
			c.log.InfoContext(ctx, "connect to the API server anew: it does not answer since the network failed", "err", err)
			c.dialer.CloseAll()
		}
	}
}

// ask returns an error if the API server does not answer soon. An answer that refuses is
// an answer.
func (c *connection) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.probe, http.NoBody)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err //nolint:wrapcheck // it names the request
	}
	return resp.Body.Close() //nolint:wrapcheck // of nothing that anybody reads
}

// forWatches returns a client whose requests, which only read, are sent again while the
// API server cannot be reached. The pauses of those who would do so else cannot be ended.
func (c *connection) forWatches() *http.Client {
	return &http.Client{Transport: patient{c: c, next: c.http.Transport}}
}

// patient is the transport of forWatches.
type patient struct {
	c    *connection
	next http.RoundTripper
}

// newPauses returns the pauses between tries, each twice as long as the one before and up to
// half as long again.
func newPauses() wait.Backoff {
	return wait.Backoff{Duration: firstPause, Factor: 2, Jitter: 0.5, Cap: longestPause, Steps: math.MaxInt}
}

// RoundTrip sends a request until there is an answer.
func (p patient) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	late := time.NewTimer(tryTime)
	defer late.Stop()
	pauses := newPauses()
	for {
		retry := p.c.untilRetry()
		resp, err := p.next.RoundTrip(req)
		if err == nil || ctx.Err() != nil {
			return resp, err //nolint:wrapcheck // this only passes it on
		}
		p.c.told.tell(ctx, nil, err)
		over := time.NewTimer(pauses.Step())
		select {
		case <-over.C:
		case <-retry.Done():
			pauses = newPauses()
		case <-late.C:
			return nil, err //nolint:wrapcheck // this only passes it on
		case <-ctx.Done():
			return nil, err //nolint:wrapcheck // this only passes it on
		}
		over.Stop()
	}
}

// Retry has what cannot reach the API server try again now, and what is watched and
// written go by a new connection if there is no answer by the one that there is. Call it
// when the network carries again what it did not. It does not block.
func (c *Cluster) Retry() { c.conn.retry() }
