package bfd_test

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	core "github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/routerlab"
)

// busyTime is how long TestBusy keeps all cores busy.
const busyTime = 60 * time.Second

// TestBusy keeps all cores busy with other processes, twice as many as there are cores,
// and prints how often sessions went down and how late packets were sent: at 300 ms x 3
// and 50 ms x 3, with FRR and BIRD. At 300 ms x 3, the default, none may go down.
func TestBusy(t *testing.T) {
	if testing.Short() || os.Getenv("BARELB_BUSY") == "" {
		t.Skip("SKIPPED: it keeps all cores busy for a minute; set BARELB_BUSY=1")
	}
	type router struct {
		name string
		n    *node
		key  lb.BFDKey
		d    time.Duration
	}
	var routers []router
	for _, every := range []int{300, 50} {
		d := time.Duration(every) * ms
		lf := routerlab.New(t)
		lf.StartFRR().Daemon("bfdd", peers(interval(every)...))
		lbird := routerlab.New(t)
		lbird.StartBird(birdConfig(every))
		for name, l := range map[string]*routerlab.Lab{"FRR": lf, "BIRD": lbird} {
			n := startNode(l)
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
	<-time.After(busyTime)
	for _, r := range routers {
		st := r.n.status(r.key)
		t.Logf("%-4s %-35s %4d ms x 3: down %d times (last: %s), worst lateness %d ms", r.name, r.key,
			r.d.Milliseconds(), st.Counters.Downs, st.LastDiag, st.Counters.Late.Milliseconds())
		if r.d == 300*ms && (st.Counters.Downs != 0 || st.State != core.Up) {
			t.Errorf("session %s with %s went down at the default intervals", r.key, r.name)
		}
	}
}
