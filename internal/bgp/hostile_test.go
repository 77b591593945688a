package bgp_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

// hostile is a neighbor that says what no router does; that is why it is none.
type hostile struct {
	t      testing.TB
	listen *net.TCPListener
	conn   net.Conn
}

func newHostile(t testing.TB) *hostile {
	t.Helper()
	listen, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listen.Close() })
	return &hostile{t: t, listen: listen}
}

func (h *hostile) port() uint16 { return netip.MustParseAddrPort(h.listen.Addr().String()).Port() }

// accept takes the next connection and reads the OPEN.
func (h *hostile) accept() {
	h.t.Helper()
	if err := h.listen.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	conn, err := h.listen.Accept()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	h.conn = conn
	if kind, _ := h.read(); kind != bgpmsg.TypeOpen {
		h.t.Fatalf("first message is %s", kind)
	}
}

// establish accepts a session.
func (h *hostile) establish() {
	h.t.Helper()
	h.accept()
	open := bgpmsg.Open{ASN: 64513, HoldTime: 90, RouterID: netip.MustParseAddr("10.0.0.9"), Families: []lb.Family{lb.IPv4}, FourOctetAS: true}
	h.say(bgpmsg.AppendKeepalive(open.Append(nil)))
	if kind, _ := h.read(); kind != bgpmsg.TypeKeepalive {
		h.t.Fatalf("second message is %s", kind)
	}
}

func (h *hostile) say(b []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(b); err != nil {
		h.t.Fatal(err)
	}
}

