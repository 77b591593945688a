// Package cli is the lab's command line. Its main function is small, so that other packages add commands of their own:
//
//	func main() {
//		cluster.Main()
//		os.Exit(cli.Run(demo.Command()))
//	}
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/build"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/prereq"
)

// Run runs the command line of this process, with more commands if there are any, and returns the exit status.
// SIGINT, SIGTERM and SIGHUP end the context that the commands get.
func Run(more ...*cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	root := &cobra.Command{
		Use:           "lab",
		Short:         "A Kubernetes cluster with routers and clients, out of namespaces on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return prereq.FixPath()
		},
	}
	root.AddCommand(upCommand(), downCommand(), execCommand(), kubectlCommand(), statusCommand(), buildCommand(), ownerCommand())
	root.AddCommand(more...)
	err := root.ExecuteContext(ctx)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "lab: interrupted; nothing is left behind")
		return 130
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	return 1
}

// Prepare makes sure that the machine has what a lab of this kind needs, installing packages and building binaries where it must,
// and returns the folder for Config.Bin. It tells on standard error what takes time.
func Prepare(ctx context.Context, cfg cluster.Config, ready string) (string, error) {
	if err := prereq.FixPath(); err != nil {
		return "", err
	}
	tools := prereq.Base()
	if cfg.Mode != cluster.Network {
		tools = append(tools, prereq.Proxy()...)
	}
	if cfg.Mode == cluster.Real {
		tools = append(tools, prereq.Runtime()...)
	}
	switch cfg.Router {
	case "", cluster.FRR:
		tools = append(tools, prereq.FRR()...)
	case cluster.BIRD:
		tools = append(tools, prereq.BIRD()...)
	}
	if err := prereq.Ensure(ctx, os.Stderr, tools); err != nil {
		return "", err
	}
	return build.Ensure(ctx, ready, cfg.Mode.Binaries(), Progress)
}

// Progress prints a line on standard error. It fits Config.Progress.
func Progress(line string) { fmt.Fprintln(os.Stderr, line) }

// lab is the name that was given or, if none was, that of the only lab that is up.
func lab(given string) (string, error) {
	if given == "" {
		given = os.Getenv("BARELB_LAB")
	}
	if given != "" {
		return given, nil
	}
	switch names := box.Names(); len(names) {
	case 0:
		return "", errors.New("no lab is up; `lab up` starts one")
	case 1:
		return names[0], nil
	default:
		return "", fmt.Errorf("several labs are up, choose one with --name or BARELB_LAB: %s", strings.Join(names, ", "))
	}
}

func buildCommand() *cobra.Command {
	var ready string
	var packages bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build what the lab runs (etcd, Kubernetes, containerd, CNI) into the user's cache folder, and print where",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if packages {
				tools := slices.Concat(prereq.Base(), prereq.Proxy(), prereq.Runtime(), prereq.FRR(), prereq.BIRD(), prereq.Tests())
				if err := prereq.Ensure(cmd.Context(), os.Stderr, tools); err != nil {
					return err
				}
				if err := prereq.Kernel(cmd.Context(), os.Stderr); err != nil {
					return err
				}
				if _, err := build.EnsureMetalLB(cmd.Context(), Progress); err != nil {
					return err
				}
			}
			dir, err := build.Ensure(cmd.Context(), ready, cluster.Real.Binaries(), Progress)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), dir)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&ready, "kube-bin", "", "folder with ready binaries (default $"+build.Env+")")
	cmd.Flags().BoolVar(&packages, "packages", false, "install the packages that all tests need, too (Debian, Ubuntu), build MetalLB, and unpack a kernel for virtual machines (Debian)")
	return cmd
}
