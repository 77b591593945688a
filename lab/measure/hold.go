package measure

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/barelb/barelb/lab/measure/backend"
)

// HoldOpts are the options of tcp-hold. Zero values mean the defaults.
type HoldOpts struct {
	Target   netip.AddrPort // of the Service: a line echo (backend --tcp)
	Conns    int            // default 50
	Interval time.Duration  // between a connection's requests; default 100 ms
	// Timeout is how long a request may wait before its connection counts as
	// broken: TCP sends again meanwhile. Default 10 s.
	Timeout  time.Duration
	Duration time.Duration // default: until told to stop
}

func (o *HoldOpts) setDefaults() {
	setDefault(&o.Conns, 50)
	setDefault(&o.Interval, 100*time.Millisecond)
	setDefault(&o.Timeout, 10*time.Second)
}

func (o *HoldOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.Target, "target", o.Target, "address:port of the Service (TCP line echo)")
	fs.IntVar(&o.Conns, "conns", o.Conns, "connections to hold open")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between a connection's requests")
	fs.DurationVar(&o.Timeout, "timeout", o.Timeout, "a connection whose request waits longer is broken")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// HoldStatus is what tcp-hold knows while it runs.
type HoldStatus struct {
	Open    int `json:"open"`    // connections that live
	Waiting int `json:"waiting"` // of them: a request has waited for more than an interval
	Broken  int `json:"broken"`
}

// holdCommand is `tcp-hold`.
func holdCommand(ctx context.Context, args []string, std Stdio) error {
	var opts HoldOpts
	if err := parse("tcp-hold", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Target.IsValid() || opts.Conns < 1 || opts.Interval <= 0 {
		return errors.New("parse arguments of tcp-hold: --target, a positive --conns and --interval are needed")
	}
	raisePriority()
	log := newHoldLog(opts)
	out := newEmitter(std.Out)
	s := session{out: out, mark: log.mark, status: func() any { return log.status() }}
	ctx, cancel := s.follow(ctx, std.In, opts.Duration)
	defer cancel()
	conns := openHeld(ctx, opts, log)
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { c.hold(ctx, opts, log) })
	}
	wg.Wait()
	<-ctx.Done() // where all have broken, it is still to be told so
	return out.emit(event{Event: eventReport, Data: AnalyseHold(log.trace)})
}

// openHeld opens the connections, a few at a time, and returns those of which
// the first request was answered: the others count as not opened.
func openHeld(ctx context.Context, opts HoldOpts, log *holdLog) []*heldConn {
	ports := newSourcePorts(rand.Uint64())
	conns := make([]*heldConn, opts.Conns)
	slots := make(chan struct{}, 10)
	var wg sync.WaitGroup
	for i := range conns {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, opts.Timeout)
			defer cancel()
			c, err := dialFrom(ctx, "tcp", opts.Target, ports)
			if err != nil {
				log.notOpened(err)
				return
			}
			h := newHeldConn(i, c)
			go h.read()
			if err := h.first(ctx, log); err != nil {
				h.release()
				log.notOpened(err)
				return
			}
			conns[i] = h
		})
	}
	wg.Wait()
	opened := conns[:0]
	for _, c := range conns {
		if c != nil {
			opened = append(opened, c)
		}
	}
	return opened
}

// heldConn is one connection. Its reader hands over each line, and at last the
// error that ended it, so that a reset is noticed at once and not with the next request.
type heldConn struct {
	net.Conn
	index  int
	lines  chan string
	failed chan error    // holds one
	gone   chan struct{} // closed when nobody listens any more
}

func newHeldConn(index int, c net.Conn) *heldConn {
	return &heldConn{
		Conn: c, index: index,
		lines: make(chan string), failed: make(chan error, 1), gone: make(chan struct{}),
	}
}

// release closes the connection and ends its reader.
func (h *heldConn) release() {
	close(h.gone)
	_ = h.Close()
}

func (h *heldConn) read() {
	in := bufio.NewScanner(h.Conn)
	for in.Scan() {
		select {
		case h.lines <- in.Text():
		case <-h.gone:
			return
		}
	}
	err := in.Err()
	if err == nil {
		err = io.EOF
	}
	h.failed <- err
}

