package bfd_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

// frrPeer is what bfdd knows of us.
type frrPeer struct {
	Status     string `json:"status"`
	Peer       string `json:"peer"`
	MultiHop   bool   `json:"multihop"`
	Passive    bool   `json:"passive-mode"`
	Receive    int    `json:"remote-receive-interval"`
	Transmit   int    `json:"remote-transmit-interval"`
	Echo       int    `json:"remote-echo-receive-interval"`
	Multiplier int    `json:"remote-detect-multiplier"`
}

// TestProfileFields sets one field of a BFDProfile each, and has FRR and BIRD tell what
// they see of it. Both want packets every 50 ms. What echoMode does, TestEcho shows;
// passiveMode, TestPassive; minimumTtl, TestBird.
func TestProfileFields(t *testing.T) {
	lf := routerlab.New(t)
	frr := lf.StartFRR()
	frr.Daemon("bfdd", peers(interval(50)...))
	nf := startNode(lf)
	lbird := routerlab.New(t)
	bird := lbird.StartBird(birdConfig(50))
	nbird := startNode(lbird)
	for _, tc := range []struct {
		field  string
		change func(*lb.BFDProfile)
		frr    frrPeer // of single hops
		bird   string  // its interval, and its timeout
	}{
		{"none", func(*lb.BFDProfile) {}, frrPeer{Receive: 300, Transmit: 300, Multiplier: 3}, "0.300 0.900"},
		{"receiveInterval", func(p *lb.BFDProfile) { p.Receive = 70 * ms }, frrPeer{Receive: 70, Transmit: 300, Multiplier: 3}, "0.070 0.900"},
		{"transmitInterval", func(p *lb.BFDProfile) { p.Transmit = 110 * ms }, frrPeer{Receive: 300, Transmit: 110, Multiplier: 3}, "0.300 0.330"},
		{"detectMultiplier", func(p *lb.BFDProfile) { p.Multiplier = 7 }, frrPeer{Receive: 300, Transmit: 300, Multiplier: 7}, "0.300 2.100"},
		{"echoInterval", func(p *lb.BFDProfile) { p.Echo, p.EchoInterval = true, 90*ms }, frrPeer{Receive: 300, Transmit: 300, Multiplier: 3, Echo: 90}, "0.300 0.900"},
	} {
		t.Run(tc.field, func(*testing.T) {
			p := birdProfile(300 * ms)
			tc.change(&p)
			nf.apply(all(p, everyKey...))
			nbird.apply(all(p, everyKey...))
			lf.Eventually(15*time.Second, func() string {
				said := frr.VTY("bfdd", "show bfd peers json")
				var got []frrPeer
				if err := json.Unmarshal([]byte(said), &got); err != nil || len(got) != len(everyKey) {
					return fmt.Sprintf("FRR says %s (%v)", said, err)
				}
				for _, g := range got {
					want := tc.frr
					want.Status, want.Peer, want.MultiHop = "up", g.Peer, g.MultiHop
					switch {
					case g.MultiHop:
						want.Echo = 0
					case want.Echo > 0:
						want.Receive = 1000 // its kernel returns our echo packets: we need fewer others
					}
					if g != want {
						return fmt.Sprintf("FRR has %+v, want %+v", g, want)
					}
				}
				return ""
			})
			lbird.Eventually(15*time.Second, func() string {
				said := bird.Show("show bfd sessions")
				n := 0
				for line := range strings.Lines(said) { // address, link, state, since, interval, timeout
					if f := strings.Fields(line); len(f) >= 6 && f[2] == "Up" && strings.Join(f[len(f)-2:], " ") == tc.bird {
						n++
					}
				}
				if n != len(everyKey) {
					return "want " + tc.bird + ":\n" + said
				}
				return ""
			})
			for _, key := range everyKey {
				nf.quiet(key, 1, 0)
				nbird.quiet(key, 1, 0)
			}
		})
	}
}
