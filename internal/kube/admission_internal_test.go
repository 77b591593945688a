package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
)

// api is an API server with one pool, or one that is away.
type api struct {
	client.Reader

	away bool
}

func (a api) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	if a.away {
		return errors.New("the API server is away")
	}
	if pools, ok := list.(*v1beta1.IPAddressPoolList); ok {
		pools.Items = []v1beta1.IPAddressPool{{}}
		pools.Items[0].Name, pools.Items[0].Spec.Addresses = "old", []string{"198.18.0.0/24"}
	}
	return nil
}

// post asks whether body may be written.
func post(a api, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	newAdmission("metallb-system", a, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
	return w
}

func review(edit func(*admissionv1.AdmissionRequest), object string) string {
	req := &admissionv1.AdmissionRequest{UID: "1", Namespace: "metallb-system", Name: "new", Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: []byte(object)}}
	req.Kind.Kind = "IPAddressPool"
	if edit != nil {
		edit(req)
	}
	text, err := json.Marshal(admissionv1.AdmissionReview{Request: req})
	if err != nil {
		panic(err)
	}
	return string(text)
}

const overlapping = `{"metadata": {"creationTimestamp": "2026-11-01T00:00:00Z", "name": "new"}, "spec": {"addresses": ["198.18.0.7-198.18.0.9"]}}`

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		api     api
		body    string
		status  int
		allowed bool
		says    string
	}{
		"overlap":              {body: review(nil, overlapping), status: 200, says: `spec.addresses: CIDR "198.18.0.7-198.18.0.9" in pool "new" overlaps with already defined CIDR "198.18.0.0-198.18.0.255" of IPAddressPool "old", which is older (Overlap)`},
		"fine":                 {body: review(nil, `{"metadata": {"name": "new"}, "spec": {"addresses": ["198.18.1.0/24"]}}`), status: 200, allowed: true},
		"a name of its own":    {body: review(func(r *admissionv1.AdmissionRequest) { r.Name = "" }, overlapping), status: 200, says: "overlaps"},
		"on its way out":       {body: review(func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Update }, strings.Replace(overlapping, `"new"`, `"new", "deletionTimestamp": "2026-11-01T00:00:00Z"`, 1)), status: 200, allowed: true},
		"status":               {body: review(func(r *admissionv1.AdmissionRequest) { r.SubResource = "status" }, overlapping), status: 200, allowed: true},
		"elsewhere":            {body: review(func(r *admissionv1.AdmissionRequest) { r.Namespace = "default" }, overlapping), status: 200, says: "resource must be created in metallb-system namespace"},
		"elsewhere, an update": {body: review(func(r *admissionv1.AdmissionRequest) { r.Namespace, r.Operation = "default", admissionv1.Update }, overlapping), status: 200, allowed: true},
		"unreadable object":    {body: review(nil, `{"metadata": {"name": "new"}, "spec": {"addresses": 7}}`), status: 200, says: "read the IPAddressPool"},
		"another kind":         {body: review(func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "Pod" }, "{}"), status: 200, says: "this kind is not judged here"},
		"API server away":      {api: api{away: true}, body: review(nil, overlapping), status: 500, says: "the API server is away"},
		"no review":            {body: "{}", status: 400},
		"no JSON":              {body: "{", status: 400},
		"too large":            {body: review(nil, `{"a": "`+strings.Repeat("x", maxReview)+`"}`), status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			w := post(c.api, c.body)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			if c.status != http.StatusOK {
				if !strings.Contains(w.Body.String(), c.says) {
					t.Errorf("it says %s", w.Body)
				}
				return
			}
			var got admissionv1.AdmissionReview
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Response == nil {
				t.Fatalf("%v: %s", err, w.Body)
			}
			said := ""
			if got.Response.Result != nil {
				said = got.Response.Result.Message
			}
			if got.Response.UID != "1" || got.Response.Allowed != c.allowed || !strings.Contains(said, c.says) {
				t.Errorf("response %+v, want allowed %t and %q", got.Response, c.allowed, c.says)
			}
		})
	}
}

// FuzzAdmission: whoever reaches the port may ask anything.
func FuzzAdmission(f *testing.F) {
	f.Add(review(nil, overlapping))
	for _, kind := range []string{"L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community"} {
		f.Add(review(func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = kind }, `{"metadata": {"name": "x"}, "spec": {"peerAddress": "1.1.1.1", "communities": ["1:2"], "aggregationLength": 24}}`))
	}
	f.Fuzz(func(t *testing.T, body string) {
		if w := post(api{}, body); w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}
