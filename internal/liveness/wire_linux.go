package liveness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/links"
	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/packet"
)

const (
	// drainAtMost bounds the frames that are read from a socket at a time.
	drainAtMost = 4096
	// forgetProbe is how long an answer to a probe may take.
	forgetProbe = 5 * time.Second
)

// wire is this node's links: packet sockets and what the frames on them mean. A nil wire
// hears nothing and sends nothing. All but close belongs to the goroutine of the loop.
type wire struct {
	*Runner
	socks   []*sock
	closing sync.Mutex // guards socks against close
	closed  bool
	ready   chan chan struct{}
	failed  chan error
	ctx     func() context.Context // of listen
	buf     []byte

	links    map[int]links.Link // by index: those that are told of, and up
	own      map[links.MAC]bool // of all our links
	speakers map[links.MAC]string
	asked    map[station]asked
	heard    map[hearing]heard
	drained  time.Time
}

// station is an address on a link of ours.
type station struct {
	link int
	addr netip.Addr
}

// asked is what a station was asked as, last.
type asked struct {
	probe   core.Probe
	gateway bool
	at      time.Time
}

// hearing is what is told once for each interval.
type hearing struct {
	link int
	mac  links.MAC
	node string
}

// heard is when something was heard last, and whether by a station in this node.
type heard struct {
	at    time.Time
	local bool
}

// sock is a socket and what reads its frames.
type sock struct {
	name string
	conn *packet.Conn
	read func(w *wire, f frame, tell func(core.Event))
}

// frame is a received frame.
type frame struct {
	bytes []byte
	link  links.Link
	at    time.Time
}

