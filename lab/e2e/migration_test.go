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
	"github.com/barelb/barelb/lab/metallb"
	"github.com/barelb/barelb/lab/system"
)

// migrated is how many Services the migration moves.
const migrated = 50

// TestMigration walks the way of docs/migration.md from MetalLB to BareLB, node by node,
// and back, with 50 Services that are asked for and connections that are open. Every
// object and every address must be there afterwards, and answered for all the time.
//
// MetalLB and Helm do not run here. For MetalLB's speakers stands lab/metallb, which elects,
// answers and leaves as they do in Layer 2 mode; for its controller the addresses that it
// would have written into the Services; for Helm a release, see chart. The API server, its
// garbage collector, the CRDs, the commands of the document and BareLB are real.
func TestMigration(t *testing.T) {
	need(t)
	cfg := cluster.Config{Name: fmt.Sprintf("e2e-migration-%d", os.Getpid())}
	l, err := running.get(cfg)
	must(t, err)
	t.Cleanup(func() {
		l.dump(t)
		if err := running.end(cfg.Name); err != nil {
			t.Error(err)
		}
	})
	m := &migration{mixed: &mixed{l: l, first: netip.MustParseAddr("192.168.1.200"), count: migrated}, doc: read(t, "../../docs/migration.md")}
	m.installMetalLB(t)
	before := m.objects(t)
	if len(before) != migrated+6 {
		t.Fatalf("there are %d objects, want %d Services and 6 of configuration", len(before), migrated)
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
	m.chart.uninstall(t)
	m.wantSafe(t)
	m.wantSame(t, "MetalLB uninstalled", before)
	eventually(t, "the key to stay when MetalLB's Deployment is collected", func() error {
		_, err := l.kube.CoreV1().Secrets(system.Namespace).Get(t.Context(), "metallb-memberlist", metav1.GetOptions{})
		return err
	})

	m.beside(t)
	for _, node := range l.c.Nodes() {
		m.back(t, node)
		m.wantSame(t, node+" moved back", before)
	}
	m.giveBack(t)
	m.wantSame(t, "MetalLB again", before)
	m.report(t)
}

// keepOff has MetalLB's speakers keep off the nodes that are BareLB's.
const keepOff = `-n metallb-system patch daemonset metallb-speaker -p '{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null},"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"barelb.io/migrated","operator":"DoesNotExist"}]}]}}}}}}}'`

// migration is the cluster on its way.
type migration struct {
	*mixed
	doc    string
	chart  *chart
	asking *measure.Ask
	held   []*measure.Hold
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	return string(b)
}

// do runs a command that the document has, with NODE replaced.
func (m *migration) do(t *testing.T, node, command string) {
	t.Helper()
	if !strings.Contains(m.doc, "\nkubectl "+command+"\n") {
		t.Fatalf("docs/migration.md does not say: kubectl %s", command)
	}
	command = strings.NewReplacer("NODE", node, " deploy/", " ../../deploy/", "'", "").Replace(command)
	_, err := m.l.c.Kubectl(t.Context(), strings.Fields(command)...)
	must(t, err)
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

func (m *migration) wantSame(t *testing.T, when string, before map[string]string) {
	t.Helper()
	must(t, m.asking.AwaitRequests(t.Context(), 2*migrated)) // so that each address was asked for since the last mark
	must(t, m.asking.Mark(when))
	for _, h := range m.held {
		must(t, h.Mark(when))
	}
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

// keepObjects is steps 1 and 2.
func (m *migration) keepObjects(t *testing.T) {
	t.Helper()
	m.do(t, "", "annotate crd bfdprofiles.metallb.io bgpadvertisements.metallb.io bgppeers.metallb.io communities.metallb.io configurationstates.metallb.io ipaddresspools.metallb.io l2advertisements.metallb.io servicebgpstatuses.metallb.io servicel2statuses.metallb.io helm.sh/resource-policy=keep")
	m.chart.withoutCRDs(t)
	m.do(t, "", "apply --server-side --force-conflicts -f deploy/crds")
	m.do(t, "", `-n metallb-system patch secret metallb-memberlist --type=merge -p '{"metadata":{"ownerReferences":null}}'`)
}

// changeControllers is steps 3 and 4.
func (m *migration) changeControllers(t *testing.T) {
	t.Helper()
	l := m.l
	m.do(t, "", "-n metallb-system scale deployment metallb-controller --replicas=0")
	m.do(t, "", "delete validatingwebhookconfiguration metallb-webhook-configuration")
	m.do(t, "", keepOff)
	block := regexp.MustCompile("(?s)```yaml\n(apiVersion: kustomize.config.k8s.io.*?)```").FindStringSubmatch(m.doc)
	if block == nil {
		t.Fatal("docs/migration.md has no kustomization.yaml")
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(block[1]), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "install.yaml"), []byte(read(t, "../../deploy/install.yaml")), 0o600))
	_, err := l.c.Kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "-k", dir)
	must(t, err)
	l.startController(t)
	eventually(t, "a claim for each address", func() error {
		claims, err := l.claims(t.Context())
		if err == nil && len(claims) != migrated {
			err = fmt.Errorf("there are %d claims", len(claims))
		}
		return err
	})
}

