// Package image writes container images out of static binaries, without a container engine.
//
// The archive is an OCI image layout with a manifest.json beside it, so `ctr images import`, `docker load` and `podman load`
// all take it. The same input gives the same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Image says what an image holds.
type Image struct {
	Ref        string   // name and tag, in full: docker.io/barelb/barelb:dev
	Entrypoint []string // what runs
	Cmd        []string // its default arguments
	User       string   // "uid:gid"; empty for root
	Files      []File
	Labels     map[string]string
	Arch       string // of the binaries; default that of this program
}

// File is one file or symbolic link of an image.
type File struct {
	Source string // on this machine; files keep nothing but whether they are executable
	Target string // in the image, absolute
	Link   string // if set, Target is a symbolic link to it and there is no Source
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type config struct {
	platform
	Config runConfig `json:"config"`
	RootFS rootFS    `json:"rootfs"`
}

type runConfig struct {
	User       string            `json:"User,omitempty"` //nolint:tagliatelle // the format's own spelling, as below
	Env        []string          `json:"Env"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Manifests     []descriptor `json:"manifests"`
}

// dockerManifest is an entry of manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

const mediaType = "application/vnd.oci.image."

// WriteFile writes the archive of Write to a file, which appears complete or not at all, and returns its digest.
func WriteFile(name string, images ...Image) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return "", fmt.Errorf("write image: %w", err)
	}
	sum := sha256.New()
	err = errors.Join(Write(io.MultiWriter(f, sum), images...), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("write image: %w", err), os.Remove(f.Name()))
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// Write writes an archive of one image for one or more architectures. The first one's Ref names it, and is
// what readers get that know no others (docker load without the containerd image store).
func Write(w io.Writer, images ...Image) error {
	if len(images) == 0 {
		return errors.New("an archive needs an image")
	}
	ref := images[0].Ref
	repo, tag, ok := cutTag(ref)
	if !ok {
		return fmt.Errorf("image reference %q has no tag", ref)
	}
	out := archive{tar: tar.NewWriter(w)}
	all := index{SchemaVersion: 2, MediaType: mediaType + "index.v1+json"}
	var docker []dockerManifest
	for _, img := range images {
		d, m, err := out.image(img)
		if err != nil {
			return err
		}
		all.Manifests = append(all.Manifests, d)
		if docker == nil {
			m.RepoTags = []string{repo + ":" + tag}
			docker = append(docker, m)
		}
	}
	top := all.Manifests[0]
	if len(images) > 1 {
		top = out.json("index.v1+json", all)
	}
	top.Annotations = map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": tag}
	out.jsonFile("index.json", index{SchemaVersion: 2, Manifests: []descriptor{top}})
	out.jsonFile("manifest.json", docker)
	out.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return errors.Join(out.err, out.tar.Close())
}

// image writes what is in the image for one architecture, and returns what refers to it.
func (a *archive) image(img Image) (descriptor, dockerManifest, error) {
	raw, err := layer(img.Files)
	if err != nil {
		return descriptor{}, dockerManifest{}, err
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(raw); err != nil {
		return descriptor{}, dockerManifest{}, fmt.Errorf("compress layer: %w", err)
	}
	if err := z.Close(); err != nil {
		return descriptor{}, dockerManifest{}, fmt.Errorf("compress layer: %w", err)
	}
	p := platform{Architecture: cmp.Or(img.Arch, runtime.GOARCH), OS: "linux"}
	layerBlob := a.blob("layer.v1.tar+gzip", zipped.Bytes())
	configBlob := a.json("config.v1+json", config{
		platform: p,
		Config: runConfig{
			User: img.User, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/"},
			Entrypoint: img.Entrypoint, Cmd: img.Cmd, WorkingDir: "/", Labels: img.Labels,
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{digest(raw)}},
	})
	d := a.json("manifest.v1+json", manifest{SchemaVersion: 2, MediaType: mediaType + "manifest.v1+json", Config: configBlob, Layers: []descriptor{layerBlob}})
	d.Platform = &p
	return d, dockerManifest{Config: blobPath(configBlob), Layers: []string{blobPath(layerBlob)}}, nil
}

// archive collects the first error, so that a writer need not look at each.
type archive struct {
	tar *tar.Writer
	err error
}

func (a *archive) file(name string, text []byte) {
	if a.err != nil {
		return
	}
	if a.err = a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Format: tar.FormatUSTAR}); a.err == nil {
		_, a.err = a.tar.Write(text)
	}
}

func (a *archive) jsonFile(name string, v any) {
	text, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	a.file(name, text)
}

func (a *archive) json(kind string, v any) descriptor {
	text, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	return a.blob(kind, text)
}

func (a *archive) blob(kind string, text []byte) descriptor {
	d := descriptor{MediaType: mediaType + kind, Digest: digest(text), Size: int64(len(text))}
	a.file(blobPath(d), text)
	return d
}

func blobPath(d descriptor) string { return "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:") }

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// cutTag splits a reference at its tag; a port is none.
func cutTag(ref string) (repo, tag string, ok bool) { //nolint:nonamedreturns // tells the two apart
	i := strings.LastIndexByte(ref, ':')
	if i < 0 || strings.Contains(ref[i:], "/") {
		return ref, "", false
	}
	return ref[:i], ref[i+1:], true
}

// layer packs the files in the order of their targets, every folder before what is in it, everything owned by root and without times.
func layer(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	folders := map[string]bool{".": true, "/": true}
	var folder func(name string) error
	folder = func(name string) error {
		if folders[name] {
			return nil
		}
		folders[name] = true
		if err := folder(path.Dir(name)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatUSTAR})
	}
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777, Format: tar.FormatUSTAR}); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	folders["tmp"] = true
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Target, b.Target) })
	for _, f := range files {
		name := strings.TrimPrefix(path.Clean(f.Target), "/")
		if err := folder(path.Dir(name)); err != nil {
			return nil, fmt.Errorf("write layer: %w", err)
		}
		if err := put(w, name, f); err != nil {
			return nil, fmt.Errorf("add %s: %w", f.Target, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return buf.Bytes(), nil
}

func put(w *tar.Writer, name string, f File) error {
	if f.Link != "" {
		return w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: f.Link, Mode: 0o777, Format: tar.FormatUSTAR})
	}
	in, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", f.Source)
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: info.Size(), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}
