package bfd_test

import (
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

// slow returns the default profile.
func slow() lb.BFDProfile { return intervals(300 * ms) }

func intervals(d time.Duration) lb.BFDProfile {
	return lb.BFDProfile{Transmit: d, Receive: d, Multiplier: 3, EchoInterval: 50 * ms, MinTTL: 254}
}

func TestStateMachine(t *testing.T) {
	const (
		admin, down, init, up = bfd.AdminDown, bfd.Down, bfd.Init, bfd.Up
	)
	for _, c := range []struct {
		hear []bfd.State
		want bfd.State
		diag bfd.Diag
	}{
		// RFC 5880 §6.2 and §6.8.6: each arrow, and what is no arrow.
		{nil, down, bfd.NoDiag},
		{[]bfd.State{admin}, down, bfd.NoDiag},
		{[]bfd.State{up}, down, bfd.NoDiag},
		{[]bfd.State{down}, init, bfd.NoDiag},
		{[]bfd.State{init}, up, bfd.NoDiag},
		{[]bfd.State{down, down}, init, bfd.NoDiag},
		{[]bfd.State{down, admin}, down, bfd.NeighborDown},
		{[]bfd.State{down, init}, up, bfd.NoDiag},
		{[]bfd.State{down, up}, up, bfd.NoDiag},
		{[]bfd.State{down, up, init}, up, bfd.NoDiag},
		{[]bfd.State{down, up, up}, up, bfd.NoDiag},
		{[]bfd.State{down, up, down}, down, bfd.NeighborDown},
		{[]bfd.State{down, up, admin}, down, bfd.NeighborDown},
		{[]bfd.State{down, up, down, down, init}, up, bfd.NoDiag},
	} {
		s := bfd.New(slow(), 1, 1, half)
		now := start
		for _, state := range c.hear {
			now = now.Add(ms)
			s.Step(now, bfd.Received{Packet: heard(state), At: now})
		}
		if st := s.Status(); st.State != c.want || st.Diag != c.diag {
			t.Errorf("after packets %v: %s, %s, want %s, %s", c.hear, st.State, st.Diag, c.want, c.diag)
		}
		// Then it is taken down, and nothing brings it back.
		s.Step(now, bfd.Disable{})
		for _, state := range []bfd.State{down, init, up, admin} {
			s.Step(now, bfd.Received{Packet: heard(state), At: now})
		}
		out := s.Step(now.Add(2*time.Second), bfd.Tick{})
		if st := s.Status(); st.State != admin || st.Diag != bfd.AdministrativelyDown {
			t.Errorf("taken down: %s, %s", st.State, st.Diag)
		}
		if len(out.Send) != 1 || out.Send[0].State != admin || out.Send[0].Diag != bfd.AdministrativelyDown {
			t.Errorf("taken down, it says %+v", out.Send)
		}
	}
}

var start = time.Unix(1000, 0)

func half() float64 { return 0.5 }

// heard is a packet of a peer with discriminator 9 and the default profile.
func heard(s bfd.State) bfd.Packet {
	return bfd.Packet{State: s, Multiplier: 3, MyDiscr: 9, YourDiscr: 1, DesiredMinTx: 300 * ms, RequiredRx: 300 * ms}
}

func TestTransitionSaysWhoseWill(t *testing.T) {
	for name, c := range map[string]struct {
		ev    bfd.Event
		admin bool
	}{
		"peer down":  {bfd.Received{Packet: heard(bfd.Down), At: start}, false},
		"peer admin": {bfd.Received{Packet: heard(bfd.AdminDown), At: start}, true},
		"ours":       {bfd.Disable{}, true},
	} {
		s := established(slow())
		out := s.Step(start, c.ev)
		if out.Change == nil || out.Change.From != bfd.Up || out.Change.Admin != c.admin {
			t.Errorf("%s: %+v, want a change from Up with Admin %t", name, out.Change, c.admin)
		}
	}
}

// established returns a session that came up at start; the peer answered its poll.
func established(p lb.BFDProfile) *bfd.Session { return establishedWith(p, half) }

func establishedWith(p lb.BFDProfile, random func() float64) *bfd.Session {
	s := bfd.New(p, 1, 1, random)
	s.Step(start, bfd.Received{Packet: heard(bfd.Down), At: start})
	s.Step(start, bfd.Received{Packet: heard(bfd.Up), At: start})
	final := heard(bfd.Up)
	final.Final = true
	s.Step(start, bfd.Received{Packet: final, At: start})
	s.Step(start, bfd.Received{Packet: heard(bfd.Up), At: start})
	return s
}

func TestForeignDiscriminator(t *testing.T) {
	s := bfd.New(slow(), 1, 1, half)
	p := heard(bfd.Init)
	p.YourDiscr = 2
	s.Step(start, bfd.Received{Packet: p, At: start})
	if st := s.Status(); st.State != bfd.Down || st.RemoteDiscr != 0 {
		t.Errorf("a packet for another session was taken: %+v", st)
	}
}

// TestJitter: RFC 5880 §6.8.7.
func TestJitter(t *testing.T) {
	for _, c := range []struct {
		multiplier  uint8
		random      float64
		least, most time.Duration
	}{
		{3, 0, 225 * ms, 225 * ms},
		{3, 0.999999, 299 * ms, 300 * ms},
		{1, 0, 225 * ms, 225 * ms},
		{1, 0.999999, 269 * ms, 270 * ms},
	} {
		p := slow()
		p.Multiplier = c.multiplier
		s := establishedWith(p, func() float64 { return c.random })
		sent := s.Step(start.Add(300*ms), bfd.Tick{})
		gap := sent.Next.Sub(start.Add(300 * ms))
		if len(sent.Send) != 1 || gap < c.least || gap > c.most {
			t.Errorf("multiplier %d, random %f: %d packets, next after %s, want %s to %s", c.multiplier, c.random, len(sent.Send), gap, c.least, c.most)
		}
	}
}

// TestSilence: who is not heard within the detection time is down; no sooner, no later.
func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		minTx, receive, want time.Duration
		multiplier           uint8
	}{
		"our interval is the longer":      {50 * ms, 300 * ms, 900 * ms, 3},
		"theirs is the longer":            {300 * ms, 50 * ms, 900 * ms, 3},
		"their multiplier is what counts": {300 * ms, 300 * ms, 1500 * ms, 5},
	} {
		p := slow()
		p.Receive = c.receive
		s := established(p)
		last := heard(bfd.Up)
		last.DesiredMinTx, last.Multiplier = c.minTx, c.multiplier
		s.Step(start, bfd.Received{Packet: last, At: start})
		if out := s.Step(start.Add(c.want-1), bfd.Tick{}); out.Change != nil {
			t.Errorf("%s: down too soon: %+v", name, out.Change)
		}
		out := s.Step(start.Add(c.want), bfd.Tick{})
		want := bfd.Transition{From: bfd.Up, To: bfd.Down, Diag: bfd.DetectionTimeExpired}
		if out.Change == nil || *out.Change != want {
			t.Errorf("%s: %+v, want %+v", name, out.Change, want)
		}
		if len(out.Send) != 1 || out.Send[0].State != bfd.Down || out.Send[0].Diag != bfd.DetectionTimeExpired ||
			out.Send[0].YourDiscr != 9 || out.Send[0].DesiredMinTx != time.Second {
			t.Errorf("%s: says %+v", name, out.Send)
		}
		if st := s.Status(); st.RemoteDiscr != 0 {
			t.Errorf("%s: the peer's discriminator is not forgotten", name)
		}
	}
}

