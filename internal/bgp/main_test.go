package bgp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/bfd"
	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kernellab"
)

// childEnv makes the test binary a speaker: a process has but one network
// namespace that all its threads share, so each node of a test is a process.
const childEnv = "BARELB_TEST_BGP_SPEAKER"

func TestMain(m *testing.M) {
	kernellab.Main()
	if os.Getenv(childEnv) != "" {
		if err := child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		// The tests wait for routers, not for the CPU.
		if err := f.Value.Set("10"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// report is what the child says, a line of JSON each time.
type report struct {
	Status  []bgp.SessionStatus
	Answer  bool // to the latest command
	Err     string
	Metrics map[string]float64 // name{peer} of each

	Goroutines int
	Heap       float64 // MB that are in use, after order.Tidy
}

// order is what the child is told, a line of JSON each time. It does one thing.
type order struct {
	Apply  lb.BGP
	Depart *bgp.Departure
	BFD    *lb.BFDChange
	Tidy   bool // return memory that is not needed
}

// child runs a speaker that does what each line of in says, and reports each change.
// Its configuration is in the environment.
func child(in io.Reader, out io.Writer) error {
	var mu sync.Mutex
	say := json.NewEncoder(out)
	cfg := bgp.Config{}
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &cfg); err != nil {
		return err
	}
	cfg.NodeName, cfg.Log = "node1", slog.New(slog.NewTextHandler(os.Stderr, nil))
	speaker := bgp.New(cfg)
	runner := bfd.New(bfd.Config{Log: cfg.Log, OnChange: speaker.BFD})
	watched, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	unwatched := make(chan error, 1)
	go func() { unwatched <- runner.Run(watched) }()
	registry := prometheus.NewRegistry()
	registry.MustRegister(speaker)
	tell := func(r report) error {
		mu.Lock()
		defer mu.Unlock()
		r.Status, r.Goroutines = speaker.Status(), runtime.NumGoroutine()
		return say.Encode(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- speaker.Run(ctx) }()
	go func() {
		for range speaker.Changed() {
			if err := runner.Apply(watched, speaker.Watched()); err != nil {
				cfg.Log.Error("apply BFD", "err", err)
			}
			if tell(report{}) != nil {
				return
			}
		}
	}()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		r := report{Answer: true}
		switch {
		case o.Tidy:
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			r.Heap = float64(m.HeapAlloc) / (1 << 20)
		case o.Depart != nil:
			speaker.Depart(*o.Depart)
		case o.BFD != nil:
			speaker.BFD(*o.BFD)
		default:
			if err := errors.Join(speaker.Apply(ctx, o.Apply), runner.Apply(ctx, speaker.Watched())); err != nil {
				r.Err = err.Error()
			}
		}
		var err error
		if r.Metrics, err = gather(registry); err != nil {
			return err
		}
		if err := tell(r); err != nil {
			return err
		}
	}
	cancel()
	err := <-ended
	stopWatching() // BGP goes first
	return errors.Join(err, <-unwatched)
}

func gather(registry *prometheus.Registry) (map[string]float64, error) {
	families, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			all[f.GetName()+"{"+m.GetLabel()[0].GetValue()+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all, nil
}

// node is a speaker in a namespace.
type node struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu      sync.Mutex
	last    report
	answers chan report
	seen    []string // every state that each peer was in, in order
	killed  atomic.Bool
	exited  chan struct{} // its output has ended
	log     output
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String returns what has been printed so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startNode starts a speaker in namespace ns.
func startNode(t testing.TB, ns string) *node {
	t.Helper()
	return startNodeWith(t, ns, "{}")
}

// startNodeWith starts a speaker whose bgp.Config is that of cfg, which is JSON.
func startNodeWith(t testing.TB, ns, cfg string) *node {
	t.Helper()
	n := &node{t: t, answers: make(chan report, 1)}
	n.cmd = exec.Command("ip", "netns", "exec", ns, os.Args[0])
	n.cmd.Env = append(os.Environ(), childEnv+"="+cfg)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n.cmd.Stderr = &n.log
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.exited = make(chan struct{})
	go func() {
		defer close(n.exited)
		for decode := json.NewDecoder(stdout); ; {
			var r report
			if decode.Decode(&r) != nil {
				return
			}
			n.mu.Lock()
			n.last = r
			for _, s := range r.Status {
				n.seen = append(n.seen, s.Peer+" "+s.State)
			}
			n.mu.Unlock()
			if r.Answer {
				n.answers <- r
			}
		}
	}()
	t.Cleanup(func() {
		n.stop()
		<-n.exited
		if err := n.cmd.Wait(); err != nil && !n.killed.Load() {
			t.Errorf("speaker: %v", err)
		}
		log := n.log.String()
		if strings.Contains(log, secret) {
			t.Errorf("the password is in the log:\n%s", log)
		}
		if t.Failed() || testing.Verbose() {
			t.Logf("status of the speaker: %+v\nlog:\n%s", n.last.Status, log)
		}
	})
	return n
}

// stop ends the speaker as SIGTERM would.
func (n *node) stop() { _ = n.stdin.Close() }

// kill ends the speaker as SIGKILL does.
func (n *node) kill() {
	n.killed.Store(true)
	_ = n.cmd.Process.Kill()
}

// apply has the speaker apply want and returns its answer.
func (n *node) apply(want ...lb.Session) report {
	n.t.Helper()
	return n.command(order{Apply: want})
}

// command sends an order and waits for the answer.
func (n *node) command(o order) report {
	n.t.Helper()
	line, err := json.Marshal(o)
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.stdin.Write(append(line, '\n')); err != nil {
		n.t.Fatal(err)
	}
	select {
	case r := <-n.answers:
		return r
	case <-time.After(kernellab.Patience(10 * time.Second)):
		n.t.Fatal("the speaker does not answer")
	}
	return report{}
}

// status returns what the speaker last said of a peer.
func (n *node) status(peer string) bgp.SessionStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.last.Status {
		if s.Peer == peer {
			return s
		}
	}
	return bgp.SessionStatus{}
}

// up waits for the session with peer to be established.
func (n *node) up(peer string) {
	n.t.Helper()
	eventually(n.t, 15*time.Second, func() string {
		if s := n.status(peer); s.State != "Established" {
			return fmt.Sprintf("session with %s is %s: %s", peer, s.State, s.LastError)
		}
		return ""
	})
}

// complains waits for the session with peer to be down for a reason that says text.
func (n *node) complains(peer, text string) {
	n.t.Helper()
	eventually(n.t, 15*time.Second, func() string {
		s := n.status(peer)
		if s.State == "Established" || !strings.Contains(s.LastError, text) {
			return fmt.Sprintf("session with %s is %s, LastError %q, want one with %q", peer, s.State, s.LastError, text)
		}
		if strings.Contains(s.LastError, secret) {
			n.t.Fatalf("the password is in LastError: %s", s.LastError)
		}
		return ""
	})
}

// fails waits until attempts have failed so many times in a row that the pauses between
// them are at their longest.
func (n *node) fails(times int, want lb.Session) {
	n.t.Helper()
	eventually(n.t, 20*time.Second, func() string {
		if s := n.apply(want).Status[0]; s.Failures < times {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
}

// states returns the states that a peer has been in.
func (n *node) states(peer string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for _, s := range n.seen {
		if name, state, _ := strings.Cut(s, " "); name == peer && (len(all) == 0 || all[len(all)-1] != state) {
			all = append(all, state)
		}
	}
	return strings.Join(all, " ")
}

// eventually waits until check has nothing to say.
func eventually(t testing.TB, within time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(kernellab.Patience(within))
	for {
		said := check()
		if said == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", within, said)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// routes makes the routes of a session, all with the same attributes.
func routes(attrs lb.Attrs, prefixes ...string) map[netip.Prefix]lb.Attrs {
	all := make(map[netip.Prefix]lb.Attrs)
	for _, pfx := range prefixes {
		all[netip.MustParsePrefix(pfx)] = attrs
	}
	return all
}
