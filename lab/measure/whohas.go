package measure

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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

// WhoHasOpts are the options of who-has. Zero values mean the defaults.
type WhoHasOpts struct {
	Addr     netip.Addr
	Link     string        // default "eth0"
	Source   netip.Addr    // who asks; default: an address of the link
	Tries    int           // requests; default 5
	Interval time.Duration // between requests, and after the last; default 200 ms
}

func (o *WhoHasOpts) setDefaults() {
	setDefault(&o.Link, "eth0")
	setDefault(&o.Tries, 5)
	setDefault(&o.Interval, 200*time.Millisecond)
}

func (o *WhoHasOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.Addr, "addr", o.Addr, "address to ask for")
	fs.StringVar(&o.Link, "link", o.Link, "link to ask on")
	fs.TextVar(&o.Source, "source", o.Source, "address that asks; default: one of the link's")
	fs.IntVar(&o.Tries, "tries", o.Tries, "requests to send")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between requests, and after the last")
}

// WhoHasReport tells everybody who answered for an address.
type WhoHasReport struct {
	Addr     netip.Addr `json:"addr"`
	Link     string     `json:"link"`
	Requests int        `json:"requests"`
	// Answers are those sent to us, by MAC and sender, the quickest first.
	Answers []Holder `json:"answers"`
	// Announcements were made to everybody meanwhile (gratuitous ARP, unsolicited NA).
	Announcements []Holder `json:"announcements,omitempty"`
}

// Holder is somebody who says that an address is at a MAC.
type Holder struct {
	MAC string `json:"mac"` // the MAC that is claimed
	// From is the sender in the Ethernet header. It differs from MAC where one
	// node answers for another, as a caretaker does.
	From  string `json:"from"`
	Count int    `json:"count"`
	First Millis `json:"first_ms"` // first answer, from the first request (ask: from the mark) on
	Last  Millis `json:"last_ms"`
	// Flags of the last Neighbor Advertisement: Router, Solicited, Override.
	Flags string `json:"flags,omitempty"`
}

// MACs are the distinct MACs that answers claimed, sorted.
func (r WhoHasReport) MACs() []string { return macsOf(r.Answers) }

func macsOf(answers []Holder) []string {
	macs := make([]string, 0, len(answers))
	for _, a := range answers {
		macs = append(macs, a.MAC)
	}
	slices.Sort(macs)
	return slices.Compact(macs)
}

// whoHasCommand is `who-has`.
func whoHasCommand(ctx context.Context, args []string, std Stdio) error {
	var opts WhoHasOpts
	if err := parse("who-has", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Addr.IsValid() || opts.Tries < 1 || opts.Interval <= 0 {
		return errors.New("parse arguments of who-has: --addr, a positive --tries and --interval are needed")
	}
	report, err := whoHas(ctx, opts)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(std.Out).Encode(report); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

func whoHas(ctx context.Context, opts WhoHasOpts) (WhoHasReport, error) {
	link, err := net.InterfaceByName(opts.Link)
	if err != nil {
		return WhoHasReport{}, fmt.Errorf("find link %s: %w", opts.Link, err)
	}
	if !opts.Source.IsValid() {
		if opts.Source, err = sourceFor(link, opts.Addr); err != nil {
			return WhoHasReport{}, err
		}
	}
	ethertype, request := uint16(unix.ETH_P_ARP), arpRequest
	if opts.Addr.Is6() {
		ethertype, request = unix.ETH_P_IPV6, neighborSolicitation
	}
	sock, err := openPacket(link, unix.SOCK_RAW, ethertype, nil)
	if err != nil {
		return WhoHasReport{}, err
	}
	defer func() { _ = sock.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer sock.interruptReads(ctx)()

	heard := &hearing{addr: opts.Addr, self: link.HardwareAddr, start: time.Now()}
	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() { readErr = heard.listen(sock) })
	sent, sendErr := ask(ctx, sock, request(link.HardwareAddr, opts.Source, opts.Addr), opts)
	cancel()
	reader.Wait()
	report := WhoHasReport{
		Addr: opts.Addr, Link: opts.Link, Requests: sent,
		Answers: holders(heard.claims, true), Announcements: holders(heard.claims, false),
	}
	return report, errors.Join(sendErr, readErr)
}

// ask sends the frame at the interval, and waits one interval after the last.
func ask(ctx context.Context, sock packetSocket, frame []byte, opts WhoHasOpts) (int, error) {
	tick := time.NewTicker(opts.Interval)
	defer tick.Stop()
	for i := range opts.Tries {
		if _, err := sock.Write(frame); err != nil {
			return i, fmt.Errorf("send request on %s: %w", opts.Link, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return i + 1, nil
		}
	}
	return opts.Tries, nil
}

// sourceFor is the address that asks: one that shares a prefix with addr, else
// any of the family (of IPv6, the link-local one). Without one, an ARP request
// is a probe, which has the unspecified address (RFC 5227 §1.1).
func sourceFor(link *net.Interface, addr netip.Addr) (netip.Addr, error) {
	addrs, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", link.Name, err)
	}
	fallback := netip.IPv4Unspecified()
	if addr.Is6() {
		fallback = netip.Addr{}
	}
	for _, a := range addrs {
		pfx, err := netip.ParsePrefix(a.String())
		if err != nil || pfx.Addr().Is4() != addr.Is4() {
			continue
		}
		if pfx.Contains(addr) {
			return pfx.Addr(), nil
		}
		if addr.Is4() || pfx.Addr().IsLinkLocalUnicast() {
			fallback = pfx.Addr()
		}
	}
	if !fallback.IsValid() {
		return fallback, fmt.Errorf("choose source on %s: no IPv6 address", link.Name)
	}
	return fallback, nil
}

// hearing collects what is said about addr. Its fields are the listener's until
// listen returns.
type hearing struct {
	addr   netip.Addr
	self   net.HardwareAddr
	start  time.Time
	claims []heardClaim
}

type heardClaim struct {
	claim
	after time.Duration // from the first request on
}

// listen returns when reads are interrupted.
func (h *hearing) listen(sock packetSocket) error {
	parse := parseARP
	if h.addr.Is6() {
		parse = parseAdvertisement
	}
	buf := make([]byte, 2048)
	for {
		n, err := sock.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from packet socket: %w", err)
		}
		after := time.Since(h.start)
		c, ok := parse(buf[:n], h.self)
		if ok && c.addr == h.addr && !bytes.Equal(c.from, h.self) {
			h.claims = append(h.claims, heardClaim{claim: c, after: after})
		}
	}
}

// holders groups the claims that were asked for, or those that were not.
func holders(claims []heardClaim, asked bool) []Holder {
	found := []Holder{}
	for _, c := range claims {
		if c.asked != asked {
			continue
		}
		found = addHolder(found, c.mac.String(), c.from.String(), c.flags, c.after)
	}
	slices.SortStableFunc(found, func(a, b Holder) int { return cmp.Compare(a.First, b.First) })
	return found
}

// addHolder counts a claim that was heard after some time.
func addHolder(found []Holder, mac, from, flags string, after time.Duration) []Holder {
	i := slices.IndexFunc(found, func(h Holder) bool { return h.MAC == mac && h.From == from })
	if i < 0 {
		i = len(found)
		found = append(found, Holder{MAC: mac, From: from, First: ToMillis(after)})
	}
	found[i].Count++
	found[i].Last, found[i].Flags = ToMillis(after), flags
	return found
}
