package liveness

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/icmp"
	"github.com/barelb/barelb/internal/core/links"
	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/ndp"
)

// maxGateways bounds the gateways of a link that are asked.
const maxGateways = 2

// Kernels set the target hardware address of a request to zero. What our speakers send
// has one, which nobody looks at but other speakers: it tells that the frame is a
// speaker's and not its kernel's.

// probe asks a node whether it is there.
func (w *wire) probe(p core.Probe) {
	if w == nil {
		return
	}
	l, ok := w.linkNamed(p.Link)
	if !ok {
		return
	}
	from := sourceFor(l, p.Addr)
	if !from.IsValid() {
		return
	}
	w.asked[station{l.Index, p.Addr}] = asked{probe: p, at: time.Now()}
	switch p.Method {
	case core.ARP:
		w.send("arp", l, arp.Packet{
			Dst: p.MAC, Src: l.HardwareAddr, Op: arp.Request,
			SenderMAC: l.HardwareAddr, SenderAddr: from, TargetMAC: p.MAC, TargetAddr: p.Addr,
		}.Append(nil))
	case core.NS:
		w.send("ndp", l, ndp.Solicitation{
			Dst: p.MAC, Src: l.HardwareAddr, SrcIP: from, DstIP: p.Addr, Target: p.Addr,
			SourceLinkAddr: l.HardwareAddr, HasSourceLinkAddr: true,
		}.Append(nil))
	case core.ICMP:
		w.listenForEchoes(p.Addr)
		w.send("arp", l, icmp.Echo{
			Dst: p.MAC, Src: l.HardwareAddr, SrcIP: from, DstIP: p.Addr, ID: uint16(w.began.UnixNano()), Seq: uint16(p.ID),
		}.Append(nil))
	case core.Off:
	}
}

// listenForEchoes opens, once they are needed, the sockets that echo replies come to: the
// kernel runs their filters for each packet that it receives.
func (w *wire) listenForEchoes(from netip.Addr) {
	name, proto, filter := "icmp6", uint16(unix.ETH_P_IPV6), icmp6(129, 129)
	if from.Is4() {
		name, proto, filter = "icmp4", unix.ETH_P_IP, icmp4()
	}
	if w.sock(name) != nil {
		return
	}
	if err := w.open(name, proto, filter, (*wire).readEcho); err != nil {
		w.cfg.Log.Warn("listen for echo replies", "err", err)
	}
}

// probeGateways asks the gateways of a link whether they are there.
func (w *wire) probeGateways(link string) {
	if w == nil {
		return
	}
	l, ok := w.linkNamed(link)
	if !ok {
		return
	}
	for _, gw := range l.Gateways[:min(len(l.Gateways), maxGateways)] {
		from := sourceFor(l, gw)
		if !from.IsValid() {
			continue
		}
		at := station{l.Index, gw}
		if a, ok := w.asked[at]; !ok || a.gateway { // a node of ours may be one
			w.asked[at] = asked{gateway: true, at: time.Now()}
		}
		if gw.Is4() {
			p := arp.Probe(gw, l.HardwareAddr)
			p.SenderAddr = from
			w.send("arp", l, p.Append(nil))
		} else {
			w.send("ndp", l, ndp.Solicit(gw, l.HardwareAddr, from).Append(nil))
		}
	}
}

// beacon tells all on each link that this speaker works: an ARP probe (RFC 5227), from
// which no cache learns anything, for an address that is ours or none.
func (w *wire) beacon() {
	if w == nil {
		return
	}
	for _, l := range w.links {
		addr := sourceFor(l, netip.IPv4Unspecified())
		if !addr.IsValid() {
			addr = netip.IPv4Unspecified()
		}
		p := arp.Probe(addr, l.HardwareAddr)
		p.TargetMAC = l.HardwareAddr
		w.send("arp", l, p.Append(nil))
	}
}

func (w *wire) sock(name string) *sock {
	for _, s := range w.socks {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (w *wire) send(name string, l links.Link, frame []byte) {
	if err := w.sock(name).conn.Send(frame, l.Index); err != nil {
		w.cfg.Log.Debug("probe not sent", "link", l.Name, "err", err)
	}
}