// openWire opens the sockets, if links are to be looked at.
func openWire(r *Runner) (*wire, error) {
	if r.cfg.Links == nil || r.cfg.Probe == core.Off {
		return nil, nil //nolint:nilnil // a nil wire is one that does nothing
	}
	w := &wire{
		Runner: r, ready: make(chan chan struct{}), failed: make(chan error, 1), buf: make([]byte, packet.MaxFrame),
		asked: map[station]asked{}, heard: map[hearing]heard{}, drained: time.Now(),
	}
	if err := errors.Join(w.open("arp", unix.ETH_P_ARP, packet.AllOf(), (*wire).readARP),
		w.open("ndp", unix.ETH_P_IPV6, icmp6(135, 136), (*wire).readNDP)); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// icmp6 accepts ICMPv6 messages of a range of types. It sees every IPv6 packet that the
// host receives, so what tells most apart comes first.
func icmp6(least, most uint32) []bpf.Instruction {
	return packet.AllOf(packet.At(20, 1, unix.IPPROTO_ICMPV6), packet.Match{Load: bpf.LoadAbsolute{Off: 54, Size: 1}, Min: least, Max: most})
}

// icmp4 accepts ICMP echo replies in packets without IP options.
func icmp4() []bpf.Instruction {
	return packet.AllOf(packet.At(23, 1, unix.IPPROTO_ICMP), packet.At(14, 1, 0x45), packet.At(34, 1, 0))
}

func (w *wire) open(name string, proto uint16, filter []bpf.Instruction, read func(*wire, frame, func(core.Event))) error {
	conn, err := packet.OpenStamped(proto, filter)
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	s := &sock{name, conn, read}
	w.closing.Lock()
	defer w.closing.Unlock()
	if w.closed {
		return errors.Join(errors.New("watch nodes: closing"), conn.Close())
	}
	w.socks = append(w.socks, s)
	if w.ctx != nil {
		w.tasks.Go(func() { w.await(w.ctx(), s) })
	}
	return nil
}

func (w *wire) close() {
	if w == nil {
		return
	}
	w.closing.Lock()
	defer w.closing.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	for _, s := range w.socks {
		_ = s.conn.Close()
	}
}

// listen returns what tells that frames wait, which ask for a value once they are read,
// and what tells that a socket has failed.
func (w *wire) listen(ctx context.Context) (<-chan chan struct{}, <-chan error) {
	if w == nil {
		return nil, nil
	}
	w.ctx = func() context.Context { return ctx }
	for _, s := range w.socks {
		w.tasks.Go(func() { w.await(ctx, s) })
	}
	return w.ready, w.failed
}

// await tells the loop each time that frames wait. It is the loop that reads them.
func (w *wire) await(ctx context.Context, s *sock) {
	read := make(chan struct{}, 1)
	for {
		if err := s.conn.WaitReadable(); err != nil && ctx.Err() == nil {
			select {
			case w.failed <- fmt.Errorf("receive frame: %w", err):
			default:
			}
			return
		}
		select {
		case w.ready <- read:
		case <-ctx.Done():
			return
		}
		select {
		case <-read:
		case <-ctx.Done():
			return
		}
	}
}

// drain tells of the frames that wait.
func (w *wire) drain(tell func(core.Event)) {
	if w == nil {
		return
	}
	for _, s := range w.socks {
		w.drainOne(s, tell)
	}
	now := time.Now()
	w.drained = now
	if len(w.heard) > 1<<12 { // nobody has that many neighbours at a time
		clear(w.heard)
	}
}

func (w *wire) drainOne(s *sock, tell func(core.Event)) {
	for range drainAtMost {
		f, err := s.conn.Poll(w.buf)
		switch {
		case errors.Is(err, packet.ErrEmpty):
			return
		case err != nil:
			if !packet.Transient(err) {
				w.cfg.Log.Debug("receive interrupted", "socket", s.name, "err", err)
				return
			}
			continue
		}
		link, ok := w.links[f.Link]
		if !ok {
			continue
		}
		s.read(w, frame{w.buf[:f.Len], link, w.when(f.At)}, tell)
	}
}

// when returns the time of a frame's stamp, by the wall clock, on our monotonic clock. A
// frame came after the sockets were drained last, whatever was done to the wall clock.
func (w *wire) when(stamp time.Time) time.Time {
	now := time.Now()
	if stamp.IsZero() {
		return now
	}
	age := max(0, min(now.Round(0).Sub(stamp), now.Sub(w.drained)))
	return now.Add(-age)
}

// setLinks takes over this node's links, and which of them are told of.
func (w *wire) setLinks(snap links.Snapshot, told []core.Link) {
	if w == nil {
		return
	}
	w.links, w.own = map[int]links.Link{}, map[links.MAC]bool{}
	for _, l := range snap {
		if l.Ethernet {
			w.own[l.HardwareAddr] = true
		}
		if l.Up && slices.ContainsFunc(told, func(t core.Link) bool { return t.Name == l.Name }) {
			w.links[l.Index] = l
		}
	}
}

// setFacts takes over whose MACs are whose.
func (w *wire) setFacts(facts map[string]*core.Facts) {
	if w == nil {
		return
	}
	w.speakers = map[links.MAC]string{}
	for name, f := range facts {
		if name == w.cfg.NodeName {
			continue
		}
		for _, l := range f.Links {
			w.speakers[l.MAC] = name
		}
	}
	// Here, for it is rare: what was asked long ago is not answered any more.
	maps.DeleteFunc(w.asked, func(_ station, a asked) bool { return time.Since(a.at) > forgetProbe })
}

// linkNamed returns the link of that name, if it is up.
func (w *wire) linkNamed(name string) (links.Link, bool) {
	for _, l := range w.links {
		if l.Name == name {
			return l, true
		}
	}
	return links.Link{}, false
}

// sourceFor returns an own address from which to ask addr on a link: in its prefix if
// there is one.
func sourceFor(l links.Link, addr netip.Addr) netip.Addr {
	var other netip.Addr
	for _, p := range l.Addrs {
		switch {
		case p.Addr().BitLen() != addr.BitLen():
		case p.Contains(addr) && p.Addr() != addr:
			return p.Addr()
		case !other.IsValid() && addr.Is4():
			other = p.Addr()
		}
	}
	if addr.Is6() {
		return l.LinkLocal6
	}
	return other
}

// segmentOf returns the prefix in which an own address of the link is addr.
func segmentOf(l links.Link, addr netip.Addr) (core.Segment, bool) {
	for _, p := range l.Addrs {
		if p.Addr() == addr && p.Addr().IsGlobalUnicast() {
			return p.Masked(), true
		}
	}
	return core.Segment{}, false
}
