package plugin

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/kube"
)

func doctorCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the surroundings: what commonly keeps load balancers from working", Args: cobra.NoArgs,
		Long: `Checks what BareLB depends on: its own processes and rights, the configuration, labels
that exclude nodes, kube-proxy's mode and strictARP, other load balancers and BGP
speakers, ports, overlapping address ranges, subnets, clocks. Each check tells what
it saw and what to do. One that needs a right that you do not have says so.`,
		Example: `  kubectl barelb doctor
  kubectl barelb doctor -o json | jq '.[] | select(.level=="broken")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.read(cmd.Context(), kube.Scope{Status: true, Pods: true, Surroundings: true})
			if err != nil {
				return err
			}
			s.ask(cmd.Context(), nil)
			found := s.world().Doctor()
			return o.print(cmd, found, func(p *printer) {
				n := map[explain.Level]int{}
				for _, f := range found {
					p.finding(f)
					n[f.Level]++
				}
				p.line("")
				p.line("%d broken, %s, %d not checked, %d fine", n[explain.Broken], count(n[explain.Warning], "warning", "warnings"), n[explain.NotChecked], n[explain.OK])
			})
		},
	}
}

func adviseCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "advise", Short: "Compare Layer 2 and BGP for this cluster, and print the manifests", Args: cobra.NoArgs,
		Long: `Compares the two ways of announcing addresses, filled with what this cluster is: its
nodes, pools, routers and sessions. It says which way works here, what is missing for
the other, and prints the manifests for what is missing.`,
		Example: `  kubectl barelb advise
  kubectl barelb advise -o json | jq -r .manifests > barelb.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.read(cmd.Context(), kube.Scope{Pods: true, Surroundings: true})
			if err != nil {
				return err
			}
			s.ask(cmd.Context(), nil)
			a := s.world().Advise()
			return o.print(cmd, a, func(p *printer) {
				var rows [][]string
				for _, r := range a.Rows {
					rows = append(rows, []string{r.Of, r.Layer2, r.BGP})
				}
				p.table([]string{"", "Layer 2", "BGP"}, rows)
				p.line("")
				p.line("Works here now: %s", def(strings.Join(a.Works, " and "), "neither"))
				p.line("%s", a.Advice)
				if a.Manifests != "" {
					p.line("")
					p.line("What is missing, to be applied when its addresses are right:")
					p.line("")
					p.line("%s", strings.TrimRight(a.Manifests, "\n"))
				}
			})
		},
	}
}
