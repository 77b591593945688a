package bfd_test

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

// TestBusy keeps all cores busy with other processes, twice as many as there are cores,
// and prints how often sessions went down and how late packets were sent: at 300 ms x 3
// and 50 ms x 3, with FRR and BIRD, with sessions kept by this process and by one of
// real-time priority. At 300 ms x 3, the default, none may go down, with real-time
// priority at 50 ms x 3 neither.
//
// A router has a processor of its own. So that it is we who are measured, the daemons have
// real-time priority too, unless BARELB_BUSY_ROUTERS is "normal": then they are silent for
// longer than they may, and sessions go down for that.
func TestBusy(t *testing.T) {
	busy, err := time.ParseDuration(os.Getenv("BARELB_BUSY"))
	if testing.Short() || err != nil {
		t.Skip("SKIPPED: it keeps all cores busy twice; say for how long, as in BARELB_BUSY=1m")
	}
	for _, mode := range []struct {
		name    string
		process []string
	}{{"in the speaker", nil}, {"realtime", self(asChild)}} {
		t.Run(mode.name, func(t *testing.T) {
			if mode.process != nil {
				needFIFO(t)
			}
			testBusy(t, mode.process, busy)
		})
	}
}

func testBusy(t *testing.T, process []string, busy time.Duration) {
	t.Helper()
	type router struct {
		name string
		n    *node
		key  lb.BFDKey
		d    time.Duration
	}
	var routers []router
	for _, every := range []int{300, 50} {
		d := time.Duration(every) * ms
		lf, lbird := routerlab.New(t), routerlab.New(t)
		asRouter(t, func() {
			lf.StartFRR().Daemon("bfdd", peers(interval(every)...))
			lbird.StartBird(birdConfig(every))
		})
		for name, l := range map[string]*routerlab.Lab{"FRR": lf, "BIRD": lbird} {
			n := startNodeWith(l, process)
			n.apply(all(birdProfile(d), everyKey...))
			for _, key := range everyKey {
				n.settled(key, d, 3*d)
				routers = append(routers, router{name, n, key, d})
			}
		}
	}
	for range 2 * runtime.NumCPU() {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		hog.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = hog.Process.Kill()
			_ = hog.Wait()
		}()
	}
	<-time.After(busy)
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("load average %s", load)
	for _, r := range routers {
		st := r.n.status(r.key)
		t.Logf("%-4s %-35s %4d ms x 3: down %d times, of these %d because the router was silent; worst lateness %d ms", r.name, r.key,
			r.d.Milliseconds(), st.Counters.Downs, r.n.silences(r.key), st.Counters.Late.Milliseconds())
		if (r.d == 300*ms || process != nil) && realTimeRouters() && (st.Counters.Downs != 0 || st.State != core.Up) {
			t.Errorf("session %s with %s went down at %s x 3", r.key, r.name, r.d)
		}
	}
	if starts := metric(t, routers[0].n.Runner, "barelb_speaker_bfd_process_starts_total"); starts > 1 {
		t.Errorf("the process was started %v times", starts)
	}
}

// silences returns how often a session went down because nothing of the router was heard.
func (n *node) silences(key lb.BFDKey) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, c := range n.changes {
		if c.Key == key && c.Diag == core.DetectionTimeExpired.String() {
			count++
		}
	}
	return count
}

func realTimeRouters() bool { return os.Getenv("BARELB_BUSY_ROUTERS") != "normal" }

// asRouter calls fn, which starts daemons, so that they have real-time priority.
func asRouter(t *testing.T, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(a unix.SchedAttr) {
		a.Size = unix.SizeofSchedAttr
		if err := unix.SchedSetAttr(0, &a, 0); err != nil {
			t.Logf("routers have normal priority: %v", err)
		}
	}
	if realTimeRouters() {
		set(unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1})
		defer set(unix.SchedAttr{Policy: unix.SCHED_NORMAL})
	}
	fn()
}
