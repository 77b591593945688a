package measure_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/measure"
)

func TestAnalyseAsk(t *testing.T) {
	t.Parallel()
	one := netip.MustParseAddr("192.0.2.250")
	const a, b = "02:00:00:00:00:01", "02:00:00:00:00:02"
	heard := func(addr, at int, mac, from string) measure.Heard {
		return measure.Heard{Addr: addr, At: time.Duration(at) * time.Millisecond, MAC: mac, From: from, Asked: true}
	}
	trace := measure.AskTrace{
		Addrs: []netip.Addr{one, one.Next()}, Interval: 10 * ms,
		Marks: []measure.Mark{{Name: "kill", At: 15 * ms}, {Name: "end", At: 95 * ms}},
	}
	for at := 0; at < 100; at += 10 { // the even ones for the first address
		trace.Requests = append(trace.Requests, measure.Request{Addr: at / 10 % 2, At: time.Duration(at) * time.Millisecond})
	}
	trace.Heard = []measure.Heard{
		heard(0, 1, a, a), heard(1, 11, a, a),
		heard(0, 21, a, a), // before the action took effect
		heard(0, 61, a, b), // the caretaker: its own frame, the owner's MAC
		{Addr: 1, At: 66 * ms, MAC: b, From: b},
		heard(0, 81, a, b),
		heard(1, 97, b, b),
	}
	got := measure.AnalyseAsk(trace)
	kill, err := got.After("kill")
	must(t, err)
	want := measure.AskMark{
		Name: "kill", At: trace.Started.Add(15 * ms), Requests: 8, Answered: 4,
		RTT:     measure.Quantiles{Count: 4, P50: 1, P95: 7, P99: 7, Max: 7},
		Taken:   measure.Quantiles{Count: 2, P50: 46, P95: 51, P99: 51, Max: 51},
		Moved:   1,
		Silence: measure.Quantiles{Count: 2, P50: 21, P95: 60, P99: 60, Max: 60},
		Answers: []measure.Holder{
			{MAC: a, From: a, Count: 1, First: 6, Last: 6}, {MAC: a, From: b, Count: 2, First: 46, Last: 66},
		},
		Announcements: []measure.Holder{{MAC: b, From: b, Count: 1, First: 51, Last: 51}},
		MaxGap:        10,
	}
	if diff := cmp.Diff(want, kill); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Answered != 6 || got.Requests != 10 {
		t.Errorf("%d of %d answered, want 6 of 10", got.Answered, got.Requests)
	}
	if _, err := got.After("never"); err == nil {
		t.Error("a mark that was never given is no error")
	}
}

// A host that is asked goes, and another takes its address.
func TestAskSeesWhoTakesOver(t *testing.T) {
	for name, at := range map[string]struct{ asker, one, two, vip, host string }{
		"v4": {"192.0.2.1/24", "192.0.2.2/24", "192.0.2.3/24", "192.0.2.250", "/32"},
		"v6": {"2001:db8::1/64", "2001:db8::2/64", "2001:db8::3/64", "2001:db8::fa", "/128"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			vip := netip.MustParseAddr(at.vip)
			asker, one, two := l.add("a", at.asker), l.add("b", at.one, at.vip+at.host), l.add("c", at.two)
			ctx := deadline(t)
			a, err := measure.StartAsk(ctx, asker, self(t), measure.AskOpts{First: vip})
			must(t, err)
			must(t, a.AwaitAnswers(ctx))
			must(t, a.Mark("goes"))
			one.ip("addr del " + at.vip + at.host + " dev eth0")
			nodad := ""
			if vip.Is6() {
				nodad = " nodad"
			}
			begin := time.Now()
			must(t, a.AwaitRequests(ctx, 10))
			least := time.Since(begin)
			two.ip("addr add " + at.vip + at.host + " dev eth0" + nodad)
			must(t, a.AwaitTaken(ctx))
			must(t, a.Mark("end"))
			r, err := a.Stop()
			must(t, err)
			m, err := r.After("goes")
			must(t, err)
			if m.Untaken != 0 || !slices.Contains(m.MACs(), "02:00:00:00:00:03") || m.Silence.Max < measure.ToMillis(least)/2 || m.Taken.Max < m.Silence.Max {
				t.Errorf("%+v, want node c to take it, after a silence of about %s", m, least)
			}
			t.Logf("%+v; late by up to %v ms", m, r.MaxGap)
		})
	}
}

