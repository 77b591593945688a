package measure

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/barelb/barelb/lab/measure/backend"
)

// ProbeOpts are the options of the probe. Zero values mean the defaults.
type ProbeOpts struct {
	Target   netip.AddrPort // address and UDP port of the Service
	Interval time.Duration  // default 5 ms
	Ports    int            // source ports in turn, so that conntrack hides no move; default 400
	Timeout  time.Duration  // default 1 s
	Duration time.Duration  // default: until told to stop
}

func (o *ProbeOpts) setDefaults() {
	setDefault(&o.Interval, 5*time.Millisecond)
	setDefault(&o.Ports, 400)
	setDefault(&o.Timeout, time.Second)
}

// setDefault fills a field that was left at its zero value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o *ProbeOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.Target, "target", o.Target, "address:port of the Service (UDP)")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between two probes")
	fs.IntVar(&o.Ports, "ports", o.Ports, "source ports used in turn")
	fs.DurationVar(&o.Timeout, "timeout", o.Timeout, "an answer after more than this is none")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// ProbeStatus is what the probe knows while it runs.
type ProbeStatus struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
	// Pending probes are those sent after the newest answered one: on their
	// way, or lost.
	Pending int `json:"pending"`
	// Streak is the number of consecutive answered probes up to the newest
	// answered one, of those sent since the last mark.
	Streak int `json:"streak"`
}

// probeCommand is `probe`.
func probeCommand(ctx context.Context, args []string, std Stdio) error {
	var opts ProbeOpts
	if err := parse("probe", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Target.IsValid() || opts.Interval <= 0 || opts.Ports < 1 {
		return errors.New("parse arguments of probe: --target, a positive --interval and --ports are needed")
	}
	raisePriority()
	socks, err := udpSockets(opts.Target, opts.Ports)
	if err != nil {
		return err
	}
	rec := newRecorder(opts)
	var readers sync.WaitGroup
	for _, c := range socks {
		readers.Go(func() { rec.receive(c) })
	}
	out := newEmitter(std.Out)
	s := session{out: out, mark: rec.mark, status: func() any { return rec.status() }}
	ctx, cancel := s.follow(ctx, std.In, opts.Duration)
	defer cancel()
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	rec.send(ctx, socks)
	rec.settle()
	for _, c := range socks {
		_ = c.Close()
	}
	readers.Wait()
	return out.emit(event{Event: eventReport, Data: AnalyseProbe(rec.trace)})
}

// udpSockets opens n sockets of the target's family, each with a port of its
// own. They are not connected: an ICMP error would make the kernel refuse the
// next probe, which then would not have been sent.
func udpSockets(target netip.AddrPort, n int) ([]*net.UDPConn, error) {
	network := "udp4"
	if target.Addr().Is6() {
		network = "udp6"
	}
	socks := make([]*net.UDPConn, 0, n)
	for range n {
		c, err := net.ListenUDP(network, nil)
		if err != nil {
			for _, c := range socks {
				_ = c.Close()
			}
			return nil, fmt.Errorf("open socket %d of %d: %w", len(socks)+1, n, err)
		}
		socks = append(socks, c)
	}
	return socks, nil
}

// A probe's payload: magic, the run's number (so that an answer to an earlier
// run is not taken for one to this), the sequence number. The identity of the
// backend follows in the answer.
const (
	probeMagic = "BLp1"
	probeLen   = len(probeMagic) + 8 + 8
)

// recorder writes down what a probe sees; mu guards the rest.
type recorder struct {
	run uint64

	mu       sync.Mutex
	trace    Trace
	answered []bool            // by sequence number, in time
	total    int               // of answered
	newest   int               // the newest answered, -1 at first
	marked   int               // the first sent after the last mark
	names    map[string]string // one copy of each backend's name
}

func newRecorder(opts ProbeOpts) *recorder {
	var run [8]byte
	_, _ = rand.Read(run[:]) // never fails
	return &recorder{
		run: binary.BigEndian.Uint64(run[:]), newest: -1, names: make(map[string]string),
		trace: Trace{
			Target: opts.Target, Interval: opts.Interval, Ports: opts.Ports, Timeout: opts.Timeout, Started: time.Now(),
		},
	}
}

// send keeps the schedule until ctx ends. A slot whose time has passed is
// skipped and counted: probes sent in a burst would tell nothing new.
func (r *recorder) send(ctx context.Context, socks []*net.UDPConn) {
	payload := make([]byte, probeLen)
	copy(payload, probeMagic)
	binary.BigEndian.PutUint64(payload[len(probeMagic):], r.run)
	interval := r.trace.Interval
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for seq := 0; ; seq++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		binary.BigEndian.PutUint64(payload[len(probeMagic)+8:], uint64(seq))
		r.sent()
		if _, err := socks[seq%len(socks)].WriteToUDPAddrPort(payload, r.trace.Target); err != nil {
			r.refused(seq, err)
		}
		next = next.Add(interval)
		if missed := int(time.Since(next) / interval); missed > 0 {
			r.skipped(missed)
			next = next.Add(time.Duration(missed) * interval)
		}
		timer.Reset(time.Until(next))
	}
}

