package layer2_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kernellab"
	"github.com/barelb/barelb/internal/layer2"
	"github.com/barelb/barelb/internal/link"
)

// The tests of this package run an Announcer as a process of its own in a network
// namespace, with the capability NET_RAW and no other, and look at it with the eyes
// of other hosts' kernels:
//
//	client (eth0, eth1) ── bridge sw0 in "sw" ── (eth0, eth1) node: the Announcer
//
// eth1 of node and client are joined directly. childEnv marks the Announcer's process,
// and says how long its slow refresh takes; 0s for the default.
const childEnv = "BARELB_TEST_ANNOUNCER"

// maxLine in bytes is the length of the longest line to and from that process.
const maxLine = 64 << 20

func TestMain(m *testing.M) {
	kernellab.Main()
	var child func(in io.Reader, out io.Writer) error
	switch {
	case os.Getenv(childEnv) != "":
		child = announce
	case os.Getenv(stationEnv) != "":
		child = beStation
	default:
		os.Exit(m.Run())
	}
	if err := child(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// command is one line to the Announcer's process: what it is to do, in this order. An
// answer line is how things are after it.
type command struct {
	Fresh    *bool      // what Config.Fresh returns from now on
	Apply    lb.L2      // nil for as before
	Reassert netip.Addr // zero for none
}

type answer struct {
	layer2.Status
	Began      time.Time      // when Apply was called
	Claims     []layer2.Claim // all that have been reported
	Reasserted bool
}

// announce runs an Announcer until in ends.
func announce(in io.Reader, out io.Writer) error {
	refresh, err := time.ParseDuration(os.Getenv(childEnv))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	watcher := link.New(log)
	var (
		stale  atomic.Bool
		mu     sync.Mutex
		claims []layer2.Claim
	)
	a := layer2.New(layer2.Config{
		Log: log, Links: watcher, Refresh: refresh,
		Fresh: func() bool { return !stale.Load() },
		OnClaim: func(c layer2.Claim) {
			mu.Lock()
			defer mu.Unlock()
			claims = append(claims, c)
		},
	})
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for _, run := range []func(context.Context) error{watcher.Run, a.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				errs <- err
			}
		})
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if c.Fresh != nil {
			stale.Store(!*c.Fresh)
		}
		began := time.Now()
		if c.Apply != nil {
			if err := a.Apply(ctx, c.Apply); err != nil {
				return err
			}
		}
		reasserted := c.Reassert.IsValid() && a.Reassert(c.Reassert)
		mu.Lock()
		is := answer{a.Status(), began, claims, reasserted}
		mu.Unlock()
		if err := json.NewEncoder(out).Encode(is); err != nil {
			return err
		}
	}
	cancel()
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

const (
	nodeMAC   = "02:00:00:00:00:01"
	nodeMAC1  = "02:00:00:00:01:01" // of eth1
	clientMAC = "02:00:00:00:00:09"
	wrongMAC  = "02:00:00:00:00:55" // of the owner that has died
)

var (
	vip  = netip.MustParseAddr("192.0.2.250")
	vip6 = netip.MustParseAddr("2001:db8::250")
)

// lab is one test's network and the Announcer in it.
type lab struct {
	testing.TB
	prefix string
	mu     sync.Mutex // one command at a time
	node   *child     // the Announcer
}

var labs atomic.Int32

// newLab builds the network and starts the Announcer. All is gone after the test.
func newLab(t testing.TB) *lab { t.Helper(); return newLabThatRefreshes(t, 0) }

// newLabThatRefreshes is newLab with another time between slow refreshes.
func newLabThatRefreshes(t testing.TB, refresh time.Duration) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root for network namespaces")
	}
	for _, tool := range []string{"ip", "bridge", "setpriv", "arping", "ndisc6"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, "needs the command "+tool+" (iproute2, util-linux, iputils-arping, ndisc6)")
		}
	}
	l := &lab{TB: t, prefix: fmt.Sprintf("bl2-%d-%d-", os.Getpid(), labs.Add(1))}
	for _, ns := range []string{"sw", "node", "client"} {
		l.run("ip", "netns", "add", l.prefix+ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", l.prefix+ns).Run() })
	}
	// The link-local addresses of the tests are unique; waiting to find out costs 2 s.
	for _, ns := range []string{"node", "client"} {
		l.exec(ns, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
	}
	l.ip("sw", "link add sw0 type bridge mcast_snooping 0")
	l.ip("sw", "link set sw0 up")
	l.plug("node", nodeMAC)
	l.plug("client", clientMAC)
	l.ip("node", "link add eth1 address "+nodeMAC1+" type veth peer name eth1 netns "+l.prefix+"client")
	l.ip("node", "link set eth1 up")
	l.ip("client", "link set eth1 up")
	l.ip("client", "addr add 192.0.2.9/24 dev eth0")
	l.ip("client", "addr add 2001:db8::9/64 dev eth0 nodad")
	l.ip("client", "addr add 198.51.100.9/24 dev eth1")
	l.node = l.start("node", childEnv+"="+refresh.String())
	return l
}

// plug connects eth0 of a namespace to the bridge.
func (l *lab) plug(ns, mac string) {
	l.Helper()
	l.ip(ns, "link add eth0 address "+mac+" type veth peer name to-"+ns+" netns "+l.prefix+"sw")
	l.ip("sw", "link set to-"+ns+" master sw0 up")
	l.ip(ns, "link set eth0 up")
}

// child is a process of this package in a namespace, that takes and gives lines.
type child struct {
	pid int
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts a process, which env tells what it is.
func (l *lab) start(ns, env string) *child {
	l.Helper()
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		l.Fatal(err)
	}
	// Not bound to the test's context, which ends before the cleanup.
	cmd := exec.Command("ip", "netns", "exec", l.prefix+ns,
		"setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_raw", "--no-new-privs", self)
	cmd.Env = append(os.Environ(), env)
	var log strings.Builder
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	if err != nil {
		l.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		_ = in.Close()
		giveUp := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer giveUp.Stop()
		if err := cmd.Wait(); err != nil { // also the race detector's verdict
			l.Errorf("process in %s ended: %v", ns, err)
		}
		if l.Failed() {
			l.Logf("log of the process in %s:\n%s", ns, &log)
		}
	})
	c := &child{pid: cmd.Process.Pid, in: in, out: bufio.NewScanner(out)}
	c.out.Buffer(nil, maxLine)
	return c
}

