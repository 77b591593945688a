package api_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
)

const (
	crdDir      = "../deploy/crds"
	installFile = "../deploy/install.yaml"
	webhookFile = "../deploy/manifests/webhook.yaml"
	namespace   = "metallb-system"
)

// server is the one API server of all tests: etcd and kube-apiserver on loopback,
// from the directory that BARELB_KUBE_BIN names, with deploy/crds installed.
var server struct {
	env *envtest.Environment
	err error
}

func TestMain(m *testing.M) {
	dir := os.Getenv("BARELB_KUBE_BIN")
	if dir == "" {
		m.Run()
		return
	}
	server.env = &envtest.Environment{
		BinaryAssetsDirectory: dir,
		CRDInstallOptions:     envtest.CRDInstallOptions{Paths: []string{crdDir}, ErrorIfPathMissing: true},
	}
	defer stopOnSignal()()
	_, server.err = server.env.Start()
	m.Run()
}

// stopOnSignal returns a function that stops the API server. It also stops it when
// a signal ends this process, which the server's own process group does not get.
func stopOnSignal() func() {
	stop := sync.OnceFunc(func() {
		if err := server.env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop API server:", err)
		}
	})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	go func() {
		got, ok := (<-signals).(syscall.Signal)
		for got == syscall.SIGPIPE && outputIsRead() { // it was about a connection
			got, ok = (<-signals).(syscall.Signal)
		}
		stop()
		signal.Reset()
		if ok {
			_ = syscall.Kill(os.Getpid(), got)
		}
	}()
	return stop
}

// warnings collects the warnings that the API server sends.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// take returns the warnings since the last call.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := w.texts
	w.texts = nil
	return texts
}

// kubeEnv returns the running API server, or skips the test where there is none.
// On CI there must be one.
func kubeEnv(t *testing.T) *envtest.Environment {
	t.Helper()
	if server.env == nil {
		const missing = "BARELB_KUBE_BIN does not name a directory with kube-apiserver and etcd"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip("SKIPPED, nothing was checked against a real API server: " + missing)
	}
	if server.err != nil {
		t.Fatalf("start API server: %v", server.err)
	}
	return server.env
}

// newClient returns a client that refuses unknown fields, so that a field which
// the schema lacks is an error and not silently dropped.
//
//nolint:ireturn // the library gives no other
func newClient(t *testing.T) (client.Client, *warnings) {
	t.Helper()
	env := kubeEnv(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1beta1.AddToScheme, v1beta2.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &warnings{}
	cfg := rest.CopyConfig(env.Config)
	cfg.WarningHandler = w
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return client.WithFieldValidation(c, "Strict"), w
}

// object returns an object of the default namespace whose other top-level fields,
// such as spec, are read from YAML.
func object(t *testing.T, apiVersion, kind, name, body string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(body), &o.Object); err != nil {
		t.Fatalf("parse %q: %v", body, err)
	}
	if o.Object == nil {
		o.Object = map[string]any{}
	}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetName(name)
	o.SetNamespace("default")
	return o
}

// parse reads YAML into plain values.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return o
}

// create creates o and removes it at the end of the test.
func create(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatalf("create %s: %v", o.GetName(), err)
	}
	cleanUp(t, c, o)
}

// cleanUp removes o at the end of the test.
func cleanUp(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(c.Delete(context.WithoutCancel(t.Context()), o)); err != nil {
			t.Errorf("delete %s: %v", o.GetName(), err)
		}
	})
}

// crdFiles returns the text of each generated CustomResourceDefinition by file name.
func crdFiles(t *testing.T) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(crdDir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no CustomResourceDefinitions in %s: %v", crdDir, err)
	}
	files := map[string][]byte{}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(p)] = text
	}
	return files
}

// outputIsRead reports whether nobody has closed our output's other end.
func outputIsRead() bool {
	fds := []unix.PollFd{{Fd: 1}, {Fd: 2}}
	_, err := unix.Poll(fds, 0)
	return err != nil || (fds[0].Revents|fds[1].Revents)&unix.POLLERR == 0
}
