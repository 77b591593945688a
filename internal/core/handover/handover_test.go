package handover_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
)

const (
	drain    = 10 * time.Second
	patience = 2 * time.Second
	ms       = time.Millisecond
)

var (
	vip     = netip.MustParseAddr("192.168.1.250")
	segment = netip.MustParsePrefix("192.168.1.0/24")
	start   = time.Unix(1000, 0)
)

// scene is what one node's Book is told.
type scene struct {
	book   *handover.Book
	now    time.Time
	want   handover.Wants
	owner  string // by the plan
	stays  bool   // lingers
	view   *liveness.View
	claims []liveness.Claimant
	out    handover.Output
}

func newScene() *scene {
	return &scene{book: handover.New(handover.Options{Node: "a", Drain: drain}), now: start, stays: true, view: living("a", "b", "c")}
}

func living(nodes ...string) *liveness.View {
	v := &liveness.View{Nodes: map[string]liveness.Node{}}
	for _, n := range nodes {
		v.Nodes[n] = liveness.Node{Member: true, Facts: &liveness.Facts{
			Node: n, Phase: liveness.Serving,
			Links: []liveness.Link{{Name: "eth0", Carrier: true, IPv4: true, Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.1.9/24")}}},
		}}
	}
	return v
}

// kill makes the kernel of node dead.
func (s *scene) kill(node string) {
	n := s.view.Nodes[node]
	n.Dead = map[liveness.Segment]bool{segment: true}
	v := living("a", "b", "c")
	v.Nodes[node] = n
	s.view = v
}

func (s *scene) step(after time.Duration) {
	s.now = s.now.Add(after)
	s.out = s.book.Step(handover.Input{
		Now: s.now, Want: s.want, View: s.view,
		Elsewhere: func(netip.Addr, string) (string, bool) { return s.owner, s.stays },
		Claims:    func(netip.Addr) []liveness.Claimant { return s.claims },
	})
}

func (s *scene) mine()               { s.want, s.owner = handover.Wants{vip: {}}, "a" }
func (s *scene) others(owner string) { s.want, s.owner = nil, owner }

// is checks what is answered; term 0: not claimed.
func (s *scene) is(t *testing.T, what string, role lb.Role, tell lb.Tell, term uint32) {
	t.Helper()
	got, ok := s.out.L2[vip]
	if !ok || got.Role != role || got.Tell != tell || s.out.Claims[vip] != term {
		t.Errorf("%s: %+v (answered: %t), term %d; want role %d, tell %d, term %d", what, got, ok, s.out.Claims[vip], role, tell, term)
	}
}

func (s *scene) silent(t *testing.T, what string) {
	t.Helper()
	if len(s.out.L2) > 0 || len(s.out.Claims) > 0 {
		t.Errorf("%s: answers %v, claims %v", what, s.out.L2, s.out.Claims)
	}
}

func (s *scene) next(t *testing.T, want time.Duration) {
	t.Helper()
	if got := s.out.Next.Sub(s.now); s.out.Next.IsZero() && want != 0 || !s.out.Next.IsZero() && got != want {
		t.Errorf("next decision in %s (%v), want in %s", got, s.out.Next, want)
	}
}

func TestNewAddressIsToldAtOnce(t *testing.T) {
	s := newScene()
	s.mine()
	s.step(0)
	s.is(t, "new", lb.Own, lb.TellAtOnce, 1)
	s.next(t, 0)
	s.others("")
	s.step(ms)
	s.silent(t, "withdrawn")
}

func TestDeadOwnersAddressIsToldAtOnce(t *testing.T) {
	s := newScene()
	s.claims = []liveness.Claimant{{Node: "b", Term: 3}}
	s.kill("b")
	s.mine()
	s.step(0)
	s.is(t, "taken", lb.Own, lb.TellAtOnce, 4)
}

func TestPlannedMoveToThisNode(t *testing.T) {
	for name, c := range map[string]struct {
		edit  func(*scene)
		after time.Duration
		tell  lb.Tell
	}{
		"before the drain time is over":       {func(*scene) {}, drain - ms, lb.TellNever},
		"after":                               {func(*scene) {}, drain, lb.TellAtOnce},
		"the former owner dies":               {func(s *scene) { s.kill("b") }, ms, lb.TellAtOnce},
		"the former owner has no endpoint":    {func(s *scene) { s.stays = false }, ms, lb.TellAtOnce},
		"the former owner does not claim it":  {func(s *scene) { s.claims = nil }, ms, lb.TellNever},
		"the former owner claims it at last":  {func(s *scene) { s.claims = append(s.claims, liveness.Claimant{Node: "a", Term: 4}) }, ms, lb.TellNever},
		"a third node claims it, at the same": {func(s *scene) { s.claims[0].Node = "c" }, ms, lb.TellNever},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			s.claims = []liveness.Claimant{{Node: "b", Term: 3}}
			s.mine()
			s.step(0)
			s.is(t, "at first", lb.Own, lb.TellNever, 4)
			s.next(t, drain)
			c.edit(s)
			s.step(c.after)
			s.is(t, "then", lb.Own, c.tell, 4)
		})
	}
}

