// Package cli is BareLB's command line.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/barelb/barelb/internal/cli/plugin"
)

// Main runs the command in args, whose first word is the program's own name, and
// returns the exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := New(displayName(args), stderr)
	root.SetArgs(words(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		_, _ = fmt.Fprintf(stderr, "barelb: %v\n", err)
		return 1
	}
	return 0
}

// New returns all commands. name is what the help calls the program; the processes of a
// cluster log to stderr.
func New(name string, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "barelb", Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: name},
		Short: "A load balancer for bare-metal Kubernetes clusters",
		Long: `BareLB gives Services of type LoadBalancer an address, and makes the network
bring that address's traffic to the nodes: by Layer 2 (one node answers ARP and
NDP for it) or by BGP (every node advertises it to its routers).

It speaks MetalLB's API (metallb.io): IPAddressPool, L2Advertisement,
BGPAdvertisement, BGPPeer and the others work unchanged, and so do MetalLB's
flags and environment variables. A flag wins over its variable.

As kubectl-barelb in PATH it is a plugin of kubectl: kubectl barelb status.`,
		Version:      version(), // with a template of our own, the binary would be 11 MB larger
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	processes := cobra.Group{ID: "process", Title: "The processes of a cluster:"}
	root.AddGroup(&plugin.Group, &processes)
	controller, speaker := controllerCommand(stderr), speakerCommand(stderr)
	controller.GroupID, speaker.GroupID = processes.ID, processes.ID
	root.AddCommand(controller, speaker, bfdProcessCommand(), versionCommand())
	root.AddCommand(plugin.Commands()...)
	root.SetFlagErrorFunc(flagError)
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			c.RunE = onlyGroup
		}
	}
	return root
}

// onlyGroup is what a command does that has commands below it and does nothing by itself: it
// says what there is. cobra does so for a word that it does not know too, as if all were well.
func onlyGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help() //nolint:wrapcheck // of writing
	}
	cmd.SuggestionsMinimumDistance = 2
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), nearest(cmd, args[0], ""))
}

// flagError adds to the error about a flag that does not exist which was meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	names := &cobra.Command{SuggestionsMinimumDistance: 2} // cobra knows what is near among commands alone
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	return fmt.Errorf("%w%s", err, nearest(names, unknown.GetSpecifiedName(), "--"))
}

// nearest says which names below cmd are near to one that does not exist.
func nearest(cmd *cobra.Command, name, prefix string) string {
	near := cmd.SuggestionsFor(name)
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + prefix + strings.Join(near, " or "+prefix) + "?"
}

// Names that the program is known by beside its own.
const (
	pluginName     = "kubectl-barelb"          // kubectl barelb
	completionName = "kubectl_complete-barelb" // what kubectl asks to complete kubectl barelb
)

// displayName is what the help calls the program.
func displayName(args []string) string {
	if len(args) > 0 && (filepath.Base(args[0]) == pluginName || filepath.Base(args[0]) == completionName) {
		return "kubectl barelb"
	}
	return "barelb"
}

// words makes MetalLB's ways of starting ours: a program called controller or speaker is
// that command, and their long flags may have one dash. A program by the name that
// kubectl looks for completes what it is given.
func words(args []string) []string {
	out := []string{}
	if len(args) == 0 {
		return out
	}
	switch name := filepath.Base(args[0]); name {
	case "controller", "speaker":
		out = append(out, name)
	case completionName:
		out = append(out, cobra.ShellCompRequestCmd)
	}
	out = append(out, args[1:]...)
	if len(out) == 0 || out[0] != "controller" && out[0] != "speaker" {
		return out
	}
	for i, a := range out {
		name, _, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && len(name) > 1 {
			out[i] = "-" + a
		}
	}
	return out
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version())
			return err
		},
	}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return cmp.Or(v, "(devel)") + " " + info.GoVersion
}

// newLog returns a log of JSON lines. The names of levels are MetalLB's.
func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	switch level {
	case "all", "debug":
		l = slog.LevelDebug
	case "info":
		l = slog.LevelInfo
	case "warn":
		l = slog.LevelWarn
	case "error":
		l = slog.LevelError
	case "none":
		w = io.Discard
	default:
		return nil, fmt.Errorf("--log-level: %q is not one of all, debug, info, warn, error, none", level)
	}
	log := slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
	// What the Kubernetes libraries have to say of themselves is for debugging.
	libraries := logr.FromSlogHandler(quiet{log.Handler(), l})
	ctrllog.SetLogger(libraries)
	klog.SetLogger(libraries)
	return log, nil
}

// env returns the environment variable name, or the default if it is unset or empty.
func env(name, def string) string { return cmp.Or(os.Getenv(name), def) }

// ownNamespace returns the namespace that we run in, as a Pod knows it.
func ownNamespace() string {
	const file = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	if b, err := os.ReadFile(file); err == nil {
		return strings.TrimSpace(string(b))
	}
	return ""
}
