package speaker

import (
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
)

// foreign is a host that says it has an address that this node owns.
type foreign struct {
	addr netip.Addr
	mac  [6]byte
	link string
}

// Claimed takes note that a host with another hardware address says, on a link of this
// node, that it has addr (RFC 5227 §2.4). It does not block.
func (s *Speaker) Claimed(addr netip.Addr, mac [6]byte, link string) {
	select {
	case s.foreign <- foreign{addr, mac, link}:
	default: // there are many, and this one comes again
	}
}

// contest reports a host outside the fleet that claims an address of this node, and
// tells the link again who has it. Of two speakers that claim one address the plan
// makes one yield, so nothing is to be done here.
func (s *Speaker) contest(f foreign) {
	w, ours := s.wants[f.addr]
	mac := net.HardwareAddr(f.mac[:]).String()
	if !ours || w.Plain || ofFleet(s.view, f.mac) {
		s.Log.Debug("another speaker announces an address of this node", "addr", f.addr, "mac", mac, "link", f.link)
		return
	}
	s.Announced.foreign.Inc()
	if s.Reassert != nil {
		s.Reassert(f.addr)
	}
	s.Log.Debug("a host outside the cluster claims an address of this node", "addr", f.addr, "mac", mac, "link", f.link)
	for key := range s.planner.Holders(f.addr) {
		svc := s.services[key]
		if svc == nil {
			continue
		}
		if s.Events.AddressClaimed(svc, lb.WireConflict{Addr: f.addr, MAC: mac, Link: f.link, Node: s.Options.Node}, func() string { return s.nodeWith(f.mac) }) {
			s.Log.Warn("a host outside the cluster claims an address of this node", "addr", f.addr, "mac", mac, "link", f.link, "service", key.String())
		}
	}
}

// nodeWith returns the name of the cluster's node that has a hardware address, or "": one
// whose speaker tells this one nothing, such as one with another memberlist secret.
func (s *Speaker) nodeWith(mac [6]byte) string {
	if s.Neighbours == nil {
		return ""
	}
	for _, a := range s.Neighbours(mac) {
		if n := lb.NodeWith(a, s.nodes); n != "" {
			return n
		}
	}
	return ""
}

// ofFleet reports whether a hardware address is of a node whose speaker tells of its links.
func ofFleet(v *liveness.View, mac [6]byte) bool {
	if v == nil {
		return false
	}
	for _, n := range v.Nodes {
		if n.Facts == nil {
			continue
		}
		for _, l := range n.Facts.Links {
			if l.MAC == mac {
				return true
			}
		}
	}
	return false
}

// newForeign returns the counter of claims of hosts outside the fleet.
//
//nolint:ireturn // the library gives no other
func newForeign(reg prometheus.Registerer) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "barelb", Subsystem: "layer2", Name: "foreign_claims_total",
		Help: "How often a host outside the cluster was heard to claim an address that this node owns.",
	})
	reg.MustRegister(c)
	return c
}
