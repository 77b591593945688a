package cli

import (
	"io"
	"testing"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/core/migrate"
)

// TestMigrationKnowsFlags holds what a migration says about MetalLB's flags to the flags
// that there are: the same are shown, and those without effect hidden.
func TestMigrationKnowsFlags(t *testing.T) {
	for name, cmd := range map[string]*cobra.Command{"controller": controllerCommand(io.Discard), "speaker": speakerCommand(io.Discard)} {
		for _, flag := range migrate.Known[name] {
			if f := cmd.Flags().Lookup(flag); f == nil || f.Hidden {
				t.Errorf("%s has no flag --%s, or hides it", name, flag)
			}
		}
		for flag := range migrate.Ignored[name] {
			if f := cmd.Flags().Lookup(flag); f == nil || !f.Hidden {
				t.Errorf("%s does not ignore --%s", name, flag)
			}
		}
	}
}
