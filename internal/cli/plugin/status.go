package plugin

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/kube"
)

func statusCommand(o *options) *cobra.Command {
	var all, wrong bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what is wrong, then pools, nodes, sessions and addresses", Args: cobra.NoArgs,
		Long: `Shows everything at a glance: first what is wrong, then the pools and how full they
are, the nodes, the BGP sessions, and each Service with its addresses and the nodes
that announce them.`,
		Example: `  kubectl barelb status
  kubectl barelb status --all        # every Service, not the first 50
  kubectl barelb status --wrong      # those that do not work
  kubectl barelb status -o json | jq '.wrong'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.read(cmd.Context(), kube.Scope{Endpoints: true, Status: true, Pods: true})
			if err != nil {
				return err
			}
			s.ask(cmd.Context(), nil)
			r := s.world().Status()
			if wrong {
				r.VIPs = broken(r.VIPs)
			}
			most := 50
			if all || wrong {
				most = len(r.VIPs)
			}
			return o.print(cmd, r, func(p *printer) { p.status(r, most) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list every Service")
	cmd.Flags().BoolVar(&wrong, "wrong", false, "list only Services that are not announced as they should")
	return cmd
}

func broken(vips []explain.VIP) []explain.VIP {
	out := []explain.VIP{}
	for _, v := range vips {
		if v.State != "Announced" {
			out = append(out, v)
		}
	}
	return out
}

func (p *printer) status(s *explain.Status, most int) {
	if len(s.Wrong) == 0 {
		p.line("%s", p.paint("1;32", "Nothing is wrong, as far as it can be seen from here."))
	} else {
		p.title("WRONG")
		for _, f := range s.Wrong {
			p.finding(f)
		}
	}
	for _, g := range s.Gaps {
		p.line("%s %s %s: %s", p.paint("36", pad("?", markWidth)), pad("not known", checkWidth), g.From, g.NotChecked())
	}
	p.line("")
	p.title("POOLS")
	var rows [][]string
	for _, x := range s.Pools {
		rows = append(rows, []string{x.Name, strings.Join(x.Addresses, ","), x.Use, x.State, def(strings.Join(x.By, ","), "nothing")})
	}
	p.table([]string{"NAME", "ADDRESSES", "USE", "STATE", "ADVERTISED BY"}, rows)
	p.line("")
	p.title("NODES")
	rows = nil
	for _, x := range s.Nodes {
		rows = append(rows, []string{x.Name, x.State, x.Speaker, strconv.Itoa(x.Owns), strconv.Itoa(x.Routes)})
	}
	p.table([]string{"NAME", "STATE", "SPEAKER", "LAYER2", "BGP"}, rows)
	if len(s.Sessions) > 0 {
		p.line("")
		p.title("SESSIONS")
		rows = nil
		for _, x := range s.Sessions {
			up := "not checked"
			if x.Known > 0 {
				up = strconv.Itoa(x.Up) + " of " + strconv.Itoa(x.Known) + " up"
			}
			rows = append(rows, []string{x.Peer, strconv.FormatUint(uint64(x.ASN), 10), strconv.Itoa(x.Nodes), up})
		}
		p.table([]string{"PEER", "AS", "NODES", "STATE"}, rows)
	}
	p.line("")
	p.title("ADDRESSES")
	rows = nil
	for i, x := range s.VIPs {
		if i == most {
			break
		}
		rows = append(rows, []string{x.Service, def(join(x.Addresses), "-"), x.Pool, few(marked(x.L2, x.Unheard)), few(marked(x.BGP, x.Unheard)), x.State})
	}
	p.table([]string{"SERVICE", "ADDRESS", "POOL", "LAYER2", "BGP", "STATE"}, rows)
	if slices.ContainsFunc(s.VIPs[:min(most, len(s.VIPs))], func(v explain.VIP) bool { return len(v.Unheard) > 0 }) {
		p.line("?: nothing is heard of the node any more; its speaker said so last")
	}
	if n := len(s.VIPs) - most; n > 0 {
		p.line("and %d more: --all lists them", n)
	}
}

func join(addrs []netip.Addr) string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return strings.Join(out, ",")
}

// marked returns names, with a question mark at those of which nothing is heard.
func marked(names, unheard []string) []string {
	out := slices.Clone(names)
	for i, n := range out {
		if slices.Contains(unheard, n) {
			out[i] += "?"
		}
	}
	return out
}

// few names some nodes, and counts the others.
func few(names []string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most], ",") + ",+" + strconv.Itoa(len(names)-most)
	}
	return strings.Join(names, ",")
}
