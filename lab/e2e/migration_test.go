package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// migrated is how many Services the migration moves.
const migrated = 50

// TestMigration walks the way of docs/migration.md from MetalLB to BareLB, node by node,
// and back, with 50 Services that are asked for and connections that are open, and one
// that is announced by BGP and datagrams through it. Every object and every address must be there afterwards, and answered for all the time.
//
// Nothing stands for anything: MetalLB is the real one from its own chart, by the real
// Helm, in Pods of real kubelets; and the commands are those of the document.
func TestMigration(t *testing.T) {
	m := startMigration(t)
	l := m.l
	l.helm(t, "install", "metallb", m.chart, "--namespace", system.Namespace, "--create-namespace", "--set", "frrk8s.enabled=false", "--wait", "--timeout", "4m")
	m.serve(t)
	before := m.watch(t)

	m.wantUnsafe(t, "CRDsDeletedWithRelease", "MemberlistKeyDeleted", "MemberlistLabelsDiffer", "MemberlistKeyDiffers")
	m.keepObjects(t)
	m.wantSame(t, "CRDs taken over", before)
	m.changeControllers(t)
	m.wantSame(t, "BareLB's controller at work", before)
	m.wantSafe(t)
	for i, node := range l.c.Nodes() {
		move := m.there
		if i > 0 {
			move = m.swap
		}
		move(t, node)
		m.wantSame(t, node+" moved", before)
	}
	m.removeMetalLB(t)
	m.wantSame(t, "MetalLB uninstalled", before)
	m.settle(t)
	m.wantSame(t, "BareLB alone", before)

	m.beside(t)
	m.wantSame(t, "MetalLB beside BareLB", before)
	for _, node := range l.c.Nodes() {
		m.back(t, node)
		m.wantSame(t, node+" moved back", before)
	}
	m.giveBack(t)
	m.wantSame(t, "MetalLB again", before)
	m.report(t)
}

// watch begins to ask for the addresses, and to use them, until report. It returns what must not be lost.
func (m *migration) watch(t *testing.T) map[string]string {
	t.Helper()
	l := m.l
	before := m.objects(t)
	if len(before) != migrated+1+6 {
		t.Fatalf("there are %d objects, want %d Services and 6 of configuration", len(before), migrated+1)
	}
	m.asking = l.askAll(t, quiet, measure.AskOpts{First: m.first, Count: m.count})
	for i := range 5 {
		h, err := measure.StartHold(context.WithoutCancel(t.Context()), l.c.Box(cluster.Client), l.self, measure.HoldOpts{
			Target: netip.AddrPortFrom(m.addrs()[10*i], system.HoldPort), Conns: 10,
		})
		must(t, err)
		t.Cleanup(func() { _, _ = h.Stop() })
		m.held = append(m.held, h)
	}
	probe, err := measure.StartProbe(context.WithoutCancel(t.Context()), l.c.Box(cluster.Remote), l.self, measure.ProbeOpts{
		Target: netip.AddrPortFrom(routed, system.Port), Interval: probeInterval, Ports: probePorts, Timeout: probeTimeout,
	})
	must(t, err)
	t.Cleanup(func() { _, _ = probe.Stop() })
	l.steady(t, probe)
	m.probe = probe
	m.mark(t, "begin")
	return before
}

// keepOff has MetalLB's speakers keep off the nodes that are BareLB's.
const keepOff = `-n metallb-system patch daemonset metallb-speaker -p '{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null},"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"barelb.io/migrated","operator":"DoesNotExist"}]}]}}}}}}}'`

// converts gives the CRD of BGPPeers the conversion of MetalLB's chart.
const converts = `patch crd bgppeers.metallb.io --type=merge -p '{"spec":{"conversion":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1beta1","v1beta2"],"clientConfig":{"service":{"name":"metallb-webhook-service","namespace":"metallb-system","path":"/convert"}}}}}}'`

// migration is the cluster on its way.
type migration struct {
	*mixed
	doc    string
	chart  string // MetalLB's
	file   string // MetalLB's manifests
	dir    string // with the kustomization
	asking *measure.Ask
	held   []*measure.Hold
	probe  *measure.Probe // of the address that is announced by BGP
}