func TestFormerOwnerWithoutEndpointIsNotLeftWithAnybody(t *testing.T) {
	s := newScene()
	s.claims, s.stays = []liveness.Claimant{{Node: "b", Term: 3}}, false
	s.mine()
	s.step(0)
	s.is(t, "taken", lb.Own, lb.TellAtOnce, 4)
}

func TestPlannedMoveAway(t *testing.T) {
	begin := func() *scene {
		s := newScene()
		s.mine()
		s.step(0)
		s.others("b")
		s.step(ms)
		return s
	}
	t.Run("answers all until the successor claims", func(t *testing.T) {
		s := begin()
		s.is(t, "not claimed yet", lb.Own, lb.TellAtOnce, 1)
		s.next(t, patience)
		s.step(patience - ms)
		s.is(t, "not claimed still", lb.Own, lb.TellAtOnce, 1)
		s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
		s.step(0)
		s.is(t, "claimed", lb.Yield, lb.TellAtOnce, 0)
		s.next(t, drain)
		s.step(drain - ms)
		s.is(t, "drains", lb.Yield, lb.TellAtOnce, 0)
		s.step(ms)
		s.silent(t, "drained")
	})
	t.Run("the successor claims it from before", func(t *testing.T) {
		s := newScene()
		s.claims = []liveness.Claimant{{Node: "b", Term: 1}}
		s.mine()
		s.step(0)
		s.others("b")
		s.step(ms)
		s.is(t, "at first", lb.Own, lb.TellNever, 2)
		s.step(300 * ms)
		s.is(t, "then", lb.Yield, lb.TellAtOnce, 0)
	})
	t.Run("loses patience", func(t *testing.T) {
		s := begin()
		s.step(patience)
		s.is(t, "not claimed", lb.Yield, lb.TellAtOnce, 0)
	})
	t.Run("comes back", func(t *testing.T) {
		s := begin()
		s.mine()
		s.step(ms)
		s.is(t, "back", lb.Own, lb.TellAtOnce, 1)
		s.next(t, 0)
		s.others("b")
		s.step(time.Hour)
		s.is(t, "and again away", lb.Own, lb.TellAtOnce, 1)
		s.next(t, patience)
	})
	t.Run("cannot carry on", func(t *testing.T) {
		s := newScene()
		s.mine()
		s.step(0)
		s.others("b")
		s.stays = false
		s.step(ms)
		s.silent(t, "without endpoint")
	})
	t.Run("withdrawn while it yields", func(t *testing.T) {
		s := begin()
		s.step(patience)
		s.others("")
		s.step(ms)
		s.silent(t, "withdrawn")
	})
	t.Run("the successor dies while it yields", func(t *testing.T) {
		s := begin()
		s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
		s.step(ms)
		s.kill("b")
		s.mine()
		s.step(ms)
		s.is(t, "taken back", lb.Own, lb.TellAtOnce, 3)
	})
}

func TestRestartedSpeakerResumesQuietly(t *testing.T) {
	s := newScene()
	s.claims = []liveness.Claimant{{Node: "c", Term: 1}, {Node: "a", Term: 2}}
	s.mine()
	s.step(0)
	s.is(t, "resumed", lb.Own, lb.TellSlowly, 2)
}

