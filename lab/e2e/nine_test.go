package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// correlated bounds the time until every address is served when several nodes die at once.
const correlated = 800 * time.Millisecond

// TestLayer2NineNodes has nine nodes lose every fifth frame, hear one another in one
// direction alone, and wait for cores that others use: nothing may move. Then some of
// them die at once. `lab failover --case nine,loss,load` has the same for longer.
func TestLayer2NineNodes(t *testing.T) {
	cfg := cluster.Config{Name: "e2e-nine", Nodes: 9, Router: cluster.NoRouter}
	t.Cleanup(func() { // after it is mended
		if err := running.end(cfg.Name + "-" + strconv.Itoa(os.Getpid())); err != nil {
			t.Error(err)
		}
	})
	l := use(t, cfg)
	n := &fleet{l: l, first: netip.MustParseAddr("192.168.1.192"), count: 16}
	l.apply(t, pool("l2nine", []string{"192.168.1.192/28"}), object("L2Advertisement", "l2nine", "ipAddressPools: [l2nine]"))
	for i := range n.count {
		l.serve(t, system.Service{Name: fmt.Sprintf("l2nine-%d", i)}, "l2nine")
	}
	t.Run("loss", func(t *testing.T) {
		n.nothingMoves(t, func(string) []string { return []string{"numgen random mod 100 < 20"} })
	})
	t.Run("one-way loss", func(t *testing.T) {
		// Each node hears nothing of the next two, which hear it: half of all pairs exchange nothing.
		nodes := l.c.Nodes()
		n.nothingMoves(t, func(node string) []string {
			i := slices.Index(nodes, node)
			next := []string{l.mac(t, nodes[(i+1)%len(nodes)]), l.mac(t, nodes[(i+2)%len(nodes)])}
			return []string{"ether saddr { " + strings.Join(next, ", ") + " }"}
		})
	})
	t.Run("busy cores", func(t *testing.T) {
		stop := saturate(t, l)
		n.nothingMoves(t, nil)
		stop()
	})
	t.Run("several at once", n.cuts)
}

// fleet is a cluster with addresses in a row.
type fleet struct {
	l     *lab
	first netip.Addr
	count int
}

// nothingMoves has the nodes drop what comes in by the rules of each, and wants nobody
// to claim an address meanwhile but its owner: no answer, no announcement.
func (n *fleet) nothingMoves(t *testing.T, rules func(node string) []string) {
	t.Helper()
	l := n.l
	a := l.askAll(t, quiet, measure.AskOpts{First: n.first, Count: n.count})
	for _, node := range l.c.Nodes() {
		if rules == nil {
			continue
		}
		l.undo(t, "let "+node+" hear everything", func(ctx context.Context) error { return l.c.StopDropping(ctx, node) })
		must(t, l.c.DropIngress(t.Context(), node, []string{"eth0"}, rules(node)...))
	}
	must(t, a.Mark("fault"))
	must(t, a.AwaitRequests(limited(t, patience), int(5*time.Second/askInterval)))
	m := asked(t, a, "fault")
	for _, node := range l.c.Nodes() {
		must(t, l.c.StopDropping(t.Context(), node))
	}
	if m.Moved > 0 {
		t.Errorf("%d addresses were claimed with another MAC: answers %+v, announcements %+v", m.Moved, m.Answers, m.Announcements)
	}
	t.Logf("%d of %d requests answered; %d announcements", m.Answered, m.Requests, len(m.Announcements))
	if m.Answered == 0 {
		t.Error("nobody answered at all")
	}
}

// saturate keeps every core busy until it is told to stop, or the test ends.
func saturate(t *testing.T, l *lab) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	done := make(chan struct{})
	busy := 2 * runtime.NumCPU()
	for range busy {
		cmd := l.c.Box(cluster.Remote).Command(ctx, "sh", "-c", "while :; do :; done")
		must(t, cmd.Start())
		go func() {
			_ = cmd.Wait() // it is killed
			done <- struct{}{}
		}()
	}
	return func() {
		cancel()
		for range busy {
			<-done
		}
	}
}

// cuts takes one to four nodes away at once, at random, and wants all addresses served
// soon by the rest.
func (n *fleet) cuts(t *testing.T) {
	l := n.l
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, seed))
	nodes := l.c.Nodes()
	rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	dead := nodes[:1+rng.IntN(4)]
	a := l.askAll(t, quiet, measure.AskOpts{First: n.first, Count: n.count, Interval: time.Millisecond})
	must(t, a.Mark("cut"))
	for _, node := range dead {
		must(t, l.c.Cut(node))
	}
	must(t, a.AwaitAnswers(limited(t, patience)))
	must(t, a.Mark("served"))
	must(t, a.AwaitRequests(limited(t, patience), 20*n.count))
	r, err := a.Stop()
	must(t, err)
	cut, err := r.After("cut")
	must(t, err)
	t.Logf("%q cut at once: no answer for up to %s", dead, cut.Silence.Max.Duration())
	if limit := max(correlated, failover); cut.Silence.Count != n.count || cut.Silence.Max.Duration() > limit {
		t.Errorf("%q cut at once: no answer for %s, want %s at most", dead, cut.Silence.Max.Duration(), limit)
	}
	served, err := r.After("served")
	must(t, err)
	for _, node := range l.nodesOf(served.Senders()) {
		if slices.Contains(dead, node) {
			t.Errorf("%s answers, which is cut off", node)
		}
	}
	if served.Silence.Max.Duration() > speechless {
		t.Errorf("when all were served there was no answer for %s", served.Silence.Max.Duration())
	}
	for _, node := range dead {
		must(t, l.c.Restore(node))
	}
}