// errNoAnswer ends a connection whose request waited for longer than the timeout.
var errNoAnswer = fmt.Errorf("wait for answer: %w", os.ErrDeadlineExceeded)

func (h *heldConn) request(seq int) error {
	// A request is far smaller than the send buffer: the write cannot block.
	_, err := io.WriteString(h.Conn, strconv.Itoa(seq)+"\n")
	return err
}

// first makes the first request and records who serves the connection.
func (h *heldConn) first(ctx context.Context, log *holdLog) error {
	if err := h.request(0); err != nil {
		return err
	}
	select {
	case line := <-h.lines:
		id, ok := backend.ParseIdentity(line)
		if !ok {
			id.Node = "unidentified"
		}
		log.opened(h.index, id.Node)
		return nil
	case err := <-h.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hold makes a request each interval, the next not before the last is answered,
// until ctx ends or the connection breaks. A request that waits when ctx ends is
// waited for: what it comes to is part of the measurement.
func (h *heldConn) hold(ctx context.Context, opts HoldOpts, log *holdLog) {
	defer h.release()
	// The connections take turns within the interval.
	first := opts.Interval * time.Duration(h.index) / time.Duration(opts.Conns)
	next := time.NewTimer(first)
	defer next.Stop()
	expiry := time.NewTimer(opts.Timeout)
	expiry.Stop()
	defer expiry.Stop()
	seq, waiting := 0, false
	var asked time.Time
	done := ctx.Done()
	for {
		select {
		case <-done:
			if !waiting {
				return
			}
			done = nil
		case <-next.C:
			seq++
			asked, waiting = time.Now(), true
			log.asked(h.index, asked)
			if err := h.request(seq); err != nil {
				log.broke(h.index, err)
				return
			}
			expiry.Reset(opts.Timeout)
		case line := <-h.lines:
			if word, _, _ := strings.Cut(line, " "); word != strconv.Itoa(seq) || !waiting {
				log.broke(h.index, errors.New("answer to another request"))
				return
			}
			waiting = false
			expiry.Stop()
			log.answered(h.index, asked)
			if done == nil {
				return
			}
			next.Reset(max(0, opts.Interval-time.Since(asked)))
		case err := <-h.failed:
			log.broke(h.index, err)
			return
		case <-expiry.C:
			log.broke(h.index, errNoAnswer)
			return
		}
	}
}

// holdLog writes down what happens to the connections; mu guards the rest.
type holdLog struct {
	interval time.Duration

	mu      sync.Mutex
	trace   HoldTrace
	waiting map[int]time.Time // by connection: when its unanswered request was made
}

func newHoldLog(opts HoldOpts) *holdLog {
	return &holdLog{
		interval: opts.Interval, waiting: make(map[int]time.Time),
		trace: HoldTrace{
			Target: opts.Target, Wanted: opts.Conns, Started: time.Now(),
			NotOpened: make(map[string]int), Nodes: make(map[int]string),
		},
	}
}

func (l *holdLog) mark(name string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trace.Marks = append(l.trace.Marks, Mark{Name: name, At: at.Sub(l.trace.Started)})
}

func (l *holdLog) notOpened(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trace.NotOpened[flowReason(err)]++
}

func (l *holdLog) opened(conn int, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trace.Nodes[conn] = node
}

func (l *holdLog) asked(conn int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[conn] = at
}

func (l *holdLog) answered(conn int, asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, conn)
	from := asked.Sub(l.trace.Started)
	l.trace.Waits = append(l.trace.Waits, Wait{Asked: from, Took: time.Since(l.trace.Started) - from})
}

func (l *holdLog) broke(conn int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, conn)
	l.trace.Breaks = append(l.trace.Breaks, ConnBreak{Conn: conn, At: time.Since(l.trace.Started), Reason: flowReason(err)})
}

func (l *holdLog) status() HoldStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := HoldStatus{Open: len(l.trace.Nodes) - len(l.trace.Breaks), Broken: len(l.trace.Breaks)}
	for _, asked := range l.waiting {
		if time.Since(asked) > l.interval {
			s.Waiting++
		}
	}
	return s
}
