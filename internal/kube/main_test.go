package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

const (
	system   = "metallb-system" // where the configuration is
	deadline = 90 * time.Second // for whatever is bound to happen: more than the longest pause between two attempts
)

// server is the one API server of all tests: etcd and kube-apiserver on loopback,
// from the directory that BARELB_KUBE_BIN names, with deploy/crds installed.
var server struct {
	env      *envtest.Environment
	err      error
	auditDir string
}

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	dir := os.Getenv("BARELB_KUBE_BIN")
	if dir == "" {
		m.Run()
		return
	}
	server.env = &envtest.Environment{
		BinaryAssetsDirectory: dir,
		CRDInstallOptions:     envtest.CRDInstallOptions{Paths: []string{"../../deploy/crds"}, ErrorIfPathMissing: true},
	}
	stop := stopOnSignal()
	if server.err = audit(); server.err == nil {
		_, server.err = server.env.Start()
	}
	if server.err == nil {
		server.err = install()
	}
	code := m.Run()
	stop()
	if code == 0 && wholeRun() {
		if err := checkRights(); err != nil {
			fmt.Fprintf(os.Stderr, "--- FAIL: the roles of deploy/chart/templates/rbac.yaml\n%v\n", err)
			code = 1
		}
	}
	removeAudit()
	os.Exit(code)
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
		for got == syscall.SIGPIPE && outputIsRead() { // it was about a connection that the test has cut
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

// outputIsRead reports whether nobody has closed our output's other end.
func outputIsRead() bool {
	fds := []unix.PollFd{{Fd: 1}, {Fd: 2}}
	_, err := unix.Poll(fds, 0)
	return err != nil || (fds[0].Revents|fds[1].Revents)&unix.POLLERR == 0
}

// install creates the namespace, and the rights of controller and speaker as they
// are deployed: the tests have no others.
func install() error {
	c, err := newClient()
	if err != nil {
		return err
	}
	for _, file := range []string{"namespace.yaml", "rbac.yaml", "admission.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/manifests", file))
		if err != nil {
			return err
		}
		for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
				return fmt.Errorf("parse %s: %w", file, err)
			}
			if o.Object == nil {
				continue
			}
			if err := c.Create(context.Background(), o); err != nil {
				return fmt.Errorf("create what is in %s: %w", file, err)
			}
		}
	}
	return nil
}

//nolint:ireturn // the library gives no other
func newClient() (client.WithWatch, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apiextensionsv1.AddToScheme, clientgoscheme.AddToScheme, v1alpha1.AddToScheme, v1beta1.AddToScheme, v1beta2.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	cfg := rest.CopyConfig(server.env.Config)
	cfg.QPS = -1
	return client.NewWithWatch(cfg, client.Options{Scheme: scheme})
}

// lab is a namespace of the API server's, for one test.
type lab struct {
	t         *testing.T
	client    client.WithWatch // may do everything
	namespace string
}

// newLab returns a lab, or skips the test where there is no API server. On CI
// there must be one.
func newLab(t *testing.T) *lab {
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
	c, err := newClient()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, client: c}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{"team": "red"}}}
	l.create(ns)
	l.namespace = ns.Name
	t.Cleanup(func() { // the claims are in one namespace for all tests
		if err := c.DeleteAllOf(context.WithoutCancel(t.Context()), &v1alpha1.AddressClaim{}, client.InNamespace(system)); err != nil {
			t.Errorf("delete claims: %v", err)
		}
	})
	return l
}

// create creates o and removes it at the end of the test.
func (l *lab) create(o client.Object) {
	l.t.Helper()
	if err := l.client.Create(l.t.Context(), o); err != nil {
		l.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
	l.t.Cleanup(func() {
		err := l.client.Delete(context.WithoutCancel(l.t.Context()), o, client.GracePeriodSeconds(0))
		if client.IgnoreNotFound(err) != nil {
			l.t.Errorf("delete %T %s: %v", o, o.GetName(), err)
		}
	})
}

func (l *lab) delete(o client.Object) {
	l.t.Helper()
	if err := l.client.Delete(l.t.Context(), o); err != nil {
		l.t.Fatalf("delete %T %s: %v", o, o.GetName(), err)
	}
}

// edit changes o as it is at the API server now.
func edit[T client.Object](l *lab, o T, change func(T)) {
	l.t.Helper()
	before := o.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy is of the same type
	change(o)
	if err := l.client.Patch(l.t.Context(), o, client.MergeFrom(before)); err != nil {
		l.t.Fatalf("edit %T %s: %v", o, o.GetName(), err)
	}
}

// editStatus changes o's status as it is at the API server now.
func editStatus[T client.Object](l *lab, o T, change func(T)) {
	l.t.Helper()
	before := o.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy is of the same type
	change(o)
	if err := l.client.Status().Patch(l.t.Context(), o, client.MergeFrom(before)); err != nil {
		l.t.Fatalf("edit status of %T %s: %v", o, o.GetName(), err)
	}
}

// eventually waits until check returns "", and fails with what it said last.
func (l *lab) eventually(check func() string) {
	l.t.Helper()
	end := time.Now().Add(deadline)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		why := check()
		if why == "" {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("after %s: %s", deadline, why)
		}
		<-tick.C
	}
}

