package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/image"
)

func unpack(t *testing.T, text []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(body)
		if h.Linkname != "" {
			out[h.Name] = "→" + h.Linkname
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := image.Image{
		Ref: "docker.io/barelb/barelb:dev", Entrypoint: []string{"/bin/x"}, User: "0:0", Arch: "amd64",
		Files: []image.File{{Target: "/usr/bin/y", Link: "/bin/x"}, {Source: program, Target: "/bin/x"}},
	}
	var first, second bytes.Buffer
	if err := image.Write(&first, img); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(program, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := image.Write(&second, img); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same input gave different bytes")
	}
	files := unpack(t, first.Bytes())
	for name, body := range files {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if got := sha256.Sum256([]byte(body)); hex.EncodeToString(got[:]) != sum {
				t.Errorf("blob %s has another hash", name)
			}
		}
	}
	var docker []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal([]byte(files["manifest.json"]), &docker); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"docker.io/barelb/barelb:dev"}, docker[0].RepoTags); diff != "" {
		t.Error(diff)
	}
	if config := files[docker[0].Config]; !strings.Contains(config, `"Entrypoint":["/bin/x"]`) || !strings.Contains(config, `"architecture":"amd64"`) {
		t.Errorf("config: %s", config)
	}
	z, err := gzip.NewReader(strings.NewReader(files[docker[0].Layers[0]]))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"tmp/": "", "bin/": "", "bin/x": "binary", "usr/": "", "usr/bin/": "", "usr/bin/y": "→/bin/x"}
	if diff := cmp.Diff(want, unpack(t, layer)); diff != "" {
		t.Error(diff)
	}
	img.Ref = "localhost:5000/barelb"
	if err := image.Write(io.Discard, img); err == nil {
		t.Error("a reference without a tag was taken")
	}
	img.Ref, img.Files[1].Source = "a:b", dir
	if err := image.WriteFile(filepath.Join(dir, "out.tar"), img); err == nil {
		t.Error("a folder was taken for a file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*out.tar*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
