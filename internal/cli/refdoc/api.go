package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// kind is what a CRD says.
type kind struct {
	Spec struct {
		Group string `json:"group"`
		Names struct {
			Kind string `json:"kind"`
		} `json:"names"`
		Versions []version `json:"versions"`
	} `json:"spec"`
}

type version struct {
	Name               string `json:"name"`
	Storage            bool   `json:"storage"`
	Deprecated         bool   `json:"deprecated"`
	DeprecationWarning string `json:"deprecationWarning"`
	Schema             struct {
		OpenAPIV3Schema schema `json:"openAPIV3Schema"`
	} `json:"schema"`
}

// schema is the part of a CRD's schema that a reader of the documentation needs.
type schema struct {
	Description string            `json:"description"`
	Type        string            `json:"type"`
	Format      string            `json:"format"`
	Default     any               `json:"default"`
	Enum        []any             `json:"enum"`
	Minimum     *float64          `json:"minimum"`
	Maximum     *float64          `json:"maximum"`
	MinItems    *int              `json:"minItems"`
	Required    []string          `json:"required"`
	Properties  map[string]schema `json:"properties"`
	Items       *schema           `json:"items"`
}

func readKinds(dir string) ([]kind, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find the CRDs in %s: %d found: %w", dir, len(files), err)
	}
	var out []kind
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var k kind
		if err := yaml.Unmarshal(text, &k); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		out = append(out, k)
	}
	return out, nil
}

const generated = "<!-- Written by make generate; do not edit. -->\n\n"

func apiPage(kinds []kind) string {
	var b strings.Builder
	b.WriteString(generated + "# Kinds and their fields\n\nConfiguration is read from BareLB's namespace alone. What differs from MetalLB is in [its own page](../migrating-from-metallb.md).\n")
	for _, k := range kinds {
		for _, v := range k.Spec.Versions {
			if !v.Storage {
				fmt.Fprintf(&b, "\n`%s/%s` of %s is served too, and converted field by field", k.Spec.Group, v.Name, k.Spec.Names.Kind)
				if v.Deprecated {
					fmt.Fprintf(&b, " (deprecated: %s)", v.DeprecationWarning)
				}
				b.WriteString(".\n")
				continue
			}
			root := v.Schema.OpenAPIV3Schema
			fmt.Fprintf(&b, "\n## %s\n\n`%s/%s`. %s\n", k.Spec.Names.Kind, k.Spec.Group, v.Name, line(root.Description))
			for _, part := range []string{"spec", "status"} {
				s, ok := root.Properties[part]
				if !ok || len(s.Properties) == 0 {
					continue
				}
				fmt.Fprintf(&b, "\n| %s | type | |\n| --- | --- | --- |\n", part)
				rows(&b, part, s)
			}
		}
	}
	return b.String()
}

// rows writes a row for each field of s, and for those in them.
func rows(b *strings.Builder, path string, s schema) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		f := s.Properties[name]
		at, inner := path+"."+name, f
		if f.Items != nil {
			at, inner = at+"[]", *f.Items
		}
		var limits []string
		if slices.Contains(s.Required, name) {
			limits = []string{"required"}
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", at, typeOf(f), describe(f, limits))
		if !known(name) {
			rows(b, at, inner)
		}
	}
}

// known reports whether a field has a type of Kubernetes, which its documentation tells.
func known(name string) bool {
	return name == "conditions" || strings.HasSuffix(strings.ToLower(name), "selectors") && name != "preferredNodeSelectors" || name == "preference" || name == "passwordSecret"
}

func typeOf(s schema) string {
	switch {
	case s.Items != nil:
		return "list of " + typeOf(*s.Items)
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

// describe says what a field is for, and what it takes, beside the limits given.
func describe(s schema, limits []string) string {
	out := line(s.Description)
	if s.Default != nil {
		limits = append(limits, fmt.Sprintf("default `%v`", s.Default))
	}
	if len(s.Enum) > 0 {
		var values []string
		for _, v := range s.Enum {
			values = append(values, fmt.Sprintf("`%v`", v))
		}
		limits = append(limits, "one of "+strings.Join(values, ", "))
	}
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		limits = append(limits, fmt.Sprintf("%.0f to %.0f", *s.Minimum, *s.Maximum))
	case s.Minimum != nil:
		limits = append(limits, fmt.Sprintf("at least %.0f", *s.Minimum))
	case s.Maximum != nil:
		limits = append(limits, fmt.Sprintf("at most %.0f", *s.Maximum))
	}
	if s.MinItems != nil {
		limits = append(limits, fmt.Sprintf("at least %d of them", *s.MinItems))
	}
	if len(limits) > 0 {
		out += " *" + strings.Join(limits, "; ") + "*"
	}
	return strings.TrimSpace(out)
}

// line makes one line of a description, fit for a table.
func line(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(strings.Join(strings.Fields(text), " "))
}