// receive records what arrives on c until c is closed.
func (r *recorder) receive(c *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			r.arrived(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
	}
}

func (r *recorder) sent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace.Sends = append(r.trace.Sends, Send{At: time.Since(r.trace.Started)})
	r.answered = append(r.answered, false)
}

func (r *recorder) refused(seq int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace.Sends[seq].Err = reason(err)
}

func (r *recorder) skipped(slots int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace.Skipped += slots
}

func (r *recorder) mark(name string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace.Marks = append(r.trace.Marks, Mark{Name: name, At: at.Sub(r.trace.Started)})
	r.marked = len(r.answered)
}

// arrived records a datagram. Only an answer from the very address that was
// probed counts: a client's socket would not take another.
func (r *recorder) arrived(b []byte, from netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Since(r.trace.Started)
	if from != r.trace.Target || len(b) < probeLen || !bytes.HasPrefix(b, []byte(probeMagic)) ||
		binary.BigEndian.Uint64(b[len(probeMagic):]) != r.run {
		r.trace.Foreign++
		return
	}
	seq := binary.BigEndian.Uint64(b[len(probeMagic)+8:])
	name := r.name(b[probeLen:])
	r.trace.Answers = append(r.trace.Answers, Answer{Seq: seq, At: at, Backend: name})
	if seq >= uint64(len(r.answered)) || r.answered[seq] || at-r.trace.Sends[seq].At > r.trace.Timeout {
		return
	}
	r.answered[seq] = true
	r.total++
	r.newest = max(r.newest, int(seq))
}

// name is what the answer's tail says of the backend: node and pod.
func (r *recorder) name(tail []byte) string {
	if n, ok := r.names[string(tail)]; ok {
		return n
	}
	n := "unidentified"
	if id, ok := backend.ParseIdentity(string(tail)); ok {
		n = id.Node + "/" + id.Pod
	}
	r.names[string(tail)] = n
	return n
}

func (r *recorder) status() ProbeStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := ProbeStatus{Sent: len(r.answered), Answered: r.total, Pending: len(r.answered) - 1 - r.newest}
	for i := r.newest; i >= r.marked && r.answered[i]; i-- {
		s.Streak++
	}
	return s
}

// settle waits for the answers that may still come: at most the timeout after
// the last send, and no longer than until the probes of that time are answered.
func (r *recorder) settle() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if !r.awaiting() {
			return
		}
	}
}

// awaiting reports whether an unanswered probe may yet be answered in time.
func (r *recorder) awaiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.trace.Started)
	for i := len(r.answered) - 1; i >= 0 && now-r.trace.Sends[i].At <= r.trace.Timeout; i-- {
		if !r.answered[i] && r.trace.Sends[i].Err == "" {
			return true
		}
	}
	return false
}

// reason is a short word for an error of the network, the same in every report.
func reason(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "host unreachable"
	case errors.Is(err, syscall.ENETUNREACH):
		return "network unreachable"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "not permitted"
	case errors.Is(err, context.Canceled):
		return "stopped"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	// Without addresses and ports, so that equal reasons read the same.
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}
