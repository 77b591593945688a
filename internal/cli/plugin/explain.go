package plugin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

const mostAsked = 16 // speakers that explain asks for one Service

func explainCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain", Short: "Find out why an address can or cannot be reached",
		Long: `Walks from a Service to the network, link by link: does it have an address, does an
advertisement cover it, which nodes may announce it and why the others may not, does
the owner's speaker run, do speakers say that they announce it, what do they see on
the wire, does kube-proxy run where traffic enters. It ends with the first link that
is broken, and what to do about it.

It decides by the same code as the controller and the speakers.`,
		Example: `  # Why can I not reach the Service web in namespace shop?
  kubectl barelb explain service shop/web
  kubectl barelb explain service web -n shop

  # Whose is this address, and what becomes of it?
  kubectl barelb explain address 192.168.1.250

  # What does this node announce, and why not more?
  kubectl barelb explain node node2

  # From files, without a cluster
  kubectl barelb explain service shop/web --offline dump/`,
	}
	cmd.AddCommand(explainService(o), explainAddress(o), explainNode(o))
	return cmd
}

// serviceKey reads NAMESPACE/NAME, or NAME.
func (o *options) serviceKey(text string) (lb.Key, error) {
	for _, kind := range []string{"service/", "svc/"} {
		if rest, ok := strings.CutPrefix(text, kind); ok && !strings.Contains(rest, "/") {
			text = rest
		}
	}
	ns, name, ok := strings.Cut(text, "/")
	if !ok {
		ns, name = o.namespace(), text
	}
	if ns == "" || name == "" || strings.Contains(name, "/") {
		return lb.Key{}, fmt.Errorf("%q is not NAMESPACE/NAME of a Service", text)
	}
	return lb.Key{Namespace: ns, Name: name}, nil
}

func explainService(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "service [NAMESPACE/]NAME", Aliases: []string{"svc", "services"}, Short: "Walk from a Service to the network, and name the first broken link",
		Args: oneName, ValidArgsFunction: o.complete(o.serviceNames),
		Example: `  kubectl barelb explain service shop/web
  kubectl barelb explain service web -n shop -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := o.serviceKey(args[0])
			if err != nil {
				return err
			}
			s, err := o.read(cmd.Context(), kube.Scope{Endpoints: true, Status: true, Pods: true, Events: key})
			if err != nil {
				return err
			}
			s.askAround(cmd.Context(), nil, func(w *explain.World) []string { return involved(w.Service(key)) })
			r := s.world().Service(key)
			return o.print(cmd, r, func(p *printer) { p.service(r) })
		},
	}
}

// involved returns the nodes that reports are about.
func involved(reports ...*explain.ServiceReport) []string {
	var nodes []string
	for _, r := range reports {
		for _, n := range append([]string{r.Owner}, r.NextHops...) {
			if n != "" && !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes[:min(len(nodes), mostAsked)]
}

func (p *printer) service(r *explain.ServiceReport) {
	p.title("Service " + r.Service)
	for _, f := range r.Chain {
		p.finding(f)
	}
	if len(r.Nodes) > 0 {
		p.line("")
		var rows [][]string
		for _, n := range r.Nodes {
			rows = append(rows, []string{
				n.Node, def(n.Role, "-"), said(n.L2, n.L2Message), said(n.BGP, n.BGPMessage), strconv.Itoa(n.Endpoints), strings.Join(n.Reported, ","),
			})
		}
		p.table([]string{"NODE", "ROLE", "LAYER2", "BGP", "ENDPOINTS", "SAYS"}, rows)
	}
	if len(r.Events) > 0 {
		p.line("")
		p.line("Last Events:")
		for _, e := range r.Events {
			p.line("  %s", e)
		}
	}
	p.conclusion(r.First, r.Warned, r.Next)
}

// said returns a reason, with the words where the reason alone is not enough.
func said(reason lb.Reason, message string) string {
	if reason == "" || reason == lb.Announced || reason == lb.NoEndpoint {
		return string(reason)
	}
	return string(reason) + ": " + message
}

func explainAddress(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "address ADDRESS", Aliases: []string{"addr", "ip"}, Short: "Say whose an address is, and what becomes of it", Args: oneName,
		Example: `  kubectl barelb explain address 192.168.1.250
  kubectl barelb explain address 2001:db8::1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := netip.ParseAddr(args[0])
			if err != nil || a.Zone() != "" {
				return fmt.Errorf("%q is not an IP address", args[0])
			}
			s, err := o.read(cmd.Context(), kube.Scope{Endpoints: true, Status: true, Pods: true})
			if err != nil {
				return err
			}
			s.askAround(cmd.Context(), nil, func(w *explain.World) []string { return involved(w.Address(a).Services...) })
			r := s.world().Address(a)
			return o.print(cmd, r, func(p *printer) {
				p.title("Address " + r.Address.String())
				for _, f := range r.Findings {
					p.finding(f)
				}
				for _, svc := range r.Services {
					p.line("")
					p.service(svc)
				}
				if len(r.Services) == 0 {
					p.conclusion(r.First, nil, nil)
				}
			})
		},
	}
}

func explainNode(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "node NAME", Aliases: []string{"no", "nodes"}, Short: "Say what a node announces, and what keeps it from more", Args: oneName,
		ValidArgsFunction: o.complete(nodeNames),
		Example:           `  kubectl barelb explain node node2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := o.read(cmd.Context(), kube.Scope{Endpoints: true, Status: true, Pods: true})
			if err != nil {
				return err
			}
			s.askAround(cmd.Context(), nil, func(*explain.World) []string { return args })
			r := s.world().Node(args[0])
			if r == nil {
				return errors.New("nothing is known")
			}
			return o.print(cmd, r, func(p *printer) { p.node(r) })
		},
	}
}

const mostListed = 20

func (p *printer) node(r *explain.NodeReport) {
	p.title("Node " + r.Node)
	for _, f := range r.Findings {
		p.finding(f)
	}
	p.line("")
	p.line("Answers for (Layer 2), by the configuration: %s", count(len(r.Owns), "Service", "Services"))
	for i, name := range r.Owns {
		if i == mostListed {
			p.line("  and %d more", len(r.Owns)-mostListed)
			break
		}
		p.line("  %s", name)
	}
	p.line("Its speaker says so of %s", count(len(r.Said), "Service", "Services"))
	p.line("Advertises (BGP), by the configuration: %s, to %s", count(r.Routes, "Service", "Services"), count(len(r.Peers), "peer", "peers"))
	for _, peer := range r.Peers {
		p.line("  %s", peer)
	}
	p.conclusion(r.First, nil, nil)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
