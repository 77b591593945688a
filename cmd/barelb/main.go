// Command barelb is all of BareLB: `barelb controller` allocates addresses, and
// `barelb speaker`, on each node, announces them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/barelb/barelb/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends it at once
	code := cli.Main(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
