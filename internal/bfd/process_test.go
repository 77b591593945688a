package bfd_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/bfd"
	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

// What this program does instead of running tests, by its first argument.
const (
	asChild  = "bfd-process" // what Config.Process is for
	asParent = "speaker"     // run a Runner with a process until killed
	asSpin   = "spin"        // serve, and be busy for ever
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case asSpin:
			go func() {
				for { //nolint:staticcheck // that is the point
				}
			}()
			err = bfd.Serve()
		case asChild:
			err = bfd.Serve()
		case asParent:
			err = parent(os.Args[2])
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// self is the command that runs this program as something else.
func self(as ...string) []string { return append([]string{"/proc/self/exe"}, as...) }

// parent keeps one session in a namespace until it is killed.
func parent(namespace string) error {
	r := bfd.New(bfd.Config{Process: self(asChild), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	ended := make(chan error)
	go func() { ended <- inNamespace(namespace, func() error { return r.Run(background) }) }()
	if err := r.Apply(background, all(profile(50*ms), single4)); err != nil {
		return err
	}
	return <-ended
}

// needFIFO skips a test where real-time priority cannot be had.
func needFIFO(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "chrt", "-f", "1", "true").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no real-time priority here (chrt -f 1 true: %v: %s)", err, out)
	}
}

// children returns the processes that a process has started, by their command line.
func children(t *testing.T, of int, word string) []int {
	t.Helper()
	var found []int
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if fields[1] != strconv.Itoa(of) || fields[0] == "Z" || !strings.Contains(string(line), "\x00"+word) {
			continue
		}
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		found = append(found, id)
	}
	return found
}

// child returns the one process that a process has started.
func child(l *routerlab.Lab, of int, word string) int {
	l.T.Helper()
	id := 0
	l.Eventually(5*time.Second, func() string {
		all := children(l.T.(*testing.T), of, word)
		if len(all) != 1 {
			return fmt.Sprintf("%d has children %v, want one", of, all)
		}
		id = all[0]
		return ""
	})
	return id
}

// policies returns the scheduling policies of the threads of a process, and how many
// have each.
func policies(t *testing.T, process int) map[uint32]int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", process))
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint32]int{}
	for _, task := range tasks {
		id, _ := strconv.Atoi(task.Name())
		if attr, err := unix.SchedGetAttr(id, 0); err == nil {
			found[attr.Policy]++
		}
	}
	return found
}

// metric returns a metric of a Runner that has no labels; -1 if there is none.
func metric(t *testing.T, r *bfd.Runner, name string) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestProcessIsRealTime: all threads of the child have real-time priority, none of ours
// has.
func TestProcessIsRealTime(t *testing.T) {
	needFIFO(t)
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	n := startProcess(l)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 50*ms, 150*ms)
	}
	id := child(l, os.Getpid(), asChild)
	if got := policies(t, id); got[unix.SCHED_FIFO] == 0 || len(got) != 1 {
		t.Errorf("threads of the child by policy: %v, want SCHED_FIFO (%d) alone", got, unix.SCHED_FIFO)
	}
	if got := policies(t, os.Getpid()); got[unix.SCHED_FIFO] != 0 {
		t.Errorf("threads of the parent by policy: %v, want none of SCHED_FIFO", got)
	}
	if got := metric(t, n.Runner, "barelb_speaker_bfd_realtime"); got != 1 {
		t.Errorf("barelb_speaker_bfd_realtime is %v", got)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", id))
	if err != nil || !strings.Contains(string(text), "Max realtime timeout") || strings.Contains(string(text), "Max realtime timeout      unlimited") {
		t.Errorf("limits of the child: %v\n%s", err, text)
	}
	n.stop()
	if left := children(t, os.Getpid(), asChild); len(left) != 0 {
		t.Errorf("children %v are left", left)
	}
}

