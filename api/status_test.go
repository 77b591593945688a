package api_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/barelb/barelb/api/v1beta1"
)

// accepted is a condition as JSON.
const accepted = `{type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}`

// TestStatusSchema writes the status of an object, twice where a field may not
// change.
func TestStatusSchema(t *testing.T) {
	c, _ := newClient(t)
	const peer = `spec: {myASN: 1}`
	for _, tt := range []struct {
		name             string
		apiVersion, kind string
		body             string   // what is created
		statuses         []string // what is then written, in turn; all but the last are accepted
		refused          string   // part of what is said against the last; "" for nothing
	}{
		{"pool counters", v1, "IPAddressPool", `spec: {addresses: []}`, []string{`{assignedIPv4: 1, assignedIPv6: 2, availableIPv4: 3, availableIPv6: 4}`}, ""},
		{"pool counters with conditions", v1, "IPAddressPool", `spec: {addresses: []}`, []string{`{assignedIPv4: 1, assignedIPv6: 2, availableIPv4: 3, availableIPv6: 4, conditions: [` + accepted + `]}`}, ""},
		{"pool without assignedIPv4", v1, "IPAddressPool", `spec: {addresses: []}`, []string{`{assignedIPv6: 2, availableIPv4: 3, availableIPv6: 4}`}, "status.assignedIPv4: Required value"},
		{"pool without assignedIPv6", v1, "IPAddressPool", `spec: {addresses: []}`, []string{`{assignedIPv4: 1, availableIPv4: 3, availableIPv6: 4}`}, "status.assignedIPv6: Required value"},
		{"pool without availableIPv4", v1, "IPAddressPool", `spec: {addresses: []}`, []string{`{assignedIPv4: 1, assignedIPv6: 2, availableIPv6: 4}`}, "status.availableIPv4: Required value"},
		{"pool without availableIPv6", v1, "IPAddressPool", `spec: {addresses: []}`, []string{`{assignedIPv4: 1, assignedIPv6: 2, availableIPv4: 3}`}, "status.availableIPv6: Required value"},
		{"L2 advertisement", v1, "L2Advertisement", `{}`, []string{`{conditions: [` + accepted + `]}`, `{}`}, ""},
		{"BGP advertisement", v1, "BGPAdvertisement", `{}`, []string{`{conditions: [` + accepted + `]}`}, ""},
		{"peer", v2, "BGPPeer", peer, []string{`{conditions: [` + accepted + `]}`}, ""},
		{"BFD profile", v1, "BFDProfile", `{}`, []string{`{conditions: [` + accepted + `]}`}, ""},
		{"community", v1, "Community", `{}`, []string{`{conditions: [` + accepted + `]}`}, ""},
		{"condition given twice", v2, "BGPPeer", peer, []string{`{conditions: [` + accepted + `, ` + accepted + `]}`}, "Duplicate value"},
		{"condition without reason", v2, "BGPPeer", peer, []string{`{conditions: [{type: A, status: "True", reason: "", message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}]}`}, "should be at least 1 chars long"},

		{"L2 status", v1, "ServiceL2Status", `{}`, []string{`{node: a, serviceName: s, serviceNamespace: ns, interfaces: [{name: eth0}]}`, `{node: a, serviceName: s, serviceNamespace: ns}`}, ""},
		{"L2 status, other node", v1, "ServiceL2Status", `{}`, []string{`{node: a}`, `{node: b}`}, "Value is immutable"},
		{"L2 status, other service", v1, "ServiceL2Status", `{}`, []string{`{serviceName: a}`, `{serviceName: b}`}, "Value is immutable"},
		{"L2 status, other namespace", v1, "ServiceL2Status", `{}`, []string{`{serviceNamespace: a}`, `{serviceNamespace: b}`}, "Value is immutable"},
		{"BGP status", v1, "ServiceBGPStatus", `{}`, []string{`{node: a, serviceName: s, serviceNamespace: ns, peers: [p]}`, `{node: a, serviceName: s, serviceNamespace: ns, peers: [p, q]}`}, ""},
		{"BGP status, other node", v1, "ServiceBGPStatus", `{}`, []string{`{node: a}`, `{node: b}`}, "Value is immutable"},
		{"BGP status, other service", v1, "ServiceBGPStatus", `{}`, []string{`{serviceName: a}`, `{serviceName: b}`}, "Value is immutable"},
		{"BGP status, other namespace", v1, "ServiceBGPStatus", `{}`, []string{`{serviceNamespace: a}`, `{serviceNamespace: b}`}, "Value is immutable"},

		{"valid", v1, "ConfigurationState", `{}`, []string{`{result: Valid}`}, ""},
		{"invalid", v1, "ConfigurationState", `{}`, []string{`{result: Invalid, errorSummary: "a\nb", conditions: [` + accepted + `]}`}, ""},
		{"unknown", v1, "ConfigurationState", `{}`, []string{`{result: Unknown}`}, ""},
		{"other result", v1, "ConfigurationState", `{}`, []string{`{result: Broken}`}, `supported values: "Valid", "Invalid", "Unknown"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := object(t, tt.apiVersion, tt.kind, "status", tt.body)
			create(t, c, o)
			for i, status := range tt.statuses {
				want := parse(t, status)
				o.Object["status"] = parse(t, status)
				err := c.Status().Update(t.Context(), o)
				if i == len(tt.statuses)-1 && tt.refused != "" {
					if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tt.refused) {
						t.Fatalf("got %v\nwant %q", err, tt.refused)
					}
					return
				}
				if err != nil {
					t.Fatalf("write %s: %v", status, err)
				}
				if d := cmp.Diff(normal(t, want), normal(t, o.Object["status"])); d != "" {
					t.Error(d)
				}
				typed(t, c, o)
			}
		})
	}
}

// TestStatusIsASubresource: who writes the spec cannot write the status.
func TestStatusIsASubresource(t *testing.T) {
	c, _ := newClient(t)
	for _, f := range full {
		o := object(t, f.apiVersion, f.kind, "status", "status: {conditions: ["+accepted+"], assignedIPv4: 1, assignedIPv6: 1, availableIPv4: 1, availableIPv6: 1}")
		if f.kind != "IPAddressPool" {
			status := map[string]any{}
			if f.apiVersion != v1 || f.kind != "BGPPeer" {
				status["conditions"], _, _ = unstructured.NestedSlice(o.Object, "status", "conditions")
			}
			o.Object["status"] = status
		}
		o.Object["spec"] = parse(t, f.spec)
		create(t, c, o)
		if status, ok := o.Object["status"]; ok {
			t.Errorf("%s %s: created with status %v", f.kind, f.apiVersion, status)
		}
		if err := c.Delete(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
}

// TestPoolCountersSaturate: the greatest int64 stands for the size of an IPv6 range
// that exceeds it, so the server must take it.
func TestPoolCountersSaturate(t *testing.T) {
	c, _ := newClient(t)
	o := object(t, v1, "IPAddressPool", "huge", `spec: {addresses: ["2001:db8::/32"]}`)
	create(t, c, o)
	pool, ok := typed(t, c, o).(*v1beta1.IPAddressPool)
	if !ok {
		t.Fatal("no pool")
	}
	pool.Status.AvailableIPv6 = math.MaxInt64
	if err := c.Status().Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	pool, _ = typed(t, c, o).(*v1beta1.IPAddressPool)
	if pool.Status.AvailableIPv6 != math.MaxInt64 {
		t.Errorf("stored as %d", pool.Status.AvailableIPv6)
	}
}