// TestWokenLate: as late as we are woken, as long is waited again; once in all.
func TestWokenLate(t *testing.T) {
	s := established(slow())
	at := start.Add(900*ms + 200*ms)
	if out := s.Step(at, bfd.Tick{}); out.Change != nil {
		t.Fatalf("woken 200 ms late: %+v", out.Change)
	}
	// What was waiting in the card comes now: nothing has happened.
	s.Step(at.Add(ms), bfd.Received{Packet: heard(bfd.Up), At: at.Add(ms)})
	if st := s.Status(); st.State != bfd.Up {
		t.Fatalf("it is %s", st.State)
	}
	// This time nothing comes.
	at = at.Add(ms + 900*ms + 200*ms)
	if out := s.Step(at, bfd.Tick{}); out.Change != nil {
		t.Fatalf("woken 200 ms late again: %+v", out.Change)
	}
	if out := s.Step(at.Add(200*ms-1), bfd.Tick{}); out.Change != nil {
		t.Fatalf("within what was granted: %+v", out.Change)
	}
	if out := s.Step(at.Add(200*ms), bfd.Tick{}); out.Change == nil {
		t.Error("it is not down although what was granted is over")
	}
	// However late, no more than the detection time is granted.
	s = established(slow())
	if out := s.Step(start.Add(900*ms+time.Hour), bfd.Tick{}); out.Change != nil {
		t.Fatalf("woken an hour late: %+v", out.Change)
	}
	if out := s.Step(start.Add(900*ms+time.Hour+900*ms), bfd.Tick{}); out.Change == nil {
		t.Error("it is not down after twice the detection time")
	}
	if out := established(slow()).Step(start.Add(900*ms+5*ms), bfd.Tick{}); out.Change == nil {
		t.Error("5 ms late is late enough")
	}
}

