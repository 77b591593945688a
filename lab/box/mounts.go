package box

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// setMounts gives the new mount namespace what belongs to the box alone. It runs in the box's pid 1.
func setMounts(dir string, spec Spec) error {
	// Slave, not private: what the machine unmounts must vanish here too, or the box would keep it busy. Nothing goes the other way.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mounts from the machine: %w", err)
	}
	detachNamespaces()
	steps := []struct {
		what string
		do   func() error
	}{
		{"mount proc", func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"mount sys", func() error { return mountSys(dir) }},
		{"mount run", func() error { return mountRun(dir) }},
		{"mount private directories", func() error { return mountPrivate(spec.Private) }},
		{"lay files", func() error { return layFiles(spec.Files) }},
		{"cover sysctls", func() error { return coverSysctls(spec.Covered) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	if !spec.ShareMounts {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

// detachNamespaces drops this box's copies of bind-mounted namespaces (ip netns and others make them): they would keep other people's networks alive.
func detachNamespaces() {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // nothing was written
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		left, right, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(left); len(fields) > 4 && strings.HasPrefix(right, "nsfs ") {
			found = append(found, fields[4])
		}
	}
	for _, m := range slices.Backward(found) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
}

// mountSys shows the box its own network devices in /sys, and keeps the machine's cgroups there. What else is mounted below /sys stays hidden:
// without securityfs container runtimes load no AppArmor profile into the kernel.
func mountSys(dir string) error {
	cg := filepath.Join(dir, "cgroup")
	if err := os.Mkdir(cg, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(cgroupRoot, cg, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind cgroups: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := unix.Mount(cg, cgroupRoot, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind cgroups back: %w", err)
	}
	return errors.Join(unix.Unmount(cg, unix.MNT_DETACH), os.Remove(cg))
}

// mountRun gives the box a /run of its own, with its folder at Inside.
func mountRun(dir string) error {
	box, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(box) //nolint:errcheck // a path descriptor
	if err := unix.Mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for path, mode := range map[string]os.FileMode{"/run/lock": 0o1777, "/run/tmp": 0o1777, Inside: 0o755} {
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode|os.ModeSticky)); err != nil {
			return err
		}
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", box), Inside, "", unix.MS_BIND, "")
}

// mountPrivate lays an own, empty directory over each path, on disk where possible. Where the machine does not have the path, its parent is planted anew first.
func mountPrivate(paths []string) error {
	for _, path := range paths {
		own := filepath.Join(Inside, "fs", path)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := replant(filepath.Dir(path)); err != nil {
				return fmt.Errorf("replant %s: %w", filepath.Dir(path), err)
			}
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
		}
		var st unix.Statfs_t
		if err := unix.Statfs(own, &st); err != nil {
			return err
		}
		var err error
		if st.Type == unix.OVERLAYFS_SUPER_MAGIC { // in a container: its filesystem cannot carry the overlays of another runtime
			err = unix.Mount("private", path, "tmpfs", 0, "mode=755")
		} else {
			err = unix.Mount(own, path, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return nil
}

// replant puts a directory of the box's own over parent, with every entry of the machine's parent mounted back into it. Entries
// can then be added in the box, and the machine's directory does not change. Doing it twice has no further effect.
func replant(parent string) error {
	soil := filepath.Join("/run/soil", parent)
	if _, err := os.Stat(soil); err == nil {
		return nil
	}
	if err := os.MkdirAll(soil, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(parent, e.Name()), filepath.Join(soil, e.Name())
		switch {
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(from)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, to); err != nil {
				return err
			}
			continue
		case e.IsDir():
			err = os.Mkdir(to, 0o755)
		default:
			err = os.WriteFile(to, nil, 0o600)
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return unix.Mount(soil, parent, "", unix.MS_BIND|unix.MS_REC, "")
}

// layFiles binds files of the box's own over the machine's.
func layFiles(files map[string]string) error {
	for path, content := range files {
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue // the machine has no such file, or it leads into the machine's /run
		}
		own := filepath.Join(Inside, "files", path)
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
	}
	return nil
}

// coverSysctls binds plain files over sysctls that would change the whole machine. A kernel may lack some: those stay absent.
func coverSysctls(values map[string]string) error {
	for key, value := range values {
		if _, err := os.Stat(sysctlPath(key)); err != nil {
			continue
		}
		own := filepath.Join(Inside, "sysctl", key)
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(own, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, sysctlPath(key), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", key, err)
		}
	}
	return nil
}

func sysctlPath(key string) string { return "/proc/sys/" + strings.ReplaceAll(key, ".", "/") }