// startMigration starts a cluster with kubelets.
func startMigration(t *testing.T) *migration {
	t.Helper()
	need(t, "runc")
	mlb := realMetalLB(t)
	cfg := cluster.Config{Name: fmt.Sprintf("e2e-migration-%d", os.Getpid()), Mode: cluster.Real, Images: metallbImages(t, mlb)}
	for env, file := range map[string]string{"BARELB_IMAGE": "barelb-image.tar", "BARELB_BACKEND_IMAGE": "backend-image.tar"} {
		path, err := input(env, "../../bin/"+file, "run `make image lab-tool`")
		must(t, err)
		cfg.Images = append(cfg.Images, path)
	}
	l, err := running.get(cfg)
	must(t, err)
	t.Cleanup(func() {
		l.dump(t)
		if err := running.end(cfg.Name); err != nil {
			t.Error(err)
		}
	})
	return &migration{
		mixed: &mixed{l: l, first: netip.MustParseAddr("192.168.1.200"), count: migrated}, doc: read(t, "../../docs/migration.md"),
		chart: mlb.Chart, file: mlb.Manifest, dir: t.TempDir(),
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return string(b)
}

// do runs a command of kubectl that the document has, with NODE replaced.
func (m *migration) do(t *testing.T, node, command string) {
	t.Helper()
	_, err := m.l.c.Kubectl(t.Context(), m.words(t, "kubectl", node, command)...)
	must(t, err)
}

// helm runs one of Helm.
func (m *migration) helm(t *testing.T, command string) {
	t.Helper()
	words := m.words(t, "helm", "", command)
	if i := slices.Index(words, ">"); i >= 0 {
		must(t, os.WriteFile(words[i+1], []byte(m.l.helm(t, words[:i]...)), 0o600))
		return
	}
	m.l.helm(t, words...)
}

func (m *migration) words(t *testing.T, program, node, command string) []string {
	t.Helper()
	m.says(t, program+" "+command)
	return strings.Fields(strings.NewReplacer(
		"NODE", node, " deploy/", " ../../deploy/", " metallb/metallb ", " "+m.chart+" ", "barelb-migration", m.dir, "barelb-over", m.dir, "metallb-over", m.dir,
		"metallb-values.yaml", filepath.Join(m.dir, "metallb-values.yaml"), "'", "",
	).Replace(command))
}

// says wants the document to have a line.
func (m *migration) says(t *testing.T, line string) {
	t.Helper()
	if !strings.Contains(m.doc, "\n"+line+"\n") {
		t.Fatalf("docs/migration.md does not say: %s", line)
	}
}

// check runs migrate check, and returns the reasons of what it calls broken.
func (m *migration) check(t *testing.T) []string {
	t.Helper()
	out, err := m.l.barelb(t.Context(), "migrate", "check", "-o", "json")
	if err != nil {
		_, out, _ = strings.Cut(err.Error(), ": ")
		out, _, _ = strings.Cut(out, "\nbarelb: not safe")
	}
	var found []struct{ Level, Reason, What string }
	if e := json.Unmarshal([]byte(out), &found); e != nil {
		t.Fatalf("read what migrate check says: %v: %v", e, err)
	}
	var broken []string
	for _, f := range found {
		if f.Level == "broken" || f.Level == "notChecked" {
			broken = append(broken, f.Reason+" "+f.What)
		}
	}
	if (err == nil) != (len(broken) == 0) {
		t.Errorf("migrate check ends with %v, and finds %q", err, broken)
	}
	return broken
}

// wantSafe wants migrate check to find nothing, but for the reasons given.
func (m *migration) wantSafe(t *testing.T, but ...string) {
	t.Helper()
	broken := slices.DeleteFunc(m.check(t), func(s string) bool {
		return slices.ContainsFunc(but, func(reason string) bool { return strings.HasPrefix(s, reason+" ") })
	})
	if len(broken) > 0 {
		t.Errorf("migrate check finds %q", broken)
	}
}

func (m *migration) wantUnsafe(t *testing.T, reasons ...string) {
	t.Helper()
	broken := m.check(t)
	for _, want := range reasons {
		if !slices.ContainsFunc(broken, func(s string) bool { return strings.HasPrefix(s, want+" ") }) {
			t.Errorf("migrate check does not find %s, but %q", want, broken)
		}
	}
}

// objects returns what must not be lost: the specs of the configuration, and what each
// Service has.
func (m *migration) objects(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, kind := range []string{"IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community"} {
		all, err := m.l.objects(kind, system.Namespace).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		for _, o := range all.Items {
			spec, err := json.Marshal(o.Object["spec"])
			must(t, err)
			out[kind+" "+o.GetName()+" "+string(o.GetUID())] = string(spec)
		}
	}
	services, err := m.l.kube.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, o := range services.Items {
		if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			out["Service "+o.Name+" "+string(o.UID)] = address(&o) + " from " + o.Annotations[allocated]
		}
	}
	return out
}