func TestCaretaker(t *testing.T) {
	s := newScene()
	s.want, s.owner = handover.Wants{vip: {Caretake: true, Of: "b", MACs: map[string][6]byte{"eth0": {2}}}}, "b"
	s.step(0)
	s.is(t, "caretaker", lb.Caretake, lb.TellAtOnce, 0)
	s.others("b")
	s.step(ms)
	s.silent(t, "the speaker is back")
	s.want = handover.Wants{vip: {Caretake: true, Of: "b"}}
	s.step(ms)
	s.claims = []liveness.Claimant{{Node: "b", Term: 1}}
	s.mine()
	s.step(ms)
	s.is(t, "its time is over", lb.Own, lb.TellNever, 2)
}

func TestPlainMovesAtOnce(t *testing.T) {
	s := newScene()
	s.claims = []liveness.Claimant{{Node: "b", Term: 3}}
	s.mine()
	s.want[vip] = handover.Want{Plain: true}
	s.step(0)
	s.is(t, "taken", lb.Own, lb.TellAtOnce, 4)
	s.others("b")
	s.stays = false
	s.step(ms)
	s.silent(t, "given")
}

func TestCutOffKeepsAndClaimsNothing(t *testing.T) {
	s := newScene()
	s.mine()
	s.step(0)
	s.view = living("a", "b", "c")
	s.view.CutOff = map[liveness.Segment]bool{segment: true}
	s.others("b")
	s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
	s.step(time.Hour)
	s.is(t, "cut off", lb.Yield, lb.TellAtOnce, 1)
	s.view = living("a", "b", "c")
	s.step(ms)
	s.is(t, "in touch again", lb.Yield, lb.TellAtOnce, 0)

	// It owns it by the plan, and is cut off: it tells nobody until it knows what others took.
	s = newScene()
	s.mine()
	s.step(0)
	s.view.CutOff = map[liveness.Segment]bool{segment: true}
	s.step(ms)
	s.is(t, "cut off", lb.Yield, lb.TellAtOnce, 1)
	s.view = living("a", "b", "c")
	s.step(ms)
	s.is(t, "nobody took it", lb.Own, lb.TellAtOnce, 1)
	s.view.CutOff = map[liveness.Segment]bool{segment: true}
	s.step(ms)
	s.view = living("a", "b", "c")
	s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
	s.step(ms)
	s.is(t, "b took it", lb.Own, lb.TellNever, 3)
	s.kill("a") // as the others hold
	s.step(ms)
	s.is(t, "held dead", lb.Yield, lb.TellAtOnce, 3)
	s.others("")
	s.step(ms)
	s.silent(t, "withdrawn while cut off")

	for what, want := range map[string]handover.Want{"own": {}, "caretake": {Caretake: true}} {
		s = newScene()
		s.view.CutOff = map[liveness.Segment]bool{segment: true}
		s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
		s.mine()
		s.want[vip] = want
		s.step(0)
		s.silent(t, what+" while cut off")
	}
}

func TestTwoClaims(t *testing.T) {
	s := newScene()
	s.mine()
	s.step(0)
	s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
	s.step(ms)
	s.is(t, "outbids", lb.Own, lb.TellNever, 3)
	s.claims[0].Term = 4
	s.step(ms)
	s.is(t, "not at once again", lb.Own, lb.TellNever, 3)
	s.step(time.Second)
	s.is(t, "but then", lb.Own, lb.TellNever, 5)
	s.claims = nil
	s.step(drain)
	s.is(t, "alone", lb.Own, lb.TellAtOnce, 5)
}

// TestClaimOfOneThatStarts: the news that it serves is late; then the plan is for it.
func TestClaimOfOneThatStarts(t *testing.T) {
	s := newScene()
	s.view.Nodes["b"].Facts.Phase = liveness.Starting
	s.mine()
	s.step(0)
	s.claims = []liveness.Claimant{{Node: "b", Term: 2}}
	s.step(ms)
	s.is(t, "waits for news", lb.Own, lb.TellAtOnce, 1)
	s.view = living("a", "b", "c")
	s.others("b")
	s.step(ms)
	s.is(t, "the plan is for it", lb.Yield, lb.TellAtOnce, 0)
}

