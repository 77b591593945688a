package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/layer2"
)

// readExcluded reads the links to leave out from MetalLB's file. Without the
// file, its customary list applies.
func readExcluded(file string) ([]*regexp.Regexp, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return layer2.DefaultExclude(), nil
	} else if err != nil {
		return nil, fmt.Errorf("read the links to leave out: %w", err)
	}
	var content struct {
		Links []string `json:"announcedInterfacesToExclude"`
	}
	if err := yaml.Unmarshal(b, &content); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	out := []*regexp.Regexp{} // empty, not nil: a file without links leaves out none
	for i, text := range content.Links {
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("read %s: announcedInterfacesToExclude[%d]: %w", file, i, err)
		}
		out = append(out, re)
	}
	return out, nil
}
