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
	if _, err := image.WriteFile(filepath.Join(dir, "out.tar"), img); err == nil {
		t.Error("a folder was taken for a file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*out.tar*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestWriteIndex packs the test's own binary for two architectures, and what goes beside it.
func TestWriteIndex(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var images []image.Image
	for _, arch := range []string{"amd64", "arm64"} {
		images = append(images, image.Image{Ref: "docker.io/barelb/barelb:dev", Arch: arch, Files: []image.File{{Source: "image_test.go", Target: "/barelb"}}})
	}
	file := filepath.Join(dir, "out.tar")
	sum, err := image.WriteFile(file, images...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := sha256.Sum256(text); sum != "sha256:"+hex.EncodeToString(got[:]) {
		t.Errorf("WriteFile says %s", sum)
	}
	files := unpack(t, text)
	type index struct {
		Manifests []struct {
			MediaType, Digest string
			Platform          struct{ Architecture string }
		}
	}
	read := func(name string, into any) {
		t.Helper()
		if err := json.Unmarshal([]byte(files[name]), into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var top, all index
	if read("index.json", &top); len(top.Manifests) != 1 || top.Manifests[0].MediaType != "application/vnd.oci.image.index.v1+json" {
		t.Fatalf("index.json: %s", files["index.json"])
	}
	read("blobs/sha256/"+strings.TrimPrefix(top.Manifests[0].Digest, "sha256:"), &all)
	var archs []string
	for _, m := range all.Manifests {
		archs = append(archs, m.Platform.Architecture)
	}
	if diff := cmp.Diff([]string{"amd64", "arm64"}, archs); diff != "" {
		t.Error(diff)
	}

	if err := image.Papers(file, "docker.io/barelb/barelb:dev", sum, self); err != nil {
		t.Fatal(err)
	}
	for paper, want := range map[string]string{"spdx": "pkg:golang/std@", "provenance": strings.TrimPrefix(sum, "sha256:")} {
		text, err := os.ReadFile(filepath.Join(dir, "out."+paper+".json"))
		if err != nil || !json.Valid(text) || !strings.Contains(string(text), want) {
			t.Errorf("%s: lacks %s (%v)\n%s", paper, want, err, text)
		}
	}
}
