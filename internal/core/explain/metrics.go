package explain

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/barelb/barelb/internal/core/lb"
)

// ParseMetrics reads what a speaker says of itself out of its metrics, in the text format
// of Prometheus. What cannot be read is left out: it never fails.
func ParseMetrics(text string) *Speaker {
	s := &Speaker{
		Sessions: map[netip.AddrPort]Session{}, Requests: map[netip.Addr]float64{}, Responses: map[netip.Addr]float64{},
		Announced: map[string][]netip.Addr{},
	}
	for line := range strings.SplitSeq(text, "\n") {
		name, labels, value, ok := parseSample(line)
		if !ok {
			continue
		}
		switch name {
		case "metallb_bgp_session_up", "metallb_bgp_announced_prefixes_total", "metallb_bgp_pending_prefixes_total":
			if vrf := labels["vrf"]; vrf == "" || vrf == lb.VRFLabel("") { // others are told apart by no address
				s.takeSession(name, labels["peer"], value)
			}
		case "metallb_layer2_requests_received", "metallb_layer2_responses_sent":
			a, err := netip.ParseAddr(labels["ip"])
			switch {
			case err != nil:
			case name == "metallb_layer2_responses_sent":
				s.Responses[a] += value
			default:
				s.Requests[a] += value
			}
		case "metallb_speaker_announced":
			a, err := netip.ParseAddr(labels["ip"])
			if p := labels["protocol"]; err == nil && value == 1 && !slices.Contains(s.Announced[p], a) {
				s.Announced[p] = append(s.Announced[p], a)
			}
		case "metallb_k8s_client_config_stale_bool":
			s.Stale = value == 1
		case "barelb_speaker_kube_proxy_healthy":
			s.ProxyDown = value == 0
		case "barelb_link_up":
			s.takeLink(labels, value)
		}
	}
	return s
}

func (s *Speaker) takeSession(name, peer string, value float64) {
	colon := strings.LastIndexByte(peer, ':') // an IPv6 address before it stands in no brackets
	if colon < 0 {
		return
	}
	addr, err := netip.ParseAddr(strings.Trim(peer[:colon], "[]"))
	port, err2 := strconv.ParseUint(peer[colon+1:], 10, 16)
	if err != nil || err2 != nil {
		return
	}
	at := netip.AddrPortFrom(addr, uint16(port))
	x := s.Sessions[at]
	switch name {
	case "metallb_bgp_session_up":
		x.Up = value == 1
	case "metallb_bgp_announced_prefixes_total":
		x.Announced = int(value)
	default:
		x.Pending = int(value)
	}
	s.Sessions[at] = x
}

// takeLink takes one link, which has one sample for each of its prefixes, and one with
// an empty prefix if it has none.
func (s *Speaker) takeLink(labels map[string]string, value float64) {
	i := slices.IndexFunc(s.Links, func(l Link) bool { return l.Name == labels["link"] })
	if i < 0 {
		i = len(s.Links)
		s.Links = append(s.Links, Link{Name: labels["link"], Up: value == 1})
	}
	if p, err := netip.ParsePrefix(labels["prefix"]); err == nil {
		s.Links[i].Prefixes = append(s.Links[i].Prefixes, p)
	}
}

// parseSample reads one line: a name, labels in braces if there are any, and a value.
func parseSample(line string) (name string, labels map[string]string, value float64, ok bool) {
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, "{ ")
	if i <= 0 || line[0] == '#' {
		return "", nil, 0, false
	}
	name, rest := line[:i], line[i:]
	labels = map[string]string{}
	if rest[0] == '{' {
		if rest, ok = parseLabels(rest[1:], labels); !ok {
			return "", nil, 0, false
		}
	}
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // a time may follow
	value, err := strconv.ParseFloat(number, 64)
	return name, labels, value, err == nil
}

// parseLabels reads name="value" pairs up to the closing brace, and returns what follows.
func parseLabels(text string, into map[string]string) (rest string, ok bool) {
	for {
		text = strings.TrimLeft(text, ", ")
		if after, end := strings.CutPrefix(text, "}"); end {
			return after, true
		}
		name, after, found := strings.Cut(text, "=\"")
		if !found {
			return "", false
		}
		var value strings.Builder
		i := 0
		for ; i < len(after) && after[i] != '"'; i++ {
			c := after[i]
			if c == '\\' && i+1 < len(after) {
				i++
				if c = after[i]; c == 'n' {
					c = '\n'
				}
			}
			value.WriteByte(c)
		}
		if i >= len(after) {
			return "", false
		}
		into[strings.TrimSpace(name)] = value.String()
		text = after[i+1:]
	}
}
