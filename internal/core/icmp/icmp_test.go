package icmp_test

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/icmp"
)

var (
	echo4 = icmp.Echo{
		Dst: icmp.MAC{2, 0, 0, 0, 0, 9}, Src: icmp.MAC{2, 0, 0, 0, 0, 1}, ID: 0x1234, Seq: 7,
		SrcIP: netip.MustParseAddr("192.0.2.1"), DstIP: netip.MustParseAddr("192.0.2.9"),
	}
	echo6 = icmp.Echo{
		Dst: icmp.MAC{2, 0, 0, 0, 0, 9}, Src: icmp.MAC{2, 0, 0, 0, 0, 1}, ID: 0x1234, Seq: 7, Reply: true,
		SrcIP: netip.MustParseAddr("2001:db8::1"), DstIP: netip.MustParseAddr("2001:db8::9"),
	}
)

// The checksums were computed by hand from RFC 1071.
func TestWire(t *testing.T) {
	for name, c := range map[string]struct {
		echo icmp.Echo
		wire string
	}{
		"IPv4 request": {echo4, `020000000009 020000000001 0800
			4500 001c 0000 4000 0101 f5d6 c0000201 c0000209
			0800 e5c4 1234 0007`},
		"IPv6 reply": {echo6, `020000000009 020000000001 86dd
			60000000 0008 3a01 20010db8000000000000000000000001 20010db8000000000000000000000009
			8100 1106 1234 0007`},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := hex.DecodeString(strings.Join(strings.Fields(c.wire), ""))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.echo.Append(nil); !slices.Equal(got, want) {
				t.Errorf("Append:\n got %x\nwant %x", got, want)
			}
			if got, err := icmp.Parse(append(slices.Clip(want), 0, 0, 0, 0)); err != nil || got != c.echo { // padded too
				t.Errorf("Parse: got %+v, %v", got, err)
			}
			for i := range want {
				if _, err := icmp.Parse(want[:i]); err == nil {
					t.Errorf("it takes the first %d bytes for a message", i)
				}
			}
			bad := slices.Clone(want)
			bad[len(bad)-1] ^= 1
			if _, err := icmp.Parse(bad); !errors.Is(err, icmp.ErrChecksum) {
				t.Errorf("with a wrong bit: %v", err)
			}
		})
	}
}

func TestFragmentsAreNoEchoes(t *testing.T) {
	b := echo4.Append(nil)
	b[14+6] = 0x20 // more fragments
	if _, err := icmp.Parse(b); !errors.Is(err, icmp.ErrKind) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(echo4.Append(nil))
	f.Add(echo6.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := icmp.Parse(b)
		if err != nil {
			return
		}
		if again, err := icmp.Parse(e.Append(nil)); err != nil || again != e {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	})
}
