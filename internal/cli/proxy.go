package cli

import (
	"fmt"
	"log/slog"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/kubeproxy"
)

// The values of --kube-proxy-health-url that are no URL.
const (
	proxyAuto = "auto"
	proxyOff  = "off"
)

func checkProxyURL(text string) error {
	if text == proxyAuto || text == proxyOff {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("--kube-proxy-health-url: %q is none of %s, %s and an HTTP URL such as %s", text, proxyAuto, proxyOff, kubeproxy.DefaultURL)
	}
	return nil
}

// newProxy returns what watches this node's kube-proxy, or nil if nothing shall. Where
// speakers do not know of each other, none can tell whether others still serve: then
// kube-proxy is watched only if that is asked for.
func newProxy(at string, together bool, reg prometheus.Registerer, log *slog.Logger) (*kubeproxy.Watcher, error) {
	cfg := kubeproxy.Config{Log: log, Registerer: reg}
	switch {
	case at == proxyOff, at == proxyAuto && !together:
		return nil, nil //nolint:nilnil // nothing to watch is no error
	case at != proxyAuto:
		cfg.URL, cfg.Required = at, true
	}
	return kubeproxy.New(cfg) //nolint:wrapcheck // it says it all
}
