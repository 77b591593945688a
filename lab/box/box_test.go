package box_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/lab/box"
)

// ownerArg makes the test binary an owner that opens a lab, and is then killed by the test.
const ownerArg = "barelb-lab-test-owner"

func TestMain(m *testing.M) {
	box.Main()
	if os.Args[0] == ownerArg {
		if err := own(os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func spec(name string) box.Spec {
	return box.Spec{
		Name:    name,
		Private: []string{"/var/lib/barelb-test-private", "/var/tmp"},
		Files:   map[string]string{"/etc/hosts": "192.0.2.1 somewhere\n"},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		Covered: map[string]string{"kernel.panic": "77"},
		Cgroup:  true,
	}
}

// own brings up boxes for ever; the test ends it somewhere in between.
func own(name string) error {
	s, err := box.Open(name)
	if err != nil {
		return err
	}
	for i := range 3 {
		b, err := s.Add(context.Background(), spec(fmt.Sprintf("box%d", i)))
		if err != nil {
			return err
		}
		if _, err := b.Start("sleep", "sleep", "1000"); err != nil {
			return err
		}
	}
	fmt.Println("up")
	select {}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("SKIPPED: needs root")
}

func labName(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("t%d-%s", os.Getpid(), strings.ToLower(t.Name()[4:min(len(t.Name()), 12)]))
}

// traces lists what exists of a lab on the machine.
func traces(t *testing.T, name string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/run/barelb-lab/" + name + "*", "/var/lib/barelb-lab/" + name, "/sys/fs/cgroup/barelb-lab-" + name, "/sys/fs/cgroup/*/barelb-lab-" + name} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "barelb-lab/"+name) {
			out = append(out, "mount "+line)
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range lines {
		if text, err := os.ReadFile(f); err == nil && bytes.HasPrefix(text, []byte("barelb-lab-")) && bytes.Contains(text, []byte("\x00"+name+"\x00")) {
			out = append(out, fmt.Sprintf("process %s %q", f, text))
		}
	}
	return out
}

func wantNoTrace(t *testing.T, name string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		left := traces(t, name)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func limit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func output(t *testing.T, b *box.Box, argv ...string) string {
	t.Helper()
	out, err := b.Command(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBox(t *testing.T) {
	needRoot(t)
	name := labName(t)
	s, err := box.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wantNoTrace(t, name)
	})
	b, err := s.Add(t.Context(), spec("alpha"))
	if err != nil {
		t.Fatal(err)
	}
	panicBefore := strings.TrimSpace(readFile(t, "/proc/sys/kernel/panic"))
	for _, c := range []struct{ cmd, want string }{
		{"hostname", "alpha"},
		{"cat /proc/1/cmdline | tr '\\0' ' ' | cut -d' ' -f1", "barelb-lab-box"},
		{"cat /etc/hosts", "192.0.2.1 somewhere"},
		{"cat /proc/sys/net/ipv4/ip_forward", "1"},
		{"echo 5 >/proc/sys/kernel/panic; cat /proc/sys/kernel/panic", "5"},
		{"ls /sys/class/net", "lo"},
		{"touch /var/lib/barelb-test-private/x /var/tmp/y; ls /var/tmp /var/lib/barelb-test-private | tr '\\n' ' '", "/var/lib/barelb-test-private:\nx \n/var/tmp:\ny"},
		{"test -d /var/lib/dpkg && ls -d /var/lib/barelb-lab", "/var/lib/barelb-lab"},
		{"ls /run", "box\nlock\nsoil\ntmp"},
	} {
		got := output(t, b, "sh", "-c", c.cmd)
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(c.want), " ") {
			t.Errorf("%s: got %q, want %q", c.cmd, got, c.want)
		}
	}
	if got := strings.TrimSpace(readFile(t, "/proc/sys/kernel/panic")); got != panicBefore {
		t.Errorf("the machine's kernel.panic is now %s", got)
	}
	if _, err := os.Stat("/var/lib/barelb-test-private"); err == nil {
		t.Error("a private directory appeared on the machine")
	}
	if _, err := s.Add(t.Context(), box.Spec{Name: "alpha"}); err == nil {
		t.Error("a second box of the same name was added")
	}
	if _, err := box.Open(name); !errors.Is(err, box.ErrExists) {
		t.Errorf("second Open: got %v", err)
	}
	p, err := b.Start("loop", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo hello $(hostname); while :; do read -t 1 x </dev/zero; done")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(readFile(t, p.Log()), "hello alpha") })
	var exit *exec.ExitError
	if err := p.Stop(5 * time.Second); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("stop: %v, want exit status 3", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := b.Command(ctx, "sleep", "4321")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(output(t, b, "ps", "-eo", "args"), "sleep 4321") })
	cancel()
	_ = cmd.Wait()
	waitFor(t, func() bool { return !strings.Contains(output(t, b, "ps", "-eo", "args"), "sleep 4321") })
}

func TestTwoLabs(t *testing.T) {
	needRoot(t)
	before := limit(t)
	var sets []*box.Set
	for i := range 2 {
		s, err := box.Open(fmt.Sprintf("%s-%d", labName(t), i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if _, err := s.Add(t.Context(), spec("box0")); err != nil {
			t.Fatal(err)
		}
		sets = append(sets, s)
	}
	if len(before) < 4 && limit(t) == before {
		t.Errorf("inotify instances are still %s", before)
	}
	for i, s := range sets {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wantNoTrace(t, s.Name())
		if i == 0 && len(traces(t, sets[1].Name())) == 0 {
			t.Error("the second lab went with the first")
		}
	}
	if got := limit(t); len(before) < 4 && len(box.Names()) == 0 && got != before {
		t.Errorf("inotify instances: %s, were %s", got, before)
	}
}

// TestOwnerKilled kills the owner at random points of the bring-up and wants nothing left.
func TestOwnerKilled(t *testing.T) {
	needRoot(t)
	name := labName(t)
	for range 12 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{ownerArg, name}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make(chan string, 1)
		go func() {
			text, _ := bufio.NewReader(out).ReadString('\n')
			line <- text
		}()
		timer := time.NewTimer(rand.N(500 * time.Millisecond))
		select {
		case <-timer.C:
		case text := <-line:
			if text != "up\n" {
				t.Fatalf("owner: %s", text)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		wantNoTrace(t, name)
	}
	s, err := box.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen within 10 s")
		}
	}
}
