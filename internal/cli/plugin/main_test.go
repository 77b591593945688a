package plugin_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/cli/plugin"
)

var update = flag.Bool("update", false, "write the golden files")

// object is a Kubernetes object.
type object = map[string]any

// world is the objects of a cluster, to be broken by tests.
type world struct {
	t       *testing.T
	objects []object
	metrics map[string]string
}

// newWorld returns a cluster of three nodes in which everything works.
func newWorld(t *testing.T) *world {
	t.Helper()
	text, err := os.ReadFile("testdata/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, metrics: map[string]string{}}
	w.add(strings.ReplaceAll(string(text), "OWNER", owner))
	return w
}

// owner is the node that owns 192.168.1.240 in the cluster, next the one that would
// without it.
const (
	owner = "node3"
	next  = "node1"
)

// add adds the objects of some YAML.
func (w *world) add(text string) {
	w.t.Helper()
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			w.t.Fatal(err)
		}
		if o != nil {
			w.objects = append(w.objects, o)
		}
	}
}

func name(o object) string {
	m, _ := o["metadata"].(object)
	return fmt.Sprint(o["kind"], "/", m["name"])
}

// edit changes the object kind/name by a merge patch in YAML.
func (w *world) edit(which, patch string) {
	w.t.Helper()
	var p object
	if err := yaml.Unmarshal([]byte(patch), &p); err != nil {
		w.t.Fatal(err)
	}
	for _, o := range w.objects {
		if name(o) == which {
			merge(o, p)
			return
		}
	}
	w.t.Fatalf("there is no %s", which)
}

func merge(o, patch object) {
	for k, v := range patch {
		into, ok1 := o[k].(object)
		from, ok2 := v.(object)
		switch {
		case ok1 && ok2:
			merge(into, from)
		case v == nil:
			delete(o, k)
		default:
			o[k] = v
		}
	}
}

// remove removes the objects whose kind/name begins with one of which.
func (w *world) remove(which ...string) {
	w.t.Helper()
	for _, prefix := range which {
		var left []object
		for _, o := range w.objects {
			if !strings.HasPrefix(name(o), prefix) {
				left = append(left, o)
			}
		}
		if len(left) == len(w.objects) {
			w.t.Fatalf("there is no %s", prefix)
		}
		w.objects = left
	}
}

// write writes the objects as kubectl get -o yaml does, and returns the directory.
func (w *world) write() string {
	w.t.Helper()
	dir := w.t.TempDir()
	b, err := yaml.Marshal(object{"apiVersion": "v1", "kind": "List", "items": w.objects, "metadata": object{"resourceVersion": ""}})
	if err != nil {
		w.t.Fatal(err)
	}
	write(w.t, filepath.Join(dir, "cluster.yaml"), string(b))
	for node, text := range w.metrics {
		write(w.t, filepath.Join(dir, "metrics", node+".txt"), text)
	}
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a command, and returns what it prints and its error.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "barelb", SilenceUsage: true, SilenceErrors: true}
	root.AddGroup(&plugin.Group)
	root.AddCommand(plugin.Commands()...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// ask runs a command on the objects.
func (w *world) ask(args ...string) string {
	w.t.Helper()
	out, err := run(w.t, append(args, "--offline", w.write())...)
	if err != nil {
		w.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return out
}

// askJSON runs a command on the objects, and reads its answer.
//
//nolint:ireturn // T is what the caller says
func askJSON[T any](w *world, args ...string) T {
	w.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(w.ask(append(args, "-o", "json")...)), &v); err != nil {
		w.t.Fatal(err)
	}
	return v
}

// golden compares text with a file of testdata/golden; -update writes it.
func golden(t *testing.T, file, text string) {
	t.Helper()
	path := filepath.Join("testdata/golden", file)
	if *update {
		write(t, path, text)
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
