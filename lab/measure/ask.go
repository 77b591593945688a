package measure

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// AskOpts are the options of ask. Zero values mean the defaults.
type AskOpts struct {
	First    netip.Addr    // the first address to ask for
	Count    int           // of addresses, from First on; default 1
	Link     string        // default "eth0"
	Source   netip.Addr    // who asks; default: an address of the link
	Interval time.Duration // between two requests, whichever address they are for; default 5 ms
	// Pending asks, from the first mark on, only for the addresses for which nobody else
	// has answered since the last mark than before it: many addresses can be followed so.
	Pending  bool
	Duration time.Duration // default: until told to stop
}

func (o *AskOpts) setDefaults() {
	setDefault(&o.Count, 1)
	setDefault(&o.Link, "eth0")
	setDefault(&o.Interval, 5*time.Millisecond)
}

func (o *AskOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.First, "addr", o.First, "the first address to ask for")
	fs.IntVar(&o.Count, "count", o.Count, "addresses to ask for, one after the other")
	fs.StringVar(&o.Link, "link", o.Link, "link to ask on")
	fs.TextVar(&o.Source, "source", o.Source, "address that asks; default: one of the link's")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between two requests")
	fs.BoolVar(&o.Pending, "pending", o.Pending, "after a mark, ask only for addresses that nobody has taken since")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// AskStatus is what ask knows while it runs.
type AskStatus struct {
	Requests int `json:"requests"`
	// Unanswered addresses are those for which nobody has answered since the last mark,
	// Untaken those for which nobody else has than before it.
	Unanswered int `json:"unanswered"`
	Untaken    int `json:"untaken"`
	// Waits is, some time after the last mark, one of the untaken, and Last what was
	// heard of it last.
	Waits netip.Addr `json:"waits,omitzero"`
	Last  []Heard    `json:"last,omitempty"`
}

// askCommand is `ask`.
func askCommand(ctx context.Context, args []string, std Stdio) error {
	var opts AskOpts
	if err := parse("ask", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.First.IsValid() || opts.Count < 1 || opts.Interval <= 0 {
		return errors.New("parse arguments of ask: --addr, a positive --count and --interval are needed")
	}
	raisePriority()
	a, err := newAsker(opts)
	if err != nil {
		return err
	}
	defer func() { _ = a.sock.Close() }()
	out := newEmitter(std.Out)
	s := session{out: out, mark: a.mark, status: func() any { return a.status() }}
	ctx, cancel := s.follow(ctx, std.In, opts.Duration)
	defer cancel()
	defer a.sock.interruptReads(ctx)()
	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() { readErr = a.listen(); cancel() })
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	sendErr := a.send(ctx)
	cancel()
	reader.Wait()
	if err := errors.Join(sendErr, readErr); err != nil {
		return err
	}
	return out.emit(event{Event: eventReport, Data: AnalyseAsk(a.trace)})
}

// asker asks for addresses in turn and writes down who answers; mu guards the rest.
type asker struct {
	opts   AskOpts
	self   net.HardwareAddr
	sock   packetSocket
	frames [][]byte
	index  map[netip.Addr]int

	mu      sync.Mutex
	trace   AskTrace
	current map[string]string // one copy of each MAC
	taken   takings
}

func newAsker(opts AskOpts) (*asker, error) {
	link, err := net.InterfaceByName(opts.Link)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", opts.Link, err)
	}
	if !opts.Source.IsValid() {
		if opts.Source, err = sourceFor(link, opts.First); err != nil {
			return nil, err
		}
	}
	ethertype, request := uint16(unix.ETH_P_ARP), arpRequest
	if opts.First.Is6() {
		ethertype, request = unix.ETH_P_IPV6, neighborSolicitation
	}
	a := &asker{opts: opts, self: link.HardwareAddr, index: map[netip.Addr]int{}, current: map[string]string{}}
	addr := opts.First
	for i := range opts.Count {
		if !addr.IsValid() || addr.Is4() != opts.First.Is4() {
			return nil, fmt.Errorf("ask for %d addresses from %s on: there are %d", opts.Count, opts.First, i)
		}
		a.index[addr] = i
		a.trace.Addrs = append(a.trace.Addrs, addr)
		a.frames = append(a.frames, request(link.HardwareAddr, opts.Source, addr))
		addr = addr.Next()
	}
	a.taken = newTakings(opts.Count)
	a.trace.Link, a.trace.Interval = opts.Link, opts.Interval
	if a.sock, err = openPacket(link, unix.SOCK_RAW, ethertype, nil); err != nil {
		return nil, err
	}
	if err := a.sock.stampReads(); err != nil {
		_ = a.sock.Close()
		return nil, err
	}
	a.trace.Started = time.Now()
	return a, nil
}

