package ndp_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/ndp"
)

var (
	self   = ndp.MAC{2, 0, 0, 0, 0, 1}
	client = ndp.MAC{2, 0, 0, 0, 0, 9}
	vip    = netip.MustParseAddr("2001:db8::ab:cdef")
	host   = netip.MustParseAddr("2001:db8::9")
	addrs  = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
)

// owner is whom self takes care for.
var owner = ndp.MAC{2, 0, 0, 0, 0, 3}

// everything answers for every address in a role.
func everything(role lb.Role, mac ndp.MAC) ndp.Answering {
	return func(netip.Addr) (lb.Role, ndp.MAC, bool) { return role, mac, true }
}

// vipAlone answers for vip in a role.
func vipAlone(role lb.Role, mac ndp.MAC) ndp.Answering {
	return func(a netip.Addr) (lb.Role, ndp.MAC, bool) { return role, mac, a == vip }
}

// solicit is what a client's kernel multicasts, with change made to it.
func solicit(change func(*ndp.Solicitation)) ndp.Solicitation {
	s := ndp.Solicitation{
		Dst: ndp.GroupMAC(ndp.Group(vip)), Src: client, SrcIP: host, DstIP: ndp.Group(vip), Target: vip,
		SourceLinkAddr: client, HasSourceLinkAddr: true,
	}
	if change != nil {
		change(&s)
	}
	return s
}

func unicast(s *ndp.Solicitation) { s.Dst, s.DstIP = self, vip }

func noOption(s *ndp.Solicitation) { s.SourceLinkAddr, s.HasSourceLinkAddr = ndp.MAC{}, false }

func dad(s *ndp.Solicitation) { noOption(s); s.SrcIP = netip.IPv6Unspecified() }

func all(changes ...func(*ndp.Solicitation)) func(*ndp.Solicitation) {
	return func(s *ndp.Solicitation) {
		for _, c := range changes {
			c(s)
		}
	}
}

// withBytes returns a plain solicitation's frame with b written at an offset and
// the checksum made right again.
func withBytes(at int, b ...byte) []byte {
	f := solicit(nil).Append(nil)
	copy(f[at:], b)
	return fixChecksum(f)
}

// withOptions returns a solicitation's frame with these bytes for options.
func withOptions(b ...byte) []byte {
	f := append(solicit(noOption).Append(nil), b...)
	binary.BigEndian.PutUint16(f[18:], uint16(24+len(b)))
	return fixChecksum(f)
}

