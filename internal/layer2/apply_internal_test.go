package layer2

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
)

// These tests are white box: what they look at, the schedule, is visible from outside
// only as time passes.

type fixedLinks links.Snapshot

func (f fixedLinks) Snapshot() links.Snapshot { return links.Snapshot(f) }
func (f fixedLinks) Changed() <-chan struct{} { return nil }

func newAnnouncer(reg prometheus.Registerer) *Announcer {
	return New(Config{Log: slog.New(slog.DiscardHandler), Links: fixedLinks{}, Registerer: reg})
}

func eth(index int, name string, change func(*links.Link)) links.Link {
	l := links.Link{
		Index: index, Name: name, HardwareAddr: links.MAC{2, 0, 0, 0, 0, byte(index)}, Ethernet: true, Up: true, Broadcast: true,
		LinkLocal6: netip.MustParseAddr(fmt.Sprintf("fe80::%d", index)),
	}
	if change != nil {
		change(&l)
	}
	return l
}

// started returns the keys that are announced anew since the moment before.
func (a *Announcer) started(before time.Time) []string {
	var out []string
	for k, it := range a.sched.items {
		if !it.since.Before(before) {
			out = append(out, fmt.Sprintf("%s %d", k.addr, k.link))
		}
	}
	slices.Sort(out)
	return out
}

func TestWhatIsAnnouncedAnew(t *testing.T) {
	a := newAnnouncer(nil)
	two := links.Snapshot{eth(2, "eth0", nil), eth(3, "eth1", nil)}
	steps := []struct {
		name string
		do   func() error
		want []string // started by this step
		all  int      // on the schedule after it
	}{
		{"addresses before links", func() error { return a.Apply(t.Context(), lb.L2{vip: {}}) }, nil, 0},
		{"links", func() error { a.setLinks(t.Context(), two); return nil }, []string{"192.0.2.250 2", "192.0.2.250 3"}, 2},
		{"the same again", func() error { return a.Apply(t.Context(), lb.L2{vip: {}}) }, nil, 2},
		{"the same, IPv4-mapped", func() error {
			return a.Apply(t.Context(), lb.L2{netip.AddrFrom16(vip.As16()): {}})
		}, nil, 2},
		{"the same links again", func() error { a.setLinks(t.Context(), two); return nil }, nil, 2},
		{"one more", func() error { return a.Apply(t.Context(), lb.L2{vip: {}, vip6: {Links: []string{"eth1"}}}) }, []string{"2001:db8::250 3"}, 3},
		{"one on fewer links", func() error {
			return a.Apply(t.Context(), lb.L2{vip: {Links: []string{"eth0"}}, vip6: {Links: []string{"eth1"}}})
		}, nil, 2},
		{"one on more links", func() error {
			return a.Apply(t.Context(), lb.L2{vip: {Links: []string{"eth0", "eth1"}}, vip6: {Links: []string{"eth1"}}})
		}, []string{"192.0.2.250 3"}, 3},
		{"a link flaps", func() error {
			a.setLinks(t.Context(), links.Snapshot{two[0], eth(3, "eth1", func(l *links.Link) { l.Epoch++ })})
			return nil
		}, []string{"192.0.2.250 3", "2001:db8::250 3"}, 3},
		{"a link loses its link-local address", func() error {
			a.setLinks(t.Context(), links.Snapshot{two[0], eth(3, "eth1", func(l *links.Link) { l.Epoch++; l.LinkLocal6 = netip.Addr{} })})
			return nil
		}, nil, 2},
		{"and gets it back", func() error {
			a.setLinks(t.Context(), links.Snapshot{two[0], eth(3, "eth1", func(l *links.Link) { l.Epoch++ })})
			return nil
		}, []string{"2001:db8::250 3"}, 3},
		{"a link changes its hardware address", func() error {
			a.setLinks(t.Context(), links.Snapshot{eth(2, "eth0", func(l *links.Link) { l.HardwareAddr[0] = 6 }), eth(3, "eth1", func(l *links.Link) { l.Epoch++ })})
			return nil
		}, []string{"192.0.2.250 2"}, 3},
		{"a link is made anew", func() error {
			a.setLinks(t.Context(), links.Snapshot{eth(9, "eth0", nil), eth(3, "eth1", func(l *links.Link) { l.Epoch++ })})
			return nil
		}, []string{"192.0.2.250 9"}, 3},
		{"one link is enslaved, the other goes down", func() error {
			a.setLinks(t.Context(), links.Snapshot{eth(9, "eth0", func(l *links.Link) { l.Master = 1 }), eth(3, "eth1", func(l *links.Link) { l.Up = false })})
			return nil
		}, nil, 0},
		{"both come back", func() error { a.setLinks(t.Context(), two); return nil }, []string{"192.0.2.250 2", "192.0.2.250 3", "2001:db8::250 3"}, 3},
		{"all is withdrawn", func() error { return a.Apply(t.Context(), nil) }, nil, 0},
	}
	for _, step := range steps {
		before := time.Now()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.want, a.started(before)); diff != "" {
			t.Errorf("%s: started (-want +got):\n%s", step.name, diff)
		}
		if got := len(a.sched.items); got != step.all {
			t.Errorf("%s: %d on the schedule, want %d", step.name, got, step.all)
		}
	}
}

