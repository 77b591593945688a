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

// birdConfig is BIRD with the four sessions.
func birdConfig(interval int) string {
	timers := fmt.Sprintf("{ min rx interval %d ms; min tx interval %d ms; idle tx interval 1 s; multiplier 3; }", interval, interval)
	return `router id 10.9.0.2;
protocol device {}
protocol bfd {
  interface "eth0" ` + timers + `;
  multihop ` + timers + `;
  neighbor ` + routerlab.Node4 + ` dev "eth0" local ` + routerlab.Router4 + `;
  neighbor ` + routerlab.Node6 + ` dev "eth0" local ` + routerlab.Router6 + `;
  neighbor ` + routerlab.Node4 + ` local ` + routerlab.Router4 + ` multihop;
  neighbor ` + routerlab.Node6 + ` local ` + routerlab.Router6 + ` multihop;
}
`
}

// birdProfile returns a profile that takes what BIRD sends: its multihop packets have
// TTL 64.
func birdProfile(interval time.Duration) lb.BFDProfile {
	p := profile(interval)
	p.MinTTL = 64
	return p
}

// TestBird runs the four kinds of sessions through what happens to them.
func TestBird(t *testing.T) {
	l := routerlab.New(t)
	bird := l.StartBird(birdConfig(50))
	n := startNode(l)
	n.apply(all(profile(50*ms), multi4, multi6))
	for _, key := range []lb.BFDKey{multi4, multi6} {
		l.Eventually(5*time.Second, func() string {
			if st := n.status(key); !strings.Contains(st.Problem, "TTL 64") || st.State != core.Down || st.Counters.Refused == 0 {
				return fmt.Sprintf("with minimumTtl 254: %+v", st)
			}
			return ""
		})
	}
	n.apply(all(birdProfile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 50*ms, 150*ms)
	}
	if said := bird.Show("show bfd sessions"); strings.Count(said, " Up ") != 4 {
		t.Errorf("BIRD says:\n%s", said)
	}

	t.Run("cut", n.cuts)

	t.Run("profile change", func(*testing.T) {
		was := map[lb.BFDKey]uint64{}
		for _, key := range everyKey {
			was[key] = n.status(key).Counters.Downs
		}
		for _, d := range []time.Duration{300 * ms, 50 * ms, 1000 * ms, 60 * ms} {
			n.apply(all(birdProfile(d), everyKey...))
			for _, key := range everyKey {
				n.settled(key, max(d, 50*ms), 3*max(d, 50*ms))
			}
		}
		for _, key := range everyKey {
			n.quiet(key, was[key]+1, was[key])
		}
	})

	t.Run("birdc restart", func(*testing.T) {
		n.apply(all(birdProfile(50*ms), everyKey...))
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
		}
		was := map[lb.BFDKey]uint64{}
		for _, key := range everyKey {
			was[key] = n.status(key).Counters.Downs
		}
		at := time.Now()
		if said := bird.Show("restart bfd1"); !strings.Contains(said, "bfd1: restarted") {
			t.Fatalf("BIRD says %s", said)
		}
		l.Eventually(10*time.Second, func() string {
			if said := bird.Show("show bfd sessions"); strings.Count(said, " Up ") != 4 {
				return said
			}
			return ""
		})
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
			n.quiet(key, was[key]+2, was[key]+1)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, c := range n.changes {
			if c.at.After(at) {
				t.Logf("after %d ms: %+v", c.at.Sub(at).Milliseconds(), c.BFDChange)
			}
		}
	})

	t.Run("BIRD gone and back", func(*testing.T) {
		was := n.status(single4).Counters.Downs
		bird.Terminate()
		for _, key := range everyKey {
			n.is(key, core.Down)
		}
		bird.Start()
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
			n.quiet(key, was+2, was+1)
		}
	})

	t.Run("AdminDown of ours", func(*testing.T) {
		n.apply(nil)
		l.Eventually(5*time.Second, func() string {
			if said := bird.Show("show bfd sessions"); strings.Count(said, " Up ") != 0 {
				return said
			}
			return ""
		})
		n.apply(all(birdProfile(50*ms), everyKey...))
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
		}
	})
}

// TestSlowerBird: 300 ms against our 50 ms settles on the slower and does not flap.
func TestSlowerBird(t *testing.T) {
	l := routerlab.New(t)
	bird := l.StartBird(birdConfig(300))
	n := startNode(l)
	n.apply(all(birdProfile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 300*ms, 900*ms)
	}
	before := n.status(single4).Counters
	at := time.Now()
	l.Eventually(10*time.Second, func() string {
		if c := n.status(single4).Counters; c.ControlIn < before.ControlIn+10 {
			return fmt.Sprintf("%d packets", c.ControlIn)
		}
		return ""
	})
	after := n.status(single4).Counters
	out, seconds := after.ControlOut-before.ControlOut, time.Since(at).Seconds()
	t.Logf("%d packets sent, %d received in %.1f s", out, after.ControlIn-before.ControlIn, seconds)
	if rate := float64(out) / seconds; rate > 1000/225.0+1 {
		t.Errorf("%f packets sent per second", rate)
	}
	for _, key := range everyKey {
		n.quiet(key, 1, 0)
	}
	if said := bird.Show("show bfd sessions"); strings.Count(said, " Up ") != 4 {
		t.Errorf("BIRD says:\n%s", said)
	}
}
