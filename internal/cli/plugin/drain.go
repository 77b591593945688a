package plugin

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/kube"
)

const drainPoll = 500 * time.Millisecond

type drainFlags struct {
	force, dryRun bool
	timeout       time.Duration
}

func drainCommand(o *options) *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move every address and route away from a node, and say when it is safe to reboot", Args: oneName,
		ValidArgsFunction: o.complete(nodeNames),
		Long: `Sets the annotation ` + v1beta1.AnnotationDrain + ` on the Node. Its speaker then hands over what it
announces. The command waits until no ServiceL2Status and no ServiceBGPStatus names the
node, and says so. It does not evict Pods: kubectl drain does.

The node stays drained, through reboots, until undrain.`,
		Example: `  kubectl barelb drain node2 && kubectl drain node2 --ignore-daemonsets
  kubectl barelb drain node2 --dry-run    # what would move where
  kubectl barelb undrain node2`,
		RunE: func(cmd *cobra.Command, args []string) error { return drain(cmd, o, args[0], f) },
	}
	cmd.Flags().BoolVar(&f.force, "force", false, "drain the node even if Services stop being announced by that")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would move, and change nothing")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait until the node announces nothing any more")
	return cmd
}

func undrainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "undrain NODE", Short: "Let a node announce again", Args: oneName,
		ValidArgsFunction: o.complete(nodeNames),
		Example:           `  kubectl barelb undrain node2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.reader()
			if err != nil {
				return err
			}
			before, err := r.MarkDrain(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			p := newPrinter(cmd)
			if before == "" {
				p.line("Node %s was not drained.", args[0])
				return nil
			}
			p.line("Node %s may announce again (it was drained: %s).", args[0], before)
			return nil
		},
	}
}

func drain(cmd *cobra.Command, o *options, node string, f drainFlags) error {
	ctx, p := cmd.Context(), newPrinter(cmd)
	s, err := o.read(ctx, kube.Scope{Endpoints: true, Status: true, Pods: true})
	if err != nil {
		return err
	}
	w := s.world()
	d, err := w.Drain(node)
	if err != nil {
		return err
	}
	if o.output != "" {
		if !f.dryRun {
			return fmt.Errorf("--output is for --dry-run: waiting is for people")
		}
		return o.print(cmd, d, nil)
	}
	p.drainEffect(d)
	switch {
	case f.dryRun:
		return nil
	case len(d.Stops) > 0 && !f.force:
		return fmt.Errorf("%s could be announced by no other node: %s; --force drains node %s nevertheless",
			count(len(d.Stops), "Service", "Services"), strings.Join(d.Stops[:min(len(d.Stops), 5)], ", "), node)
	}
	who := fmt.Sprintf("%s by %s", time.Now().UTC().Format(time.RFC3339), def(os.Getenv("USER"), "kubectl barelb"))
	before, err := s.reader.MarkDrain(ctx, node, who)
	if err != nil {
		return err
	}
	if before != "" {
		p.line("Node %s was marked already (%s).", node, before)
	}
	p.line("Marked node %s: %s=%q.", node, v1beta1.AnnotationDrain, who)
	for _, g := range s.dump.Gaps {
		if g.From == explain.FromL2Status || g.From == explain.FromBGPStatus {
			return fmt.Errorf("whether it announces anything is %s; wait for the speakers' drain time before you reboot it", g.NotChecked())
		}
	}
	if s.dump.Cluster(o.system).Flags.NoStatus {
		return fmt.Errorf("speakers keep no status objects, so it cannot be seen when it is done; wait for the speakers' drain time before you reboot it")
	}
	return awaitDrain(ctx, p, s.reader, node, f.timeout)
}

func (p *printer) drainEffect(d *explain.Drain) {
	p.line("Node %s announces %s.", d.Node, count(len(d.Carries), "Service", "Services"))
	if len(d.Moves) > 0 {
		p.line("")
		p.moves(d.Moves[:min(len(d.Moves), mostListed)])
		if n := len(d.Moves) - mostListed; n > 0 {
			p.line("and %d more", n)
		}
		p.line("")
	}
	if len(d.Stops) > 0 {
		p.line("%s", p.paint("1;31", count(len(d.Stops), "Service", "Services")+" would not be announced any more: no other node may."))
	}
}

// awaitDrain waits until a node announces nothing.
func awaitDrain(ctx context.Context, p *printer, r *kube.Reader, node string, limit time.Duration) error {
	began := time.Now()
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	state := fmt.Sprintf("node %s stays marked, and goes on handing over; kubectl barelb undrain %s takes that back", node, node)
	last := -1
	var left []string
	var failed error
	for {
		now, err := r.Announcing(ctx, node)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted with %s left: %s", count(max(0, last), "announcement", "announcements"), state)
		case err != nil:
			failed = err // the API server may be away for a while
		case len(now) == 0:
			p.line("Node %s announces nothing any more, after %s: it is safe to reboot it. It stays drained until kubectl barelb undrain %s.",
				node, time.Since(began).Round(time.Second), node)
			return nil
		default:
			failed = nil
			if left = now; len(now) != last {
				last = len(now)
				p.line("waiting: %s left", count(last, "announcement", "announcements"))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted with %s left: %s", count(max(0, last), "announcement", "announcements"), state)
		case <-end.C:
			if failed != nil {
				return fmt.Errorf("after %s: %w; %s", limit, failed, state)
			}
			slices.Sort(left)
			return fmt.Errorf("after %s it still has %s: %s; do not reboot it yet; %s",
				limit, count(len(left), "announcement", "announcements"), strings.Join(left[:min(len(left), 5)], ", "), state)
		case <-tick.C:
		}
	}
}
