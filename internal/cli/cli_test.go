package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/barelb/barelb/internal/cli"
)

// started is what a component says that has understood its arguments, but finds
// no API server.
const started = "barelb: find the API server: "

// run runs the command line where no API server is to be found.
func run(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	var stdout, stderr bytes.Buffer
	code := cli.Main(t.Context(), args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestArguments(t *testing.T) {
	secrets := t.TempDir()
	if err := os.WriteFile(filepath.Join(secrets, "secretkey"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ns := map[string]string{"METALLB_NAMESPACE": "metallb-system"}
	node := map[string]string{"METALLB_NAMESPACE": "metallb-system", "METALLB_NODE_NAME": "node1"}
	members := map[string]string{
		"METALLB_NAMESPACE": "metallb-system", "METALLB_NODE_NAME": "node1", "METALLB_HOST": "192.168.1.101",
		"METALLB_ML_BIND_ADDR": "192.168.1.101", "METALLB_ML_BIND_PORT": "", "METALLB_ML_LABELS": "app=metallb,component=speaker",
		"METALLB_ML_SECRET_KEY_PATH": secrets, "METALLB_POD_NAME": "speaker-x",
	}
	for name, c := range map[string]struct {
		args string
		env  map[string]string
		want string // the only line of stderr begins with it
	}{
		"controller":           {"barelb controller --namespace=metallb-system", nil, started},
		"two words":            {"barelb controller --namespace metallb-system --port 1", nil, started},
		"one dash":             {"barelb controller -namespace=metallb-system -port=1 -log-level debug", nil, started},
		"by its name":          {"/controller --port=7472 --log-level=info", ns, started},
		"speaker by its name":  {"/usr/bin/speaker -port=7472", node, started},
		"speaker":              {"barelb speaker --node-name=node1", ns, started},
		"as MetalLB's Pod":     {"/speaker --port=9120 --log-level=info", members, started},
		"as MetalLB's other":   {"/controller --port=9120 --log-level=info --tls-min-version=VersionTLS13 --webhook-mode=enabled", ns, started},
		"all of the webhook":   {"/controller --webhook-mode enabled --webhook-http2 --disable-cert-rotation --cert-dir=/x --cert-service-name y --webhook-secret z --port=1", ns, started},
		"ignored with values":  {"/controller --disable-cert-rotation=true --webhook-http2=false", ns, started},
		"ignored by a speaker": {"/speaker --frrk8s-namespace x --frrk8s-secret-passthrough --bgp-debounce-timeout 500", node, started},
		"webhook alone":        {"barelb controller --webhook-mode=onlywebhook --webhook-port=1", ns, started},
		"TLS 1.2":              {"/controller --tls-min-version=VersionTLS12 --tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 --tls-curve-preferences=X25519,CurveP256", ns, started},

		"metrics for a proxy": {"/controller --local-metrics-address=127.0.0.1:9122", ns, started},

		"no namespace":       {"barelb controller", nil, "barelb: --namespace: say where the configuration objects are (metallb-system, as a rule), or set METALLB_NAMESPACE"},
		"webhook mode":       {"barelb controller --webhook-mode=on", ns, `barelb: --webhook-mode: "on" is neither enabled nor disabled nor onlywebhook`},
		"graceful restart":   {"barelb speaker --node-name=node1 --graceful-restart=yes", ns, `barelb: --graceful-restart: "yes" is neither peer nor on`},
		"profile":            {"barelb speaker --node-name=node1 --l2-profile=fas", ns, `barelb: --l2-profile: no profile "fas": want default or fast`},
		"no name":            {"barelb explain service", nil, "barelb: one name is needed, and there are 0: barelb explain service [NAMESPACE/]NAME"},
		"no node":            {"barelb speaker", ns, "barelb: --node-name: say which node this is, as Kubernetes names it, or set METALLB_NODE_NAME"},
		"unknown flag":       {"barelb controller --nonsense", ns, "barelb: unknown flag: --nonsense"},
		"a flag misspelt":    {"barelb controller --log-levl=info", ns, "barelb: unknown flag: --log-levl; did you mean --log-level?"},
		"a kind misspelt":    {"barelb explain servise x", nil, `barelb: unknown command "servise" for "barelb explain"; did you mean service?`},
		"no such kind":       {"barelb migrate nonsense", nil, `barelb: unknown command "nonsense" for "barelb migrate"`},
		"unknown word":       {"barelb controller nonsense", ns, `barelb: unknown command "nonsense" for "barelb controller"`},
		"unknown command":    {"barelb nonsense", ns, `barelb: unknown command "nonsense" for "barelb"`},
		"not a number":       {"barelb controller --port=x", ns, `barelb: invalid argument "x" for "--port" flag`},
		"log level":          {"barelb controller --log-level=loud", ns, `barelb: --log-level: "loud" is not one of all, debug, info, warn, error, none`},
		"TLS version":        {"barelb controller --tls-min-version=1.2", ns, `barelb: --tls-min-version: "1.2" is neither VersionTLS12 nor VersionTLS13`},
		"cipher suites":      {"barelb controller --tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", ns, "barelb: --tls-cipher-suites: TLS 1.3 does not let them be chosen"},
		"no cipher suite":    {"barelb controller --tls-min-version=VersionTLS12 --tls-cipher-suites=X", ns, `barelb: --tls-cipher-suites: "X" is not known`},
		"no curve":           {"barelb controller --tls-curve-preferences=X", ns, `barelb: --tls-curve-preferences: "X" is not known`},
		"metrics for all":    {"barelb controller --local-metrics-address=0.0.0.0:9122", ns, `barelb: --local-metrics-address: "0.0.0.0:9122" is no address of loopback`},
		"the speaker's flag": {"barelb controller --node-name=x", ns, "barelb: unknown flag: --node-name"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			code, stdout, stderr := run(t, strings.Fields(c.args)...)
			if code != 1 || stdout != "" || !strings.HasPrefix(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("code %d, stdout %q, stderr:\n%s\nwant one line that begins with:\n%s", code, stdout, stderr, c.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for args, want := range map[string][]string{
		"barelb":                   {"barelb controller", "The processes of a cluster", "For users", "explain", "speaker", "version"},
		"barelb --help":            {"The processes of a cluster", "MetalLB's API"},
		"barelb controller --help": {"--ml-secret-name", "--lb-class", "METALLB_NAMESPACE", "9120", "--webhook-mode"},
		"barelb speaker -h":        {"--ml-bindaddr", "--probe-addresses", "--graceful-restart", "--node-name", "METALLB_NODE_NAME", "7946"},
		"/speaker --help":          {"--ml-bindaddr"},
	} {
		code, stdout, stderr := run(t, strings.Fields(args)...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: code %d, stderr %q", args, code, stderr)
		}
		for _, w := range want[min(1, len(want)-1):] {
			if !strings.Contains(stdout, w) {
				t.Errorf("%s: no %q in:\n%s", args, w, stdout)
			}
		}
		for _, hidden := range []string{"webhook-http2", "without effect", "frrk8s"} {
			if strings.Contains(stdout, hidden) {
				t.Errorf("%s: speaks of %q", args, hidden)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	_, short, _ := run(t, "barelb", "--version")
	code, long, stderr := run(t, "barelb", "version")
	if code != 0 || stderr != "" || short != "barelb version "+long || !strings.Contains(long, " go1.") || strings.Count(long, "\n") != 1 {
		t.Errorf("version: code %d, stderr %q, stdout %q; --version: %q", code, stderr, long, short)
	}
}

func TestNoArguments(t *testing.T) {
	if code, _, stderr := run(t); code != 0 || stderr != "" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

// TestCommandsForUsers: they are there under both names, and their flags are kubectl's,
// which have two dashes or one letter.
func TestCommandsForUsers(t *testing.T) {
	dir := t.TempDir()
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n"
	if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(node), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"barelb status --offline DIR":                                 "node1",
		"/usr/bin/kubectl-barelb status --offline DIR -ojson":         `"name": "node1"`,
		"kubectl-barelb --help":                                       "  kubectl barelb [command]",
		"kubectl-barelb explain service --help":                       "  kubectl barelb explain service [NAMESPACE/]NAME",
		"barelb drain --help":                                         "barelb.io/drain",
		"kubectl_complete-barelb explain node --offline DIR n":        "node1\n",
		"kubectl_complete-barelb expl":                                "explain\t",
		"barelb completion bash":                                      "bash completion V2 for barelb",
		"barelb explain service x -nshop --offline DIR --output=yaml": "NoSuchService",
	} {
		code, stdout, stderr := run(t, strings.Fields(strings.ReplaceAll(args, "DIR", dir))...)
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("%s: code %d, stderr %q, no %q in:\n%s", args, code, stderr, want, stdout)
		}
	}
}
