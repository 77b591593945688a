package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/barelb/barelb/internal/cli"
)

// shared are the flags that all commands for users have, by the command of which they
// are told.
const sharedBy = "status"

func commandsPage() string {
	root := cli.New("barelb", io.Discard)
	var b strings.Builder
	b.WriteString(generated + "# Commands and their flags\n\nCommands for users are `barelb …` and `kubectl barelb …` alike: [kubectl barelb](../kubectl.md).\n")
	b.WriteString("\n## Flags of all commands for users\n")
	status, _, err := root.Find([]string{sharedBy})
	if err == nil {
		flags(&b, status.PersistentFlags(), nil)
	}
	walk(&b, root, func(f *pflag.Flag) bool { return status != nil && status.PersistentFlags().Lookup(f.Name) != nil })
	return b.String()
}

func walk(b *strings.Builder, cmd *cobra.Command, shared func(*pflag.Flag) bool) {
	for _, c := range cmd.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n%s.\n", strings.TrimSpace(c.CommandPath()), line(c.Short))
		if c.Runnable() {
			fmt.Fprintf(b, "\n`%s`\n", strings.TrimSuffix(c.UseLine(), " [flags]"))
		}
		skip := shared
		if c.GroupID == "process" {
			skip = func(*pflag.Flag) bool { return false }
		}
		flags(b, c.LocalFlags(), skip)
		walk(b, c, shared)
	}
}

// flags writes a table of flags but for those to skip.
func flags(b *strings.Builder, set *pflag.FlagSet, skip func(*pflag.Flag) bool) {
	head := "\n| flag | default | |\n| --- | --- | --- |\n"
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || skip != nil && skip(f) {
			return
		}
		b.WriteString(head)
		head = ""
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "[]" {
			def = "`" + f.DefValue + "`"
		}
		_, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, def, line(usage))
	})
}
