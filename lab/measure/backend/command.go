package backend

import (
	"flag"
	"os"
)

// Defaults are the options of a server that no flag was given: HTTP and UDP on
// port 8080, line echo on port 8081. Its identity is POD_NAME, else the host's
// name, and NODE_NAME.
func Defaults() Options {
	pod := os.Getenv("POD_NAME")
	if pod == "" {
		pod, _ = os.Hostname()
	}
	return Options{
		HTTP: ":8080", UDP: ":8080", TCP: ":8081",
		Identity: Identity{Pod: pod, Node: os.Getenv("NODE_NAME")},
	}
}

// Flags lets flags of fs change the options.
func (o *Options) Flags(fs *flag.FlagSet) {
	fs.StringVar(&o.HTTP, "http", o.HTTP, "address of the HTTP server; empty for none")
	fs.StringVar(&o.UDP, "udp", o.UDP, "address of the UDP echo; empty for none")
	fs.StringVar(&o.TCP, "tcp", o.TCP, "address of the TCP line echo; empty for none")
	fs.DurationVar(&o.Drain, "drain", o.Drain, "serve on for so long after being told to stop")
	fs.StringVar(&o.Identity.Pod, "pod", o.Identity.Pod, "name of the pod")
	fs.StringVar(&o.Identity.Node, "node", o.Identity.Node, "name of the node")
}
