package plugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/internal/cli/plugin"
)

// BenchmarkExplainOffline explains one of 10,000 Services on 100 nodes from files as
// kubectl writes them.
func BenchmarkExplainOffline(b *testing.B) {
	var items []object
	add := func(o object) { items = append(items, o) }
	for i := range 100 {
		n := fmt.Sprintf("node-%03d", i)
		add(object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": n, "labels": object{"kubernetes.io/hostname": n}}})
		add(object{
			"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "speaker-" + n, "namespace": "metallb-system", "labels": object{"component": "speaker"}},
			"spec": object{"nodeName": n}, "status": object{"phase": "Running", "conditions": []object{{"type": "Ready", "status": "True"}}},
		})
	}
	add(object{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": object{"name": "p", "namespace": "metallb-system"}, "spec": object{"addresses": []string{"10.0.0.0/16"}}})
	add(object{"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": object{"name": "l2", "namespace": "metallb-system"}})
	for i := range 10_000 {
		name := fmt.Sprintf("s%05d", i)
		add(object{
			"apiVersion": "v1", "kind": "Service",
			"metadata": object{"name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": object{"metallb.io/ip-allocated-from-pool": "p"}},
			"spec": object{
				"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": []string{"10.96.0.1"}, "externalTrafficPolicy": "Cluster", "ipFamilies": []string{"IPv4"}, "ipFamilyPolicy": "SingleStack",
				"ports": []object{{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30000}}, "selector": object{"app": name}, "sessionAffinity": "None",
			},
			"status": object{"loadBalancer": object{"ingress": []object{{"ip": fmt.Sprintf("10.0.%d.%d", i>>8, i&255), "ipMode": "VIP"}}}},
		})
		add(object{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata":  object{"name": name + "-x", "namespace": "default", "labels": object{"kubernetes.io/service-name": name}},
			"endpoints": []object{{"addresses": []string{"10.244.0.1"}, "nodeName": "node-001", "conditions": object{"ready": true, "serving": true, "terminating": false}}},
			"ports":     []object{{"name": "http", "port": 8080, "protocol": "TCP"}},
		})
	}
	list := object{"apiVersion": "v1", "kind": "List", "items": items, "metadata": object{"resourceVersion": ""}}
	inJSON, err := json.MarshalIndent(list, "", "    ")
	if err != nil {
		b.Fatal(err)
	}
	inYAML, err := yaml.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	for ext, text := range map[string][]byte{"json": inJSON, "yaml": inYAML} {
		b.Run(ext, func(b *testing.B) {
			dir := b.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "cluster."+ext), text, 0o600); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(text))/1e6, "MB")
			for b.Loop() {
				var out bytes.Buffer
				root := &cobra.Command{Use: "barelb"}
				root.AddGroup(&plugin.Group)
				root.AddCommand(plugin.Commands()...)
				root.SetOut(&out)
				root.SetArgs([]string{"explain", "service", "default/s05000", "--offline", dir})
				if err := root.Execute(); err != nil || !bytes.Contains(out.Bytes(), []byte("owns the address")) {
					b.Fatal(err, out.String())
				}
			}
		})
	}
}
