package measure

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Responder answers ARP requests on one link for whatever addresses it is told to, and
// announces them. It is for hosts that play somebody else than the load balancer under
// test.
type Responder struct {
	link     *net.Interface
	sock     packetSocket
	mac      func(netip.Addr) (net.HardwareAddr, bool)
	answered atomic.Int64
}

// NewResponder returns a Responder on a link; mac says with what to answer for an
// address, and is called from Run alone. Close it.
func NewResponder(link string, mac func(netip.Addr) (net.HardwareAddr, bool)) (*Responder, error) {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", link, err)
	}
	sock, err := openPacket(l, unix.SOCK_RAW, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	return &Responder{link: l, sock: sock, mac: mac}, nil
}

// MAC is that of the link.
func (r *Responder) MAC() net.HardwareAddr { return slices.Clone(r.link.HardwareAddr) }

// Run answers until ctx ends.
func (r *Responder) Run(ctx context.Context) error {
	defer r.sock.interruptReads(ctx)()
	buf := make([]byte, 2048)
	for {
		n, err := r.sock.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, unix.ENETDOWN):
			continue // the link went down; the socket stays bound to it
		case err != nil:
			return fmt.Errorf("read from packet socket: %w", err)
		}
		asker, source, target, ok := parseARPRequest(buf[:n])
		if !ok {
			continue
		}
		if mac, ok := r.mac(target); ok {
			r.answered.Add(1)
			_, _ = r.sock.Write(arpReply(mac, target, asker, source)) // nobody to tell
		}
	}
}

// Announce tells everybody that an address is at the link's MAC, by a gratuitous ARP
// request and reply.
func (r *Responder) Announce(addr netip.Addr) error {
	for _, frame := range arpAnnouncements(r.link.HardwareAddr, addr) {
		if _, err := r.sock.Write(frame); err != nil {
			return fmt.Errorf("announce %s on %s: %w", addr, r.link.Name, err)
		}
	}
	return nil
}

// Answered is how many requests were answered.
func (r *Responder) Answered() int { return int(r.answered.Load()) }

// Close closes the socket.
func (r *Responder) Close() error { return r.sock.Close() }

// RespondOpts are the options of answer-arp.
type RespondOpts struct {
	Links    string           // one or more, with commas between; default "eth0"
	Addr     netip.Addr       // the address that is answered for
	MAC      net.HardwareAddr // default: that of the link
	Duration time.Duration    // default: until told to stop
}

func (o *RespondOpts) flags(fs *flag.FlagSet) {
	setDefault(&o.Links, "eth0")
	fs.StringVar(&o.Links, "links", o.Links, "links to answer on, with commas between; unicast requests that pass there are answered too")
	fs.TextVar(&o.Addr, "addr", o.Addr, "address to answer for")
	fs.TextVar((*macText)(&o.MAC), "mac", macText(o.MAC), "MAC to answer with; default: the link's")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// macText is a MAC as the text of a flag.
type macText net.HardwareAddr

// MarshalText returns the usual form, empty for none.
func (m macText) MarshalText() ([]byte, error) { return []byte(net.HardwareAddr(m).String()), nil }

// UnmarshalText is its inverse.
func (m *macText) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = nil
		return nil
	}
	mac, err := net.ParseMAC(string(text))
	*m = macText(mac)
	return err
}

// RespondReport counts the answers.
type RespondReport struct {
	Answered int `json:"answered"`
}

// respondCommand is `answer-arp`: a host, or a fabric, that answers for somebody else.
func respondCommand(ctx context.Context, args []string, std Stdio) error {
	var opts RespondOpts
	if err := parse("answer-arp", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Addr.Is4() {
		return errors.New("parse arguments of answer-arp: an IPv4 --addr is needed")
	}
	var all []*Responder
	defer func() {
		for _, r := range all {
			_ = r.Close()
		}
	}()
	for link := range strings.SplitSeq(opts.Links, ",") {
		var r *Responder
		r, err := NewResponder(link, func(a netip.Addr) (net.HardwareAddr, bool) {
			if opts.MAC == nil {
				return r.MAC(), a == opts.Addr
			}
			return opts.MAC, a == opts.Addr
		})
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	out := newEmitter(std.Out)
	ctx, cancel := session{out: out}.follow(ctx, std.In, opts.Duration)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, r := range all {
		wg.Go(func() { errs[i] = r.Run(ctx) })
	}
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	wg.Wait()
	var report RespondReport
	for _, r := range all {
		report.Answered += r.Answered()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return out.emit(event{Event: eventReport, Data: report})
}

// ClaimOpts are the options of claim. Zero values mean the defaults.
type ClaimOpts struct {
	Addr     netip.Addr
	Link     string        // default "eth0"
	Count    int           // default 1
	Interval time.Duration // default 100 ms
}

func (o *ClaimOpts) flags(fs *flag.FlagSet) {
	setDefault(&o.Link, "eth0")
	setDefault(&o.Count, 1)
	setDefault(&o.Interval, 100*time.Millisecond)
	fs.TextVar(&o.Addr, "addr", o.Addr, "address to claim")
	fs.StringVar(&o.Link, "link", o.Link, "link to claim it on")
	fs.IntVar(&o.Count, "count", o.Count, "times to claim it")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between two claims")
}

// ClaimReport says who claimed an address how often.
type ClaimReport struct {
	Addr   netip.Addr `json:"addr"`
	MAC    string     `json:"mac"`
	Claims int        `json:"claims"`
}

// claimCommand is `claim`: a host that takes an address which is another's.
func claimCommand(ctx context.Context, args []string, std Stdio) error {
	var opts ClaimOpts
	if err := parse("claim", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Addr.Is4() || opts.Count < 1 || opts.Interval <= 0 {
		return errors.New("parse arguments of claim: an IPv4 --addr, a positive --count and --interval are needed")
	}
	r, err := NewResponder(opts.Link, nil)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	report := ClaimReport{Addr: opts.Addr, MAC: r.MAC().String()}
	tick := time.NewTicker(opts.Interval)
	defer tick.Stop()
	for report.Claims < opts.Count && ctx.Err() == nil {
		if err := r.Announce(opts.Addr); err != nil {
			return err
		}
		report.Claims++
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err := json.NewEncoder(std.Out).Encode(report); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

// parseARPRequest reads a request and returns who asks, and for what.
func parseARPRequest(frame []byte) (asker net.HardwareAddr, source, target netip.Addr, ok bool) { //nolint:nonamedreturns // tells them apart
	if len(frame) < 14+28 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		return nil, source, target, false
	}
	p := frame[14:]
	if string(p[:8]) != "\x00\x01\x08\x00\x06\x04\x00\x01" {
		return nil, source, target, false
	}
	source, target = netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	return slices.Clone(net.HardwareAddr(p[8:14])), source, target, source != target
}

// arpReply tells dst, who asked from source, that addr is at mac.
func arpReply(mac net.HardwareAddr, addr netip.Addr, dst net.HardwareAddr, source netip.Addr) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, mac...)
	p = append(append(p, addr.AsSlice()...), dst...)
	return ethernet(dst, mac, unix.ETH_P_ARP, append(p, source.AsSlice()...))
}

// arpAnnouncements are a gratuitous request and reply (RFC 5227 §3).
func arpAnnouncements(mac net.HardwareAddr, addr netip.Addr) [][]byte {
	reply := arpReply(mac, addr, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, addr)
	return [][]byte{arpRequest(mac, addr, addr), reply}
}
