package plugin_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/cli/plugin"
)

// TestDocsNameCommandsThatExist holds the documents to the commands and their flags.
func TestDocsNameCommandsThatExist(t *testing.T) {
	command := regexp.MustCompile("kubectl barelb ((?:[a-z-]+)(?: [^`#|&;\n]*)?)")
	found := 0
	for _, file := range []string{"../../../docs/kubectl.md", "../../../README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			found++
			root := &cobra.Command{Use: "barelb"}
			root.AddGroup(&plugin.Group)
			root.AddCommand(plugin.Commands()...)
			cmd, rest, err := root.Find(strings.Fields(m[1]))
			if err != nil || cmd == root {
				t.Errorf("%s: there is no command %q", file, m[1])
				continue
			}
			for _, word := range rest {
				flag, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
				if strings.HasPrefix(word, "--") && cmd.Flag(flag) == nil {
					t.Errorf("%s: %q has no flag %s", file, cmd.Name(), word)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d commands were found", found)
	}
}
