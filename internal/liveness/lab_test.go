package liveness_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/link"
	"github.com/barelb/barelb/internal/liveness"
)

// The tests of a lab run speakers as processes, each in a network namespace of its own
// and with the capability NET_RAW alone:
//
//	node1 … nodeN: eth0 ── to-nodeN, a port of bridge sw0 in "sw"
//
// A speaker is told things by lines on its input, and says by lines what it knows.
const asSpeaker = "BARELB_TEST_SPEAKER"

// labSpeaker is the environment of such a process.
type labSpeaker struct {
	Node     string
	Nodes    map[string]netip.Addr
	Probe    core.Method
	Interval time.Duration
}

// known is what a speaker says. Times are comparable: all are on this machine.
type known struct {
	At                      time.Time
	Alive, Dead, Down, Gone []string
	CutOff                  bool
	WokeStale, WokeFresh    int      // how often, after a second without running, it called itself what
	Fresh                   bool     // now
	Told                    []string // messages, each with its sender
	Claims                  map[netip.Addr][]core.Claimant
	Found                   map[string]float64 // how often, by what
	Err                     string
}

// order is what a speaker is told.
type order struct {
	Tell, Say string // to whom, what
	Claim     []core.Change
}

// speak runs a speaker until in ends.
func speak(text string, in io.Reader, out io.Writer) error {
	var s labSpeaker
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	watcher := link.New(log)
	var (
		mu  sync.Mutex
		now = known{Claims: map[netip.Addr][]core.Claimant{}}
		r   *liveness.Runner
	)
	reg := prometheus.NewRegistry()
	say := func(change func(*known)) {
		mu.Lock()
		defer mu.Unlock()
		now.At = time.Now()
		change(&now)
		now.Alive, now.Dead, now.Down, now.Gone = nil, nil, nil, nil
		v := r.View()
		for name, n := range v.Nodes {
			for list, in := range map[*[]string]bool{&now.Alive: n.Member && n.Facts != nil && n.Facts.Phase == core.Serving, &now.Dead: len(n.Dead) > 0, &now.Down: n.SpeakerDown, &now.Gone: n.Gone} {
				if in {
					*list = append(*list, name)
					slices.Sort(*list)
				}
			}
		}
		now.CutOff = len(v.CutOff) > 0
		now.Fresh = r.Fresh()
		maps.Copy(now.Claims, r.DrainClaims())
		now.Found = found(reg)
		_ = json.NewEncoder(out).Encode(now)
	}
	r = liveness.New(liveness.Config{
		Registerer: reg,
		NodeName:   s.Node, BindAddr: s.Nodes[s.Node].String(), BindPort: 7946, Secret: []byte(secret), Log: log,
		Speakers: func(context.Context) (map[string]netip.Addr, error) {
			return maps.Clone(s.Nodes), nil
		},
		Links: watcher, Interval: s.Interval, Probe: s.Probe,
		Told: func(_ context.Context, from string, msg []byte) error {
			say(func(k *known) { k.Told = append(k.Told, from+": "+string(msg)) })
			return nil
		},
	})
	r.SetPhase(core.Serving)
	go func() { _ = watcher.Run(ctx) }()
	failed := make(chan error, 1)
	go func() { failed <- r.Run(ctx) }()
	go func() {
		for range r.Changed() {
			say(func(*known) {})
		}
	}()
	go func() { // as a responder would ask
		for last := time.Now(); ; time.Sleep(time.Millisecond) {
			fresh, t := r.Fresh(), time.Now()
			if t.Sub(last) > time.Second {
				say(func(k *known) {
					if fresh {
						k.WokeFresh++
					} else {
						k.WokeStale++
					}
				})
			}
			last = t
		}
	}()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		r.SetClaims(o.Claim)
		text := ""
		if o.Tell != "" {
			if err := r.Tell(ctx, o.Tell, []byte(o.Say)); err != nil {
				text = err.Error()
			}
		}
		say(func(k *known) { k.Err = text })
	}
	r.SetPhase(core.Leaving)
	cancel()
	return <-failed
}