// fixChecksum is a second, plainer implementation: the sum of all 16-bit words of
// the pseudo header and the message.
func fixChecksum(f []byte) []byte {
	f[56], f[57] = 0, 0
	words := append([]byte{}, f[22:54]...)
	words = append(words, 0, 0, f[18], f[19], 0, 0, 0, 58)
	words = append(words, f[54:]...)
	if len(words)%2 == 1 {
		words = append(words, 0)
	}
	var sum uint64
	for i := 0; i < len(words); i += 2 {
		sum += uint64(words[i])<<8 | uint64(words[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(f[56:], ^uint16(sum))
	return f
}

func TestGroup(t *testing.T) {
	g := ndp.Group(vip)
	if want := netip.MustParseAddr("ff02::1:ffab:cdef"); g != want {
		t.Errorf("group %s, want %s", g, want)
	}
	if got, want := ndp.GroupMAC(g), (ndp.MAC{0x33, 0x33, 0xff, 0xab, 0xcd, 0xef}); got != want {
		t.Errorf("group address %x, want %x", got, want)
	}
	if got, want := ndp.GroupMAC(ndp.AllNodes()), (ndp.MAC{0x33, 0x33, 0, 0, 0, 1}); got != want {
		t.Errorf("all nodes %x, want %x", got, want)
	}
}

func TestSolicitationWire(t *testing.T) {
	// fe80::2 looks for fe80::1. The checksum was worked out by hand:
	// fe80+0002 + ff02+0001+ff00+0001 + 0020+003a + 8700 + fe80+0001 + 0101+0200+0000+0002
	// = 48564, folded 8568, inverted 7a97.
	wire := bytesOf(t, `3333ff000001 020000000002 86dd
		60000000 0020 3a ff fe800000000000000000000000000002 ff0200000000000000000001ff000001
		87 00 7a97 00000000 fe800000000000000000000000000001
		01 01 020000000002`)
	want := ndp.Solicitation{
		Dst: ndp.MAC{0x33, 0x33, 0xff, 0, 0, 1}, Src: ndp.MAC{2, 0, 0, 0, 0, 2},
		SrcIP: netip.MustParseAddr("fe80::2"), DstIP: netip.MustParseAddr("ff02::1:ff00:1"), Target: netip.MustParseAddr("fe80::1"),
		SourceLinkAddr: ndp.MAC{2, 0, 0, 0, 0, 2}, HasSourceLinkAddr: true,
	}
	got, err := ndp.ParseSolicitation(wire)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, addrs); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wire, want.Append(nil)); diff != "" {
		t.Errorf("Append (-want +got):\n%s", diff)
	}
}

func bytesOf(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAdvertisementWire(t *testing.T) {
	for _, want := range []ndp.Advertisement{
		ndp.Unsolicited(vip, self),
		{Dst: client, Src: self, SrcIP: vip, DstIP: host, Target: vip, Solicited: true},
		{Dst: client, Src: self, SrcIP: vip, DstIP: host, Target: vip, Router: true, Override: true},
	} {
		frame := want.Append(nil)
		if diff := cmp.Diff(frame, fixChecksum(append([]byte{}, frame...))); diff != "" {
			t.Errorf("checksum (-got +want):\n%s", diff)
		}
		got, err := ndp.ParseAdvertisement(append(frame, 1, 2, 3)) // with padding
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, addrs); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	bad := ndp.Unsolicited(vip, self)
	bad.Solicited = true
	if _, err := ndp.ParseAdvertisement(bad.Append(nil)); !errors.Is(err, ndp.ErrAddress) {
		t.Errorf("solicited to a group: %v, want %v", err, ndp.ErrAddress)
	}
	if _, err := ndp.ParseAdvertisement(solicit(nil).Append(nil)); !errors.Is(err, ndp.ErrKind) {
		t.Errorf("a solicitation: %v, want %v", err, ndp.ErrKind)
	}
}

func TestParseSolicitationRefuses(t *testing.T) {
	plain := solicit(nil).Append(nil)
	flipped := append([]byte{}, plain...)
	flipped[80] ^= 1
	noChecksum := append([]byte{}, plain...)
	noChecksum[56], noChecksum[57] = 0, 0
	tests := []struct {
		name  string
		frame []byte
		want  error
	}{
		{"empty", nil, ndp.ErrShort},
		{"one byte short", plain[:len(plain)-1], ndp.ErrShort},
		{"half", plain[:40], ndp.ErrShort},
		{"payload length beyond the frame", withBytes(18, 0xff, 0xff), ndp.ErrShort},
		{"payload length below the message", withBytes(18, 0, 23), ndp.ErrShort},
		{"jumbogram", withBytes(18, 0, 0), ndp.ErrShort},
		{"ether type", withBytes(12, 8, 6), ndp.ErrKind},
		{"IP version", withBytes(14, 0x40), ndp.ErrKind},
		{"extension header", withBytes(20, 0), ndp.ErrKind},
		{"UDP", withBytes(20, 17), ndp.ErrKind},
		{"type", withBytes(54, 136), ndp.ErrKind},
		{"code", withBytes(55, 1), ndp.ErrKind},
		{"hop limit 254", withBytes(21, 254), ndp.ErrHopLimit},
		{"a bit is wrong", flipped, ndp.ErrChecksum},
		{"no checksum", noChecksum, ndp.ErrChecksum},
		{"multicast target", withBytes(62, 0xff, 2), ndp.ErrAddress},
		{"multicast source", withBytes(22, 0xff, 2), ndp.ErrAddress},
		{"unspecified source, unicast destination", solicit(all(dad, unicast)).Append(nil), ndp.ErrAddress},
		{"unspecified source with an option", solicit(func(s *ndp.Solicitation) { s.SrcIP = netip.IPv6Unspecified() }).Append(nil), ndp.ErrOption},
		{"option of length 0", withOptions(1, 0, 2, 0, 0, 0, 0, 9), ndp.ErrOption},
		{"option beyond the message", withOptions(1, 2, 2, 0, 0, 0, 0, 9), ndp.ErrOption},
		{"half an option header", withOptions(1), ndp.ErrOption},
		{"bad option behind a good one", withOptions(1, 1, 2, 0, 0, 0, 0, 9, 14, 0, 0, 0, 0, 0, 0, 0), ndp.ErrOption},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ndp.ParseSolicitation(tt.frame); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, drop := ndp.Answer(tt.frame, self, everything(lb.Own, self)); drop != ndp.Malformed {
				t.Errorf("Answer: %s, want Malformed", drop)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	solicited := ndp.Advertisement{
		Dst: client, Src: self, SrcIP: vip, DstIP: host, Target: vip,
		Solicited: true, Override: true, TargetLinkAddr: self, HasTargetLinkAddr: true,
	}
	defence := ndp.Advertisement{
		Dst: ndp.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: self, SrcIP: vip, DstIP: netip.MustParseAddr("ff02::1"), Target: vip,
		Override: true, TargetLinkAddr: self, HasTargetLinkAddr: true,
	}
	frame := func(changes ...func(*ndp.Solicitation)) []byte { return solicit(all(changes...)).Append(nil) }
	none := ndp.Advertisement{}
	elsewhere := ndp.MAC{2, 0, 0, 0, 0, 0x55}

	tests := []struct {
		name  string
		frame []byte
		want  ndp.Advertisement
		drop  ndp.Drop
	}{
		{"multicast with option", frame(), solicited, ndp.Answered},
		{"multicast without option", frame(noOption), solicited, ndp.Answered},
		{"unicast probe with option", frame(unicast), solicited, ndp.Answered},
		{"unicast probe without option", frame(unicast, noOption), solicited, ndp.Answered},
		{"duplicate address detection", frame(dad), defence, ndp.Answered},
		{
			"duplicate address detection with a nonce (RFC 7527)",
			append([]byte{}, func() []byte {
				f := append(solicit(dad).Append(nil), 14, 1, 1, 2, 3, 4, 5, 6)
				binary.BigEndian.PutUint16(f[18:], 32)
				return fixChecksum(f)
			}()...), defence, ndp.Answered,
		},
		{"option wins over the frame's source", frame(func(s *ndp.Solicitation) { s.Src = elsewhere }), solicited, ndp.Answered},
		{"option behind an unknown one", withOptions(14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0, 0, 0, 0, 9), solicited, ndp.Answered},
		{"IPv6 unicast in an Ethernet group frame (RFC 6085)", frame(func(s *ndp.Solicitation) { s.DstIP = vip }), solicited, ndp.Answered},
		{"to another station", frame(unicast, func(s *ndp.Solicitation) { s.Dst = elsewhere }), none, ndp.NotToUs},
		{"to another group", frame(func(s *ndp.Solicitation) { s.DstIP = ndp.Group(host) }), none, ndp.NotToUs},
		{"to all nodes", frame(func(s *ndp.Solicitation) { s.DstIP = ndp.AllNodes() }), none, ndp.NotToUs},
		{"on its way to another host", frame(unicast, func(s *ndp.Solicitation) { s.DstIP = host }), none, ndp.NotToUs},
		{"own option", frame(func(s *ndp.Solicitation) { s.SourceLinkAddr = self }), none, ndp.BadSender},
		{"own frame", frame(func(s *ndp.Solicitation) { s.Src = self }), none, ndp.BadSender},
		{"multicast option", frame(func(s *ndp.Solicitation) { s.SourceLinkAddr = ndp.MAC{0x33, 0x33} }), none, ndp.BadSender},
		{"zero option", frame(func(s *ndp.Solicitation) { s.SourceLinkAddr = ndp.MAC{} }), none, ndp.BadSender},
		{"somebody has the address", frame(func(s *ndp.Solicitation) { s.SrcIP = vip }), none, ndp.Claim},
		{"another address of the same group", frame(func(s *ndp.Solicitation) { s.Target = netip.MustParseAddr("2001:db8::1:ab:cdef") }), none, ndp.NotAnnounced},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, drop := ndp.Answer(tt.frame, self, vipAlone(lb.Own, self))
			if drop != tt.drop {
				t.Fatalf("reason %s, want %s", drop, tt.drop)
			}
			if diff := cmp.Diff(tt.want, got, addrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnswerInOtherRoles(t *testing.T) {
	frame := func(changes ...func(*ndp.Solicitation)) []byte { return solicit(all(changes...)).Append(nil) }
	fromOwner := func(s *ndp.Solicitation) { s.Src = owner }
	refreshed := ndp.Advertisement{
		Dst: client, Src: self, SrcIP: vip, DstIP: host, Target: vip,
		Solicited: true, Override: true, TargetLinkAddr: self, HasTargetLinkAddr: true,
	}
	inPlace := refreshed
	inPlace.Override, inPlace.TargetLinkAddr = false, owner
	defence := inPlace
	defence.DstIP, defence.Solicited = netip.MustParseAddr("ff02::1"), false
	none := ndp.Advertisement{}
	tests := []struct {
		name  string
		frame []byte
		role  lb.Role
		mac   ndp.MAC
		want  ndp.Advertisement
		drop  ndp.Drop
	}{
		{"yield: refresh", frame(unicast), lb.Yield, self, refreshed, ndp.Answered},
		{"yield: refresh without option", frame(unicast, noOption), lb.Yield, self, refreshed, ndp.Answered},
		{"yield: multicast", frame(), lb.Yield, self, none, ndp.Yielding},
		{"yield: multicast packet in a unicast frame", frame(func(s *ndp.Solicitation) { s.Dst = self }), lb.Yield, self, none, ndp.Yielding},
		{"yield: unicast packet in a multicast frame", frame(func(s *ndp.Solicitation) { s.DstIP = vip }), lb.Yield, self, none, ndp.Yielding},
		{"yield: duplicate address detection", frame(dad), lb.Yield, self, none, ndp.Yielding},
		{"yield: another address", frame(func(s *ndp.Solicitation) { s.Dst, s.DstIP, s.Target = self, host, host }, func(s *ndp.Solicitation) { s.SrcIP = host.Next() }), lb.Yield, self, none, ndp.NotAnnounced},
		{"caretake: multicast", frame(), lb.Caretake, owner, inPlace, ndp.Answered},
		{"caretake: multicast without option", frame(noOption), lb.Caretake, owner, inPlace, ndp.Answered},
		{"caretake: refresh of who believes that we are the owner", frame(unicast), lb.Caretake, owner, inPlace, ndp.Answered},
		{"caretake: duplicate address detection", frame(dad), lb.Caretake, owner, defence, ndp.Answered},
		{"caretake: refresh of the owner's entry, flooded", frame(unicast, func(s *ndp.Solicitation) { s.Dst = owner }), lb.Caretake, owner, none, ndp.NotToUs},
		{"caretake: the owner asks", frame(func(s *ndp.Solicitation) { s.Src, s.SourceLinkAddr = owner, owner }), lb.Caretake, owner, none, ndp.FromOwner},
		{"caretake: the owner's frame", frame(fromOwner), lb.Caretake, owner, none, ndp.FromOwner},
		{"caretake: duplicate address detection of the owner", frame(dad, fromOwner), lb.Caretake, owner, none, ndp.FromOwner},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, drop := ndp.Answer(tt.frame, self, vipAlone(tt.role, tt.mac))
			if drop != tt.drop {
				t.Fatalf("reason %s, want %s", drop, tt.drop)
			}
			if diff := cmp.Diff(tt.want, got, addrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if drop == ndp.Answered {
				if _, err := ndp.ParseAdvertisement(got.Append(nil)); err != nil {
					t.Errorf("the answer is not valid: %v", err)
				}
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	for _, change := range []func(*ndp.Solicitation){nil, unicast, noOption, dad} {
		f.Add(solicit(change).Append(nil))
	}
	f.Add(withOptions(14, 1, 1, 2, 3, 4, 5, 6))
	f.Add(withOptions(1, 0))
	f.Add(ndp.Unsolicited(vip, self).Append(nil))
	f.Add([]byte{})
	f.Add(make([]byte, 78))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) >= 78 { // let the fuzzer get past the checksum
			frame = fixChecksum(append([]byte{}, frame...))
		}
		if s, err := ndp.ParseSolicitation(frame); err == nil {
			again, err := ndp.ParseSolicitation(s.Append(nil))
			if err != nil {
				t.Fatalf("own solicitation is not readable: %v", err)
			}
			if diff := cmp.Diff(s, again, addrs); diff != "" {
				t.Fatalf("decode, encode, decode (-first +second):\n%s", diff)
			}
		}
		if a, err := ndp.ParseAdvertisement(frame); err == nil {
			again, err := ndp.ParseAdvertisement(a.Append(nil))
			if err != nil {
				t.Fatalf("own advertisement is not readable: %v", err)
			}
			if diff := cmp.Diff(a, again, addrs); diff != "" {
				t.Fatalf("decode, encode, decode (-first +second):\n%s", diff)
			}
		}
		for role, mac := range map[lb.Role]ndp.MAC{lb.Own: self, lb.Yield: self, lb.Caretake: owner} {
			reply, drop := ndp.Answer(frame, self, everything(role, mac))
			if drop != ndp.Answered {
				continue
			}
			if _, err := ndp.ParseAdvertisement(reply.Append(nil)); err != nil {
				t.Fatalf("role %d: own answer is not readable: %v", role, err)
			}
			if reply.Solicited == reply.DstIP.IsMulticast() || reply.Src != self || reply.TargetLinkAddr != mac || reply.Dst == mac {
				t.Fatalf("role %d: bad reply %+v", role, reply)
			}
			if role == lb.Yield && ndp.MAC(frame[:6]) != self || role == lb.Caretake && (reply.Override || reply.Dst[0]&1 != 0) {
				t.Fatalf("role %d: not in this role: %+v", role, reply)
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	frame := solicit(nil).Append(nil)
	buf := make([]byte, 0, ndp.MaxFrameLen)
	table := map[netip.Addr]bool{vip: true}
	b.ReportAllocs()
	for b.Loop() {
		if a, drop := ndp.Answer(frame, self, func(a netip.Addr) (lb.Role, ndp.MAC, bool) { return lb.Own, self, table[a] }); drop == ndp.Answered {
			buf = a.Append(buf[:0])
		}
	}
}

func TestSolicit(t *testing.T) {
	from := netip.MustParseAddr("fe80::9")
	want := solicit(func(s *ndp.Solicitation) { s.SrcIP = from })
	if diff := cmp.Diff(want, ndp.Solicit(vip, client, from), addrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	a, drop := ndp.Answer(ndp.Solicit(vip, client, from).Append(nil), self, everything(lb.Own, self))
	if drop != ndp.Answered || a.Dst != client || a.DstIP != from {
		t.Errorf("a node that announces the address answers %s to %s at %x, want to %s alone", drop, a.DstIP, a.Dst, from)
	}
}
