package demo

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/lab/cli"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

// Stage is how a command starts a cluster with a load balancer in it.
type Stage struct {
	Name, Router, Manifest, KubeBin string
	Nodes                           int
	Fast                            bool
	Images                          []string
	Controller, Speaker             string
	BGP                             cluster.BGP
	Audit                           bool // see cluster.Config
}

// Flags adds the flags of a Stage to cmd.
func (s *Stage) Flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.Name, "name", cmd.Name(), "name of the lab; any number can be up side by side")
	f.IntVar(&s.Nodes, "nodes", 3, "number of nodes, at most 24")
	f.StringVar(&s.Router, "router", cluster.FRR, "frr or bird")
	f.BoolVar(&s.Fast, "fast", s.Fast, "no kubelets: the load balancer and the backends run as processes in the nodes' namespaces")
	f.StringVar(&s.KubeBin, "kube-bin", "", "folder with ready binaries of Kubernetes, instead of building them")
	f.StringVar(&s.Manifest, "manifest", "deploy/install.yaml", "what installs the load balancer")
	f.StringSliceVar(&s.Images, "image", []string{"bin/barelb-image.tar", "bin/backend-image.tar"}, "images that the nodes load (not with --fast)")
	f.StringVar(&s.Controller, "controller", "bin/barelb controller", "command of the controller (with --fast)")
	f.StringVar(&s.Speaker, "speaker", "bin/barelb speaker", "command of the speaker (with --fast)")
}

// Start starts the cluster and installs the load balancer. Close the cluster.
func (s *Stage) Start(cmd *cobra.Command, say func(string, ...any)) (*cluster.Cluster, *system.System, error) {
	ctx := cmd.Context()
	cfg := cluster.Config{
		Name: s.Name, Nodes: s.Nodes, Router: s.Router, Mode: cluster.Real, Images: s.Images, BGP: s.BGP, Audit: s.Audit,
		Progress: cli.Progress,
	}
	if s.Fast {
		cfg.Mode, cfg.Images = cluster.Fast, nil
	}
	bin, err := cli.Prepare(ctx, cfg, s.KubeBin)
	if err != nil {
		return nil, nil, err
	}
	cfg.Bin = bin
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	say("installing the load balancer")
	self, err := os.Executable()
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	sys, err := system.Install(ctx, c, system.Config{
		Manifest: s.Manifest, Controller: command(s.Controller), Speaker: command(s.Speaker),
	}, self)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, sys, nil
}

// command splits a command line and makes its program's path absolute.
func command(line string) []string {
	argv := strings.Fields(line)
	if len(argv) > 0 && strings.Contains(argv[0], "/") && !strings.HasPrefix(argv[0], "/") {
		if dir, err := os.Getwd(); err == nil {
			argv[0] = dir + "/" + argv[0]
		}
	}
	return argv
}

// Say returns a function that prints lines with the time since now on standard error.
func Say() func(format string, args ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// errRows is what a demo ends with that has shown a row not to hold.
var errRows = errors.New("a row of the table does not hold")

// Command returns `lab demo`.
func Command() *cobra.Command {
	var stage Stage
	cmd := &cobra.Command{
		Use: "demo", Short: "Measure Layer 2 and BGP on a cluster of this lab, and print the comparison", Args: cobra.NoArgs,
		Long: `Start a cluster, install the load balancer, give a Service the address 192.168.1.250
and measure both ways to announce it: who is responsible, how traffic spreads, how
long a client is without an answer when a node's link is cut, when it is taken out
of service, and when it returns, and how many open connections survive a restart of
its speaker. Everything is removed at the end, or at Ctrl-C.

Exits with 0 only if every row of the table holds.`,
		Example: `  lab demo
  lab demo --router bird
  lab demo --fast --controller "bin/barelb controller" --speaker "bin/barelb speaker"`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) { //nolint:nonamedreturns // Close adds to it
			say := Say()
			stage.BGP.BFD = BFDInterval
			c, sys, err := stage.Start(cmd, say)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			self, err := os.Executable()
			if err != nil {
				return err
			}
			holds, err := Run(cmd.Context(), sys, self, cmd.OutOrStdout(), say)
			if err == nil && !holds {
				err = errRows
			}
			return err
		},
	}
	stage.Flags(cmd)
	return cmd
}
