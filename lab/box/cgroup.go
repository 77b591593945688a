package box

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// CgroupV2 says whether the machine has the unified hierarchy alone. Where it has version 1, or both side by side, container
// runtimes use version 1, and so does the lab.
//
// Version 1 is what this code is exercised on; the paths for version 2 follow the kernel's documentation.
func CgroupV2() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchies are the mount points of all cgroup trees: one in version 2, one per controller in version 1.
func hierarchies() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // nothing was written
	var out []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 5 || !strings.HasPrefix(fields[4], cgroupRoot) {
			continue
		}
		if kind, _, _ := strings.Cut(right, " "); kind == "cgroup" || kind == "cgroup2" {
			out = append(out, fields[4])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CgroupPath is the path, from the root of every hierarchy, of a box's cgroup.
func CgroupPath(lab, box string) string { return "/" + prefix + lab + "/" + box }

// makeCgroup makes the cgroup of one box in every hierarchy, usable by a kubelet as its root.
func makeCgroup(lab, box string) error {
	for _, h := range hierarchies() {
		outer := filepath.Join(h, prefix+lab)
		for _, dir := range []string{outer, filepath.Join(outer, box)} {
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if err := inheritCpuset(dir); err != nil {
				return err
			}
		}
		if CgroupV2() {
			if err := enableControllers(outer, words(filepath.Join(outer, "cgroup.controllers"))); err != nil {
				return err
			}
		}
	}
	return nil
}

// inheritCpuset fills in what version 1 leaves empty in a new cgroup, so that no process can enter it.
func inheritCpuset(dir string) error {
	if CgroupV2() {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, os.ErrNotExist) {
			return nil // another controller's hierarchy
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), value, 0)
		}
		if err != nil {
			return fmt.Errorf("inherit %s: %w", name, err)
		}
	}
	return nil
}

// removeCgroups removes a lab's cgroups from the leaves up. A cgroup is busy until its last process has been taken away.
func removeCgroups(lab string) error {
	var errs []error
	for _, h := range hierarchies() {
		errs = append(errs, retry(func() error {
			var dirs []string
			_ = filepath.WalkDir(filepath.Join(h, prefix+lab), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, d := range slices.Backward(dirs) {
				if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
					return fmt.Errorf("remove cgroup %s: %w", d, err)
				}
			}
			return nil
		}))
	}
	return errors.Join(errs...)
}

// missingControllers are those that the root of version 2 offers and does not hand down yet.
func missingControllers() []string {
	if !CgroupV2() {
		return nil
	}
	enabled := words(filepath.Join(cgroupRoot, "cgroup.subtree_control"))
	return slices.DeleteFunc(words(filepath.Join(cgroupRoot, "cgroup.controllers")), func(c string) bool {
		return slices.Contains(enabled, c)
	})
}

// enableControllers hands controllers down to the children of a version 2 cgroup.
func enableControllers(dir string, controllers []string) error {
	for _, c := range controllers {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable cgroup controller %s (inside a container, its processes must not be in the root cgroup): %w", c, err)
		}
	}
	return nil
}

// disableControllers undoes enableControllers at the root; one that somebody uses by now is busy, and stays.
func disableControllers(controllers []string) {
	for _, c := range controllers {
		_ = os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("-"+c), 0)
	}
}

func words(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}
