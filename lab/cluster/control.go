package cluster

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// The users of the API server that this package makes. Their rights come from the API server's own default roles.
const (
	adminUser    = "admin"        // from the machine, through the forwarder
	insideUser   = "admin-inside" // the same from within the lab's network
	managerUser  = "kube-controller-manager"
	schedulerUse = "kube-scheduler"
	proxyUser    = "kube-proxy"
)

func insideURL() string {
	v4, _ := lanAddrs(controlHost)
	return "https://" + netip.AddrPortFrom(v4, apiPort).String()
}

// makeKeys writes all keys and kubeconfigs.
func (c *Cluster) makeKeys() error {
	p, err := newPKI(filepath.Join(c.set.Dir(), "pki"), time.Now())
	if err != nil {
		return err
	}
	c.pki = p
	c4, c6 := lanAddrs(controlHost)
	loop4, loop6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	errs := []error{
		p.server("apiserver", []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", Control},
			netip.MustParseAddr(apiService4), netip.MustParseAddr(apiService6), c4, c6, loop4, loop6),
		p.user(adminUser, "https://"+c.forward.addr(), "admin", "system:masters"),
		p.user(insideUser, insideURL(), "admin", "system:masters"),
		p.user(managerUser, insideURL(), "system:kube-controller-manager"),
		p.user(schedulerUse, insideURL(), "system:kube-scheduler"),
		p.user(proxyUser, insideURL(), "system:kube-proxy"),
	}
	cert, key, err := p.issue(pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}, nil)
	errs = append(errs, err, p.write("kubelet-client.crt", cert), p.write("kubelet-client.key", key))
	for i := range c.cfg.Nodes {
		name := NodeName(i + 1)
		v4, v6 := NodeAddrs(i + 1)
		errs = append(errs, p.server("kubelet-"+name, []string{name}, v4, v6))
		if c.cfg.Mode == Real {
			errs = append(errs, p.user(name, insideURL(), "system:node:"+name, "system:nodes"))
		}
	}
	return errors.Join(errs...)
}

// startAPI starts etcd and the API server and waits until it is ready. It is where most of the time of a bring-up goes.
func (c *Cluster) startAPI(ctx context.Context) error {
	b := c.Box(Control)
	v4, _ := lanAddrs(controlHost)
	etcd, err := b.Start("etcd", c.bin("etcd"), "--data-dir", b.Dir()+"/etcd", "--unsafe-no-fsync", "--log-level", "warn")
	if err != nil {
		return err
	}
	args := []string{
		c.bin("kube-apiserver"), "--etcd-servers", "http://127.0.0.1:2379", "--bind-address", "::", "--secure-port", fmt.Sprint(apiPort),
		"--advertise-address", v4.String(), "--service-cluster-ip-range", serviceCIDRs,
		"--tls-cert-file", c.pki.path("apiserver.crt"), "--tls-private-key-file", c.pki.path("apiserver.key"), "--client-ca-file", c.pki.path("ca.crt"),
		"--kubelet-client-certificate", c.pki.path("kubelet-client.crt"), "--kubelet-client-key", c.pki.path("kubelet-client.key"),
		"--kubelet-certificate-authority", c.pki.path("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
		"--authorization-mode", "Node,RBAC",
		"--service-account-key-file", c.pki.path("sa.key"), "--service-account-signing-key-file", c.pki.path("sa.key"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--allow-privileged",
		"--enable-aggregator-routing", // no kube-proxy here: webhooks are called at their endpoints
	}
	if c.cfg.Mode == Fast {
		// Nobody would take away the taint that it puts on new nodes.
		args = append(args, "--disable-admission-plugins", "TaintNodesByCondition")
	}
	if c.cfg.Audit {
		if err := os.WriteFile(b.Dir()+"/audit.yaml", []byte(auditPolicy), 0o600); err != nil {
			return fmt.Errorf("write audit policy: %w", err)
		}
		args = append(args, "--audit-policy-file", b.Dir()+"/audit.yaml", "--audit-log-path", c.AuditLog(), "--audit-log-maxsize", "0")
	}
	api, err := b.Start("kube-apiserver", args...)
	if err != nil {
		return err
	}
	if err := c.makeClient(); err != nil {
		return err
	}
	return waitFor(ctx, "API server", func() error {
		return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}, etcd, api)
}

func (c *Cluster) makeClient() error {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.pki.path(insideUser+".kubeconfig"))
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.Dial = c.forward.dial
	cfg.QPS, cfg.Burst = 1000, 2000
	c.rest = cfg
	if c.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return nil
}

// auditPolicy is about the writes of load balancers, and of nobody else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: Metadata, verbs: [create, update, patch, delete, deletecollection], userGroups: ["system:serviceaccounts:metallb-system"]}
- {level: None}
`

// AuditLog is the path of a file with an audit event (audit.k8s.io/v1) in each line, if Config.Audit is set.
func (c *Cluster) AuditLog() string { return c.Box(Control).Dir() + "/audit.log" }

// startManagers starts the controller manager and, where there are kubelets, the scheduler.
func (c *Cluster) startManagers() error {
	b := c.Box(Control)
	args := []string{
		c.bin("kube-controller-manager"), "--kubeconfig", c.pki.path(managerUser + ".kubeconfig"), "--leader-elect=false",
		"--service-account-private-key-file", c.pki.path("sa.key"), "--root-ca-file", c.pki.path("ca.crt"), "--use-service-account-credentials",
		"--kube-api-qps", "500", "--kube-api-burst", "1000", // its default of 20 spends four seconds on making its own accounts
	}
	if c.cfg.Mode == Fast {
		// No node lifecycle: no kubelet renews a lease, and the nodes stay Ready. No endpoint slices: the test writes them.
		args = append(args, "--controllers", "serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,"+
			"namespace-controller,garbage-collector-controller")
	}
	if _, err := b.Start("kube-controller-manager", args...); err != nil {
		return err
	}
	if c.cfg.Mode != Real {
		return nil
	}
	_, err := b.Start("kube-scheduler", c.bin("kube-scheduler"), "--kubeconfig", c.pki.path(schedulerUse+".kubeconfig"), "--leader-elect=false")
	return err
}

func (c *Cluster) bin(name string) string { return filepath.Join(c.cfg.Bin, name) }

// RESTConfig is an administrator's access to the API server, dialled straight into the lab. The caller may change the copy.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.rest) }

// Client is an administrator's client of the API server; nil in mode Network.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Kubeconfig is the path of an administrator's kubeconfig for use on the machine.
func (c *Cluster) Kubeconfig() string { return c.pki.path(adminUser + ".kubeconfig") }

// InsideKubeconfig is the path of an administrator's kubeconfig for use in a box: the same path leads to it there.
func (c *Cluster) InsideKubeconfig() string { return c.pki.path(insideUser + ".kubeconfig") }
