package measure

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/barelb/barelb/lab/measure/backend"
)

// FlowsOpts are the options of flows. Zero values mean the defaults.
type FlowsOpts struct {
	Target      netip.AddrPort
	Proto       string        // "tcp" (default): HTTP GET Path, a connection each; or "udp": one datagram each
	Count       int           // default 300
	Concurrency int           // flows under way at a time; default 20
	Interval    time.Duration // between the starts of two flows; default: none
	Timeout     time.Duration // for each flow as a whole; default 5 s
	Path        string        // default "/hostname"
	// Seed chooses the source ports, all different; 0 means a random one. The
	// report names it, so that a run can be repeated.
	Seed uint64
}

func (o *FlowsOpts) setDefaults() {
	setDefault(&o.Proto, "tcp")
	setDefault(&o.Count, 300)
	setDefault(&o.Concurrency, 20)
	setDefault(&o.Timeout, 5*time.Second)
	setDefault(&o.Path, "/hostname")
}

func (o *FlowsOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.Target, "target", o.Target, "address:port of the Service")
	fs.StringVar(&o.Proto, "proto", o.Proto, "tcp or udp")
	fs.IntVar(&o.Count, "count", o.Count, "flows to open")
	fs.IntVar(&o.Concurrency, "concurrency", o.Concurrency, "flows under way at a time")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between the starts of two flows; 0: as soon as may be")
	fs.DurationVar(&o.Timeout, "timeout", o.Timeout, "longest time that a flow may take")
	fs.StringVar(&o.Path, "path", o.Path, "path of the HTTP request")
	fs.Uint64Var(&o.Seed, "seed", o.Seed, "chooses the source ports; 0: at random")
}

// FlowsReport tells who served the flows. Percentages are of all flows that were
// tried, so that they do not add up to 100 if some failed.
type FlowsReport struct {
	Target   netip.AddrPort `json:"target"`
	Proto    string         `json:"proto"`
	Seed     uint64         `json:"seed"`
	Flows    int            `json:"flows"`
	Served   int            `json:"served"`
	Failed   int            `json:"failed"`
	Failures []Share        `json:"failures,omitempty"` // by reason
	Lost     []LostFlow     `json:"lost,omitempty"`     // those that failed, in the order in which they ended
	Nodes    []Share        `json:"nodes"`              // of the pods that answered; not where flows came in
	Pods     []Share        `json:"pods"`
	Took     Quantiles      `json:"took"` // from first packet to whole answer, served flows
}

// LostFlow is a flow that failed.
type LostFlow struct {
	Began  time.Time `json:"began"`
	Took   Millis    `json:"took_ms"`
	Reason string    `json:"reason"`
}

// flow is the outcome of one flow.
type flow struct {
	answer string
	began  time.Time
	took   time.Duration
	err    error
}

// flowsCommand is `flows`.
func flowsCommand(ctx context.Context, args []string, std Stdio) error {
	var opts FlowsOpts
	if err := parse("flows", &opts, args, std.Err); err != nil {
		return err
	}
	known := opts.Proto == "tcp" || opts.Proto == "udp"
	if !opts.Target.IsValid() || !known || opts.Count < 1 || opts.Concurrency < 1 {
		return errors.New("parse arguments of flows: --target, --proto tcp or udp, a positive --count and --concurrency are needed")
	}
	for opts.Seed == 0 {
		opts.Seed = rand.Uint64()
	}
	raisePriority()
	report := summariseFlows(opts, openFlows(ctx, opts))
	if err := json.NewEncoder(std.Out).Encode(report); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

// openFlows returns the outcome of every flow that was tried: fewer than asked
// for only if ctx ended.
func openFlows(ctx context.Context, opts FlowsOpts) []flow {
	ports := newSourcePorts(opts.Seed)
	results := make(chan flow)
	slots := make(chan struct{}, opts.Concurrency)
	go func() {
		defer close(results)
		var wg sync.WaitGroup
		defer wg.Wait()
		tick := time.NewTicker(max(opts.Interval, 1))
		defer tick.Stop()
		for range opts.Count {
			if opts.Interval > 0 {
				<-tick.C
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				defer func() { <-slots }()
				results <- openFlow(ctx, opts, ports)
			})
		}
	}()
	var flows []flow
	for f := range results {
		flows = append(flows, f)
	}
	return flows
}

func openFlow(ctx context.Context, opts FlowsOpts, ports *sourcePorts) flow {
	ctx, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()
	start := time.Now()
	c, err := dialFrom(ctx, opts.Proto, opts.Target, ports)
	if err != nil {
		return flow{began: start, took: time.Since(start), err: err}
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	var answer string
	if opts.Proto == "udp" {
		answer, err = askDatagram(c)
	} else {
		answer, err = askHTTP(ctx, c, opts)
	}
	return flow{answer: answer, began: start, took: time.Since(start), err: err}
}

func askDatagram(c net.Conn) (string, error) {
	if _, err := io.WriteString(c, "who"); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func askHTTP(ctx context.Context, c net.Conn, opts FlowsOpts) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+opts.Target.String()+opts.Path, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	if err := req.Write(c); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("http status %d", resp.StatusCode)
	}
	return string(body), nil
}

func summariseFlows(opts FlowsOpts, flows []flow) FlowsReport {
	r := FlowsReport{Target: opts.Target, Proto: opts.Proto, Seed: opts.Seed, Flows: len(flows)}
	nodes, pods, failures := make(map[string]int), make(map[string]int), make(map[string]int)
	var took []time.Duration
	for _, f := range flows {
		if f.err != nil {
			r.Failed++
			failures[flowReason(f.err)]++
			r.Lost = append(r.Lost, LostFlow{Began: f.began, Took: ToMillis(f.took), Reason: flowReason(f.err)})
			continue
		}
		r.Served++
		took = append(took, f.took)
		id, ok := backend.ParseIdentity(f.answer)
		if !ok {
			id = backend.Identity{Pod: "unidentified", Node: "unidentified"}
		}
		nodes[id.Node]++
		pods[id.Pod]++
	}
	r.Nodes, r.Pods, r.Failures = Spread(nodes, r.Flows), Spread(pods, r.Flows), Spread(failures, r.Flows)
	r.Took = QuantilesOf(took)
	return r
}

func flowReason(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "closed"
	}
	return reason(err)
}

// sourcePorts deals out the ports 1024 to 60999 in a random order, each once.
type sourcePorts struct {
	mu   sync.Mutex
	left []int
}

func newSourcePorts(seed uint64) *sourcePorts {
	const lowest, highest = 1024, 60999
	left := rand.New(rand.NewPCG(seed, 0)).Perm(highest - lowest + 1)
	for i := range left {
		left[i] += lowest
	}
	return &sourcePorts{left: left}
}

func (p *sourcePorts) next() (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) == 0 {
		return 0, false
	}
	port := p.left[0]
	p.left = p.left[1:]
	return port, true
}

// dialFrom connects from the next source port that is free.
func dialFrom(ctx context.Context, network string, target netip.AddrPort, ports *sourcePorts) (net.Conn, error) {
	for {
		port, ok := ports.next()
		if !ok {
			return nil, errors.New("no source port left")
		}
		// No keepalives: nothing but the flow itself shall be on the wire.
		d := net.Dialer{KeepAlive: -1}
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{Port: port}
		} else {
			d.LocalAddr = &net.TCPAddr{Port: port}
		}
		c, err := d.DialContext(ctx, network, target.String())
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		return c, err
	}
}