// read returns the next message.
func (h *hostile) read() (bgpmsg.Type, []byte) {
	h.t.Helper()
	if err := h.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	var header [bgpmsg.HeaderLen]byte
	if _, err := io.ReadFull(h.conn, header[:]); err != nil {
		h.t.Fatal(err)
	}
	kind, n, err := bgpmsg.ParseHeader(header)
	if err != nil {
		h.t.Fatal(err)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(h.conn, body); err != nil {
		h.t.Fatal(err)
	}
	return kind, body
}

// refused reads up to a NOTIFICATION, whose name it returns.
func (h *hostile) refused() string {
	h.t.Helper()
	for {
		if kind, body := h.read(); kind == bgpmsg.TypeNotification {
			return bgpmsg.ParseNotification(body).Name()
		}
	}
}

func (h *hostile) update(body string) []byte {
	b := []byte(strings.Repeat("\xff", 16))
	b = binary.BigEndian.AppendUint16(b, uint16(bgpmsg.HeaderLen+len(body)))
	return append(append(b, byte(bgpmsg.TypeUpdate)), body...)
}

// TestHostileRouter: what is malformed never ends a session if it can be passed over
// (RFC 7606), and ends it with the right NOTIFICATION and a reason if not.
func TestHostileRouter(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	speaker := bgp.New(bgp.Config{Log: slog.New(slog.DiscardHandler), SendHoldTime: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- speaker.Run(ctx) }()
	p := peer("127.0.0.1", 64513, lb.IPv4)
	p.Port = h.port()
	p.MultiHop, p.ConnectRetry = true, time.Second
	want := lb.BGP{{Peer: p, Routes: routes(lb.Attrs{}, vip4)}}
	if err := speaker.Apply(ctx, want); err != nil {
		t.Fatal(err)
	}
	status := func(check func(bgp.SessionStatus) bool) {
		t.Helper()
		eventually(t, 10*time.Second, func() string {
			if s := speaker.Status()[0]; !check(s) {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
	}

	h.establish()
	update := func() {
		t.Helper()
		for kind := bgpmsg.Type(0); kind != bgpmsg.TypeUpdate; {
			if kind, _ = h.read(); kind == bgpmsg.TypeNotification {
				t.Fatal("a malformed UPDATE ended the session")
			}
		}
	}
	update() // routes
	update() // End-of-RIB
	for _, body := range []string{
		"\x00\x00\x00\x00",                          // End-of-RIB
		"\xff\xff\x00\x00",                          // withdrawn routes beyond the end
		"\x00\x00\xff\xff",                          // attributes beyond the end
		"\x00\x00\x00\x03\x40\x01\x09",              // an attribute beyond the attributes
		"\x00\x00\x00\x04\x40\x01\x01\x07\x20\x0a",  // a bad ORIGIN, a cut prefix
		"\x00\x00\x00\x00\xff\x01\x02\x03",          // a prefix of 255 bits, and no attributes
		"\x00\x00\x00\x03\x90\x0e\xff" + "\x00\xff", // MP_REACH_NLRI of a strange length
	} {
		h.say(h.update(body))
	}
	h.say(bgpmsg.AppendKeepalive(nil))
	more := lb.BGP{{Peer: p, Routes: routes(lb.Attrs{}, vip4, "192.0.2.2/32")}}
	if err := speaker.Apply(ctx, more); err != nil {
		t.Fatal(err)
	}
	update() // one more route
	status(func(s bgp.SessionStatus) bool { return s.State == "Established" && s.Advertised == 2 })

	for _, c := range []struct{ bytes, want string }{
		{strings.Repeat("\xfe", 19), "Message Header Error/Connection Not Synchronized"},
		{strings.Repeat("\xff", 16) + "\x00\x13\x09", "Message Header Error/Bad Message Type"},
		{strings.Repeat("\xff", 16) + "\xff\xff\x02", "Message Header Error/Bad Message Length"},
		{string((&bgpmsg.Open{ASN: 1, RouterID: netip.MustParseAddr("10.0.0.9")}).Append(nil)), "Finite State Machine Error/Unexpected Message in Established"},
	} {
		h.say([]byte(c.bytes))
		if got := h.refused(); got != c.want {
			t.Errorf("refused with %s, want %s", got, c.want)
		}
		status(func(s bgp.SessionStatus) bool { return strings.Contains(s.LastError, c.want) })
		h.establish()
	}

	// A speaker of 16 bits with hold time 3 s, that says nothing more.
	_ = h.conn.Close()
	for _, c := range []struct {
		say  []byte
		want string
	}{
		{(&bgpmsg.Open{ASN: 64513, HoldTime: 2, RouterID: netip.MustParseAddr("10.0.0.9")}).Append(nil), "OPEN Message Error/Unacceptable Hold Time"},
		{bgpmsg.AppendKeepalive(nil), "Finite State Machine Error/Unexpected Message in OpenSent"},
		{(&bgpmsg.Open{ASN: 64999, RouterID: netip.MustParseAddr("10.0.0.9")}).Append(nil), "OPEN Message Error/Bad Peer AS"},
	} {
		h.accept()
		h.say(c.say)
		if got := h.refused(); got != c.want {
			t.Errorf("refused with %s, want %s", got, c.want)
		}
	}
	h.accept()
	h.say(bgpmsg.AppendKeepalive((&bgpmsg.Open{ASN: 64513, HoldTime: 3, RouterID: netip.MustParseAddr("10.0.0.9")}).Append(nil)))
	if got := h.refused(); got != "Hold Timer Expired" {
		t.Errorf("refused with %s", got)
	}
	status(func(s bgp.SessionStatus) bool {
		return strings.Contains(s.LastError, "nothing was heard from the router")
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestReasonIsKept: a router that ends the session while it is sent its first routes is
// taken at its word, not at how writing to it fails.
func TestReasonIsKept(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	raw, err := h.listen.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// So little that the routes do not fit.
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	speaker := bgp.New(bgp.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- speaker.Run(ctx) }()
	p := peer("127.0.0.1", 64513, lb.IPv4)
	p.Port, p.MultiHop = h.port(), true
	all := map[netip.Prefix]lb.Attrs{}
	for i := range 1 << 18 {
		all[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)] = lb.Attrs{}
	}
	if err := speaker.Apply(ctx, lb.BGP{{Peer: p, Routes: all}}); err != nil {
		t.Fatal(err)
	}
	h.establish()
	h.say(bgpmsg.Cease(bgpmsg.CeaseMaxPrefixes, "").Append(nil))
	_ = h.conn.Close()
	eventually(t, 10*time.Second, func() string {
		if s := speaker.Status()[0]; !strings.Contains(s.LastError, "limit of prefixes") {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestSentIsLogged: at debug level the log says when routers were told, and how long after
// the speaker was.
func TestSentIsLogged(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	var text output
	speaker := bgp.New(bgp.Config{Log: slog.New(slog.NewJSONHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- speaker.Run(ctx) }()
	p := peer("127.0.0.1", 64513, lb.IPv4)
	p.Port, p.MultiHop = h.port(), true
	apply := func(vips ...string) {
		t.Helper()
		if err := speaker.Apply(ctx, lb.BGP{{Peer: p, Routes: routes(lb.Attrs{}, vips...), Since: time.Now().Add(-time.Hour)}}); err != nil {
			t.Fatal(err)
		}
	}
	logged := func(n int) []string {
		t.Helper()
		var lines []string
		eventually(t, 10*time.Second, func() string {
			lines = slices.DeleteFunc(strings.Split(text.String(), "\n"), func(l string) bool { return !strings.Contains(l, "bgp routes sent") })
			if len(lines) != n {
				return fmt.Sprintf("%d lines, want %d: %s", len(lines), n, lines)
			}
			return ""
		})
		return lines
	}
	apply(vip4)
	h.establish()
	if got := logged(1)[0]; strings.Contains(got, "after") || !strings.Contains(got, `"announced":1,"withdrawn":0`) {
		t.Errorf("the first routes of a session: %s", got)
	}
	apply(vip4)
	apply("192.0.2.2/32", "192.0.2.3/32")
	if got := logged(2)[1]; !strings.Contains(got, `"after":"1h0m0.`) || !strings.Contains(got, `"announced":2,"withdrawn":1`) {
		t.Errorf("a change: %s", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
