package kube

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The verdict on a token is kept for a while: Prometheus asks every few seconds. While the
// API server cannot be asked, which is when metrics are needed most, it is kept for longer.
const (
	verdictAge  = time.Minute
	verdictLast = time.Hour        // without the API server
	verdictNext = 10 * time.Second // before it is asked again
	verdictMax  = 1000             // verdicts kept; more means that somebody guesses
	reviewLimit = 3 * time.Second  // Prometheus waits for 10 s by default
)

// guard lets only those read metrics whom the API server allows to: the bearer
// token is authenticated by a TokenReview, and its user authorized to get the path
// by a SubjectAccessReview.
type guard struct {
	client client.Client
	now    func() time.Time

	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]verdict // by token and path
}

type verdict struct {
	status int // http.StatusOK, or why not
	given  time.Time
	until  time.Time // it is not asked for again
}

func newGuard(c client.Client) *guard {
	return &guard{client: c, now: time.Now, verdicts: map[[sha256.Size]byte]verdict{}}
}

// wrap is a metricsserver.Filter.
func (g *guard) wrap(log logr.Logger, next http.Handler) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || token == "" {
			http.Error(w, "a bearer token is needed: that of a ServiceAccount which may get "+r.URL.Path, http.StatusUnauthorized)
			return
		}
		status, err := g.check(r.Context(), token, r.URL.Path)
		switch {
		case err != nil:
			log.Error(err, "ask the API server who reads metrics")
			http.Error(w, "the API server cannot be asked who you are", http.StatusServiceUnavailable)
		case status != http.StatusOK:
			http.Error(w, http.StatusText(status), status)
		default:
			next.ServeHTTP(w, r)
		}
	}), nil
}

// check returns the HTTP status for whoever holds token and asks for path. An error is that
// of the API server, if it was never asked about them, or too long ago.
func (g *guard) check(ctx context.Context, token, path string) (int, error) {
	key := sha256.Sum256([]byte(token + "\n" + path))
	g.mu.Lock()
	known, ok := g.verdicts[key]
	g.mu.Unlock()
	now := g.now()
	if ok && now.Before(known.until) {
		return known.status, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewLimit)
	defer cancel()
	status, err := g.review(ctx, token, path)
	next := verdict{status, now, now.Add(verdictAge)}
	if err != nil {
		if !ok || now.Sub(known.given) > verdictLast {
			return 0, err
		}
		next = verdict{known.status, known.given, now.Add(verdictNext)}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.verdicts) >= verdictMax {
		clear(g.verdicts)
	}
	g.verdicts[key] = next
	return next.status, nil
}

func (g *guard) review(ctx context.Context, token, path string) (int, error) {
	who := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	if err := g.client.Create(ctx, who); err != nil {
		return 0, err
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	may := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
	}}
	if err := g.client.Create(ctx, may); err != nil {
		return 0, err
	}
	if !may.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