// mark ends a step.
func (m *migration) mark(t *testing.T, step string) {
	t.Helper()
	must(t, m.asking.AwaitRequests(t.Context(), 2*migrated)) // so that each address was asked for since the last mark
	must(t, m.asking.Mark(step))
	must(t, m.probe.Mark(step))
	for _, h := range m.held {
		must(t, h.Mark(step))
	}
}

func (m *migration) wantSame(t *testing.T, when string, before map[string]string) {
	t.Helper()
	m.l.wantNoRestarts(t, when)
	m.awaitRoutes(t)
	m.mark(t, when)
	now := m.objects(t)
	for name, was := range before {
		if is, there := now[name]; !there || is != was {
			t.Errorf("%s: %s is %q, was %q", when, name, is, was)
		}
	}
	if len(now) != len(before) {
		t.Errorf("%s: there are %d objects, were %d", when, len(now), len(before))
	}
}

// serve has MetalLB serve the cluster, in its native mode.
func (m *migration) serve(t *testing.T) {
	t.Helper()
	l := m.l
	last := m.addrs()[migrated-1].Next() // one is free
	objects := object("Community", "names", "communities: [{name: keep-inside, value: \"65535:65281\"}]") +
		pool("office", []string{m.first.String() + "-" + last.String()}) +
		object("L2Advertisement", "office", "ipAddressPools: [office]") +
		pool("routed", []string{routed.String() + "/32"}, "autoAssign: false") +
		object("BGPPeer", "router", "myASN: 64500", "peerASN: 64501", "peerAddress: 192.168.1.1") +
		object("BGPAdvertisement", "routed", "ipAddressPools: [routed]", "communities: [keep-inside]")
	eventually(t, "MetalLB's webhook to answer", func() error { return l.c.ApplyYAML(t.Context(), objects) })
	must(t, l.sys.PlaceBackends(t.Context(), l.c.Nodes()...))
	for i := range m.count {
		must(t, l.sys.CreateService(t.Context(), system.Service{Name: fmt.Sprintf("migrate-%d", i)}))
	}
	for i := range m.count {
		_, err := l.sys.AwaitAddresses(t.Context(), namespace, fmt.Sprintf("migrate-%d", i), 1)
		must(t, err)
	}
	must(t, l.sys.CreateService(t.Context(), system.Service{Name: "routed", Annotations: map[string]string{"metallb.io/address-pool": "routed"}}))
	m.awaitOwners(t, l.c.Nodes()...)
	m.awaitRoutes(t)
}

// routed is the address that is announced by BGP.
var routed = netip.MustParseAddr("203.0.113.77")

// awaitRoutes waits until the router has a route through each node.
func (m *migration) awaitRoutes(t *testing.T) {
	t.Helper()
	eventually(t, "a route through each node", func() error {
		hops, err := m.l.c.Routes(t.Context(), netip.PrefixFrom(routed, routed.BitLen()))
		if err == nil && len(hops) != len(m.l.c.Nodes()) {
			err = fmt.Errorf("there are %d", len(hops))
		}
		return err
	})
}

// keepObjects is steps 1 and 2.
func (m *migration) keepObjects(t *testing.T) {
	t.Helper()
	m.do(t, "", "annotate crd bfdprofiles.metallb.io bgpadvertisements.metallb.io bgppeers.metallb.io communities.metallb.io configurationstates.metallb.io ipaddresspools.metallb.io l2advertisements.metallb.io servicebgpstatuses.metallb.io servicel2statuses.metallb.io helm.sh/resource-policy=keep")
	m.helm(t, "upgrade metallb metallb/metallb --namespace metallb-system --reuse-values --set crds.enabled=false")
	m.do(t, "", `patch crd bgppeers.metallb.io --type=merge -p '{"spec":{"conversion":{"strategy":"None","webhook":null}}}'`)
	m.do(t, "", "apply --server-side --force-conflicts -f deploy/crds")
	m.do(t, "", `-n metallb-system patch secret metallb-memberlist --type=merge -p '{"metadata":{"ownerReferences":null}}'`)
}

// changeControllers is steps 3 and 4.
func (m *migration) changeControllers(t *testing.T) {
	t.Helper()
	m.do(t, "", "-n metallb-system scale deployment metallb-controller --replicas=0")
	m.do(t, "", "delete validatingwebhookconfiguration metallb-webhook-configuration")
	m.do(t, "", keepOff)
	m.kustomize(t, "barelb-migration", read(t, "../../deploy/install.yaml"))
	m.do(t, "", "apply --server-side --force-conflicts -k barelb-migration")
	m.awaitClaims(t)
}

