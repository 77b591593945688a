package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/build"
	"github.com/barelb/barelb/lab/cluster"
)

// What the test binary does instead of testing, by its first argument.
const (
	asServer = "barelb-lab-test-server" // answers every TCP connection to port 8080 with its host's name
	asOwner  = "barelb-lab-test-owner"  // starts a lab and waits to be killed
)

func TestMain(m *testing.M) {
	cluster.Main()
	if len(os.Args) == 4 && os.Args[1] == asOwner {
		_, err := cluster.Start(context.Background(), cluster.Config{Name: os.Args[2], Bin: os.Args[3], Nodes: 2})
		fmt.Println("up", err)
		select {}
	}
	if len(os.Args) == 2 && os.Args[1] == asServer {
		fmt.Println(serve())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func serve() error {
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		name, _ := os.Hostname()
		_, err = fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\n\r\n%s\n", name)
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
}

func binaries(t *testing.T) string {
	t.Helper()
	need(t, "nft", "/usr/lib/frr/bgpd")
	dir, err := build.Ensure(t.Context(), "", cluster.Fast.Binaries(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

const service = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.7.7
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [%s], nodeName: node2, conditions: {ready: true}}]
`

func TestFast(t *testing.T) {
	c := start(t, cluster.Config{Name: "fast", Bin: binaries(t), Nodes: 2, Progress: func(line string) { t.Log(line) }})
	nodes, err := c.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 2 || len(nodes.Items[0].Spec.Taints) > 0 {
		t.Errorf("nodes: %v", nodes.Items)
	}
	pod, err := c.AddPod(t.Context(), "node2")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pod.Start("server", self, asServer); err != nil {
		t.Fatal(err)
	}
	if err := c.ApplyYAML(t.Context(), fmt.Sprintf(service, pod.V4)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a pod behind a Service", func() error { // from another node, through its kube-proxy
		out, err := c.Box("node1").Command(t.Context(), "curl", "-sS", "-m2", "http://10.96.7.7/").CombinedOutput()
		if err == nil && strings.TrimSpace(string(out)) != pod.Name() {
			err = fmt.Errorf("answer %q", out)
		}
		return err
	})
	out, err := c.Kubectl(t.Context(), "get", "nodes", "-o", "name")
	if err != nil || out != "node/node1\nnode/node2\n" {
		t.Errorf("kubectl: %v: %q", err, out)
	}
	s, err := cluster.Load(c.Config().Name)
	if err != nil || s.Boxes["node1"] != c.Box("node1").Pid() || s.Boxes[pod.Name()] != pod.Pid() {
		t.Errorf("state: %v: %+v", err, s)
	}
	if pid, ok := box.Owner(c.Config().Name); !ok || pid != os.Getpid() {
		t.Errorf("owner: %d %v, want %d", pid, ok, os.Getpid())
	}
}

// TestOwnerKilled kills the owner of a lab at random points of the bring-up, and wants nothing left.
func TestOwnerKilled(t *testing.T) {
	dir := binaries(t)
	name := fmt.Sprintf("t%d-killed", os.Getpid())
	for range 4 {
		cmd := exec.Command("/proc/self/exe", asOwner, name, dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		up := make(chan struct{})
		go func() {
			_, _ = bufio.NewReader(out).ReadString('\n')
			close(up)
		}()
		timer := time.NewTimer(rand.N(5 * time.Second))
		select {
		case <-timer.C:
		case <-up:
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out) // at its end nobody holds the pipe: no process that the owner started
		_ = cmd.Wait()
		eventually(t, "the end of the lab", func() error {
			if box.Alive(name) {
				return errors.New("alive")
			}
			return nil
		})
		wantGone(t, name)
	}
}
