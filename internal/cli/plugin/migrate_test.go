package plugin_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/migrate"
	"github.com/barelb/barelb/internal/kube"
)

// withMetalLB is a cluster in which MetalLB runs, as its chart installs it.
func withMetalLB(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.remove("Pod/speaker", "Pod/controller", "DaemonSet/speaker", "AddressClaim/", "ServiceL2Status/")
	text, err := os.ReadFile("testdata/metallb.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w.add(string(text))
	return w
}

// ready is the same when all that migrate check calls broken is seen to, and BareLB is
// installed beside.
func ready(w *world) {
	for _, crd := range []string{"bgppeers", "ipaddresspools"} {
		w.edit("CustomResourceDefinition/"+crd+".metallb.io", "{metadata: {annotations: {helm.sh/resource-policy: keep}}}")
	}
	w.edit("Secret/metallb-memberlist", "{metadata: {ownerReferences: null}}")
	w.edit("Deployment/metallb-controller", "{spec: {replicas: 0}}")
	w.add(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system}
spec:
  replicas: 1
  template:
    metadata: {labels: {app: metallb, component: controller}}
    spec: {containers: [{name: controller, image: docker.io/barelb/barelb:dev, args: [controller]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system}
spec:
  template:
    metadata: {labels: {app: metallb, component: speaker, app.kubernetes.io/name: metallb, app.kubernetes.io/component: speaker}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 15
      containers:
      - name: speaker
        image: docker.io/barelb/barelb:dev
        args: [speaker, --ignore-exclude-lb]
        env: [{name: METALLB_ML_LABELS, value: "app.kubernetes.io/name=metallb,app.kubernetes.io/component=speaker"}]
        ports: [{containerPort: 9120}, {containerPort: 7946}]
      volumes:
      - {name: memberlist, secret: {secretName: metallb-memberlist}}
      - {name: excludel2, configMap: {name: metallb-excludel2}}`)
}

// check runs migrate check on files, and returns what it finds and whether it calls that
// safe.
func (w *world) check() ([]explain.Finding, bool) {
	w.t.Helper()
	out, err := run(w.t, "migrate", "check", "-o", "json", "--offline", w.write())
	var found []explain.Finding
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	return found, err == nil
}

func levelOf(found []explain.Finding, reason lb.Reason) explain.Level {
	for _, f := range found {
		if f.Reason == reason {
			return f.Level
		}
	}
	return ""
}

// TestMigrateCheckTranscript holds what is said of a cluster as MetalLB's chart makes it.
func TestMigrateCheckTranscript(t *testing.T) {
	for name, w := range map[string]*world{"migrate-metallb": withMetalLB(t), "migrate-ready": changedFrom(withMetalLB(t), ready)} {
		out, err := run(t, "migrate", "check", "--offline", w.write())
		if (err == nil) != (name == "migrate-ready") {
			t.Errorf("%s: %v", name, err)
		}
		golden(t, name+".txt", out)
	}
}

func changedFrom(w *world, change func(*world)) *world {
	change(w)
	return w
}

// TestMigrateCheckNames breaks a cluster that is ready to be moved, in each way that
// loses something, and wants it named, and not called safe.
func TestMigrateCheckNames(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   lb.Reason
	}{
		"CRDs without keep": {func(w *world) {
			w.edit("CustomResourceDefinition/bgppeers.metallb.io", "{metadata: {annotations: {helm.sh/resource-policy: null}}}")
		}, migrate.CRDsDeleted},
		"two controllers": {func(w *world) { w.edit("Deployment/metallb-controller", "{spec: {replicas: 1}}") }, migrate.TwoControllers},
		"key goes with MetalLB": {func(w *world) {
			w.edit("Secret/metallb-memberlist", "{metadata: {ownerReferences: [{kind: Deployment, name: metallb-controller}]}}")
		}, migrate.KeyDeleted},
		"other key": {func(w *world) {
			w.edit("DaemonSet/speaker", "{spec: {template: {spec: {volumes: [{name: memberlist, secret: {secretName: memberlist}}]}}}}")
		}, migrate.KeyDiffers},
		"other labels": {func(w *world) {
			w.edit("DaemonSet/speaker", "{spec: {template: {metadata: {labels: {app.kubernetes.io/name: null}}}}}")
			w.edit("DaemonSet/metallb-speaker", "{spec: {template: {metadata: {labels: {app.kubernetes.io/name: lb}}}}}")
		}, migrate.LabelsDiffer},
		"other namespace": {func(w *world) { w.edit("DaemonSet/speaker", "{metadata: {namespace: barelb}}") }, migrate.OtherNamespace},
		"no memberlist": {func(w *world) {
			w.edit("DaemonSet/metallb-speaker", "{spec: {template: {spec: {containers: [{name: speaker, image: quay.io/metallb/speaker:v0.16.1, args: [--ignore-exclude-lb], ports: [{containerPort: 9120}]}]}}}}")
		}, migrate.NoMembership},
		"both on one node": {func(w *world) {
			w.edit("DaemonSet/metallb-speaker", "{spec: {template: {spec: {hostNetwork: false}}}}")
		}, migrate.TwoOnOneNode},
		"other class": {func(w *world) {
			w.edit("Deployment/controller", "{spec: {template: {spec: {containers: [{name: controller, image: barelb, args: [controller, --lb-class=x/y]}]}}}}")
		}, migrate.FlagDiffers},
		"address of no pool": {func(w *world) {
			w.edit("Service/old", "{metadata: {annotations: {metallb.universe.tf/address-pool: gone}}}")
		}, migrate.AddressLost},
	} {
		t.Run(name, func(t *testing.T) {
			w := withMetalLB(t)
			ready(w)
			if found, safe := w.check(); !safe {
				t.Fatalf("before: not safe: %+v", found)
			}
			c.change(w)
			found, safe := w.check()
			if safe || levelOf(found, c.want) != explain.Broken {
				t.Errorf("safe: %v; %s is %q", safe, c.want, levelOf(found, c.want))
			}
			for _, f := range found {
				if (f.Level == explain.Broken || f.Level == explain.Warning) && (f.Remedy == "" || f.What == "") {
					t.Errorf("%s %q has no remedy", f.Reason, f.What)
				}
			}
		})
	}
}

// TestMigrateCheckNeedsFacts: what decides and is not known is not called safe.
func TestMigrateCheckNeedsFacts(t *testing.T) {
	for _, without := range []string{"CustomResourceDefinition/", "Secret/"} {
		w := withMetalLB(t)
		ready(w)
		w.remove(without)
		if found, safe := w.check(); safe {
			t.Errorf("without %s: safe: %+v", without, found)
		}
	}
}

// TestMigrateBack names the fields that MetalLB's CRDs drop.
func TestMigrateBack(t *testing.T) {
	w := withMetalLB(t)
	ready(w)
	w.edit("L2Advertisement/layer2", "{spec: {failback: Never}}")
	found, _ := w.check()
	text, _ := json.Marshal(found)
	if !strings.Contains(string(text), "L2Advertisement layer2: spec.failback") {
		t.Errorf("%s", text)
	}
}

// TestMigrateConvert converts a ConfigMap, whole and as text alone.
func TestMigrateConvert(t *testing.T) {
	dir := t.TempDir()
	const text = "address-pools:\n- {name: default, protocol: layer2, addresses: [192.168.1.240/28]}\n"
	write(t, filepath.Join(dir, "text.yaml"), text)
	write(t, filepath.Join(dir, "map.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata:\n  config: |\n    "+strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")+"\n")
	write(t, filepath.Join(dir, "other.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {x: y}\n")
	one, err := run(t, "migrate", "convert", "-f", filepath.Join(dir, "text.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := run(t, "migrate", "convert", "-f", filepath.Join(dir, "map.yaml"))
	if err != nil || one != two || !strings.Contains(one, "kind: L2Advertisement") {
		t.Errorf("%v\n%s\n%s", err, one, two)
	}
	if _, err := run(t, "migrate", "convert", "-f", filepath.Join(dir, "other.yaml")); err == nil || !strings.Contains(err.Error(), "has no key config") {
		t.Errorf("a ConfigMap without the key: %v", err)
	}
	write(t, filepath.Join(dir, "bad.yaml"), "address-pools:\n- {name: v6, protocol: bgp, addresses: [192.168.1.300/33]}\n")
	if out, err := run(t, "migrate", "convert", "-f", filepath.Join(dir, "bad.yaml")); err != nil || !strings.Contains(out, "# note: IPAddressPool v6: spec.addresses[0]") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestMigrateConvertGolden holds what becomes of configurations, and wants core/config to
// take all of it.
func TestMigrateConvertGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/legacy/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			out, err := run(t, "migrate", "convert", "-f", file)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "legacy-"+filepath.Base(file), out)
			made := filepath.Join(t.TempDir(), "made.yaml")
			write(t, made, out)
			d, err := kube.ReadFiles(made)
			if err != nil {
				t.Fatal(err)
			}
			objects := d.Cluster("metallb-system").Objects
			if len(objects.Pools) == 0 {
				t.Error("no pool was made")
			}
			for _, p := range config.Parse(objects, nil).Problems {
				t.Errorf("%s", p)
			}
		})
	}
}
