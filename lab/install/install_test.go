package install_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/cli"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/demo"
	"github.com/barelb/barelb/lab/examples"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	cluster.Main()
	if len(os.Args) > 1 && os.Args[1] == measure.ToolWord { // an instrument inside a host
		if err := measure.Run(context.Background(), os.Args[2:], measure.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// TestHelm installs both charts with their default values on real kubelets, from the built image; upgrades, rolls back and
// uninstalls. The Service answers all the time in between, and afterwards nothing is announced and every pool is there.
func TestHelm(t *testing.T) {
	l := start(t)
	l.helm("install", "barelb-crds", "../../deploy/crds-chart", "--wait")
	l.helm("install", "barelb", "../../deploy/chart", "--namespace", system.Namespace, "--create-namespace", "--wait", "--timeout", "4m")
	sys, err := system.Install(l.ctx, l.c, system.Config{Manifest: "../../deploy/manifests/namespace.yaml"}, l.self) // waits for all Pods
	l.must(err)
	for _, manifest := range []string{examples.Pool, examples.Layer2, strings.Replace(examples.BGP, "  holdTime:", demo.WithGracefulRestart+"  holdTime:", 1)} {
		l.must(l.c.ApplyYAML(l.ctx, manifest))
	}
	l.must(sys.PlaceBackends(l.ctx, l.c.Nodes()...))
	l.must(sys.CreateService(l.ctx, system.Service{Name: "web"}))
	addrs, err := sys.AwaitAddresses(l.ctx, "default", "web", 1)
	l.must(err)
	l.vip = addrs[0]
	l.eventually("kube-proxies to know the Service", func() string { // they hear of its address when the speakers do
		return l.flows(cluster.Client) + l.flows(cluster.Remote)
	})
	l.answers("installed")

	l.helm("upgrade", "barelb", "../../deploy/chart", "--namespace", system.Namespace, "--wait", "--timeout", "4m",
		"--set", "speaker.logLevel=debug,controller.replicas=2")
	l.answers("upgraded")
	if out := l.kubectl("get", "deployment", "controller", "-o", "jsonpath={.status.readyReplicas}"); out != "2" {
		t.Errorf("%s controllers are ready", out)
	}
	l.underLoad("rollout restart", func() {
		for _, w := range []string{"daemonset/speaker", "deployment/controller"} {
			l.kubectl("rollout", "restart", w)
			l.kubectl("rollout", "status", w, "--timeout=4m")
		}
	})
	l.answers("restarted")
	l.helm("rollback", "barelb", "1", "--namespace", system.Namespace, "--wait", "--timeout", "4m")
	l.answers("rolled back")
	l.webhook()
	l.answers("with the webhook")

	l.helm("uninstall", "barelb", "--namespace", system.Namespace, "--wait", "--timeout", "4m")
	l.eventually("nothing to be announced", func() string {
		hops, err := l.hops()
		if err != nil || hops > 0 {
			return fmt.Sprintf("%d next hops (%v)", hops, err)
		}
		macs, err := l.macs()
		if err != nil || len(macs) > 0 {
			return fmt.Sprintf("answers from %v (%v)", macs, err)
		}
		return ""
	})
	if out := l.kubectl("get", "validatingwebhookconfigurations,services,secrets", "-o", "name"); strings.Contains(out, "webhook") {
		t.Errorf("the webhook is not gone: %s", out)
	}
	l.helm("uninstall", "barelb-crds")
	if out := l.kubectl("get", "ipaddresspools", "-o", "name"); !strings.Contains(out, "bgp-pool") {
		t.Errorf("the pool is gone: %q", out)
	}
}

// webhook turns the webhook on, off and on again, by the chart.
func (l *lab) webhook() {
	l.t.Helper()
	upgrade := func(set string) {
		l.helm("upgrade", "barelb", "../../deploy/chart", "--namespace", system.Namespace, "--wait", "--timeout", "4m", "--set", set)
	}
	upgrade("controller.webhookMode=enabled")
	l.eventually("the webhook to refuse", l.overlapPasses)
	if out, err := l.dryRun("good", "198.18.0.0/24"); err != nil {
		l.t.Errorf("a pool that is in order: %v %s", err, out)
	}
	roots := func() string {
		return l.kubectl("get", "validatingwebhookconfiguration", "metallb-webhook-configuration", "-o", "jsonpath={.webhooks[*].clientConfig.caBundle}")
	}
	before := roots()
	upgrade("controller.webhookMode=enabled,controller.replicas=2,controller.logLevel=debug")
	if after := roots(); before == "" || after != before {
		l.t.Errorf("an upgrade changed by which roots the webhook is known: %q, %q before", after, before)
	}
	l.eventually("the webhook to refuse after an upgrade", l.overlapPasses)

	upgrade("controller.webhookMode=disabled")
	l.eventually("the webhook to be gone", func() string { // what a controller made that was ending is collected
		if out := l.kubectl("get", "validatingwebhookconfigurations,services,secrets", "-o", "name"); strings.Contains(out, "webhook") {
			return out
		}
		return ""
	})
	l.eventually("nobody to refuse", func() string { // the API server hears of it by a watch
		if out, err := l.dryRun("bad", "192.168.1.250-192.168.1.251"); err != nil {
			return fmt.Sprint(err, out)
		}
		return ""
	})
	l.certManager(func() { upgrade("controller.webhookMode=enabled,controller.webhook.certManager.enabled=true") })
	upgrade("controller.webhookMode=enabled")
	l.eventually("the webhook to refuse again", l.overlapPasses)
}

// certManager turns the webhook on with a certificate of cert-manager's, for which the test stands: controllers are
// Ready before there is one, and then serve with it.
func (l *lab) certManager(turnOn func()) {
	l.t.Helper()
	for kind, plural := range map[string]string{"Certificate": "certificates", "Issuer": "issuers"} {
		l.must(l.c.ApplyYAML(l.ctx, fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.cert-manager.io}
spec:
  group: cert-manager.io
  names: {kind: %[2]s, plural: %[1]s}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, plural, kind)))
		l.kubectl("wait", "crd", plural+".cert-manager.io", "--for=condition=Established")
	}
	turnOn() // and waits until the controller is Ready
	certificate, key := selfSigned(l.t, l.kubectl("get", "certificate", "webhook", "-o", "jsonpath={.spec.dnsNames[0]}"))
	dir := l.t.TempDir()
	l.must(os.WriteFile(filepath.Join(dir, "tls.crt"), certificate, 0o600))
	l.must(os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
	secret := l.kubectl("get", "certificate", "webhook", "-o", "jsonpath={.spec.secretName}")
	l.kubectl("create", "secret", "tls", secret, "--cert="+filepath.Join(dir, "tls.crt"), "--key="+filepath.Join(dir, "tls.key"))
	l.kubectl("annotate", "pod", "-l", "app=metallb,component=controller", "lab/seen=yes") // so that the kubelet looks at its volumes now
	bundle, hook := base64.StdEncoding.EncodeToString(certificate), "metallb-webhook-configuration"
	patch := fmt.Sprintf(`[{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": %q}]`, bundle)
	l.kubectl("patch", "validatingwebhookconfiguration", hook, "--type=json", "-p", patch)
	l.eventually("the webhook to refuse with a certificate that it was given", l.overlapPasses)
	if now := l.kubectl("get", "validatingwebhookconfiguration", hook, "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}"); now != bundle {
		l.t.Errorf("the controller has changed by which root it is known: %q", now)
	}
	l.kubectl("delete", "secret", secret)
}

// selfSigned returns a certificate for a name, and its key.
func selfSigned(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// overlapPasses asks for a pool that overlaps with that of the test, and says so unless it is refused with MetalLB's words.
func (l *lab) overlapPasses() string {
	out, err := l.dryRun("bad", "192.168.1.250-192.168.1.251")
	if err == nil || !strings.Contains(err.Error()+out, "overlaps with already defined CIDR") {
		return fmt.Sprintf("not refused for that: %v %s", err, out)
	}
	return ""
}

func (l *lab) dryRun(name, addresses string) (string, error) {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), name+".yaml")
	text := fmt.Sprintf("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: %s, namespace: %s}\nspec: {addresses: [%s]}\n", name, system.Namespace, addresses)
	l.must(os.WriteFile(file, []byte(text), 0o600))
	return l.c.Kubectl(l.ctx, "create", "--dry-run=server", "-f", file)
}

