package bfd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

// echoProfile returns a profile with echo mode on.
func echoProfile() lb.BFDProfile {
	p := profile(300 * ms)
	p.Echo = true
	return p
}

// echoes waits until the echo packets of a session come back and control packets are
// fewer.
func (n *node) echoes(key lb.BFDKey) {
	n.l.T.Helper()
	n.l.Eventually(10*time.Second, func() string {
		st := n.status(key)
		if st.State != core.Up || !st.EchoWorks || st.Echo != 50*ms || st.Problem != "" || st.Detection != 3*time.Second {
			return fmt.Sprintf("session %s: %+v", key, st)
		}
		return ""
	})
}

// TestEcho has FRR's kernel return our echo packets, and ours those of FRR.
func TestEcho(t *testing.T) {
	l := routerlab.New(t)
	frr := l.StartFRR()
	frr.Daemon("bfdd", peers(interval(300)...))
	n := startNode(l)
	n.apply(all(echoProfile(), everyKey...))
	for _, key := range []lb.BFDKey{single4, single6} {
		n.echoes(key)
	}
	for _, key := range []lb.BFDKey{multi4, multi6} {
		if st := n.is(key, core.Up); st.Echo != 0 {
			t.Errorf("echo packets of a multihop session: %+v", st)
		}
	}

	t.Run("cut", func(*testing.T) {
		at := time.Now()
		l.Cut()
		done := time.Now()
		for _, key := range []lb.BFDKey{single4, single6} {
			c := n.changed(key, at)
			if c.Up || c.Diag != core.EchoFailed.String() {
				t.Errorf("session %s: %+v, want down for %s", key, c, core.EchoFailed)
			}
			t.Logf("cut noticed after %d to %d ms: %s", c.at.Sub(done).Milliseconds(), c.at.Sub(at).Milliseconds(), key)
		}
		l.Mend()
		for _, key := range []lb.BFDKey{single4, single6} {
			n.echoes(key)
		}
	})

	t.Run("router does not forward", func(*testing.T) {
		l.In(l.Router, "sysctl", "-qw", "net.ipv4.ip_forward=0")
		l.Eventually(10*time.Second, func() string {
			if st := n.status(single4); st.State != core.Up || !strings.Contains(st.Problem, "returns no echo packets") {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
		n.quiet(single4, 3, 2) // it came back without
		l.In(l.Router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
		n.echoes(single4)
	})

	t.Run("off", func(*testing.T) {
		was := n.status(single4).Counters
		n.apply(all(profile(300*ms), everyKey...))
		for _, key := range everyKey {
			if st := n.settled(key, 300*ms, 900*ms); st.Echo != 0 {
				t.Errorf("session %s still sends echo packets", key)
			}
		}
		n.quiet(single4, was.Ups, was.Downs)
	})

	t.Run("of FRR", func(*testing.T) {
		n.apply(all(echoProfile(), everyKey...))
		frr.VTY("bfdd", "conf t", "bfd", "peer "+routerlab.Node4+" local-address "+routerlab.Router4+" interface eth0", "echo-mode")
		n.echoes(single4)
		count := func() (in, out int) {
			for line := range strings.Lines(frr.VTY("bfdd", "show bfd peer "+routerlab.Node4+" local-address "+routerlab.Router4+" interface eth0 counters")) {
				_, _ = fmt.Sscanf(strings.TrimSpace(line), "Echo packet input: %d packets", &in)
				_, _ = fmt.Sscanf(strings.TrimSpace(line), "Echo packet output: %d packets", &out)
			}
			return in, out
		}
		was := n.status(single4).Counters
		l.Eventually(10*time.Second, func() string {
			if in, out := count(); in < 20 {
				return fmt.Sprintf("FRR has sent %d echo packets, and %d came back", out, in)
			}
			return ""
		})
		n.quiet(single4, was.Ups, was.Downs)
		in, out := count()
		t.Logf("FRR has sent %d echo packets, and %d came back", out, in)
	})
}
