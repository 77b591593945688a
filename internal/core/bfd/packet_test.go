package bfd_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/bfd"
)

const ms = time.Millisecond

// TestPacketOnTheWire holds the codec to RFC 5880 §4.1, byte by byte.
func TestPacketOnTheWire(t *testing.T) {
	for text, want := range map[string]bfd.Packet{
		"2040031800000001000000000 00f4240 000493e0 0000c350": {
			State: bfd.Down, Multiplier: 3, MyDiscr: 1, DesiredMinTx: time.Second, RequiredRx: 300 * ms, RequiredEcho: 50 * ms,
		},
		"23e80518 80000001 00000007 0000c350 000493e0 00000000": {
			Diag: bfd.NeighborDown, State: bfd.Up, Poll: true, Independent: true, Multiplier: 5, MyDiscr: 1<<31 | 1, YourDiscr: 7,
			DesiredMinTx: 50 * ms, RequiredRx: 300 * ms,
		},
		"2712ff18 00000001 00000000 ffffffff ffffffff ffffffff": {
			Diag: bfd.AdministrativelyDown, State: bfd.AdminDown, Final: true, Demand: true, Multiplier: 255, MyDiscr: 1,
			DesiredMinTx: 4294967295 * time.Microsecond, RequiredRx: 4294967295 * time.Microsecond, RequiredEcho: 4294967295 * time.Microsecond,
		},
	} {
		wire, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(text), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := bfd.ParsePacket(wire)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("parse %s: %v (-want +got):\n%s", text, err, d)
		}
		if again := want.Append(nil); !bytes.Equal(again, wire) {
			t.Errorf("append: %x, want %x", again, wire)
		}
	}
}

func TestPacketRefused(t *testing.T) {
	good := bfd.Packet{State: bfd.Up, Multiplier: 3, MyDiscr: 1, YourDiscr: 2}.Append(nil)
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	for name, c := range map[string]struct {
		edit func([]byte) []byte
		want error
	}{
		"empty":                    {func([]byte) []byte { return nil }, bfd.ErrLength},
		"short":                    {func(b []byte) []byte { return b[:23] }, bfd.ErrLength},
		"length less than 24":      {set(3, 23), bfd.ErrLength},
		"length beyond the packet": {set(3, 25), bfd.ErrLength},
		"length less than 26, authenticated": {
			func(b []byte) []byte { b[1] |= 4; b[3] = 25; return append(b, 0, 0) }, bfd.ErrLength,
		},
		"authenticated":              {func(b []byte) []byte { b[1] |= 4; b[3] = 28; return append(b, 1, 4, 1, 'x') }, bfd.ErrAuth},
		"version 0":                  {set(0, 0), bfd.ErrVersion},
		"version 2":                  {set(0, 2<<5), bfd.ErrVersion},
		"multiplier 0":               {set(2, 0), bfd.ErrMultiplier},
		"multipoint":                 {set(1, 0xc1), bfd.ErrMultipoint},
		"my discriminator 0":         {set(7, 0), bfd.ErrDiscriminator},
		"your discriminator 0, up":   {set(11, 0), bfd.ErrDiscriminator},
		"trailing bytes are no harm": {func(b []byte) []byte { return append(b, 1, 2, 3) }, nil},
	} {
		if _, err := bfd.ParsePacket(c.edit(bytes.Clone(good))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	init := bfd.Packet{State: bfd.Init, Multiplier: 3, MyDiscr: 1}.Append(nil)
	if _, err := bfd.ParsePacket(init); !errors.Is(err, bfd.ErrDiscriminator) {
		t.Errorf("your discriminator 0, init: %v", err)
	}
}

func TestEchoOnTheWire(t *testing.T) {
	want := bfd.Echo{Discr: 7, Seq: 1 << 31, Nonce: 1<<63 + 5}
	for _, text := range []string{"10.9.0.1", "fd09::1"} {
		addr := netip.MustParseAddr(text)
		b := want.AppendPacket(nil, addr)
		if got, err := bfd.ParseEcho(b); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
		ttl, udp := 7, b[40:]
		if addr.Is4() {
			ttl, udp = 8, b[20:]
			if sum(b[:20]) != 0xffff || binary.BigEndian.Uint16(b[2:]) != uint16(len(b)) {
				t.Errorf("wrong header: %x", b[:20])
			}
		} else if binary.BigEndian.Uint16(b[4:]) != uint16(len(b)-40) {
			t.Errorf("wrong header: %x", b[:40])
		}
		pseudo := append(append(addr.AsSlice(), addr.AsSlice()...), 0, 17, 0, byte(len(udp)))
		if sum(append(pseudo, udp...)) != 0xffff || binary.BigEndian.Uint16(udp[4:]) != uint16(len(udp)) {
			t.Errorf("%s: wrong checksum or length of UDP: %x", text, udp)
		}
		for name, spoil := range map[string]func(b []byte) []byte{
			"TTL 253":    func(b []byte) []byte { b[ttl] = 253; return b },
			"short":      func(b []byte) []byte { return b[:len(b)-1] },
			"wrong port": func(b []byte) []byte { b[len(b)-len(udp)+3]++; return b },
			"other data": func(b []byte) []byte { b[len(b)-20]++; return b },
			"empty":      func([]byte) []byte { return nil },
		} {
			if got, err := bfd.ParseEcho(spoil(bytes.Clone(b))); !errors.Is(err, bfd.ErrEcho) {
				t.Errorf("%s: %+v, %v, want %v", name, got, err, bfd.ErrEcho)
			}
		}
		returned := bytes.Clone(b)
		returned[ttl]--
		if _, err := bfd.ParseEcho(returned); err != nil {
			t.Errorf("TTL 254: %v", err)
		}
	}
}

// sum is the ones' complement sum of 16-bit words: 0xffff if a checksum is right.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
		s = s>>16 + s&0xffff
	}
	return s
}

