package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/barelb/barelb/internal/core/explain"
)

const knownTime = 2 * time.Second

// serveKnown answers with what the speaker knows, as JSON, to whoever asks. Serve it on
// loopback alone.
// company tells speakers apart that do not share a secret.
func serveKnown(known func(context.Context) (*explain.Known, error), proxy, company string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), knownTime)
		defer cancel()
		k, err := known(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		k.Company = company
		k.ProxyAsked, k.Proxy = true, askProxy(ctx, proxy)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(k)
	})
}

// askProxy returns what is wrong with the kube-proxy whose health is at url, or "".
func askProxy(ctx context.Context, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("%s answers %s", url, resp.Status)
	}
	return ""
}
