package e2e_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/barelb/barelb/lab/build"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

func TestMain(m *testing.M) {
	cluster.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == measure.ToolWord {
		if err := measure.Run(ctx, os.Args[2:], measure.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	running.ctx = ctx //nolint:fatcontext // it is set once
	context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "interrupted: ending the clusters")
		_ = running.close()
		os.Exit(130)
	})
	code := m.Run()
	if err := running.close(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code) //nolint:gocritic // nothing is left to stop
}

// clusters are those that this process runs.
type clusters struct {
	ctx    context.Context //nolint:containedctx // ends at a signal; what runs outlives the test that started it
	mu     sync.Mutex
	closed bool
	byName map[string]*lab
	failed map[string]error
}

var running = clusters{byName: map[string]*lab{}, failed: map[string]error{}} // what TestMain has to close

// get returns the cluster of that name, and starts it if it does not run.
func (c *clusters) get(cfg cluster.Config) (*lab, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("start cluster: interrupted")
	}
	if l, err := c.byName[cfg.Name], c.failed[cfg.Name]; l != nil || err != nil {
		return l, err
	}
	l, err := start(c.ctx, cfg)
	if err != nil {
		c.failed[cfg.Name] = err
		return nil, err
	}
	c.byName[cfg.Name] = l
	return l, nil
}

func (c *clusters) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for name, l := range c.byName {
		delete(c.byName, name)
		errs = append(errs, l.c.Close())
	}
	return errors.Join(errs...)
}

// end closes the cluster of that name, for one that would keep the machine busy while
// other tests run.
func (c *clusters) end(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.byName[name]
	if l == nil {
		return nil
	}
	delete(c.byName, name)
	return l.c.Close()
}

// frr returns the cluster that most tests share: three nodes and FRR.
func frr(t *testing.T) *lab {
	t.Helper()
	return use(t, cluster.Config{Name: "e2e-frr", Router: cluster.FRR, BGP: cluster.BGP{NodeAS: nodeAS, RouterAS: routerAS}})
}

// use returns a cluster for one test, and mends what the test breaks.
func use(t *testing.T, cfg cluster.Config) *lab {
	t.Helper()
	need(t)
	cfg.Name = fmt.Sprintf("%s-%d", cfg.Name, os.Getpid())
	l, err := running.get(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.mend(t) })
	t.Cleanup(func() { l.dump(t) })
	return l
}

// need skips a test where the machine lacks something, and fails it on CI.
func need(t *testing.T, more ...string) {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, p := range append(more, "ip", "nft", "bird", "/usr/lib/frr/bgpd") {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	switch {
	case len(missing) == 0:
	case os.Getenv("CI") == "true":
		t.Fatalf("this machine lacks %v", missing)
	default:
		t.Skipf("SKIPPED: this machine lacks %v", missing)
	}
}

// progress says what takes time.
func progress(line string) {
	if testing.Verbose() {
		fmt.Fprintln(os.Stderr, line)
	}
}

// start brings up a cluster with BareLB and backends on all nodes; one with kubelets has
// nothing in it, for its test to install what it wants.
func start(ctx context.Context, cfg cluster.Config) (*lab, error) {
	binary, err := input("BARELB_BIN", "../../bin/barelb", "run `make build`")
	if err != nil {
		return nil, err
	}
	manifest, err := input("BARELB_MANIFEST", "../../deploy/install.yaml", "run `make generate`")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	if cfg.Bin, err = build.Ensure(ctx, "", cfg.Mode.Binaries(), progress); err != nil {
		return nil, err
	}
	cfg.Progress = progress
	cfg.ProxyMode = os.Getenv("BARELB_PROXY_MODE")
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l, err := newLab(c, self)
	if err == nil && cfg.Mode == cluster.Real {
		l.pods, l.sys = true, system.New(c, system.Config{}, self)
		return l, nil
	}
	if err == nil {
		l.sys, err = system.Install(ctx, c, system.Config{
			Manifest: manifest, Controller: []string{binary, "controller", "--log-level=debug"}, Speaker: []string{binary, "speaker", "--log-level=debug"},
		}, self)
	}
	if err == nil {
		err = l.sys.PlaceBackends(ctx, c.Nodes()...)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return l, nil
}

// input is the absolute path of a file that a test needs.
func input(env, def, advice string) (string, error) {
	path, err := filepath.Abs(cmp.Or(os.Getenv(env), def))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("find what to test: %w: %s, or name it in %s", err, advice, env)
	}
	return path, nil
}
