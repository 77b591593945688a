package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/explain"
)

// listed is a list as kubectl writes it: with objects that are not read, and text in them
// that looks like the list itself.
const listed = `apiVersion: v1
items:
- apiVersion: v1
  kind: Node
  metadata:
    name: node1
- apiVersion: apps/v1
  kind: ReplicaSet
  metadata:
    name: unread
- apiVersion: v1
  data:
    config.conf: |
      items:
      - a
      kind: KubeProxyConfiguration
      mode: ipvs
  kind: ConfigMap
  metadata:
    name: kube-proxy
    namespace: kube-system
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
  - addresses:
    - 10.244.1.5
    nodeName: node1
  kind: EndpointSlice
  metadata:
    labels:
      kubernetes.io/service-name: web
    name: web-1
    namespace: shop
kind: List
metadata:
  resourceVersion: ""
`

func TestListsAreReadItemByItem(t *testing.T) {
	if items := (&Dump{}).splitList("\n" + listed); len(items) != 3 {
		t.Errorf("%d items:\n%s", len(items), strings.Join(items, "\n<>\n"))
	}
	var split, whole Dump
	if err := split.addYAML(listed); err != nil {
		t.Fatal(err)
	}
	// With a comment in it the list is no list of kubectl's, and read as a whole.
	if err := whole.addYAML(strings.Replace(listed, "items:\n", "items: # all\n", 1)); err != nil {
		t.Fatal(err)
	}
	if whole.Unread != 1 {
		t.Errorf("%d objects were not read", whole.Unread)
	}
	whole.Unread = 0
	if !reflect.DeepEqual(&split, &whole) {
		t.Errorf("item by item:\n%+v\nas a whole:\n%+v", &split, &whole)
	}
	c := split.Cluster("metallb-system")
	if len(c.Nodes) != 1 || !c.Proxy.Known || c.Proxy.Mode != "ipvs" || len(split.Slices[0].Endpoints) != 1 {
		t.Errorf("%+v", c)
	}
}

// TestLaterObjectsCount: of two of one name the later one does, and an item of a list
// need not say its kind.
func TestLaterObjectsCount(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.json": `{"kind": "NodeList", "items": [{"metadata": {"name": "node1", "labels": {"a": "1"}}}, {"metadata": {"name": "node2"}}]}`,
		"b.yaml": "---\nkind: Node\nmetadata: {name: node1, labels: {a: '2'}}\n---\n# nothing\n---\n",
		"c.txt":  "not read", "metrics/node1.txt": "metallb_k8s_client_config_stale_bool 1\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := ReadFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := d.Cluster("metallb-system")
	if len(c.Nodes) != 2 || c.Nodes[0].Labels["a"] != "2" || c.Speakers["node1"] == nil || !c.Speakers["node1"].Stale {
		t.Errorf("%+v, speakers %+v", c.Nodes, c.Speakers)
	}
}

// TestEndpointsOfOneService: those of others are left out, and known to be there.
func TestEndpointsOfOneService(t *testing.T) {
	for _, c := range []struct {
		service string
		slices  int
	}{{"web", 1}, {"mail", 0}, {"", 1}} {
		d := &Dump{service: c.service}
		if err := d.addYAML(listed); err != nil {
			t.Fatal(err)
		}
		d.MarkMissing()
		missing := false
		for _, g := range d.Gaps {
			missing = missing || g.From == explain.FromEndpoints
		}
		if len(d.Slices) != c.slices || missing {
			t.Errorf("%q: %d slices, missing: %t", c.service, len(d.Slices), missing)
		}
	}
}

func FuzzAddYAML(f *testing.F) {
	f.Add(listed)
	f.Add("kind: Service\nspec: {clusterIPs: [x]}\nstatus: {loadBalancer: {ingress: [{ip: ''}]}}")
	f.Add("items:\n- \nkind: ")
	f.Add("{\"kind\": \"List\", \"items\": [null, 1]}")
	f.Fuzz(func(t *testing.T, text string) {
		var d Dump
		if err := d.addYAML(text); err != nil {
			return
		}
		if c := d.Cluster("metallb-system"); len(fmt.Sprint(c.Nodes)) == 0 {
			t.Error("nothing")
		}
	})
}