// kustomize makes dir what the document calls by a name: its kustomization, with a manifest.
func (m *migration) kustomize(t *testing.T, name, manifest string) {
	t.Helper()
	block := regexp.MustCompile("(?s)`" + name + "`.*?```yaml\n(apiVersion: kustomize.config.k8s.io.*?)```").FindStringSubmatch(m.doc)
	if block == nil {
		t.Fatalf("docs/migration.md has no kustomization.yaml for %s", name)
	}
	must(t, os.WriteFile(filepath.Join(m.dir, "kustomization.yaml"), []byte(block[1]), 0o600))
	must(t, os.WriteFile(filepath.Join(m.dir, "install.yaml"), []byte(manifest), 0o600))
}

// awaitClaims waits for BareLB's controller.
func (m *migration) awaitClaims(t *testing.T) {
	t.Helper()
	eventually(t, "a claim for each address", func() error {
		claims, err := m.l.claims(t.Context())
		if err == nil && len(claims) != migrated+1 {
			err = fmt.Errorf("there are %d claims", len(claims))
		}
		return err
	})
}

// awaitSpeaker waits for the Pod of a node's speaker: ours or theirs.
func (m *migration) awaitSpeaker(t *testing.T, node, labels string) {
	t.Helper()
	for _, what := range []string{"create", "condition=Ready"} { // a Pod that is not there yet cannot be waited for
		m.do(t, node, "-n metallb-system wait pod -l "+labels+" --field-selector spec.nodeName=NODE --for="+what+" --timeout=2m")
	}
}

const (
	ourSpeaker   = "app=metallb,component=speaker"
	theirSpeaker = "app.kubernetes.io/instance=metallb,app.kubernetes.io/component=speaker"
)

// there is step 5 for one node, with nothing announced from it until the label is taken off.
func (m *migration) there(t *testing.T, node string) {
	t.Helper()
	m.do(t, node, "label node NODE node.kubernetes.io/exclude-from-external-load-balancers=")
	m.do(t, node, "label node NODE barelb.io/migrated=true")
	m.awaitSpeaker(t, node, ourSpeaker)
	m.do(t, node, "label node NODE node.kubernetes.io/exclude-from-external-load-balancers-")
	m.awaitOwners(t, m.l.c.Nodes()...)
}

// swap is step 5 for one node as it is: MetalLB's speaker says that it leaves.
func (m *migration) swap(t *testing.T, node string) {
	t.Helper()
	m.do(t, node, "label node NODE barelb.io/migrated=true")
	m.awaitSpeaker(t, node, ourSpeaker)
	m.awaitOwners(t, m.l.c.Nodes()...)
}

// removeMetalLB is step 6.
func (m *migration) removeMetalLB(t *testing.T) {
	t.Helper()
	m.wantSafe(t)
	m.helm(t, "get values metallb --namespace metallb-system --output yaml > metallb-values.yaml")
	m.helm(t, "uninstall metallb --namespace metallb-system")
	eventually(t, "MetalLB to be gone", func() error {
		left, err := m.l.kube.AppsV1().DaemonSets(system.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=metallb"})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d DaemonSets are left", len(left.Items))
		}
		return err
	})
	if _, err := m.l.kube.CoreV1().Secrets(system.Namespace).Get(t.Context(), "metallb-memberlist", metav1.GetOptions{}); err != nil {
		t.Errorf("the key is gone: %v", err)
	}
}

// settle is the rest of step 6.
func (m *migration) settle(t *testing.T) {
	t.Helper()
	file := filepath.Join(m.dir, "kustomization.yaml")
	with := read(t, file)
	without := regexp.MustCompile(`(?m)^ *nodeSelector: .*\n`).ReplaceAllString(with, "")
	must(t, os.WriteFile(file, []byte(without), 0o600))
	m.do(t, "", "apply --server-side --force-conflicts -k barelb-migration")
	m.do(t, "", "-n metallb-system rollout status daemonset speaker")
	m.do(t, "", "label nodes --all barelb.io/migrated-")
	must(t, os.WriteFile(file, []byte(with), 0o600)) // as the way back has it again
	m.awaitOwners(t, m.l.c.Nodes()...)
	m.wantSafe(t)
}

