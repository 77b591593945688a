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
	arch := flags.String("arch", runtime.GOARCH, "architecture of the binaries")
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
	img := image.Image{Ref: *ref, Entrypoint: strings.Fields(*entry), Cmd: strings.Fields(*cmd), User: *user, Arch: *arch}
	for _, spec := range flags.Args() {
		if target, link, ok := strings.Cut(spec, "="); ok {
			img.Files = append(img.Files, image.File{Target: target, Link: link})
			continue
		}
		source, target, ok := strings.Cut(spec, ":")
		if !ok {
			return fmt.Errorf("%q: want FILE:TARGET or TARGET=LINK", spec)
		}
		img.Files = append(img.Files, image.File{Source: source, Target: target})
	}
	return image.WriteFile(*out, img)
}
