package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReferenceIsUpToDate holds docs/reference to the CRDs and the commands.
func TestReferenceIsUpToDate(t *testing.T) {
	const root = "../../.."
	pages, err := render(root)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range pages {
		got, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || string(got) != want {
			t.Errorf("%s is not what make generate writes: %v", file, err)
		}
		if len(want) < 5000 {
			t.Errorf("%s has %d bytes only", file, len(want))
		}
	}
}
