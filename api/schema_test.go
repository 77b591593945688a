package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	v1 = "metallb.io/v1beta1"
	v2 = "metallb.io/v1beta2"
)

// verdict is a manifest and what the API server makes of it.
type verdict struct {
	name string
	body string // all but apiVersion, kind and metadata, as YAML
	// refused is part of what the server says against it; "" means that it is
	// accepted, stored as want (if given), and that the Go type can hold it.
	refused string
	want    string
}

func TestIPAddressPoolSchema(t *testing.T) {
	judge(t, v1, "IPAddressPool", []verdict{
		{
			name: "defaults", body: `spec: {addresses: [192.168.1.250/32]}`,
			want: `spec: {addresses: [192.168.1.250/32], autoAssign: true, avoidBuggyIPs: false}`,
		},
		{
			name: "given values stand", body: `spec: {addresses: [], autoAssign: false, avoidBuggyIPs: true}`,
			want: `spec: {addresses: [], autoAssign: false, avoidBuggyIPs: true}`,
		},
		{name: "text is not judged", body: `spec: {addresses: [nonsense]}`},
		{name: "negative priority", body: `spec: {addresses: [], serviceAllocation: {priority: -1}}`},
		{name: "empty allocation", body: `spec: {addresses: [], serviceAllocation: {}}`},
		{name: "no spec", body: ``, refused: "spec: Required value"},
		{name: "no addresses", body: `spec: {}`, refused: "spec.addresses: Required value"},
		{name: "null addresses", body: `spec: {addresses: null}`, refused: "spec.addresses: Required value"},
		{name: "addresses is a list", body: `spec: {addresses: 192.0.2.0/24}`, refused: "spec.addresses in body must be of type array"},
		{name: "huge priority", body: `spec: {addresses: [], serviceAllocation: {priority: 100000000000000000000}}`, refused: "must be of type integer"},
		{name: "selector operator", body: `spec: {addresses: [], serviceAllocation: {namespaceSelectors: [{matchExpressions: [{key: a}]}]}}`, refused: "operator: Required value"},
		{name: "unknown field", body: `spec: {addresses: [], protocol: layer2}`, refused: `unknown field "spec.protocol"`},
	})
}

func TestL2AdvertisementSchema(t *testing.T) {
	term := func(term string) string { return "spec: {preferredNodeSelectors: [" + term + "]}" }
	judge(t, v1, "L2Advertisement", []verdict{
		{name: "no spec", body: ``, want: `{}`},
		{name: "empty spec", body: `spec: {}`, want: `spec: {}`},
		{name: "least weight", body: term(`{weight: 1, preference: {}}`)},
		{name: "greatest weight", body: term(`{weight: 100, preference: {matchLabels: {a: b}}}`)},
		{name: "weight 0", body: term(`{weight: 0, preference: {}}`), refused: "should be greater than or equal to 1"},
		{name: "weight 101", body: term(`{weight: 101, preference: {}}`), refused: "should be less than or equal to 100"},
		{name: "no weight", body: term(`{preference: {}}`), refused: "weight: Required value"},
		{name: "no preference", body: term(`{weight: 1}`), refused: "preference: Required value"},
		{name: "interfaces is a list", body: `spec: {interfaces: eth0}`, refused: "must be of type array"},
	})
}

