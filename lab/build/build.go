// Package build makes the binaries that a lab runs: etcd, Kubernetes, containerd and the CNI plugins, compiled from the Go
// module proxy at the versions that lab/deps pins. They are built once and kept in the user's cache folder.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Env names a folder with ready binaries, for machines that build them elsewhere.
const Env = "BARELB_KUBE_BIN"

// group is what one go command builds: packages of one module.
type group struct {
	title    string
	folder   string // of the module that pins the version, below lab/
	packages []string
	version  *regexp.Regexp // finds in go.mod the version to stamp
	variable string         // that the version goes into
}

// groups are in the order of building: what a cluster without kubelets needs comes first.
var groups = []group{ //nolint:gochecknoglobals // a table
	{title: "etcd", folder: "deps/etcd", packages: []string{"go.etcd.io/etcd/server/v3"}},
	{title: "Kubernetes", folder: "deps/kubernetes", version: kubernetes, variable: kubernetesVersion, packages: []string{
		"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes/cmd/kube-proxy", "k8s.io/kubernetes/cmd/kubectl",
	}},
	{title: "Kubernetes' scheduler and kubelet", folder: "deps/kubernetes", version: kubernetes, variable: kubernetesVersion, packages: []string{
		"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kubelet",
	}},
	{title: "containerd", folder: "deps/containerd", packages: []string{
		"github.com/containerd/containerd/v2/cmd/containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/ctr",
	}},
	{title: "CNI plugins", folder: "deps/cni", packages: []string{
		"github.com/containernetworking/plugins/plugins/ipam/host-local", "github.com/containernetworking/plugins/plugins/main/loopback",
		"github.com/containernetworking/plugins/plugins/main/ptp", "github.com/containernetworking/plugins/plugins/meta/portmap",
	}},
	{title: "pause", folder: ".", packages: []string{"github.com/barelb/barelb/lab/pause"}},
}

const kubernetesVersion = "k8s.io/component-base/version.gitVersion"

var kubernetes = regexp.MustCompile(`k8s\.io/kubernetes (v\S+)`)

// program is the file name of a package's binary.
func program(pkg string) string {
	if pkg == "go.etcd.io/etcd/server/v3" {
		return "etcd"
	}
	return path.Base(pkg)
}

// Ensure returns a folder that holds the programs named (cluster.Mode.Binaries lists them), building what is missing. If ready names a folder, or
// else the environment variable Env does, they are taken from there and nothing is built but the lab's own pause program. Two
// processes do not build at the same time, and one that was interrupted goes on where it stopped. progress is told what is done.
func Ensure(ctx context.Context, ready string, programs []string, progress func(line string)) (string, error) {
	if len(programs) == 0 {
		return "", nil
	}
	if ready == "" {
		ready = os.Getenv(Env)
	}
	if ready != "" && len(missing(ready, programs)) == 0 {
		return filepath.Abs(ready)
	}
	lab, err := source()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	id, err := identity(ctx, lab, groups)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "barelb-lab", "bin-"+id)
	if ready != "" {
		if dir, err = view(dir, ready, programs); err != nil {
			return "", err
		}
	}
	return dir, fill(ctx, lab, dir, groups, programs, progress)
}

// fill builds the programs that a folder of the cache lacks.
func fill(ctx context.Context, lab, dir string, groups []group, programs []string, progress func(string)) error {
	if len(missing(dir, programs)) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock", progress)
	if err != nil {
		return err
	}
	defer unlock()
	for _, g := range groups {
		g.packages = slices.DeleteFunc(slices.Clone(g.packages), func(pkg string) bool {
			p := program(pkg)
			return !slices.Contains(programs, p) || len(missing(dir, []string{p})) == 0
		})
		if len(g.packages) == 0 {
			continue
		}
		if err := build(ctx, lab, dir, g, progress); err != nil {
			return fmt.Errorf("build %s: %w", g.title, err)
		}
	}
	if m := missing(dir, programs); len(m) > 0 {
		return fmt.Errorf("build: nothing makes %v", m)
	}
	return nil
}