// TestPassive: nothing is said before the peer speaks, nor after it has gone silent.
func TestPassive(t *testing.T) {
	p := slow()
	p.Passive = true
	s := bfd.New(p, 1, 1, half)
	if out := s.Step(start, bfd.Tick{}); len(out.Send) != 0 || !out.Next.IsZero() {
		t.Errorf("says %+v, wants to be woken at %s", out.Send, out.Next)
	}
	if out := s.Step(start, bfd.Received{Packet: heard(bfd.Down), At: start}); len(out.Send) != 1 || out.Send[0].State != bfd.Init {
		t.Errorf("spoken to, it says %+v", out.Send)
	}
	at := start.Add(900 * ms)
	if out := s.Step(at, bfd.Tick{}); len(out.Send) != 1 || out.Send[0].State != bfd.Down || !out.Next.IsZero() {
		t.Errorf("after silence: says %+v, wants to be woken at %s", out.Send, out.Next)
	}
}

// TestPeerLimits: what the peer says about what it wants to hear.
func TestPeerLimits(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*bfd.Packet)
		want time.Duration
	}{
		"as fast as we like": {func(p *bfd.Packet) { p.RequiredRx = 10 * ms }, 300 * ms},
		"slower":             {func(p *bfd.Packet) { p.RequiredRx = 700 * ms }, 700 * ms},
		"nothing":            {func(p *bfd.Packet) { p.RequiredRx = 0 }, 0},
		"demand":             {func(p *bfd.Packet) { p.Demand = true }, 0},
		"demand, but not up": {func(p *bfd.Packet) { p.Demand, p.State = true, bfd.Init }, 300 * ms},
	} {
		s := established(slow())
		p := heard(bfd.Up)
		c.edit(&p)
		s.Step(start, bfd.Received{Packet: p, At: start})
		if st := s.Status(); st.State != bfd.Up || st.Transmit != c.want {
			t.Errorf("%s: %s, transmits every %s, want %s", name, st.State, st.Transmit, c.want)
		}
	}
}

