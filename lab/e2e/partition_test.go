package e2e_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
)

// healed bounds the time in which two halves have two owners after they are one again.
const healed = time.Second

// TestLayer2Partition splits the LAN so that the owner is alone with a client, with the
// gateway on either side. Each half has one owner then, and the whole again.
func TestLayer2Partition(t *testing.T) {
	l := frr(t)
	o := l.rivals(t, "l2part", []string{"192.168.1.213/32"})
	for name, gateway := range map[string]bool{"gateway with the two": false, "gateway with the one": true} {
		t.Run(name, func(t *testing.T) { o.partition(t, gateway) })
	}
}

func (o owned) partition(t *testing.T, gateway bool) {
	t.Helper()
	l := o.l
	here, there := l.ask(t, quiet, o.addr), l.ask(t, cluster.Client, o.addr)
	one := []string{o.first, quiet}
	if gateway {
		one = append(one, cluster.Router1)
	}
	must(t, there.Mark("split"))
	l.undo(t, "join the halves", func(context.Context) error { return l.c.Join() })
	must(t, l.c.Split(one...))
	must(t, there.AwaitTaken(limited(t, patience))) // the two have found one
	must(t, there.Mark("two"))
	must(t, here.Mark("one"))
	const enough = 200 // requests, to hear everybody who answers
	must(t, here.AwaitRequests(limited(t, patience), enough))
	must(t, there.AwaitRequests(limited(t, patience), enough))
	must(t, here.Mark("join"))
	must(t, there.Mark("join"))
	must(t, l.c.Join())
	l.ownerIs(t, o.addr, o.first)
	h, err := here.Stop()
	must(t, err)
	r, err := there.Stop()
	must(t, err)

	split, err := r.After("split")
	must(t, err)
	if split.Silence.Max.Duration() > failover {
		t.Errorf("the half without the owner had no answer for %s, want %s at most", split.Silence.Max.Duration(), failover)
	}
	alone, err := h.After("one")
	must(t, err)
	others, err := r.After("two")
	must(t, err)
	for half, m := range map[string]measure.AskMark{"with the owner": alone, "without": others} {
		nodes := l.nodesOf(m.MACs())
		if len(nodes) != 1 || (nodes[0] == o.first) != (half == "with the owner") {
			t.Errorf("the half %s has answers from %q, want one owner in each", half, nodes)
		}
	}
	both, err := r.After("join")
	must(t, err)
	for _, a := range both.Answers {
		if l.macs[a.MAC] != o.first && a.Last.Duration() > healed {
			t.Errorf("%s still answers %s after the halves are one, want %s at most", l.macs[a.MAC], a.Last.Duration(), healed)
		}
	}
	t.Logf("split: %+v; joined: %+v", split.Answers, both.Answers)
}

// TestLayer2Keeps disturbs an owner that is well.
func TestLayer2Keeps(t *testing.T) {
	l := frr(t)
	o := l.rivals(t, "l2keeps", []string{"192.168.1.216/32"})
	t.Run("speakers' port filtered", o.filtered)
	t.Run("foreign claim", o.claimed) // after the ten seconds in which an owner tells of itself
}

// filtered has a firewall drop all that speakers tell each other. No node is dead, no
// speaker is, and nothing may move.
func (o owned) filtered(t *testing.T) {
	l := o.l
	p := l.probe(t, cluster.Client, o.addr)
	a := l.ask(t, quiet, o.addr)
	must(t, a.Mark("filtered"))
	for _, node := range l.c.Nodes() {
		l.undo(t, "let the speakers talk on "+node, func(ctx context.Context) error { return l.c.StopDropping(ctx, node) })
		must(t, l.c.DropInput(t.Context(), node, "tcp dport 7946", "udp dport 7946"))
	}
	// Longer than memberlist takes to call the others dead.
	must(t, a.AwaitRequests(limited(t, patience), int(11*time.Second/askInterval)))
	m := asked(t, a, "filtered")
	if nodes := l.nodesOf(m.MACs()); !slices.Equal(nodes, []string{o.first}) || m.Silence.Max.Duration() > speechless {
		t.Errorf("answers name %q, and for %s there was none; want %s alone", nodes, m.Silence.Max.Duration(), o.first)
	}
	o.wantNothingLost(t, p)
}

// claimed has a host outside the cluster claim an owned address. The owner keeps it,
// says so, and does not shout.
func (o owned) claimed(t *testing.T) {
	l := o.l
	a := l.ask(t, cluster.Client, o.addr)
	must(t, a.Mark("claim"))
	const lasts = 3 * time.Second
	claimed := make(chan error, 1)
	var claim measure.ClaimReport
	go func() {
		var err error
		claim, err = measure.Claim(t.Context(), l.c.Box(quiet), l.self, measure.ClaimOpts{Addr: o.addr, Count: int(lasts / (100 * time.Millisecond))})
		claimed <- err
	}()
	thief := l.macOf(t, quiet)
	l.awaitWord(t, patience, o.name, thief) // Events are written a while after what they tell of
	must(t, <-claimed)
	m := asked(t, a, "claim")
	again := 0
	for _, h := range m.Announcements {
		if l.macs[h.MAC] == o.first {
			again += h.Count
		}
	}
	t.Logf("%d claims by %s; the owner announced itself %d times", claim.Claims, claim.MAC, again)
	// An announcement is a request and a reply.
	if most := 2 * int(lasts/time.Second+2); again == 0 || again > most {
		t.Errorf("the owner announced the address %d times in %s of claims, want once a second at most: 1 to %d frames", again, lasts, most)
	}
	if nodes := l.nodesOf(m.MACs()); !slices.Equal(nodes, []string{o.first}) {
		t.Errorf("answers name %q, want %s alone", nodes, o.first)
	}
	l.ownerIs(t, o.addr, o.first)
}