func TestApplyNamesWhatCannotBeAnnounced(t *testing.T) {
	a := newAnnouncer(nil)
	err := a.Apply(t.Context(), lb.L2{vip: {}, netip.MustParseAddr("224.0.0.1"): {}, netip.MustParseAddr("::"): {}, {}: {}})
	if err == nil {
		t.Error("no error for addresses that are not unicast")
	}
	if got := slices.Collect(maps.Keys(a.Status().Addrs)); len(got) != 1 || got[0] != vip {
		t.Errorf("announced: %v, want %s alone", got, vip)
	}
}

func TestStatus(t *testing.T) {
	a := newAnnouncer(nil)
	want := lb.L2{vip: {Links: []string{"eth0", "eth7", "veth1"}}, vip6: {}}
	if err := a.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	byAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(Status{Addrs: map[netip.Addr]AddrStatus{vip: {Reason: LinksUnknown}, vip6: {Reason: LinksUnknown}}}, a.Status(), byAddr); diff != "" {
		t.Errorf("before the links are known (-want +got):\n%s", diff)
	}
	a.setLinks(t.Context(), links.Snapshot{
		eth(2, "eth0", nil), eth(4, "eth1", func(l *links.Link) { l.LinkLocal6 = netip.Addr{} }), eth(5, "eth2", nil), eth(3, "veth1", nil),
	})
	if diff := cmp.Diff(Status{
		Addrs: map[netip.Addr]AddrStatus{
			vip:  {Reason: Answered, Links: []string{"eth0"}, MissingLinks: []string{"eth7"}},
			vip6: {Reason: Answered, Links: []string{"eth0", "eth2"}},
		},
		Links: map[string]links.Reason{"eth0": links.Usable, "eth1": links.Usable, "eth2": links.Usable, "veth1": links.Excluded},
	}, a.Status(), byAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMetricsAreThoseOfAnnouncedAddresses(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	a := newAnnouncer(reg)
	gather := func() map[string]float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if len(m.GetLabel()) == 0 {
					continue
				}
				got[f.GetName()+" "+m.GetLabel()[0].GetName()+"="+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
		return got
	}
	if err := a.Apply(t.Context(), lb.L2{vip: {}}); err != nil {
		t.Fatal(err)
	}
	a.table.Load().addrs[vip].count.requests.Add(3)
	a.table.Load().addrs[vip].count.gratuitous.Add(2)
	if err := a.Apply(t.Context(), lb.L2{vip: {Links: []string{"eth0"}}}); err != nil { // keeps its counters
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{
		"metallb_layer2_requests_received ip=192.0.2.250": 3,
		"metallb_layer2_responses_sent ip=192.0.2.250":    0,
		"metallb_layer2_gratuitous_sent ip=192.0.2.250":   2,
	}, gather()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := a.Apply(t.Context(), lb.L2{}); err != nil {
		t.Fatal(err)
	}
	if got := gather(); len(got) != 0 {
		t.Errorf("of a withdrawn address: %v", got)
	}
}

func TestDefaultExclude(t *testing.T) {
	a := newAnnouncer(nil)
	for name, want := range map[string]bool{
		"eth0": false, "br0": false, "bond0.100": false, "enp3s0f1": false, "eveth": false, "lo1": false,
		"lo": true, "veth0a1b2c": true, "cali123": true, "docker0": true, "cni0": true, "kube-ipvs0": true, "flannel.1": true, "lxc42": true,
	} {
		if got := a.excluded(name); got != want {
			t.Errorf("excluded(%s) = %v, want %v", name, got, want)
		}
	}
	none := New(Config{Log: slog.New(slog.DiscardHandler), Links: fixedLinks{}, Exclude: DefaultExclude()[:0]})
	if none.excluded("veth0") {
		t.Error("an empty list excludes something")
	}
}

// After any sequence of changes the schedule holds exactly what by a table made from
// scratch is told unasked.
func TestScheduleFollowsTableUnderRandomChanges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	a := newAnnouncer(nil)
	want, snap := lb.L2{}, links.Snapshot{}
	names := []string{"eth0", "eth1", "eth2", "veth0"}
	for step := range 2000 {
		if rnd.IntN(2) == 0 {
			want = lb.L2{}
			for i := range 6 {
				addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
				if i%2 == 0 {
					addr = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i))
				}
				ann := lb.L2Announcement{Role: lb.Role(rnd.IntN(3)), Tell: lb.Tell(rnd.IntN(3))}
				if ann.Role == lb.Caretake {
					ann.MACs = map[string][6]byte{names[rnd.IntN(len(names))]: {2, 0, 0, 0, 9, byte(rnd.IntN(2))}}
				}
				switch rnd.IntN(3) {
				case 0:
					want[addr] = ann
				case 1:
					ann.Links = names[:1+rnd.IntN(len(names))]
					want[addr] = ann
				}
			}
			if err := a.Apply(t.Context(), want); err != nil {
				t.Fatal(err)
			}
		} else {
			snap = links.Snapshot{}
			for i, name := range names {
				if rnd.IntN(4) == 0 {
					continue
				}
				snap = append(snap, eth(2+i+10*rnd.IntN(2), name, func(l *links.Link) {
					l.Up, l.Broadcast, l.Epoch = rnd.IntN(4) > 0, rnd.IntN(4) > 0, rnd.Uint64N(2)
					if rnd.IntN(3) == 0 {
						l.LinkLocal6 = netip.Addr{}
					}
				}))
			}
			a.setLinks(t.Context(), snap)
		}
		for range rnd.IntN(5) {
			a.sched.due(time.Now())
		}

		fresh, _ := (&table{}).withAddrs(want)
		fresh, _ = fresh.withLinks(snap, a.excluded)
		for addr := range fresh.addrs {
			for index := range fresh.ports {
				k := key{addr, index}
				tell, _ := fresh.tells(k)
				if tells := tell != lb.TellNever; tells != (a.sched.items[k] != nil) {
					t.Fatalf("seed %d, step %d: %v told of unasked: %v, scheduled: %v", seed, step, k, tells, !tells)
				}
			}
		}
		for k := range a.sched.items {
			if _, _, owned := fresh.owned(k); !owned {
				t.Fatalf("seed %d, step %d: %v is scheduled but not owned", seed, step, k)
			}
		}
		if diff := cmp.Diff(fresh.memberships(), a.table.Load().memberships(), cmp.AllowUnexported(membership{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("seed %d, step %d: memberships (-want +got):\n%s", seed, step, diff)
		}
	}
}

func manyAddrs(n int) lb.L2 {
	want := make(lb.L2, n)
	addr := netip.MustParseAddr("10.0.0.0")
	for range n {
		addr = addr.Next()
		want[addr] = lb.L2Announcement{}
	}
	return want
}

func BenchmarkApply(b *testing.B) {
	a := newAnnouncer(nil)
	a.setLinks(b.Context(), links.Snapshot{eth(2, "eth0", nil), eth(3, "eth1", nil)})
	want := manyAddrs(10_000)
	apply := func(b *testing.B, want lb.L2) {
		b.Helper()
		if err := a.Apply(b.Context(), want); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("10000 of 10000 new", func(b *testing.B) {
		for b.Loop() {
			apply(b, nil)
			apply(b, want)
		}
	})
	b.Run("0 of 10000 new", func(b *testing.B) {
		for b.Loop() {
			apply(b, want)
		}
	})
	b.Run("1 of 10000 new", func(b *testing.B) {
		more := maps.Clone(want)
		more[vip] = lb.L2Announcement{}
		for b.Loop() {
			apply(b, more)
			apply(b, want)
		}
	})
}
