package bgp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	frrDir = "/usr/lib/frr"
	// secret is a password that must be found nowhere.
	secret = "k3ep-me-out-of-logs"

	node4, node6     = "10.9.0.1", "fd09::1"
	router4, router6 = "10.9.0.2", "fd09::2"
)

var labs atomic.Int32

// lab is a node and a router joined by a cable.
type lab struct {
	t            testing.TB
	node, router string // namespaces
	bird         *os.Process
}

// newLab makes the namespaces, or skips where that cannot be.
func newLab(t testing.TB) *lab {
	t.Helper()
	need(t, "root", os.Geteuid() == 0)
	for _, file := range []string{frrDir + "/bgpd", frrDir + "/zebra", "/usr/bin/vtysh", "/usr/sbin/bird", "/usr/sbin/birdc"} {
		_, err := os.Stat(file)
		need(t, file, err == nil)
	}
	id := fmt.Sprintf("bgp%d-%d", os.Getpid(), labs.Add(1))
	l := &lab{t: t, node: id + "n", router: id + "r"}
	for _, ns := range []string{l.node, l.router} {
		l.ip("netns", "add", ns)
		t.Cleanup(func() { l.ip("netns", "del", ns) })
		l.ip("-n", ns, "link", "set", "lo", "up")
		// Link-local addresses are there at once: FRR does not do without.
		l.ip("netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
	}
	l.ip("-n", l.node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", l.router)
	for ns, addrs := range map[string][]string{l.node: {node4, node6}, l.router: {router4, router6}} {
		l.ip("-n", ns, "addr", "add", addrs[0]+"/24", "dev", "eth0")
		l.ip("-n", ns, "addr", "add", addrs[1]+"/64", "dev", "eth0", "nodad")
		l.ip("-n", ns, "link", "set", "eth0", "up")
	}
	return l
}

// need skips the test where the machine lacks something; CI must not lack it.
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

func (l *lab) ip(args ...string) string {
	l.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// fib waits until the router's kernel has (or has not) a route to each prefix.
func (l *lab) fib(within time.Duration, want bool, prefixes ...string) {
	l.t.Helper()
	eventually(l.t, within, func() string {
		table := l.ip("-n", l.router, "-4", "route", "show") + l.ip("-n", l.router, "-6", "route", "show")
		for _, pfx := range prefixes {
			host := strings.TrimSuffix(strings.TrimSuffix(pfx, "/32"), "/128")
			if strings.Contains("\n"+table, "\n"+host+" ") != want {
				return fmt.Sprintf("route to %s in the router: want %t; it has\n%s", pfx, want, table)
			}
		}
		return ""
	})
}

// start runs a daemon in the router's namespace until stop or the test's end.
func (l *lab) start(name string, args ...string) (stop func()) {
	l.t.Helper()
	return l.startIn(l.router, name, args...)
}

func (l *lab) startIn(ns, name string, args ...string) (stop func()) {
	l.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	if strings.HasSuffix(name, "bird") {
		l.bird = cmd.Process // ip(8) becomes it
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if l.t.Failed() {
				l.t.Logf("output of %s:\n%s", name, out.String())
			}
		}
	}
	l.t.Cleanup(stop)
	return stop
}

// frr is an FRR router: zebra, and a bgpd on a port.
type frr struct {
	l    *lab
	dir  string
	port string
	stop func() // of bgpd
}

// startFRR starts FRR with the lines of config.
func (l *lab) startFRR(config string) *frr { return l.startFRROn("179", config) }

func (l *lab) startFRROn(port, config string) *frr {
	l.t.Helper()
	f := &frr{l: l, dir: shortDir(l.t), port: port}
	user, err := user.Lookup("frr")
	if err != nil {
		l.t.Fatal(err)
	}
	for file, text := range map[string]string{"zebra.conf": "hostname r\n", "bgpd.conf": config, "bfdd.conf": "hostname r\n", "vtysh.conf": "\n"} {
		if err := os.WriteFile(filepath.Join(f.dir, file), []byte(text), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	// FRR's daemons give up root.
	if err := os.Chown(f.dir, id(l.t, user.Uid), id(l.t, user.Gid)); err != nil {
		l.t.Fatal(err)
	}
	l.start(frrDir+"/zebra", f.args("zebra")...)
	f.waitFor("zserv.api")
	if strings.Contains(config, " bfd") {
		l.start(frrDir+"/bfdd", append(f.args("bfdd"), "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))...)
		f.waitFor("bfdd.vty")
	}
	f.startBGP()
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("%s", f.vtysh("show bgp all"))
			l.t.Logf("%s", f.vtysh("show bgp nexthop"))
		}
	})
	return f
}

// shortDir makes a directory that others may enter and whose sockets have names
// short enough for the kernel (108 bytes), neither of which t.TempDir promises.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bgp") //nolint:usetesting // as said
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func id(t testing.TB, number string) int {
	t.Helper()
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (f *frr) args(daemon string) []string {
	return []string{
		"-f", filepath.Join(f.dir, daemon+".conf"), "-i", filepath.Join(f.dir, daemon+".pid"),
		"--vty_socket", f.dir, "-z", filepath.Join(f.dir, "zserv.api"), "-P", "0", "--log", "stdout",
	}
}

// startBGP starts bgpd; stop ends it without a word to its neighbors.
func (f *frr) startBGP() {
	f.l.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, "bgpd.vty")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.l.t.Fatal(err)
	}
	f.stop = f.l.start(frrDir+"/bgpd", append(f.args("bgpd"), "-p", f.port)...)
	f.waitFor("bgpd.vty")
}

// pause stops the latest BIRD from running, or lets it.
func (l *lab) pause(stopped bool) {
	l.t.Helper()
	pid, signal := l.bird.Pid, syscall.SIGCONT
	if stopped {
		signal = syscall.SIGSTOP
		l.t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	}
	if err := syscall.Kill(pid, signal); err != nil {
		l.t.Fatal(err)
	}
}

func (f *frr) waitFor(file string) {
	f.l.t.Helper()
	eventually(f.l.t, 10*time.Second, func() string {
		if _, err := os.Stat(filepath.Join(f.dir, file)); err != nil {
			return err.Error()
		}
		return ""
	})
}

// show runs a command of vtysh and decodes its JSON.
func (f *frr) show(command string, into any) {
	f.l.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", f.l.router, "vtysh", "--vty_socket", f.dir, "-d", "bgpd", "-c", "show "+command+" json")
	out, err := cmd.CombinedOutput()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		f.l.t.Fatalf("vtysh show %s: %v: %s", command, err, out)
	}
}

// frrPath is what FRR knows of a path.
type frrPath struct {
	LocPrf    int
	Med       int `json:"metric"`
	Origin    string
	Aspath    struct{ String string }
	Community struct{ String string }
	Large     struct{ String string } `json:"largeCommunity"`
	Ext       struct{ String string } `json:"extendedCommunity"`
	Nexthops  []struct{ IP, Afi string }
}

// path returns the one path that FRR has for a prefix, zero if none.
func (f *frr) path(pfx string) frrPath {
	f.l.t.Helper()
	family := "ipv4"
	if strings.Contains(pfx, ":") {
		family = "ipv6"
	}
	var reply struct{ Paths []frrPath }
	f.show("bgp "+family+" unicast "+pfx, &reply)
	if len(reply.Paths) != 1 {
		return frrPath{}
	}
	return reply.Paths[0]
}

// neighbor is what FRR knows of a neighbor.
type neighbor struct {
	BgpState               string
	ConnectionsEstablished int
	MessageStats           struct{ UpdatesRecv, KeepalivesRecv int }
	RemoteRouterID         string `json:"remoteRouterId"`

	RemoteAS                  uint32 `json:"remoteAs"`
	BgpTimerHoldTimeMsecs     int
	ExternalBgpNbrMaxHopsAway int
	AuthenticationEnabled     int
	GracefulRestartInfo       struct{ RemoteGrMode string }
	LastNotificationReason    string
	LastShutdownDescription   string
}

func (f *frr) neighbor(addr string) neighbor {
	f.l.t.Helper()
	var reply map[string]neighbor
	f.show("bgp neighbors "+addr, &reply)
	return reply[addr]
}

// startBird starts BIRD with the lines of config.
func (l *lab) startBird(config string) (show func(command string) string) {
	l.t.Helper()
	return l.startBirdIn(l.router, config)
}

func (l *lab) startBirdIn(ns, config string) (show func(command string) string) {
	l.t.Helper()
	dir := shortDir(l.t)
	conf, socket := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	if err := os.WriteFile(conf, []byte(config), 0o644); err != nil {
		l.t.Fatal(err)
	}
	l.startIn(ns, "/usr/sbin/bird", "-f", "-c", conf, "-s", socket)
	show = func(command string) string {
		return said(ns, append([]string{"birdc", "-s", socket}, strings.Fields(command)...)...)
	}
	eventually(l.t, 10*time.Second, func() string {
		if out := show("show status"); !strings.Contains(out, "Daemon is up") {
			return out
		}
		return ""
	})
	return show
}

// said is what a command in a namespace says, also if that is an error.
func said(ns string, command ...string) string {
	out, _ := exec.Command("ip", append([]string{"netns", "exec", ns}, command...)...).CombinedOutput()
	return string(out)
}

// vtysh runs a command of vtysh.
//
// Lines of command follow each other, as in configuration.
func (f *frr) vtysh(command string) string {
	f.l.t.Helper()
	args := []string{"netns", "exec", f.l.router, "vtysh", "--vty_socket", f.dir, "-d", "bgpd"}
	for line := range strings.Lines(command) {
		args = append(args, "-c", strings.TrimSpace(line))
	}
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		f.l.t.Fatalf("vtysh %s: %v: %s", command, err, out)
	}
	return string(out)
}
