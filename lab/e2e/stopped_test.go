package e2e_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
)

// TestLayer2SpeakerStopped stops the process of an owner's speaker, as a machine does
// that swaps, and lets it run again.
func TestLayer2SpeakerStopped(t *testing.T) {
	l := frr(t)
	o := l.rivals(t, "l2stop", []string{"192.168.1.212/32", "fd00:1::2:28/128"})
	t.Run("for a while", o.stopForAWhile)
	t.Run("with the next beside it", o.nextBesideIt)
	t.Run("beyond the caretaker's timeout", o.stopForLong)
}

// nextBesideIt starts the next speaker before the present one has ended, as happens where a
// Pod is deleted by force: it waits for its turn.
func (o owned) nextBesideIt(t *testing.T) {
	l := o.l
	p := l.probe(t, cluster.Client, o.addr)
	p6 := l.probe(t, cluster.Remote, o.addr6)
	held := l.hold(t, cluster.Client, o.addr)
	a := l.ask(t, quiet, o.addr)
	must(t, a.Mark("next"))
	before := l.sys.Speaker(o.first)
	must(t, l.sys.StartSpeaker(t.Context(), o.first))
	next := l.sys.Speaker(o.first)
	eventually(t, "the next speaker to wait", func() error {
		log, err := os.ReadFile(next.Log())
		if err == nil && !strings.Contains(string(log), "wait for a port") {
			err = errors.New("it does not say so")
		}
		return err
	})
	must(t, before.Signal(syscall.SIGTERM))
	eventually(t, "the speaker before it to end", func() error {
		if !ended(before) {
			return errors.New("it runs")
		}
		return nil
	})
	l.awaitReady(t, o.first)
	l.ownerIs(t, o.addr, o.first)
	m := asked(t, a, "next")
	if nodes := l.nodesOf(m.MACs()); ended(next) || !slices.Equal(nodes, []string{o.first}) || m.Silence.Max.Duration() > speechless {
		t.Errorf("answers name %q, and for %s there was none; want %s alone, and %s at most; the next speaker ended: %t",
			nodes, m.Silence.Max.Duration(), o.first, speechless, ended(next))
	}
	o.wantNothingLost(t, p, p6)
	wantHeld(t, held)
}

// stopForAWhile wants another node to answer with the owner's MAC meanwhile.
func (o owned) stopForAWhile(t *testing.T) {
	l := o.l
	p := l.probe(t, cluster.Client, o.addr)
	p6 := l.probe(t, cluster.Remote, o.addr6)
	held := l.hold(t, cluster.Client, o.addr)
	a := l.ask(t, quiet, o.addr)
	must(t, a.Mark("stopped"))
	must(t, l.sys.PauseSpeaker(o.first))
	must(t, a.AwaitRequests(limited(t, patience), int(3*time.Second/askInterval)))
	must(t, l.sys.ResumeSpeaker(o.first))
	l.ownerIs(t, o.addr, o.first)
	l.steady(t, p)
	l.steady(t, p6)
	m := asked(t, a, "stopped")
	t.Logf("no answer for up to %s; answers %+v", m.Silence.Max.Duration(), m.Answers)
	// A hang is noticed by beats that are missed, 600 ms of them.
	if nodes := l.nodesOf(m.MACs()); !slices.Equal(nodes, []string{o.first}) || m.Silence.Max.Duration() > 600*time.Millisecond+speechless {
		t.Errorf("answers name %q, and for %s there was none; want %s alone", nodes, m.Silence.Max.Duration(), o.first)
	}
	o.wantNothingLost(t, p, p6)
	wantHeld(t, held)
}

// askInterval is that of ask.
const askInterval = 5 * time.Millisecond

// stopForLong wants another node to own the address in the end, and the stopped one to
// answer for it, when it runs again, only once it is its own again.
func (o owned) stopForLong(t *testing.T) {
	l := o.l
	l.speakersWith(t, "--caretaker-timeout=5s", "--drain-time=1s")
	l.ownerIs(t, o.addr, o.first)
	p := l.probe(t, cluster.Client, o.addr)
	a := l.ask(t, quiet, o.addr)
	must(t, l.sys.PauseSpeaker(o.first))
	second := l.ownerIs(t, o.addr, l.without(o.first)...)
	// Requests that it did not read wait for it.
	must(t, a.AwaitRequests(limited(t, patience), int(2*time.Second/askInterval)))
	must(t, a.Mark("resumed"))
	must(t, l.sys.ResumeSpeaker(o.first))
	l.ownerIs(t, o.addr, o.first)
	m := asked(t, a, "resumed")
	var lastOfSecond, firstOfFirst time.Duration
	for _, h := range m.Answers {
		switch l.macs[h.MAC] {
		case second:
			lastOfSecond = max(lastOfSecond, h.Last.Duration())
		case o.first:
			if firstOfFirst == 0 || h.First.Duration() < firstOfFirst {
				firstOfFirst = h.First.Duration()
			}
		}
	}
	t.Logf("%s answered until %s after it was resumed, %s from %s on", second, lastOfSecond, o.first, firstOfFirst)
	if lastOfSecond == 0 || firstOfFirst == 0 || firstOfFirst < lastOfSecond-exchange {
		t.Errorf("%s answered until %s, %s from %s on; want the one that was stopped to be silent until the address is its own",
			second, lastOfSecond, o.first, firstOfFirst)
	}
	count := 0
	for _, h := range m.Answers {
		count += h.Count
	}
	if count > m.Requests+int(exchange/askInterval) { // both may answer while one follows the other
		t.Errorf("%d answers to %d requests: the stopped speaker has answered old ones", count, m.Requests)
	}
	o.wantNothingLost(t, p)
}