// tell sends one line and takes the next one. Only one goroutine may do so at a time.
func (l *lab) tell(c *child, question, answer any) {
	l.Helper()
	if err := json.NewEncoder(c.in).Encode(question); err != nil {
		l.Fatal(err)
	}
	if !c.out.Scan() {
		l.Fatalf("process does not answer: %v", c.out.Err())
	}
	if err := json.Unmarshal(c.out.Bytes(), answer); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) send(c command) answer {
	l.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var s answer
	l.tell(l.node, c, &s)
	return s
}

func (l *lab) apply(want lb.L2) answer { l.Helper(); return l.send(command{Apply: want}) }

func (l *lab) status(addr netip.Addr) layer2.AddrStatus {
	l.Helper()
	return l.send(command{}).Addrs[addr]
}

// run runs a command that must succeed and returns what it prints.
func (l *lab) run(name string, args ...string) string {
	l.Helper()
	out, err := exec.CommandContext(l.Context(), name, args...).CombinedOutput()
	if err != nil {
		l.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ip runs ip in a namespace.
func (l *lab) ip(ns, args string) string {
	l.Helper()
	return l.run("ip", append([]string{"-n", l.prefix + ns}, strings.Fields(args)...)...)
}

// exec runs a command in a namespace.
func (l *lab) exec(ns string, args ...string) string {
	l.Helper()
	return l.run("ip", append([]string{"netns", "exec", l.prefix + ns}, args...)...)
}

// try is exec for a command that may fail.
func (l *lab) try(ns string, args ...string) string {
	l.Helper()
	out, _ := exec.CommandContext(l.Context(), "ip", append([]string{"netns", "exec", l.prefix + ns}, args...)...).CombinedOutput()
	return string(out)
}

// until waits for ok, whose string says what there is instead.
func (l *lab) until(what string, ok func() (string, bool)) {
	l.Helper()
	deadline := time.Now().Add(kernellab.Patience(10 * time.Second))
	for {
		is, done := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("waited in vain for: %s\nthere is: %s", what, is)
		}
		select {
		case <-l.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answered waits until addr is answered for on a link of the client, by mac.
func (l *lab) answered(dev string, addr netip.Addr, mac string) {
	l.Helper()
	l.until(fmt.Sprintf("%s at %s on %s", addr, mac, dev), func() (string, bool) {
		out := l.ask(dev, addr)
		return out, strings.Contains(strings.ToLower(out), mac)
	})
}

// silent fails the test if addr is answered for on a link of the client.
func (l *lab) silent(dev string, addr netip.Addr) {
	l.Helper()
	if out := l.ask(dev, addr); strings.Contains(out, "reply from") || strings.Contains(out, "link-layer address") {
		l.Errorf("%s is answered for on %s:\n%s", addr, dev, out)
	}
}

// ask asks once and waits up to a second for an answer.
func (l *lab) ask(dev string, addr netip.Addr) string {
	l.Helper()
	if addr.Is4() {
		return l.try("client", "arping", "-c", "1", "-w", "1", "-I", dev, addr.String())
	}
	return l.try("client", "ndisc6", "-r", "1", "-w", "1000", addr.String(), dev)
}

// stale makes the client believe that addr is at a wrong address, as after the death
// of its owner.
func (l *lab) stale(addr netip.Addr) {
	l.Helper()
	l.ip("client", "neigh replace "+addr.String()+" lladdr "+wrongMAC+" nud stale dev eth0")
}

// corrected waits until the client has been told that addr is at mac.
func (l *lab) corrected(addr netip.Addr, mac string) {
	l.Helper()
	l.until(fmt.Sprintf("the client learns that %s is at %s", addr, mac), func() (string, bool) {
		out := l.ip("client", "neigh show "+addr.String())
		return out, strings.Contains(out, mac)
	})
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