// found returns what barelb_liveness_events_total counts.
func found(reg prometheus.Gatherer) map[string]float64 {
	out := map[string]float64{}
	families, _ := reg.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "barelb_liveness_events_total" {
				out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return out
}

// lab is the network of one test.
type lab struct {
	*testing.T
	prefix string
	nodes  map[string]netip.Addr
	procs  map[string]*process
	cfg    labSpeaker
}

// process is a running speaker.
type process struct {
	lab  *lab
	node string
	cmd  *exec.Cmd
	in   io.WriteCloser
	mu   sync.Mutex
	now  known
	news chan struct{}
}

var labs atomic.Int32

// newLab builds a network of n nodes with addresses in a prefix, and starts the speakers.
// All is gone after the test.
func newLab(t *testing.T, n int, prefix string, cfg labSpeaker) *lab {
	t.Helper()
	needNamespace(t)
	for _, tool := range []string{"ip", "nft", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED, needs the command %s", tool)
		}
	}
	t.Parallel()
	l := &lab{T: t, prefix: fmt.Sprintf("blv-%d-%d-", os.Getpid(), labs.Add(1)), nodes: map[string]netip.Addr{}, procs: map[string]*process{}, cfg: cfg}
	l.addNamespace("sw")
	l.ip("sw", "link add sw0 type bridge mcast_snooping 0")
	l.ip("sw", "link set sw0 up")
	base := netip.MustParsePrefix(prefix)
	addr := base.Addr()
	for i := range n {
		node := fmt.Sprintf("node%d", i+1)
		addr = addr.Next()
		l.nodes[node] = addr
		l.addNamespace(node)
		l.sh(node, "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
		l.ip(node, "link set lo up")
		l.ip(node, fmt.Sprintf("link add eth0 address 02:00:00:00:00:%02x type veth peer name to-%s netns %ssw", i+1, node, l.prefix))
		l.ip("sw", "link set to-"+node+" master sw0 up")
		l.ip(node, "link set eth0 up")
		command := fmt.Sprintf("addr add %s/%d dev eth0", addr, base.Bits())
		if addr.Is6() {
			command += " nodad" // else it is tentative until the kernel gets round to it
		}
		l.ip(node, command)
	}
	for _, node := range l.names() {
		l.start(node)
	}
	l.all(15*time.Second, "know each other", func(k known) bool { return slices.Equal(k.Alive, l.names()) && len(k.Down)+len(k.Dead) == 0 })
	l.settle()
	return l
}

// settle waits until the speakers have looked at each other for a while: what is seen of
// a node that was never seen is another matter.
func (l *lab) settle() {
	l.Helper()
	until := time.Now().Add(1500 * time.Millisecond)
	l.all(5*time.Second, "look at each other", func(known) bool { return time.Now().After(until) })
}

func (l *lab) names() []string {
	var out []string
	for n := range l.nodes {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (l *lab) addNamespace(ns string) {
	l.Helper()
	l.run("ip", "netns", "add", l.prefix+ns)
	l.Cleanup(func() { _ = exec.Command("ip", "netns", "del", l.prefix+ns).Run() })
}

func (l *lab) run(name string, args ...string) {
	l.Helper()
	if out, err := exec.CommandContext(l.Context(), name, args...).CombinedOutput(); err != nil {
		l.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (l *lab) ip(ns, args string) {
	l.Helper()
	l.run("ip", append([]string{"-n", l.prefix + ns}, strings.Fields(args)...)...)
}

func (l *lab) sh(ns, script string) {
	l.Helper()
	l.run("ip", "netns", "exec", l.prefix+ns, "sh", "-c", script)
}

// start starts the speaker of a node.
func (l *lab) start(node string) *process {
	l.Helper()
	cfg := l.cfg
	cfg.Node, cfg.Nodes = node, l.nodes
	text, err := json.Marshal(cfg)
	if err != nil {
		l.Fatal(err)
	}
	p := &process{lab: l, node: node, news: make(chan struct{}, 1)}
	p.cmd = exec.Command("ip", "netns", "exec", l.prefix+node,
		"setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_raw", "--no-new-privs", os.Args[0])
	p.cmd.Env = append(os.Environ(), asSpeaker+"="+string(text))
	var log strings.Builder
	p.cmd.Stderr = &log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		l.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var k known
			if err := json.Unmarshal(lines.Bytes(), &k); err != nil {
				l.Errorf("%s says %q", node, lines.Text())
			}
			p.mu.Lock()
			p.now = k
			p.mu.Unlock()
			select {
			case p.news <- struct{}{}:
			default:
			}
		}
	}()
	l.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.in.Close()
		giveUp := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
		defer giveUp.Stop()
		<-read
		if err := p.cmd.Wait(); err != nil && l.procs[node] == p { // also the race detector's verdict
			l.Errorf("%s ended: %v", node, err)
		}
		if l.Failed() {
			l.Logf("%s said:\n%s", node, &log)
		}
	})
	l.procs[node] = p
	return p
}

// kill ends a process as a crash does. Its node has none then.
func (p *process) kill() time.Time {
	at := time.Now()
	delete(p.lab.procs, p.node)
	_ = p.cmd.Process.Kill()
	return at
}

func (p *process) order(o order) {
	p.lab.Helper()
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		p.lab.Fatal(err)
	}
}

func (p *process) known() known {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// until waits until p knows what ok wants, and returns when p knew it.
func (p *process) until(within time.Duration, what string, ok func(known) bool) time.Time {
	p.lab.Helper()
	deadline := time.After(within)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		if k := p.known(); ok(k) {
			return k.At
		}
		select {
		case <-p.news:
		case <-look.C:
		case <-deadline:
			p.lab.Fatalf("%s after %s: want it to %s\nit knows %+v", p.node, within, what, p.known())
		}
	}
}

// all waits until all processes but those of the given nodes know something, and returns
// when the last one knew it.
func (l *lab) all(within time.Duration, what string, ok func(known) bool, but ...string) time.Time {
	l.Helper()
	var last time.Time
	for node, p := range l.procs {
		if slices.Contains(but, node) {
			continue
		}
		if at := p.until(within, what, ok); at.After(last) {
			last = at
		}
	}
	return last
}
