package bfd

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// priority among processes of real-time priority is low: the kernel's own threads
	// and what else a node may have of them come first. All others come after us.
	priority = 2
	// mostBusy is how long a thread may run without waiting for anything. A process that
	// needs longer is in trouble, or flooded, and must not keep others from the cores:
	// for a rest it has normal priority.
	mostBusy = 100 * time.Millisecond
	rest     = time.Second
	// tooBusy is after how long the kernel ends it.
	tooBusy = 2 * time.Second
	// cores is how many it uses at most: one for the sessions, one for all else.
	cores = 2
)

// errNotPermitted says what to do.
var errNotPermitted = errors.New("it takes the capability SYS_NICE (speaker.realtime of the chart adds it), and a kernel that does not divide real-time among control groups (RT_GROUP_SCHED) or gives this one some")

// withRealTime calls fn with real-time priority, which a process that fn starts keeps, for
// all its threads: the kernel hands it on to each from the one that makes it. If that is
// not permitted, fn is called all the same, and the first error says so. The second one is
// that of fn.
//
// It is the parent that does it, because a Go process has threads before it has a say.
func withRealTime(fn func() error) (denied, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return os.NewSyscallError("sched_getattr", err), fn()
	}
	if err := setPolicy(0, realTime()); err != nil {
		return fmt.Errorf("%w: %w", err, errNotPermitted), fn()
	}
	err = fn()
	if undone := setPolicy(0, before); undone != nil {
		err = errors.Join(err, fmt.Errorf("take back real-time priority: %w", undone))
	}
	return nil, err
}

func realTime() *unix.SchedAttr {
	return &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority}
}

func setPolicy(thread int, attr *unix.SchedAttr) error {
	return os.NewSyscallError("sched_setattr", unix.SchedSetAttr(thread, attr, 0))
}

// threads returns this process' threads.
func threads() ([]int, error) {
	dir, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, fmt.Errorf("list the threads: %w", err)
	}
	all := make([]int, 0, len(dir))
	for _, d := range dir {
		if id, err := strconv.Atoi(d.Name()); err == nil {
			all = append(all, id)
		}
	}
	return all, nil
}

// allRealTime reports whether all threads of this process have real-time priority.
func allRealTime() bool {
	all, err := threads()
	for _, id := range all {
		attr, e := unix.SchedGetAttr(id, 0)
		switch {
		case errors.Is(e, unix.ESRCH): // it is gone
		case e != nil || attr.Policy != unix.SCHED_FIFO:
			return false
		}
	}
	return err == nil
}

// setAll gives all threads of this process a policy, also those that are made meanwhile:
// they have that of the one that made them.
func setAll(attr *unix.SchedAttr) error {
	done := map[int]bool{}
	for {
		all, err := threads()
		if err != nil {
			return err
		}
		before := len(done)
		for _, id := range all {
			if done[id] {
				continue
			}
			if err := setPolicy(id, attr); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			done[id] = true
		}
		if len(done) == before {
			return nil
		}
	}
}

// limit has the kernel send SIGXCPU to a process of real-time priority that is busy for
// too long, and end one that goes on.
func limit() error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_RTTIME, &now); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	now.Max = min(now.Max, uint64(tooBusy.Microseconds()))
	now.Cur = min(now.Max, uint64(mostBusy.Microseconds()))
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_RTTIME, &now))
}

// guard takes the priority away from this process when it is busy for too long, gives it
// back after a rest, and tells which one is in force. It returns when stop is closed.
func guard(tell func(realTime bool), stop <-chan struct{}) error {
	if !allRealTime() {
		tell(false)
		return nil
	}
	busy := make(chan os.Signal, 1)
	signal.Notify(busy, unix.SIGXCPU)
	defer signal.Stop(busy)
	if err := limit(); err != nil {
		return fmt.Errorf("limit real-time: %w", err)
	}
	tell(true)
	for {
		select {
		case <-stop:
			return nil
		case <-busy:
		}
		if err := setAll(&unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}); err != nil {
			return fmt.Errorf("yield: %w", err)
		}
		tell(false)
		select {
		case <-stop:
			return nil
		case <-time.After(rest):
		}
		// The kernel has raised the limit when it sent the signal.
		if err := errors.Join(limit(), setAll(realTime())); err != nil {
			return fmt.Errorf("take real-time priority again: %w", err)
		}
		tell(true)
	}
}
