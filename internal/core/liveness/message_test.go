package liveness_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/liveness"
)

func messages() []liveness.Message {
	six := netip.MustParsePrefix("2001:db8::/64")
	return []liveness.Message{
		{Kind: liveness.Suspect, Node: "a", Segment: segment, Epoch: 2},
		{Kind: liveness.Opinion, Node: "node1", Segment: six, Epoch: 1 << 31, Reachable: true},
		{Kind: liveness.Opinion, Node: "node1", Segment: six},
		{Kind: liveness.Verdict, Node: strings.Repeat("n", 253), Segment: segment, Epoch: 7},
		{Kind: liveness.SpeakerVerdict, Node: "b", Epoch: 3, Incarnation: 1 << 62},
		{Kind: liveness.SpeakerVerdict, Node: "b", Epoch: 2, Incarnation: 1, Reachable: true},
		{Kind: liveness.SpeakerVerdict, Node: "b", Epoch: 2, Incarnation: 1, Asks: true},
	}
}

func TestMessages(t *testing.T) {
	for _, m := range messages() {
		b := liveness.Append([]byte("x"), m)[1:]
		if got, err := liveness.Parse(b); err != nil || got != m {
			t.Errorf("Parse(Append(%+v)) = %+v, %v", m, got, err)
		}
		b[0] = 9 // a later version, which says more
		if got, err := liveness.Parse(append(b, "more"...)); err != nil || got != m {
			t.Errorf("of a later version: %+v, %v; want %+v", got, err, m)
		}
		for n := range len(b) - len("more") {
			if _, err := liveness.Parse(b[:min(n, len(b)-1)]); err == nil {
				t.Errorf("%d bytes of %+v were parsed", n, m)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := liveness.Append(nil, messages()[0])
	change := func(at int, v byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = v
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"version 0", change(0, 0), liveness.ErrMessage},
		{"kind 0", change(1, 0), liveness.ErrKind},
		{"a later kind", change(1, 200), liveness.ErrKind},
		{"no name", change(2, 0), liveness.ErrMessage},
		{"a long name", change(2, 254), liveness.ErrMessage},
		{"33 bits", change(4, 33), liveness.ErrMessage},
		{"not masked", change(9, 1), liveness.ErrMessage},
		{"5 bytes of address", change(5, 5), liveness.ErrMessage},
		{"a verdict of a speaker on a segment", change(1, byte(liveness.SpeakerVerdict)), liveness.ErrMessage},
		{"a suspicion without segment", liveness.Append(nil, liveness.Message{Kind: liveness.Suspect, Node: "a"}), liveness.ErrMessage},
	} {
		if _, err := liveness.Parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range messages() {
		f.Add(liveness.Append(nil, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := liveness.Parse(b)
		if err != nil {
			return
		}
		again, err := liveness.Parse(liveness.Append(nil, m))
		if err != nil || again != m {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}
