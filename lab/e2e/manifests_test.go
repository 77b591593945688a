package e2e_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/barelb/barelb/lab/system"
)

// TestMigrationFromManifests is TestMigration for a MetalLB that was installed by its own file of manifests, whose
// objects have the names of BareLB's.
func TestMigrationFromManifests(t *testing.T) {
	m := startMigration(t)
	l := m.l
	manifest := read(t, m.file)
	must(t, l.c.Apply(t.Context(), m.file))
	for _, what := range []string{"daemonset/speaker", "deployment/controller"} {
		_, err := l.c.Kubectl(t.Context(), "-n", system.Namespace, "rollout", "status", what, "--timeout=4m")
		must(t, err)
	}
	m.serve(t)
	before := m.watch(t)

	m.wantUnsafe(t, "MemberlistKeyDeleted")
	m.do(t, "", `patch crd bgppeers.metallb.io --type=merge -p '{"spec":{"conversion":{"strategy":"None","webhook":null}}}'`)
	m.do(t, "", "apply --server-side --force-conflicts -f deploy/crds")
	m.do(t, "", `-n metallb-system patch secret memberlist --type=merge -p '{"metadata":{"ownerReferences":null}}'`)
	m.keepRights(t)
	m.wantSame(t, "CRDs taken over", before)
	m.stopController(t)
	m.do(t, "", "delete validatingwebhookconfiguration metallb-webhook-configuration")
	m.kustomize(t, "barelb-over", read(t, "../../deploy/install.yaml"))
	m.do(t, "", "apply --server-side --force-conflicts -k barelb-over")
	m.awaitClaims(t)
	m.wantSame(t, "BareLB's controller at work", before)
	for i, node := range l.c.Nodes() {
		if i == 0 {
			m.do(t, node, "label node NODE node.kubernetes.io/exclude-from-external-load-balancers=")
			m.awaitOwners(t, l.without(node)...)
		}
		m.replaceSpeaker(t, node)
		if i == 0 {
			m.do(t, node, "label node NODE node.kubernetes.io/exclude-from-external-load-balancers-")
		}
		m.awaitOwners(t, l.c.Nodes()...)
		m.wantSame(t, node+" moved", before)
	}
	m.forgetRights(t)
	m.do(t, "", "-n metallb-system delete service/metallb-webhook-service secret/metallb-webhook-cert configmap/metallb-excludel2")
	m.do(t, "", "apply --server-side --force-conflicts -f deploy/install.yaml")
	m.wantSafe(t)
	m.wantSame(t, "BareLB alone", before)

	m.keepRights(t)
	m.stopController(t)
	m.kustomize(t, "barelb-over", manifest)
	m.do(t, "", "apply --server-side --force-conflicts -k metallb-over")
	m.do(t, "", "-n metallb-system scale deployment controller --replicas=1")
	m.wantSame(t, "MetalLB's objects again", before)
	for _, node := range l.c.Nodes() {
		m.replaceSpeaker(t, node)
		m.awaitOwners(t, l.c.Nodes()...)
		m.wantSame(t, node+" moved back", before)
	}
	m.forgetRights(t)
	m.do(t, "", "delete validatingadmissionpolicy,validatingadmissionpolicybinding metallb-system.speaker")
	m.wantMetalLB(t)
	m.wantSame(t, "MetalLB again", before)
	m.report(t)
}

// keepRights has the speakers that run keep what they may do.
func (m *migration) keepRights(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		`kubectl get clusterrole metallb-system:speaker -o yaml | sed -E '/^  (uid|resourceVersion|creationTimestamp):/d; s/^  name: .*/  name: until-moved/' | kubectl create -f -`,
		`kubectl create clusterrolebinding until-moved --clusterrole=until-moved --serviceaccount=metallb-system:speaker`,
		`kubectl -n metallb-system get role pod-lister -o yaml | sed -E '/^  (uid|resourceVersion|creationTimestamp):/d; s/^  name: .*/  name: until-moved/' | kubectl create -f -`,
		`kubectl -n metallb-system create rolebinding until-moved --role=until-moved --serviceaccount=metallb-system:speaker`,
	} {
		m.shell(t, line)
	}
}

func (m *migration) forgetRights(t *testing.T) {
	t.Helper()
	m.do(t, "", "delete clusterrole,clusterrolebinding until-moved")
	m.do(t, "", "-n metallb-system delete role,rolebinding until-moved")
}

// shell runs a line of the document.
func (m *migration) shell(t *testing.T, line string) {
	t.Helper()
	m.says(t, line)
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", "kubectl() { "+m.l.c.KubectlPath()+` "$@"; }; `+line)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.l.c.Kubeconfig())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// stopController stops whichever controller there is.
func (m *migration) stopController(t *testing.T) {
	t.Helper()
	m.do(t, "", "-n metallb-system scale deployment controller --replicas=0")
	m.do(t, "", "-n metallb-system wait pod -l app=metallb,component=controller --for=delete --timeout=2m")
}

// replaceSpeaker has the node's speaker be what the DaemonSet says.
func (m *migration) replaceSpeaker(t *testing.T, node string) {
	t.Helper()
	m.do(t, node, "-n metallb-system delete pod -l app=metallb,component=speaker --field-selector spec.nodeName=NODE")
	m.awaitSpeaker(t, node, ourSpeaker)
}