// FuzzParsePacket: what is taken is what is sent again.
func FuzzParsePacket(f *testing.F) {
	f.Add(bfd.Packet{State: bfd.Up, Multiplier: 3, MyDiscr: 1, YourDiscr: 2, DesiredMinTx: time.Second}.Append(nil))
	f.Add(bfd.Packet{State: bfd.Down, Multiplier: 3, MyDiscr: 1, Poll: true}.Append(nil))
	f.Add([]byte{0x20, 0xc4, 3, 28, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 1, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := bfd.ParsePacket(b)
		if err != nil {
			if p != (bfd.Packet{}) {
				t.Errorf("%v, but also %+v", err, p)
			}
			return
		}
		again := p.Append(nil)
		if b[3] = bfd.PacketLen; !bytes.Equal(again, b[:bfd.PacketLen]) {
			t.Errorf("parsed %x, appended %x", b, again)
		}
		// No packet makes a session panic, or never want to be woken again.
		s := bfd.New(slow(), 2, 1, func() float64 { return 0.5 })
		now := time.Unix(1, 0)
		for range 3 {
			s.Step(now, bfd.Received{Packet: p, At: now})
			out := s.Step(now, bfd.Tick{})
			if out.Next.Before(now) {
				t.Errorf("wants to be woken at %s, before %s", out.Next, now)
			}
			now = out.Next
			if now.IsZero() {
				return
			}
		}
	})
}

// FuzzParseEcho: it never panics, and takes what is ours alone.
func FuzzParseEcho(f *testing.F) {
	f.Add(bfd.Echo{Discr: 7, Seq: 1, Nonce: 3}.AppendPacket(nil, netip.MustParseAddr("10.9.0.1")))
	f.Add(bfd.Echo{Discr: 7, Seq: 1, Nonce: 3}.AppendPacket(nil, netip.MustParseAddr("fd09::1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := bfd.ParseEcho(b)
		if err != nil {
			return
		}
		ip := 20
		if b[0]>>4 == 6 {
			ip = 40
		}
		want := e.AppendPacket(nil, netip.MustParseAddr("10.9.0.1"))[28:]
		if got := b[ip+8:][:len(want)]; !bytes.Equal(got, want) {
			t.Errorf("parsed %x, which would be sent as %x", got, want)
		}
	})
}
