package measure

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// bytesOf reads hexadecimal digits; spaces and what follows a # are ignored.
func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Frames written by hand from the RFCs, their checksums computed elsewhere.
const (
	arpRequestFrame = `
ffffffffffff 020000000001 0806 # Ethernet
0001 0800 06 04 0001           # request
020000000001 c0000201 000000000000 c00002fa`
	arpReplyFrame = `
020000000001 020000000003 0806 # sent by another node
0001 0800 06 04 0002           # reply
020000000002 c00002fa 020000000001 c0000201`
	gratuitousFrame = `
ffffffffffff 020000000002 0806
0001 0800 06 04 0001
020000000002 c00002fa 000000000000 c00002fa`
	solicitationFrame = `
3333ff0000fa 020000000001 86dd
60000000 0020 3a ff            # 32 octets of ICMPv6, hop limit 255
fe800000000000000000000000000001 ff0200000000000000000001ff0000fa
87 00 496f 00000000            # Neighbor Solicitation
20010db80000000000000000000000fa
01 01 020000000001             # source link-layer address`
	advertisementFrame = `
020000000001 020000000003 86dd
60000000 0020 3a ff
fe800000000000000000000000000003 fe800000000000000000000000000001
88 00 e7e8 60000000            # Neighbor Advertisement, S and O
20010db80000000000000000000000fa
02 01 020000000002             # target link-layer address`
)

