package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/barelb/barelb/internal/core/lb"
)

// observer is the slog.Handler that GoBGP logs to. Why a connection attempt
// failed, GoBGP tells nobody but its log; so that is where the user's explanation
// comes from. The messages are those of v4.8.0; one that is not recognised costs
// an explanation and nothing else. Warnings go on to our own log.
type observer struct{ s *session }

// Enabled reports whether a message is worth making. While the session is up,
// debug messages are about each route.
func (o observer) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || !o.s.quiet.Load()
}

// Handle turns a message into a problem of the session, if it is about one.
func (o observer) Handle(ctx context.Context, r slog.Record) error {
	attrs := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool {
		attrs[a.Key] = a.Value
		return true
	})
	if text := o.explain(r.Message, attrs); text != "" {
		select {
		case o.s.inbox <- problem(text):
		default: // the goroutine is behind; it will hear of the next attempt
		}
	} else if r.Level >= slog.LevelWarn {
		record := slog.NewRecord(r.Time, r.Level, "gobgp", 0)
		record.AddAttrs(slog.String("peer", o.s.peer.String()), slog.String("reason", r.Message))
		for _, key := range []string{"Error", "Err"} {
			if v, ok := attrs[key]; ok {
				record.AddAttrs(slog.Any("err", v))
			}
		}
		if handler := o.s.cfg.Log.Handler(); handler.Enabled(ctx, r.Level) {
			return handler.Handle(ctx, record)
		}
	}
	return nil
}

// WithAttrs returns o: what GoBGP adds names the peer, which o knows.
func (o observer) WithAttrs([]slog.Attr) slog.Handler { return o }

// WithGroup returns o.
func (o observer) WithGroup(string) slog.Handler { return o }

func (o observer) explain(message string, attrs map[string]slog.Value) string {
	p := o.s.peer
	number := func(key string) uint8 {
		if v, ok := attrs[key]; ok && v.Kind() == slog.KindInt64 {
			return uint8(v.Int64())
		}
		return 0
	}
	switch message {
	case "failed to connect":
		return explainDial(attrs["Error"].String(), p)
	case "outgoing connection IO error":
		return explainNoOpen(p)
	case "hold timer expired":
		return explainSent(bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, p)
	case "sent notification":
		return explainSent(number("Code"), number("Subcode"), p)
	case "received notification":
		text := explainReceived(number("Code"), number("Subcode"), p)
		if said, ok := attrs["Communicated-Reason"]; ok && said.String() != "" {
			text += fmt.Sprintf("; it says %q", said.String())
		}
		return text
	}
	return ""
}

// explainDial says why no TCP connection came about.
func explainDial(err string, p lb.Peer) string {
	router := netip.AddrPortFrom(p.Addr, p.Port)
	switch {
	case strings.Contains(err, "connection refused"):
		return fmt.Sprintf("%s refuses connections: no BGP router listens there", router)
	case strings.Contains(err, "cannot assign requested address"):
		return "the address to connect from is not on this node: correct sourceAddress"
	case strings.Contains(err, "connection reset"):
		return fmt.Sprintf("%s resets the connection: it does not know this node as a neighbor", router)
	case strings.Contains(err, "timeout"), strings.Contains(err, "no route to host"):
		text := fmt.Sprintf("no answer from %s: it is down, filtered", router)
		if p.Password != "" {
			text += ", or has another password for this node (a wrong TCP MD5 password is met with silence)"
		} else {
			text += ", or demands a password (TCP MD5) for this node"
		}
		if !internal(p) && !p.MultiHop {
			text += "; if it is more than one hop away, set ebgpMultiHop"
		}
		return text
	}
	return fmt.Sprintf("connect to %s: %s", router, err)
}

// explainNoOpen says why the router, once connected, refused the session without
// a word that GoBGP would pass on.
func explainNoOpen(p lb.Peer) string {
	return fmt.Sprintf("the router refused the session: check that it has this node as a neighbor, in AS %d, and expects its router ID", p.LocalASN)
}

// explainSent says why we sent a NOTIFICATION (RFC 4271 §4.5, §6).
func explainSent(code, subcode uint8, p lb.Peer) string {
	switch {
	case code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == bgp.BGP_ERROR_SUB_BAD_PEER_AS:
		if p.Dynamic == lb.InternalASN {
			return fmt.Sprintf("the router is not in our AS %d, but dynamicASN is internal: set it to external, or correct myASN", p.LocalASN)
		}
		return fmt.Sprintf("the router is not in AS %d: correct peerASN", p.PeerASN)
	case code == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode == bgp.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER:
		return "the router has our own router ID: set another routerID"
	case code == bgp.BGP_ERROR_HOLD_TIMER_EXPIRED:
		return "nothing was heard from the router for the hold time: it or the way to it failed"
	case code == bgp.BGP_ERROR_FSM_ERROR:
		return explainNoOpen(p) // it answered our OPEN with a NOTIFICATION
	case code == bgp.BGP_ERROR_CEASE:
		return "" // our own doing
	}
	return "the router sent what is not understood: " + notification(code, subcode)
}

// explainReceived says why the router sent a NOTIFICATION.
func explainReceived(code, subcode uint8, p lb.Peer) string {
	what := notification(code, subcode)
	switch code {
	case bgp.BGP_ERROR_OPEN_MESSAGE_ERROR:
		if subcode == bgp.BGP_ERROR_SUB_BAD_PEER_AS {
			return fmt.Sprintf("the router does not expect this node in AS %d: correct myASN, or the router (%s)", p.LocalASN, what)
		}
	case bgp.BGP_ERROR_HOLD_TIMER_EXPIRED:
		return "the router heard nothing from this node for the hold time: the way to it failed, or the node was overloaded"
	case bgp.BGP_ERROR_CEASE:
		switch subcode {
		case bgp.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED:
			return "the router's limit of prefixes from this node is reached: raise it, or aggregate (" + what + ")"
		case bgp.BGP_ERROR_SUB_PEER_DECONFIGURED:
			return "the router no longer has this node as a neighbor (" + what + ")"
		}
	}
	return "the router closed the session (" + what + ")"
}

// explainDown puts GoBGP's reason for the end of a session into words, where its
// log has not said more.
func explainDown(reason string, p lb.Peer) string {
	switch {
	case strings.HasPrefix(reason, "invalid-msg"):
		return explainNoOpen(p) // a NOTIFICATION where GoBGP takes only a KEEPALIVE
	case reason == "read-failed", reason == "write-failed":
		return "the router closed the connection without a NOTIFICATION: it was restarted, or the way to it failed"
	}
	return "the session ended: " + reason
}

// notification names an error code and subcode (RFC 4271 §4.5).
func notification(code, subcode uint8) string {
	return "NOTIFICATION " + bgp.NewNotificationErrorCode(code, subcode).String()
}

// stateName spells a state as RFC 4271 §8.2.2 does.
func stateName(state bgp.FSMState) string {
	switch state {
	case bgp.BGP_FSM_IDLE:
		return stateIdle
	case bgp.BGP_FSM_CONNECT:
		return "Connect"
	case bgp.BGP_FSM_ACTIVE:
		return "Active"
	case bgp.BGP_FSM_OPENSENT:
		return "OpenSent"
	case bgp.BGP_FSM_OPENCONFIRM:
		return "OpenConfirm"
	case bgp.BGP_FSM_ESTABLISHED:
		return stateEstablished
	}
	return state.String()
}
