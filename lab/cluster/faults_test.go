package cluster_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/barelb/barelb/lab/cluster"
)

// reaches asks once whether a host answers another one's echo request.
func reaches(c *cluster.Cluster, from, to string) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return c.Box(from).Command(ctx, "ping", "-c", "1", "-W", "1", to).Run() == nil
}

func wantReach(t *testing.T, c *cluster.Cluster, from, to string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to reach %s: %t", from, to, want), func() error {
		if reaches(c, from, to) != want {
			return fmt.Errorf("it is %t", !want)
		}
		return nil
	})
}

func TestFaults(t *testing.T) {
	need(t, "nft", "ping")
	c := start(t, cluster.Config{Name: "faults", Mode: cluster.Network, Router: cluster.NoRouter})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wantReach(t, c, "node1", "192.168.1.102", true)

	check(c.Join()) // nothing is split
	check(c.Split("node2", cluster.Client))
	wantReach(t, c, "node1", "192.168.1.102", false)
	wantReach(t, c, "node2", "192.168.1.50", true)
	wantReach(t, c, "node1", "192.168.1.103", true)
	check(c.Join())
	wantReach(t, c, "node1", "192.168.1.102", true)

	check(c.DropInput(t.Context(), "node2", "icmp type echo-request"))
	wantReach(t, c, "node1", "192.168.1.102", false)
	wantReach(t, c, "node2", "192.168.1.101", true)
	check(c.DropIngress(t.Context(), "node3", []string{"eth0"}, "arp operation request", "ether saddr 02:ba:1b:00:00:65"))
	wantReach(t, c, "node1", "192.168.1.103", false)
	check(c.StopDropping(t.Context(), "node2"))
	check(c.StopDropping(t.Context(), "node3"))
	wantReach(t, c, "node1", "192.168.1.102", true)
	wantReach(t, c, "node1", "192.168.1.103", true)

	mac, err := c.AddCable(t.Context(), "node1", "eth1")
	check(err)
	if mac.String() != "02:ba:1b:00:01:65" {
		t.Errorf("the second cable of node1 has the MAC %s", mac)
	}
	check(c.Cut(cluster.Port("node1", "eth1")))
	wantReach(t, c, "node2", "192.168.1.101", true) // by its first cable
	check(c.RemoveCable("node1", "eth1"))
	check(c.RemoveCable("node1", "eth1")) // again
	if c.Box("node1").Command(t.Context(), "ip", "link", "show", "eth1").Run() == nil {
		t.Error("node1 still has its second cable")
	}
}