func TestRequestsAreAsOnTheWire(t *testing.T) {
	t.Parallel()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	arp := arpRequest(mac, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.250"))
	if diff := cmp.Diff(bytesOf(t, arpRequestFrame), arp); diff != "" {
		t.Errorf("ARP request (-want +got):\n%s", diff)
	}
	ns := neighborSolicitation(mac, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::fa"))
	if diff := cmp.Diff(bytesOf(t, solicitationFrame), ns); diff != "" {
		t.Errorf("Neighbor Solicitation (-want +got):\n%s", diff)
	}
}

func TestParseClaims(t *testing.T) {
	t.Parallel()
	self := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	mac2, mac3 := net.HardwareAddr{2, 0, 0, 0, 0, 2}, net.HardwareAddr{2, 0, 0, 0, 0, 3}
	v4, v6 := netip.MustParseAddr("192.0.2.250"), netip.MustParseAddr("2001:db8::fa")
	change := func(text string, offset int, value byte) string {
		b := bytesOf(t, text)
		b[offset] = value
		return hex.EncodeToString(b)
	}
	tests := map[string]struct {
		parse func([]byte, net.HardwareAddr) (claim, bool)
		frame string
		want  claim
		ok    bool
	}{
		"reply by a caretaker": {parseARP, arpReplyFrame, claim{addr: v4, mac: mac2, from: mac3, asked: true}, true},
		"reply, padded":        {parseARP, arpReplyFrame + strings.Repeat("00", 18), claim{addr: v4, mac: mac2, from: mac3, asked: true}, true},
		"gratuitous":           {parseARP, gratuitousFrame, claim{addr: v4, mac: mac2, from: mac2}, true},
		"a request":            {parseARP, arpRequestFrame, claim{}, false},
		"reply to another":     {parseARP, change(arpReplyFrame, 5, 9), claim{}, false},
		"too short":            {parseARP, arpReplyFrame[:60], claim{}, false},
		"not Ethernet":         {parseARP, change(arpReplyFrame, 15, 6), claim{}, false},
		"advertisement": {
			parseAdvertisement, advertisementFrame,
			claim{addr: v6, mac: mac2, from: mac3, asked: true, flags: "SO"},
			true,
		},
		"advertisement, wrong checksum": {parseAdvertisement, change(advertisementFrame, 14+40+2, 0xff), claim{}, false},
		"advertisement, hop limit 64":   {parseAdvertisement, change(advertisementFrame, 14+7, 64), claim{}, false},
		"a solicitation":                {parseAdvertisement, solicitationFrame, claim{}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := test.parse(bytesOf(t, test.frame), self)
			if ok != test.ok {
				t.Fatalf("ok = %v, want %v", ok, test.ok)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(claim{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParsersDoNotPanic(f *testing.F) {
	f.Add([]byte{})
	self := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseARP(b, self)
		parseAdvertisement(b, self)
		parseOpening(b)
		for range attributes(b) {
		}
	})
}

func TestParseOpening(t *testing.T) {
	t.Parallel()
	const (
		ipv4 = "45 00 0028 0000 4000 40 %P 0000 c0000201 c00002fa"
		ipv6 = "60000000 0014 %P 40 20010db8000000000000000000000001 20010db80000000000000000000000fa"
		tcp  = "9c40 0050 00000000 00000000 50 %F 0000 0000 0000"
		udp  = "9c40 1f90 0008 0000"
	)
	src4, dst4 := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddr("192.0.2.250")
	src6, dst6 := netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddr("2001:db8::fa")
	packet := func(ip, proto, rest, flags string) string {
		return strings.ReplaceAll(strings.ReplaceAll(ip+rest, "%P", proto), "%F", flags)
	}
	tests := map[string]struct {
		packet string
		want   opening
		ok     bool
	}{
		"SYN":      {packet(ipv4, "06", tcp, "02"), opening{6, src4, netip.AddrPortFrom(dst4, 80)}, true},
		"SYN, v6":  {packet(ipv6, "06", tcp, "02"), opening{6, src6, netip.AddrPortFrom(dst6, 80)}, true},
		"SYN, ECN": {packet(ipv4, "06", tcp, "c2"), opening{6, src4, netip.AddrPortFrom(dst4, 80)}, true},
		"SYN ACK":  {packet: packet(ipv4, "06", tcp, "12")},
		"ACK":      {packet: packet(ipv4, "06", tcp, "10")},
		"UDP":      {packet(ipv4, "11", udp, ""), opening{17, src4, netip.AddrPortFrom(dst4, 8080)}, true},
		"UDP, v6":  {packet(ipv6, "11", udp, ""), opening{17, src6, netip.AddrPortFrom(dst6, 8080)}, true},
		"ICMP":     {packet: packet(ipv4, "01", udp, "")},
		"fragment": {packet: packet(strings.Replace(ipv4, "4000 40", "0001 40", 1), "11", udp, "")},
		"short":    {packet: packet(ipv4, "06", "9c40 0050 0000", "")},
		"empty":    {},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := parseOpening(bytesOf(t, test.packet))
			if ok != test.ok || ok && got != test.want {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, test.want, test.ok)
			}
		})
	}
}

func TestSummariseFlows(t *testing.T) {
	t.Parallel()
	opts := FlowsOpts{Target: netip.MustParseAddrPort("192.0.2.250:80"), Proto: "tcp", Seed: 7}
	got := summariseFlows(opts, []flow{
		{answer: "pod=web-1 node=node1\n", took: 2 * time.Millisecond},
		{answer: "who pod=web-2 node=node2", took: 4 * time.Millisecond},
		{answer: "<html>", took: time.Millisecond},
		{err: &net.OpError{Err: syscall.ECONNREFUSED}},
		{err: io.ErrUnexpectedEOF},
		{err: errors.New("http status 503")},
		{err: &net.OpError{Err: syscall.ETIMEDOUT}},
		{err: &net.OpError{Err: syscall.ECONNRESET}},
	})
	want := FlowsReport{
		Target: opts.Target, Proto: "tcp", Seed: 7, Flows: 8, Served: 3, Failed: 5,
		Failures: []Share{{"closed", 1, 12.5}, {"http status 503", 1, 12.5}, {"refused", 1, 12.5}, {"reset", 1, 12.5}, {"timeout", 1, 12.5}},
		Nodes:    []Share{{"node1", 1, 12.5}, {"node2", 1, 12.5}, {"unidentified", 1, 12.5}},
		Pods:     []Share{{"unidentified", 1, 12.5}, {"web-1", 1, 12.5}, {"web-2", 1, 12.5}},
		Lost: []LostFlow{
			{Reason: "refused"}, {Reason: "closed"}, {Reason: "http status 503"}, {Reason: "timeout"}, {Reason: "reset"},
		},
		Took: Quantiles{Count: 3, P50: 2, P95: 4, P99: 4, Max: 4},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestArgumentsSurviveParsing(t *testing.T) {
	t.Parallel()
	want := ProbeOpts{Target: netip.MustParseAddrPort("[2001:db8::fa]:8080"), Interval: time.Millisecond, Ports: 3, Timeout: time.Minute, Duration: time.Hour}
	asked := want
	var got ProbeOpts
	if err := parse("probe", &got, arguments(&asked), io.Discard); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	var watch, none NeighWatchOpts
	if err := parse("watch-neigh", &watch, arguments(&none), io.Discard); err != nil || watch != none {
		t.Errorf("zero options: got %+v, %v", watch, err)
	}
}

func TestFollowEndsWithStdin(t *testing.T) {
	t.Parallel()
	in, driver := io.Pipe()
	out, printed := io.Pipe()
	var noted []string
	s := session{out: newEmitter(printed), mark: func(name string, _ time.Time) { noted = append(noted, name) }}
	ctx, cancel := s.follow(t.Context(), in, 0)
	defer cancel()
	if _, err := io.WriteString(driver, "nonsense\nmark link cut\n"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4096)
	n, err := out.Read(answer)
	if err != nil || !strings.Contains(string(answer[:n]), `"event":"mark"`) || !strings.Contains(string(answer[:n]), `"name":"link cut"`) {
		t.Errorf("answer to a mark: %s, %v", answer[:n], err)
	}
	if err := driver.Close(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if diff := cmp.Diff([]string{"link cut"}, noted); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRecorderTakesOnlyAnswersOfItsTarget(t *testing.T) {
	t.Parallel()
	target := netip.MustParseAddrPort("192.0.2.250:8080")
	r := newRecorder(ProbeOpts{Target: target, Interval: time.Millisecond, Ports: 1, Timeout: time.Hour})
	answer := func(run, seq uint64) []byte {
		b := binary.BigEndian.AppendUint64([]byte(probeMagic), run)
		return append(binary.BigEndian.AppendUint64(b, seq), " pod=web node=node1"...)
	}
	for range 5 {
		r.sent()
	}
	r.arrived(answer(r.run, 0), target)
	r.arrived(answer(r.run, 2), target)
	r.arrived(answer(r.run, 3), target)
	r.arrived(answer(r.run, 1), netip.MustParseAddrPort("192.0.2.2:8080")) // another source
	r.arrived(answer(r.run+1, 1), target)                                  // another run
	r.arrived([]byte("nonsense"), target)
	r.arrived(answer(r.run, 1<<63), target) // never sent
	if diff := cmp.Diff(ProbeStatus{Sent: 5, Answered: 3, Pending: 1, Streak: 2}, r.status()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	r.mark("cut", time.Now())
	r.sent()
	r.arrived(answer(r.run, 5), target)
	if diff := cmp.Diff(ProbeStatus{Sent: 6, Answered: 4, Pending: 0, Streak: 1}, r.status()); diff != "" {
		t.Errorf("status after a mark (-want +got):\n%s", diff)
	}
	got := AnalyseProbe(r.trace)
	if got.Answered != 4 || got.Lost != 2 || got.Foreign != 4 || got.Backends[0].Name != "node1/web" {
		t.Errorf("got %+v", got)
	}
}