// TestClaimOfOneThatStartsIsNotOutbid: its claim is known before the news that it serves.
// Who takes the address by a plan that does not know does not take it for good.
func TestClaimOfOneThatStartsIsNotOutbid(t *testing.T) {
	s := newScene()
	s.view.Nodes["b"].Facts.Phase = liveness.Starting
	s.claims = []liveness.Claimant{{Node: "b", Term: 1 << 16}}
	s.mine()
	s.step(0)
	s.is(t, "taken, and nobody told", lb.Own, lb.TellNever, 1)
	s.view = living("a", "b", "c")
	s.others("b")
	s.step(ms)
	s.is(t, "the plan is for it", lb.Yield, lb.TellAtOnce, 0)
}

// TestOneThatStartsAndDiesIsNotWaitedFor: nobody can go on using it.
func TestOneThatStartsAndDiesIsNotWaitedFor(t *testing.T) {
	s := newScene()
	s.view.Nodes["b"].Facts.Phase = liveness.Starting
	s.claims = []liveness.Claimant{{Node: "b", Term: 7}}
	s.mine()
	s.step(0)
	s.is(t, "taken, and nobody told", lb.Own, lb.TellNever, 1)
	s.kill("b")
	s.step(ms)
	s.is(t, "it is dead", lb.Own, lb.TellAtOnce, 1)
}

// TestAddressIsNeverWithoutAnswer moves an address among three nodes whose claims take a
// while to be heard: whoever asks everybody is answered at every moment, and in the end
// by exactly one.
func TestAddressIsNeverWithoutAnswer(t *testing.T) {
	nodes := []string{"a", "b", "c"}
	for _, late := range []time.Duration{0, 5 * ms, 300 * ms} {
		type event struct {
			at   time.Time
			node string
			term uint32 // 0: not claimed any more
		}
		var (
			books   = map[string]*handover.Book{}
			heard   = map[string]map[string]uint32{} // by hearer, by claimant
			said    = map[string]uint32{}
			flying  []event
			now     = start
			view    = living(nodes...)
			owner   = "a"
			answers = map[string]lb.Role{}
		)
		for _, n := range nodes {
			books[n], heard[n] = handover.New(handover.Options{Node: n, Drain: drain}), map[string]uint32{}
		}
		run := func(d time.Duration) {
			for end := now.Add(d); now.Before(end); now = now.Add(5 * ms) {
				for len(flying) > 0 && !flying[0].at.After(now) {
					for _, n := range nodes {
						if delete(heard[n], flying[0].node); flying[0].term > 0 && n != flying[0].node {
							heard[n][flying[0].node] = flying[0].term
						}
					}
					flying = flying[1:]
				}
				full := 0
				for _, n := range nodes {
					in := handover.Input{
						Now: now, View: view,
						Elsewhere: func(netip.Addr, string) (string, bool) { return owner, true },
						Claims: func(netip.Addr) (all []liveness.Claimant) {
							for c, term := range heard[n] {
								all = append(all, liveness.Claimant{Node: c, Term: term})
							}
							return all
						},
					}
					if owner == n {
						in.Want = handover.Wants{vip: {}}
					}
					out := books[n].Step(in)
					delete(answers, n)
					if a, ok := out.L2[vip]; ok {
						answers[n] = a.Role
						if a.Role == lb.Own {
							full++
						}
					}
					if out.Claims[vip] != said[n] {
						said[n] = out.Claims[vip]
						flying = append(flying, event{now.Add(late), n, said[n]})
					}
				}
				if full == 0 {
					t.Fatalf("late by %s: nobody answers everybody, %s into it", late, now.Sub(start))
				}
			}
		}
		for _, next := range []string{"a", "b", "c", "a", "b", "a"} {
			owner = next
			run(time.Second)
			if late < time.Second/2 && !slices.Equal(owners(answers), []string{next}) {
				t.Errorf("late by %s: after a second %v answer, want %s", late, answers, next)
			}
		}
		run(2 * drain)
		if len(answers) != 1 || answers["a"] != lb.Own {
			t.Errorf("late by %s: in the end %v answer", late, answers)
		}
	}
}

func owners(answers map[string]lb.Role) []string {
	var out []string
	for n, r := range answers {
		if r == lb.Own {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}
