package kube

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// reviewer stands in for the API server, for which an hour would pass too slowly: how the
// real one answers is TestMetricsAreForThoseWhoMayReadThem.
type reviewer struct {
	client.Client
	away   bool
	asked  int
	allows bool
}

func (r *reviewer) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	if r.away {
		r.asked++
		return errors.New("away")
	}
	switch o := o.(type) {
	case *authenticationv1.TokenReview:
		r.asked++
		o.Status.Authenticated = true
	case *authorizationv1.SubjectAccessReview:
		o.Status.Allowed = r.allows
	}
	return nil
}

func TestVerdictsOutliveTheAPIServer(t *testing.T) {
	now := time.Now()
	r := &reviewer{allows: true}
	g := newGuard(r)
	g.now = func() time.Time { return now }
	h, err := g.wrap(logr.Discard(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		what   string
		after  time.Duration
		change func()
		status int
		asked  int // in total
	}{
		{"the first time", 0, nil, 200, 1},
		{"soon again", 59 * time.Second, nil, 200, 1},
		{"away", 2 * time.Second, func() { r.away = true }, 200, 2},
		{"away, soon again", 9 * time.Second, nil, 200, 2},
		{"away, later", 2 * time.Second, nil, 200, 3},
		{"away, an hour after it was last asked", 59 * time.Minute, nil, 503, 4},
		{"back, and of another opinion", time.Second, func() { r.away, r.allows = false, false }, 403, 5},
		{"away after that", 2 * time.Minute, func() { r.away = true }, 403, 6},
	} {
		now = now.Add(s.after)
		if s.change != nil {
			s.change()
		}
		req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		req.Header.Set("Authorization", "Bearer x")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != s.status || r.asked != s.asked {
			t.Errorf("%s: status %d after %d questions, want %d after %d", s.what, w.Code, r.asked, s.status, s.asked)
		}
	}
}
