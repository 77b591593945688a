package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/barelb/barelb/lab/image"
)

// PauseImage is the image of every pod's first container. The lab builds it itself.
const PauseImage = "registry.k8s.io/pause:3.10.2"

func (c *Cluster) pauseTar() string { return filepath.Join(c.set.Dir(), "pause.tar") }

// writePause packs the pause image out of its binary in Config.Bin.
func (c *Cluster) writePause() error {
	_, err := image.WriteFile(c.pauseTar(), image.Image{
		Ref: PauseImage, Entrypoint: []string{"/pause"}, Files: []image.File{{Source: c.bin("pause"), Target: "/pause"}},
	})
	return err
}

// Kubectl runs kubectl as an administrator and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, "", args...)
}

// KubectlPath is where kubectl is.
func (c *Cluster) KubectlPath() string { return c.bin("kubectl") }

func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.bin("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	cmd.Stdin = strings.NewReader(stdin)
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(failure.String()))
	}
	return string(out), nil
}

// Apply applies manifest files. Objects whose kind another object of the files defines are tried again until the API server knows the kind.
func (c *Cluster) Apply(ctx context.Context, files ...string) error {
	for _, f := range files {
		if err := c.apply(ctx, "", f); err != nil {
			return err
		}
	}
	return nil
}

// ApplyYAML applies a manifest.
func (c *Cluster) ApplyYAML(ctx context.Context, manifest string) error {
	return c.apply(ctx, manifest, "-")
}

func (c *Cluster) apply(ctx context.Context, stdin, file string) error {
	var final error // one that will not pass
	err := waitFor(ctx, "manifest "+file, func() error {
		_, err := c.kubectl(ctx, stdin, "apply", "--server-side", "--force-conflicts", "-f", file)
		if err != nil && !passing(err) {
			final = err
			return nil
		}
		return err
	})
	return errors.Join(err, final)
}

// passing says whether an error of kubectl apply goes away by itself: a kind or an admission webhook that is only just coming up.
func passing(err error) bool {
	for _, s := range []string{"no matches for kind", "failed calling webhook", "connection refused", "the server could not find the requested resource"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}