// Asking for many addresses goes on with those that nobody has taken yet.
func TestAskForMany(t *testing.T) {
	l := newLAN(t)
	asker, one, two := l.add("a", "192.0.2.1/24"), l.add("b", "192.0.2.2/24"), l.add("c", "192.0.2.3/24")
	vips := []string{"192.0.2.100", "192.0.2.101", "192.0.2.102"}
	for _, v := range vips {
		one.ip("addr add " + v + "/32 dev eth0")
	}
	ctx := deadline(t)
	a, err := measure.StartAsk(ctx, asker, self(t), measure.AskOpts{First: netip.MustParseAddr(vips[0]), Count: len(vips), Interval: time.Millisecond, Pending: true})
	must(t, err)
	must(t, a.AwaitAnswers(ctx))
	must(t, a.Mark("cut"))
	l.sw.ip("link set dev b down")
	for _, v := range vips {
		two.ip("addr add " + v + "/32 dev eth0")
	}
	must(t, a.AwaitTaken(ctx))
	r, err := a.Stop()
	must(t, err)
	m, err := r.After("cut")
	must(t, err)
	if m.Taken.Count != len(vips) || m.Untaken != 0 {
		t.Errorf("%+v, want %d taken", m, len(vips))
	}
}

func TestClaimAndAnswerForAnother(t *testing.T) {
	l := newLAN(t)
	client, thief := l.add("c", "192.0.2.1/24"), l.add("t", "192.0.2.2/24")
	vip := netip.MustParseAddr("192.0.2.250")
	ctx := deadline(t)
	a, err := measure.StartAsk(ctx, client, self(t), measure.AskOpts{First: vip})
	must(t, err)
	must(t, a.Mark("claim"))
	r, err := measure.Claim(ctx, thief, self(t), measure.ClaimOpts{Addr: vip, Count: 3, Interval: time.Millisecond})
	must(t, err)
	if r.Claims != 3 || r.MAC != "02:00:00:00:00:02" {
		t.Errorf("%+v, want 3 claims by the second host", r)
	}
	must(t, a.AwaitTaken(ctx)) // by the announcement alone
	must(t, a.Mark("answer"))
	responder, err := measure.StartRespond(ctx, thief, self(t), measure.RespondOpts{Addr: vip})
	must(t, err)
	must(t, a.AwaitAnswers(ctx))
	answered, err := responder.Stop()
	must(t, err)
	report, err := a.Stop()
	must(t, err)
	claimed, err := report.After("claim")
	must(t, err)
	if len(claimed.Announcements) != 1 || claimed.Announcements[0].Count != 6 || len(claimed.Answers) != 0 {
		t.Errorf("%+v, want six announcements of one host", claimed)
	}
	if answered.Answered == 0 {
		t.Error("the responder says that it answered nobody")
	}
}

// The kernel asks again for an address whose neighbour entry is deleted.
func TestForgetNeigh(t *testing.T) {
	l := newLAN(t)
	client, server := l.add("c", "192.0.2.1/24"), l.add("s", "192.0.2.2/24")
	addr := netip.MustParseAddr("192.0.2.2")
	serveIn(t, server, "node1")
	ctx := deadline(t)
	p, err := measure.StartProbe(ctx, client, self(t), measure.ProbeOpts{Target: netip.AddrPortFrom(addr, 8080)})
	must(t, err)
	w, err := measure.StartWatchNeigh(ctx, client, self(t), measure.NeighWatchOpts{Addr: addr})
	must(t, err)
	f, err := measure.StartForget(ctx, client, self(t), measure.ForgetOpts{Addr: addr, Interval: 20 * time.Millisecond})
	must(t, err)
	must(t, p.AwaitAnswers(ctx, 50))
	for range 3 {
		_, err := w.Await(ctx, func(c measure.NeighChange) bool { return c.State == "deleted" })
		must(t, err)
		_, err = w.Await(ctx, func(c measure.NeighChange) bool { return c.State == "reachable" })
		must(t, err)
	}
	r, err := f.Stop()
	must(t, err)
	report, err := p.Stop()
	must(t, err)
	if r.Deleted < 3 || report.Lost != 0 {
		t.Errorf("deleted %d times, %d probes lost; want three times at least, none lost", r.Deleted, report.Lost)
	}
}

// While an address moves, both may speak for it. A later frame of the former sender does
// not make the address his again: what he takes after that counts as taken.
func TestFormerSenderThatGoesOn(t *testing.T) {
	t.Parallel()
	const a, b = "02:00:00:00:00:01", "02:00:00:00:00:02"
	heard := func(at int, from string) measure.Heard {
		return measure.Heard{At: time.Duration(at) * time.Millisecond, MAC: from, From: from, Asked: true}
	}
	trace := measure.AskTrace{
		Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.250")}, Interval: 10 * ms,
		Requests: []measure.Request{{At: 0}, {At: 20 * ms}, {At: 60 * ms}},
		Heard:    []measure.Heard{heard(1, a), heard(21, b), heard(23, a), heard(61, a)},
		Marks:    []measure.Mark{{Name: "mended", At: 10 * ms}, {Name: "cut", At: 50 * ms}},
	}
	m, err := measure.AnalyseAsk(trace).After("cut")
	must(t, err)
	if m.Untaken != 0 || m.Taken.Max != 11 {
		t.Errorf("untaken %d, taken after %v ms, want after 11", m.Untaken, m.Taken.Max)
	}
}