func TestBGPAdvertisementSchema(t *testing.T) {
	const exclusive = "serviceSelectors and aggregationLength are mutually exclusive, can only be used together with default aggregationLength (32) and aggregationLengthV6 (128)"
	judge(t, v1, "BGPAdvertisement", []verdict{
		{name: "no spec", body: ``, want: `{}`},
		{name: "defaults", body: `spec: {}`, want: `spec: {aggregationLength: 32, aggregationLengthV6: 128}`},
		{name: "least length", body: `spec: {aggregationLength: 1, aggregationLengthV6: 0}`, want: `spec: {aggregationLength: 1, aggregationLengthV6: 0}`},
		{name: "negative V6 length", body: `spec: {aggregationLengthV6: -1}`},
		{name: "lengths that no address has", body: `spec: {aggregationLength: 33, aggregationLengthV6: 129}`},
		{name: "length 0", body: `spec: {aggregationLength: 0}`, refused: "should be greater than or equal to 1"},
		{name: "length beyond int32", body: `spec: {aggregationLength: 2147483648}`, refused: "spec.aggregationLength"},
		{name: "V6 length beyond int32", body: `spec: {aggregationLengthV6: 2147483648}`, refused: "spec.aggregationLengthV6"},
		{name: "V6 length below int32", body: `spec: {aggregationLengthV6: -2147483649}`, refused: "spec.aggregationLengthV6"},
		{name: "local preference 0", body: `spec: {localPref: 0}`},
		{name: "greatest local preference", body: `spec: {localPref: 4294967295}`},
		{name: "local preference beyond uint32", body: `spec: {localPref: 4294967296}`, refused: "should be less than or equal to 4294967295"},
		{name: "negative local preference", body: `spec: {localPref: -1}`, refused: "should be greater than or equal to 0"},
		{name: "service selectors alone", body: `spec: {serviceSelectors: [{}]}`},
		{name: "service selectors with the defaults", body: `spec: {serviceSelectors: [{}], aggregationLength: 32, aggregationLengthV6: 128}`},
		{name: "no service selectors with aggregation", body: `spec: {serviceSelectors: [], aggregationLength: 24, aggregationLengthV6: 64}`},
		{name: "service selectors with aggregation", body: `spec: {serviceSelectors: [{}], aggregationLength: 24}`, refused: exclusive},
		{name: "service selectors with V6 aggregation", body: `spec: {serviceSelectors: [{}], aggregationLengthV6: 64}`, refused: exclusive},
	})
}

func TestBFDProfileSchema(t *testing.T) {
	cases := []verdict{
		{name: "no spec", body: ``, want: `{}`},
		{name: "no defaults", body: `spec: {}`, want: `spec: {}`},
	}
	for _, f := range []struct {
		field       string
		least, most int
	}{
		{"receiveInterval", 10, 60000},
		{"transmitInterval", 10, 60000},
		{"echoInterval", 10, 60000},
		{"detectMultiplier", 2, 255},
		{"minimumTtl", 1, 254},
	} {
		body := func(v int) string { return fmt.Sprintf("spec: {%s: %d}", f.field, v) }
		cases = append(cases,
			verdict{name: f.field + " least", body: body(f.least)},
			verdict{name: f.field + " most", body: body(f.most)},
			verdict{name: f.field + " below", body: body(f.least - 1), refused: fmt.Sprintf("should be greater than or equal to %d", f.least)},
			verdict{name: f.field + " above", body: body(f.most + 1), refused: fmt.Sprintf("should be less than or equal to %d", f.most)},
		)
	}
	judge(t, v1, "BFDProfile", cases)
}

func TestCommunitySchema(t *testing.T) {
	judge(t, v1, "Community", []verdict{
		{name: "no spec", body: ``, want: `{}`},
		{name: "empty alias", body: `spec: {communities: [{}]}`},
		{name: "text is not judged", body: `spec: {communities: [{name: a, value: nonsense}, {name: a, value: "1:2"}]}`},
		{name: "value is text", body: `spec: {communities: [{name: a, value: 1}]}`, refused: "must be of type string"},
	})
}

