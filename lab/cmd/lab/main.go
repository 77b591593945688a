// Command lab starts, uses and ends Kubernetes clusters made of namespaces on this
// machine, and measures load balancers in them.
package main

import (
	"os"

	"github.com/barelb/barelb/lab/bench"
	"github.com/barelb/barelb/lab/cli"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/demo"
	"github.com/barelb/barelb/lab/failover"
)

func main() {
	cluster.Main()
	os.Exit(cli.Run(demo.Command(), demo.ToolCommand(), bench.Command(), failover.Command()))
}
