package liveness_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/barelb/barelb/internal/liveness"
)

// The tests run in a network namespace of their own, where members have addresses
// from 127.0.0.2 on and each test has a port. A member that is to be killed is a
// process of its own. These variables mark the two kinds of process.
const (
	inside   = "BARELB_TEST_NAMESPACE"
	asMember = "BARELB_TEST_MEMBER"
)

// secret is what the members of a test share.
const secret = "0123456789abcdefghijkl"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asMember) != "":
		if err := beMember(os.Getenv(asMember), os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case os.Getenv(asSpeaker) != "":
		if err := speak(os.Getenv(asSpeaker), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case os.Getenv(inside) != "":
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "set lo up:", err)
			os.Exit(1)
		}
		flag.Parse()
		if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
			_ = f.Value.Set("10") // the tests wait for timers, not for the CPU
		}
		os.Exit(m.Run())
	case os.Geteuid() != 0:
		os.Exit(m.Run()) // those tests that need the namespace skip
	default:
		os.Exit(enter())
	}
}

// enter runs this program again, in a new network namespace.
func enter() int {
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT) // the terminal tells the other process too
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(1, exit.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "run in a network namespace:", err)
		return 1
	}
	return 0
}

// needNamespace skips a test that is not in a namespace of its own.
func needNamespace(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("only root can make a network namespace")
	}
	t.Skip("SKIPPED, no member was started: only root can make a network namespace")
}

// fleet is what the members of one test have in common.
type fleet struct {
	Port   int
	Secret string
	Nodes  map[string]netip.Addr
}

// newFleet returns a fleet of the nodes, on a port that no other test uses.
func newFleet(t *testing.T, port int, nodes ...string) fleet {
	t.Helper()
	needNamespace(t)
	t.Parallel()
	f := fleet{Port: port, Secret: secret, Nodes: map[string]netip.Addr{}}
	for i, n := range nodes {
		f.Nodes[n] = netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 2)})
	}
	return f
}

func (f fleet) config(node string) liveness.Config {
	return liveness.Config{
		NodeName: node, BindAddr: f.Nodes[node].String(), BindPort: f.Port, Secret: []byte(f.Secret),
		Log:      slog.New(slog.DiscardHandler),
		Speakers: func(context.Context) (map[string]netip.Addr, error) { return maps.Clone(f.Nodes), nil },
	}
}

// member is a member of a fleet in this process.
type member struct {
	*liveness.Runner
	node string
	stop context.CancelFunc
	done chan struct{}
}

// start starts a member. It leaves at the end of the test at the latest.
func start(t *testing.T, cfg liveness.Config) *member {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	m := &member{Runner: liveness.New(cfg), node: cfg.NodeName, stop: cancel, done: make(chan struct{})}
	if n := len(m.Alive()); n != 0 {
		t.Errorf("%s calls %d alive before it runs", m.node, n)
	}
	go func() {
		defer close(m.done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("%s: %v", m.node, err)
		}
	}()
	t.Cleanup(m.leave)
	return m
}

func (m *member) leave() {
	m.stop()
	<-m.done
}

// sees waits until m calls exactly the nodes alive.
func (m *member) sees(t *testing.T, within time.Duration, nodes ...string) time.Duration {
	t.Helper()
	began := time.Now()
	deadline := time.After(within)
	for {
		if slices.Equal(slices.Sorted(maps.Keys(m.Alive())), nodes) {
			return time.Since(began)
		}
		select {
		case <-m.Changed():
		case <-deadline:
			t.Fatalf("%s sees %v after %s, want %v", m.node, slices.Sorted(maps.Keys(m.Alive())), within, nodes)
		}
	}
}

// spec is the environment of a member that is a process of its own.
type spec struct {
	Node  string
	Fleet fleet
}

// beMember runs a member until it is killed, and prints whom it sees.
func beMember(text string, out io.Writer) error {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("read %s: %w", asMember, err)
	}
	m := liveness.New(s.Fleet.config(s.Node))
	failed := make(chan error, 1)
	go func() { failed <- m.Run(context.Background()) }()
	for {
		select {
		case err := <-failed:
			return err
		case <-m.Changed():
			if _, err := fmt.Fprintln(out, strings.Join(slices.Sorted(maps.Keys(m.Alive())), " ")); err != nil {
				return err
			}
		}
	}
}

// startProcess starts a member as a process and waits until it sees the nodes. The
// result kills it.
func (f fleet) startProcess(t *testing.T, node string, sees ...string) func() {
	t.Helper()
	text, err := json.Marshal(spec{node, f})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asMember+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	timer := time.AfterFunc(15*time.Second, kill)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == strings.Join(sees, " ") {
			if !timer.Stop() {
				break
			}
			return kill
		}
	}
	t.Fatalf("the process of %s never saw %v", node, sees)
	return nil
}
