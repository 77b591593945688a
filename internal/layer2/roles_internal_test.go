package layer2

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/arp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/ndp"
	"github.com/barelb/barelb/internal/core/wire"
)

var ownerMAC = arp.MAC{2, 0, 0, 0, 0, 0x77}

// How an address comes to be told, by what it was before and what it becomes. "at once"
// begins the growing gaps, "slowly" the refresh, and "goes on" leaves what runs.
func TestHowRolesAreTold(t *testing.T) {
	var (
		atOnce   = lb.L2Announcement{}
		slowly   = lb.L2Announcement{Tell: lb.TellSlowly}
		never    = lb.L2Announcement{Tell: lb.TellNever}
		yield    = lb.L2Announcement{Role: lb.Yield}
		caretake = lb.L2Announcement{Role: lb.Caretake, MACs: map[string][6]byte{"eth0": ownerMAC}}
	)
	tests := []struct {
		name    string
		was, is lb.L2Announcement
		want    string
	}{
		{"new owner", yield, atOnce, "at once"},
		{"from caretaker to owner", caretake, atOnce, "at once"},
		{"from caretaker to owner that resumes", caretake, slowly, "slowly"},
		{"planned move begins", yield, never, "not"},
		{"planned move ends", never, atOnce, "at once"},
		{"planned move ends slowly", never, slowly, "slowly"},
		{"resumed, then at once", slowly, atOnce, "at once"},
		{"at once, then slowly", atOnce, slowly, "goes on"},
		{"at once, then never", atOnce, never, "not"},
		{"slowly, then never", slowly, never, "not"},
		{"yields", atOnce, yield, "not"},
		{"becomes caretaker", slowly, caretake, "not"},
		{"the same", atOnce, atOnce, "goes on"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAnnouncer(nil)
			a.setLinks(t.Context(), links.Snapshot{eth(2, "eth0", nil)})
			k := key{vip, 2}
			if err := a.Apply(t.Context(), lb.L2{vip: tt.was}); err != nil {
				t.Fatal(err)
			}
			var was item
			if it := a.sched.items[k]; it != nil {
				was = *it
			}
			before := time.Now()
			if err := a.Apply(t.Context(), lb.L2{vip: tt.is}); err != nil {
				t.Fatal(err)
			}
			if got := toldHow(a.sched.items[k], was, before); got != tt.want {
				t.Errorf("told %s, want %s", got, tt.want)
			}
		})
	}
}

func toldHow(it *item, was item, before time.Time) string {
	switch {
	case it == nil:
		return "not"
	case it.since.Equal(was.since) && it.at.Equal(was.at):
		return "goes on"
	case it.since.Before(before) && it.at.After(before):
		return "slowly"
	case !it.since.Before(before) && it.at.Equal(it.since):
		return "at once"
	}
	return "in another way"
}

// Who resumes tells nobody, unless it comes to links of which nobody can have heard it.
func TestResumedAddressIsToldToChangedLinksAtOnce(t *testing.T) {
	a := newAnnouncer(nil)
	if err := a.Apply(t.Context(), lb.L2{vip: {Tell: lb.TellSlowly}, vip6: {Tell: lb.TellNever}}); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	one := links.Snapshot{eth(2, "eth0", nil)}
	a.setLinks(t.Context(), one)
	if got := a.started(before); len(got) != 0 || len(a.sched.items) != 1 {
		t.Errorf("at the start %v are told at once, %d scheduled; want 0 and 1", got, len(a.sched.items))
	}
	a.setLinks(t.Context(), append(one, eth(3, "eth1", nil)))
	if diff := cmp.Diff([]string{"192.0.2.250 3"}, a.started(before)); diff != "" {
		t.Errorf("another link (-want +got):\n%s", diff)
	}
	before = time.Now()
	a.setLinks(t.Context(), links.Snapshot{eth(2, "eth0", func(l *links.Link) { l.HardwareAddr[0] = 6 }), eth(3, "eth1", nil)})
	if diff := cmp.Diff([]string{"192.0.2.250 2"}, a.started(before)); diff != "" {
		t.Errorf("another hardware address (-want +got):\n%s", diff)
	}
}

