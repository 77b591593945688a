package bgpmsg_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

var equalAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// body takes one message apart, whose header must be right.
func body(t testing.TB, msg []byte, want bgpmsg.Type) []byte {
	t.Helper()
	kind, n, err := bgpmsg.ParseHeader([bgpmsg.HeaderLen]byte(msg))
	if err != nil || kind != want || n != len(msg)-bgpmsg.HeaderLen {
		t.Fatalf("header of %x: %s, %d bytes, %v", msg, kind, n, err)
	}
	return msg[bgpmsg.HeaderLen:]
}

func TestOpenReadsBack(t *testing.T) {
	id := netip.MustParseAddr("10.0.0.1")
	both := []lb.Family{lb.IPv4, lb.IPv6}
	for name, o := range map[string]bgpmsg.Open{
		"plain":        {ASN: 64512, HoldTime: 90, RouterID: id, Families: both[:1]},
		"wide AS":      {ASN: 4200000001, HoldTime: 3, RouterID: id, Families: both[1:], FourOctetAS: true},
		"no keepalive": {ASN: 1, RouterID: id, Families: both, FourOctetAS: true, RouteRefresh: true, IPv6Hops: true},
		"restarting": {ASN: 1, HoldTime: 65535, RouterID: id, Families: both, FourOctetAS: true, GracefulRestart: &bgpmsg.GracefulRestart{
			Restarted: true, Notification: true, Time: 2 * time.Minute, Families: both, Preserved: both[1:],
		}},
	} {
		got, err := bgpmsg.ParseOpen(body(t, o.Append(nil), bgpmsg.TypeOpen))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(o, got, equalAddrs); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestOpenOfAnotherSpeaker(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// Version 4, AS 65000, hold time 180 s, 10.0.0.2.
	const head = "04 fde8 00b4 0a000002 "
	for name, c := range map[string]struct{ msg, want string }{
		"no capabilities":           {head + "00", ""},
		"capabilities one by one":   {head + "0e 0202 0200 0208 4106 0000fde8 0000", ""},
		"extended parameters":       {head + "ff ff 0009 02 0006 41 04 0001 86a1", "AS 100001"},
		"extended, short length":    {head + "0c ff 0009 02 0006 41 04 0001 86a1", "AS 100001"}, // the length is ignored (RFC 9072 §2)
		"extended, length 0":        {head + "00 ff 0009 02 0006 41 04 0001 86a1", "OPEN Message Error"},
		"unknown capability":        {head + "04 0202 4900", ""},
		"short":                     {"04 fde8 00b4", "OPEN Message Error"},
		"version 3":                 {"03 fde8 00b4 0a000002 00", "Unsupported Version Number"},
		"hold time 2":               {"04 fde8 0002 0a000002 00", "Unacceptable Hold Time"},
		"router ID 0":               {"04 fde8 00b4 00000000 00", "Bad BGP Identifier"},
		"AS 0":                      {"04 0000 00b4 0a000002 00", "Bad Peer AS"},
		"length of parameters":      {head + "05 0200", "OPEN Message Error"},
		"parameter cut":             {head + "02 0204", "OPEN Message Error"},
		"capability cut":            {head + "04 0202 4104", "OPEN Message Error"},
		"authentication (RFC 1771)": {head + "02 0100", "Unsupported Optional Parameter"},
		"extended length too great": {head + "ff ff 000a 02 0006 41 04 0001 86a1", "OPEN Message Error"},
	} {
		o, err := bgpmsg.ParseOpen(unhex(c.msg))
		if wide, ok := strings.CutPrefix(c.want, "AS "); ok {
			if err != nil || wide != "100001" || o.ASN != 100001 {
				t.Errorf("%s: AS %d, %v", name, o.ASN, err)
			}
			continue
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
		if err == nil && (o.ASN != 65000 || len(o.Families) != 1 || o.Families[0] != lb.IPv4) {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestBadHeaders(t *testing.T) {
	good := bgpmsg.AppendKeepalive(nil)
	for name, c := range map[string]struct {
		at   int
		b    byte
		want string
	}{
		"marker": {3, 0, "Connection Not Synchronized"}, "type": {18, 9, "Bad Message Type"},
		"short": {17, 18, "Bad Message Length"}, "keepalive with body": {17, 20, "Bad Message Length"}, "long": {16, 0x20, "Bad Message Length"},
	} {
		b := [bgpmsg.HeaderLen]byte(good)
		b[c.at] = c.b
		_, _, err := bgpmsg.ParseHeader(b)
		n := (*bgpmsg.Notification)(nil)
		if !errors.As(err, &n) || !strings.Contains(n.Name(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestNotifications(t *testing.T) {
	long := strings.Repeat("ä", 200)
	for _, c := range []struct{ sent, name, says string }{
		{"", "Cease/Administrative Shutdown", ""},
		{"node1 is drained", "Cease/Administrative Shutdown", "node1 is drained"},
		{long, "Cease/Administrative Shutdown", strings.Repeat("ä", 127)},
		{"two\nlines\x1b[2J", "Cease/Administrative Shutdown", "two lines [2J"},
	} {
		n := bgpmsg.ParseNotification(body(t, bgpmsg.Cease(bgpmsg.CeaseShutdown, c.sent).Append(nil), bgpmsg.TypeNotification))
		if n.Name() != c.name || n.Communication() != c.says {
			t.Errorf("%q: %s says %q", c.sent, n.Name(), n.Communication())
		}
	}
	for n, want := range map[*bgpmsg.Notification]string{
		{Code: 4}: "Hold Timer Expired", {Code: 8}: "Send Hold Timer Expired", {Code: 6, Subcode: 10}: "Cease/BFD Down",
		{Code: 99, Subcode: 1}: "code 99, subcode 1", {Code: 6, Subcode: 77}: "Cease/subcode 77", {Code: 2, Subcode: 5}: "OPEN Message Error/subcode 5",
	} {
		if n.Name() != want {
			t.Errorf("%d/%d: %s, want %s", n.Code, n.Subcode, n.Name(), want)
		}
	}
	// A communication that claims more than there is.
	if got := (&bgpmsg.Notification{Code: 6, Subcode: 2, Data: []byte{9, 'x'}}).Communication(); got != "" {
		t.Errorf("cut communication: %q", got)
	}
}

func prefixes(n int, f lb.Family) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if f == lb.IPv6 {
			addr = netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 14: byte(i >> 8), 15: byte(i)})
		}
		all[i] = netip.PrefixFrom(addr, f.Bits())
	}
	return all
}

// split takes messages apart and demands that each is as long as can be, and an UPDATE.
func split(t *testing.T, b []byte) (bodies [][]byte) {
	t.Helper()
	for len(b) > 0 {
		kind, n, err := bgpmsg.ParseHeader([bgpmsg.HeaderLen]byte(b))
		if err != nil || kind != bgpmsg.TypeUpdate || bgpmsg.HeaderLen+n > len(b) {
			t.Fatalf("message %d: %s, %d bytes, %v", len(bodies), kind, n, err)
		}
		bodies, b = append(bodies, b[bgpmsg.HeaderLen:bgpmsg.HeaderLen+n]), b[bgpmsg.HeaderLen+n:]
	}
	return bodies
}

// Routes with the same attributes share messages: of 4096 bytes, 5 per IPv4 route and
// 17 per IPv6 route.
func TestRoutesArePacked(t *testing.T) {
	hop4, hop6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	for name, c := range map[string]struct {
		f    lb.Family
		hop  netip.Addr
		want int
	}{"IPv4": {lb.IPv4, hop4, 13}, "IPv6": {lb.IPv6, hop6, 43}, "IPv4 by IPv6": {lb.IPv4, hop6, 13}} {
		a := &bgpmsg.Attrs{ASPath: []uint32{64512}, NextHop: []netip.Addr{c.hop}, Communities: []lb.Community{1, 2}}
		b, n, err := bgpmsg.AppendUpdates(nil, c.f, a, prefixes(10_000, c.f))
		if err != nil || n != c.want || len(split(t, b)) != n {
			t.Errorf("%s: %d messages, %v, want %d", name, n, err, c.want)
		}
		b, n = bgpmsg.AppendWithdrawals(nil, c.f, prefixes(10_000, c.f))
		if bodies := split(t, b); n != len(bodies) || n > c.want {
			t.Errorf("%s: %d messages to withdraw", name, n)
		}
	}
	if b, n := bgpmsg.AppendWithdrawals(nil, lb.IPv4, nil); len(b) != 0 || n != 0 {
		t.Error("a message that withdraws nothing")
	}
}

func TestTooManyAttributes(t *testing.T) {
	a := &bgpmsg.Attrs{NextHop: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Communities: make([]lb.Community, 1020)}
	if b, n, err := bgpmsg.AppendUpdates(nil, lb.IPv4, a, prefixes(1, lb.IPv4)); !errors.Is(err, bgpmsg.ErrTooLong) || n != 0 || len(b) != 0 {
		t.Errorf("%d bytes, %d messages, %v", len(b), n, err)
	}
	a.Communities = a.Communities[:900]
	if b, n, err := bgpmsg.AppendUpdates(nil, lb.IPv4, a, prefixes(1000, lb.IPv4)); err != nil || len(split(t, b)) != n {
		t.Errorf("%d messages, %v", n, err)
	}
}

// A speaker without wide AS numbers is told them by AS4_PATH (RFC 6793 §4.2.2).
func TestNarrowASPath(t *testing.T) {
	a := &bgpmsg.Attrs{ASPath: []uint32{4200000001, 64512}, TwoOctetAS: true, NextHop: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	b, _, err := bgpmsg.AppendUpdates(nil, lb.IPv4, a, prefixes(1, lb.IPv4))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\x40\x02\x06\x02\x02\x5b\xa0\xfc\x00", "\xc0\x11\x0a\x02\x02\xfa\x56\xea\x01\x00\x00\xfc\x00"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%x lacks %x", b, want)
		}
	}
	a.ASPath = a.ASPath[1:]
	if b, _, _ = bgpmsg.AppendUpdates(nil, lb.IPv4, a, prefixes(1, lb.IPv4)); bytes.Contains(b, []byte("\xc0\x11")) {
		t.Error("AS4_PATH though every AS number has 16 bits")
	}
}

func TestRouteRefresh(t *testing.T) {
	for body, want := range map[string]lb.Family{
		"\x00\x01\x00\x01": lb.IPv4, "\x00\x02\x00\x01": lb.IPv6, "\x00\x01\x01\x01": 0, "\x00\x01\x00\x80": 0, "\x00\x01\x00": 0,
	} {
		if got := bgpmsg.ParseRouteRefresh([]byte(body)); got != want {
			t.Errorf("%x: %s, want %s", body, got, want)
		}
	}
}

// FuzzParse reads whatever a router may send.
func FuzzParse(f *testing.F) {
	o := bgpmsg.Open{
		ASN: 4200000001, HoldTime: 90, RouterID: netip.MustParseAddr("10.0.0.1"), Families: []lb.Family{lb.IPv4, lb.IPv6},
		FourOctetAS: true, RouteRefresh: true, IPv6Hops: true,
		GracefulRestart: &bgpmsg.GracefulRestart{Time: time.Minute, Families: []lb.Family{lb.IPv4}, Preserved: []lb.Family{lb.IPv4}},
	}
	f.Add(o.Append(nil))
	f.Add(bgpmsg.Cease(bgpmsg.CeaseShutdown, "bye").Append(nil))
	f.Add(bgpmsg.AppendKeepalive(nil))
	f.Add(bgpmsg.AppendEndOfRIB(nil, lb.IPv6))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < bgpmsg.HeaderLen {
			return
		}
		_, n, err := bgpmsg.ParseHeader([bgpmsg.HeaderLen]byte(b))
		if err == nil && (n < 0 || n > bgpmsg.MaxLen-bgpmsg.HeaderLen) {
			t.Errorf("length %d", n)
		}
		rest := b[bgpmsg.HeaderLen:]
		// Without families, an OPEN means IPv4, unless it names others.
		if open, err := bgpmsg.ParseOpen(rest); err == nil && len(open.Families) > 0 {
			// What can be read can be told, and means the same.
			again, err := bgpmsg.ParseOpen(body(t, open.Append(nil), bgpmsg.TypeOpen))
			if d := cmp.Diff(open, again, equalAddrs); err != nil || d != "" {
				t.Errorf("%v %s", err, d)
			}
		}
		said := bgpmsg.ParseNotification(rest)
		if text := said.Communication(); len(text) > 3*255 || strings.ContainsAny(text, "\n\x00\x1b") {
			t.Errorf("communication %q", text)
		}
		_ = said.Name()
		_ = bgpmsg.ParseRouteRefresh(rest)
	})
}
