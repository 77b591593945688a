// Command refdoc writes docs/reference: the fields of all kinds, out of the CRDs, and the
// flags of all commands. It is started at the top of the repository, by make generate.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "refdoc:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// run writes the files below root.
func run(root string) error {
	pages, err := render(root)
	if err != nil {
		return err
	}
	for file, text := range pages {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// render returns the pages by the names of their files.
func render(root string) (map[string]string, error) {
	kinds, err := readKinds(filepath.Join(root, "deploy/crds"))
	if err != nil {
		return nil, err
	}
	return map[string]string{"docs/reference/api.md": apiPage(kinds), "docs/reference/commands.md": commandsPage()}, nil
}
