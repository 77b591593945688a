package kube_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// token returns a token of a new ServiceAccount.
func (l *lab) token(name string) string {
	l.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name}}
	l.create(account)
	req := &authenticationv1.TokenRequest{}
	if err := l.client.SubResource("token").Create(l.t.Context(), account, req); err != nil {
		l.t.Fatal(err)
	}
	return req.Status.Token
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is TCP
}

func TestMetricsAreForThoseWhoMayReadThem(t *testing.T) {
	l := newLab(t)
	allowed, other := l.token("prometheus"), l.token("other")
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: l.namespace},
		Rules:      []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}},
	}
	l.create(role)
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: l.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: l.namespace, Name: "prometheus"}},
	}
	l.create(binding)

	wire := newLine(t)
	c := l.connect(kube.Options{NodeName: "n1"}, wire.through)
	port := freePort(t)
	serve, err := c.MetricsServer(kube.MetricsOptions{Port: port, TLS: func(cfg *tls.Config) { cfg.MinVersion = tls.VersionTLS13 }})
	if err != nil {
		t.Fatal(err)
	}
	l.run(serve)
	web := &http.Client{
		Timeout:   deadline,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	get := func(authorization string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/metrics", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		res, err := web.Do(req)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err.Error()
		}
		if res.StatusCode == http.StatusOK && !strings.Contains(string(body), "\nrest_client_requests_total{") {
			return "these are no metrics: " + string(body)
		}
		return res.Status
	}
	l.eventually(func() string { return cmp.Diff("401 Unauthorized", get("")) })
	check := func(authorization, want string) {
		t.Helper()
		if got := get(authorization); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	check("Bearer ", "401 Unauthorized")
	check("Basic eDp4", "401 Unauthorized")
	check("Bearer nonsense", "401 Unauthorized")
	l.eventually(func() string { return cmp.Diff("200 OK", get("Bearer "+allowed)) })
	check("Bearer "+other, "403 Forbidden")

	// Without the API server, those whom it knows are served, and nobody else.
	wire.set(true)
	check("Bearer "+allowed, "200 OK")
	check("Bearer "+other, "403 Forbidden")
	check("Bearer new", "503 Service Unavailable")
	wire.set(false)
	check("Bearer new", "401 Unauthorized")

	if plain, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port)); err == nil {
		_ = plain.Body.Close()
		if plain.StatusCode == http.StatusOK {
			t.Error("it serves metrics in clear text")
		}
	}
}

func TestNoMetricsServer(t *testing.T) {
	l := newLab(t)
	serve, err := l.connect(kube.Options{}).MetricsServer(kube.MetricsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serve(ctx); err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	local := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	go func() { done <- kube.ServeHealth(ctx, addr, ready, map[string]http.Handler{"/metrics": local}) }()
	get := func(path string) int {
		res, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	for end := time.Now().Add(deadline); get("/healthz") == 0; {
		if time.Now().After(end) {
			t.Fatal("it does not listen")
		}
	}
	got := []int{get("/healthz"), get("/readyz"), get(kube.ReadyPath), get("/other")}
	close(ready)
	got = append(got, get("/healthz"), get("/readyz"), get(kube.ReadyPath), get("/metrics"))
	if diff := cmp.Diff([]int{200, 503, 503, 404, 200, 200, 200, 418}, got); diff != "" {
		t.Error(diff)
	}
	if err := kube.ServeHealth(ctx, addr, ready, nil); err == nil || !strings.HasPrefix(err.Error(), "listen for health probes: ") {
		t.Errorf("port in use: got %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClientMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := kube.NewClientMetrics(reg, kube.MetalLB, kube.FRRK8s)
	check := func(want, problems string) {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{"metallb_k8s_client_", "frrk8s_k8s_client_", "barelb_config_"} {
			var got []string
			for _, f := range families {
				if name, ok := strings.CutPrefix(f.GetName(), prefix); ok {
					for _, m := range f.Metric {
						name := name
						for _, l := range m.Label {
							name += " " + l.GetValue()
						}
						got = append(got, fmt.Sprintf("%s %v", name, m.GetCounter().GetValue()+m.GetGauge().GetValue()))
					}
				}
			}
			want := want
			if prefix == "barelb_config_" {
				want = problems
			}
			if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("%s: %s", prefix, diff)
			}
		}
	}
	check("config_loaded_bool 0, config_stale_bool 0, update_errors_total 0, updates_total 0", "")
	bad := config.Problem{Kind: "IPAddressPool", Name: "a", Reason: lb.Overlap}
	m.Config([]config.Problem{bad, bad, {Kind: "BGPPeer", Name: "a", Reason: lb.InvalidField}}, true)
	m.Update(nil)
	m.Update(io.EOF)
	check("config_loaded_bool 1, config_stale_bool 1, update_errors_total 1, updates_total 2", "problems BGPPeer InvalidField 1, problems IPAddressPool Overlap 2")
	m.Config([]config.Problem{bad}, false) // it does not count
	check("config_loaded_bool 1, config_stale_bool 0, update_errors_total 1, updates_total 2", "problems IPAddressPool Overlap 1")
	m.Config(nil, false)
	check("config_loaded_bool 1, config_stale_bool 0, update_errors_total 1, updates_total 2", "")
}