// peerVerdicts are the manifests that both versions of BGPPeer judge alike. base
// holds the required fields.
func peerVerdicts(base string) []verdict {
	with := func(fields string) string { return "spec: {" + base + ", " + fields + "}" }
	cases := []verdict{
		{name: "no spec", body: ``, want: `{}`},
		{name: "AS number 0", body: `spec: {myASN: 0, peerASN: 0, peerAddress: ""}`},
		{name: "greatest AS number", body: `spec: {myASN: 4294967295, peerASN: 4294967295, peerAddress: 192.0.2.1}`},
		{name: "my AS number below", body: `spec: {myASN: -1, peerASN: 1, peerAddress: a}`, refused: "spec.myASN in body should be greater than or equal to 0"},
		{name: "my AS number above", body: `spec: {myASN: 4294967296, peerASN: 1, peerAddress: a}`, refused: "spec.myASN in body should be less than or equal to 4294967295"},
		{name: "peer AS number below", body: `spec: {myASN: 1, peerASN: -1, peerAddress: a}`, refused: "spec.peerASN in body should be greater than or equal to 0"},
		{name: "peer AS number above", body: `spec: {myASN: 1, peerASN: 4294967296, peerAddress: a}`, refused: "spec.peerASN in body should be less than or equal to 4294967295"},
		{name: "no AS number", body: `spec: {peerASN: 1, peerAddress: a}`, refused: "spec.myASN: Required value"},
		{name: "greatest port", body: with(`peerPort: 16384`)},
		{name: "port above", body: with(`peerPort: 16385`), refused: "should be less than or equal to 16384"},
		{name: "port below", body: with(`peerPort: -1`), refused: "spec.peerPort in body should be greater than or equal to"},
		{name: "addresses are not judged", body: with(`sourceAddress: x, routerID: z, nodeSelectors: [{}], bfdProfile: none, password: p`)},
		{name: "selector operator", body: with(`nodeSelectors: [{matchExpressions: [{key: a, values: [b]}]}]`), refused: "operator: Required value"},
		{name: "selector key", body: with(`nodeSelectors: [{matchExpressions: [{operator: In, values: [b]}]}]`), refused: "key: Required value"},
	}
	for _, field := range []string{"holdTime", "keepaliveTime"} {
		for _, d := range []string{"90s", "0s", `"0"`, "1m30s", "1500ms", "-5s", "1h1m1.5s"} {
			cases = append(cases, verdict{name: field + " " + d, body: with(field + ": " + d)})
		}
		for _, d := range []string{"90", `"90"`, "1d", "soon", `""`} {
			cases = append(cases, verdict{name: field + " " + d, body: with(field + ": " + d), refused: "spec." + field})
		}
	}
	return cases
}

func TestBGPPeerV1beta1Schema(t *testing.T) {
	const base = "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1"
	judge(t, v1, "BGPPeer", append(peerVerdicts(base), []verdict{
		{name: "port 0", body: `spec: {` + base + `, peerPort: 0}`, want: `spec: {` + base + `, peerPort: 0}`},
		{name: "no peer AS number", body: `spec: {myASN: 64512, peerAddress: 192.0.2.1}`, refused: "spec.peerASN: Required value"},
		{name: "no address", body: `spec: {myASN: 64512, peerASN: 64513}`, refused: "spec.peerAddress: Required value"},
		{name: "selector values are required", body: `spec: {` + base + `, nodeSelectors: [{matchExpressions: [{key: a, operator: Exists}]}]}`, refused: "values: Required value"},
		{name: "selector values are not empty", body: `spec: {` + base + `, nodeSelectors: [{matchExpressions: [{key: a, operator: Exists, values: []}]}]}`, refused: "should have at least 1 items"},
		{name: "newer field", body: `spec: {` + base + `, vrf: red}`, refused: `unknown field "spec.vrf"`},
	}...))
}

