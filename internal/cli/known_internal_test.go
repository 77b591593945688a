package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/core/explain"
)

func TestServeKnown(t *testing.T) {
	status := http.StatusOK
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(proxy.Close)
	var fails error
	h := serveKnown(func(context.Context) (*explain.Known, error) { return &explain.Known{Node: "node1"}, fails }, proxy.URL, "none")
	get := func() (int, explain.Known) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/known", nil))
		var k explain.Known
		_ = json.Unmarshal(rec.Body.Bytes(), &k)
		return rec.Code, k
	}
	if code, k := get(); code != http.StatusOK || k.Node != "node1" || !k.ProxyAsked || k.Proxy != "" || k.Company != "none" {
		t.Errorf("all is well: %d %+v", code, k)
	}
	status = http.StatusServiceUnavailable
	if _, k := get(); !strings.Contains(k.Proxy, "503") {
		t.Errorf("kube-proxy is unwell: %+v", k)
	}
	proxy.Close()
	if _, k := get(); !strings.Contains(k.Proxy, "refused") {
		t.Errorf("there is no kube-proxy: %+v", k)
	}
	fails = errors.New("no plan")
	if code, _ := get(); code != http.StatusServiceUnavailable {
		t.Errorf("no plan: %d", code)
	}
}