// build runs one go command and puts the finished programs in place by renaming them. What was compiled when it is interrupted stays in go's own cache.
func build(ctx context.Context, lab, dir string, g group, progress func(string)) error {
	tmp, err := os.MkdirTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a leftover is only untidy
	folder := filepath.Join(lab, g.folder)
	flags := "-s -w"
	if g.version != nil {
		mod, err := os.ReadFile(filepath.Join(folder, "go.mod"))
		if err != nil {
			return fmt.Errorf("read version: %w", err)
		}
		if m := g.version.FindSubmatch(mod); m != nil {
			flags += " -X " + g.variable + "=" + string(m[1])
		}
	}
	var names []string
	for _, pkg := range g.packages {
		names = append(names, program(pkg))
	}
	out := tmp + "/" // a folder: each program by its package's name
	if len(names) == 1 {
		out = filepath.Join(tmp, names[0])
	}
	title := g.title
	if list := strings.Join(names, ", "); list != title {
		title += ": " + list
	}
	if err := run(ctx, folder, title, progress, append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out}, g.packages...)...); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("put in place: %w", err)
		}
	}
	return nil
}

// run runs the go command and says every ten seconds that it still does.
func run(ctx context.Context, folder, title string, progress func(string), args ...string) error {
	start := time.Now()
	progress(fmt.Sprintf("building %s (once; kept in the cache)", title))
	cmd, err := goCommand(ctx, folder, args...)
	if err != nil {
		return err
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the parent-death signal comes when the thread ends
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return fmt.Errorf("build %s: %w", title, ctx.Err())
			}
			if err != nil {
				return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, lastLines(output.Bytes()))
			}
			return nil
		case <-tick.C:
			progress(fmt.Sprintf("building %s: %s", title, time.Since(start).Round(time.Second)))
		}
	}
}

func lastLines(text []byte) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], nil)
}

// goCommand prepares a go command that ends, with all that it started, when the context or this process ends.
func goCommand(ctx context.Context, folder string, args ...string) (*exec.Cmd, error) {
	tool, err := exec.LookPath("go")
	if err != nil {
		tool = filepath.Join("/usr/local/go/bin", "go") // where the Go distribution goes; not on every root's PATH
		if _, statErr := os.Stat(tool); statErr != nil {
			return nil, fmt.Errorf("find the go command: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd, nil
}

// identity is a short hash of all that determines the binaries of groups.
func identity(ctx context.Context, lab string, groups []group) (string, error) {
	sum := sha256.New()
	for _, g := range groups {
		files := []string{"go.mod", "go.sum"}
		if g.folder == "." {
			files = []string{"pause/main.go"}
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(lab, g.folder, f))
			if err != nil {
				return "", fmt.Errorf("read pinned versions: %w", err)
			}
			sum.Write(text)
		}
	}
	cmd, err := goCommand(ctx, lab, "env", "GOVERSION", "GOARCH")
	if err != nil {
		return "", err
	}
	cmd.SysProcAttr = nil
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its version: %w", err)
	}
	sum.Write(out)
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

// source finds the lab's own folder: the working directory, one above it, or lab/ in one of those.
func source() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	for {
		for _, lab := range []string{dir, filepath.Join(dir, "lab")} {
			if _, err := os.Stat(filepath.Join(lab, "deps/kubernetes/go.mod")); err == nil {
				return lab, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find lab/deps: the working directory is not in the project's repository")
		}
		dir = filepath.Dir(dir)
	}
}

// view makes a folder of links to ready binaries, beside which the lab's own can be built.
func view(dir, ready string, programs []string) (string, error) {
	ready, err := filepath.Abs(ready)
	if err != nil {
		return "", fmt.Errorf("find ready binaries: %w", err)
	}
	if m := slices.DeleteFunc(missing(ready, programs), func(p string) bool { return p == "pause" }); len(m) > 0 {
		return "", fmt.Errorf("ready binaries: %s lacks %s", ready, strings.Join(m, ", "))
	}
	sum := sha256.Sum256([]byte(ready))
	dir += "-" + hex.EncodeToString(sum[:4])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	for _, p := range programs {
		if p == "pause" {
			continue
		}
		if err := os.Symlink(filepath.Join(ready, p), filepath.Join(dir, p)); err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("link ready binaries: %w", err)
		}
	}
	return dir, nil
}

func missing(dir string, programs []string) []string {
	var out []string
	for _, p := range programs {
		if info, err := os.Stat(filepath.Join(dir, p)); err != nil || !info.Mode().IsRegular() {
			out = append(out, p)
		}
	}
	return out
}

// lock waits until this process alone may build.
func lock(ctx context.Context, name string, progress func(string)) (func(), error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; said = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		if !said {
			progress("waiting for another process that is building the same")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another build: %w", ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}
