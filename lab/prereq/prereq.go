// Package prereq finds out what a machine lacks for a lab, and installs it where it knows how.
package prereq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tool is a program that a lab runs, and the Debian package that brings it.
type Tool struct {
	Program string // a name to be found on PATH or in the sbin folders, or an absolute path
	Package string
}

// Base is what every lab needs.
func Base() []Tool {
	return []Tool{
		{"nsenter", "util-linux"}, {"setpriv", "util-linux"}, {"ip", "iproute2"}, {"ping", "iputils-ping"}, {"arping", "iputils-arping"}, {"curl", "curl"},
	}
}

// Proxy is what kube-proxy needs.
func Proxy() []Tool { return []Tool{{"nft", "nftables"}} }

// Runtime is what kubelet and containerd need.
func Runtime() []Tool { return []Tool{{"runc", "runc"}, {"mount", "mount"}} }

// FRR is the router FRR.
func FRR() []Tool {
	return []Tool{{"/usr/lib/frr/zebra", "frr"}, {"/usr/lib/frr/bgpd", "frr"}, {"vtysh", "frr"}}
}

// BIRD is the router BIRD.
func BIRD() []Tool { return []Tool{{"bird", "bird2"}, {"birdc", "bird2"}} }

// Tests is what the project's tests need besides: a C compiler for the race detector, other people's tools to ask with, a virtual
// machine for what the kernel may lack, and routers to speak BGP with besides FRR and BIRD.
func Tests() []Tool {
	return []Tool{
		{"gcc", "gcc"},
		{"/usr/include/stdlib.h", "libc6-dev"},
		{"ndisc6", "ndisc6"},
		{"tc", "iproute2"},
		{"sysctl", "procps"},
		{"iptables", "iptables"},
		{"qemu-system-x86_64", "qemu-system-x86"},
		{"/usr/sbin/bgpd", "openbgpd"},
		{"gobgpd", "gobgpd"},
	}
}

// sbin are the folders that are not on every root's PATH.
const sbin = "/usr/local/sbin:/usr/sbin:/sbin"

// FixPath adds the sbin folders to this process's PATH, so that their programs are found however root was reached.
func FixPath() error {
	have := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range filepath.SplitList(sbin) {
		if !slices.Contains(have, dir) {
			have = append(have, dir)
		}
	}
	if err := os.Setenv("PATH", strings.Join(have, string(filepath.ListSeparator))); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	return nil
}

// Missing returns the packages of the tools that are not there. It only looks for files.
func Missing(tools []Tool) []string {
	var out []string
	for _, t := range tools {
		if !found(t.Program) {
			out = append(out, t.Package)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func found(program string) bool {
	if filepath.IsAbs(program) {
		_, err := os.Stat(program)
		return err == nil
	}
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	return slices.ContainsFunc(filepath.SplitList(sbin), func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, program))
		return err == nil
	})
}

// Ensure makes sure that this process is root and that the tools are there. On Debian and Ubuntu it installs what is missing,
// after saying so on out; elsewhere it returns an error that lists it.
func Ensure(ctx context.Context, out io.Writer, tools []Tool) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces, mounts and cgroups: run it as root (sudo)")
	}
	packages := Missing(tools)
	if len(packages) == 0 {
		return nil
	}
	list := strings.Join(packages, " ")
	if !found("apt-get") || !found("dpkg") {
		return fmt.Errorf("this machine lacks (names of Debian packages): %s", list)
	}
	if _, err := fmt.Fprintf(out, "installing with apt-get what this machine lacks: %s\n", list); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := install(ctx, packages); err != nil {
		return fmt.Errorf("install %s: %w", list, err)
	}
	if left := Missing(tools); len(left) > 0 {
		return fmt.Errorf("install %s: still missing: %s", list, strings.Join(left, " "))
	}
	return nil
}

func install(ctx context.Context, packages []string) error {
	release, err := holdServices()
	if err != nil {
		return err
	}
	defer release()
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	return apt(ctx, append([]string{"install", "-y", "--no-install-recommends"}, packages...)...)
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	// A session of its own: the terminal's interrupt would catch dpkg half way. It is asked to end, and given time.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	return nil
}

const (
	policyFile = "/usr/sbin/policy-rc.d"
	policyText = "#!/bin/sh\n# Put here by barelb's lab while it installs packages.\nexit 101\n"
)

// holdServices keeps packages from starting their services, by Debian's own means, until the returned function is called. A policy of the machine's own stays as it is.
func holdServices() (func(), error) {
	old, err := os.ReadFile(policyFile)
	switch {
	case err == nil && string(old) != policyText:
		return func() {}, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("read service policy: %w", err)
	}
	if err := os.WriteFile(policyFile, []byte(policyText), 0o755); err != nil {
		return nil, fmt.Errorf("write service policy: %w", err)
	}
	return func() { _ = os.Remove(policyFile) }, nil
}
