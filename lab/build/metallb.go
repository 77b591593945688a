package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// MetalLB is the real one, for tests of fleets of both kinds and of migrations.
type MetalLB struct {
	Version             string
	Controller, Speaker string // binaries
	// Chart is the folder of its Helm chart, and Manifest the file that installs its native mode, in go's own cache of modules.
	Chart, Manifest string
}

// metallb has a folder of the cache of its own, so that its version and Kubernetes' are free of each other.
var metallb = []group{{ //nolint:gochecknoglobals // a table
	title: "MetalLB", folder: "deps/metallb", packages: []string{metallbModule + "/controller", metallbModule + "/speaker"},
	version: regexp.MustCompile(`go\.universe\.tf/metallb (v\S+)`), variable: metallbModule + "/internal/version.version",
}}

const metallbModule = "go.universe.tf/metallb"

// EnsureMetalLB returns MetalLB at the version that lab/deps/metallb pins, building it if it is missing.
func EnsureMetalLB(ctx context.Context, progress func(line string)) (MetalLB, error) {
	lab, err := source()
	if err != nil {
		return MetalLB{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return MetalLB{}, fmt.Errorf("find cache folder: %w", err)
	}
	id, err := identity(ctx, lab, metallb)
	if err != nil {
		return MetalLB{}, err
	}
	dir := filepath.Join(cache, "barelb-lab", "metallb-"+id)
	if err := fill(ctx, lab, dir, metallb, []string{"controller", "speaker"}, progress); err != nil {
		return MetalLB{}, err
	}
	// The chart comes with the module.
	cmd, err := goCommand(ctx, filepath.Join(lab, metallb[0].folder), "mod", "download", "-json", metallbModule)
	if err != nil {
		return MetalLB{}, err
	}
	cmd.SysProcAttr, cmd.Cancel = nil, nil
	out, err := cmd.Output()
	if err != nil {
		return MetalLB{}, fmt.Errorf("find MetalLB's chart: %w: %s", err, lastLines(out))
	}
	var module struct{ Dir, Version string }
	if err := json.Unmarshal(out, &module); err != nil {
		return MetalLB{}, fmt.Errorf("find MetalLB's chart: %w", err)
	}
	if module.Dir == "" {
		return MetalLB{}, errors.New("find MetalLB's chart: go does not say where the module is")
	}
	return MetalLB{
		Version: module.Version, Controller: filepath.Join(dir, "controller"), Speaker: filepath.Join(dir, "speaker"),
		Chart: filepath.Join(module.Dir, "charts", "metallb"), Manifest: filepath.Join(module.Dir, "config", "manifests", "metallb-native.yaml"),
	}, nil
}
