package liveness_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/core/liveness"
)

// one is a single Machine, to which a test says what happens.
type one struct {
	*liveness.Machine
	now time.Time
}

func newOne(o liveness.Options) *one {
	o.Self = "node0"
	return &one{liveness.New(o), time.Unix(1000, 0)}
}

// world tells of the nodes whose Facts are given; all are members.
func (o *one) world(facts ...*liveness.Facts) []liveness.Action {
	w := liveness.World{Members: map[string]bool{}, Facts: map[string]*liveness.Facts{}}
	for _, f := range facts {
		w.Members[f.Node], w.Facts[f.Node] = true, f
	}
	return o.Step(o.now, w)
}

// run lets time pass; answer says whether a probe is answered at once.
func (o *one) run(d time.Duration, answer func(liveness.Probe) bool) []liveness.Action {
	var all []liveness.Action
	end := o.now.Add(d)
	for {
		next, ok := o.Next()
		if !ok || next.After(end) {
			o.now = end
			return all
		}
		if next.After(o.now) {
			o.now = next
		}
		acts := o.Step(o.now, liveness.Tick{})
		all = append(all, acts...)
		for _, a := range acts {
			if p, ok := a.(liveness.Probe); ok && answer(p) {
				all = append(all, o.answer(p, p.MAC)...)
			}
		}
	}
}

func (o *one) answer(p liveness.Probe, mac links.MAC) []liveness.Action {
	return o.Step(o.now, liveness.Answer{Node: p.Node, Segment: p.Segment, MAC: mac, Method: p.Method, At: o.now})
}

func always(liveness.Probe) bool { return true }
func never(liveness.Probe) bool  { return false }

