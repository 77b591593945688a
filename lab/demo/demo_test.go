package demo_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/cli"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/demo"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

func TestMain(m *testing.M) {
	cluster.Main()
	if len(os.Args) > 1 && os.Args[1] == measure.ToolWord { // an instrument inside a host
		if err := measure.Run(context.Background(), os.Args[2:], measure.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// TestDemoHoldsOnRealNodes runs the demo: BareLB as pods from its own image and
// manifest, on real kubelets, with every row of the table held to its threshold.
func TestDemoHoldsOnRealNodes(t *testing.T) {
	images := []string{"../../bin/barelb-image.tar", "../../bin/backend-image.tar"}
	for i, file := range images {
		if _, err := os.Stat(file); err != nil {
			skip(t, "the images are not built: run `make image lab-tool`")
		}
		images[i], _ = filepath.Abs(file)
	}
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	ctx, stop := signal.NotifyContext(t.Context(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	cfg := cluster.Config{
		Name: fmt.Sprintf("demo-test-%d", os.Getpid()), Mode: cluster.Real, Images: images, BGP: cluster.BGP{BFD: demo.BFDInterval},
		Progress: func(line string) { t.Log(line) },
	}
	bin, err := cli.Prepare(ctx, cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Bin = bin
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sys, err := system.Install(ctx, c, system.Config{Manifest: "../../deploy/install.yaml"}, self)
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	holds, err := demo.Run(ctx, sys, self, &table, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
	if !holds {
		t.Error("a row of the table does not hold")
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