// TestPollIsAnswered at once, whatever the timers say, and never with P.
func TestPollIsAnswered(t *testing.T) {
	s := bfd.New(slow(), 1, 1, half)
	s.Step(start, bfd.Received{Packet: heard(bfd.Down), At: start})
	for i, state := range []bfd.State{bfd.Down, bfd.Init, bfd.Up, bfd.Up} { // our own poll begins at the second
		p := heard(state)
		p.Poll, p.RequiredRx = true, 0
		out := s.Step(start.Add(time.Duration(i)), bfd.Received{Packet: p, At: start})
		finals := 0
		for _, sent := range out.Send {
			if sent.Final {
				finals++
			}
			if sent.Final && sent.Poll {
				t.Errorf("packet with P and F: %+v", sent)
			}
		}
		if finals != 1 {
			t.Errorf("packet %d with P was answered by %d with F: %+v", i, finals, out.Send)
		}
	}
}

// TestProfileChange: the more cautious value is in use until the peer has answered.
func TestProfileChange(t *testing.T) {
	final := heard(bfd.Up)
	final.Final, final.DesiredMinTx, final.RequiredRx = true, 10*ms, 10*ms
	plain := final
	plain.Final = false
	s := established(slow())
	s.Step(start, bfd.Received{Packet: plain, At: start})
	check := func(when string, transmit, detection time.Duration, poll bool) {
		t.Helper()
		if st := s.Status(); st.State != bfd.Up || st.Transmit != transmit || st.Detection != detection || st.Poll != poll {
			t.Errorf("%s: %+v, want transmit %s, detection %s, poll %t", when, st, transmit, detection, poll)
		}
	}
	check("at first", 300*ms, 900*ms, false)
	out := s.Step(start, bfd.Configure{Profile: intervals(50 * ms)})
	check("shorter: transmit at once, detect later", 50*ms, 900*ms, true)
	if len(out.Send) != 1 || !out.Send[0].Poll || out.Send[0].DesiredMinTx != 50*ms || out.Send[0].RequiredRx != 50*ms {
		t.Errorf("says %+v", out.Send)
	}
	// A change meanwhile waits for the end of the Poll Sequence, and for a packet that
	// is no answer.
	s.Step(start, bfd.Configure{Profile: intervals(400 * ms)})
	check("longer meanwhile", 50*ms, 900*ms, true)
	s.Step(start, bfd.Received{Packet: final, At: start})
	check("answered", 50*ms, 150*ms, false)
	s.Step(start, bfd.Received{Packet: final, At: start})
	check("answered twice", 50*ms, 150*ms, false)
	s.Step(start, bfd.Received{Packet: plain, At: start})
	check("longer: detect at once, transmit later", 50*ms, 1200*ms, true)
	s.Step(start, bfd.Received{Packet: final, At: start})
	check("answered again", 400*ms, 1200*ms, false)

	p := intervals(400 * ms)
	p.Multiplier = 9
	if out := s.Step(start, bfd.Configure{Profile: p}); len(out.Send) != 1 || out.Send[0].Multiplier != 9 || out.Send[0].Poll {
		t.Errorf("a new multiplier: says %+v", out.Send)
	}
	if out := s.Step(start, bfd.Configure{Profile: p}); len(out.Send) != 0 {
		t.Errorf("nothing new: says %+v", out.Send)
	}
}

// TestPollIsRepeated until it is answered.
func TestPollIsRepeated(t *testing.T) {
	s := established(slow())
	out := s.Step(start, bfd.Configure{Profile: intervals(200 * ms)})
	for range 3 {
		at := out.Next
		s.Step(at.Add(-1), bfd.Received{Packet: heard(bfd.Up), At: at})
		if out = s.Step(at, bfd.Tick{}); len(out.Send) != 1 || !out.Send[0].Poll {
			t.Fatalf("says %+v", out.Send)
		}
	}
}

