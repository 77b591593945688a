package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/barelb/barelb/lab/box"
)

// Mode is how much of a cluster there is.
type Mode int

const (
	// Fast has a control plane and a kube-proxy per node; nodes are objects marked Ready, and pods are network namespaces (AddPod).
	Fast Mode = iota
	// Real has kubelets, containerd and a scheduler too: pods are pods.
	Real
	// Network has the hosts and the router, and no Kubernetes.
	Network
)

// MaxNodes is how many nodes the address plan has room for.
const MaxNodes = 24

// The routers a lab can have.
const (
	FRR      = "frr"
	BIRD     = "bird"
	NoRouter = "none" // router1 forwards, and speaks no routing protocol
)

// Config says what to bring up. The zero value is a Fast cluster of three nodes with an FRR router, except for Bin.
type Config struct {
	Name  string // of the lab, in cgroups and folders; default "lab"
	Mode  Mode
	Nodes int // 1 to MaxNodes; default 3
	// Bin is the folder with the binaries (package build makes it). Not needed in mode Network.
	Bin    string
	Router string // FRR (default), BIRD or NoRouter
	// ProxyMode is kube-proxy's; default nftables. iptables needs the program of that name.
	ProxyMode string
	BGP       BGP
	// Images are archives (OCI or docker-save) loaded into every node before its kubelet starts. Mode Real only.
	Images []string
	// Manifests are applied, in order, before Start returns.
	Manifests []string
	// Audit has the API server write down what the namespace metallb-system's accounts write: see AuditLog.
	Audit bool
	// Progress is told what is being done, one line at a time. It may be nil, and is called from one goroutine at a time.
	Progress func(line string)
}

// BGP is the router's side of the sessions. It listens for peers on the whole LAN, IPv4 and IPv6.
type BGP struct {
	RouterAS uint32        // default 64501
	NodeAS   uint32        // default 64500; equal to RouterAS for internal BGP
	Password string        // TCP MD5; empty for none
	HoldTime time.Duration // offered by the router, whole seconds; default 9 s, with a keepalive every third of it
	// BFD is the interval, in whole milliseconds, at which the router's BFD watches over the sessions of peers
	// that speak it, three of which declare a node down; 0 for none.
	BFD time.Duration
	// Extra is added to the configuration as it is: for FRR after the router block, for BIRD at the end.
	Extra string
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Name, "lab")
	def(&c.Router, FRR)
	def(&c.ProxyMode, "nftables")
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.BGP.RouterAS == 0 {
		c.BGP.RouterAS = 64501
	}
	if c.BGP.NodeAS == 0 {
		c.BGP.NodeAS = 64500
	}
	if c.BGP.HoldTime == 0 {
		c.BGP.HoldTime = 9 * time.Second
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		errs = append(errs, fmt.Errorf("%d nodes: want 1 to %d", c.Nodes, MaxNodes))
	}
	if c.Router != FRR && c.Router != BIRD && c.Router != NoRouter {
		errs = append(errs, fmt.Errorf("router %q: want %s, %s or %s", c.Router, FRR, BIRD, NoRouter))
	}
	if c.BGP.HoldTime < 3*time.Second || c.BGP.HoldTime%time.Second != 0 {
		errs = append(errs, fmt.Errorf("hold time %s: want whole seconds, 3 or more", c.BGP.HoldTime))
	}
	if len(c.Images) > 0 && c.Mode != Real {
		errs = append(errs, errors.New("images need kubelets"))
	}
	if len(c.Manifests) > 0 && c.Mode == Network {
		errs = append(errs, errors.New("manifests need a control plane"))
	}
	for _, f := range append(append([]string{}, c.Images...), c.Manifests...) {
		if _, err := os.Stat(f); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range c.Mode.Binaries() {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			errs = append(errs, fmt.Errorf("binaries: %w", err))
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab configuration: %w", err)
	}
	return nil
}

// Binaries lists the programs that must be in Config.Bin.
func (m Mode) Binaries() []string {
	fast := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kubectl"}
	switch m {
	case Network:
		return nil
	case Fast:
		return fast
	case Real:
		return append(fast, "pause", "kube-scheduler", "kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "ptp", "host-local", "loopback", "portmap")
	}
	return nil
}

// Main must be the first call in main and in TestMain of every program that starts clusters: see box.Main.
func Main() { box.Main() }
