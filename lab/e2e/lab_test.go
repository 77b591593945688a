package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/system"
)

const (
	// patience bounds every wait for what should take a moment.
	patience = 90 * time.Second
	poll     = 50 * time.Millisecond

	namespace = metav1.NamespaceDefault // of the Services
)

// lab is a cluster with BareLB.
type lab struct {
	c    *cluster.Cluster
	sys  *system.System
	self string // this binary, which has the instruments
	kube kubernetes.Interface
	dyn  dynamic.Interface
	macs map[string]string // node by the MAC of its link
	pods bool              // there are kubelets, and the load balancers are Pods

	dumped string // the last test that was
}

func newLab(c *cluster.Cluster, self string) (*lab, error) {
	dyn, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	l := &lab{c: c, self: self, kube: c.Client(), dyn: dyn, macs: map[string]string{}}
	for _, node := range c.Nodes() {
		err := c.Box(node).InNetns(func() error {
			link, err := net.InterfaceByName("eth0")
			if err == nil {
				l.macs[link.HardwareAddr.String()] = node
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("find link of %s: %w", node, err)
		}
	}
	return l, nil
}

// eventually polls until ok returns nil, and fails the test at the end of patience.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("wait for %s: not within %s; last: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// undo runs fn at the end of the test, in a context that lasts.
func (l *lab) undo(t *testing.T, what string, fn func(ctx context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		l.dump(t) // while everything is there
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := fn(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

// httpIn returns a client whose connections start in a host.
func httpIn(b *box.Box) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the metrics server signs its own
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var conn net.Conn
			err := b.InNetns(func() error {
				var err error
				conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
}

// get fetches a page in a host.
func get(ctx context.Context, b *box.Box, url, token string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpIn(b).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// awaitReady waits until the controller or speaker of a host has its first plan in force.
func (l *lab) awaitReady(t *testing.T, host string) {
	t.Helper()
	eventually(t, "readiness in "+host, func() error { return l.ready(t.Context(), host) })
}

func (l *lab) ready(ctx context.Context, host string) error {
	status, body, err := get(ctx, l.c.Box(host), "http://127.0.0.1:17472/readyz", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %s", status, body)
	}
	return err
}

// killController ends the controller without warning, and waits for its end.
func (l *lab) killController(t *testing.T) {
	t.Helper()
	must(t, l.sys.Controller().Signal(syscall.SIGKILL))
	<-l.sys.Controller().Done()
}

// startController starts the controller and waits until it has seen to all Services.
func (l *lab) startController(t *testing.T) {
	t.Helper()
	must(t, l.sys.StartController(t.Context()))
	l.awaitReady(t, cluster.Control)
}

// killSpeaker ends a speaker without warning.
func (l *lab) killSpeaker(t *testing.T, node string) {
	t.Helper()
	must(t, l.sys.KillSpeaker(t.Context(), node))
}

// startSpeaker starts a speaker that was stopped and waits for its first plan.
func (l *lab) startSpeaker(t *testing.T, node string) {
	t.Helper()
	must(t, l.sys.StartSpeaker(t.Context(), node))
	l.awaitReady(t, node)
}

// signalAPI sends a signal to the API server.
func (l *lab) signalAPI(ctx context.Context, signal string) error {
	return l.c.SignalAPI(ctx, signal)
}

// mend repairs what a test may have left broken, and waits until all of BareLB is up.
func (l *lab) mend(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	errs := []error{l.signalAPI(ctx, "CONT"), l.c.Restore(cluster.Control), l.c.Join()}
	for _, node := range l.c.Nodes() {
		errs = append(errs, l.c.Restore(node))
		_ = l.sys.ResumeSpeaker(node) // one that has ended needs none
		if ended(l.sys.Speaker(node)) {
			errs = append(errs, l.sys.StartSpeaker(ctx, node))
		}
	}
	if ended(l.sys.Controller()) {
		errs = append(errs, l.sys.StartController(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		t.Errorf("mend: %v", err)
	}
	for _, host := range append(l.c.Nodes(), cluster.Control) {
		for l.ready(ctx, host) != nil && ctx.Err() == nil {
			<-time.After(poll)
		}
	}
	if ctx.Err() != nil {
		t.Error("mend: controller or speakers do not come up")
	}
}

func ended(p *box.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// dump shows, once, what a failed test looks like.
func (l *lab) dump(t *testing.T) {
	t.Helper()
	if !t.Failed() || l.dumped == t.Name() {
		return
	}
	l.dumped = t.Name()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if pressure, err := os.ReadFile("/proc/pressure/cpu"); err == nil { // a machine that is too busy loses datagrams by itself
		t.Logf("processes waited for a core:\n%s", pressure)
	}
	out, _ := l.c.Kubectl(ctx, "get", "services,nodes,ipaddresspools,l2advertisements,bgpadvertisements,bgppeers,configurationstates,endpointslices", "-A", "-o", "wide")
	t.Logf("objects:\n%s", out)
	if l.pods {
		l.dumpPods(ctx, t)
		return
	}
	for _, host := range append(l.c.Nodes(), cluster.Control) {
		name := "speaker"
		if host == cluster.Control {
			name = "controller"
		}
		t.Logf("%s of %s:\n%s", name, host, l.logTail(host, name))
	}
}

// logTail is the end of the log of a controller or speaker.
func (l *lab) logTail(host, name string) string {
	text, _ := os.ReadFile(l.c.Box(host).Dir() + "/" + name + ".log")
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "memberlist: ") && !strings.Contains(line, "controller-runtime") {
			lines = append(lines, line)
		}
	}
	const most = 25
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

// nodeOf is the node with an address of the LAN, global or link-local; "" for none.
func (l *lab) nodeOf(a netip.Addr) string {
	for i, name := range l.c.Nodes() {
		v4, v6 := cluster.NodeAddrs(i + 1)
		if a == v4 || a == v6 {
			return name
		}
		if a.IsLinkLocalUnicast() && a.Is6() { // its end is that of the MAC, which is the host's number
			if raw := a.As16(); int(raw[15]) == int(v4.As4()[3]) {
				return name
			}
		}
	}
	return ""
}