func TestBGPPeerV1beta2Schema(t *testing.T) {
	const (
		base     = "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1"
		defaults = ", peerPort: 179, disableMP: false, dualStackAddressFamily: false}"
	)
	with := func(fields string) string { return "spec: {" + base + ", " + fields + "}" }
	cases := append(peerVerdicts(base), []verdict{
		{name: "defaults", body: `spec: {myASN: 64512}`, want: `spec: {myASN: 64512` + defaults},
		{name: "port 0", body: with(`peerPort: 0`), refused: "should be greater than or equal to 1"},
		{name: "least port", body: with(`peerPort: 1`)},
		{name: "dynamic, internal", body: `spec: {myASN: 64512, dynamicASN: internal, interface: eth0}`},
		{name: "dynamic, external", body: `spec: {myASN: 64512, dynamicASN: external, interface: eth0}`},
		{name: "dynamic, other", body: `spec: {myASN: 64512, dynamicASN: auto}`, refused: `supported values: "internal", "external"`},
		{name: "dynamic, empty", body: `spec: {myASN: 64512, dynamicASN: ""}`, refused: `supported values: "internal", "external"`},
		{name: "least local AS number", body: with(`localASN: 1`)},
		{name: "greatest local AS number", body: with(`localASN: 4294967295`)},
		{name: "local AS number below", body: with(`localASN: 0`), refused: "should be greater than or equal to 1"},
		{name: "local AS number above", body: with(`localASN: 4294967296`), refused: "should be less than or equal to 4294967295"},
		{name: "both passwords", body: with(`password: p, passwordSecret: {name: s}`)},
		{name: "empty secret", body: with(`passwordSecret: {}`)},
		{name: "selector without values", body: with(`nodeSelectors: [{matchExpressions: [{key: a, operator: Exists}]}]`)},
		{name: "contradictions between fields are not judged", body: with(`dynamicASN: external, interface: eth0`)},
	}...)
	for d, refused := range map[string]string{
		"1s":       "",
		"1000ms":   "",
		"1m":       "",
		"65535s":   "",
		"65536s":   "connect time should be between 1 seconds to 65535",
		"0s":       "connect time should be between 1 seconds to 65535",
		"999ms":    "connect time should be between 1 seconds to 65535",
		"-1s":      "connect time should be between 1 seconds to 65535",
		"1500ms":   "connect time should contain a whole number of seconds",
		"65535.5s": "connect time should contain a whole number of seconds",
		"1d":       "spec.connectTime",
		"soon":     "spec.connectTime",
	} {
		cases = append(cases, verdict{name: "connectTime " + d, body: with("connectTime: " + d), refused: refused})
	}
	judge(t, v2, "BGPPeer", cases)
}

