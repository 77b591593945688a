package measure_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/barelb/barelb/lab/measure"
)

// TestMain makes the test binary serve as the lab's binary too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == measure.ToolWord {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := measure.Run(ctx, os.Args[2:], measure.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
		stop()
		if err != nil && !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// host is a network namespace with one link, eth0, to a switch.
type host struct {
	t    *testing.T
	name string // of the namespace
}

// Command runs a program inside the host.
func (h host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + h.name, name}, args...)...)
	// A binary with the race detector waits a second at its end otherwise.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// ip runs the ip tool inside the host.
func (h host) ip(args string) {
	h.t.Helper()
	out, err := h.Command(h.t.Context(), "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: ip %s: %v: %s", h.name, args, err, out)
	}
}

// lan is a switch, which is a bridge in a namespace of its own, with hosts at it.
type lan struct {
	t      *testing.T
	sw     host
	prefix string
	hosts  int
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{t: t, prefix: fmt.Sprintf("ms%d-%s", os.Getpid(), strings.ToLower(t.Name()))}
	l.sw = l.namespace("sw")
	l.sw.ip("link add br0 type bridge")
	l.sw.ip("link set br0 up")
	return l
}

func (l *lan) namespace(name string) host {
	l.t.Helper()
	h := host{t: l.t, name: strings.ReplaceAll(l.prefix, "/", "-") + "-" + name}
	out, err := exec.CommandContext(l.t.Context(), "ip", "netns", "add", h.name).CombinedOutput()
	if err != nil {
		need(l.t, fmt.Sprintf("network namespaces: ip netns add: %v: %s", err, out))
	}
	l.t.Cleanup(func() {
		// The test's context has ended.
		if out, err := exec.Command("ip", "netns", "del", h.name).CombinedOutput(); err != nil {
			l.t.Errorf("ip netns del %s: %v: %s", h.name, err, out)
		}
	})
	h.ip("link set lo up")
	return h
}

// add connects a new host with these addresses and MAC 02:00:00:00:00:0N, N
// counting from 1. The switch's side of its link is called like the host.
func (l *lan) add(name string, addrs ...string) host {
	l.t.Helper()
	l.hosts++
	h := l.namespace(name)
	l.sw.ip(fmt.Sprintf("link add name %s type veth peer name eth0 netns %s address 02:00:00:00:00:%02x", name, h.name, l.hosts))
	l.sw.ip("link set dev " + name + " master br0 up")
	for _, a := range addrs {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = " nodad"
		}
		h.ip("addr add " + a + " dev eth0" + nodad)
	}
	h.ip("link set eth0 up")
	return h
}

// need skips the test for what the machine lacks; on CI nothing may lack.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("this machine lacks " + what)
	}
	t.Skip("this machine lacks " + what)
}

// self is the binary that runs as the lab's.
func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}
