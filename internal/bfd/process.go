package bfd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/bfd"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// A process that has ended is started again at once; if that does not last, after
	// more and more time.
	leastDelay = 10 * time.Millisecond
	mostDelay  = time.Second
	lasting    = 10 * time.Second
	// beat is how often the process is asked how it is. One that says nothing for so many
	// times is ended.
	beat       = time.Second
	mostSilent = 5
	// farewell is how long a process may take to end when told to.
	farewell = 2 * time.Second
	// sendWithin is how long a process may take to read.
	sendWithin = time.Second
)

var (
	errEnded  = errors.New("it ended by itself")
	errSilent = errors.New("it does not answer")
	errSlow   = errors.New("it does not end when told to")
)

// processState is what others may know of the process.
type processState struct {
	realTime atomic.Bool
	starts   atomic.Uint64
}

// keeper is a Runner whose sessions are kept by a process. It belongs to the goroutine of
// Run.
type keeper struct {
	*Runner
	woken chan struct{}
	want  lb.BFD
	last  []SessionStatus    // what was heard last
	up    map[lb.BFDKey]bool // the sessions of which OnChange was told that they are up
	died  time.Time          // when the last process ended
	why   error              // and why

	asked   uint64 // the last number
	waiting []question
	silent  int   // how often it has been asked since it said anything
	denied  error // what kept real-time priority from being had last
}

// question is somebody who waits for an answer.
type question struct {
	number uint64
	reply  chan<- []SessionStatus
}

// runProcess is Run with a process.
func (r *Runner) runProcess(ctx context.Context) error {
	k := &keeper{Runner: r, woken: make(chan struct{}, 1), up: map[lb.BFDKey]bool{}}
	if !r.begin(k.wakeUp) {
		return ErrStopped
	}
	defer r.stop()
	// The kernel ends the process when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for delay := time.Duration(0); ; {
		began := time.Now()
		k.settle(began)
		err := k.run(ctx)
		if ctx.Err() != nil {
			if err != nil { // routers find out by themselves
				r.cfg.Log.Warn("bfd process did not end as told", "err", err)
			}
			return nil
		}
		if err == nil {
			err = errEnded
		}
		if delay < mostDelay || k.why == nil || k.why.Error() != err.Error() { // else that has been said
			r.cfg.Log.Error("bfd process ended", "err", err, "after", time.Since(began).Round(time.Millisecond))
		}
		k.died, k.why = time.Now(), err
		if k.died.Sub(began) > lasting {
			delay = 0
		}
		if !k.idle(ctx, delay) {
			return nil
		}
		delay = min(max(2*delay, leastDelay), mostDelay)
	}
}

func (k *keeper) wakeUp() {
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

// settle decides, before a process is started, which sessions go on: those that are up,
// wanted, and that the router cannot have given up yet. The others begin anew, which whoever
// depends on them has no reason to act upon: nothing is known against the path.
func (k *keeper) settle(now time.Time) {
	goesOn := map[lb.BFDKey]bool{}
	for i := range k.last {
		st := &k.last[i]
		if st.State != bfd.Up || !k.up[st.Key] {
			st.State = bfd.Down
			continue
		}
		p, wanted := k.want[st.Key]
		if wanted && now.Sub(k.died) < time.Duration(p.Multiplier)*st.Transmit {
			goesOn[st.Key] = true
			continue
		}
		st.State, st.Diag, st.Since = bfd.Down, bfd.AdministrativelyDown, now
		st.LastDown, st.LastDiag = now, bfd.AdministrativelyDown
		st.Counters.Downs++
		st.Counters.Told++
	}
	for key := range k.up {
		if !goesOn[key] {
			delete(k.up, key)
			k.cfg.OnChange(lb.BFDChange{Key: key, Admin: true, Diag: bfd.AdministrativelyDown.String()})
			k.notify()
		}
	}
}

// idle waits without a process, and reports whether to start one.
func (k *keeper) idle(ctx context.Context, d time.Duration) bool {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over.C:
			return true
		case <-k.woken:
			k.take()
			k.answer(k.asked)
		}
	}
}

// take takes what has been asked for, and reports whether there is a new desired state.
func (k *keeper) take() bool {
	want, asked := k.Runner.take()
	if want != nil {
		k.want = want
	}
	if len(asked) > 0 {
		k.asked++
	}
	for _, reply := range asked {
		k.waiting = append(k.waiting, question{k.asked, reply})
	}
	return want != nil
}

// answer answers the questions up to a number.
func (k *keeper) answer(number uint64) {
	rest := k.waiting[:0]
	for _, q := range k.waiting {
		if q.number > number {
			rest = append(rest, q)
			continue
		}
		q.reply <- k.snapshot()
	}
	k.waiting = rest
}

// snapshot is what is known of the sessions.
func (k *keeper) snapshot() []SessionStatus {
	all := append([]SessionStatus{}, k.last...)
	if k.why != nil {
		for i := range all {
			all[i].Problem = fmt.Sprintf("the bfd process has ended (%v) and is being started again", k.why)
		}
	}
	return all
}