// connect connects as a component does, with its ServiceAccount's rights.
func (l *lab) connect(opts kube.Options, change ...func(*rest.Config)) *kube.Cluster {
	l.t.Helper()
	cfg := rest.CopyConfig(server.env.Config)
	account := "controller"
	if opts.NodeName != "" {
		account = "speaker"
	}
	cfg.Impersonate = impersonate(account, opts.NodeName)
	for _, f := range change {
		f(cfg)
	}
	opts.Namespace, opts.Component = system, "metallb-"+account
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c, err := kube.Connected(cfg, opts)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// impersonate is what the API server knows of a Pod's token: the ServiceAccount, and the node if there is one.
func impersonate(account, node string) rest.ImpersonationConfig {
	out := rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + system + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + system, "system:authenticated"},
	}
	if node != "" {
		out.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
	}
	return out
}

// run runs tasks until the end of the test. They stop in reverse order.
func (l *lab) run(tasks ...func(context.Context) error) {
	l.t.Helper()
	for _, fn := range tasks {
		ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := fn(ctx); err != nil {
				l.t.Errorf("task: %v", err)
			}
		}()
		l.t.Cleanup(func() {
			cancel()
			select {
			case <-done:
			case <-time.After(deadline):
				l.t.Error("a task does not end")
			}
		})
	}
}

// view is what a reader of a feed knows.
type view struct {
	l       *lab
	feed    *kube.Feed
	last    kube.Delta // all Deltas so far, together
	orphans map[lb.Key]bool
	// announced is what all Deltas so far have said, nil if none did.
	announced map[lb.Key]lb.Announcement
}

// watch runs c and its feed, and waits until everything was read.
func (l *lab) watch(c *kube.Cluster) *view {
	l.t.Helper()
	v := &view{
		l: l, feed: c.Feed(), orphans: map[lb.Key]bool{},
		last: kube.Delta{Services: map[lb.Key]*lb.Service{}, Endpoints: map[lb.Key][]lb.Endpoint{}, Claims: map[netip.Addr][]lb.Holder{}},
	}
	v.feed.Hurry(100*time.Millisecond, 50*time.Millisecond, time.Second)
	l.run(c.Run, v.feed.Run)
	select {
	case <-v.feed.Ready():
	case <-time.After(deadline):
		l.t.Fatal("the feed is not ready")
	}
	v.drain()
	return v
}

// drain takes what is new.
func (v *view) drain() kube.Delta {
	d := v.feed.Drain()
	maps.Copy(v.last.Services, d.Services)
	maps.Copy(v.last.Claims, d.Claims)
	for key := range d.Services {
		v.last.Endpoints[key] = d.Endpoints[key]
		delete(v.orphans, key)
	}
	for _, key := range d.Orphans {
		v.orphans[key] = true
	}
	if d.Nodes != nil {
		v.last.Nodes = d.Nodes
	}
	if d.Objects != nil {
		v.last.Objects = d.Objects
	}
	if d.Announced != nil && v.announced == nil {
		v.announced = map[lb.Key]lb.Announcement{}
	}
	maps.Copy(v.announced, d.Announced)
	return d
}

// until takes what is new until check returns "". It looks only when the feed says
// that there is something.
func (v *view) until(check func() string) {
	v.l.t.Helper()
	end := time.After(deadline)
	for why := check(); why != ""; why = check() {
		select {
		case <-v.feed.Changed():
			v.drain()
		case <-end:
			v.l.t.Fatalf("after %s: %s", deadline, why)
		}
	}
}

// loadBalancer returns a Service of type LoadBalancer.
func (l *lab) loadBalancer(name string, change ...func(*corev1.Service)) *corev1.Service {
	o := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, f := range change {
		f(o)
	}
	return o
}

// always is the leadership of one that has no rival.
func always() bool { return true }

func (l *lab) key(name string) lb.Key { return lb.Key{Namespace: l.namespace, Name: name} }

// line is a TCP proxy before the API server that can be cut, and get stuck.
type line struct {
	addr  string
	mu    sync.Mutex
	cut   bool
	stuck chan struct{} // closed when what is open then carries nothing any more
	open  map[net.Conn]bool
}

func newLine(t *testing.T) *line {
	t.Helper()
	api, err := url.Parse(server.env.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{addr: listener.Addr().String(), open: map[net.Conn]bool{}, stuck: make(chan struct{})}
	t.Cleanup(func() {
		_ = listener.Close()
		l.set(true)
	})
	go func() {
		for {
			in, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go l.carry(in, api.Host)
			}
		}
	}()
	return l
}

func (l *line) carry(in net.Conn, to string) {
	defer func() { _ = in.Close() }()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	l.open[in] = true
	stuck := l.stuck
	l.mu.Unlock()
	go func() {
		_, _ = io.Copy(until{out, stuck}, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(until{in, stuck}, out)
}

// until writes to w until ch is closed, and then to nobody.
type until struct {
	w  io.Writer
	ch <-chan struct{}
}

func (u until) Write(b []byte) (int, error) {
	select {
	case <-u.ch:
		return len(b), nil
	default:
		return u.w.Write(b)
	}
}

// stick has the connections that there are carry nothing any more, as those do whose link
// is cut. New ones do.
func (l *line) stick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.stuck)
	l.stuck = make(chan struct{})
}

// set cuts the line, or mends it.
func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if !cut {
		return
	}
	for c := range l.open {
		_ = c.Close()
	}
	clear(l.open)
}

// through has a connection go over the line.
func (l *line) through(cfg *rest.Config) { cfg.Host = "https://" + l.addr }