// lab is a cluster of real nodes.
type lab struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // of the test
	c    *cluster.Cluster
	self string
	vip  netip.Addr
}

func start(t *testing.T) *lab {
	t.Helper()
	images := []string{"../../bin/barelb-image.tar", "../../bin/backend-image.tar"}
	for i, file := range images {
		if _, err := os.Stat(file); err != nil {
			skip(t, "the images are not built: run `make image lab-tool`")
		}
		images[i], _ = filepath.Abs(file)
	}
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	ctx, stop := signal.NotifyContext(t.Context(), unix.SIGINT, unix.SIGTERM)
	t.Cleanup(stop)
	cfg := cluster.Config{
		Name: fmt.Sprintf("install-test-%d", os.Getpid()), Mode: cluster.Real, Nodes: 2, Images: images,
		Progress: func(line string) { t.Log(line) },
	}
	bin, err := cli.Prepare(ctx, cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Bin = bin
	l := &lab{t: t, ctx: ctx}
	if l.c, err = cluster.Start(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.c.Close(); err != nil {
			t.Error(err)
		}
	})
	l.self, err = os.Executable()
	l.must(err)
	return l
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip("SKIPPED: " + why)
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) helm(args ...string) {
	l.t.Helper()
	l.t.Log("helm", strings.Join(args, " "))
	cmd := exec.CommandContext(l.ctx, "go", append([]string{"tool", "-modfile=../../tools/helm/go.mod", "helm"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+l.c.Kubeconfig())
	if out, err := cmd.CombinedOutput(); err != nil {
		pods, _ := l.c.Kubectl(l.ctx, "-n", system.Namespace, "get", "pods", "-o", "wide")
		l.t.Fatalf("helm %s: %v\n%s\n%s", strings.Join(args, " "), err, out, pods)
	}
}

func (l *lab) kubectl(args ...string) string {
	l.t.Helper()
	out, err := l.c.Kubectl(l.ctx, append([]string{"-n", system.Namespace}, args...)...)
	l.must(err)
	return strings.TrimSpace(out)
}

func (l *lab) hops() (int, error) {
	list, err := l.c.Routes(l.ctx, netip.PrefixFrom(l.vip, l.vip.BitLen()))
	return len(list), err
}

func (l *lab) macs() ([]string, error) {
	r, err := measure.WhoHas(l.ctx, l.c.Box(cluster.Client), l.self, measure.WhoHasOpts{Addr: l.vip, Tries: 3, Interval: 200 * time.Millisecond})
	return r.MACs(), err
}

// answers waits until the Service is announced in both modes, and asks it from both clients.
func (l *lab) answers(when string) {
	l.t.Helper()
	l.eventually(when+": the Service to be announced in both modes", func() string {
		hops, err := l.hops()
		if err != nil || hops != len(l.c.Nodes()) {
			return fmt.Sprintf("%d next hops (%v)", hops, err)
		}
		macs, err := l.macs()
		if err != nil || len(macs) != 1 {
			return fmt.Sprintf("answers from %v (%v)", macs, err)
		}
		return ""
	})
	for _, from := range []string{cluster.Client, cluster.Remote} {
		if why := l.flows(from); why != "" {
			l.t.Errorf("%s: %s", when, why)
		}
	}
}

// flows asks the Service with 20 connections from a client and says how many failed, if any did.
func (l *lab) flows(from string) string {
	r, err := measure.RunFlows(l.ctx, l.c.Box(from), l.self, measure.FlowsOpts{Target: netip.AddrPortFrom(l.vip, system.Port), Count: 20})
	if err != nil || r.Failed > 0 {
		return fmt.Sprintf("%d of %d flows from %s failed: %v", r.Failed, r.Flows, from, err)
	}
	return ""
}

// underLoad does something while both clients send 200 datagrams a second and have 50 connections open each, and wants no
// datagram lost and no connection broken.
func (l *lab) underLoad(what string, act func()) {
	l.t.Helper()
	type load struct {
		from  string
		probe *measure.Probe
		hold  *measure.Hold
	}
	var loads []load
	for _, from := range []string{cluster.Client, cluster.Remote} {
		p, err := measure.StartProbe(l.ctx, l.c.Box(from), l.self, measure.ProbeOpts{Target: netip.AddrPortFrom(l.vip, system.Port)})
		l.must(err)
		h, err := measure.StartHold(l.ctx, l.c.Box(from), l.self, measure.HoldOpts{Target: netip.AddrPortFrom(l.vip, system.HoldPort)})
		l.must(err)
		loads = append(loads, load{from, p, h})
	}
	act()
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	for _, x := range loads {
		l.must(x.probe.AwaitAnswers(ctx, 400)) // a turn through its source ports
		p, err := x.probe.Stop()
		l.must(err)
		h, err := x.hold.Stop()
		l.must(err)
		l.t.Logf("%s, %s: %d of %d datagrams lost (the prober was late by up to %s), %d of %d connections broken", what, x.from, p.Lost, p.Sent, p.MaxGap.Duration(), h.Broken, h.Opened)
		if p.Lost > 0 || h.Broken > 0 || h.Opened < h.Wanted {
			l.t.Errorf("%s, %s: datagrams lost or connections broken: %+v %v %v", what, x.from, p.SendErrors, h.NotOpened, h.Reasons)
		}
	}
}

func (l *lab) eventually(what string, check func() string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	for {
		last := check()
		if last == "" {
			return
		}
		select {
		case <-ctx.Done():
			l.t.Fatalf("wait for %s: %v; last: %s", what, ctx.Err(), last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
