package box

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Set is the boxes of one lab. It is safe for concurrent use.
type Set struct {
	name    string
	spawner *spawner
	reaper  *reaper

	mu     sync.Mutex // protects what follows; never held while something is awaited
	boxes  map[string]*Box
	adding sync.WaitGroup
	closed bool
}

// Spec describes one box.
type Spec struct {
	// Name is the box's host name and its name in the lab.
	Name string `json:"name"`
	// Private are directories that are empty in the box and its own, whether or not the machine has them. Their content lies in Box.Dir.
	Private []string `json:"private,omitempty"`
	// Files are laid over files of the machine: absolute path to content. A path that the machine does not have is left out.
	Files map[string]string `json:"files,omitempty"`
	// Sysctls are set in the box's own network namespace: "net.ipv4.ip_forward" to "1".
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Covered are sysctls of the whole machine ("vm.overcommit_memory") that the box sees as plain files with these values:
	// what runs in the box may write them, and the machine does not change.
	Covered map[string]string `json:"covered,omitempty"`
	// ShareMounts lets mounts propagate inside the box, as kubelets need it.
	ShareMounts bool `json:"shareMounts,omitempty"`
	// Cgroup gives the box a cgroup of its own: see CgroupPath. Nothing is put into it.
	Cgroup bool `json:"cgroup,omitempty"`
}

// Open starts a lab without boxes: its reaper, which locks the name and removes what crashed labs have left.
// Nothing of it survives Close, or the end of the process.
func Open(name string) (*Set, error) {
	switch {
	case !hooked:
		return nil, errors.New("open boxes: box.Main is not the first call in this program's main function")
	case os.Geteuid() != 0:
		return nil, errors.New("open boxes: must be root")
	case !validName.MatchString(name):
		return nil, fmt.Errorf("open boxes: name %q is not made of lower-case letters, digits and dashes", name)
	}
	r, err := startReaper(name)
	if err != nil {
		return nil, fmt.Errorf("open boxes: %w", err)
	}
	return &Set{name: name, spawner: newSpawner(), reaper: r, boxes: map[string]*Box{}}, nil
}

// ErrExists is returned by Open if a lab of that name is up.
var ErrExists = errors.New("a lab of this name is up")

// Name is the lab's name.
func (s *Set) Name() string { return s.name }

// Dir is the lab's state directory. It is removed with the lab.
func (s *Set) Dir() string { return Dir(s.name) }

// Add starts a box and waits until it is set up.
func (s *Set) Add(ctx context.Context, spec Spec) (*Box, error) {
	if !validName.MatchString(spec.Name) {
		return nil, fmt.Errorf("add box: bad name %q", spec.Name)
	}
	s.mu.Lock()
	if _, ok := s.boxes[spec.Name]; ok || s.closed {
		s.mu.Unlock()
		return nil, fmt.Errorf("add box %s: exists, or the lab is closed", spec.Name)
	}
	b := &Box{lab: s.name, name: spec.Name, ns: map[string]int{}, exited: make(chan struct{})}
	s.boxes[spec.Name] = b
	s.adding.Add(1)
	s.mu.Unlock()
	defer s.adding.Done()

	err := s.start(ctx, b, spec)
	if err != nil {
		s.mu.Lock()
		delete(s.boxes, spec.Name)
		s.mu.Unlock()
		return nil, errors.Join(fmt.Errorf("add box %s: %w", spec.Name, err), b.end())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("add box %s: the lab is closed", spec.Name) // Close ends it
	}
	b.ready = true
	return b, nil
}

func (s *Set) start(ctx context.Context, b *Box, spec Spec) error {
	if spec.Cgroup {
		if err := makeCgroup(s.name, spec.Name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(b.Dir(), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode box: %w", err)
	}
	watched, control, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	b.control = control
	defer watched.Close() //nolint:errcheck // the box has its own copy
	report, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer report.Close() //nolint:errcheck // read to its end below
	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{argBox, s.name, string(text)},
		Env:        append(os.Environ(), "GOMAXPROCS=1", "GOGC=20"),
		Dir:        "/",
		ExtraFiles: []*os.File{watched, out},
		SysProcAttr: &unix.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Pdeathsig:  unix.SIGKILL,
		},
	}
	err = s.spawner.do(cmd.Start)
	_ = out.Close()
	if err != nil {
		return fmt.Errorf("start process: %w", err)
	}
	s.mu.Lock()
	b.cmd = cmd
	if s.closed {
		b.kill()
	}
	s.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		close(b.exited)
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if problem, err := io.ReadAll(report); err != nil || string(problem) != initReady {
		return fmt.Errorf("set it up: %w", errors.Join(ctx.Err(), err, errors.New(string(problem))))
	}
	return b.openNamespaces()
}

// Box finds a box by name; nil if there is none.
func (s *Set) Box(name string) *Box {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[name]; b != nil && b.ready {
		return b
	}
	return nil
}

// Boxes are the boxes that are set up, in the order of their names.
func (s *Set) Boxes() []*Box {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Box
	for _, name := range slices.Sorted(maps.Keys(s.boxes)) {
		if s.boxes[name].ready {
			out = append(out, s.boxes[name])
		}
	}
	return out
}

// Remove ends one box and everything in it.
func (s *Set) Remove(name string) error {
	s.mu.Lock()
	b := s.boxes[name]
	if b != nil && b.ready {
		delete(s.boxes, name)
	}
	s.mu.Unlock()
	if b == nil || !b.ready {
		return nil
	}
	return errors.Join(b.end(), os.RemoveAll(b.Dir()))
}

// Close ends all boxes, waits until the kernel has taken away their processes, and has the reaper remove the rest.
// Further calls do nothing.
func (s *Set) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for _, b := range s.boxes {
		b.kill()
	}
	s.mu.Unlock()
	s.adding.Wait()

	var errs []error
	for _, b := range s.boxes { // nobody adds any more
		errs = append(errs, b.end())
	}
	s.spawner.close()
	return errors.Join(append(errs, s.reaper.finish())...)
}
