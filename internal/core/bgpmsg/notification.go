package bgpmsg

import (
	"fmt"
	"strings"
)

// Codes of a NOTIFICATION (RFC 4271 §4.5, RFC 7313 §5, RFC 9687 §5).
const (
	CodeHeader       = 1
	CodeOpen         = 2
	CodeUpdate       = 3
	CodeHoldTimer    = 4
	CodeFSM          = 5
	CodeCease        = 6
	CodeRouteRefresh = 7
	CodeSendHold     = 8
)

// Subcodes of errors in an OPEN (RFC 4271 §4.5, RFC 5492 §5).
const (
	SubBadPeerAS             = 2
	SubBadRouterID           = 3
	SubBadHoldTime           = 6
	SubUnsupportedCapability = 7

	subUnsupportedVersion   = 1
	subUnsupportedParameter = 4
)

// Subcodes of Cease (RFC 4486 §3, RFC 8538 §3, RFC 9384 §3).
const (
	CeaseMaxPrefixes   = 1
	CeaseShutdown      = 2
	CeaseDeconfigured  = 3
	CeaseReset         = 4
	CeaseRejected      = 5
	CeaseConfigChanged = 6
	CeaseCollision     = 7
	CeaseBFDDown       = 10
)

const (
	subNotSynchronized = 1
	subBadLength       = 2
	subBadType         = 3

	maxCommunication = 255 // bytes (RFC 9003 §2)
)

// Notification is a NOTIFICATION message. As an error, it is what the one who made
// the mistake is to be told.
type Notification struct { //nolint:errname // the RFC's name
	Code, Subcode uint8
	Data          []byte
}

// Cease returns a NOTIFICATION that closes a session (RFC 4486). With text, which is
// for CeaseShutdown and CeaseReset only and is cut after 255 bytes, it carries a
// shutdown communication (RFC 9003).
func Cease(subcode uint8, text string) *Notification {
	n := &Notification{Code: CodeCease, Subcode: subcode}
	if text != "" && (subcode == CeaseShutdown || subcode == CeaseReset) {
		if len(text) > maxCommunication {
			text = strings.ToValidUTF8(text[:maxCommunication], "")
		}
		n.Data = append([]byte{byte(len(text))}, text...)
	}
	return n
}

// Append appends the message to b. Data that does not fit is cut.
func (n *Notification) Append(b []byte) []byte {
	start := len(b)
	b = append(begin(b, TypeNotification), n.Code, n.Subcode)
	return finish(append(b, n.Data[:min(len(n.Data), MaxLen-HeaderLen-2)]...), start)
}

// ParseNotification reads a NOTIFICATION after its header. It keeps body.
func ParseNotification(body []byte) *Notification {
	if len(body) < 2 {
		return &Notification{}
	}
	return &Notification{Code: body[0], Subcode: body[1], Data: body[2:]}
}

// Communication returns the shutdown communication, made fit for a log: at most 255
// bytes of valid UTF-8 without control characters (RFC 9003 §2, §5). "" if there is none.
func (n *Notification) Communication() string {
	if n.Code != CodeCease || n.Subcode != CeaseShutdown && n.Subcode != CeaseReset || len(n.Data) == 0 {
		return ""
	}
	length := int(n.Data[0])
	if length > len(n.Data)-1 {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(n.Data[1:1+length]), "?"))
}

// Error names code and subcode.
func (n *Notification) Error() string { return "NOTIFICATION " + n.Name() }

// Name returns the names of code and subcode in the RFCs, such as "Cease/Peer
// De-configured".
func (n *Notification) Name() string {
	code, subs := names(n.Code)
	switch {
	case code == "":
		return fmt.Sprintf("code %d, subcode %d", n.Code, n.Subcode)
	case n.Subcode == 0:
		return code
	case int(n.Subcode) <= len(subs) && subs[n.Subcode-1] != "":
		return code + "/" + subs[n.Subcode-1]
	}
	return fmt.Sprintf("%s/subcode %d", code, n.Subcode)
}

func names(code uint8) (string, []string) {
	switch code {
	case CodeHeader:
		return "Message Header Error", []string{"Connection Not Synchronized", "Bad Message Length", "Bad Message Type"}
	case CodeOpen:
		return "OPEN Message Error", []string{
			"Unsupported Version Number", "Bad Peer AS", "Bad BGP Identifier", "Unsupported Optional Parameter", "",
			"Unacceptable Hold Time", "Unsupported Capability", "", "", "", "Role Mismatch",
		}
	case CodeUpdate:
		return "UPDATE Message Error", []string{
			"Malformed Attribute List", "Unrecognized Well-known Attribute", "Missing Well-known Attribute", "Attribute Flags Error",
			"Attribute Length Error", "Invalid ORIGIN Attribute", "", "Invalid NEXT_HOP Attribute", "Optional Attribute Error",
			"Invalid Network Field", "Malformed AS_PATH",
		}
	case CodeHoldTimer:
		return "Hold Timer Expired", nil
	case CodeFSM:
		return "Finite State Machine Error", []string{
			"Unexpected Message in OpenSent", "Unexpected Message in OpenConfirm", "Unexpected Message in Established",
		}
	case CodeCease:
		return "Cease", []string{
			"Maximum Number of Prefixes Reached", "Administrative Shutdown", "Peer De-configured", "Administrative Reset",
			"Connection Rejected", "Other Configuration Change", "Connection Collision Resolution", "Out of Resources",
			"Hard Reset", "BFD Down",
		}
	case CodeRouteRefresh:
		return "ROUTE-REFRESH Message Error", []string{"Invalid Message Length"}
	case CodeSendHold:
		return "Send Hold Timer Expired", nil
	}
	return "", nil
}
