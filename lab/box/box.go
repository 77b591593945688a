package box

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Box is one host of a lab. It is safe for concurrent use.
type Box struct {
	lab     string
	name    string
	cmd     *exec.Cmd // pid 1
	control *os.File  // the box ends when this closes
	exited  chan struct{}
	ready   bool           // set up; the set's lock protects it
	ns      map[string]int // namespace kind → descriptor; held until the box ends, so a reused pid cannot mislead
}

// Name is the box's name.
func (b *Box) Name() string { return b.name }

// Pid is the machine's process id of the box's pid 1.
func (b *Box) Pid() int { return b.cmd.Process.Pid }

// Dir is the box's folder on the machine; in the box it is also Inside. Logs and the content of private directories are in it.
func (b *Box) Dir() string { return filepath.Join(Dir(b.lab), "box", b.name) }

// Inside is where each box sees its own Dir.
const Inside = "/run/box"

// Done closes when the box has ended.
func (b *Box) Done() <-chan struct{} { return b.exited }

// NetNS is an open descriptor of the box's network namespace. It belongs to the box: do not close it.
func (b *Box) NetNS() int { return b.ns["net"] }

// InNetns runs fn in the box's network namespace, on a thread of its own. Sockets that fn opens stay in the namespace wherever they are used later.
// fn must not start goroutines that need the namespace.
func (b *Box) InNetns(fn func() error) error {
	return onOwnThread(func() error {
		if err := enter(b.ns, "net"); err != nil {
			return err
		}
		return fn()
	})
}

// Command prepares a command in all of the box's namespaces, with the box's environment being the caller's. When ctx ends the command is killed.
// A signal sent to the returned process does not reach the command: use Start for what must be signalled.
func (b *Box) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := EnterArgs(b.Pid(), append([]string{name}, args...)...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// EnterArgs is the command line that runs argv in all namespaces of the box with this pid, and kills it when the outer command dies.
func EnterArgs(pid int, argv ...string) []string {
	return append([]string{
		"nsenter", "-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "--",
		"setpriv", "--pdeathsig", "KILL", "--",
	}, argv...)
}

// Start runs a program in the box for as long as the box lives, its output appended to Dir/LOG.log.
// It is a direct child of the calling process, in the box's namespaces: its pid, signals and exit status are the program's own.
func (b *Box) Start(log string, argv ...string) (*Process, error) {
	return b.StartWith(Program{Log: log, Args: argv})
}

// Program is what StartWith runs.
type Program struct {
	Log  string   // name of the log, without folder and suffix
	Args []string // the program, by path or found on the caller's PATH, and its arguments
	Env  []string // NAME=value, added to the caller's environment
}

// StartWith is Start with an environment.
func (b *Box) StartWith(prog Program) (*Process, error) {
	if len(prog.Args) == 0 {
		return nil, fmt.Errorf("start %s in %s: no program", prog.Log, b.name)
	}
	path := filepath.Join(b.Dir(), prog.Log+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", prog.Log, b.name, err)
	}
	defer log.Close() //nolint:errcheck // the program has its own copy
	cmd := exec.Command(prog.Args[0], prog.Args[1:]...)
	cmd.Env = append(os.Environ(), "TMPDIR=/run/tmp")
	cmd.Env = append(cmd.Env, prog.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	p := &Process{cmd: cmd, log: path, done: make(chan struct{})}
	if err := onOwnThread(func() error {
		if err := enter(b.ns); err != nil {
			return err
		}
		return cmd.Start()
	}); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", prog.Log, b.name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (b *Box) openNamespaces() error {
	for _, k := range nsKinds {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", b.Pid(), k.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s namespace: %w", k.name, err)
		}
		b.ns[k.name] = fd
	}
	return nil
}

// kill ends the box without waiting.
func (b *Box) kill() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
	}
}

// end kills the box, waits until the kernel has taken all its processes away, and lets go of its namespaces.
func (b *Box) end() error {
	b.kill()
	if b.cmd != nil {
		<-b.exited
	}
	var errs []error
	if b.control != nil {
		errs = append(errs, b.control.Close())
	}
	for kind, fd := range b.ns {
		errs = append(errs, unix.Close(fd))
		delete(b.ns, kind)
	}
	return errors.Join(errs...)
}