// judge puts manifests of one kind before the API server.
func judge(t *testing.T, apiVersion, kind string, cases []verdict) {
	t.Helper()
	c, _ := newClient(t)
	for i, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			o := object(t, apiVersion, kind, fmt.Sprintf("case-%d", i), tt.body)
			err := c.Create(t.Context(), o)
			if tt.refused != "" {
				if err == nil {
					cleanUp(t, c, o)
					t.Fatalf("accepted %s\nwant it refused with %q", tt.body, tt.refused)
				}
				if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), tt.refused) {
					t.Fatalf("refused with %v\nwant %q", err, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused %s\n%v", tt.body, err)
			}
			cleanUp(t, c, o)
			typed(t, c, o)
			if tt.want != "" {
				got := map[string]any{}
				if spec, ok := o.Object["spec"]; ok {
					got["spec"] = spec
				}
				if d := cmp.Diff(normal(t, parse(t, tt.want)), normal(t, got)); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

// typed reads o from the server into its Go type.
//
//nolint:ireturn // the type is the kind's
func typed(t *testing.T, c client.Client, o *unstructured.Unstructured) client.Object {
	t.Helper()
	made, err := c.Scheme().New(o.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	obj, ok := made.(client.Object)
	if !ok {
		t.Fatalf("%T is no object", made)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), obj); err != nil {
		t.Fatalf("read into %T: %v", obj, err)
	}
	return obj
}

// normal gives all numbers one type.
func normal(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// full holds one manifest of each kind with every field of its spec.
var full = []struct{ apiVersion, kind, spec string }{
	{v1, "IPAddressPool", `
addresses: [192.0.2.0/24, 2001:db8::1-2001:db8::9]
autoAssign: false
avoidBuggyIPs: true
serviceAllocation:
  priority: 50
  namespaces: [a]
  namespaceSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]
  serviceSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]`},
	{v1, "L2Advertisement", `
ipAddressPools: [a]
ipAddressPoolSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]
nodeSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]
preferredNodeSelectors:
- weight: 7
  preference: {matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}
interfaces: [eth0]
failback: Never
serviceSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]`},
	{v1, "BGPAdvertisement", `
aggregationLength: 32
aggregationLengthV6: 128
localPref: 4294967295
med: 4294967295
asPathPrepend: 16
weightByEndpoints: true
communities: [64512:100]
ipAddressPools: [a]
ipAddressPoolSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]
nodeSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]
peers: [b]
serviceSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]`},
	{v1, "BGPPeer", fullPeer},
	{v2, "BGPPeer", fullPeer + fullPeerNewer},
	{v1, "BFDProfile", `
receiveInterval: 10
transmitInterval: 60000
detectMultiplier: 255
echoInterval: 50
echoMode: true
passiveMode: true
strictMode: true
minimumTtl: 254`},
	{v1, "Community", `
communities: [{name: a, value: "64512:100"}]`},
}

// fullPeer has every field that both versions of BGPPeer have, fullPeerNewer those
// that only v1beta2 has.
const (
	fullPeer = `
myASN: 4294967295
peerASN: 64513
peerAddress: 192.0.2.1
sourceAddress: 192.0.2.2
peerPort: 180
holdTime: 1m30s
keepaliveTime: 30s
routerID: 192.0.2.3
nodeSelectors: [{matchLabels: {k: v}, matchExpressions: [{key: k, operator: In, values: [v]}]}]
password: p
bfdProfile: fast
ebgpMultiHop: true`

	fullPeerNewer = `
dynamicASN: external
localASN: 64514
ttlSecurityHops: 254
interface: eth0
connectTime: 10s
passwordSecret: {name: s, namespace: other}
enableGracefulRestart: true
vrf: red
disableMP: true
ttlSecurityHops: 254
dualStackAddressFamily: true`
)

// TestTypesHoldEveryField puts every field of every spec through the API server
// and the Go types: nothing is lost on the way.
func TestTypesHoldEveryField(t *testing.T) {
	c, _ := newClient(t)
	crds := readCRDs(t)
	for i, f := range full {
		t.Run(f.kind+" "+f.apiVersion, func(t *testing.T) {
			want := parse(t, f.spec)
			for _, v := range crds[f.kind].Spec.Versions {
				if "metallb.io/"+v.Name == f.apiVersion {
					spec := v.Schema.OpenAPIV3Schema.Properties["spec"]
					requireEveryField(t, "spec", &spec, want)
				}
			}
			o := object(t, f.apiVersion, f.kind, fmt.Sprintf("full-%d", i), "")
			o.Object["spec"] = want
			create(t, c, o)
			encoded, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed(t, c, o))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, normal(t, encoded["spec"])); d != "" {
				t.Error(d)
			}
		})
	}
}

// requireEveryField fails the test where v lacks a field of the schema.
func requireEveryField(t *testing.T, path string, s *apiextensionsv1.JSONSchemaProps, v any) {
	t.Helper()
	if s.Items != nil {
		list, _ := v.([]any)
		if len(list) == 0 {
			t.Errorf("%s: the test holds no item", path)
			return
		}
		requireEveryField(t, path+"[]", s.Items.Schema, list[0])
	}
	fields, _ := v.(map[string]any)
	for name, prop := range s.Properties {
		if _, ok := fields[name]; !ok {
			t.Errorf("%s.%s: the test lacks it", path, name)
			continue
		}
		requireEveryField(t, path+"."+name, &prop, fields[name])
	}
}
