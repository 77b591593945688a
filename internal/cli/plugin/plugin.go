// Package plugin is the commands for users: `kubectl barelb` and `barelb`, which are the
// same. They read a cluster, or files, hand what they read to core/explain, and print its
// answers. Only drain and undrain write anything, and that is one annotation of a Node.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/kube"
)

const (
	defaultSystem  = "metallb-system"
	requestTimeout = 30 * time.Second
)

// options are the flags that all commands have.
type options struct {
	kubeconfig string
	overrides  clientcmd.ConfigOverrides
	system     string
	class      string
	offline    []string
	output     string
	live       bool
}

// Commands returns the commands for users.
func Commands() []*cobra.Command {
	o := &options{}
	all := []*cobra.Command{
		statusCommand(o), explainCommand(o), whatIfCommand(o), doctorCommand(o), adviseCommand(o), drainCommand(o), undrainCommand(o),
		migrateCommand(o),
	}
	for _, cmd := range all {
		cmd.GroupID = Group.ID
		o.add(cmd)
	}
	return all
}

// Group is the group that the commands stand in, in the help of the root command.
//
//nolint:gochecknoglobals // it is never changed
var Group = cobra.Group{ID: "user", Title: "For users (also as kubectl barelb):"}

// add adds the flags that all commands have, as kubectl names them.
func (o *options) add(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig file (default: KUBECONFIG, then ~/.kube/config)")
	clientcmd.BindOverrideFlags(&o.overrides, f, clientcmd.RecommendedConfigOverrideFlags(""))
	for _, name := range []string{"username", "password", "tls-server-name", "proxy-url", "disable-compression", "client-certificate", "client-key", "certificate-authority", "as-uid", "insecure-skip-tls-verify"} {
		_ = f.MarkHidden(name)
	}
	f.StringVar(&o.system, "system-namespace", def(os.Getenv("METALLB_NAMESPACE"), defaultSystem), "namespace of BareLB and its configuration (METALLB_NAMESPACE)")
	f.StringVar(&o.class, "lb-class", "", "loadBalancerClass that BareLB serves (default: what its Pods' --lb-class says)")
	f.StringVarP(&o.output, "output", "o", "", "json or yaml, instead of tables")
	if cmd.Name() == "drain" || cmd.Name() == "undrain" {
		return // they are about a running cluster
	}
	f.StringArrayVar(&o.offline, "offline", nil, "read the objects from the YAML and JSON files in this directory, or this file, instead of from a cluster; can be repeated")
	f.BoolVar(&o.live, "live", true, "ask speakers for their metrics (needs the right to create pods/portforward)")
}

func def(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

// client returns the configuration that kubectl would use.
//
//nolint:ireturn // the library gives no other
func (o *options) client() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &o.overrides)
}

// namespace returns the namespace that -n or the context names.
func (o *options) namespace() string {
	if len(o.offline) > 0 {
		return def(o.overrides.Context.Namespace, "default")
	}
	ns, _, err := o.client().Namespace()
	if err != nil {
		return "default"
	}
	return ns
}

func (o *options) reader() (*kube.Reader, error) {
	cfg, err := o.client().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w (set KUBECONFIG or --kubeconfig, or read files by --offline)", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = requestTimeout
	}
	return kube.NewReader(cfg, o.system)
}

// source is what a command reads: a cluster or files.
type source struct {
	o      *options
	reader *kube.Reader // nil for files
	dump   *kube.Dump
}

// read reads what scope says.
func (o *options) read(ctx context.Context, scope kube.Scope) (*source, error) {
	if o.output != "" && o.output != "json" && o.output != "yaml" {
		return nil, fmt.Errorf("--output: %q is neither json nor yaml", o.output)
	}
	if len(o.offline) > 0 {
		// Where one Service is asked about, the endpoints of others are of no interest.
		d, err := kube.ReadFilesFor(scope.Events.Name, o.offline...)
		if err != nil {
			return nil, err
		}
		if len(d.Services)+len(d.Nodes) == 0 {
			return nil, errors.New("the files have neither a Service nor a Node: write them with kubectl get services,nodes,endpointslices -A -o yaml (docs/kubectl.md lists all that is read)")
		}
		d.MarkMissing()
		d.Class = o.class
		return &source{o: o, dump: d}, nil
	}
	r, err := o.reader()
	if err != nil {
		return nil, err
	}
	d, err := r.Read(ctx, scope)
	if err != nil {
		return nil, err
	}
	d.Class = o.class
	return &source{o: o, reader: r, dump: d}, nil
}

// world works out what the objects mean.
func (s *source) world() *explain.World { return explain.New(s.dump.Cluster(s.o.system)) }

// ask asks the speakers on some nodes, all if nodes is nil.
func (s *source) ask(ctx context.Context, nodes []string) {
	switch {
	case s.reader == nil:
	case !s.o.live:
		s.dump.Gaps = append(s.dump.Gaps, explain.Gap{From: explain.FromSpeakers, Error: "--live=false"})
	default:
		s.reader.ReadSpeakers(ctx, s.dump, nodes)
	}
}

// witnesses is how many speakers are asked at least: each knows of all the others.
const witnesses = 3

// askAround asks the speakers on the nodes that about names and, with them, enough others
// to know of all; then those that it turns out to be about. except are left alone.
func (s *source) askAround(ctx context.Context, except []string, about func(*explain.World) []string) {
	if s.reader == nil || !s.o.live {
		s.ask(ctx, nil)
		return
	}
	asked := map[string]bool{}
	for _, n := range except {
		asked[n] = true
	}
	for range 2 {
		nodes := about(s.world())
		for _, n := range nodeNames(s.dump) {
			if len(asked)-len(except)+len(nodes) < witnesses && !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
		nodes = slices.DeleteFunc(nodes, func(n string) bool { return asked[n] })
		if len(nodes) == 0 {
			return
		}
		for _, n := range nodes {
			asked[n] = true
		}
		s.ask(ctx, nodes)
		if len(s.dump.Metrics) == 0 {
			return
		}
	}
}

// complete returns a function that completes one argument by the names that list gives.
func (o *options) complete(list func(*kube.Dump) []string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		s, err := o.read(ctx, kube.Scope{})
		if err != nil || len(args) > 0 && cmd.Name() != "what-if" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, name := range list(s.dump) {
			if strings.HasPrefix(name, prefix) && !slices.Contains(args, name) {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
	}
}

func nodeNames(d *kube.Dump) []string {
	var out []string
	for i := range d.Nodes {
		out = append(out, d.Nodes[i].Name)
	}
	return out
}

// serviceNames returns the names of Services of type LoadBalancer: alone for those in
// the namespace at hand, and with their namespace for all.
func (o *options) serviceNames(d *kube.Dump) []string {
	var out []string
	for i := range d.Services {
		s := &d.Services[i]
		if s.Spec.Type != "LoadBalancer" {
			continue
		}
		out = append(out, s.Namespace+"/"+s.Name)
		if s.Namespace == o.namespace() {
			out = append(out, s.Name)
		}
	}
	return out
}

// oneName wants one argument, and says how the command is used without.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return fmt.Errorf("one name is needed, and there are %d: %s %s", len(args), cmd.Parent().CommandPath(), cmd.Use)
}
