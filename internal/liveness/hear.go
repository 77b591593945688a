package liveness

import (
	"net/netip"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/icmp"
	"github.com/barelb/barelb/internal/core/links"
	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/ndp"
)

// readARP tells what an ARP frame means.
func (w *wire) readARP(f frame, tell func(core.Event)) {
	p, err := arp.Parse(f.bytes)
	if err != nil || !w.hear(f, p.Src, tell) {
		return
	}
	self := f.link.HardwareAddr
	node := w.speakers[p.Src]
	switch {
	case p.Op == arp.Reply && p.Dst == self:
		w.answered(f, p.SenderAddr, p.SenderMAC, core.ARP, tell)
	case p.Op == arp.Request && p.TargetMAC != arp.MAC{} && node != "":
		if p.Dst == self {
			w.probed(f.link, p.TargetAddr, node)
		}
		w.speakerHeard(f, node, tell)
		return
	}
	w.claimed(f, node, p.SenderAddr, tell)
}

// readNDP tells what a Neighbor Solicitation or Advertisement means.
func (w *wire) readNDP(f frame, tell func(core.Event)) {
	if s, err := ndp.ParseSolicitation(f.bytes); err == nil {
		if node := w.speakers[s.Src]; w.hear(f, s.Src, tell) && node != "" && s.Dst == f.link.HardwareAddr {
			w.probed(f.link, s.Target, node) // or its kernel asks, which is rare
		}
		return
	}
	a, err := ndp.ParseAdvertisement(f.bytes)
	if err != nil || !w.hear(f, a.Src, tell) {
		return
	}
	if a.Solicited && a.Dst == f.link.HardwareAddr {
		mac := a.Src
		if a.HasTargetLinkAddr {
			mac = a.TargetLinkAddr
		}
		w.answered(f, a.Target, mac, core.NS, tell)
	}
	w.claimed(f, w.speakers[a.Src], a.Target, tell)
}

// readEcho tells of an echo reply.
func (w *wire) readEcho(f frame, tell func(core.Event)) {
	e, err := icmp.Parse(f.bytes)
	if err == nil && e.Reply && e.Dst == f.link.HardwareAddr && e.ID == uint16(w.began.UnixNano()) {
		w.answered(f, e.SrcIP, e.Src, core.ICMP, tell)
	}
}

// hear tells that a frame of a station was heard, once for each interval. It reports
// false for a station that is this node, or in it.
func (w *wire) hear(f frame, mac links.MAC, tell func(core.Event)) bool {
	if w.own[mac] {
		return false
	}
	h := hearing{link: f.link.Index, mac: mac}
	if !w.first(f, h) {
		return !w.heard[h].local
	}
	if w.speakers[mac] == "" && w.cfg.Local != nil && w.cfg.Local(f.link.Index, mac) {
		w.heard[h] = heard{f.at, true}
		return false
	}
	tell(core.Heard{Link: f.link.Name, MAC: mac, At: f.at})
	return true
}

// first reports whether f is the first of its kind in an interval.
func (w *wire) first(f frame, h hearing) bool {
	if last, ok := w.heard[h]; ok && f.at.Sub(last.at) < w.cfg.Interval {
		return false
	}
	w.heard[h] = heard{at: f.at}
	return true
}

// answered tells of an answer to what we have asked.
func (w *wire) answered(f frame, addr netip.Addr, mac links.MAC, method core.Method, tell func(core.Event)) {
	a, ok := w.asked[station{f.link.Index, addr}]
	switch {
	case !ok || f.at.Sub(a.at) > forgetProbe:
	case a.gateway:
		tell(core.GatewayAnswer{Link: f.link.Name, At: f.at})
	default:
		w.metrics.answers.Inc()
		tell(core.Answer{Node: a.probe.Node, Segment: a.probe.Segment, MAC: mac, Method: method, At: f.at})
	}
}

// probed counts a probe of an observer for an address of ours.
func (w *wire) probed(l links.Link, addr netip.Addr, observer string) {
	if seg, ok := segmentOf(l, addr); ok {
		w.seen.add(observer, seg)
	}
}

// claimed tells of the speaker of node, if a frame says of an address that it claims
// that it has it: its kernel does not say so.
func (w *wire) claimed(f frame, node string, addr netip.Addr, tell func(core.Event)) {
	if node != "" && w.book.claimed(node, addr) {
		w.speakerHeard(f, node, tell)
	}
}

func (w *wire) speakerHeard(f frame, node string, tell func(core.Event)) {
	if w.first(f, hearing{node: node}) {
		tell(core.SpeakerHeard{Node: node, At: f.at})
	}
}
