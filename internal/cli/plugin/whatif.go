package plugin

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/kube"
)

func whatIfCommand(o *options) *cobra.Command {
	var without, files []string
	cmd := &cobra.Command{
		Use: "what-if", Short: "Show which addresses and routes would move or stop", Args: cobra.NoArgs,
		Long: `Shows what would become of each Service if nodes were gone, or if changed manifests
were applied: which would get another address, move to another node, change their
next hops, or stop being announced. It changes nothing. Some speakers are asked which
links nodes have, who is alive, and who owns addresses now: so the answer is what they
would decide.

Objects in the files replace those of the same kind and name, or are new. What an
object in force would lose by a mistake is shown as it would be: its last good
version stays in force.`,
		Example: `  kubectl barelb what-if --without node2
  kubectl barelb what-if --without node2,node3
  kubectl barelb what-if -f pool-smaller.yaml
  kubectl barelb what-if -f new-advertisement.yaml --offline dump/`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(without) == 0 && len(files) == 0 {
				return errors.New("say what would change: --without NODE, or -f FILE")
			}
			s, err := o.read(cmd.Context(), kube.Scope{Endpoints: true, Status: true, Pods: true})
			if err != nil {
				return err
			}
			s.askAround(cmd.Context(), without, func(*explain.World) []string { return nil })
			changed := s.dump
			if len(files) > 0 {
				change, err := kube.ReadFiles(files...)
				if err != nil {
					return err
				}
				changed = s.dump.Apply(change, o.namespace(), o.system)
			}
			before, after := s.dump.Cluster(o.system), changed.Cluster(o.system)
			if after, err = explain.Without(after, without); err != nil {
				return err
			}
			r := explain.Compare(before, after)
			return o.print(cmd, r, func(p *printer) { p.whatIf(r) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&without, "without", nil, "nodes that would be gone, separated by commas")
	f.StringArrayVarP(&files, "filename", "f", nil, "file or directory of changed manifests; can be repeated")
	if err := cmd.RegisterFlagCompletionFunc("without", o.complete(nodeNames)); err != nil {
		panic(fmt.Sprintf("complete --without: %v", err)) // the flag is there
	}
	return cmd
}

func (p *printer) whatIf(r *explain.WhatIf) {
	for _, f := range r.Problems {
		p.finding(f)
	}
	if len(r.Problems) > 0 {
		p.line("")
	}
	if len(r.Moves) == 0 {
		p.line("Nothing would change for %s.", count(r.Kept, "Service", "Services"))
	} else {
		p.moves(r.Moves)
		p.line("")
		p.line("%s would change, %s would not.", count(len(r.Moves), "Service", "Services"), count(r.Kept, "other", "others"))
	}
	for _, n := range r.Notes {
		p.line("note: %s", n)
	}
}

func (p *printer) moves(moves []explain.Move) {
	rows := make([][]string, len(moves))
	for i, m := range moves {
		why := string(m.Reason)
		if m.Message != "" && why != "" {
			why += ": " + m.Message
		} else if m.Message != "" {
			why = m.Message
		}
		rows[i] = []string{m.Service, join(m.Addresses), string(m.Effect), def(m.From, "-"), def(m.To, "-"), why}
	}
	p.table([]string{"SERVICE", "ADDRESS", "EFFECT", "FROM", "TO", "WHY"}, rows)
}