func TestEcho(t *testing.T) {
	p := slow()
	p.Echo = true
	s := established(p)
	willing := heard(bfd.Up)
	willing.RequiredEcho = 70 * ms
	if out := s.Step(start, bfd.Received{Packet: willing, At: start}); out.Echo != nil {
		t.Fatal("echo without a path")
	}
	out := s.Step(start, bfd.EchoPath{Send: true})
	if out.Echo == nil || s.Status().Echo != 70*ms {
		t.Fatalf("echo %+v, every %s, want one every 70ms", out.Echo, s.Status().Echo)
	}
	// As long as none has come back, none is missed.
	at := start
	for range 20 {
		at = out.Next
		s.Step(at, bfd.Received{Packet: willing, At: at})
		out = s.Step(at, bfd.Tick{})
	}
	if st := s.Status(); st.State != bfd.Up || st.EchoWorks {
		t.Fatalf("%+v", st)
	}
	for name, e := range map[string]bfd.Echo{
		"forged":          {Discr: 1, Seq: 1, Nonce: 2},
		"never sent":      {Discr: 1, Seq: 1000, Nonce: 1},
		"of another time": {Discr: 1, Seq: 0, Nonce: 1},
	} {
		if s.Step(at, bfd.EchoBack{Echo: e, At: at}); s.Status().EchoWorks {
			t.Errorf("an echo packet that is %s was taken", name)
		}
	}
	// The first that comes back: now control packets may be fewer.
	out = s.Step(at, bfd.EchoBack{Echo: bfd.Echo{Discr: 1, Seq: 1, Nonce: 1}, At: at})
	if len(out.Send) != 1 || !out.Send[0].Poll || out.Send[0].RequiredRx != time.Second || !s.Status().EchoWorks {
		t.Fatalf("says %+v; %+v", out.Send, s.Status())
	}
	// Then none comes back any more.
	first := at
	for s.Status().State == bfd.Up && at.Before(start.Add(time.Minute)) {
		at = out.Next
		s.Step(at, bfd.Received{Packet: willing, At: at})
		out = s.Step(at, bfd.Tick{})
	}
	if st := s.Status(); at.Sub(first) != 210*ms || st.Diag != bfd.EchoFailed || st.Echo != 0 {
		t.Errorf("after %s: %+v, want down after 210ms for %s", at.Sub(first), st, bfd.EchoFailed)
	}
}

// TestEchoOfThePeer: we promise to return its packets only where we do.
func TestEchoOfThePeer(t *testing.T) {
	for name, c := range map[string]struct {
		echo bool
		path bfd.EchoPath
		want time.Duration
	}{
		"off":           {false, bfd.EchoPath{Send: true, Return: true}, 0},
		"no forwarding": {true, bfd.EchoPath{Send: true}, 0},
		"on":            {true, bfd.EchoPath{Return: true}, 50 * ms},
	} {
		p := slow()
		p.Echo = c.echo
		s := bfd.New(p, 1, 1, half)
		s.Step(start, c.path)
		out := s.Step(start.Add(time.Second), bfd.Tick{})
		if len(out.Send) != 1 || out.Send[0].RequiredEcho != c.want {
			t.Errorf("%s: says %+v, want an echo interval of %s", name, out.Send, c.want)
		}
	}
}

// TestSlowerPeer: 50 ms against 300 ms settles on the slower, and never flaps; a cut is
// seen within three of its intervals; profiles change without a flap.
func TestSlowerPeer(t *testing.T) {
	w := newWorld(intervals(50*ms), slow())
	w.run(5 * time.Second)
	for i, s := range w.sides {
		if st := s.Status(); st.State != bfd.Up || st.Transmit != 300*ms || st.Detection != 900*ms || st.Poll {
			t.Errorf("side %d: %+v", i, st)
		}
	}
	w.sent = [2]int{}
	w.run(time.Minute)
	for i, n := range w.sent {
		if n < 200 || n > 267 { // 60 s at 75 to 100 % of 300 ms
			t.Errorf("side %d sent %d packets in a minute", i, n)
		}
	}
	for _, d := range []time.Duration{10 * ms, time.Second, 60 * ms, 60 * time.Second, 10 * ms} {
		w.step(0, bfd.Configure{Profile: intervals(d)})
		w.step(1, bfd.Configure{Profile: intervals(d)})
		w.run(5 * time.Minute)
		if st := w.sides[0].Status(); st.Transmit != d || st.Detection != 3*d || st.Poll {
			t.Errorf("after a change to %s: %+v", d, st)
		}
	}
	if got := strings.Join(w.story, ", "); got != "a Init, b Up, a Up" && got != "b Init, a Up, b Up" {
		t.Errorf("what happened: %s", got)
	}
	w.story, w.cut = nil, true
	w.run(32 * ms) // one packet was under way
	if len(w.story) != 2 {
		t.Errorf("32 ms after the cut: %v", w.story)
	}
	w.cut = false
	w.run(3 * time.Second)
	if st := w.sides[0].Status(); st.State != bfd.Up {
		t.Errorf("after the repair: %+v", st)
	}
}

