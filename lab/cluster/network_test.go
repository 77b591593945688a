package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
)

// need skips a test where the machine lacks something, and fails it on CI.
func need(t *testing.T, programs ...string) {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	switch {
	case len(missing) == 0:
	case os.Getenv("CI") == "true":
		t.Fatalf("missing: %v", missing)
	default:
		t.Skipf("SKIPPED: this machine lacks %v", missing)
	}
}

// start brings up a lab, and wants nothing left of it at the end of the test.
func start(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	cfg.Name = fmt.Sprintf("t%d-%s", os.Getpid(), cfg.Name)
	c, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wantGone(t, cfg.Name)
	})
	return c
}

func wantGone(t *testing.T, name string) {
	t.Helper()
	if box.Alive(name) {
		t.Errorf("lab %s is alive", name)
	}
	for _, pattern := range []string{"/run/barelb-lab/" + name + "*", "/var/lib/barelb-lab/" + name, "/sys/fs/cgroup/barelb-lab-" + name, "/sys/fs/cgroup/*/barelb-lab-" + name} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// announcer is a BGP speaker for the nodes of this test: BIRD with two static routes.
const announcer = `router id %s;
protocol device {}
protocol static s4 { ipv4; route 192.168.1.250/32 blackhole; }
protocol static s6 { ipv6; route fd00:1::250/128 blackhole; }
template bgp quick { error wait time 1, 1; connect retry time 1; connect delay time 1; }
protocol bgp r4 from quick { local as 64500; neighbor 192.168.1.1 as 64501; password "secret"; ipv4 { export all; import none; }; }
protocol bgp r6 from quick { local as 64500; neighbor fd00:1::1 as 64501; password "secret"; ipv6 { export all; import none; }; }
`

func TestRouters(t *testing.T) {
	for _, router := range []string{cluster.FRR, cluster.BIRD} {
		t.Run(router, func(t *testing.T) {
			need(t, "bird", "/usr/lib/frr/bgpd")
			c := start(t, cluster.Config{
				Name: router, Mode: cluster.Network, Router: router,
				BGP: cluster.BGP{Password: "secret", HoldTime: 3 * time.Second},
			})
			for i, name := range c.Nodes() {
				v4, _ := cluster.NodeAddrs(i + 1)
				b := c.Box(name)
				if err := os.WriteFile(b.Dir()+"/announce.conf", fmt.Appendf(nil, announcer, v4), 0o644); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Start("announce", "bird", "-f", "-c", box.Inside+"/announce.conf", "-s", "/run/announce.ctl"); err != nil {
					t.Fatal(err)
				}
			}
			wantHops(t, c, "192.168.1.250/32", "192.168.1.101", "192.168.1.102", "192.168.1.103")
			wantHops(t, c, "fd00:1::250/128", "fd00:1::101", "fd00:1::102", "fd00:1::103")
			wantClientRoute(t, c, "192.168.1.250 via 192.168.1.1 ")

			if err := c.Cut("node2"); err != nil {
				t.Fatal(err)
			}
			wantHops(t, c, "192.168.1.250/32", "192.168.1.101", "192.168.1.103")
			wantHops(t, c, "fd00:1::250/128", "fd00:1::101", "fd00:1::103")
			if err := errors.Join(c.Cut("node1"), c.Cut("node3")); err != nil {
				t.Fatal(err)
			}
			wantHops(t, c, "192.168.1.250/32")
			wantClientRoute(t, c, "192.168.1.250 dev eth0 src")
			if err := errors.Join(c.Restore("node1"), c.Restore("node2"), c.Restore("node3")); err != nil {
				t.Fatal(err)
			}
			wantHops(t, c, "192.168.1.250/32", "192.168.1.101", "192.168.1.102", "192.168.1.103")
		})
	}
}

func wantHops(t *testing.T, c *cluster.Cluster, prefix string, via ...string) {
	t.Helper()
	var want []cluster.NextHop
	for _, v := range via {
		want = append(want, cluster.NextHop{Via: netip.MustParseAddr(v), Dev: "eth0", Weight: 1})
	}
	eventually(t, "next hops of "+prefix, func() error {
		got, err := c.Routes(t.Context(), netip.MustParsePrefix(prefix))
		if err != nil {
			return err
		}
		for i, hop := range got { // FRR installs the link-local next hop of an IPv6 session too, or instead
			if hop.Via.IsLinkLocalUnicast() {
				got[i].Via = globalOf(hop.Via)
			}
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// globalOf is the address of the node that has this link-local address: the hardware addresses follow the host numbers.
func globalOf(a netip.Addr) netip.Addr {
	raw := a.As16()
	return netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", raw[15]))
}

func wantClientRoute(t *testing.T, c *cluster.Cluster, want string) {
	t.Helper()
	eventually(t, "the client's route", func() error {
		out, err := c.Box(cluster.Client).Command(t.Context(), "ip", "route", "get", "192.168.1.250").CombinedOutput()
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(out), want) {
			return fmt.Errorf("got %q, want %q", out, want)
		}
		return nil
	})
}

func TestPods(t *testing.T) {
	need(t, "ping")
	c := start(t, cluster.Config{Name: "pods", Mode: cluster.Network, Router: cluster.NoRouter, Nodes: 2})
	a, err := c.AddPod(t.Context(), "node1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.AddPod(t.Context(), "node2")
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []netip.Addr{b.V4, b.V6} {
		if out, err := a.Command(t.Context(), "ping", "-c1", "-W2", to.String()).CombinedOutput(); err != nil {
			t.Errorf("pod to pod: %v: %s", err, out)
		}
	}
	if out, err := c.Box(cluster.Remote).Command(t.Context(), "ping", "-c1", "-W2", "node2").CombinedOutput(); err != nil {
		t.Errorf("remote to node: %v: %s", err, out)
	}
	if err := c.Cut("node2"); err != nil {
		t.Fatal(err)
	}
	if err := a.Command(t.Context(), "ping", "-c1", "-W1", b.V4.String()).Run(); err == nil {
		t.Error("a cut node answers")
	}
	if err := c.RemovePod(b); err != nil {
		t.Fatal(err)
	}
	if c.Box(b.Name()) != nil {
		t.Error("a removed pod is there")
	}
}

// TestInterrupted ends the bring-up at many points and wants nothing left.
func TestInterrupted(t *testing.T) {
	need(t, "/usr/lib/frr/bgpd")
	name := fmt.Sprintf("t%d-int", os.Getpid())
	for wait := 5 * time.Millisecond; wait < 600*time.Millisecond; wait = wait * 3 / 2 {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		c, err := cluster.Start(ctx, cluster.Config{Name: name, Mode: cluster.Network})
		cancel()
		if err == nil {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Logf("after %s: %v", wait, err)
		}
		wantGone(t, name)
	}
}