func TestReassert(t *testing.T) {
	a := newAnnouncer(nil)
	a.setLinks(t.Context(), links.Snapshot{eth(2, "eth0", nil), eth(3, "eth1", nil)})
	yielded, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if err := a.Apply(t.Context(), lb.L2{vip: {Tell: lb.TellNever}, vip6: {Links: []string{"eth1"}}, yielded: {Role: lb.Yield}}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		addr netip.Addr
		want bool
		all  int // on the schedule after it
	}{{vip, true, 3}, {vip, false, 3}, {vip6, true, 3}, {yielded, false, 3}, {other, false, 3}} {
		if got := a.Reassert(step.addr); got != step.want || len(a.sched.items) != step.all {
			t.Errorf("Reassert(%s) = %v with %d scheduled, want %v and %d", step.addr, got, len(a.sched.items), step.want, step.all)
		}
	}
	now := time.Now()
	for range 3 {
		a.sched.due(now)
	}
	if len(a.sched.items) != 1 {
		t.Errorf("%d scheduled, want the one that is told anyway", len(a.sched.items))
	}
	a.table.Load().addrs[vip].count.reasserted = now.Add(-time.Second)
	if !a.Reassert(netip.AddrFrom16(vip.As16())) {
		t.Error("not again after a second")
	}
}

// What was held up is told at its gaps all the same, but refreshes keep their times.
func TestScheduleMakesUpForABurst(t *testing.T) {
	s := newSchedule(150 * time.Second)
	s.start(key{vip, 2}, at(0))
	got := sent(s, 20*time.Second, 23*time.Second)
	want := []string{"20s 192.0.2.250 2", "20.3s 192.0.2.250 2", "21s 192.0.2.250 2", "22s 192.0.2.250 2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.startSlowly(key{vip, 2}, at(0))
	first, _ := s.deadline()
	if _, ok := s.due(first.Add(time.Minute)); !ok {
		t.Fatal("nothing is due")
	}
	if second, _ := s.deadline(); !second.Equal(first.Add(150 * time.Second)) {
		t.Errorf("refreshed at %s and %s", first.Sub(epoch0), second.Sub(epoch0))
	}
}

func TestWhyNothingIsAnswered(t *testing.T) {
	down := func(l *links.Link) { l.Up = false }
	no6 := func(l *links.Link) { l.LinkLocal6 = netip.Addr{} }
	caretake := func(link string, mac arp.MAC) lb.L2Announcement {
		return lb.L2Announcement{Role: lb.Caretake, MACs: map[string][6]byte{link: mac}}
	}
	tests := []struct {
		name string
		addr netip.Addr
		ann  lb.L2Announcement
		snap links.Snapshot
		want Reason
	}{
		{"links unknown", vip, lb.L2Announcement{}, nil, LinksUnknown},
		{"no links", vip, lb.L2Announcement{}, links.Snapshot{}, NoUsableLink},
		{"none of the links exists", vip, lb.L2Announcement{Links: []string{"eth1", "eth2"}}, links.Snapshot{eth(2, "eth0", nil)}, NoSuchLink},
		{"one exists, and is down", vip, lb.L2Announcement{Links: []string{"eth0", "eth2"}}, links.Snapshot{eth(2, "eth0", down)}, NoUsableLink},
		{"no IPv6", vip6, lb.L2Announcement{}, links.Snapshot{eth(2, "eth0", no6)}, NoUsableLink},
		{"one is enough", vip, lb.L2Announcement{Links: []string{"eth0", "eth2"}}, links.Snapshot{eth(2, "eth0", nil)}, Answered},
		{"caretaker", vip, caretake("eth0", ownerMAC), links.Snapshot{eth(2, "eth0", nil)}, Answered},
		{"caretaker, the owner's MAC is that of another link", vip, caretake("eth1", ownerMAC), links.Snapshot{eth(2, "eth0", nil)}, NoOwnerMAC},
		{"caretaker, no MAC", vip, caretake("eth0", arp.MAC{}), links.Snapshot{eth(2, "eth0", nil)}, NoOwnerMAC},
		{"caretaker, down", vip, caretake("eth0", ownerMAC), links.Snapshot{eth(2, "eth0", down)}, NoUsableLink},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAnnouncer(nil)
			a.setLinks(t.Context(), tt.snap)
			if err := a.Apply(t.Context(), lb.L2{tt.addr: tt.ann}); err != nil {
				t.Fatal(err)
			}
			got := a.Status().Addrs[tt.addr]
			if got.Reason != tt.want || (len(got.Links) > 0) != (tt.want == Answered) {
				t.Errorf("%s on %v, want %s", got.Reason, got.Links, tt.want)
			}
		})
	}
}