// TestProcessKilled: the child is killed again and again. It comes back, the sessions
// keep their discriminators and ports, and neither routers nor BGP notice. The intervals
// are those of a parent at normal priority on a busy machine, who has to start it.
func TestProcessKilled(t *testing.T) {
	for name, start := range map[string]func(*routerlab.Lab){
		"FRR":  func(l *routerlab.Lab) { l.StartFRR().Daemon("bfdd", peers(interval(300)...)) },
		"BIRD": func(l *routerlab.Lab) { l.StartBird(birdConfig(300)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := routerlab.New(t)
			start(l)
			n := startProcess(l)
			n.apply(all(birdProfile(300*ms), everyKey...))
			was := map[lb.BFDKey]bfd.SessionStatus{}
			for _, key := range everyKey {
				was[key] = n.settled(key, 300*ms, 900*ms)
			}
			for i := range 5 {
				id, at := child(l, os.Getpid(), asChild), time.Now()
				if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				l.Eventually(5*time.Second, func() string {
					if starts := metric(t, n.Runner, "barelb_speaker_bfd_process_starts_total"); starts != float64(i+2) {
						return fmt.Sprintf("started %v times, want %d", starts, i+2)
					}
					return ""
				})
				for _, key := range everyKey {
					n.settled(key, 300*ms, 900*ms)
				}
				t.Logf("killed, back and settled after %d ms", time.Since(at).Milliseconds())
			}
			for _, key := range everyKey {
				n.quiet(key, 1, 0)
				now, was := n.status(key), was[key]
				if now.Discr != was.Discr || now.RemoteDiscr != was.RemoteDiscr || now.Port != was.Port || !now.Since.Equal(was.Since) {
					t.Errorf("session %s:\n%+v, was\n%+v", key, now, was)
				}
				if now.Counters.ControlOut <= was.Counters.ControlOut {
					t.Errorf("session %s: %d packets sent, before that %d", key, now.Counters.ControlOut, was.Counters.ControlOut)
				}
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			if len(n.changes) != len(everyKey) {
				t.Errorf("BGP was told of %+v", n.changes)
			}
		})
	}
}

// TestProcessKilledAndCut: the router goes while there is no child: that is noticed.
func TestProcessKilledAndCut(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	n := startProcess(l)
	n.apply(all(profile(50*ms), everyKey...))
	for _, key := range everyKey {
		n.settled(key, 50*ms, 150*ms)
	}
	at := time.Now()
	l.Cut()
	if err := syscall.Kill(child(l, os.Getpid(), asChild), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, key := range everyKey {
		c := n.changed(key, at)
		if c.Up || c.Admin {
			t.Errorf("session %s: %+v, want down", key, c)
		}
		t.Logf("noticed after %d ms: %s", c.at.Sub(at).Milliseconds(), key)
	}
	l.Mend()
	for _, key := range everyKey {
		n.settled(key, 50*ms, 150*ms)
	}
}

// TestProcessStopped: one that hangs is replaced.
func TestProcessStopped(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	n := startProcess(l)
	n.apply(all(profile(50*ms), single4))
	n.settled(single4, 50*ms, 150*ms)
	id := child(l, os.Getpid(), asChild)
	if err := syscall.Kill(id, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.Eventually(15*time.Second, func() string {
		if all := children(t, os.Getpid(), asChild); len(all) != 1 || all[0] == id {
			return fmt.Sprintf("children: %v, want another one than %d", all, id)
		}
		return ""
	})
	n.settled(single4, 50*ms, 150*ms)
}

// TestProcessCannotStart: BGP is told, for the path may be well, that BFD is out of order.
func TestProcessCannotStart(t *testing.T) {
	l := routerlab.New(t)
	l.StartFRR().Daemon("bfdd", peers(interval(50)...))
	file := filepath.Join(t.TempDir(), "program")
	program, err := os.Executable()
	if err == nil {
		err = os.Symlink(program, file)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := startNodeWith(l, []string{file, asChild})
	n.apply(all(profile(50*ms), single4))
	n.settled(single4, 50*ms, 150*ms)
	at := time.Now()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child(l, os.Getpid(), asChild), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if c := n.changed(single4, at); c.Up || !c.Admin {
		t.Errorf("%+v, want down, and no reason to act", c)
	}
	if st := n.status(single4); st.State != core.Down || !strings.Contains(st.Problem, "no such file") {
		t.Errorf("%+v", st)
	}
	if err := os.Symlink(program, file); err != nil {
		t.Fatal(err)
	}
	n.settled(single4, 50*ms, 150*ms)
	n.quiet(single4, 2, 1)
}

// startParent starts a process that keeps one session by a child, until that is up. stop
// kills it.
func startParent(l *routerlab.Lab, frr *routerlab.FRR, command ...string) (id int, stop func()) {
	l.T.Helper()
	program, err := os.Executable()
	if err != nil {
		l.T.Fatal(err)
	}
	command = append(command, program, asParent, l.Node)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		l.T.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		l.T.Logf("it said:\n%s", said.String())
	})
	l.T.Cleanup(stop)
	l.Eventually(15*time.Second, func() string {
		if said := frr.VTY("bfdd", "show bfd peers"); strings.Count(said, "Status: up") != 1 {
			return said
		}
		return ""
	})
	return cmd.Process.Pid, stop
}

// TestNotPermitted: without the capability, all works at normal priority.
func TestNotPermitted(t *testing.T) {
	l := routerlab.New(t)
	frr := l.StartFRR()
	frr.Daemon("bfdd", peers(interval(50)...))
	if out, err := exec.CommandContext(t.Context(), "setpriv", "--bounding-set=-sys_nice", "true").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: a process cannot be run without SYS_NICE (setpriv: %v: %s)", err, out)
	}
	id, stop := startParent(l, frr, "setpriv", "--bounding-set=-sys_nice")
	if got := policies(t, child(l, id, asChild)); got[unix.SCHED_NORMAL] == 0 || len(got) != 1 {
		t.Errorf("threads of the child by policy: %v, want SCHED_OTHER alone", got)
	}
	stop()
}

// TestParentKilled: the child goes with it.
func TestParentKilled(t *testing.T) {
	l := routerlab.New(t)
	frr := l.StartFRR()
	frr.Daemon("bfdd", peers(interval(50)...))
	parent, kill := startParent(l, frr)
	id := child(l, parent, asChild)
	kill()
	l.Eventually(5*time.Second, func() string {
		if err := syscall.Kill(id, 0); err == nil {
			return "the child is still there"
		}
		return ""
	})
	l.Eventually(5*time.Second, func() string { // not administratively: it was not told to
		if said := frr.VTY("bfdd", "show bfd peers"); strings.Count(said, "Status: down") != 4 || strings.Contains(said, "Remote diagnostics: administratively down") {
			return said
		}
		return ""
	})
}

// TestBusyProcessYields: a child that never rests does not keep its priority.
func TestBusyProcessYields(t *testing.T) {
	needFIFO(t)
	l := routerlab.New(t)
	n := startNodeWith(l, self(asSpin))
	id := child(l, os.Getpid(), asSpin)
	l.Eventually(10*time.Second, func() string {
		if got := policies(t, id); got[unix.SCHED_FIFO] != 0 {
			return fmt.Sprintf("threads of the child by policy: %v, want none of SCHED_FIFO", got)
		}
		return ""
	})
	l.Eventually(10*time.Second, func() string {
		if metric(t, n.Runner, "barelb_speaker_bfd_realtime") != 0 {
			return "barelb_speaker_bfd_realtime is not 0"
		}
		return ""
	})
}
