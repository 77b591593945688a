package legacy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/barelb/barelb/internal/cli/legacy"
)

// FuzzConvert: whatever stands in the ConfigMap, it is converted or refused.
func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob("../plugin/testdata/legacy/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("peers: [{node-selectors: [{match-labels: 3, match-expressions: [4]}]}, null]\naddress-pools: {a: b}")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := legacy.Convert(text, "metallb-system")
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, p := range o.Pools {
			if p.Name == "" || len(p.Name) > 253 || names[p.Name] {
				t.Errorf("a pool is called %q", p.Name)
			}
			names[p.Name] = true
		}
	})
}
