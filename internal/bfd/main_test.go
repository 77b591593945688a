package bfd_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/bfd"
	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

const ms = time.Millisecond

// profile returns the default profile with equal intervals.
func profile(interval time.Duration) lb.BFDProfile {
	return lb.BFDProfile{Name: "p", Transmit: interval, Receive: interval, Multiplier: 3, EchoInterval: 50 * ms, MinTTL: 254}
}

var (
	single4 = lb.BFDKey{Peer: netip.MustParseAddr(routerlab.Router4)}
	single6 = lb.BFDKey{Peer: netip.MustParseAddr(routerlab.Router6)}
	multi4  = lb.BFDKey{Peer: single4.Peer, Source: netip.MustParseAddr(routerlab.Node4), MultiHop: true}
	multi6  = lb.BFDKey{Peer: single6.Peer, Source: netip.MustParseAddr(routerlab.Node6), MultiHop: true}
)

// node is a Runner in the node's namespace.
type node struct {
	*bfd.Runner
	l    *routerlab.Lab
	stop func() // ends Run and waits for it

	mu      sync.Mutex
	changes []change
}

type change struct {
	lb.BFDChange
	at time.Time
}

var background = context.Background()

// startNode starts a Runner that keeps its sessions itself.
func startNode(l *routerlab.Lab) *node { return startNodeWith(l, nil) }

// startProcess starts a Runner whose sessions are kept by a process.
func startProcess(l *routerlab.Lab) *node { return startNodeWith(l, self(asChild)) }

func startNodeWith(l *routerlab.Lab, process []string) *node {
	l.T.Helper()
	n := &node{l: l}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	n.Runner = bfd.New(bfd.Config{Log: log, Process: process, OnChange: func(c lb.BFDChange) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.changes = append(n.changes, change{c, time.Now()})
	}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- inNamespace(l.Node, func() error { return n.Run(ctx) })
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			l.T.Errorf("run: %v", err)
		}
	})
	l.T.Cleanup(func() {
		if l.T.Failed() {
			for _, st := range n.Status() {
				l.T.Logf("%+v", st)
			}
			l.T.Logf("changes: %+v", n.changes)
		}
		n.stop()
	})
	return n
}

// inNamespace runs fn in a thread of its own that is in a network namespace.
func inNamespace(name string, fn func() error) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	return fn()
}

func (n *node) apply(want lb.BFD) {
	n.l.T.Helper()
	if err := n.Apply(n.l.T.Context(), want); err != nil {
		n.l.T.Fatal(err)
	}
}

// status returns the status of a session, zero if there is none.
func (n *node) status(key lb.BFDKey) bfd.SessionStatus {
	for _, st := range n.Status() {
		if st.Key == key {
			return st
		}
	}
	return bfd.SessionStatus{}
}

// is waits for a session to be in a state.
func (n *node) is(key lb.BFDKey, want core.State) bfd.SessionStatus {
	n.l.T.Helper()
	var st bfd.SessionStatus
	n.l.Eventually(15*time.Second, func() string {
		if st = n.status(key); st.State != want {
			return fmt.Sprintf("session %s is %s (%s), want %s; problem %q", key, st.State, st.Diag, want, st.Problem)
		}
		return ""
	})
	return st
}

// settled waits until a session is up and both sides have agreed.
func (n *node) settled(key lb.BFDKey, transmit, detection time.Duration) bfd.SessionStatus {
	n.l.T.Helper()
	var st bfd.SessionStatus
	n.l.Eventually(15*time.Second, func() string {
		if st = n.status(key); st.State != core.Up || st.Poll || st.Transmit != transmit || st.Detection != detection {
			return fmt.Sprintf("session %s: %+v, want up, transmit %s, detection %s", key, st, transmit, detection)
		}
		return ""
	})
	return st
}

// quiet demands that a session has come up as often as said, and gone down as often.
func (n *node) quiet(key lb.BFDKey, ups, downs uint64) {
	n.l.T.Helper()
	if c := n.status(key).Counters; c.Ups != ups || c.Downs != downs {
		n.l.T.Errorf("session %s came up %d times and went down %d times, want %d and %d", key, c.Ups, c.Downs, ups, downs)
	}
}

// changed waits for the next change of a session after a time.
func (n *node) changed(key lb.BFDKey, after time.Time) change {
	n.l.T.Helper()
	var found change
	n.l.Eventually(15*time.Second, func() string {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, c := range n.changes {
			if c.Key == key && c.at.After(after) {
				found = c
				return ""
			}
		}
		return "no change of session " + key.String()
	})
	return found
}

// cuts cuts the cable and mends it, with every session at 50 ms x 3.
func (n *node) cuts(t *testing.T) {
	for range 5 {
		at := time.Now()
		n.l.Cut()
		done := time.Now()
		for _, key := range everyKey {
			c := n.changed(key, at)
			if c.Up || c.Admin || c.Diag != core.DetectionTimeExpired.String() {
				t.Errorf("session %s: %+v, want down for %s", key, c, core.DetectionTimeExpired)
			}
			t.Logf("cut noticed after %d to %d ms: %s", c.at.Sub(done).Milliseconds(), c.at.Sub(at).Milliseconds(), key)
		}
		n.l.Mend()
		for _, key := range everyKey {
			n.settled(key, 50*ms, 150*ms)
		}
	}
}

// peers is bfdd's configuration of the four sessions with the node.
func peers(lines ...string) string {
	var b strings.Builder
	b.WriteString("bfd\n")
	for _, p := range []string{
		"peer " + routerlab.Node4 + " local-address " + routerlab.Router4 + " interface eth0",
		"peer " + routerlab.Node6 + " local-address " + routerlab.Router6 + " interface eth0",
		"peer " + routerlab.Node4 + " multihop local-address " + routerlab.Router4,
		"peer " + routerlab.Node6 + " multihop local-address " + routerlab.Router6,
	} {
		b.WriteString(" " + p + "\n")
		for _, l := range lines {
			b.WriteString("  " + l + "\n")
		}
		b.WriteString("  no shutdown\n exit\n")
	}
	b.WriteString("exit\n")
	return b.String()
}

// interval is the lines of bfdd that set the intervals, in ms.
func interval(n int) []string {
	return []string{fmt.Sprintf("receive-interval %d", n), fmt.Sprintf("transmit-interval %d", n), "detect-multiplier 3"}
}

func all(p lb.BFDProfile, keys ...lb.BFDKey) lb.BFD {
	want := lb.BFD{}
	for _, k := range keys {
		want[k] = p
	}
	return want
}
