package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
)

// explain prints how a lab is used.
func explain(w io.Writer, name string) error {
	s, err := cluster.Load(name)
	if err != nil {
		return err
	}
	self := "go run ./cmd/lab"
	if exe, err := os.Executable(); err == nil && !strings.Contains(exe, "/go-build") {
		self = exe
	}
	at := self
	if len(box.Names()) > 1 {
		at = "BARELB_LAB=" + name + " " + self
	}
	shell := "vtysh"
	if s.Router == cluster.BIRD {
		shell = "birdc"
	}
	_, err = fmt.Fprintf(w, `
Lab %[1]q is up: %[2]d nodes (192.168.1.101 and on), router1 (192.168.1.1), client (192.168.1.50), remote (10.99.0.2).

  export KUBECONFIG=%[3]s
  %[4]s kubectl get nodes
  %[4]s exec client curl http://192.168.1.250/     as a client on the same network
  %[4]s exec remote curl http://192.168.1.250/     as a client behind the router
  %[4]s exec router1 %[5]s                         the router's shell
  %[4]s exec node1 bash                            a shell on a node

Logs: %[6]s/box/HOST/PROGRAM.log
Remove every trace: %[7]s down --name %[1]s
`, name, s.Nodes, s.Kubeconfig, at, shell, box.Dir(name), self)
	return err
}

func downCommand() *cobra.Command {
	var (
		name string
		all  bool
	)
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End a lab and remove every trace of it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			names := box.Names()
			if !all && len(names) > 0 {
				one, err := lab(name)
				if err != nil {
					return err
				}
				names = []string{one}
			}
			var errs []error
			for _, n := range names {
				errs = append(errs, end(n))
			}
			return errors.Join(append(errs, box.Sweep())...)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the lab; not needed if only one is up")
	cmd.Flags().BoolVar(&all, "all", false, "every lab")
	return cmd
}

// end asks a lab's owner to end it, and waits until nothing of it is left.
func end(name string) error {
	if pid, ok := box.Owner(name); ok {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end lab %s: %w", name, err)
		}
	}
	for deadline := time.Now().Add(time.Minute); box.Alive(name); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("end lab %s: it is still there after a minute", name)
		}
	}
	return nil
}

func execCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "exec HOST COMMAND...",
		Short: "Run a command on a host of the lab: node1, client, remote, router1, control, lan",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := load(name)
			if err != nil {
				return err
			}
			pid, ok := s.Boxes[args[0]]
			if !ok {
				return fmt.Errorf("no host %q; there are %s", args[0], strings.Join(slices.Sorted(maps.Keys(s.Boxes)), ", "))
			}
			return become(box.EnterArgs(pid, args[1:]...), os.Environ())
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&name, "name", "", "the lab; not needed if only one is up")
	return cmd
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ARGUMENTS...",
		Short:              "Run kubectl as the lab's administrator (BARELB_LAB names the lab if several are up)",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := load("")
			if err != nil {
				return err
			}
			return become(append([]string{s.Bin + "/kubectl"}, args...), append(os.Environ(), "KUBECONFIG="+s.Kubeconfig))
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the labs that are up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := box.Names()
			if len(names) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "No lab is up.")
				return err
			}
			var errs []error
			for _, n := range names {
				errs = append(errs, explain(cmd.OutOrStdout(), n))
			}
			return errors.Join(errs...)
		},
	}
}

func load(name string) (cluster.State, error) {
	name, err := lab(name)
	if err != nil {
		return cluster.State{}, err
	}
	return cluster.Load(name)
}

// become replaces this process by another program.
func become(argv, env []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	if err := unix.Exec(path, argv, env); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}
