package bgp_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kernellab"
)

// TestVRF has BGP and BFD run in a VRF, and only there is the router to be found. Not
// every kernel has VRF.
func TestVRF(t *testing.T) { //nolint:paralleltest // it is alone in a machine
	pam, err := filepath.Glob("/usr/lib/*/security/pam_permit.so") // vtysh asks it
	if err != nil {
		t.Fatal(err)
	}
	if !kernellab.Again(t, kernellab.Need{
		Modules:  []string{"veth", "vrf"},
		Programs: []string{"ip", "sysctl", frrDir + "/zebra", frrDir + "/bgpd", frrDir + "/bfdd", "vtysh", "/usr/sbin/bird", "/usr/sbin/birdc"},
		Files:    append(pam, "/etc/passwd", "/etc/group", "/usr/share/yang", "/etc/frr/vtysh.conf"),
		Texts:    map[string]string{"/etc/pam.d/frr": "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n"},
	}) {
		return
	}
	// Emulated, everything is slow.
	profile := &lb.BFDProfile{Name: "slow", Transmit: time.Second, Receive: time.Second, Multiplier: 5, EchoInterval: time.Second, MinTTL: 254}
	for _, side := range sides {
		for _, r := range []string{"FRR", "BIRD"} {
			t.Run(r+", "+side.name, func(t *testing.T) {
				l := newLab(t)
				l.ip("-n", l.node, "link", "add", "red", "type", "vrf", "table", "100")
				l.ip("-n", l.node, "link", "set", "red", "up")
				l.ip("-n", l.node, "link", "set", "eth0", "master", "red")
				// An IPv6 address of a link goes with its old table.
				l.ip("-n", l.node, "addr", "replace", node6+"/64", "dev", "eth0", "nodad")
				var show func(string) string
				if r == "FRR" {
					show = l.startFRR(frrConfig(64513, side.node, "neighbor "+side.node+" bfd", side.family)).vtysh
				} else {
					show = l.startBird("protocol bfd {}\n" + birdConfig(64513, side.router, side.node, 64512, "bfd on;", side.family))
				}
				n := startNode(t, l.node)
				p := peer(side.router, 64513, side.family)
				n.apply(lb.Session{Peer: p})
				n.complains("r", "find a route")
				p.VRF, p.BFD = "red", profile
				n.apply(lb.Session{Peer: p, Routes: routes(lb.Attrs{}, side.vip)})
				n.up("r")
				l.fib(5*time.Second, true, side.vip)
				if r == "FRR" {
					says(t, show, "show bgp neighbors "+side.node, "BFD: Type: single hop", "Status: Up")
				} else {
					says(t, show, "show bfd sessions", " Up ")
				}
			})
		}
	}
}
