package bfd_test

import (
	"strings"
	"testing"
	"time"

	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

var everyKey = []lb.BFDKey{single4, single6, multi4, multi6}

// TestFRR runs the four kinds of sessions through what happens to them.
func TestFRR(t *testing.T) {
	l := routerlab.New(t)
	frr := l.StartFRR()
	bfdd := frr.Daemon("bfdd", peers(interval(50)...))
	n := startNode(l)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 50*ms, 150*ms)
	}
	if said := frr.VTY("bfdd", "show bfd peers"); strings.Count(said, "Status: up") != 4 {
		t.Errorf("FRR says:\n%s", said)
	}

	t.Run("cut", n.cuts)

	t.Run("profile change", func(*testing.T) {
		was := map[lb.BFDKey]uint64{}
		for _, key := range everyKey {
			was[key] = n.status(key).Counters.Downs
		}
		for _, d := range []time.Duration{300 * ms, 50 * ms, 1000 * ms, 60 * ms} {
			n.apply(all(profile(d), everyKey...))
			for _, key := range everyKey {
				n.settled(key, max(d, 50*ms), 3*max(d, 50*ms))
			}
		}
		p := profile(60 * ms)
		p.Multiplier = 7
		n.apply(all(p, everyKey...))
		l.Eventually(5*time.Second, func() string {
			if said := frr.VTY("bfdd", "show bfd peers json"); strings.Count(said, `"remote-detect-multiplier":7`) != 4 {
				return said
			}
			return ""
		})
		for _, key := range everyKey {
			n.quiet(key, was[key]+1, was[key])
		}
	})

	t.Run("restart of bfdd", func(*testing.T) {
		n.apply(all(profile(50*ms), everyKey...))
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
		}
		was := n.status(single4).Counters.Downs
		bfdd.Kill()
		for _, key := range everyKey {
			n.is(key, core.Down)
		}
		bfdd = frr.Daemon("bfdd", peers(interval(50)...))
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
			n.quiet(key, was+2, was+1)
		}
	})

	t.Run("AdminDown of ours", func(*testing.T) {
		n.apply(nil)
		l.Eventually(5*time.Second, func() string {
			said := frr.VTY("bfdd", "show bfd peers")
			if strings.Count(said, "Status: down") != 4 || strings.Count(said, "Remote diagnostics: administratively down") != 4 {
				return said
			}
			return ""
		})
		n.apply(all(profile(50*ms), everyKey...))
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
		}
	})

	t.Run("AdminDown of FRR's", func(*testing.T) {
		at := time.Now()
		for _, how := range []string{"shutdown", "no shutdown"} {
			frr.VTY("bfdd", "conf t", "bfd", "peer "+routerlab.Node4+" local-address "+routerlab.Router4+" interface eth0", how)
			c := n.changed(single4, at)
			if up := how == "no shutdown"; c.Up != up || c.Admin == up {
				t.Errorf("after %s: %+v", how, c)
			}
			at = c.at
		}
	})
}
