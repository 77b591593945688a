package measure

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// bgp is a message of a type.
func bgp(kind byte, body string) []byte {
	b := []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)+bgpHeader))
	return append(append(b, kind), body...)
}

// segment is a packet to the port of BGP, from the network header on.
func segment(src netip.Addr, seq uint32, payload []byte) []byte {
	const options = 12
	tcp := make([]byte, tcpHeader+options)
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], bgpPort)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12] = (tcpHeader + options) / 4 << 4
	tcp = slices.Concat(tcp, payload)
	if src.Is4() {
		ip := make([]byte, ipv4Header)
		ip[0], ip[9] = 0x45, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Header+len(tcp)))
		copy(ip[12:], src.AsSlice())
		return slices.Concat(ip, tcp)
	}
	ip := make([]byte, ipv6Header)
	ip[0], ip[6] = 0x60, 6
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], src.AsSlice())
	return slices.Concat(ip, tcp)
}

const (
	announce4 = "\x00\x00" + "\x00\x0e" + "\x40\x01\x01\x00" + "\x40\x02\x00" + "\x40\x03\x04\x0a\x09\x00\x01" + "\x20\xc6\x33\x64\xfa" + "\x18\xc0\x00\x02"
	withdraw4 = "\x00\x05\x20\xc6\x33\x64\xfa" + "\x00\x00"
	reach6    = "\x00\x02\x01\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00" + "\x20\x20\x01\x0d\xb8"
	announce6 = "\x00\x00" + "\x00\x1e" + "\x90\x0e\x00\x1a" + reach6
	withdraw6 = "\x00\x00" + "\x00\x0b" + "\x80\x0f\x08" + "\x00\x02\x01" + "\x20\x20\x01\x0d\xb8"
	ribEnd6   = "\x00\x00" + "\x00\x06" + "\x80\x0f\x03" + "\x00\x02\x01"
)

func TestBGPStreams(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("2001:db8::1")
	of := func(prefixes ...string) []netip.Prefix {
		var all []netip.Prefix
		for _, p := range prefixes {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	up4 := Update{From: v4, Announced: of("198.51.100.250/32", "192.0.2.0/24")}
	down4 := Update{From: v4, Withdrawn: of("198.51.100.250/32")}
	type part struct {
		src netip.Addr
		seq uint32
		b   []byte
	}
	long := append(bgp(4, ""), bgp(2, announce4)...)
	for name, c := range map[string]struct {
		parts []part
		want  []Update
	}{
		"IPv4": {[]part{{v4, 7, bgp(2, announce4)}, {v4, 7 + 49, bgp(2, withdraw4)}}, []Update{up4, down4}},
		"IPv6": {
			[]part{{v6, 7, append(bgp(2, announce6), bgp(2, withdraw6)...)}},
			[]Update{{From: v6, Announced: of("2001:db8::/32")}, {From: v6, Withdrawn: of("2001:db8::/32")}},
		},
		"no routes":      {[]part{{v4, 7, append(append(bgp(1, "0123456789"), bgp(2, "\x00\x00\x00\x00")...), bgp(2, ribEnd6)...)}}, nil},
		"in two":         {[]part{{v4, 0xfffffffe, long[:30]}, {v4, 28, long[30:]}}, []Update{up4}},
		"sent again":     {[]part{{v4, 7, long[:30]}, {v4, 7, long[:30]}, {v4, 7, long}, {v4, 7, long}}, []Update{up4}},
		"after a gap":    {[]part{{v4, 7, long[:30]}, {v4, 99, bgp(2, withdraw4)}}, []Update{down4}},
		"from the midst": {[]part{{v4, 7, long[5:]}, {v4, 99, bgp(2, withdraw4)}}, []Update{down4}},
		"two sources":    {[]part{{v4, 7, long[:30]}, {v6, 7, bgp(2, withdraw6)}, {v4, 37, long[30:]}}, []Update{{From: v6, Withdrawn: of("2001:db8::/32")}, up4}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []Update
			streams := bgpStreams{}
			for _, p := range c.parts {
				got = append(got, streams.packet(segment(p.src, p.seq, p.b))...)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzBGPStreams(f *testing.F) {
	src := netip.MustParseAddr("10.9.0.1")
	f.Add(segment(src, 7, bgp(2, announce4)), segment(src, 56, bgp(2, withdraw6)))
	f.Fuzz(func(_ *testing.T, a, b []byte) {
		streams := bgpStreams{}
		streams.packet(a)
		streams.packet(b)
		parseUpdate(a)
	})
}
