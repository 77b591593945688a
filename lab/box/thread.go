package box

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// onOwnThread runs fn on an operating system thread that ends with it, so that fn may change the thread's namespaces.
// It never uses the main thread, whose namespaces are the ones that /proc shows for the whole process.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and no unlock: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			done <- onOwnThread(fn) // this goroutine keeps the main thread occupied meanwhile
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// spawner runs functions one after another on a single thread that lives until close. Children that ask for a
// parent-death signal get it when the *thread* that made them ends, so boxes are started from here.
type spawner struct {
	work chan func()
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func())}
	ready := make(chan struct{})
	go func() {
		_ = onOwnThread(func() error {
			close(ready)
			for fn := range s.work {
				fn()
			}
			return nil
		})
	}()
	<-ready
	return s
}

// do runs fn on the spawner's thread and returns its error.
func (s *spawner) do(fn func() error) error {
	done := make(chan error, 1)
	s.work <- func() { done <- fn() }
	return <-done
}

func (s *spawner) close() { close(s.work) }

// nsKinds are the namespaces a box has, in the order in which a thread enters them.
var nsKinds = []struct { //nolint:gochecknoglobals // a table
	name string
	flag int
}{
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
	{"net", unix.CLONE_NEWNET},
	{"pid", unix.CLONE_NEWPID},
	{"mnt", unix.CLONE_NEWNS},
}

// enter moves the calling thread into namespaces. It needs a thread of its own (onOwnThread).
func enter(fds map[string]int, only ...string) error {
	if len(only) == 0 {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare working directory: %w", err)
		}
	}
	for _, k := range nsKinds {
		if len(only) > 0 && only[0] != k.name {
			continue
		}
		if err := unix.Setns(fds[k.name], k.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", k.name, err)
		}
	}
	return nil
}