// beside brings MetalLB back beside BareLB.
func (m *migration) beside(t *testing.T) {
	t.Helper()
	m.do(t, "", "label nodes --all barelb.io/migrated=true")
	m.do(t, "", "apply --server-side --force-conflicts -k barelb-migration")
	m.do(t, "", "-n metallb-system rollout status daemonset speaker")
	m.do(t, "", "-n metallb-system scale deployment controller --replicas=0")
	m.helm(t, "install metallb metallb/metallb --namespace metallb-system --values metallb-values.yaml --set crds.enabled=false")
	m.do(t, "", converts)
	m.do(t, "", keepOff)
	m.awaitOwners(t, m.l.c.Nodes()...)
	m.wantSafe(t)

	// What was made with BareLB, and has MetalLB's speakers announce nothing.
	profile := m.l.objects("BFDProfile", system.Namespace)
	eventually(t, "MetalLB's webhook to answer", func() error {
		return m.l.c.ApplyYAML(t.Context(), object("BFDProfile", "fast", "receiveInterval: 100"))
	})
	m.wantUnsafe(t, "RefusedByMetalLB")
	must(t, profile.Delete(t.Context(), "fast", metav1.DeleteOptions{}))
	m.wantSafe(t)
}

// back moves one node back.
func (m *migration) back(t *testing.T, node string) {
	t.Helper()
	m.do(t, node, "label node NODE barelb.io/migrated-")
	m.awaitSpeaker(t, node, theirSpeaker)
	m.awaitOwners(t, m.l.c.Nodes()...)
}

// giveBack is the end of the way back. MetalLB must be all there.
func (m *migration) giveBack(t *testing.T) {
	t.Helper()
	m.do(t, "", "-n metallb-system delete daemonset speaker")
	m.do(t, "", "-n metallb-system delete deployment controller")
	m.wantMetalLB(t)
}

// wantMetalLB wants MetalLB to give an address to one who comes, and its webhook to refuse.
func (m *migration) wantMetalLB(t *testing.T) {
	t.Helper()
	must(t, m.l.sys.CreateService(t.Context(), system.Service{Name: "newcomer"}))
	_, err := m.l.sys.AwaitAddresses(t.Context(), namespace, "newcomer", 1)
	must(t, err)
	must(t, m.l.sys.DeleteService(t.Context(), namespace, "newcomer"))
	refused := ""
	eventually(t, "MetalLB's webhook to refuse", func() error {
		err := m.l.c.ApplyYAML(t.Context(), pool("twice", []string{m.first.String() + "/32"}))
		if err == nil || !strings.Contains(err.Error(), "overlaps with already defined") {
			return fmt.Errorf("it says: %w", err)
		}
		refused = err.Error()
		return nil
	})
	t.Log(refused)
}

// report says how long addresses were not answered for, and wants that to be no more
// than it costs when a speaker says that it leaves: kubelets let MetalLB's say so.
func (m *migration) report(t *testing.T) {
	t.Helper()
	r, err := m.asking.Stop()
	must(t, err)
	for i, mark := range r.Marks[:len(r.Marks)-1] { // after the last one nothing happens
		step, s := r.Marks[i+1].Name, mark.Silence
		t.Logf("%s: %d addresses; nobody answered for up to %s, half of them for %s; asked at least every %s", step, s.Count, s.Max.Duration(), s.P50.Duration(), mark.MaxGap.Duration())
		if s.Count != migrated || s.Max.Duration() > told {
			t.Errorf("%s: %d of %d addresses were asked for, and nobody answered for %s, want %s at most", step, s.Count, migrated, s.Max.Duration(), told)
		}
	}
	p, err := m.probe.Stop()
	must(t, err)
	for i, mark := range p.Marks[:len(p.Marks)-1] {
		step, longest := p.Marks[i+1].Name, mark.LongestDisturbance.Duration()
		t.Logf("%s: by BGP %d of %d datagrams lost, some of them for %s", step, mark.Lost, mark.Sent, longest)
		if longest > told {
			t.Errorf("%s: datagrams by BGP lost for %s, want %s at most", step, longest, told)
		}
	}
	opened, broken := 0, map[string]int{}
	for _, h := range m.held {
		r, err := h.Stop()
		must(t, err)
		opened += r.Opened
		for _, b := range r.Breaks {
			broken[fmt.Sprintf("after %q, %s: %s", b.Mark, r.Target.Addr(), b.Reason)]++
		}
	}
	if opened != 50 {
		t.Errorf("%d connections could be opened, want 50", opened)
	}
	for _, what := range slices.Sorted(maps.Keys(broken)) {
		t.Logf("of 50 open connections %d broke %s", broken[what], what)
	}
}
