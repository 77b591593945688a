package probe_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/wire"
	"github.com/barelb/barelb/internal/link"
	"github.com/barelb/barelb/internal/probe"
)

// The tests of this package run a Prober as a process of its own in a network
// namespace, with the capability NET_RAW and no other; whom it asks are other hosts'
// kernels:
//
//	host ──┐
//	node2 ─┼─ bridge sw0 in "sw" ── eth0 node1: the Prober
//
// Its clock runs ten times as fast as others. childEnv marks its process.
const (
	childEnv = "BARELB_TEST_PROBER"
	hurry    = 10
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// command is one line to the Prober's process: what to apply; nil asks for the report.
type command struct{ Apply *wire.Want }

// answer is one line from it: what is known after the command.
type answer struct {
	Report wire.Report
	Known  bool
}

// serve runs a Prober until in ends.
func serve(in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	watcher := link.New(log)
	p := probe.New(probe.Config{Node: "node1", Log: log, Links: watcher})
	p.Hasten(hurry)
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for _, run := range []func(context.Context) error{watcher.Run, p.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				errs <- err
			}
		})
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if c.Apply != nil {
			p.Apply(*c.Apply)
		}
		var a answer
		a.Report, a.Known = p.Report()
		if err := json.NewEncoder(out).Encode(a); err != nil {
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
	node1MAC = "02:00:00:00:00:01"
	node2MAC = "02:00:00:00:00:02"
	hostMAC  = "02:00:00:00:00:09"
)

// lab is one test's network and the Prober in it.
type lab struct {
	*testing.T
	prefix string
	in     io.WriteCloser
	out    *bufio.Scanner
}

var labs atomic.Int32

// newLab builds the network and starts the Prober. All is gone after the test.
func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root for network namespaces")
	}
	for _, tool := range []string{"ip", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, "needs the command "+tool+" (iproute2, util-linux)")
		}
	}
	l := &lab{T: t, prefix: fmt.Sprintf("blp-%d-%d-", os.Getpid(), labs.Add(1))}
	for _, ns := range []string{"sw", "node1", "node2", "host"} {
		l.run("ip", "netns", "add", l.prefix+ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", l.prefix+ns).Run() })
	}
	// The link-local addresses of the tests are unique; waiting to find out costs 2 s.
	for _, ns := range []string{"node1", "node2", "host"} {
		l.exec(ns, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
	}
	l.ip("sw", "link add sw0 type bridge mcast_snooping 0")
	l.ip("sw", "link set sw0 up")
	for i, ns := range []string{"node1", "node2"} {
		l.plug(ns, []string{node1MAC, node2MAC}[i])
		l.ip(ns, fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", 101+i))
		l.ip(ns, fmt.Sprintf("addr add 2001:db8::%d/64 dev eth0 nodad", 101+i))
	}
	l.plug("host", hostMAC)
	l.start()
	return l
}

// plug connects eth0 of a namespace to the bridge.
func (l *lab) plug(ns, mac string) {
	l.Helper()
	l.ip(ns, "link add eth0 address "+mac+" type veth peer name to-"+ns+" netns "+l.prefix+"sw")
	l.ip("sw", "link set to-"+ns+" master sw0 up")
	l.ip(ns, "link set eth0 up")
}

// start starts the Prober's process in node1.
func (l *lab) start() {
	l.Helper()
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		l.Fatal(err)
	}
	// Not bound to the test's context, which ends before the cleanup.
	cmd := exec.Command("ip", "netns", "exec", l.prefix+"node1",
		"setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_raw", "--no-new-privs", self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	var log strings.Builder
	cmd.Stderr = &log
	if l.in, err = cmd.StdinPipe(); err != nil {
		l.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	l.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		_ = l.in.Close()
		giveUp := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer giveUp.Stop()
		if err := cmd.Wait(); err != nil { // also the race detector's verdict
			l.Errorf("prober ended: %v", err)
		}
		if l.Failed() {
			l.Logf("prober's log:\n%s", &log)
		}
	})
}

func (l *lab) send(c command) answer {
	l.Helper()
	if err := json.NewEncoder(l.in).Encode(c); err != nil {
		l.Fatal(err)
	}
	var a answer
	if !l.out.Scan() {
		l.Fatalf("prober does not answer: %v", l.out.Err())
	}
	if err := json.Unmarshal(l.out.Bytes(), &a); err != nil {
		l.Fatal(err)
	}
	return a
}

// apply says what is to be found out.
func (l *lab) apply(w wire.Want) { l.Helper(); l.send(command{&w}) }

// reported waits for what the report says.
func (l *lab) reported(want string) {
	l.Helper()
	l.until("the report is "+want, func() (string, bool) {
		a := l.send(command{})
		var parts []string
		for _, c := range a.Report.InUse {
			parts = append(parts, fmt.Sprintf("%s by %s on %s", c.Addr, c.MAC, c.Link))
		}
		got := strings.Join(parts, ", ")
		return got, a.Known && got == want
	})
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

// until waits for ok, whose string says what there is instead.
func (l *lab) until(what string, ok func() (string, bool)) {
	l.Helper()
	deadline := time.Now().Add(30 * time.Second)
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

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
