package explain_test

import (
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/explain"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/liveness"
)

// asked has all speakers of c say that they hear each other, and what secret they have.
func asked(c *explain.Cluster, secrets ...string) {
	view := &liveness.View{Nodes: map[string]liveness.Node{}}
	for _, n := range c.Nodes {
		view.Nodes[n.Name] = liveness.Node{Member: true, Facts: &liveness.Facts{Node: n.Name, Phase: liveness.Serving}}
	}
	c.Known = map[string]*explain.Known{}
	for i, secret := range secrets {
		c.Known[c.Nodes[i].Name] = &explain.Known{Node: c.Nodes[i].Name, View: view, Company: secret}
	}
}

// TestDoctorNamesTheFault: what is wrong around, by what the objects and the speakers say.
func TestDoctorNamesTheFault(t *testing.T) {
	for name, c := range map[string]struct {
		seed  func(c *explain.Cluster)
		check string
		want  lb.Reason // "" for none
		says  []string
	}{
		"one secret":             {func(c *explain.Cluster) { asked(c, "a1", "a1", "a1") }, "membership", "", nil},
		"another secret":         {func(c *explain.Cluster) { asked(c, "a1", "b2", "a1") }, "membership", explain.SecretsDiffer, []string{"node-001 has one secret", "node-000 and node-002 have one secret", "rollout restart"}},
		"one without":            {func(c *explain.Cluster) { asked(c, "a1", "a1", "none") }, "membership", explain.SecretsDiffer, []string{"node-002 has none", "--ml-secret-key-path"}},
		"one that does not tell": {func(c *explain.Cluster) { asked(c, "a1", "", "a1") }, "membership", "", nil},
		"clocks":                 {func(c *explain.Cluster) { c.Skews = map[string]time.Duration{"node-000": time.Second} }, "clocks", "", nil},
		"a clock ahead": {func(c *explain.Cluster) {
			c.Skews = map[string]time.Duration{"node-000": 0, "node-001": time.Minute}
		}, "clocks", explain.ClockSkew, []string{"node-001", "1m0s ahead of", "NTP"}},
		"a clock behind": {func(c *explain.Cluster) {
			c.Skews = map[string]time.Duration{"node-002": -time.Hour}
		}, "clocks", explain.ClockSkew, []string{"node-002", "1h0m0s behind"}},
		"a Lease that nobody renews": {func(c *explain.Cluster) {
			c.Skews, c.Nodes[2].NotReadySince = map[string]time.Duration{"node-002": -time.Hour}, c.Now
		}, "clocks", "", nil},
		"nodes that are Ready": {func(*explain.Cluster) {}, "nodes", "", nil},
		"a node that is not": {func(c *explain.Cluster) {
			c.Nodes[1].NotReadySince = time.Unix(0, 0)
		}, "nodes", explain.NodeNotReady, []string{"node-001 is not Ready", "1970-01-01T00:00:00Z", "kubectl describe node node-001"}},
		"the router's address": {func(c *explain.Cluster) {
			c.Objects.Pools[0].Addresses = []string{"192.168.1.0/28"}
		}, "address ranges", explain.RangesOverlap, []string{"IPAddressPool p", "192.168.1.1", "BGPPeer r"}},
	} {
		cluster := large(3, 1)
		c.seed(cluster)
		var got []string
		for _, f := range explain.New(cluster).Doctor() {
			if f.Check != c.check {
				continue
			}
			got = append(got, string(f.Level)+" "+string(f.Reason)+": "+f.What)
			text := strings.Join(append(f.Evidence, f.What, f.Remedy), "\n")
			if f.Reason != c.want || c.want != "" && f.Remedy == "" {
				t.Errorf("%s: %s %s: %s, want the reason %q and a remedy", name, f.Level, f.Reason, f.What, c.want)
			}
			for _, part := range c.says {
				if !strings.Contains(text, part) {
					t.Errorf("%s: it does not say %q:\n%s", name, part, text)
				}
			}
		}
		if len(got) != 1 {
			t.Errorf("%s: found %q", name, got)
		}
	}
}

// TestTwoOwnersByTheirSecrets: where two answer for an address because they do not understand each
// other, explain says so.
func TestTwoOwnersByTheirSecrets(t *testing.T) {
	c := large(3, 1)
	asked(c, "a1", "a1", "b2")
	key := c.Services[0].Key
	for _, n := range []string{"node-000", "node-002"} {
		c.L2 = append(c.L2, explain.Report{Name: "l2-" + n, Service: key, Node: n})
	}
	first := explain.New(c).Service(key).First
	if first == nil || first.Reason != explain.TwoOwners || !strings.Contains(strings.Join(first.Evidence, "\n"), "node-002 has one secret") {
		t.Errorf("%+v", first)
	}
}
