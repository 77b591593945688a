package arp_test

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/lb"
)

var (
	self   = arp.MAC{2, 0, 0, 0, 0, 1}
	client = arp.MAC{2, 0, 0, 0, 0, 9}
	vip    = netip.MustParseAddr("192.168.1.250")
	host   = netip.MustParseAddr("192.168.1.7")
	addrs  = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
)

// owner is whom self takes care for.
var owner = arp.MAC{2, 0, 0, 0, 0, 3}

// everything answers for every address in a role.
func everything(role lb.Role, mac arp.MAC) arp.Answering {
	return func(netip.Addr) (lb.Role, arp.MAC, bool) { return role, mac, true }
}

// vipAlone answers for vip in a role.
func vipAlone(role lb.Role, mac arp.MAC) arp.Answering {
	return func(a netip.Addr) (lb.Role, arp.MAC, bool) { return role, mac, a == vip }
}

// request is what a client's kernel broadcasts, with change made to it.
func request(change func(*arp.Packet)) arp.Packet {
	p := arp.Packet{
		Dst: arp.Broadcast(), Src: client, Op: arp.Request,
		SenderMAC: client, SenderAddr: host, TargetAddr: vip,
	}
	if change != nil {
		change(&p)
	}
	return p
}

func bytesOf(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWire(t *testing.T) {
	tests := []struct {
		name string
		wire string
		want arp.Packet
	}{
		{
			"request",
			`ffffffffffff 020000000009 0806
			 0001 0800 06 04 0001 020000000009 c0a80107 000000000000 c0a801fa`,
			request(nil),
		},
		{
			"reply",
			`020000000009 020000000001 0806
			 0001 0800 06 04 0002 020000000001 c0a801fa 020000000009 c0a80107`,
			arp.Packet{
				Dst: client, Src: self, Op: arp.Reply,
				SenderMAC: self, SenderAddr: vip, TargetMAC: client, TargetAddr: host,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wire := bytesOf(t, tt.wire)
			for _, frame := range [][]byte{wire, append(slices.Clip(wire), make([]byte, 18)...)} { // padded to 60 bytes too
				got, err := arp.Parse(frame)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got, addrs); diff != "" {
					t.Errorf("Parse (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(wire, tt.want.Append(nil)); diff != "" {
				t.Errorf("Append (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAppendWritesNoForeignFamily(t *testing.T) {
	p := request(func(p *arp.Packet) { p.SenderAddr, p.TargetAddr = netip.MustParseAddr("2001:db8::1"), netip.Addr{} })
	got, err := arp.Parse(p.Append(nil))
	if err != nil || got.SenderAddr != netip.IPv4Unspecified() || got.TargetAddr != netip.IPv4Unspecified() {
		t.Errorf("got %v, %v; want 0.0.0.0 twice", got, err)
	}
}

func TestAnswer(t *testing.T) {
	reply := func(change func(*arp.Packet)) arp.Packet {
		p := arp.Packet{
			Dst: client, Src: self, Op: arp.Reply,
			SenderMAC: self, SenderAddr: vip, TargetMAC: client, TargetAddr: host,
		}
		if change != nil {
			change(&p)
		}
		return p
	}
	patched := func(at int, b ...byte) []byte {
		f := request(nil).Append(nil)
		copy(f[at:], b)
		return f
	}
	frame := func(change func(*arp.Packet)) []byte { return request(change).Append(nil) }

	tests := []struct {
		name  string
		frame []byte
		want  arp.Packet
		drop  arp.Drop
	}{
		{"broadcast", frame(nil), reply(nil), arp.Answered},
		{"unicast refresh", frame(func(p *arp.Packet) { p.Dst = self }), reply(nil), arp.Answered},
		{"target hardware address is not looked at", frame(func(p *arp.Packet) { p.TargetMAC = arp.Broadcast() }), reply(nil), arp.Answered},
		{
			"RFC 5227 probe",
			frame(func(p *arp.Packet) { p.SenderAddr = netip.IPv4Unspecified() }),
			reply(func(p *arp.Packet) { p.TargetAddr = netip.IPv4Unspecified() }),
			arp.Answered,
		},
		{
			"reply goes to the sender hardware address, not to the frame's source",
			frame(func(p *arp.Packet) { p.Src = arp.MAC{2, 0, 0, 0, 0, 0x55} }),
			reply(nil), arp.Answered,
		},
		{"to another station", frame(func(p *arp.Packet) { p.Dst = arp.MAC{2, 0, 0, 0, 0, 2} }), arp.Packet{}, arp.NotToUs},
		{"to a multicast group", frame(func(p *arp.Packet) { p.Dst = arp.MAC{1, 0, 0x5e, 0, 0, 1} }), arp.Packet{}, arp.NotToUs},
		{"reply", frame(func(p *arp.Packet) { p.Op = arp.Reply }), arp.Packet{}, arp.NotRequest},
		{"reverse ARP", frame(func(p *arp.Packet) { p.Op = 3 }), arp.Packet{}, arp.NotRequest},
		{"own sender", frame(func(p *arp.Packet) { p.SenderMAC = self }), arp.Packet{}, arp.BadSender},
		{"own source", frame(func(p *arp.Packet) { p.Src = self }), arp.Packet{}, arp.BadSender},
		{"zero sender", frame(func(p *arp.Packet) { p.SenderMAC = arp.MAC{} }), arp.Packet{}, arp.BadSender},
		{"broadcast sender", frame(func(p *arp.Packet) { p.SenderMAC = arp.Broadcast() }), arp.Packet{}, arp.BadSender},
		{"multicast sender", frame(func(p *arp.Packet) { p.SenderMAC = arp.MAC{1, 0, 0x5e, 0, 0, 1} }), arp.Packet{}, arp.BadSender},
		{"gratuitous request of another", frame(func(p *arp.Packet) { p.SenderAddr = vip }), arp.Packet{}, arp.Claim},
		{"other address", frame(func(p *arp.Packet) { p.TargetAddr = host.Next() }), arp.Packet{}, arp.NotAnnounced},
		{"empty", nil, arp.Packet{}, arp.Malformed},
		{"one byte short", request(nil).Append(nil)[:arp.FrameLen-1], arp.Packet{}, arp.Malformed},
		{"ether type", patched(12, 0x86, 0xdd), arp.Packet{}, arp.Malformed},
		{"hardware type", patched(14, 0, 6), arp.Packet{}, arp.Malformed},
		{"protocol type", patched(16, 0x86, 0xdd), arp.Packet{}, arp.Malformed},
		{"hardware address length", patched(18, 8), arp.Packet{}, arp.Malformed},
		{"protocol address length", patched(19, 16), arp.Packet{}, arp.Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, drop := arp.Answer(tt.frame, self, vipAlone(lb.Own, self))
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
	frame := func(change func(*arp.Packet)) []byte { return request(change).Append(nil) }
	unicast := func(p *arp.Packet) { p.Dst = self }
	probe := func(p *arp.Packet) { p.SenderAddr = netip.IPv4Unspecified() }
	reply := func(mac arp.MAC, to netip.Addr) arp.Packet {
		return arp.Packet{Dst: client, Src: self, Op: arp.Reply, SenderMAC: mac, SenderAddr: vip, TargetMAC: client, TargetAddr: to}
	}
	none := arp.Packet{}
	tests := []struct {
		name  string
		frame []byte
		role  lb.Role
		mac   arp.MAC
		want  arp.Packet
		drop  arp.Drop
	}{
		{"yield: refresh", frame(unicast), lb.Yield, self, reply(self, host), arp.Answered},
		{"yield: broadcast", frame(nil), lb.Yield, self, none, arp.Yielding},
		{"yield: probe", frame(probe), lb.Yield, self, none, arp.Yielding},
		{"yield: another address", frame(func(p *arp.Packet) { p.Dst, p.TargetAddr = self, host.Next() }), lb.Yield, self, none, arp.NotAnnounced},
		{"caretake: broadcast", frame(nil), lb.Caretake, owner, reply(owner, host), arp.Answered},
		{"caretake: refresh of who believes that we are the owner", frame(unicast), lb.Caretake, owner, reply(owner, host), arp.Answered},
		{"caretake: probe", frame(probe), lb.Caretake, owner, reply(owner, netip.IPv4Unspecified()), arp.Answered},
		{"caretake: refresh of the owner's entry, flooded", frame(func(p *arp.Packet) { p.Dst = owner }), lb.Caretake, owner, none, arp.NotToUs},
		{"caretake: the owner asks", frame(func(p *arp.Packet) { p.Src, p.SenderMAC = owner, owner }), lb.Caretake, owner, none, arp.FromOwner},
		{"caretake: the owner's frame", frame(func(p *arp.Packet) { p.Src = owner }), lb.Caretake, owner, none, arp.FromOwner},
		{"caretake: the owner probes", frame(func(p *arp.Packet) { probe(p); p.Src, p.SenderMAC = owner, owner }), lb.Caretake, owner, none, arp.FromOwner},
		{"caretake: the owner announces", arp.Gratuitous(vip, owner)[0].Append(nil), lb.Caretake, owner, none, arp.Claim},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, drop := arp.Answer(tt.frame, self, vipAlone(tt.role, tt.mac))
			if drop != tt.drop {
				t.Fatalf("reason %s, want %s", drop, tt.drop)
			}
			if diff := cmp.Diff(tt.want, got, addrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGratuitous(t *testing.T) {
	pair := arp.Gratuitous(vip, self)
	if pair[0].Op != arp.Request || pair[1].Op != arp.Reply {
		t.Errorf("operations %d and %d, want a request and a reply", pair[0].Op, pair[1].Op)
	}
	for _, p := range pair {
		if p.Dst != arp.Broadcast() || p.Src != self || p.SenderMAC != self || p.SenderAddr != vip || p.TargetAddr != vip {
			t.Errorf("not a claim of %s: %+v", vip, p)
		}
		if _, drop := arp.Answer(p.Append(nil), client, everything(lb.Own, client)); drop == arp.Answered {
			t.Errorf("a node that hears %+v must not answer it", p)
		}
	}
}

func TestProbe(t *testing.T) {
	want := bytesOf(t, `ffffffffffff 020000000009 0806
		0001 0800 06 04 0001 020000000009 00000000 000000000000 c0a801fa`)
	if diff := cmp.Diff(want, arp.Probe(vip, client).Append(nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, drop := arp.Answer(arp.Probe(vip, client).Append(nil), self, everything(lb.Own, self)); drop != arp.Answered {
		t.Errorf("a node that announces the address does not answer: %s", drop)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(request(nil).Append(nil))
	f.Add(request(func(p *arp.Packet) { p.SenderAddr = netip.IPv4Unspecified() }).Append(nil))
	for _, p := range arp.Gratuitous(vip, client) {
		f.Add(p.Append(make([]byte, 0, 64)))
	}
	f.Add([]byte{})
	f.Add(make([]byte, arp.FrameLen))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if p, err := arp.Parse(frame); err == nil {
			again, err := arp.Parse(p.Append(nil))
			if err != nil {
				t.Fatalf("own frame is not readable: %v", err)
			}
			if diff := cmp.Diff(p, again, addrs); diff != "" {
				t.Fatalf("decode, encode, decode (-first +second):\n%s", diff)
			}
		}
		for role, mac := range map[lb.Role]arp.MAC{lb.Own: self, lb.Yield: self, lb.Caretake: owner} {
			reply, drop := arp.Answer(frame, self, everything(role, mac))
			if drop != arp.Answered {
				continue
			}
			if reply.Dst[0]&1 != 0 || reply.Src != self || reply.Op != arp.Reply || reply.SenderMAC != mac || reply.Dst == mac {
				t.Fatalf("role %d: bad reply %+v", role, reply)
			}
			if role == lb.Yield && arp.MAC(frame[:6]) != self {
				t.Fatalf("answered to everybody while yielding: %+v", reply)
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	frame := request(nil).Append(nil)
	buf := make([]byte, 0, arp.FrameLen)
	table := map[netip.Addr]bool{vip: true}
	b.ReportAllocs()
	for b.Loop() {
		if p, drop := arp.Answer(frame, self, func(a netip.Addr) (lb.Role, arp.MAC, bool) { return lb.Own, self, table[a] }); drop == arp.Answered {
			buf = p.Append(buf[:0])
		}
	}
}
