package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/core/wire"
	"github.com/barelb/barelb/internal/packet"
)

// arpClaims accepts ARP packets that claim an address: those with a sender address.
func arpClaims() []bpf.Instruction { return packet.AllOf(packet.NonZero(28, 4)) }

// ndpClaims accepts Neighbor Solicitations and Advertisements. It sees every IPv6
// packet that the host receives, so what tells most apart comes first.
func ndpClaims() []bpf.Instruction {
	return packet.AllOf(
		packet.At(20, 1, 58), // next header: ICMPv6
		packet.Match{Load: bpf.LoadAbsolute{Off: 54, Size: 1}, Min: 135, Max: 136}, // type
		packet.At(21, 1, 255), // hop limit
	)
}

// Run asks and listens until ctx ends, and then returns nil. Links may come and go
// meanwhile. It fails at once if the sockets cannot be opened.
func (p *Prober) Run(ctx context.Context) error {
	a, err := packet.OpenReceiver(unix.ETH_P_ARP, arpClaims())
	if err != nil {
		return fmt.Errorf("probe addresses: %w", err)
	}
	n, err := packet.OpenReceiver(unix.ETH_P_IPV6, ndpClaims())
	if err != nil {
		return errors.Join(fmt.Errorf("probe addresses: %w", err), a.Close())
	}
	l := &loop{
		Prober: p, arp: a, ndp: n, claims: make(chan wire.Claim),
		machine: wire.NewMachine(p.cfg.Node, jitter),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.listen(ctx, a, wire.HearARP) })
	g.Go(func() error { return l.listen(ctx, n, wire.HearNDP) })
	g.Go(func() error { l.run(ctx); return nil })
	g.Go(func() error { <-ctx.Done(); return errors.Join(a.Close(), n.Close()) })
	return g.Wait()
}

// loop is what one Run works with. All but claims belongs to the goroutine of run.
type loop struct {
	*Prober
	arp, ndp *packet.Conn
	claims   chan wire.Claim
	machine  *wire.Machine
	placer   wire.Placer
	links    map[int]links.Link // by index
	known    bool               // what to do, and on which links
}

// listen hands on the claims that conn receives and that matter.
func (l *loop) listen(ctx context.Context, conn *packet.Conn, hear func([]byte, int) (wire.Claim, bool)) error {
	in := make([]byte, packet.MaxFrame)
	for {
		n, link, err := conn.Read(in)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the error is that we were told to stop
		case err != nil && packet.Transient(err):
			l.cfg.Log.DebugContext(ctx, "receive interrupted", "err", err)
			continue
		case err != nil:
			return fmt.Errorf("receive frame: %w", err)
		}
		c, ok := hear(in[:n], link)
		if !ok || !(*l.heeded.Load())[c.Addr] {
			continue
		}
		select {
		case l.claims <- c:
		case <-ctx.Done():
			return nil
		}
	}
}

// run drives the machine.
func (l *loop) run(ctx context.Context) {
	changed := l.cfg.Links.Changed() // before the snapshot is looked at, so that nothing is missed
	l.follow()
	for {
		l.send(ctx)
		if l.known {
			l.publish(l.machine.Report())
		}
		var timer <-chan time.Time
		if at, ok := l.machine.Deadline(l.now()); ok {
			timer = l.after(at.Sub(l.now()))
		}
		select {
		case <-ctx.Done():
			return
		case <-l.news:
			l.follow()
		case <-changed:
			changed = l.cfg.Links.Changed()
			l.follow()
		case c := <-l.claims:
			l.machine.Hear(c, l.now())
		case <-timer:
		}
	}
}

// follow takes over what is wanted, and the links as they are now.
func (l *loop) follow() {
	want, snap := l.want.Load(), l.cfg.Links.Snapshot()
	if want == nil || snap == nil {
		return
	}
	l.known = true
	l.links = make(map[int]links.Link, len(snap))
	own := map[wire.MAC]bool{}
	for _, link := range snap {
		l.links[link.Index] = link
		if link.Ethernet {
			own[link.HardwareAddr] = true
		}
	}
	peers := l.placer.SetWorld(*want, snap, l.excluded)
	targets := l.placer.Place(want.Candidates)
	heeded := make(map[netip.Addr]bool, len(peers)+len(targets))
	for _, p := range peers {
		heeded[p.Addr] = true
	}
	for _, t := range targets {
		heeded[t.Addr] = true
	}
	l.heeded.Store(&heeded)
	l.machine.Set(targets, peers, own, l.now())
}

// send sends what is due.
func (l *loop) send(ctx context.Context) {
	for ctx.Err() == nil {
		ask, ok := l.machine.Step(l.now())
		if !ok {
			return
		}
		if err := l.sendOne(ask); err != nil {
			l.machine.Unsent(ask, l.now())
			l.cfg.Log.DebugContext(ctx, "probe not sent", "addr", ask.Addr.String(), "err", err)
			continue
		}
		l.sent.Inc()
	}
}

func (l *loop) sendOne(ask wire.Ask) error {
	link, ok := l.links[ask.Link]
	if !ok {
		return fmt.Errorf("send on link %d: it is gone", ask.Link)
	}
	if ask.Addr.Is4() {
		return l.arp.Send(arp.Probe(ask.Addr, link.HardwareAddr).Append(nil), link.Index)
	}
	return l.ndp.Send(ndp.Solicit(ask.Addr, link.HardwareAddr, link.LinkLocal6).Append(nil), link.Index)
}
