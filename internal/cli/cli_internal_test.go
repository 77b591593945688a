package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/layer2"
	"github.com/barelb/barelb/internal/speaker"
)

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"barelb":                              "",
		"barelb controller -port=1":           "controller --port=1",
		"/controller -port 1 --log-level=all": "controller --port 1 --log-level=all",
		"./speaker -h":                        "speaker -h",
		"barelb speaker - -- --x -1 -a=-bc":   "speaker - -- --x -1 -a=-bc",
		"kubectl-barelb":                      "",
	} {
		if got := strings.Join(words(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// A flag wins over its variable; a variable that is empty counts for nothing.
func TestFlagsAndVariables(t *testing.T) {
	t.Setenv("METALLB_NAMESPACE", "a")
	t.Setenv("METALLB_NODE_NAME", "node1")
	t.Setenv("METALLB_ML_BIND_PORT", "7950")
	t.Setenv("METALLB_ML_LABELS", "app=metallb")
	t.Setenv("METALLB_HOST", "")
	check := func(args string, want map[string]string) {
		t.Helper()
		cmd := speakerCommand(io.Discard)
		if err := cmd.ParseFlags(words(strings.Fields("speaker " + args))[1:]); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for name := range want {
			got[name] = cmd.Flags().Lookup(name).Value.String()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", args, diff)
		}
	}
	check("", map[string]string{
		"namespace": "a", "node-name": "node1", "ml-bindport": "7950", "ml-labels": "app=metallb", "host": "", "port": "9120", "health-probe-port": "17472",
		"service-status-objects": "true",
	})
	check("-namespace=b --node-name node2 -ml-bindport 1 -ml-wan-config -ignore-exclude-lb=true -lb-class x.y/z -service-status-objects=false", map[string]string{
		"namespace": "b", "node-name": "node2", "ml-bindport": "1", "ml-wan-config": "true", "ignore-exclude-lb": "true", "lb-class": "x.y/z",
		"service-status-objects": "false",
	})
	t.Setenv("METALLB_ML_BIND_PORT", "")
	check("", map[string]string{"ml-bindport": "7946"})
}

func TestStatusObjectsFlag(t *testing.T) {
	for _, on := range []bool{true, false} {
		deps := speaker.Deps{}
		f := speakerFlags{common: common{statusObjects: on}}
		if task := statusTask(f, &kube.Cluster{}, &deps); task == nil || (deps.Status != nil) != on {
			t.Errorf("--service-status-objects=%t: the speaker reports to %v", on, deps.Status)
		}
	}
}

func TestMembersFlags(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secretkey"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "secretkey"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := speakerFlags{probe: "arp", nodeName: "node1", mlBindAddr: "127.0.0.1", mlLabels: "a=b", mlBindPort: 7946, mlSecretPath: dir}
	for name, c := range map[string]struct {
		edit    func(*speakerFlags)
		members bool
		err     string
	}{
		"all":            {func(*speakerFlags) {}, true, ""},
		"no secret":      {func(f *speakerFlags) { f.mlSecretPath = "" }, true, ""},
		"no address":     {func(f *speakerFlags) { f.mlBindAddr = "" }, false, ""},
		"no labels":      {func(f *speakerFlags) { f.mlLabels = "" }, false, ""},
		"port":           {func(f *speakerFlags) { f.mlBindPort = 65536 }, false, "--ml-bindport, METALLB_ML_BIND_PORT: must be between 1 and 65535"},
		"secret empty":   {func(f *speakerFlags) { f.mlSecretPath = empty }, false, "--ml-secret-key-path: the file secretkey is empty"},
		"secret missing": {func(f *speakerFlags) { f.mlSecretPath = dir + "/none" }, false, "--ml-secret-key-path: open "},
	} {
		t.Run(name, func(t *testing.T) {
			f := good
			c.edit(&f)
			m, err := newMembers(f, &kube.Cluster{}, nil, nil, nil, nil, slog.New(slog.DiscardHandler))
			if (m != nil) != c.members || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
}

func TestExcludedLinks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "excludel2.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := readExcluded(file); err != nil || len(got) != len(layer2.DefaultExclude()) {
		t.Errorf("no file: got %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"announcedInterfacesToExclude: []": "",
		"":                                 "",
		"announcedInterfacesToExclude: [\"^docker.*\", \"^eth1$\"]": "^docker.* ^eth1$",
	} {
		write(text)
		got, err := readExcluded(file)
		var list []string
		for _, re := range got {
			list = append(list, re.String())
		}
		if err != nil || got == nil || strings.Join(list, " ") != want {
			t.Errorf("%q: got %v, %v; want %q, and never nil, which would mean the default", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"announcedInterfacesToExclude: [\"a\", \"(\"]": "announcedInterfacesToExclude[1]: error parsing regexp",
		"announcedInterfacesToExclude: {":              "yaml",
	} {
		write(text)
		if _, err := readExcluded(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: got %v, want the file and %q", text, err, want)
		}
	}
}

func TestTLS(t *testing.T) {
	set, err := (&common{tlsMin: "VersionTLS12", tlsCiphers: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", tlsCurves: "P256, X25519"}).tlsConfig()
	if err != nil {
		t.Fatal(err)
	}
	var cfg tls.Config
	set(&cfg)
	if cfg.MinVersion != tls.VersionTLS12 || !cmp.Equal(cfg.CipherSuites, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}) ||
		!cmp.Equal(cfg.CurvePreferences, []tls.CurveID{tls.CurveP256, tls.X25519}) || !cmp.Equal(cfg.NextProtos, []string{"http/1.1"}) {
		t.Errorf("got %v %v %v %v", cfg.MinVersion, cfg.CipherSuites, cfg.CurvePreferences, cfg.NextProtos)
	}
}

// The libraries' information is our debugging, their errors are errors.
func TestLibrariesAreQuiet(t *testing.T) {
	lines := func(level slog.Level) int {
		var b bytes.Buffer
		h := slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: level})
		log := logr.FromSlogHandler(quiet{h, level}).WithName("x").WithValues("a", 1)
		log.Info("news")
		log.Error(errors.New("trouble"), "trouble")
		return strings.Count(b.String(), "\n")
	}
	for level, want := range map[slog.Level]int{slog.LevelDebug: 2, slog.LevelInfo: 1, slog.LevelError: 1} {
		if got := lines(level); got != want {
			t.Errorf("at level %s: %d lines, want %d", level, got, want)
		}
	}
}

func TestKeepTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, tries := time.Now(), 0
		keepTrying(t.Context(), slog.New(slog.DiscardHandler), "try", func(context.Context) error {
			if tries++; tries < 8 {
				return errors.New("not yet")
			}
			return nil
		})
		if took := time.Since(began); tries != 8 || took != (1+2+4+8+16+30+30)*time.Second {
			t.Errorf("%d tries in %s", tries, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		keepTrying(ctx, slog.New(slog.DiscardHandler), "try", func(context.Context) error { return errors.New("never") })
		if ctx.Err() == nil {
			t.Error("it gave up before the end")
		}
	})
}

func TestProxyURL(t *testing.T) {
	for text, good := range map[string]bool{
		"auto": true, "off": true, "http://127.0.0.1:10256/healthz": true, "http://[::1]:10256/livez": true,
		"": false, "on": false, "127.0.0.1:10256": false, "https://127.0.0.1:10256/healthz": false, "http:///healthz": false,
	} {
		if err := checkProxyURL(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, c := range []struct {
		at       string
		together bool
		want     bool
	}{{"auto", true, true}, {"auto", false, false}, {"off", true, false}, {"http://127.0.0.1:10256/healthz", false, true}} {
		w, err := newProxy(c.at, c.together, prometheus.NewPedanticRegistry(), slog.New(slog.DiscardHandler))
		if err != nil || (w != nil) != c.want {
			t.Errorf("%+v: watched: %t, %v", c, w != nil, err)
		}
	}
}
