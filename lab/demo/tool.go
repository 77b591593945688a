package demo

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/lab/measure"
)

// ToolCommand returns `lab tool`: the instruments, to be run inside hosts of a lab.
func ToolCommand() *cobra.Command {
	var list strings.Builder
	for _, c := range measure.Commands() {
		fmt.Fprintf(&list, "  %-12s %s\n", c.Name, c.Summary)
	}
	return &cobra.Command{
		Use: measure.ToolWord + " NAME [FLAGS]", Short: "Measure from inside a host of the lab",
		Long:               "Instruments for use inside hosts of a lab. Each takes --help.\n\n" + list.String(),
		Example:            "  lab exec remote bin/lab tool probe --target 192.168.1.250:80 --duration 10s\n  lab exec client bin/lab tool who-has --addr 192.168.1.250",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
				return cmd.Help()
			}
			return measure.Run(cmd.Context(), args, measure.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
		},
	}
}
