package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/barelb/barelb/lab/box"
)

// nodeSpec is the box of a node. What kubelets and container runtimes write on a host they write into directories of the box's own.
func nodeSpec(name string, mode Mode) box.Spec {
	spec := box.Spec{Name: name, Sysctls: forwarding(hashPolicy())}
	if mode != Real {
		return spec
	}
	spec.Private = []string{"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers"}
	spec.ShareMounts = true
	spec.Cgroup = true
	// A kubelet sets these for the whole machine. Here it finds them as it wants them, in files of the box.
	spec.Covered = map[string]string{
		"vm.overcommit_memory":      "1",
		"vm.panic_on_oom":           "0",
		"kernel.panic":              "10",
		"kernel.panic_on_oops":      "1",
		"kernel.keys.root_maxkeys":  "1000000",
		"kernel.keys.root_maxbytes": "25000000",
	}
	return spec
}

// nodeFiles are the configuration files of a node's programs, by name; they are written to the box's folder.
var nodeFiles = map[string]*template.Template{ //nolint:gochecknoglobals // constants
	"cni/10-lab.conflist": template.Must(template.New("").Parse(`{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
    "ranges": [[{"subnet": "{{.Pods4}}"}], [{"subnet": "{{.Pods6}}"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`)),
	// restrict_oom_score_adj: not every machine gives CAP_SYS_RESOURCE, and runc fails without it.
	// no_sync: nothing of a lab outlives a crash of the machine.
	"containerd.toml": template.Must(template.New("").Parse(`version = 4
imports = []
disabled_plugins = [
  'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper',
  'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.zfs', 'io.containerd.nri.v1.nri',
  'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing',
]
[plugins.'io.containerd.metadata.v1.bolt']
no_sync = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{{.Pause}}'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{{.Bin}}']
conf_dir = '{{.Inside}}/cni'
`)),
	"kubelet.yaml": template.Must(template.New("").Parse(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: {{.PKI}}/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: {{.PKI}}/kubelet-{{.Name}}.crt
tlsPrivateKeyFile: {{.PKI}}/kubelet-{{.Name}}.key
cgroupDriver: cgroupfs
cgroupRoot: {{.Cgroup}}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
resolvConf: {{.Inside}}/resolv.conf
`)),
	"resolv.conf": template.Must(template.New("").Parse("nameserver 127.0.0.1\n")),
}

// writeNode writes the configuration of node i.
func (c *Cluster) writeNode(i int) error {
	b := c.Box(NodeName(i))
	p4, p6 := podPrefixes(i)
	data := map[string]any{
		"Name": b.Name(), "Pods4": p4, "Pods6": p6, "Bin": c.cfg.Bin, "PKI": c.pki.dir, "Inside": box.Inside,
		"Cgroup": box.CgroupPath(c.cfg.Name, b.Name()), "Pause": PauseImage,
	}
	for name, t := range nodeFiles {
		path := filepath.Join(b.Dir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		f, err := os.Create(path)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := errors.Join(t.Execute(f, data), f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// startContainerd starts the container runtime of node i and loads the images.
func (c *Cluster) startContainerd(ctx context.Context, i int) error {
	if err := c.writeNode(i); err != nil {
		return err
	}
	b := c.Box(NodeName(i))
	p, err := b.StartWith(box.Program{
		Log:  "containerd",
		Args: []string{c.bin("containerd"), "--config", box.Inside + "/containerd.toml", "--log-level", "warn"},
		Env:  []string{"PATH=" + c.cfg.Bin + ":" + os.Getenv("PATH")}, // it looks for its shim there
	})
	if err != nil {
		return err
	}
	if err := waitFor(ctx, "containerd of "+b.Name(), func() error {
		_, err := os.Stat(inside(b, "/run/containerd/containerd.sock"))
		return err
	}, p); err != nil {
		return err
	}
	for _, image := range append([]string{c.pauseTar()}, c.cfg.Images...) {
		if err := c.loadImage(ctx, i, image); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) loadImage(ctx context.Context, i int, tar string) error {
	tar, err := filepath.Abs(tar)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	b := c.Box(NodeName(i))
	out, err := b.Command(ctx, c.bin("ctr"), "-n", "k8s.io", "images", "import", "--local", tar).CombinedOutput()
	if err != nil {
		return fmt.Errorf("load %s into %s: %w: %s", tar, b.Name(), err, out)
	}
	return nil
}

// LoadImage loads an image archive into every node of a running cluster.
func (c *Cluster) LoadImage(ctx context.Context, tar string) error {
	for i := range c.cfg.Nodes {
		if err := c.loadImage(ctx, i+1, tar); err != nil {
			return err
		}
	}
	return nil
}

// startKubelet starts the kubelet of node i.
func (c *Cluster) startKubelet(i int) error {
	v4, v6 := NodeAddrs(i)
	b := c.Box(NodeName(i))
	_, err := b.StartWith(box.Program{
		Log: "kubelet",
		Args: []string{
			c.bin("kubelet"), "--config", box.Inside + "/kubelet.yaml", "--kubeconfig", c.pki.path(b.Name() + ".kubeconfig"),
			"--hostname-override", b.Name(), "--node-ip", v4.String() + "," + v6.String(), "--cert-dir", box.Inside + "/kubelet-pki",
		},
		Env: []string{"PATH=" + c.cfg.Bin + ":" + os.Getenv("PATH")},
	})
	return err
}
