package api_test

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func readCRDs(t *testing.T) map[string]*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crds := map[string]*apiextensionsv1.CustomResourceDefinition{}
	for file, text := range crdFiles(t) {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(text, crd); err != nil {
			t.Fatalf("parse %s: %v", file, err)
		}
		if want := crd.Spec.Group + "_" + crd.Spec.Names.Plural + ".yaml"; file != want {
			t.Errorf("%s: named %s, want %s", crd.Name, file, want)
		}
		crds[crd.Spec.Names.Kind] = crd
	}
	return crds
}

// TestCRDNames holds what users and their tools see of the kinds, schemas aside.
// Columns are written name=type path, with the priority behind if it is not 0.
func TestCRDNames(t *testing.T) {
	peer := []string{"Address=string .spec.peerAddress", "ASN=string .spec.peerASN", "BFD Profile=string .spec.bfdProfile", "Multi Hops=string .spec.ebgpMultiHop"}
	type version struct {
		Name    string
		Storage bool
		Warning string
		Columns []string
	}
	type names struct {
		Plural   string
		Versions []version
	}
	stored := func(plural string, columns ...string) names {
		return names{Plural: plural, Versions: []version{{Name: "v1beta1", Storage: true, Columns: columns}}}
	}
	want := map[string]names{
		"IPAddressPool": stored("ipaddresspools",
			"Auto Assign=boolean .spec.autoAssign", "Avoid Buggy IPs=boolean .spec.avoidBuggyIPs", "Addresses=string .spec.addresses"),
		"L2Advertisement": stored("l2advertisements",
			"IPAddressPools=string .spec.ipAddressPools", "IPAddressPool Selectors=string .spec.ipAddressPoolSelectors",
			"Interfaces=string .spec.interfaces", "Node Selectors=string .spec.nodeSelectors 10"),
		"BGPAdvertisement": stored("bgpadvertisements",
			"IPAddressPools=string .spec.ipAddressPools", "IPAddressPool Selectors=string .spec.ipAddressPoolSelectors",
			"Peers=string .spec.peers", "Node Selectors=string .spec.nodeSelectors 10"),
		"BGPPeer": {Plural: "bgppeers", Versions: []version{
			{Name: "v1beta1", Warning: "v1beta1 is deprecated, please use v1beta2", Columns: peer},
			{Name: "v1beta2", Storage: true, Columns: peer},
		}},
		"BFDProfile": stored("bfdprofiles",
			"Passive Mode=boolean .spec.passiveMode", "Transmit Interval=integer .spec.transmitInterval",
			"Receive Interval=integer .spec.receiveInterval", "Multiplier=integer .spec.detectMultiplier"),
		"Community": stored("communities"),
		"ServiceL2Status": stored("servicel2statuses",
			"Allocated Node=string .status.node", "Service Name=string .status.serviceName", "Service Namespace=string .status.serviceNamespace"),
		"ServiceBGPStatus": stored("servicebgpstatuses",
			"Node=string .status.node", "Service Name=string .status.serviceName", "Service Namespace=string .status.serviceNamespace"),
		"BGPSessionStatus": stored("bgpsessionstatuses",
			"Node=string .status.node", "Peer=string .status.peer", "VRF=string .status.vrf", "BGP=string .status.bgpStatus",
			"BFD=string .status.bfdStatus", "Message=string .status.message 10"),
		"ConfigurationState": stored("configurationstates",
			"Result=string .status.result", "ErrorSummary=string .status.errorSummary", "Age=date .metadata.creationTimestamp"),
	}

	got := map[string]names{}
	for kind, crd := range readCRDs(t) {
		spec := crd.Spec
		if spec.Group == "barelb.io" { // ours alone: no user of MetalLB knows them
			continue
		}
		if spec.Group != "metallb.io" || spec.Scope != apiextensionsv1.NamespaceScoped {
			t.Errorf("%s: group %s, scope %s", kind, spec.Group, spec.Scope)
		}
		if len(spec.Names.ShortNames)+len(spec.Names.Categories) != 0 {
			t.Errorf("%s: has short names %v or categories %v, which MetalLB's has not", kind, spec.Names.ShortNames, spec.Names.Categories)
		}
		n := names{Plural: spec.Names.Plural}
		for _, v := range spec.Versions {
			if !v.Served || v.Subresources == nil || v.Subresources.Status == nil {
				t.Errorf("%s %s: not served, or without status", kind, v.Name)
			}
			g := version{Name: v.Name, Storage: v.Storage}
			if v.Deprecated {
				g.Warning = *v.DeprecationWarning
			}
			for _, c := range v.AdditionalPrinterColumns {
				s := c.Name + "=" + c.Type + " " + c.JSONPath
				if c.Priority == 10 {
					s += " 10"
				}
				g.Columns = append(g.Columns, s)
			}
			n.Versions = append(n.Versions, g)
		}
		got[kind] = n
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestBGPPeerVersionsShareShapes holds the claim that lets the two versions of
// BGPPeer do without a conversion webhook (docs/adr/0002-bgppeer-conversion.md):
// whatever field v1beta1 has, v1beta2 has with the same type.
func TestBGPPeerVersionsShareShapes(t *testing.T) {
	versions := readCRDs(t)["BGPPeer"].Spec.Versions
	if got := versions[0].Name + " " + versions[1].Name; got != "v1beta1 v1beta2" {
		t.Fatalf("versions are %s", got)
	}
	var compare func(path string, older, newer *apiextensionsv1.JSONSchemaProps)
	compare = func(path string, older, newer *apiextensionsv1.JSONSchemaProps) {
		if newer == nil || older.Type != newer.Type {
			t.Errorf("%s: v1beta1 and v1beta2 differ in type", path)
			return
		}
		for name, prop := range older.Properties {
			next, ok := newer.Properties[name]
			if !ok {
				t.Errorf("%s.%s: v1beta2 lacks it", path, name)
				continue
			}
			compare(path+"."+name, &prop, &next)
		}
		if older.Items != nil {
			compare(path+"[]", older.Items.Schema, newer.Items.Schema)
		}
		if older.AdditionalProperties != nil {
			compare(path+"{}", older.AdditionalProperties.Schema, newer.AdditionalProperties.Schema)
		}
	}
	compare("BGPPeer", versions[0].Schema.OpenAPIV3Schema, versions[1].Schema.OpenAPIV3Schema)
}

// TestInstallHoldsCRDs finds an install manifest that was not assembled anew.
func TestInstallHoldsCRDs(t *testing.T) {
	install, err := os.ReadFile(installFile)
	if err != nil {
		t.Fatal(err)
	}
	files := crdFiles(t)
	for _, part := range []string{"namespace", "rbac", "user-rbac", "admission", "controller", "speaker"} {
		text, err := os.ReadFile("../deploy/manifests/" + part + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		files["manifests/"+part] = text
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		size += len(files[name])
		if !bytes.Contains(install, files[name]) {
			t.Errorf("%s: differs from what install.yaml holds; run `make generate`", name)
		}
	}
	if header, _, _ := strings.Cut(string(install), "---\n"); len(install) != len(header)+size {
		t.Errorf("install.yaml holds more than its parts; run `make generate`")
	}
}
