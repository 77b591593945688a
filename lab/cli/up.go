package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/build"
	"github.com/barelb/barelb/lab/cluster"
)

// order is what the owner of a lab is told to start.
type order struct {
	Name      string
	Mode      cluster.Mode
	Nodes     int
	Bin       string
	Router    string
	BGP       cluster.BGP
	Images    []string
	Manifests []string
}

// message is what the owner tells while it works. The last one has Ready or Error.
type message struct {
	Line  string `json:",omitempty"`
	Error string `json:",omitempty"`
	Ready bool   `json:",omitempty"`
}

func upCommand() *cobra.Command {
	var (
		cfg   order
		fast  bool
		ready string
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab and leave it running",
		Long: `Start a lab and leave it running: nodes with real kubelets, containerd and kube-proxy, a control plane,
a router (router1) with BGP, a client on the same network and a remote client behind the router.

What the lab runs is built once and cached. "lab down" removes every trace; so does interrupting this command.`,
		Example: `  lab up
  lab up --image barelb.tar --manifest deploy/install.yaml
  lab up --name second --fast --nodes 12 --router bird`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Mode = cluster.Real
			if fast {
				cfg.Mode = cluster.Fast
			}
			bin, err := Prepare(cmd.Context(), cluster.Config{Mode: cfg.Mode, Router: cfg.Router}, ready)
			if err != nil {
				return err
			}
			cfg.Bin = bin
			for _, files := range [][]string{cfg.Images, cfg.Manifests} {
				for i := range files {
					if files[i], err = filepath.Abs(files[i]); err != nil {
						return fmt.Errorf("find file: %w", err)
					}
				}
			}
			if err := hire(cmd.Context(), cfg); err != nil {
				return err
			}
			return explain(cmd.OutOrStdout(), cfg.Name)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", "lab", "name of the lab; any number can be up side by side")
	f.IntVar(&cfg.Nodes, "nodes", 3, fmt.Sprintf("number of nodes, 1 to %d", cluster.MaxNodes))
	f.BoolVar(&fast, "fast", false, "without kubelets: nodes are objects, pods are namespaces")
	f.StringVar(&cfg.Router, "router", cluster.FRR, "what router1 runs: frr, bird or none")
	f.Uint32Var(&cfg.BGP.RouterAS, "router-as", 64501, "AS number of router1")
	f.Uint32Var(&cfg.BGP.NodeAS, "node-as", 64500, "AS number that router1 expects of the nodes")
	f.StringVar(&cfg.BGP.Password, "bgp-password", "", "TCP MD5 password of the sessions")
	f.DurationVar(&cfg.BGP.HoldTime, "hold-time", 0, "hold time that router1 offers (default 9s)")
	f.StringArrayVar(&cfg.Images, "image", nil, "image archive to load into every node; may be repeated")
	f.StringArrayVar(&cfg.Manifests, "manifest", nil, "manifest to apply; may be repeated")
	f.StringVar(&ready, "kube-bin", "", "folder with ready binaries instead of building them (default $"+build.Env+")")
	return cmd
}

// hire starts the process that owns the lab, shows its progress, and returns once the lab is up. If this process ends before, in whatever way,
// the owner takes the lab down.
func hire(ctx context.Context, cfg order) error {
	text, err := json.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	news, toUs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer news.Close() //nolint:errcheck // only read
	watched, leash, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make pipe: %w", err), toUs.Close())
	}
	defer leash.Close() //nolint:errcheck // closing is the message
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{"barelb-lab-owner", "owner", string(text)},
		Dir:         "/",
		ExtraFiles:  []*os.File{toUs, watched},
		SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	_, _ = toUs.Close(), watched.Close()
	if err != nil {
		return fmt.Errorf("start owner: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		Progress("interrupted: taking the lab down")
		_ = leash.Close()
	})
	defer stop()
	for dec := json.NewDecoder(news); ; {
		var m message
		if err := dec.Decode(&m); err != nil {
			_ = cmd.Wait()
			return errors.Join(ctx.Err(), errors.New("the lab's owner has ended unexpectedly"), end(cfg.Name))
		}
		switch {
		case m.Error != "":
			_ = cmd.Wait() // it has taken the lab down
			return errors.New(m.Error)
		case m.Ready:
			if _, err := leash.WriteString(keep); err != nil {
				_ = cmd.Wait()
				return errors.Join(ctx.Err(), err)
			}
			return nil
		default:
			Progress(m.Line)
		}
	}
}

// keep is what the owner must hear before the pipe closes, or it takes the lab down.
const keep = "keep"

// ownerCommand is the process behind `lab up`. Descriptor 3 takes its messages, 4 is the pipe that it watches.
func ownerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "owner",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cfg order
			if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
				return fmt.Errorf("read configuration: %w", err)
			}
			unix.CloseOnExec(3)
			unix.CloseOnExec(4)
			return serve(cmd.Context(), cfg, os.NewFile(3, "news"), os.NewFile(4, "leash"))
		},
	}
}

func serve(ctx context.Context, cfg order, news, leash *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if text, _ := io.ReadAll(io.LimitReader(leash, int64(len(keep)))); string(text) != keep {
			cancel()
		}
	}()
	out := json.NewEncoder(news)
	c, err := cluster.Start(ctx, cluster.Config{
		Name: cfg.Name, Mode: cfg.Mode, Nodes: cfg.Nodes, Bin: cfg.Bin, Router: cfg.Router, BGP: cfg.BGP, Images: cfg.Images, Manifests: cfg.Manifests,
		Progress: func(line string) { _ = out.Encode(message{Line: line}) },
	})
	if err != nil {
		return errors.Join(err, out.Encode(message{Error: err.Error()}))
	}
	if err := errors.Join(out.Encode(message{Ready: true}), news.Close()); err != nil {
		return errors.Join(err, c.Close())
	}
	<-ctx.Done()
	return c.Close()
}
