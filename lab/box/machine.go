package box

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What labs leave on the machine while they are up. Everything under these paths belongs to labs, and goes with the last of them.
const (
	runDir   = "/run/barelb-lab"      // locks and saved settings; empty after a reboot
	stateDir = "/var/lib/barelb-lab"  // one folder per lab: logs, keys, the nodes' disks
	prefix   = "barelb-lab-"          // of cgroups
	saved    = runDir + "/saved.json" // machine-wide settings as they were before the first lab
	global   = runDir + "/lock"       // held while labs come, go and look at each other
	suffix   = ".lock"                // NAME.lock is held by the lab's reaper, as long as anything of the lab exists
	inotify  = "/proc/sys/fs/inotify/max_user_instances"
	atLeast  = 8192 // inotify instances: each kubelet, containerd and kube-proxy of a lab needs several
	removing = 30 * time.Second
)

// settings is what Open changed for the whole machine, to be put back by the last reaper.
type settings struct {
	Inotify     string   `json:"inotify,omitempty"`     // the value before, if it was raised
	Controllers []string `json:"controllers,omitempty"` // enabled in the root of cgroup v2
}

// validName is what may be part of a file name, a cgroup and a host name.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Dir is the state directory of the lab called name, whether it is up or not.
func Dir(name string) string { return filepath.Join(stateDir, name) }

// Alive says whether anything of the lab called name exists: its owner, its boxes, or its reaper at work.
func Alive(name string) bool {
	f, err := os.Open(filepath.Join(runDir, name+suffix))
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return flock(f, unix.LOCK_SH|unix.LOCK_NB) != nil
}

// Names lists the labs of which something exists, in order.
func Names() []string {
	var out []string
	files, _ := filepath.Glob(filepath.Join(runDir, "*"+suffix))
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), suffix); Alive(name) {
			out = append(out, name)
		}
	}
	return out
}

// Owner is the process that owns the lab called name; false if it has ended or no such lab is up.
func Owner(name string) (int, bool) {
	text, err := os.ReadFile(filepath.Join(runDir, name+suffix))
	if err != nil || !Alive(name) {
		return 0, false
	}
	var pid int
	var began string
	if _, err := fmt.Sscan(string(text), &pid, &began); err != nil || began != startTime(pid) {
		return 0, false
	}
	return pid, true
}

// startTime is when a process began, in the kernel's ticks: with it a pid names a process for good. Empty if there is none.
func startTime(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is the program's name in parentheses, which may contain anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const began = 22 - 3
	if len(fields) <= began || fields[0] == "Z" {
		return ""
	}
	return fields[began]
}

// Sweep removes what labs have left behind that ended together with their reaper, as at a crash of the machine.
func Sweep() error {
	if _, err := os.Stat(runDir); err != nil {
		if _, err := os.Stat(stateDir); err != nil {
			return nil
		}
	}
	lock, err := lockFile(global, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	return errors.Join(sweep(), leave())
}

// sweep needs the global lock.
func sweep() error {
	names := map[string]bool{}
	add := func(pattern, cutPrefix, cutSuffix string) {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), cutPrefix), cutSuffix)
			names[name] = true
		}
	}
	add(filepath.Join(runDir, "*"+suffix), "", suffix)
	add(filepath.Join(stateDir, "*"), "", "")
	for _, h := range hierarchies() {
		add(filepath.Join(h, prefix+"*"), prefix, "")
	}
	var errs []error
	for name := range names {
		if !validName.MatchString(name) || Alive(name) {
			continue
		}
		errs = append(errs, remove(name))
	}
	return errors.Join(errs...)
}

// remove takes away all that is left of a lab. It needs the global lock, and either the lab's own or certainty that nobody has it.
func remove(name string) error {
	errs := []error{endBoxes(name), removeCgroups(name)}
	errs = append(errs, retry(func() error { return os.RemoveAll(Dir(name)) }))
	if errors.Join(errs...) == nil {
		errs = append(errs, os.RemoveAll(filepath.Join(runDir, name+suffix)))
	}
	return errors.Join(errs...)
}

// leave restores the machine's settings and removes the shared folders if no lab is left. It needs the global lock.
func leave() error {
	if left, _ := filepath.Glob(filepath.Join(runDir, "*"+suffix)); len(left) > 0 {
		return nil
	}
	err := restore()
	_ = os.Remove(stateDir) // stays if something is in it
	if err == nil {
		_ = os.Remove(global)
		_ = os.Remove(runDir)
	}
	return err
}

// prepare raises what labs need more of than a machine has by default. It needs the global lock.
func prepare() error {
	var s settings
	if old, err := os.ReadFile(saved); err == nil {
		if err := json.Unmarshal(old, &s); err != nil {
			return fmt.Errorf("read %s: %w", saved, err)
		}
	}
	value, err := os.ReadFile(inotify)
	if err != nil {
		return fmt.Errorf("read inotify limit: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(value)))
	if err != nil {
		return fmt.Errorf("read inotify limit: %w", err)
	}
	if n < atLeast {
		s.Inotify = strconv.Itoa(n)
	}
	missing := missingControllers()
	s.Controllers = append(s.Controllers, missing...)
	if n >= atLeast && len(missing) == 0 {
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	if err := os.WriteFile(saved, text, 0o600); err != nil {
		return fmt.Errorf("save settings: %w", err)
	}
	if n < atLeast {
		if err := os.WriteFile(inotify, []byte(strconv.Itoa(atLeast)), 0); err != nil {
			return fmt.Errorf("raise inotify limit: %w", err)
		}
	}
	return enableControllers(cgroupRoot, missing)
}

// restore puts back what prepare changed, unless somebody else has changed it since.
func restore() error {
	text, err := os.ReadFile(saved)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	var s settings
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if now, err := os.ReadFile(inotify); s.Inotify != "" && err == nil && strings.TrimSpace(string(now)) == strconv.Itoa(atLeast) {
		if err := os.WriteFile(inotify, []byte(s.Inotify), 0); err != nil {
			return fmt.Errorf("restore inotify limit: %w", err)
		}
	}
	disableControllers(s.Controllers)
	if err := os.Remove(saved); err != nil {
		return fmt.Errorf("remove saved settings: %w", err)
	}
	return nil
}

// endBoxes kills what is left of a lab's boxes and waits until the kernel has taken all their processes away.
func endBoxes(name string) error {
	return retry(func() error {
		pids := boxPids(name)
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Errorf("end boxes of lab %s: still there: %v", name, pids)
		}
		return nil
	})
}

// boxPids finds the first process of every box of a lab by its command line.
func boxPids(name string) []int {
	var out []int
	want := []byte(argBox + "\x00" + name + "\x00")
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")); err == nil && bytes.HasPrefix(line, want) {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// retry calls fn until it succeeds or the time for removing is over: what the kernel takes down asynchronously is busy for a moment.
func retry(fn func() error) error {
	deadline := time.Now().Add(removing)
	for {
		err := fn()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lockFile opens and locks path, which a reaper may remove at any time: the lock counts only if the name still leads to it.
func lockFile(path string, how int) (*os.File, error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("make %s: %w", filepath.Dir(path), err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // the folder was removed in between
		}
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
		if err := flock(f, how); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		mine, err1 := f.Stat()
		now, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, now) {
			return f, nil
		}
		_ = f.Close()
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
