package cli

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
)

// common are the flags of both components, by MetalLB's names.
type common struct {
	port, healthPort         int
	namespace, podName       string
	logLevel, pprof, lbClass string

	tlsMin, tlsCiphers, tlsCurves, certDir string
	statusObjects                          bool
	localMetrics                           bool   // a speaker's flag
	localAddress                           string // a controller's
}

func (c *common) add(f *pflag.FlagSet) {
	f.IntVar(&c.port, "port", 9120, "port of /metrics over HTTPS; 0 serves no metrics")
	f.IntVar(&c.healthPort, "health-probe-port", 17472, "port of /healthz and /readyz")
	f.StringVar(&c.namespace, "namespace", env("METALLB_NAMESPACE", ""), "namespace of the configuration objects (METALLB_NAMESPACE; default: our own)")
	f.StringVar(&c.podName, "pod-name", env("METALLB_POD_NAME", ""), "name of our own Pod (METALLB_POD_NAME)")
	f.StringVar(&c.logLevel, "log-level", "info", "all, debug, info, warn, error or none")
	f.StringVar(&c.pprof, "pprof-bind-address", "", "address to serve profiles on, such as localhost:6060 (default: none)")
	f.StringVar(&c.lbClass, "lb-class", "", "serve only Services of this loadBalancerClass (default: those without a class)")
	f.BoolVar(&c.statusObjects, "service-status-objects", true, "keep ServiceL2Status and ServiceBGPStatus objects, for controller and speakers alike; turn it off on large fleets: 1,000 nodes that announce 10,000 Services by BGP keep ten million objects")
	f.StringVar(&c.tlsMin, "tls-min-version", "VersionTLS13", "lowest TLS version of the metrics server: VersionTLS12 or VersionTLS13")
	f.StringVar(&c.tlsCiphers, "tls-cipher-suites", "", "comma-separated cipher suites of the metrics server, with VersionTLS12 only (default: Go's)")
	f.StringVar(&c.tlsCurves, "tls-curve-preferences", "", "comma-separated curves of the metrics server: X25519MLKEM768, X25519, P256, P384, P521 (default: Go's)")
	f.StringVar(&c.certDir, "metrics-cert-dir", "", "directory with tls.crt and tls.key of the metrics server (default: it signs its own)")
}

// ignored are flags of MetalLB that mean nothing here. They are accepted, so that
// its manifests start BareLB, and hidden. Switches need no value, the others do.
func ignored(f *pflag.FlagSet, switches, others []string) {
	for _, n := range switches {
		f.Bool(n, false, "without effect here")
		_ = f.MarkHidden(n)
	}
	for _, n := range others {
		f.String(n, "", "without effect here")
		_ = f.MarkHidden(n)
	}
}

// fill completes what the environment of a Pod can tell, and checks the rest.
func (c *common) fill() error {
	if c.namespace == "" {
		c.namespace = ownNamespace()
	}
	if c.namespace == "" {
		return fmt.Errorf("--namespace: say where the configuration objects are (metallb-system, as a rule), or set METALLB_NAMESPACE")
	}
	if c.localAddress != "" {
		if at, err := netip.ParseAddrPort(c.localAddress); err != nil || !at.Addr().IsLoopback() {
			return fmt.Errorf("--local-metrics-address: %q is no address of loopback with a port, such as 127.0.0.1:9122: others would read metrics without being asked who they are", c.localAddress)
		}
	}
	_, err := c.tlsConfig()
	return err
}

// tlsConfig returns what the flags ask of a TLS server.
func (c *common) tlsConfig() (func(*tls.Config), error) {
	versions := map[string]uint16{
		"": tls.VersionTLS13, "VersionTLS10": tls.VersionTLS10, "VersionTLS11": tls.VersionTLS11,
		"VersionTLS12": tls.VersionTLS12, "VersionTLS13": tls.VersionTLS13,
	}
	minVersion, ok := versions[c.tlsMin]
	if !ok {
		return nil, fmt.Errorf("--tls-min-version: %q is neither VersionTLS12 nor VersionTLS13", c.tlsMin)
	}
	if c.tlsCiphers != "" && minVersion == tls.VersionTLS13 {
		return nil, fmt.Errorf("--tls-cipher-suites: TLS 1.3 does not let them be chosen; use it with --tls-min-version=VersionTLS12")
	}
	byName := map[string]uint16{}
	for _, s := range tls.CipherSuites() {
		byName[s.Name] = s.ID
	}
	suites, err := lookUp("tls-cipher-suites", c.tlsCiphers, byName)
	if err != nil {
		return nil, err
	}
	curves, err := lookUp("tls-curve-preferences", c.tlsCurves, map[string]tls.CurveID{
		"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519, "P256": tls.CurveP256, "P384": tls.CurveP384, "P521": tls.CurveP521,
		"CurveP256": tls.CurveP256, "CurveP384": tls.CurveP384, "CurveP521": tls.CurveP521,
	})
	if err != nil {
		return nil, err
	}
	return func(cfg *tls.Config) {
		cfg.MinVersion, cfg.CipherSuites, cfg.CurvePreferences = minVersion, suites, curves
		cfg.NextProtos = []string{"http/1.1"} // HTTP/2 gains nothing here and has had its share of floods
	}, nil
}

func lookUp[T any](flag, list string, byName map[string]T) ([]T, error) {
	if list == "" {
		return nil, nil
	}
	var out []T
	for name := range strings.SplitSeq(list, ",") {
		v, ok := byName[strings.TrimSpace(name)]
		if !ok {
			return nil, fmt.Errorf("--%s: %q is not known", flag, name)
		}
		out = append(out, v)
	}
	return out, nil
}
