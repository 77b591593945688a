package e2e_test

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/barelb/barelb/lab/build"
	"github.com/barelb/barelb/lab/image"
	"github.com/barelb/barelb/lab/system"
)

// What tests with MetalLB beside BareLB share. It is the real one, built from its module, with
// its own chart and the real Helm.

// realMetalLB builds MetalLB, if that was not done before.
func realMetalLB(t *testing.T) build.MetalLB {
	t.Helper()
	mlb, err := build.EnsureMetalLB(t.Context(), progress)
	must(t, err)
	return mlb
}

// metallbImages writes archives of the images that MetalLB's chart names.
func metallbImages(t *testing.T, mlb build.MetalLB) []string {
	t.Helper()
	var files []string
	for name, binary := range map[string]string{"controller": mlb.Controller, "speaker": mlb.Speaker} {
		file := filepath.Join(t.TempDir(), name+".tar")
		_, err := image.WriteFile(file, image.Image{
			Ref: "quay.io/metallb/" + name + ":" + mlb.Version, Entrypoint: []string{"/" + name}, Files: []image.File{{Source: binary, Target: "/" + name}},
		})
		must(t, err)
		files = append(files, file)
	}
	return files
}

// helm runs Helm, as an administrator.
func (l *lab) helm(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=../../tools/helm/go.mod", "helm"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+l.c.Kubeconfig())
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, failure.String())
	}
	return string(out)
}

// grantMetalLB makes the ServiceAccounts of MetalLB's chart, with their rights, in a cluster
// without kubelets.
func (l *lab) grantMetalLB(t *testing.T, mlb build.MetalLB) {
	t.Helper()
	manifest := l.helm(t, "template", "metallb", mlb.Chart, "--namespace", system.Namespace, "--set", "frrk8s.enabled=false,crds.enabled=false",
		"--show-only", "templates/service-accounts.yaml", "--show-only", "templates/rbac.yaml")
	file := filepath.Join(t.TempDir(), "rights.yaml")
	must(t, os.WriteFile(file, []byte(manifest), 0o600))
	l.undo(t, "take MetalLB's rights away", func(ctx context.Context) error {
		_, err := l.c.Kubectl(ctx, "delete", "-f", file, "--ignore-not-found")
		return err
	})
	must(t, l.c.Apply(t.Context(), file))
}

// metallbOn replaces the speaker of a node by MetalLB's until the end of the test, in a
// cluster without kubelets.
func (l *lab) metallbOn(t *testing.T, mlb build.MetalLB, node string) {
	t.Helper()
	l.undo(t, "give "+node+" its usual speaker", func(ctx context.Context) error {
		l.sys.SetSpeakerCommand(node)
		l.sys.SetSpeakerAccount(node, "")
		return l.sys.UpgradeSpeaker(ctx, node, 0)
	})
	l.sys.SetSpeakerCommand(node, mlb.Speaker, "--port=9120", "--log-level=info")
	l.sys.SetSpeakerAccount(node, "metallb-speaker")
	must(t, l.sys.UpgradeSpeaker(t.Context(), node, 0))
}

// byFormula is the node that owns an address by MetalLB's formula: the one with the lowest
// SHA-256 of its name, "#" and the address. It shares no code with the product.
func byFormula(addr netip.Addr, nodes []string) string {
	owner, best := "", ""
	for _, n := range nodes {
		if sum := sha256.Sum256([]byte(n + "#" + addr.String())); owner == "" || string(sum[:]) < best {
			owner, best = n, string(sum[:])
		}
	}
	return owner
}

// dumpPods shows, of what failed in a cluster with kubelets, what its Pods say.
func (l *lab) dumpPods(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "pods,daemonsets,deployments,nodes", "-A", "-o", "wide", "--show-labels"},
		{"get", "events", "-n", system.Namespace, "--sort-by=.lastTimestamp"},
		{"logs", "-n", system.Namespace, "-l", "app=metallb", "--prefix", "--tail=40"},
		{"logs", "-n", system.Namespace, "-l", "app.kubernetes.io/instance=metallb", "--prefix", "--tail=40"},
	} {
		out, err := l.c.Kubectl(ctx, args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// wantNoRestarts wants no container to have ended by itself.
func (l *lab) wantNoRestarts(t *testing.T, when string) {
	t.Helper()
	out, err := l.c.Kubectl(t.Context(), "get", "pods", "-n", system.Namespace, "-o",
		`jsonpath={range .items[*].status.containerStatuses[*]}{.name}{" "}{.restartCount}{" "}{.lastState.terminated.reason}{" "}{.lastState.terminated.message}{"\n"}{end}`)
	must(t, err)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[1] != "0" {
			t.Errorf("%s: a container was started again: %s", when, strings.TrimSpace(line))
		}
	}
}

// TestFormula has the formula computed by `printf 'node1#192.168.1.250' | sha256sum` and so on.
func TestFormula(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("192.168.1.250")
	for nodes, want := range map[string]string{"node3 node2 node1": "node1", "node3 node2": "node2", "node3": "node3", "": ""} {
		if got := byFormula(addr, strings.Fields(nodes)); got != want {
			t.Errorf("of %q the owner is %q, want %q", nodes, got, want)
		}
	}
}
