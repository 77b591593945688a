package image_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestImageIsReproducible makes the image in two copies of this repository, by the command that makes
// the one that is released, and wants the same bytes: no path, time or zone of where it was made
// is in it. What the compiler makes of a package may come from its cache, which -trimpath
// keeps free of paths.
func TestImageIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it builds the binary twice")
	}
	first := t.TempDir()
	second := filepath.Join(t.TempDir(), "at", "a", "longer", "path")
	var sums [2]string
	for i, dir := range []string{first, second} {
		sources(t, "../..", dir, time.Unix(int64(1_000_000*(i+1)), 0))
		cmd := exec.CommandContext(t.Context(), "make", "image")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), fmt.Sprintf("TZ=UTC%d", i), "MAKEFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make image in %s: %v\n%s", dir, err, out)
		}
		if strings.Contains(made(t, dir, "barelb"), dir) {
			t.Errorf("the binary names the directory %s", dir)
		}
		sums[i] = fmt.Sprintf("%x", sha256.Sum256([]byte(made(t, dir, "barelb-image.tar"))))
	}
	if sums[0] != sums[1] {
		t.Errorf("two images of the same sources differ: sha256 %s and %s", sums[0], sums[1])
	}
}

func made(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sources copies what the image is made of, without Git's data: a commit that is stamped on one
// copy would be stamped on the other too.
func sources(t *testing.T, from, to string, at time.Time) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case rel == "bin" || d.Name() == ".git" || d.Name() == "testdata":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, text, 0o600); err != nil {
			return err
		}
		return os.Chtimes(target, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}
