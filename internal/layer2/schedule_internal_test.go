package layer2

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	epoch0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	vip    = netip.MustParseAddr("192.0.2.250")
	vip6   = netip.MustParseAddr("2001:db8::250")
)

func at(d time.Duration) time.Time { return epoch0.Add(d) }

func TestNext(t *testing.T) {
	const refresh, spread = 150 * time.Second, 100 * time.Second
	tests := []struct{ now, want string }{
		{"-1s", "0s"},
		{"0s", "300ms"},
		{"299ms", "300ms"},
		{"300ms", "1s"},
		{"1s", "2s"},
		{"2.5s", "4s"},
		{"4s", "8s"},
		{"8s", "108s"},
		{"107s", "108s"},
		{"108s", "258s"},
		{"257s", "258s"},
		{"258s", "408s"},
		{"1h", "3708s"}, // the process did not run for long: what it missed is not made up for
	}
	for _, tt := range tests {
		t.Run(tt.now, func(t *testing.T) {
			now, err := time.ParseDuration(tt.now)
			if err != nil {
				t.Fatal(err)
			}
			want, err := time.ParseDuration(tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if got := next(epoch0, at(now), refresh, spread); !got.Equal(at(want)) {
				t.Errorf("next at %s, want %s", got.Sub(epoch0), want)
			}
		})
	}
}

func TestSpreadIsEven(t *testing.T) {
	const refresh = 150 * time.Second
	var parts [10]int
	addr := netip.MustParseAddr("10.0.0.0")
	for range 10_000 {
		d := spread(addr, refresh)
		if d < 0 || d >= refresh {
			t.Fatalf("spread of %s is %s", addr, d)
		}
		parts[d*10/refresh]++
		addr = addr.Next()
	}
	for i, n := range parts {
		if n < 700 || n > 1300 {
			t.Errorf("part %d of 10 has %d of 10,000 addresses", i, n)
		}
	}
}

// sent runs the schedule as the loop of Run does and tells what it sends until end.
func sent(s *schedule, from, end time.Duration) []string {
	var out []string
	for now := at(from); ; {
		if k, ok := s.due(now); ok {
			out = append(out, fmt.Sprintf("%s %s %d", now.Sub(epoch0), k.addr, k.link))
			continue
		}
		d, ok := s.deadline()
		if !ok || d.After(at(end)) {
			return out
		}
		now = d
	}
}

func TestSchedule(t *testing.T) {
	s := newSchedule(150 * time.Second)
	a, b := key{vip, 2}, key{vip6, 2}
	s.start(a, at(0))
	got := sent(s, 0, 400*time.Millisecond)
	s.start(b, at(500*time.Millisecond))
	got = append(got, sent(s, 500*time.Millisecond, 3*time.Second)...)
	s.stop(b)
	s.stop(b) // once more does no harm
	got = append(got, sent(s, 3*time.Second, 5*time.Second)...)
	s.start(a, at(6*time.Second)) // its link was lost and found
	got = append(got, sent(s, 6*time.Second, 8*time.Second)...)
	want := []string{
		"0s 192.0.2.250 2", "300ms 192.0.2.250 2",
		"500ms 2001:db8::250 2", "800ms 2001:db8::250 2",
		"1s 192.0.2.250 2", "1.5s 2001:db8::250 2", "2s 192.0.2.250 2", "2.5s 2001:db8::250 2",
		"4s 192.0.2.250 2",
		"6s 192.0.2.250 2", "6.3s 192.0.2.250 2", "7s 192.0.2.250 2", "8s 192.0.2.250 2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.stop(a)
	if _, ok := s.deadline(); ok || len(s.items) != 0 {
		t.Error("something is left")
	}
}

// Who has 10,000 addresses to tell again must not keep a new one waiting.
func TestFirstRoundsGoBeforeOthers(t *testing.T) {
	s := newSchedule(150 * time.Second)
	old := []key{{vip.Next(), 2}, {vip6, 2}}
	for _, k := range old {
		s.start(k, at(0))
	}
	sent(s, 0, 0)
	s.start(key{vip, 2}, at(400*time.Millisecond))
	if k, ok := s.due(at(400 * time.Millisecond)); !ok || k.addr != vip {
		t.Errorf("%s is told first", k.addr)
	}
	if at, ok := s.deadline(); !ok || !at.Equal(epoch0.Add(300*time.Millisecond)) {
		t.Errorf("then %s is due", at.Sub(epoch0))
	}
	s.once(old[1], at(400*time.Millisecond))
	if k, ok := s.due(at(400 * time.Millisecond)); !ok || k != old[0] {
		t.Errorf("%v, whose turn it is, is not told", old[0])
	}
}
