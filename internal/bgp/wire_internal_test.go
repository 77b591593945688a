package bgp

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bgpmsg"
	"github.com/barelb/barelb/internal/core/lb"
)

func testPeer(change func(*lb.Peer)) lb.Peer {
	p := lb.Peer{
		Name: "r", LocalASN: 64512, PeerASN: 64513, Addr: netip.MustParseAddr("10.9.0.2"), Port: 179,
		Families: []lb.Family{lb.IPv4},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*lb.Peer)
		want   string // part of the error; "" for none
	}{
		{"good", nil, ""},
		{"no keepalives", func(p *lb.Peer) { p.TimersSet = true }, ""},
		{"no own AS", func(p *lb.Peer) { p.LocalASN = 0 }, "myASN"},
		{"no AS", func(p *lb.Peer) { p.PeerASN = 0 }, "peerASN: missing"},
		{"two ASes", func(p *lb.Peer) { p.Dynamic = lb.ExternalASN }, "dynamicASN: excludes peerASN"},
		{"odd AS", func(p *lb.Peer) { p.Dynamic = "auto" }, `dynamicASN: "auto"`},
		{"no address", func(p *lb.Peer) { p.Addr = netip.Addr{} }, "peerAddress: missing"},
		{"multicast", func(p *lb.Peer) { p.Addr = netip.MustParseAddr("224.0.0.1") }, "peerAddress"},
		{"link-local", func(p *lb.Peer) { p.Addr = netip.MustParseAddr("fe80::1") }, "give interface"},
		{"unnumbered", func(p *lb.Peer) { p.Addr, p.Interface = netip.Addr{}, "eth0" }, ""},
		{"address and interface", func(p *lb.Peer) { p.Interface = "eth0" }, "interface: excludes peerAddress"},
		{"unnumbered with source", func(p *lb.Peer) {
			p.Addr, p.Interface, p.SourceAddr = netip.Addr{}, "eth0", netip.MustParseAddr("fe80::1")
		}, "sourceAddress"},
		{"long interface", func(p *lb.Peer) { p.Addr, p.Interface = netip.Addr{}, "interface-of-16-" }, "interface: longer"},
		{"long VRF", func(p *lb.Peer) { p.VRF = "interface-of-16-" }, "vrf: longer"},
		{"security and multihop", func(p *lb.Peer) { p.TTLSecurityHops, p.MultiHop = 1, true }, "ttlSecurityHops: excludes"},
		{"security of all", func(p *lb.Peer) { p.TTLSecurityHops = 255 }, "ttlSecurityHops: more"},
		{"no port", func(p *lb.Peer) { p.Port = 0 }, "peerPort"},
		{"no family", func(p *lb.Peer) { p.Families = nil }, "families"},
		{"source of other family", func(p *lb.Peer) { p.SourceAddr = netip.MustParseAddr("fd00::1") }, "sourceAddress"},
		{"IPv6 router ID", func(p *lb.Peer) { p.RouterID = netip.MustParseAddr("fd00::1") }, "routerID"},
		{"zero router ID", func(p *lb.Peer) { p.RouterID = netip.IPv4Unspecified() }, "routerID"},
		{"long password", func(p *lb.Peer) { p.Password = strings.Repeat("x", 81) }, "password: longer"},
		{"short hold time", func(p *lb.Peer) { p.TimersSet, p.HoldTime = true, 2*time.Second }, "holdTime"},
		{"long hold time", func(p *lb.Peer) { p.TimersSet, p.HoldTime = true, 20*time.Hour }, "holdTime"},
		{"slow keepalive", func(p *lb.Peer) { p.TimersSet, p.HoldTime, p.Keepalive = true, 3*time.Second, 4*time.Second }, "keepaliveTime"},
		{"all at once", func(p *lb.Peer) { p.Port, p.LocalASN = 0, 0 }, "myASN: missing\npeerPort: missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := testPeer(tc.change)
			err := validate(p)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if err != nil && p.Password != "" && strings.Contains(err.Error(), p.Password) {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestRouterID(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	for _, tc := range []struct {
		name, node string
		change     func(*lb.Peer)
		addrs      []netip.Addr
		want       string
	}{
		{"the peer's", "node1", func(p *lb.Peer) { p.RouterID = netip.MustParseAddr("10.1.1.1") }, []netip.Addr{v4}, "10.1.1.1"},
		{"the node's", "node1", nil, []netip.Addr{v6, v4}, "10.9.0.1"},
		{"the name's", "node1", nil, []netip.Addr{v6}, "16.78.40.116"},
		{"another name's", "node2", nil, nil, "19.78.45.45"},
		{"no name's", "", nil, nil, "130.28.157.197"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, routerID(testPeer(tc.change), tc.node, tc.addrs).String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLocalAddresses(t *testing.T) {
	list := func(specs ...string) []linkAddr {
		var all []linkAddr
		for _, spec := range specs {
			pfx, flags, _ := strings.Cut(spec, " ")
			all = append(all, linkAddr{
				prefix:    netip.MustParsePrefix(pfx),
				lasting:   !strings.Contains(flags, "auto"),
				secondary: strings.Contains(flags, "secondary"),
			})
		}
		return all
	}
	node := []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("fd16::1")}
	for _, tc := range []struct {
		name   string
		family lb.Family
		addrs  []linkAddr
		want   string
	}{
		{"first", lb.IPv4, list("fd09::1/64", "10.9.0.1/24", "10.9.1.1/24"), "10.9.0.1"},
		{"lasting before lent", lb.IPv6, list("fd09::5/64 auto", "fe80::1/64", "fd09::1/64"), "fd09::1"},
		{"lent", lb.IPv4, list("10.9.0.1/24 auto"), "10.9.0.1"},
		{"secondary last", lb.IPv4, list("10.9.0.9/24 secondary", "10.9.0.1/24 auto"), "10.9.0.1"},
		{"the node's", lb.IPv6, list("10.9.0.1/24", "fe80::1/64"), "fd16::1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, best(tc.addrs, tc.family, node).String()); diff != "" {
				t.Error(diff)
			}
		})
	}

	router, lent, own := netip.MustParseAddr("fd09::2"), netip.MustParseAddr("fd09::5"), netip.MustParseAddr("fd09::1")
	for _, tc := range []struct {
		name  string
		addrs []linkAddr
		want  netip.Addr
	}{
		{"the kernel's, lasting", list("fd09::5/64", "fd09::1/64"), lent},
		{"one that lasts", list("fd09::5/64 auto", "fd77::1/64", "fd09::1/64"), own},
		{"none that lasts", list("fd09::5/64 auto", "fd77::1/64"), lent},
	} {
		t.Run("source "+tc.name, func(t *testing.T) {
			if got := sourceFor(router, lent, tc.addrs); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	p := testPeer(func(p *lb.Peer) { p.Password = "hush" })
	router := p.Addr
	vrf := testPeer(func(p *lb.Peer) { p.VRF = "red" })
	secured := testPeer(func(p *lb.Peer) { p.TTLSecurityHops = 2 })
	note := func(code, subcode uint8) error {
		return received(&bgpmsg.Notification{Code: code, Subcode: subcode}, p)
	}
	said := received(bgpmsg.Cease(bgpmsg.CeaseShutdown, "back at noon"), p)
	for name, tc := range map[string]struct {
		got  any
		want string
	}{
		"silence with password":    {explainDial(os.ErrDeadlineExceeded, p, router), "has another password"},
		"silence without password": {explainDial(os.ErrDeadlineExceeded, testPeer(nil), router), "demands a password"},
		"too far":                  {explainDial(unix.EHOSTUNREACH, p, router), "set ebgpMultiHop"},
		"farther than allowed":     {explainDial(os.ErrDeadlineExceeded, secured, router), "more than 2 hops away"},
		"refused":                  {explainDial(unix.ECONNREFUSED, p, router), "no BGP router listens there"},
		"reset":                    {explainDial(unix.ECONNRESET, p, router), "does not know this node"},
		"source":                   {explainDial(unix.EADDRNOTAVAIL, p, router), "correct sourceAddress"},
		"no VRF":                   {explainDial(unix.ENODEV, vrf, router), `no device "red"`},
		"other":                    {explainDial(unix.ENETUNREACH, p, router), "network is unreachable"},
		"our AS":                   {note(2, 2), "correct myASN"},
		"too many":                 {note(6, 1), "limit of prefixes"},
		"shut down":                {note(6, 2), "Cease/Administrative Shutdown"},
		"says":                     {said, `"back at noon"`},
		"deconfigured":             {note(6, 3), "no longer has this node"},
		"their hold time":          {note(4, 0), "heard nothing from this node"},
		"closed":                   {explainLost(io.EOF, p), "closed the connection"},
		"stuck":                    {explainLost(os.ErrDeadlineExceeded, p), "does not take in"},
		"odd":                      {explainLost(unix.ENOBUFS, p), "no buffer space"},
	} {
		text := fmt.Sprint(tc.got)
		if !strings.Contains(text, tc.want) || strings.Contains(text, p.Password) {
			t.Errorf("%s: %q, want it to say %q", name, text, tc.want)
		}
	}
}

// Pauses grow, have a bound below the 2 s in which a router is to be found again, and
// differ from node to node.
func TestPauses(t *testing.T) {
	s := newSession(Config{Log: slog.New(slog.DiscardHandler), NodeAddrs: func() []netip.Addr { return nil }}, lb.Session{Peer: testPeer(nil)}, func() {})
	last := time.Duration(0)
	for range 100 {
		last = s.failed(unix.ECONNREFUSED)
		if last > mostPause {
			t.Fatalf("pause %s", last)
		}
	}
	if last < mostPause*3/4 {
		t.Errorf("pause after 100 failures: %s", last)
	}
	refused := &failure{refused: true}
	if got := s.failed(refused); got > leastRefused { // it was away, and reads its configuration
		t.Errorf("pause after 100 failures and a refusal: %s", got)
	}
	for range 100 {
		last = s.failed(refused)
	}
	if last > mostRefused || last < mostRefused*3/4 {
		t.Errorf("pause after 100 refusals: %s", last)
	}
	// A session that lasted is forgiven them, however it ends.
	s.state, s.established = stateEstablished, time.Now().Add(-stableTime)
	s.conn = &conn{}
	s.failed(refused)
	if got := s.failed(refused); got > 2*leastRefused {
		t.Errorf("pause after a session that lasted and a refusal: %s", got)
	}
	for range 100 {
		s.failed(refused)
	}
	seen := map[time.Duration]bool{}
	for range 20 {
		seen[jitter(time.Second)] = true
	}
	if len(seen) < 2 {
		t.Error("no jitter")
	}
	s.peer.ConnectRetry = 7 * time.Second
	if got := s.failed(refused); got > 7*time.Second || got < 5*time.Second {
		t.Errorf("pause with connectTime 7s: %s", got)
	}
}

// TestAdvertisers: a router that is silent does not stand in the way of the one that took
// its place, however long its advertisement holds.
func TestAdvertisers(t *testing.T) {
	t.Parallel()
	const lifetime = 30 * time.Minute
	start := time.Now()
	old, successor := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")
	f := newFinder("eth0", slog.New(slog.DiscardHandler))
	check := func(after time.Duration, want ...netip.Addr) {
		t.Helper()
		got := f.advertisers(start.Add(after))
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("after %s: %v, want %v", after, got, want)
		}
	}
	f.hear(old, lifetime, start)
	check(time.Minute, old)
	f.hear(old, lifetime, start.Add(time.Minute))
	f.hear(successor, 0, start.Add(time.Minute+3*slowSolicits-time.Second))
	check(time.Minute+3*slowSolicits-time.Second, old, successor) // two, as far as anybody knows
	check(time.Minute+3*slowSolicits, successor)
	check(time.Minute+2*3*slowSolicits, old) // neither was heard, and this one said for how long
	check(time.Hour + 2*time.Minute)
}
