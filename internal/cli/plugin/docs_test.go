package plugin_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/cli"
)

// documents returns the text of all documents for users, by file.
func documents(t *testing.T) map[string]string {
	t.Helper()
	const root = "../../.."
	files := []string{filepath.Join(root, "README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[file] = string(text)
	}
	return out
}

var (
	fenced = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")
	inline = regexp.MustCompile("`([^`\n]+)`")
	ours   = regexp.MustCompile(`^(?:\$ )?(?:kubectl barelb|barelb|bin/barelb) (.*)$`)
	flag1  = regexp.MustCompile("^--[a-z][a-z0-9-]+")
)

// commandLines returns what a document would have somebody run, and the flags that it
// names alone.
func commandLines(text string) (lines, flags []string) {
	take := func(line string) {
		if m := ours.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			line, _, _ := strings.Cut(m[1], " #")
			for _, end := range []string{" | ", " && ", " > ", " 2>"} {
				line, _, _ = strings.Cut(line, end)
			}
			lines = append(lines, line)
		}
	}
	for _, m := range fenced.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(m[2]) {
			take(line)
		}
	}
	for _, m := range inline.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		take(m[1])
		if f := flag1.FindString(m[1]); f != "" {
			flags = append(flags, f)
		}
	}
	return lines, flags
}

// TestDocsNameCommandsThatExist holds the documents to the commands, their flags and
// their arguments.
func TestDocsNameCommandsThatExist(t *testing.T) {
	// Flags of others, and of the lab, that documents name alone.
	foreign := []string{
		"--disable", "--nodes", "--fast", "--version", "--kube-bin", "--restart-with", "--set", "--seed", "--help",
		"--previous", "--router", "--bfd", "--create-namespace", "--take-ownership",
	}
	known := map[string]bool{}
	var collect func(*cobra.Command)
	collect = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.LocalFlags().FlagUsages()) {
			for _, f := range regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(line, 1) {
				known[f] = true
			}
		}
		for _, c := range cmd.Commands() {
			collect(c)
		}
	}
	collect(cli.New("barelb", io.Discard))
	found := 0
	for file, text := range documents(t) {
		lines, flags := commandLines(text)
		for _, line := range lines {
			found++
			root := cli.New("barelb", io.Discard)
			words := slices.DeleteFunc(strings.Fields(line), func(w string) bool { return w == "…" || w == "<TAB>" })
			if len(words) == 0 || words[0] == "completion" {
				continue // cobra's own
			}
			cmd, rest, err := root.Find(words)
			if err != nil || cmd == root {
				t.Errorf("%s: there is no command %q", file, line)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", file, line, err)
			} else if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil && cmd.Runnable() && len(cmd.Flags().Args()) > 0 {
				t.Errorf("%s: %q: %v", file, line, err)
			}
		}
		for _, f := range flags {
			if hidden := slices.Contains(foreign, f) || strings.Contains(file, "/migrating-from-metallb.md") || strings.Contains(file, "/adr/"); !known[f] && !hidden {
				t.Errorf("%s: no command has the flag %s", file, f)
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d commands were found", found)
	}
}

// TestDocsYAMLApplies reads every YAML block of the documents strictly as what it says
// that it is, and has a real API server take it.
func TestDocsYAMLApplies(t *testing.T) {
	l := newCluster(t, &world{t: t})
	c := client.WithFieldValidation(l.client, client.FieldValidation(metav1.FieldValidationStrict))
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, v1beta1.AddToScheme, v1beta2.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	applied := 0
	check := func(file, text string) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Errorf("%s: %v:\n%s", file, err, text)
			return
		}
		if u.GetKind() == "Kustomization" || u.GroupVersionKind().Group == "cert-manager.io" { // not for this API server
			return
		}
		typed, err := scheme.New(u.GroupVersionKind())
		if err == nil {
			err = yaml.UnmarshalStrict([]byte(text), typed)
		}
		if err != nil {
			t.Errorf("%s: %s %s: %v", file, u.GetKind(), u.GetName(), err)
			return
		}
		if u.GetNamespace() == "" {
			u.SetNamespace("default")
		}
		if err := c.Create(t.Context(), u, client.DryRunAll); err != nil {
			t.Errorf("%s: %s %s: %v", file, u.GetKind(), u.GetName(), err)
			return
		}
		applied++
	}
	for file, text := range documents(t) {
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			if m[1] != "yaml" && m[1] != "yml" {
				continue
			}
			for doc := range strings.SplitSeq("\n"+m[2], "\n---") {
				check(file, doc)
			}
		}
	}
	legacy, err := filepath.Glob("testdata/golden/legacy-*.yaml")
	if err != nil || len(legacy) == 0 {
		t.Fatalf("find what migrate convert prints: %v", err)
	}
	for _, file := range legacy {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range strings.Split("\n"+string(text), "\n---") {
			if i > 0 { // the notes stand before the first
				check(file, doc)
			}
		}
	}
	if applied < 20 {
		t.Errorf("only %d objects were applied", applied)
	}
}
