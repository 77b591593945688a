package prereq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelPackage depends on the newest kernel of Debian's that is made for virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// Kernel makes sure that Debian's kernel for virtual machines is unpacked in the user's cache folder, for tests of what the machine's own
// kernel lacks. Nothing is installed. It tells on out what takes time. Where apt has no such kernel it says so, and returns no error: tests
// that need it say what they lack.
func Kernel(ctx context.Context, out io.Writer) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find cache folder: %w", err)
	}
	dir := filepath.Join(cache, "barelb-lab", "vm-kernel")
	if found, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*")); err != nil || len(found) > 0 {
		return err
	}
	depends, err := exec.CommandContext(ctx, "apt-cache", "depends", kernelPackage).Output()
	name := kernelOf(string(depends))
	if err != nil || name == "" {
		_, err := fmt.Fprintf(out, "apt knows no package %s: tests with VRF, VLAN and bonds need it\n", kernelPackage)
		return err
	}
	if _, err := fmt.Fprintf(out, "downloading %s with apt-get, into %s\n", name, dir); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "vm-kernel-")
	if err != nil {
		return fmt.Errorf("make folder for %s: %w", name, err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	download := exec.CommandContext(ctx, "apt-get", "-q", "download", name)
	download.Dir = temp
	if said, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("download %s: %w: %s", name, err, said)
	}
	files, err := filepath.Glob(filepath.Join(temp, "*.deb"))
	if err != nil || len(files) != 1 {
		return errors.Join(fmt.Errorf("download %s: there are %d files", name, len(files)), err)
	}
	unpacked := filepath.Join(temp, "unpacked")
	if said, err := exec.CommandContext(ctx, "dpkg", "-x", files[0], unpacked).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", name, err, said)
	}
	if err := os.Rename(unpacked, dir); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

// kernelOf returns the kernel's package that apt-cache says another one depends on, "" for none.
func kernelOf(depends string) string {
	for line := range strings.Lines(depends) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name
		}
	}
	return ""
}