// there is step 5 for one node. What starts and ends speakers is the test, where kubelets do.
func (m *migration) there(t *testing.T, node string) {
	t.Helper()
	l := m.l
	m.do(t, node, "label node NODE node.kubernetes.io/exclude-from-external-load-balancers=")
	m.awaitOwners(t, l.without(node)...)
	m.do(t, node, "label node NODE barelb.io/migrated=true")
	l.sys.SetSpeakerCommand(node)
	must(t, l.sys.UpgradeSpeaker(t.Context(), node, 0))
	l.awaitReady(t, node)
	m.do(t, node, "label node NODE node.kubernetes.io/exclude-from-external-load-balancers-")
	m.awaitOwners(t, l.c.Nodes()...)
}

// swap is step 5 for one node, as it goes without excluding the node first: the chart gives
// MetalLB's speaker no time to say that it leaves, and BareLB's is there before the others
// miss it. So the addresses stay where they are.
func (m *migration) swap(t *testing.T, node string) {
	t.Helper()
	l := m.l
	m.do(t, node, "label node NODE barelb.io/migrated=true")
	must(t, l.sys.KillSpeaker(t.Context(), node))
	l.sys.SetSpeakerCommand(node)
	l.startSpeaker(t, node)
	m.awaitOwners(t, l.c.Nodes()...)
}

// back moves one node back.
func (m *migration) back(t *testing.T, node string) {
	t.Helper()
	m.do(t, node, "label node NODE barelb.io/migrated-")
	m.metallbOn(t, node)
	m.awaitOwners(t, m.l.c.Nodes()...)
}

// metallbOn replaces the speaker of a node with what stands for MetalLB's.
func (m *migration) metallbOn(t *testing.T, node string) {
	t.Helper()
	var peers []string
	for i := range m.l.c.Nodes() {
		v4, _ := cluster.NodeAddrs(i + 1)
		peers = append(peers, v4.String())
	}
	m.l.sys.SetSpeakerCommand(node, metallb.Args(m.l.self, metallb.Options{Addrs: m.addrs(), Peers: peers, Link: "eth0"})...)
	must(t, m.l.sys.UpgradeSpeaker(t.Context(), node, 0))
}

// beside brings MetalLB back beside BareLB.
func (m *migration) beside(t *testing.T) {
	t.Helper()
	m.do(t, "", "label nodes --all barelb.io/migrated=true")
	m.do(t, "", "-n metallb-system scale deployment controller --replicas=0")
	must(t, m.l.sys.Controller().Stop(patience))
	m.chart.install(t) // with its CRDs, which is the harder way
	m.do(t, "", keepOff)
	m.wantSafe(t, "CRDsDeletedWithRelease")
}

// giveBack is the end of the way back.
func (m *migration) giveBack(t *testing.T) {
	t.Helper()
	m.do(t, "", "-n metallb-system delete daemonset speaker")
	m.do(t, "", "-n metallb-system delete deployment controller")
}

// report says how long addresses were not answered for, and wants that to be no more
// than a speaker that says that it leaves costs.
func (m *migration) report(t *testing.T) {
	t.Helper()
	r, err := m.asking.Stop()
	must(t, err)
	for _, mark := range r.Marks[:len(r.Marks)-1] { // after the last one nothing happens
		s := mark.Silence
		t.Logf("from %q to the next: %d addresses; nobody answered for up to %s, half of them for %s", mark.Name, s.Count, s.Max.Duration(), s.P50.Duration())
		if s.Count != migrated || s.Max.Duration() > told {
			t.Errorf("from %q to the next: %d of %d addresses were answered for, and nobody answered for %s, want %s at most", mark.Name, s.Count, migrated, s.Max.Duration(), told)
		}
	}
	opened, broken := 0, map[string]int{}
	for _, h := range m.held {
		r, err := h.Stop()
		must(t, err)
		opened += r.Opened
		for _, b := range r.Breaks {
			broken[fmt.Sprintf("from %q to the next, %s: %s", b.Mark, r.Target.Addr(), b.Reason)]++
		}
	}
	if opened != 50 {
		t.Errorf("%d connections could be opened, want 50", opened)
	}
	for _, what := range slices.Sorted(maps.Keys(broken)) {
		t.Logf("of 50 open connections %d broke %s", broken[what], what)
	}
}