// hear takes in what the process says.
func (k *keeper) hear(rep report) {
	k.silent = 0
	if rep.RealTime != nil {
		k.prioritized(rep)
	}
	if c := rep.Change; c != nil {
		if c.Up {
			k.up[c.Key] = true
		} else {
			delete(k.up, c.Key)
		}
		k.cfg.OnChange(*c)
	}
	if l := rep.Line; l != nil {
		attrs := make([]slog.Attr, len(l.Attrs))
		for i, a := range l.Attrs {
			attrs[i] = slog.Any(a.Key, a.Value)
		}
		k.cfg.Log.LogAttrs(context.Background(), l.Level, l.Message, attrs...) //nolint:sloglint // the message is a constant, elsewhere
	}
	if s := rep.Snapshot; s != nil {
		k.last, k.why = s.Sessions, nil
		if s.Changed {
			k.notify()
		}
		k.answer(s.Answers)
	}
}

// prioritized takes in whether the process has real-time priority.
func (k *keeper) prioritized(rep report) {
	if was := k.process.realTime.Swap(*rep.RealTime); was == *rep.RealTime {
		return
	}
	if *rep.RealTime {
		k.cfg.Log.Info("bfd has real-time priority")
	} else {
		k.cfg.Log.Warn("bfd has normal priority for a moment: it was busy for too long", "rest", rest)
	}
}

// run starts a process and looks after it until it has ended.
func (k *keeper) run(ctx context.Context) error {
	p, denied, err := start(k.cfg.Process)
	if err != nil {
		return err
	}
	k.process.starts.Add(1)
	if denied != nil && (k.denied == nil || k.denied.Error() != denied.Error()) {
		k.cfg.Log.Warn("bfd has normal priority: real-time priority is not permitted", "err", denied)
	}
	k.denied, k.silent = denied, 0
	defer func() {
		k.process.realTime.Store(false)
		k.answer(k.asked) // with what is known
	}()
	k.take()
	p.send(order{Resume: k.last, Want: listed(k.want), Ask: k.asked})
	ticks := time.NewTicker(beat)
	defer ticks.Stop()
	stop, late := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-stop:
			stop, late = nil, time.After(farewell)
			p.send(order{Stop: true})
		case <-late:
			p.kill(errSlow)
		case <-k.woken:
			o := order{}
			if k.take() {
				o.Want = listed(k.want)
			}
			o.Ask = k.asked
			p.send(o)
		case <-ticks.C:
			if k.silent++; k.silent > mostSilent {
				p.kill(errSilent)
			}
			k.asked++
			p.send(order{Ask: k.asked}) // its counters shall be known when it ends
		case rep, more := <-p.reports:
			if !more {
				return p.wait()
			}
			k.hear(rep)
		}
	}
}

// process is a process that keeps sessions.
type process struct {
	cmd     *exec.Cmd
	conn    *os.File
	reports chan report // closed when no more come
	why     error       // the first reason to end it
	read    error       // why no more reports come; valid once reports is closed
}

// start starts a process with real-time priority. denied says why that could not be had.
func start(command []string) (p *process, denied, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "child")
	defer func() { _ = theirs.Close() }()
	if err := unix.SetNonblock(ends[0], true); err != nil {
		_ = unix.Close(ends[0])
		return nil, nil, fmt.Errorf("use the connection to the bfd process: %w", err)
	}
	p = &process{conn: os.NewFile(uintptr(ends[0]), "child"), reports: make(chan report)}
	p.cmd = &exec.Cmd{
		Path: command[0], Args: command, ExtraFiles: []*os.File{theirs}, Stderr: os.Stderr,
		// It shall not outlive us, and signals of a terminal are for us alone.
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	}
	denied, err = withRealTime(p.cmd.Start)
	if err != nil {
		if p.cmd.Process != nil {
			p.kill(err)
			err = p.wait()
		}
		_ = p.conn.Close()
		return nil, nil, fmt.Errorf("start the bfd process: %w", err)
	}
	go p.receive()
	return p, denied, nil
}

func (p *process) receive() {
	defer close(p.reports)
	for {
		var rep report
		if p.read = readFrame(p.conn, &rep); p.read != nil {
			return
		}
		p.reports <- rep
	}
}

func (p *process) send(o order) {
	err := p.conn.SetWriteDeadline(time.Now().Add(sendWithin))
	if err == nil {
		err = writeFrame(p.conn, o)
	}
	if err != nil && !errors.Is(err, unix.EPIPE) { // it has ended: wait says why
		p.kill(fmt.Errorf("tell it what to do: %w", err))
	}
}

// kill ends the process; wait says why.
func (p *process) kill(why error) {
	if p.why == nil {
		p.why = why
	}
	_ = p.cmd.Process.Kill()
}

// wait waits for the end of a process from which no more reports come, and says why it
// ended; nil if it did as it was told.
func (p *process) wait() error {
	if errors.Is(p.read, errFrame) {
		p.kill(p.read)
	}
	defer func() { _ = p.conn.Close() }()
	// One that has closed the connection has ended, or has nothing to do any more.
	late := time.AfterFunc(farewell, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	err := p.cmd.Wait()
	if p.why != nil && err != nil {
		return fmt.Errorf("%w: %w", p.why, err)
	}
	return cmp.Or(p.why, err)
}