// send keeps the schedule until ctx ends. It wakes up once in a millisecond at most, and
// then sends what is due: requests of which the time is long past are left out.
func (a *asker) send(ctx context.Context) error {
	const burst = 64
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for turn := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		for range burst {
			if time.Now().Before(next) {
				break
			}
			next = next.Add(a.opts.Interval)
			i, ok := a.due(turn)
			if !ok {
				continue
			}
			turn = i + 1
			a.asked(i)
			if _, err := a.sock.Write(a.frames[i]); err != nil && !errors.Is(err, unix.ENETDOWN) {
				return fmt.Errorf("send request on %s: %w", a.opts.Link, err)
			}
		}
		if late := time.Since(next); late > a.opts.Interval {
			next = next.Add(late)
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// due returns the next address to ask for, beginning at number from.
func (a *asker) due(from int) (int, bool) {
	n := len(a.frames)
	if !a.opts.Pending {
		return from % n, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.trace.Marks) == 0 {
		return from % n, true
	}
	for k := range n {
		if i := (from + k) % n; !a.taken.isTaken(i) {
			return i, true
		}
	}
	return 0, false
}

func (a *asker) asked(i int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trace.Requests = append(a.trace.Requests, Request{Addr: i, At: time.Since(a.trace.Started)})
}

// listen returns when reads are interrupted.
func (a *asker) listen() error {
	parse := parseARP
	if a.opts.First.Is6() {
		parse = parseAdvertisement
	}
	buf := make([]byte, 2048)
	for {
		n, at, err := a.sock.readStamped(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if errors.Is(err, unix.ENETDOWN) {
			continue // the link went down; the socket stays bound to it
		}
		if err != nil {
			return fmt.Errorf("read from packet socket: %w", err)
		}
		if c, ok := parse(buf[:n], a.self); ok && !bytes.Equal(c.from, a.self) {
			a.heard(c, at)
		}
	}
}

func (a *asker) heard(c claim, at time.Time) {
	i, ok := a.index[c.addr]
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := Heard{Addr: i, At: at.Sub(a.trace.Started), MAC: a.name(c.mac), From: a.name(c.from), Asked: c.asked, Flags: c.flags}
	a.trace.Heard = append(a.trace.Heard, h)
	a.taken.note(h)
}

func (a *asker) name(mac net.HardwareAddr) string {
	s, ok := a.current[string(mac)]
	if !ok {
		s = mac.String()
		a.current[string(mac)] = s
	}
	return s
}

func (a *asker) mark(name string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trace.Marks = append(a.trace.Marks, Mark{Name: name, At: at.Sub(a.trace.Started)})
	a.taken.mark()
}

func (a *asker) status() AskStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := AskStatus{Requests: len(a.trace.Requests)}
	for i := range a.frames {
		if !a.taken.answered[i] {
			s.Unanswered++
		}
		if !a.taken.isTaken(i) {
			if s.Untaken++; s.Untaken == 1 && a.markedFor() > 5*time.Second {
				s.Waits, s.Last = a.trace.Addrs[i], a.lastOf(i, 8)
			}
		}
	}
	return s
}

// markedFor returns for how long the last mark holds.
func (a *asker) markedFor() time.Duration {
	if len(a.trace.Marks) == 0 {
		return 0
	}
	return time.Since(a.trace.Started) - a.trace.Marks[len(a.trace.Marks)-1].At
}

// lastOf returns the last n that were heard of an address.
func (a *asker) lastOf(i, n int) []Heard {
	var last []Heard
	for _, h := range slices.Backward(a.trace.Heard) {
		if h.Addr == i {
			last = append(last, h)
		}
		if len(last) == n {
			break
		}
	}
	slices.Reverse(last)
	return last
}

// overlap is for how long the former sender of an address may go on to answer beside the
// one who takes it. What it tells unasked, be it queued for longer, says nothing.
const overlap = time.Second

// takings follow, address by address, who answers: whether somebody has since the last
// mark, whether it is somebody else than before it, and whether with another MAC.
type takings struct {
	before, now []string // the sender of the last answer before the mark, and since
	macs, mac   []string // the same of the MAC that was claimed
	answered    []bool   // since the mark
	taken       []bool
	takenAt     []time.Duration // if taken
	moved       []bool
}

func newTakings(n int) takings {
	return takings{
		before: make([]string, n), now: make([]string, n), macs: make([]string, n), mac: make([]string, n),
		answered: make([]bool, n), taken: make([]bool, n), takenAt: make([]time.Duration, n), moved: make([]bool, n),
	}
}

// note returns whether the address is taken by this for the first time since the mark.
func (t *takings) note(h Heard) bool {
	i := h.Addr
	t.answered[i] = t.answered[i] || h.Asked
	t.moved[i] = t.moved[i] || t.macs[i] != "" && h.MAC != t.macs[i]
	first := !t.taken[i] && h.From != t.before[i]
	if first {
		t.taken[i], t.takenAt[i] = true, h.At
	}
	if t.taken[i] && h.From == t.before[i] && (!h.Asked || h.At-t.takenAt[i] < overlap) {
		return false // it goes on for a moment, and has lost the address nevertheless
	}
	t.now[i], t.mac[i] = h.From, h.MAC
	return first
}

func (t *takings) isTaken(i int) bool { return t.taken[i] }

func (t *takings) mark() {
	for i := range t.now {
		if t.now[i] != "" {
			t.before[i], t.macs[i] = t.now[i], t.mac[i]
		}
		t.answered[i], t.taken[i], t.moved[i] = false, false, false
	}
}
