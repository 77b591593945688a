// Package routerlab gives tests a node and a router in network namespaces, joined by a
// cable, and runs real routing daemons in the router. It needs root, FRR and BIRD; a
// test that it cannot serve is skipped, or fails where CI is true.
package routerlab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Addresses of the two ends of the cable.
const (
	Node4   = "10.9.0.1"
	Node6   = "fd09::1"
	Router4 = "10.9.0.2"
	Router6 = "fd09::2"
)

const frrDir = "/usr/lib/frr"

//nolint:gochecknoglobals // namespaces are of the whole machine
var labs atomic.Int32

// Lab is a node and a router, each with one link, eth0.
type Lab struct {
	T            testing.TB
	Node, Router string // names of the namespaces
}

// New makes a lab that lasts until the end of the test.
func New(t testing.TB) *Lab {
	t.Helper()
	need(t, "root", os.Geteuid() == 0)
	for _, file := range []string{frrDir + "/zebra", "/usr/bin/vtysh", "/usr/sbin/bird", "/usr/sbin/birdc"} {
		_, err := os.Stat(file)
		need(t, file, err == nil)
	}
	id := fmt.Sprintf("rl%d-%d", os.Getpid(), labs.Add(1))
	l := &Lab{T: t, Node: id + "n", Router: id + "r"}
	for _, ns := range []string{l.Node, l.Router} {
		l.IP("netns", "add", ns)
		t.Cleanup(func() { l.IP("netns", "del", ns) })
		l.IP("-n", ns, "link", "set", "lo", "up")
		l.In(ns, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
			"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	}
	l.IP("-n", l.Node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", l.Router)
	for ns, addrs := range map[string][]string{l.Node: {Node4, Node6}, l.Router: {Router4, Router6}} {
		l.IP("-n", ns, "addr", "add", addrs[0]+"/24", "dev", "eth0")
		l.IP("-n", ns, "addr", "add", addrs[1]+"/64", "dev", "eth0", "nodad")
		l.IP("-n", ns, "link", "set", "eth0", "up")
	}
	return l
}

func need(t testing.TB, what string, there bool) {
	t.Helper()
	switch {
	case there:
	case os.Getenv("CI") == "true":
		t.Fatalf("this needs %s", what)
	default:
		t.Skipf("SKIPPED: this needs %s", what)
	}
}

// IP runs ip with arguments.
func (l *Lab) IP(args ...string) string {
	l.T.Helper()
	return l.run(exec.Command("ip", args...))
}

// In runs a command in a namespace.
func (l *Lab) In(ns string, command ...string) string {
	l.T.Helper()
	return l.run(exec.Command("ip", append([]string{"netns", "exec", ns}, command...)...))
}

func (l *Lab) run(cmd *exec.Cmd) string {
	l.T.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.T.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// Cut makes the cable lose all packets, in both directions and without a sign of it.
func (l *Lab) Cut() {
	l.T.Helper()
	l.atBothEnds("table netdev cut {\nchain in {\ntype filter hook ingress device \"eth0\" priority -500\npolicy drop\n}\n}")
}

// Mend undoes Cut.
func (l *Lab) Mend() {
	l.T.Helper()
	l.atBothEnds("delete table netdev cut")
}

func (l *Lab) atBothEnds(rules string) {
	l.T.Helper()
	for _, ns := range []string{l.Node, l.Router} {
		l.In(ns, "nft", rules)
	}
}

// Daemon is a process in the router.
type Daemon struct {
	cmd  *exec.Cmd
	out  output
	once sync.Once
}

type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// Start runs a daemon in the router until Kill or the end of the test.
func (l *Lab) Start(name string, args ...string) *Daemon {
	l.T.Helper()
	d := &Daemon{cmd: exec.Command("ip", append([]string{"netns", "exec", l.Router, name}, args...)...)}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.cmd.Stdout, d.cmd.Stderr = io.Writer(&d.out), io.Writer(&d.out)
	if err := d.cmd.Start(); err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() {
		d.Kill()
		if l.T.Failed() {
			l.T.Logf("output of %s:\n%s", name, d.out.text.String())
		}
	})
	return d
}

// Kill ends the daemon without a word to its neighbours.
func (d *Daemon) Kill() { d.signal(syscall.SIGKILL) }

// Terminate ends the daemon as an operator would.
func (d *Daemon) Terminate() { d.signal(syscall.SIGTERM) }

func (d *Daemon) signal(s syscall.Signal) {
	d.once.Do(func() {
		_ = d.cmd.Process.Signal(s)
		_ = d.cmd.Wait()
	})
}

// FRR is a set of FRR's daemons.
type FRR struct {
	l   *Lab
	dir string
}

// StartFRR starts zebra.
func (l *Lab) StartFRR() *FRR {
	l.T.Helper()
	f := &FRR{l: l, dir: shortDir(l.T)}
	account, err := user.Lookup("frr")
	if err != nil {
		l.T.Fatal(err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	if err := os.Chown(f.dir, uid, gid); err != nil { // the daemons give up root
		l.T.Fatal(err)
	}
	f.Daemon("zebra", "hostname r\n")
	return f
}

// Daemon starts one more of FRR's daemons with lines of configuration, or starts it
// again.
func (f *FRR) Daemon(name, config string, args ...string) *Daemon {
	f.l.T.Helper()
	for file, text := range map[string]string{name + ".conf": config, "vtysh.conf": "\n"} {
		if err := os.WriteFile(filepath.Join(f.dir, file), []byte(text), 0o644); err != nil {
			f.l.T.Fatal(err)
		}
	}
	ready := filepath.Join(f.dir, name+".vty")
	if name == "zebra" {
		ready = filepath.Join(f.dir, "zserv.api")
	}
	_ = os.Remove(ready)
	if name == "bfdd" {
		args = append(args, "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
	}
	d := f.l.Start(filepath.Join(frrDir, name), append([]string{
		"-f", filepath.Join(f.dir, name+".conf"), "-i", filepath.Join(f.dir, name+".pid"),
		"--vty_socket", f.dir, "-z", filepath.Join(f.dir, "zserv.api"), "-P", "0", "--log", "stdout",
	}, args...)...)
	f.l.Eventually(10*time.Second, func() string {
		if _, err := os.Stat(ready); err != nil {
			return err.Error()
		}
		return ""
	})
	return d
}

// VTY runs commands in a daemon's shell and returns what it says.
func (f *FRR) VTY(daemon string, commands ...string) string {
	f.l.T.Helper()
	args := []string{"vtysh", "--vty_socket", f.dir, "-d", daemon}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return f.l.In(f.l.Router, args...)
}

// Bird is a BIRD.
type Bird struct {
	l            *Lab
	conf, socket string
	*Daemon
}

// StartBird starts BIRD with lines of configuration.
func (l *Lab) StartBird(config string) *Bird {
	l.T.Helper()
	dir := shortDir(l.T)
	b := &Bird{l: l, conf: filepath.Join(dir, "bird.conf"), socket: filepath.Join(dir, "bird.ctl")}
	if err := os.WriteFile(b.conf, []byte(config), 0o600); err != nil {
		l.T.Fatal(err)
	}
	b.Start()
	return b
}

// Start starts it again.
func (b *Bird) Start() {
	b.l.T.Helper()
	b.Daemon = b.l.Start("/usr/sbin/bird", "-f", "-c", b.conf, "-s", b.socket)
	b.l.Eventually(10*time.Second, func() string {
		if out := b.Show("show status"); !strings.Contains(out, "Daemon is up") {
			return out
		}
		return ""
	})
}

// Show runs a command of birdc and returns what it says, also if that is an error.
func (b *Bird) Show(command string) string {
	args := append([]string{"netns", "exec", b.l.Router, "birdc", "-s", b.socket}, strings.Fields(command)...)
	out, _ := exec.Command("ip", args...).CombinedOutput()
	return string(out)
}

// Eventually waits until check has nothing to say, and fails the test after a time.
func (l *Lab) Eventually(within time.Duration, check func() string) {
	l.T.Helper()
	deadline := time.Now().Add(within)
	for {
		said := check()
		if said == "" {
			return
		}
		if time.Now().After(deadline) {
			l.T.Fatalf("after %s: %s", within, said)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// shortDir makes a directory that others may enter and whose sockets have names short
// enough for the kernel (108 bytes), neither of which t.TempDir promises.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rl") //nolint:usetesting // as said
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
