package config_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
)

func TestParseRange(t *testing.T) {
	for text, want := range map[string]string{
		"198.51.100.0/24":                           "198.51.100.0-198.51.100.255",
		"198.51.100.77/24":                          "198.51.100.0-198.51.100.255", // host bits are ignored
		"192.168.1.250/32":                          "192.168.1.250-192.168.1.250",
		" 198.51.100.0/24 ":                         "198.51.100.0-198.51.100.255",
		"0.0.0.0/0":                                 "0.0.0.0-255.255.255.255",
		"198.51.100.10-198.51.100.20":               "198.51.100.10-198.51.100.20",
		" 198.51.100.10 - 198.51.100.20 ":           "198.51.100.10-198.51.100.20",
		"198.51.100.10-198.51.100.10":               "198.51.100.10-198.51.100.10",
		"fd00::/16":                                 "fd00::-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		"fd00::5/126":                               "fd00::4-fd00::7",
		"fd00::a-FD00:0::0010":                      "fd00::a-fd00::10",
		"::ffff:198.51.100.10-::ffff:198.51.100.20": "198.51.100.10-198.51.100.20",
		"198.51.100.10-::ffff:198.51.100.20":        "198.51.100.10-198.51.100.20",
	} {
		r, err := config.ParseRange(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %v, %v; want %s", text, r, err, want)
		}
	}
	for text, want := range map[string]string{ // → part of the error
		"":                            "neither",
		"junk":                        "neither",
		"198.51.100.1":                "neither",
		"198.51.100.0/33":             "neither",
		"198.51.100.0/-1":             "not a range",
		"198.51.100.0 /24":            "neither",
		"198.51.100/24":               "neither",
		"198.51.100.010/32":           "neither",
		"fd00::/129":                  "neither",
		"fe80::%eth0/64":              "neither",
		"::ffff:198.51.100.0/120":     "own form",
		"::ffff:198.51.100.0/64":      "own form",
		"-":                           "not a range",
		"198.51.100.10-":              "not a range",
		"-198.51.100.10":              "not a range",
		"198.51.100.10-20":            "not a range",
		"198.51.100.0/24-10.0.0.1":    "not a range",
		"10.0.0.1-10.0.0.2-10.0.0.3":  "not a range",
		"198.51.100.20-198.51.100.10": "reversed",
		"fd00::2-fd00::1":             "reversed",
		"10.0.0.1-fc00::1":            "mixes",
		"fc00::1-10.0.0.1":            "mixes",
		"fe80::1%eth0-fe80::2%eth0":   "zone",
		"fe80::1-fe80::2%eth0":        "zone",
	} {
		if r, err := config.ParseRange(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, r, err, want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"198.51.100.0/24", "10.0.0.1 - 10.0.0.9", "fd00::/16", "::ffff:1.2.3.4-1.2.3.5", "fe80::1%e-fe80::2", "0.0.0.0/0", "::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := config.ParseRange(text)
		if err != nil {
			return
		}
		if r.First.BitLen() != r.Last.BitLen() || r.Last.Less(r.First) || r.First.Zone() != "" || r.Last.Zone() != "" ||
			r.First.Is4In6() || !r.Contains(r.First) || !r.Contains(r.Last) {
			t.Fatalf("%q: %v", text, r)
		}
		again, err := config.ParseRange(r.String())
		if err != nil || again != r {
			t.Fatalf("%q: %v read again is %v, %v", text, r, again, err)
		}
		checkCover(t, r, config.Prefixes(r))
	})
}

// checkCover checks that pfxs are r without gap and overlap, in order, and that no
// neighbouring two of them are halves of one wider prefix.
func checkCover(t *testing.T, r config.Range, pfxs []netip.Prefix) {
	t.Helper()
	next := r.First
	for i, p := range pfxs {
		if p != p.Masked() || p.Addr() != next {
			t.Fatalf("%v: prefix %d is %v, want one that starts at %v", r, i, p, next)
		}
		sub, err := config.ParseRange(p.String())
		if err != nil || r.Last.Less(sub.Last) {
			t.Fatalf("%v: prefix %v reaches beyond it", r, p)
		}
		if i > 0 && p.Bits() > 0 && pfxs[i-1].Bits() == p.Bits() &&
			netip.PrefixFrom(pfxs[i-1].Addr(), p.Bits()-1).Masked() == netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() {
			t.Fatalf("%v: %v and %v are one prefix", r, pfxs[i-1], p)
		}
		if next = sub.Last.Next(); i == len(pfxs)-1 && sub.Last != r.Last {
			t.Fatalf("%v: ends at %v", r, sub.Last)
		}
	}
}

func TestPrefixesCoverRange(t *testing.T) {
	for text, want := range map[string][]string{
		"0.0.0.0/0":                       {"0.0.0.0/0"},
		"::/0":                            {"::/0"},
		"10.0.0.0-10.0.0.255":             {"10.0.0.0/24"},
		"10.0.0.1-10.0.0.6":               {"10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"},
		"255.255.255.254-255.255.255.255": {"255.255.255.254/31"},
		"fd00::1-fd00::2":                 {"fd00::1/128", "fd00::2/128"},
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"},
	} {
		r, err := config.ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range config.Prefixes(r) {
			got = append(got, p.String())
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}

// TestPrefixesAgainstOracle takes every range within 6 bits, where the fewest
// prefixes can be counted by trying all ways to cut, and random wide ones.
func TestPrefixesAgainstOracle(t *testing.T) {
	for _, base := range []string{"10.0.0.0", "fd00::"} {
		at := netip.MustParseAddr(base)
		var addrs []netip.Addr
		for range 64 {
			addrs = append(addrs, at)
			at = at.Next()
		}
		for i := range addrs {
			for j := i; j < len(addrs); j++ {
				r := config.Range{First: addrs[i], Last: addrs[j]}
				got := config.Prefixes(r)
				checkCover(t, r, got)
				if want := fewest(i, j); len(got) != want {
					t.Fatalf("%v: %d prefixes, %d do: %v", r, len(got), want, got)
				}
			}
		}
	}
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, seed))
	for range 200 {
		var a, b [16]byte
		for i := range a {
			a[i] = byte(rng.Uint32())
			b[i] = byte(rng.Uint32())
		}
		x, y := netip.AddrFrom16(a), netip.AddrFrom16(b)
		if y.Less(x) {
			x, y = y, x
		}
		checkCover(t, config.Range{First: x, Last: y}, config.Prefixes(config.Range{First: x, Last: y}))
	}
}

// fewest returns the least number of aligned blocks of 2^n that make up i to j.
func fewest(i, j int) int {
	need := make([]int, j-i+2) // need[k]: for the addresses from i+k on
	for k := j - i; k >= 0; k-- {
		need[k] = 1 << 30
		for n := 1; (i+k)%n == 0 && k+n <= j-i+1 && n <= 64; n *= 2 {
			need[k] = min(need[k], 1+need[k+n])
		}
	}
	return need[0]
}