func TestWhichClaimsAreForeign(t *testing.T) {
	a := newAnnouncer(nil)
	a.setLinks(t.Context(), links.Snapshot{eth(2, "eth0", nil), eth(3, "eth1", nil), eth(4, "veth1", nil)})
	own, stranger := arp.MAC{2, 0, 0, 0, 0, 3}, arp.MAC{2, 0, 0, 0, 0, 0x55}
	yielded, cared := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if err := a.Apply(t.Context(), lb.L2{
		vip: {Links: []string{"eth0"}}, vip6: {}, yielded: {Role: lb.Yield},
		cared: {Role: lb.Caretake, MACs: map[string][6]byte{"eth0": ownerMAC}},
	}); err != nil {
		t.Fatal(err)
	}
	hear := func(frame []byte, link int) bool {
		c, ok := wire.HearARP(frame, link)
		if !ok {
			c, ok = wire.HearNDP(frame, link)
		}
		return ok && a.table.Load().foreign(c, arp.MAC(frame[6:12]))
	}
	gratuitous := func(addr netip.Addr, mac arp.MAC, op int) []byte { return arp.Gratuitous(addr, mac)[op].Append(nil) }
	na := func(change func(*ndp.Advertisement)) []byte {
		adv := ndp.Unsolicited(vip6, stranger)
		if change != nil {
			change(&adv)
		}
		return adv.Append(nil)
	}
	caretaken := arp.Packet{Dst: own, Src: stranger, Op: arp.Reply, SenderMAC: own, SenderAddr: vip, TargetMAC: own, TargetAddr: yielded}
	fromUs := arp.Packet{Dst: arp.Broadcast(), Src: own, Op: arp.Reply, SenderMAC: stranger, SenderAddr: vip, TargetAddr: vip}
	for _, tt := range []struct {
		name  string
		frame []byte
		link  int
		want  bool
	}{
		{"gratuitous request", gratuitous(vip, stranger, 0), 2, true},
		{"gratuitous reply", gratuitous(vip, stranger, 1), 2, true},
		{"request for another address", arp.Packet{Dst: arp.Broadcast(), Src: stranger, Op: arp.Request, SenderMAC: stranger, SenderAddr: vip, TargetAddr: yielded}.Append(nil), 2, true},
		{"probe", arp.Probe(vip, stranger).Append(nil), 2, false},
		{"our own, by another of our links", gratuitous(vip, own, 0), 2, false},
		{"of a link of ours that carries nothing", gratuitous(vip, arp.MAC{2, 0, 0, 0, 0, 4}, 0), 2, false},
		{"our frame with another sender", fromUs.Append(nil), 2, false},
		{"a caretaker's answer in our name", caretaken.Append(nil), 2, false},
		{"on a link that is not answered on", gratuitous(vip, stranger, 0), 3, false},
		{"on an excluded link", gratuitous(vip, stranger, 0), 4, false},
		{"on a link that is gone", gratuitous(vip, stranger, 0), 9, false},
		{"an address that we yield", gratuitous(yielded, stranger, 0), 2, false},
		{"an address that we take care of", gratuitous(cared, ownerMAC, 0), 2, false},
		{"another address", gratuitous(netip.MustParseAddr("192.0.2.9"), stranger, 0), 2, false},
		{"advertisement", na(nil), 3, true},
		{"advertisement without option", na(func(a *ndp.Advertisement) { a.HasTargetLinkAddr = false }), 3, true},
		{"advertisement of our MAC", na(func(a *ndp.Advertisement) { a.TargetLinkAddr = own }), 3, false},
		{"advertisement from us", na(func(a *ndp.Advertisement) { a.Src = own }), 3, false},
		{"solicitation from the address", ndp.Solicit(netip.MustParseAddr("2001:db8::1"), stranger, vip6).Append(nil), 3, true},
		{"solicitation for the address", ndp.Solicit(vip6, stranger, netip.MustParseAddr("2001:db8::1")).Append(nil), 3, false},
	} {
		if got := hear(tt.frame, tt.link); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestClaimsAreReportedInBounds(t *testing.T) {
	var l claimLimit
	k := claimKey{vip, ownerMAC}
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Millisecond, false}, {99 * time.Millisecond, false}, {100 * time.Millisecond, true}, {150 * time.Millisecond, false}} {
		if got := l.pass(k, at(step.after)); got != step.want {
			t.Errorf("after %s: %v, want %v", step.after, got, step.want)
		}
	}
	passed := 0
	for i := range 100_000 { // of one moment, each with another MAC
		if l.pass(claimKey{vip, arp.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}}, at(180*time.Millisecond)) {
			passed++
		}
	}
	if passed != maxClaims-1 || len(l.reported) > maxClaims {
		t.Errorf("%d reported and %d remembered, want %d and at most %d", passed, len(l.reported), maxClaims-1, maxClaims)
	}
	if !l.pass(k, at(time.Second)) {
		t.Error("nothing is reported ever after")
	}
}

