package wire_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
)

func pools(addrs ...string) *config.Config {
	var objs config.Objects
	for i, a := range addrs {
		objs.Pools = append(objs.Pools, config.IPAddressPool{
			Meta: config.Meta{Name: fmt.Sprintf("p%d", i+1), Created: time.Unix(int64(i), 0)}, Addresses: strings.Fields(a), AutoAssign: true,
		})
	}
	return config.Parse(objs, nil)
}

func service(name string, change func(*lb.Service)) *lb.Service {
	s := &lb.Service{Key: lb.Key{Namespace: "default", Name: name}}
	change(s)
	return s
}

func holds(addrs ...string) func(*lb.Service) {
	return func(s *lb.Service) { s.Addrs = parse(addrs) }
}

func asksFor(addrs ...string) func(*lb.Service) {
	return func(s *lb.Service) { s.Requested = parse(addrs) }
}

func parse(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// text shows candidates, runs of addresses as first-last; conflicts have a "!".
func text(cs []wire.Candidate) string {
	var out []string
	var last netip.Addr
	for i, c := range cs {
		mark := ""
		if c.Conflict.Addr.IsValid() {
			mark = "!"
		}
		switch {
		case i > 0 && c.Addr == last.Next() && mark == "" && len(out) > 0 && !strings.HasSuffix(out[len(out)-1], "!"):
			first, _, _ := strings.Cut(out[len(out)-1], "-")
			out[len(out)-1] = first + "-" + c.Addr.String()
		default:
			out = append(out, c.Pool+":"+c.Addr.String()+mark)
		}
		last = c.Addr
	}
	return strings.Join(out, " ")
}

func TestWindow(t *testing.T) {
	w := wire.NewWindow()
	set := func(s *lb.Service) bool { return w.SetService(s.Key, s) }
	steps := []struct {
		name string
		do   func()
		want string
	}{
		{"nothing", func() {}, ""},
		{
			"two pools", func() { w.SetConfig(pools("192.0.2.0/24", "198.51.100.8/30 2001:db8::/64")) },
			"p1:192.0.2.0-192.0.2.15 p2:198.51.100.8-198.51.100.11 p2:2001:db8::-2001:db8::f",
		},
		{
			"what is held is passed over", func() { set(service("a", holds("192.0.2.1", "2001:db8::"))) },
			"p1:192.0.2.0 p1:192.0.2.2-192.0.2.16 p2:198.51.100.8-198.51.100.11 p2:2001:db8::1-2001:db8::10",
		},
		{
			"so is a conflict, which is watched", func() { w.SetConflicts([]lb.WireConflict{reported(netip.MustParseAddr("192.0.2.3"), "node1")}) },
			"p1:192.0.2.0 p1:192.0.2.2 p1:192.0.2.3! p1:192.0.2.4-192.0.2.17 p2:198.51.100.8-198.51.100.11 p2:2001:db8::1-2001:db8::10",
		},
		{
			"what is asked for", func() { set(service("b", asksFor("192.0.2.77", "203.0.113.1", "192.0.2.1"))) },
			"p1:192.0.2.0 p1:192.0.2.2 p1:192.0.2.3! p1:192.0.2.4-192.0.2.17 p1:192.0.2.77 p2:198.51.100.8-198.51.100.11 p2:2001:db8::1-2001:db8::10",
		},
		{"until it is given", func() {
			set(service("b", func(s *lb.Service) { asksFor("192.0.2.77")(s); holds("192.0.2.77")(s) }))
		}, "p1:192.0.2.0 p1:192.0.2.2 p1:192.0.2.3! p1:192.0.2.4-192.0.2.17 p2:198.51.100.8-198.51.100.11 p2:2001:db8::1-2001:db8::10"},
		{
			"a conflict about what is held is none", func() { set(service("c", holds("192.0.2.3"))) },
			"p1:192.0.2.0 p1:192.0.2.2 p1:192.0.2.4-192.0.2.17 p2:198.51.100.8-198.51.100.11 p2:2001:db8::1-2001:db8::10",
		},
		{"released", func() {
			for _, n := range []string{"a", "b", "c"} {
				w.SetService(lb.Key{Namespace: "default", Name: n}, nil)
			}
		}, "p1:192.0.2.0-192.0.2.2 p1:192.0.2.3! p1:192.0.2.4-192.0.2.17 p2:198.51.100.8-198.51.100.11 p2:2001:db8::-2001:db8::10"},
		{"a pool goes, and its conflict with it", func() { w.SetConfig(pools("198.51.100.8/30")) }, "p1:198.51.100.8-198.51.100.11"},
	}
	for _, s := range steps {
		s.do()
		if diff := cmp.Diff(s.want, text(w.Candidates())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
}

// What was released lately may be kept back for who held it, or not.
func TestWindowLooksPastFormerAddresses(t *testing.T) {
	w := wire.NewWindow()
	w.SetConfig(pools("192.0.2.0/24"))
	check := func(name, want string) {
		t.Helper()
		if diff := cmp.Diff(want, text(w.Candidates())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	var keys []lb.Key
	for i := range 100 {
		s := service(fmt.Sprint(i), holds(fmt.Sprintf("192.0.2.%d", i)))
		w.SetService(s.Key, s)
		keys = append(keys, s.Key)
	}
	check("held", "p1:192.0.2.100-192.0.2.115")
	for _, key := range keys[20:] {
		w.SetService(key, nil)
	}
	check("released", "p1:192.0.2.20-192.0.2.35 p1:192.0.2.100-192.0.2.115")
	w.SetService(keys[20], service("20", holds("192.0.2.20")))
	check("held again", "p1:192.0.2.21-192.0.2.36 p1:192.0.2.100-192.0.2.115")
	w.SetService(keys[20], service("20", holds("192.0.2.100")))
	check("another address", "p1:192.0.2.20-192.0.2.35 p1:192.0.2.101-192.0.2.116")
}

func TestWindowTellsWhatMatters(t *testing.T) {
	w := wire.NewWindow()
	key := lb.Key{Namespace: "default", Name: "a"}
	for _, s := range []struct {
		name string
		svc  *lb.Service
		want bool
	}{
		{"without an address", service("a", func(*lb.Service) {}), false},
		{"a request", service("a", asksFor("192.0.2.1")), true},
		{"labels", service("a", func(s *lb.Service) { asksFor("192.0.2.1")(s); s.Labels = map[string]string{"a": "b"} }), false},
		{"an address", service("a", func(s *lb.Service) { asksFor("192.0.2.1")(s); holds("192.0.2.1")(s) }), true},
		{"gone", nil, true},
		{"gone again", nil, false},
	} {
		if got := w.SetService(key, s.svc); got != s.want {
			t.Errorf("%s: changed is %v, want %v", s.name, got, s.want)
		}
	}
}

// Of a pool where everything is in use no more than 64 conflicts are kept, by all
// speakers the same ones.
func TestConflictsOfAPoolAreBounded(t *testing.T) {
	w := wire.NewWindow()
	w.SetConfig(pools("192.0.2.0/24", "198.51.100.8/30"))
	w.SetService(lb.Key{Namespace: "default", Name: "a"}, service("a", asksFor("192.0.2.200")))
	var all []lb.WireConflict
	for a := netip.MustParseAddr("192.0.2.10"); len(all) < 70; a = a.Next() {
		all = append(all, reported(a, "node1"))
	}
	for _, order := range []func(){func() {}, func() { slices.Reverse(all) }} {
		order()
		w.SetConflicts(all)
		var first []netip.Addr
		for _, c := range w.Candidates() {
			if c.Pool == "p1" {
				first = append(first, c.Addr)
			}
		}
		if len(first) != wire.MaxConflicts || first[0] != netip.MustParseAddr("192.0.2.10") || first[63] != netip.MustParseAddr("192.0.2.73") {
			t.Errorf("candidates of the pool: %v", first)
		}
	}
	w.SetConflicts(all[7:]) // 63 of them
	if got := len(w.Candidates()); got != 63+1+16+4 {
		t.Errorf("%d candidates, want 63 conflicts, a request, and a window of each pool", got)
	}
}

func TestHoldersOfOneAddress(t *testing.T) {
	w := wire.NewWindow()
	w.SetConfig(pools("192.0.2.0/30"))
	a, b := service("a", holds("192.0.2.0")), service("b", holds("192.0.2.0"))
	w.SetService(a.Key, a)
	w.SetService(b.Key, b) // it may not share, but its status says so
	w.SetService(a.Key, nil)
	if diff := cmp.Diff("p1:192.0.2.1-192.0.2.3", text(w.Candidates())); diff != "" {
		t.Errorf("one of two holders has gone (-want +got):\n%s", diff)
	}
	w.SetService(b.Key, nil)
	if diff := cmp.Diff("p1:192.0.2.0-192.0.2.3", text(w.Candidates())); diff != "" {
		t.Errorf("both have (-want +got):\n%s", diff)
	}
}

func BenchmarkCandidates(b *testing.B) {
	w := wire.NewWindow()
	var ranges []string
	for i := range 100 {
		ranges = append(ranges, fmt.Sprintf("10.%d.0.0/16", i))
	}
	w.SetConfig(pools(ranges...))
	for i := range 10_000 {
		s := service(fmt.Sprint(i), holds(fmt.Sprintf("10.%d.%d.%d", i%100, i/100%256, i/25600)))
		w.SetService(s.Key, s)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.Candidates()
	}
}