// TestSlowStart: a session that is down sends once a second at most.
func TestSlowStart(t *testing.T) {
	w := newWorld(intervals(10*ms), slow())
	w.cut = true
	w.run(time.Minute)
	if n := w.sent[0]; n < 60 || n > 80 {
		t.Errorf("%d packets in a minute", n)
	}
}

// TestResume: one side is replaced by another one that goes on with what was known last.
// The other side does not notice, and the intervals are what they were.
func TestResume(t *testing.T) {
	for name, last := range map[string]func(bfd.Status) bfd.Status{
		"all is known": func(st bfd.Status) bfd.Status { return st },
		"before the intervals": func(st bfd.Status) bfd.Status {
			st.Transmit, st.Detection, st.RemoteTransmit = time.Second, 3*time.Second, time.Second
			return st
		},
		"nothing of intervals": func(st bfd.Status) bfd.Status {
			st.Transmit, st.Detection, st.RemoteTransmit, st.RemoteReceive = 0, 0, 0, 0
			return st
		},
	} {
		w := newWorld(intervals(50*ms), intervals(60*ms))
		w.run(10 * time.Second)
		story := len(w.story)
		for range 20 {
			w.run(130 * ms)
			w.sides[0] = bfd.Resume(intervals(50*ms), last(w.sides[0].Status()), w.now, 3, half)
			w.wake[0] = w.now
			w.run(20 * ms)
		}
		w.run(time.Second)
		if len(w.story) != story {
			t.Errorf("%s: %v", name, w.story[story:])
		}
		for _, s := range w.sides {
			if st := s.Status(); st.State != bfd.Up || st.Transmit != 60*ms || st.Detection != 180*ms || st.Poll {
				t.Errorf("%s: %+v", name, st)
			}
		}
	}
}

// TestResumeOfTheDead: a peer that is gone is missed after the detection time, and one
// that has taken the session down meanwhile is believed.
func TestResumeOfTheDead(t *testing.T) {
	w := newWorld(intervals(50*ms), intervals(50*ms))
	w.run(10 * time.Second)
	last := w.sides[0].Status()
	s := bfd.Resume(intervals(50*ms), last, w.now, 3, half)
	s.Step(w.now.Add(149*ms), bfd.Tick{})
	if st := s.Status(); st.State != bfd.Up {
		t.Errorf("within the detection time: %+v", st)
	}
	s.Step(w.now.Add(151*ms), bfd.Tick{})
	if st := s.Status(); st.State != bfd.Down || st.Diag != bfd.DetectionTimeExpired {
		t.Errorf("after the detection time: %+v", st)
	}
	s = bfd.Resume(intervals(50*ms), last, w.now, 3, half)
	s.Step(w.now, bfd.Received{Packet: heard(bfd.Down), At: w.now})
	if st := s.Status(); st.State != bfd.Down || st.Diag != bfd.NeighborDown {
		t.Errorf("after the peer has said down: %+v", st)
	}
	last.State = bfd.Init
	if st := bfd.Resume(intervals(50*ms), last, w.now, 3, half).Status(); st.State != bfd.Down || st.Discr != last.Discr {
		t.Errorf("of one that was not up: %+v", st)
	}
}
