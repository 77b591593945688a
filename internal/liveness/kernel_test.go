package liveness_test

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	core "github.com/barelb/barelb/internal/core/liveness"
)

// bound is generous: the machine that tests run on is busy.
const bound = 1500 * time.Millisecond

func (l *lab) cut(node string) time.Time {
	l.Helper()
	at := time.Now()
	l.ip("sw", "link set to-"+node+" down")
	return at
}

func nobody(k known) bool { return len(k.Dead)+len(k.Down)+len(k.Gone) == 0 && !k.CutOff }

func testCut(t *testing.T, n int, prefix string, cfg labSpeaker) {
	t.Helper()
	l := newLab(t, n, prefix, cfg)
	last := l.names()[n-1]
	began := l.cut(last)
	seen := l.all(5*time.Second, "call it dead", func(k known) bool { return slices.Equal(k.Dead, []string{last}) }, last)
	l.procs[last].until(5*time.Second, "know that it is cut off", func(k known) bool { return k.CutOff && len(k.Dead) == 0 })
	t.Logf("all knew %s after the cut", seen.Sub(began).Round(time.Millisecond))
	if seen.Sub(began) > bound {
		t.Errorf("it took %s", seen.Sub(began))
	}
	began = time.Now()
	l.ip("sw", "link set to-"+last+" up")
	back := l.all(10*time.Second, "call it alive", func(k known) bool { return len(k.Dead) == 0 && !k.CutOff })
	for node, p := range l.procs {
		if n := p.known().Found["proxied"]; n != 0 {
			t.Errorf("%s takes it %v times that something else answers: the observed did not say what they saw", node, n)
		}
	}
	t.Logf("all knew %s after it was back", back.Sub(began).Round(time.Millisecond))
}

func TestCutOfALinkByARP(t *testing.T) { testCut(t, 4, "192.0.2.0/24", labSpeaker{}) }

func TestCutOfALinkByNDP(t *testing.T) { testCut(t, 3, "2001:db8::/64", labSpeaker{}) }

func TestCutOfALinkByICMP(t *testing.T) {
	testCut(t, 3, "192.0.2.0/24", labSpeaker{Probe: core.ICMP})
}

func TestCutOfALinkFast(t *testing.T) {
	testCut(t, 3, "192.0.2.0/24", labSpeaker{Interval: 50 * time.Millisecond})
}

func TestEndOfASpeaker(t *testing.T) {
	l := newLab(t, 3, "192.0.2.0/24", labSpeaker{})
	began := l.procs["node3"].kill()
	seen := l.all(5*time.Second, "know that it ended", func(k known) bool { return slices.Equal(k.Down, []string{"node3"}) && len(k.Dead) == 0 })
	t.Logf("all knew %s after the crash", seen.Sub(began).Round(time.Millisecond))
	if seen.Sub(began) > bound {
		t.Errorf("it took %s", seen.Sub(began))
	}
	began = time.Now()
	l.start("node3")
	seen = l.all(10*time.Second, "know that it is back", nobody)
	t.Logf("all knew that it is back %s after its start", seen.Sub(began).Round(time.Millisecond))
}

func TestSpeakerThatHangs(t *testing.T) {
	l := newLab(t, 3, "192.0.2.0/24", labSpeaker{})
	p := l.procs["node3"]
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	seen := l.all(5*time.Second, "know that it hangs", func(k known) bool { return slices.Equal(k.Down, []string{"node3"}) && len(k.Dead) == 0 }, "node3")
	t.Logf("all knew %s after it was stopped", seen.Sub(began).Round(time.Millisecond))
	if seen.Sub(began) > bound+600*time.Millisecond {
		t.Errorf("it took %s", seen.Sub(began))
	}
	stopped := began.Add(1500 * time.Millisecond)
	l.all(5*time.Second, "hold it for down as long as it is", func(k known) bool { return slices.Equal(k.Down, []string{"node3"}) && time.Now().After(stopped) }, "node3")
	began = time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.until(5*time.Second, "know that it did not run, from its first moment on", func(k known) bool { return k.WokeStale == 1 && k.WokeFresh == 0 })
	seen = l.all(10*time.Second, "know that it works again", nobody)
	t.Logf("all knew %s after it went on", seen.Sub(began).Round(time.Millisecond))
	p.until(5*time.Second, "be fresh again", func(k known) bool {
		p.order(order{}) // asks for what it knows
		return k.Fresh
	})
}

// A filter is no death, neither of nodes nor of speakers.
func TestFilteredPort(t *testing.T) {
	l := newLab(t, 3, "192.0.2.0/24", labSpeaker{})
	for _, node := range l.names() {
		l.sh(node, `nft -f - <<END
			table inet t {
				chain in {
					type filter hook input priority 0
					tcp dport 7946 drop
					tcp sport 7946 drop
					udp dport 7946 drop
				}
			}
END`)
	}
	end := time.Now().Add(4 * time.Second)
	for _, p := range l.procs {
		p.until(10*time.Second, "be quiet", func(k known) bool {
			if !nobody(k) {
				t.Errorf("%s knows %+v", p.node, k)
				return true
			}
			return time.Now().After(end)
		})
	}
	for _, node := range l.names() {
		l.sh(node, "nft flush ruleset")
	}
	// It works again: an end is seen.
	l.procs["node1"].until(10*time.Second, "reach node2", func(known) bool {
		l.procs["node1"].order(order{Tell: "node2", Say: "hello"})
		return slices.Contains(l.procs["node2"].known().Told, "node1: hello")
	})
}

func TestClaimsReachTheOthers(t *testing.T) {
	l := newLab(t, 3, "192.0.2.0/24", labSpeaker{})
	vip := netip.MustParseAddr("192.0.2.250")
	began := time.Now()
	l.procs["node1"].order(order{Claim: []core.Change{{Claim: core.Claim{Addr: vip, Term: 7}}}})
	seen := l.all(5*time.Second, "know who claims it", func(k known) bool { return slices.Equal(k.Claims[vip], []core.Claimant{{Node: "node1", Term: 7}}) }, "node1")
	t.Logf("all knew after %s", seen.Sub(began).Round(100*time.Microsecond))
	l.procs["node1"].order(order{Claim: []core.Change{{Claim: core.Claim{Addr: vip}, Withdrawn: true}}})
	l.all(5*time.Second, "know that nobody does", func(k known) bool { return len(k.Claims[vip]) == 0 }, "node1")
}