func pick[T liveness.Action](acts []liveness.Action) []T {
	var out []T
	for _, a := range acts {
		if t, ok := a.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

func reportsOf(acts []liveness.Action, kind liveness.ReportKind) []liveness.Report {
	return slices.DeleteFunc(pick[liveness.Report](acts), func(r liveness.Report) bool { return r.Kind != kind })
}

func serving(i int) *liveness.Facts { return factsOf(i, liveness.Serving, 1) }

func TestAlone(t *testing.T) {
	o := newOne(liveness.Options{})
	if acts := o.world(serving(0)); len(acts) > 0 {
		t.Errorf("%v", acts)
	}
	if at, ok := o.Next(); ok {
		t.Errorf("a node alone wants to wake up at %v", at)
	}
	if v := o.View(); len(v.CutOff) > 0 || len(v.Nodes) != 1 || !o.Settled() {
		t.Errorf("%+v", v)
	}
}

func TestEachIsProbedByThree(t *testing.T) {
	for _, n := range []int{2, 3, 4, 64} {
		var facts []*liveness.Facts
		for i := range n {
			facts = append(facts, serving(i))
		}
		by := map[string]int{}
		for i := range n {
			o := &one{liveness.New(liveness.Options{Self: facts[i].Node}), time.Unix(1000, 0)}
			o.world(facts...)
			probed := map[string]bool{}
			for _, p := range pick[liveness.Probe](o.run(150*ms, always)) {
				probed[p.Node] = true
			}
			if len(probed) != min(3, n-1) || len(o.Watched()) != len(probed) {
				t.Errorf("of %d nodes one probes %d, and watches %v", n, len(probed), o.Watched())
			}
			for name := range probed {
				by[name]++
			}
		}
		for name, k := range by {
			if k != min(3, n-1) {
				t.Errorf("of %d nodes %s is probed by %d", n, name, k)
			}
		}
	}
}

func TestMetalLBSpeaker(t *testing.T) {
	o := newOne(liveness.Options{})
	w := liveness.World{Members: map[string]bool{"node0": true, "metal": true}, Facts: map[string]*liveness.Facts{"node0": serving(0)}}
	o.Step(o.now, w)
	if n := o.View().Nodes["metal"]; !n.Member || len(n.Dead) > 0 || n.SpeakerDown || n.Gone {
		t.Errorf("a member: %+v", n)
	}
	w.Members["metal"] = false
	o.Step(o.now, w)
	if n := o.View().Nodes["metal"]; n.Member || !n.Dead[segment] || n.SpeakerDown || n.Gone {
		t.Errorf("none: %+v", n)
	}
	delete(w.Members, "metal")
	o.Step(o.now, w)
	if n, ok := o.View().Nodes["metal"]; ok {
		t.Errorf("forgotten: %+v", n)
	}
}

func onPrefixes(f *liveness.Facts, prefixes ...string) *liveness.Facts {
	f.Links[0].Addrs = nil
	for _, p := range prefixes {
		f.Links[0].Addrs = append(f.Links[0].Addrs, netip.MustParsePrefix(p))
	}
	return f
}

func TestNoCommonSegment(t *testing.T) {
	o := newOne(liveness.Options{})
	far := onPrefixes(serving(1), "172.16.0.1/24", "10.0.9.9/32", "fe80::1/64")
	acts := o.world(serving(0), far)
	acts = append(acts, o.run(time.Second, never)...)
	if len(pick[liveness.Probe](acts)) > 0 {
		t.Error("it is probed")
	}
	if n := o.View().Nodes["node1"]; n.Gone || n.SpeakerDown {
		t.Errorf("a member: %+v", n)
	}
	facts := map[string]*liveness.Facts{"node0": serving(0), "node1": far}
	o.Step(o.now, liveness.World{Members: map[string]bool{"node0": true, "node1": false}, Facts: facts})
	if n := o.View().Nodes["node1"]; !n.Gone {
		t.Errorf("no member: %+v", n)
	}
	o.Step(o.now, liveness.World{Members: map[string]bool{"node0": true, "node1": true}, Facts: facts})
	if n := o.View().Nodes["node1"]; n.Gone {
		t.Errorf("a member again: %+v", n)
	}
}

// TestTwoFamilies: a link with two prefixes is probed once, and dies as one.
func TestTwoFamilies(t *testing.T) {
	o := newOne(liveness.Options{})
	two := []string{"10.0.1.%d/16", "2001:db8::%d/64"}
	var facts []*liveness.Facts
	for i := range 2 {
		facts = append(facts, onPrefixes(serving(i), fmt.Sprintf(two[0], i+1), fmt.Sprintf(two[1], i+1)))
	}
	o.world(facts...)
	probes := pick[liveness.Probe](o.run(time.Second, always))
	if len(probes) < 9 || len(probes) > 11 || probes[0].Method != liveness.ARP || probes[0].Addr != netip.MustParseAddr("10.0.1.2") {
		t.Errorf("%d probes, the first %+v", len(probes), probes[0])
	}
	o.Step(o.now, liveness.Received{From: "node1", Message: liveness.Message{
		Kind: liveness.Verdict, Node: "node1", Segment: netip.MustParsePrefix("2001:db8::/64"), Epoch: 1,
	}})
	if dead := o.View().Nodes["node1"].Dead; len(dead) != 2 {
		t.Errorf("dead on %v", dead)
	}
}

func TestIPv6Only(t *testing.T) {
	o := newOne(liveness.Options{})
	o.world(onPrefixes(serving(0), "2001:db8::1/64"), onPrefixes(serving(1), "2001:db8::2/64"))
	if p := pick[liveness.Probe](o.run(150*ms, always)); len(p) == 0 || p[0].Method != liveness.NS {
		t.Errorf("probes %+v", p)
	}
}

func TestMethod(t *testing.T) {
	o := newOne(liveness.Options{Method: liveness.ICMP})
	o.world(serving(0), serving(1))
	if p := pick[liveness.Probe](o.run(150*ms, always)); len(p) == 0 || p[0].Method != liveness.ICMP {
		t.Errorf("probes %+v", p)
	}
	o = newOne(liveness.Options{Method: liveness.Off})
	o.world(serving(0), serving(1))
	if acts := o.run(time.Minute, never); len(acts) > 0 {
		t.Errorf("with Off: %v", acts)
	}
}

func TestAnswerOfAnother(t *testing.T) {
	o := newOne(liveness.Options{})
	o.world(serving(0), serving(1))
	p := pick[liveness.Probe](o.run(150*ms, never))[0]
	acts := o.answer(p, links.MAC{4})
	if r := reportsOf(acts, liveness.ProxiedNode); len(r) != 1 || r[0].Node != "node1" {
		t.Errorf("reports %v", pick[liveness.Report](acts))
	}
	next := pick[liveness.Probe](o.run(150*ms, never))
	if len(next) == 0 || next[0].Method != liveness.ICMP {
		t.Errorf("then %+v", next)
	}
	// Another of its links may answer: Linux does (arp_ignore 0).
	o = newOne(liveness.Options{})
	f := serving(1)
	f.Links = append(f.Links, liveness.Link{Name: "eth1", MAC: links.MAC{5}, Carrier: true})
	o.world(serving(0), f)
	p = pick[liveness.Probe](o.run(150*ms, never))[0]
	if acts := o.answer(p, links.MAC{5}); len(reportsOf(acts, liveness.ProxiedNode)) != 0 {
		t.Errorf("its own other link: %v", acts)
	}
}

func TestProbesNotSeen(t *testing.T) {
	for _, c := range []struct {
		seen, seenFirst uint32
		want            int
	}{{0, 0, 1}, {0, 9, 0}, {9, 0, 0}, {9, 9, 0}} {
		o := newOne(liveness.Options{})
		o.world(serving(0), serving(1))
		o.run(time.Second, always)
		if got := reportsOf(o.Step(o.now, liveness.ProbesSeen{Node: "node1", Segment: segment, Seen: c.seenFirst}), liveness.ProxiedNode); len(got) > 0 {
			t.Errorf("%d seen once: %v", c.seenFirst, got)
		}
		o.run(time.Second, always)
		acts := o.Step(o.now, liveness.ProbesSeen{Node: "node1", Segment: segment, Seen: c.seen})
		if got := len(reportsOf(acts, liveness.ProxiedNode)); got != c.want {
			t.Errorf("%d seen: reported %d times, want %d", c.seen, got, c.want)
		}
		// Now it dies, and the switch goes on to answer ARP in its name.
		acts = nil
		for end := o.now.Add(time.Second); o.now.Before(end); {
			acts = append(acts, o.run(50*ms, never)...)
			acts = append(acts, o.Step(o.now, liveness.GatewayAnswer{Link: "eth0", At: o.now})...)
			acts = append(acts, o.Step(o.now, liveness.Answer{
				Node: "node1", Segment: segment, MAC: macOf(1), Method: liveness.ARP, At: o.now,
			})...)
		}
		if got := len(reportsOf(acts, liveness.NodeDead)); got != c.want {
			t.Errorf("%d seen: declared dead %d times, want %d", c.seen, got, c.want)
		}
	}
}

func TestViewIsTheSame(t *testing.T) {
	o := newOne(liveness.Options{})
	o.world(serving(0), serving(1))
	v, w := o.View(), o.Watched()
	o.run(3*time.Second, always)
	o.world(serving(0), serving(1))
	if o.View() != v || &o.Watched()[0] != &w[0] {
		t.Error("it is another though nothing changed")
	}
	o.world(serving(0), serving(1), serving(2))
	if o.View() == v || len(v.Nodes) != 2 {
		t.Error("it was changed")
	}
}

func TestCarrier(t *testing.T) {
	o := newOne(liveness.Options{})
	o.world(serving(0), serving(1))
	o.run(time.Second, always)
	off := serving(0)
	off.Links[0].Carrier = false
	acts := o.world(off, serving(1))
	if !o.View().CutOff[segment] || len(reportsOf(acts, liveness.Cut)) != 1 {
		t.Errorf("without carrier: %+v, %v", o.View(), acts)
	}
	if p := pick[liveness.Probe](o.run(time.Second, always)); len(p) > 0 {
		t.Errorf("%d probes without carrier", len(p))
	}
	o.world(serving(0), serving(1))
	acts = o.run(150*ms, never)
	if !o.View().CutOff[segment] {
		t.Error("not cut off, before anything was heard")
	}
	acts = append(acts, o.run(110*ms, always)...)
	if len(pick[liveness.AskOwners](acts)) != 1 || !o.View().CutOff[segment] {
		t.Errorf("at the first frame: asked %d times, %v", len(pick[liveness.AskOwners](acts)), o.View().CutOff)
	}
	o.Step(o.now, liveness.OwnersAnswered{})
	if o.View().CutOff[segment] {
		t.Error("cut off after the owners have answered")
	}
}

func TestRefute(t *testing.T) {
	dead := liveness.Received{From: "node1", Message: liveness.Message{Kind: liveness.Verdict, Node: "node0", Segment: segment, Epoch: 3}}
	o := newOne(liveness.Options{})
	o.world(serving(0), serving(1), serving(2))
	o.run(time.Second, always)
	acts := o.Step(o.now, dead)
	b := pick[liveness.Broadcast](acts)
	if len(b) != 1 || b[0].Message.Epoch != 4 || b[0].Message.Node != "node0" || len(o.View().Nodes["node0"].Dead) > 0 {
		t.Errorf("one who is answered says %v", acts)
	}
	for _, epoch := range []uint32{5, 7} {
		dead.Message.Epoch = epoch
		if b := pick[liveness.Broadcast](o.Step(o.now, dead)); len(b) != 1 || b[0].Message.Epoch != epoch+1 {
			t.Errorf("epoch %d: it says %v", epoch, b)
		}
	}
	// The fourth time in short order it waits.
	dead.Message.Epoch = 9
	acts = o.Step(o.now, dead)
	if b := pick[liveness.Broadcast](acts); len(b) > 0 {
		t.Errorf("the fourth time it says at once %v", b)
	}
	if !o.View().Nodes["node0"].Dead[segment] {
		t.Error("it does not know that others hold it dead")
	}
	acts = o.run(1200*ms, always)
	if r := reportsOf(acts, liveness.Refuted); len(r) != 1 {
		t.Errorf("later: %v", pick[liveness.Report](acts))
	}
	// One who is not answered says nothing.
	o = newOne(liveness.Options{})
	o.world(serving(0), serving(1), serving(2))
	o.run(time.Second, never)
	acts = append(o.Step(o.now, dead), o.run(time.Second, never)...)
	if b := pick[liveness.Broadcast](acts); len(b) > 0 || !o.View().Nodes["node0"].Dead[segment] {
		t.Errorf("one who is not answered says %v", b)
	}
}

func TestEpochs(t *testing.T) {
	o := newOne(liveness.Options{})
	o.world(serving(0), serving(1), serving(2))
	say := func(epoch uint32) []liveness.Action {
		return o.Step(o.now, liveness.Received{From: "node2", Message: liveness.Message{
			Kind: liveness.Verdict, Node: "node1", Segment: segment, Epoch: epoch,
		}})
	}
	for _, c := range []struct {
		epoch uint32
		dead  bool
		reply uint32
	}{{3, true, 0}, {3, true, 0}, {2, true, 3}, {4, false, 0}, {3, false, 4}, {1, false, 4}, {9, true, 0}} {
		s := pick[liveness.Send](say(c.epoch))
		if got := o.View().Nodes["node1"].Dead[segment]; got != c.dead {
			t.Errorf("after %d: dead %v, want %v", c.epoch, got, c.dead)
		}
		switch {
		case c.reply == 0 && len(s) > 0:
			t.Errorf("to %d it replies %v", c.epoch, s)
		case c.reply > 0 && (len(s) != 1 || s[0].To != "node2" || s[0].Message.Epoch != c.reply):
			t.Errorf("to %d it replies %v, want %d", c.epoch, s, c.reply)
		}
	}
}

// once has a node answer one probe alone, and others all.
func once(node string) func(liveness.Probe) bool {
	done := false
	return func(p liveness.Probe) bool {
		was := done
		done = done || p.Node == node
		return p.Node != node || !was
	}
}

func TestAsked(t *testing.T) {
	ask := liveness.Received{From: "node2", Message: liveness.Message{Kind: liveness.Suspect, Node: "node1", Segment: segment}}
	for _, c := range []struct {
		name   string
		before func(liveness.Probe) bool
		after  func(liveness.Probe) bool
		want   []bool
		within time.Duration
	}{
		{"it answers", always, always, []bool{true}, 0},
		{"it did not, but does", never, always, []bool{true}, ms},
		{"it did, and does not", once("node1"), never, []bool{false}, 31 * ms},
		{"it never did", func(p liveness.Probe) bool { return p.Node != "node1" }, never, nil, 31 * ms},
	} {
		o := newOne(liveness.Options{})
		o.world(serving(0), serving(1), serving(2), serving(3))
		o.run(250*ms, c.before)
		acts := o.Step(o.now, ask)
		for _, p := range pick[liveness.Probe](acts) {
			if c.after(p) {
				acts = append(acts, o.answer(p, p.MAC)...)
			}
		}
		acts = append(acts, o.run(c.within, c.after)...)
		var got []bool
		for _, s := range pick[liveness.Send](acts) {
			if s.To == "node2" && s.Message.Kind == liveness.Opinion && s.Message.Node == "node1" {
				got = append(got, s.Message.Reachable)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: says %v, want %v", c.name, got, c.want)
		}
	}
}

// TestStallProvesNothing: probes that were under way when this process, or its kernel too,
// stood still are not held against a node.
func TestStallProvesNothing(t *testing.T) {
	for _, told := range []bool{true, false} {
		o := newOne(liveness.Options{})
		o.world(serving(0), serving(1))
		o.run(3*time.Second, always)
		var acts []liveness.Action
		for range 10 { // each time one probe is sent, and then it stands still
			acts = append(acts, o.run(90*ms, never)...)
			from := o.now
			o.now = o.now.Add(250 * ms)
			if told {
				acts = append(acts, o.Step(o.now, liveness.Stall{From: from, To: o.now})...)
			}
			acts = append(acts, o.Step(o.now, liveness.GatewayAnswer{Link: "eth0", At: o.now})...)
		}
		if len(pick[liveness.Probe](acts)) < 8 {
			t.Errorf("told %v: only %d probes", told, len(pick[liveness.Probe](acts)))
		}
		for _, s := range pick[liveness.Send](acts) {
			t.Errorf("told %v: it asks %s", told, s.To)
		}
		acts = append(acts, o.run(500*ms, never)...)
		if len(reportsOf(acts, liveness.NodeDead))+len(reportsOf(acts, liveness.Cut)) == 0 {
			t.Errorf("told %v: it does not find out that node1 is silent", told)
		}
	}
}

// TestLongStall asks the owners, and does not answer until it knows them, or 200 ms.
func TestLongStall(t *testing.T) {
	for _, c := range []struct {
		stall   time.Duration
		settled bool
	}{{250 * ms, true}, {350 * ms, false}} {
		o := newOne(liveness.Options{})
		o.world(serving(0), serving(1))
		o.run(time.Second, always)
		from := o.now
		o.now = o.now.Add(c.stall)
		acts := o.Step(o.now, liveness.Stall{From: from, To: o.now})
		if o.Settled() != c.settled || (len(pick[liveness.AskOwners](acts)) == 0) != c.settled {
			t.Errorf("after %v: settled %v, %v", c.stall, o.Settled(), acts)
		}
		o.run(190*ms, always)
		if o.Settled() != c.settled {
			t.Errorf("after %v and 190ms: settled %v", c.stall, o.Settled())
		}
		o.run(10*ms, always)
		if !o.Settled() {
			t.Errorf("after %v and 200ms: not settled", c.stall)
		}
	}
}
