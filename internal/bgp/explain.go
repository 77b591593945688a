package bgp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

// explainDial says why no TCP connection came about.
func explainDial(err error, p lb.Peer, addr netip.Addr) string {
	router := netip.AddrPortFrom(addr, p.Port)
	timeout := net.Error(nil)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Sprintf("%s refuses connections: no BGP router listens there", router)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "the address to connect from is not on this node: correct sourceAddress"
	case errors.Is(err, unix.ECONNRESET):
		return fmt.Sprintf("%s resets the connection: it does not know this node as a neighbor", router)
	case errors.Is(err, unix.ENODEV) && p.VRF != "":
		return fmt.Sprintf("there is no device %q on this node: correct vrf", p.VRF)
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("there is no interface %q on this node", p.Interface)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, unix.EHOSTUNREACH):
		text := fmt.Sprintf("no answer from %s: it is down, filtered", router)
		if p.Password != "" {
			text += ", or has another password for this node (a wrong TCP MD5 password is met with silence)"
		} else {
			text += ", or demands a password (TCP MD5) for this node"
		}
		switch {
		case p.TTLSecurityHops > 0:
			text += fmt.Sprintf("; if it is more than %d hops away or does not send with a TTL of 255, correct ttlSecurityHops on either side", p.TTLSecurityHops)
		case !internal(p) && !p.MultiHop:
			text += "; if it is more than one hop away, set ebgpMultiHop"
		}
		return text
	}
	return fmt.Sprintf("connect to %s: %v", router, err)
}

// explainSilence says why a router that took the connection sends no OPEN.
func explainSilence(p lb.Peer) string {
	text := fmt.Sprintf("%s accepts the connection but says nothing for %s: it is overloaded, or no BGP router", p.Endpoint(), openTime)
	if p.TTLSecurityHops > 0 {
		text += fmt.Sprintf(", or is more than %d hops away or does not send with a TTL of 255: correct ttlSecurityHops on either side", p.TTLSecurityHops)
	}
	return text
}

// explainNoOpen says why the router, once connected, refused the session without a
// NOTIFICATION.
func explainNoOpen(p lb.Peer, err error) error {
	return &failure{err: err, text: fmt.Sprintf(
		"the router closes the connection without a word: check that it has this node as a neighbor, in AS %d, and expects its router ID", p.LocalASN)}
}

// explainLost says why an established session ended without a NOTIFICATION.
func explainLost(err error, p lb.Peer) error {
	f := (*failure)(nil)
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return &failure{text: "the router closed the connection without a NOTIFICATION: it was restarted, or the way to it failed", err: err}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return &failure{text: "the router does not take in what it is sent: it or the way to it failed", err: err}
	}
	return &failure{text: fmt.Sprintf("the connection to %s failed: %v", p.Endpoint(), err), err: err}
}

// received says why the router sent a NOTIFICATION.
func received(n *bgpmsg.Notification, p lb.Peer) error {
	text := explainReceived(n, p)
	if said := n.Communication(); said != "" {
		text += fmt.Sprintf("; it says %q", said)
	}
	return &failure{text: text, refused: n.Code != bgpmsg.CodeCease}
}

func explainReceived(n *bgpmsg.Notification, p lb.Peer) string {
	what := n.Error()
	switch n.Code {
	case bgpmsg.CodeOpen:
		if n.Subcode == bgpmsg.SubBadPeerAS {
			return fmt.Sprintf("the router does not expect this node in AS %d: correct myASN or localASN, or the router (%s)", p.LocalASN, what)
		}
	case bgpmsg.CodeHoldTimer:
		return "the router heard nothing from this node for the hold time: the way to it failed, or the node was overloaded"
	case bgpmsg.CodeCease:
		switch n.Subcode {
		case bgpmsg.CeaseMaxPrefixes:
			return "the router's limit of prefixes from this node is reached: raise it, or aggregate (" + what + ")"
		case bgpmsg.CeaseDeconfigured:
			return "the router no longer has this node as a neighbor (" + what + ")"
		}
	}
	return "the router closed the session (" + what + ")"
}
