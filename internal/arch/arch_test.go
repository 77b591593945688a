package arch_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const module = "github.com/barelb/barelb"

// root is the top of the repository.
const root = "../.."

// TestImports holds the direction of imports: cmd → shells → adapters → core. The
// second list names what nothing that the packages need may be, however far away.
func TestImports(t *testing.T) {
	adapters := []string{"bfd", "bgp", "kube", "kubeproxy", "layer2", "link", "liveness", "probe"}
	shared := []string{"packet"} // what several adapters stand on
	shells := []string{"cli", "controller", "speaker"}
	ours := func(names ...string) []string {
		var out []string
		for _, n := range names {
			out = append(out, module+"/internal/"+n)
		}
		return out
	}
	kubernetes := []string{"k8s.io/", "sigs.k8s.io/"}
	forbidden := map[string][]string{
		"./internal/core/...": append(append(append(kubernetes, ours(adapters...)...), ours(shells...)...),
			"github.com/", "golang.org/x/", "net/http", "os/exec", "os/signal", "log", "log/slog", "math/rand", "crypto/rand", "database/"),
	}
	for _, a := range adapters {
		var others []string
		for _, o := range adapters {
			if o != a {
				others = append(others, o)
			}
		}
		forbidden["./internal/"+a] = append(ours(others...), ours(shells...)...)
		if a != "kube" {
			forbidden["./internal/"+a] = append(forbidden["./internal/"+a], "sigs.k8s.io/", "k8s.io/")
		}
	}
	for _, p := range shared {
		forbidden["./internal/"+p] = append(append(ours(adapters...), ours(shells...)...), append(kubernetes, module+"/internal/core/")...)
	}
	for pattern, bad := range forbidden {
		for _, dep := range deps(t, pattern) {
			for _, p := range bad {
				self := strings.HasPrefix(dep, module+"/internal/core") && strings.HasPrefix(pattern, "./internal/core")
				if !self && (dep == p || strings.HasPrefix(dep, strings.TrimSuffix(p, "/")+"/")) {
					t.Errorf("%s must not need %s", pattern, dep)
				}
			}
		}
	}
}

func deps(t *testing.T, pattern string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}}", pattern)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pattern, err)
	}
	return strings.Fields(string(out))
}

// TestPackagesAreDocumented demands one package comment in each package.
func TestPackagesAreDocumented(t *testing.T) {
	type pkg struct{ documented, files int }
	pkgs := map[string]*pkg{}
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		dir := filepath.Dir(path)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{}
		}
		pkgs[dir].files++
		if f.Doc != nil && strings.HasPrefix(f.Doc.Text(), "Package ") || f.Doc != nil && strings.HasPrefix(f.Doc.Text(), "Command ") {
			pkgs[dir].documented++
		}
	})
	for dir, p := range pkgs {
		if p.documented != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, p.documented)
		}
	}
}

// TestYAMLParses reads every manifest, and every YAML block in the documents. What the
// chart's templates render is read by the tests of deploy.
func TestYAMLParses(t *testing.T) {
	block := regexp.MustCompile("(?s)```ya?ml\n(.*?)```")
	blocks := 0
	check := func(path, text string) {
		for i, doc := range strings.Split("\n"+text, "\n---") {
			blocks++
			var v any
			if err := yaml.UnmarshalStrict([]byte(doc), &v); err != nil {
				t.Errorf("%s, document %d: %v", path, i+1, err)
			}
		}
	}
	walk(t, func(path string) {
		if strings.Contains(path, "deploy/chart/templates/") {
			return
		}
		switch filepath.Ext(path) {
		case ".yaml", ".yml":
			check(path, read(t, path))
		case ".md":
			for _, m := range block.FindAllStringSubmatch(read(t, path), -1) {
				check(path, m[1])
			}
		}
	})
	if blocks == 0 {
		t.Error("no YAML was found at all")
	}
}

// TestMakeTargetsExist holds the documents to the Makefile.
func TestMakeTargetsExist(t *testing.T) {
	makefile := read(t, filepath.Join(root, "Makefile"))
	command := regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		for _, m := range command.FindAllStringSubmatch(read(t, path), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names `make %s`, which the Makefile has not", path, m[1])
			}
		}
	})
}

// TestLinksLeadSomewhere follows the relative links of the documents, to the heading that
// they name.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#: ]*)(?:#([^) ]*))?\)`)
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			to := path
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(path), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			} else if m[2] != "" && !anchors(read(t, to))[m[2]] {
				t.Errorf("%s links to %s, which has no heading #%s", path, to, m[2])
			}
		}
	})
}

// anchors returns the names that the headings of a document can be linked by.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	text = regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		out[strings.ReplaceAll(name, " ", "-")] = true
	}
	return out
}

// TestDependenciesAreExplained demands a line about each direct dependency.
func TestDependenciesAreExplained(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read go.mod: %v", err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatalf("read go.mod: %v", err)
	}
	adr := read(t, filepath.Join(root, "docs/adr/0001-dependencies.md"))
	for _, r := range mod.Require {
		name := r.Path[strings.LastIndex(r.Path, "/")+1:]
		if !r.Indirect && !strings.Contains(adr, r.Path) && !strings.Contains(adr, name) {
			t.Errorf("docs/adr/0001-dependencies.md does not say why %s is needed", r.Path)
		}
	}
}

// walk calls fn for every file of the repository that is under version control or
// could be.
func walk(t *testing.T, fn func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.IsDir():
			fn(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "" // gone since it was listed
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
