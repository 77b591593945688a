package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/cli/legacy"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/migrate"
	"github.com/barelb/barelb/internal/kube"
)

func migrateCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "migrate", Short: "Move from MetalLB to BareLB, and back",
		Long: `Before BareLB takes MetalLB's place: check what would be lost or different, and convert
a configuration of before MetalLB 0.13. docs/migration.md has the way, node by node.`,
		Example: `  kubectl barelb migrate check
  kubectl barelb migrate convert > barelb.yaml`,
	}
	cmd.AddCommand(migrateCheckCommand(o), migrateConvertCommand(o))
	return cmd
}

func migrateCheckCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Say what would be lost, and what will be different", Args: cobra.NoArgs,
		Long: `Reads a cluster in which MetalLB runs, and says what would be lost if it were replaced
now, what will behave differently, and what to do about each. It changes nothing. Run
it before, between the steps, and before going back.

It exits with 0 if it is safe to go on, else with 1: then something is BROKEN, or could
not be checked. It needs to read the whole cluster, as an administrator may.`,
		Example: `  kubectl barelb migrate check
  kubectl barelb migrate check -o json | jq '.[] | select(.level=="broken")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.read(cmd.Context(), kube.Scope{Pods: true, Surroundings: true, Migration: true})
			if err != nil {
				return err
			}
			if s.reader == nil {
				s.dump.MarkMissingMigration()
			}
			found := migrate.Check(s.dump.Migration(o.system))
			n := map[explain.Level]int{}
			for _, f := range found {
				n[f.Level]++
			}
			if err := o.print(cmd, found, func(p *printer) {
				for _, f := range found {
					p.finding(f)
				}
				p.line("")
				p.line("%d broken, %d not checked, %s, %d notes, %d fine", n[explain.Broken], n[explain.NotChecked], count(n[explain.Warning], "warning", "warnings"), n[explain.Info], n[explain.OK])
				if migrate.Safe(found) {
					p.line("Safe to go on, once the warnings are understood: docs/migration.md")
				}
			}); err != nil {
				return err
			}
			if !migrate.Safe(found) {
				return fmt.Errorf("not safe to go on: %d broken, %d not checked", n[explain.Broken], n[explain.NotChecked])
			}
			return nil
		},
	}
}

func migrateConvertCommand(o *options) *cobra.Command {
	var file, name string
	cmd := &cobra.Command{
		Use: "convert", Short: "Print a ConfigMap of before MetalLB 0.13 as objects", Args: cobra.NoArgs,
		Long: `Reads the ConfigMap that was MetalLB's configuration before version 0.13, from the
cluster or from a file, and prints the objects that say the same. What could not be
carried over, or what BareLB would not take, stands above them as comments. It changes
nothing: look through what it prints, then apply it.`,
		Example: `  kubectl barelb migrate convert > barelb.yaml
  kubectl barelb migrate convert -f metallb-config.yaml | kubectl apply --dry-run=server -f -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := o.legacyText(cmd, file, name)
			if err != nil {
				return err
			}
			objects, err := legacy.Convert(text, o.system)
			if err != nil {
				return err
			}
			return printConverted(cmd.OutOrStdout(), objects, o.system)
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "file with the ConfigMap, or with the text of its key config alone; - is stdin (default: ask the cluster)")
	cmd.Flags().StringVar(&name, "configmap", "config", "name of the ConfigMap in the cluster")
	return cmd
}

// legacyText returns the text of the configuration.
func (o *options) legacyText(cmd *cobra.Command, file, name string) (string, error) {
	var b []byte
	var err error
	switch {
	case file == "" && len(o.offline) > 0:
		return "", errors.New("--offline: say which file by -f")
	case file == "":
		r, err := o.reader()
		if err != nil {
			return "", err
		}
		m, err := r.ReadConfigMap(cmd.Context(), name)
		if err != nil {
			return "", err
		}
		return m.Data["config"], nil
	case file == "-":
		b, err = io.ReadAll(cmd.InOrStdin())
	default:
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("read the configuration: %w", err)
	}
	var m corev1.ConfigMap
	if yaml.Unmarshal(b, &m) == nil && m.Kind == "ConfigMap" {
		if m.Data["config"] == "" {
			return "", fmt.Errorf("ConfigMap %s has no key config", m.Name)
		}
		return m.Data["config"], nil
	}
	return string(b), nil
}

// printConverted writes objects, and before them, as comments, what is to be known.
func printConverted(w io.Writer, objects *legacy.Objects, namespace string) error {
	d := &kube.Dump{
		Pools: objects.Pools, L2: objects.L2, BGP: objects.BGP, Peers: objects.Peers, Profiles: objects.Profiles, Communities: objects.Communities,
		Secrets: objects.Secrets,
	}
	notes := objects.Notes
	for _, p := range config.Parse(d.Cluster(namespace).Objects, nil).Problems {
		notes = append(notes, p.String())
	}
	var out strings.Builder
	for _, n := range notes {
		fmt.Fprintf(&out, "# note: %s\n", strings.ReplaceAll(n, "\n", "\n#       "))
	}
	for _, x := range objects.All() {
		text, err := asWritten(x)
		if err != nil {
			return err
		}
		out.WriteString("---\n" + text)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// asWritten returns an object as a user would write it: without status, and without what
// an encoder writes of fields that are not set.
func asWritten(x any) (string, error) {
	b, err := json.Marshal(x)
	if err != nil {
		return "", err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return "", err
	}
	delete(m, "status")
	spec, _ := m["spec"].(map[string]any)
	for k, v := range spec {
		if empty, ok := v.(map[string]any); ok && len(empty) == 0 {
			delete(spec, k)
		}
	}
	b, err = yaml.Marshal(m)
	return string(b), err
}
