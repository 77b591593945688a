// Package kernellab runs a test again in a small virtual machine with Debian's kernel,
// which has links that the kernel of the machine may lack: VRF, VLAN, bonds. Everything
// is emulated: what is tested there is behaviour, and never time.
//
// It needs root, qemu and the kernel's package, unpacked where `lab build --packages`
// unpacks it. A test that it cannot serve is skipped, or fails where CI is true.
package kernellab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// slower is how many times everything is slower in the machine.
const slower = 10

// limit is how long a test may run there.
const limit = 15 * time.Minute

// Patience returns how long to wait for what takes up to d, which is longer in the
// virtual machine.
func Patience(d time.Duration) time.Duration {
	if os.Getenv(inside) != "" {
		return slower * d
	}
	return d
}

// exitLine is what the machine says last, with the exit status of the test.
const exitLine = "kernellab: exit status "

// Need is what a test needs in the machine besides itself.
type Need struct {
	Modules  []string          // of the kernel; those that they depend on come with them
	Programs []string          // of this machine, names or paths; their libraries come with them
	Files    []string          // of this machine: files, and folders with all that is in them
	Texts    map[string]string // other files, by their names
}

// Again runs the test, alone, in the virtual machine, and fails if it fails there. It
// reports whether this is that run. TestMain must call Main first.
func Again(t *testing.T, need Need) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	kernel := lookFor(t, "root", func() (string, error) {
		if os.Geteuid() != 0 {
			return "", os.ErrPermission
		}
		return findKernel()
	})
	qemu := lookFor(t, "qemu-system-x86_64 (Debian's qemu-system-x86)", func() (string, error) { return exec.LookPath("qemu-system-x86_64") })
	image, err := pack(kernel, t.Name(), need)
	if err != nil {
		lookFor(t, "programs", func() (string, error) { return "", err })
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(initrd, image, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-m", "1024", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1").CombinedOutput()
	said := string(bytes.ReplaceAll(out, []byte("\r\n"), []byte("\n")))
	switch {
	case err != nil:
		t.Fatalf("run %s: %v\n%s", qemu, err, said)
	case !strings.Contains(said, exitLine+"0\n") || !strings.Contains(said, "--- PASS: "+t.Name()+" "):
		t.Fatalf("in a virtual machine:\n%s", said)
	}
	t.Logf("in a virtual machine:\n%s", said)
	return false
}

// lookFor returns what find finds, and skips the test if it finds nothing.
func lookFor(t *testing.T, what string, find func() (string, error)) string {
	t.Helper()
	found, err := find()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("this needs %s: %v", what, err)
	default:
		t.Skipf("SKIPPED: this needs %s: %v; `lab build --packages` gets what is missing", what, err)
	}
	return found
}

// findKernel returns the kernel's file.
func findKernel() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	pattern := filepath.Join(cache, "barelb-lab", "vm-kernel", "boot", "vmlinuz-*")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("find kernel: %w", err)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("find %s: there are %d", pattern, len(found))
	}
	return found[0], nil
}
