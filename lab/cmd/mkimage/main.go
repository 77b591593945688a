// Command mkimage packs static binaries into a container image archive, without a container engine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/barelb/barelb/lab/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	out := flags.String("o", "", "archive to write (OCI layout; taken by ctr images import, docker load and podman load)")
	ref := flags.String("name", "", "full name and tag: docker.io/barelb/barelb:dev")
	entry := flags.String("entrypoint", "", "program to run and its fixed arguments, separated by spaces")
	cmd := flags.String("cmd", "", "default arguments, separated by spaces")
	user := flags.String("user", "", "uid:gid to run as (default root)")
	archs := flags.String("arch", runtime.GOARCH, "architectures of the binaries, separated by commas; {arch} in a FILE stands for each")
	papers := flags.Bool("papers", false, "write a bill of materials and the provenance beside the archive, from the first file")
	flags.Usage = func() {
		_, _ = fmt.Fprintln(flags.Output(), "Usage: mkimage -o FILE -name REF -entrypoint PROGRAM FILE:TARGET | TARGET=LINK ...")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || *ref == "" || flags.NArg() == 0 {
		flags.Usage()
		return errors.New("-o, -name and at least one file are needed")
	}
	var images []image.Image
	for arch := range strings.SplitSeq(*archs, ",") {
		files, err := parse(flags.Args(), arch)
		if err != nil {
			return err
		}
		images = append(images, image.Image{
			Ref: *ref, Entrypoint: strings.Fields(*entry), Cmd: strings.Fields(*cmd), User: *user, Arch: arch, Files: files,
		})
	}
	sum, err := image.WriteFile(*out, images...)
	if err != nil || !*papers {
		return err
	}
	return image.Papers(*out, *ref, sum, images[0].Files[0].Source)
}

// parse reads what files an image has.
func parse(specs []string, arch string) ([]image.File, error) {
	var out []image.File
	for _, spec := range specs {
		if target, link, ok := strings.Cut(spec, "="); ok {
			out = append(out, image.File{Target: target, Link: link})
			continue
		}
		source, target, ok := strings.Cut(spec, ":")
		if !ok {
			return nil, fmt.Errorf("%q: want FILE:TARGET or TARGET=LINK", spec)
		}
		out = append(out, image.File{Source: strings.ReplaceAll(source, "{arch}", arch), Target: target})
	}
	return out, nil
}