// BenchmarkDecision is what an answer costs us between the kernel's two calls.
func BenchmarkDecision(b *testing.B) {
	a := New(Config{Log: slog.New(slog.DiscardHandler), Links: fixedLinks{}})
	a.setLinks(b.Context(), links.Snapshot{eth(2, "eth0", nil)})
	want := manyAddrs(10_000)
	var frames, frames6 [][]byte
	client := arp.MAC{2, 0, 0, 0, 0, 9}
	for i := range 1000 {
		addr4, addr6 := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).Next(), ndpAddr(i)
		want[addr6] = lb.L2Announcement{Links: []string{"eth0"}}
		q := arp.Packet{Dst: arp.Broadcast(), Src: client, Op: arp.Request, SenderMAC: client, SenderAddr: vip, TargetAddr: addr4}
		frames = append(frames, q.Append(nil))
		frames6 = append(frames6, ndp.Solicit(addr6, client, vip6).Append(nil))
	}
	if err := a.Apply(b.Context(), want); err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name   string
		proto  protocol
		frames [][]byte
	}{{"ARP", protocol{answerARP, wire.HearARP}, frames}, {"NDP", protocol{answerNDP, wire.HearNDP}, frames6}} {
		b.Run(bb.name, func(b *testing.B) {
			t, out, i := a.table.Load(), make([]byte, 0, ndp.MaxFrameLen), 0
			b.ReportAllocs()
			for b.Loop() {
				frame := bb.frames[i%len(bb.frames)]
				i++
				if _, e := bb.proto.answer(t, t.ports[2], frame, out); e == nil {
					b.Fatal("not answered")
				}
				if c, ok := bb.proto.hear(frame, 2); ok && t.foreign(c, arp.MAC(frame[6:12])) {
					b.Fatal("taken for a claim")
				}
			}
		})
	}
}

func ndpAddr(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: 1, 14: byte(i >> 8), 15: byte(i)})
}
