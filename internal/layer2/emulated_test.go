package layer2_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/links"
	"github.com/barelb/barelb/internal/kernellab"
)

// TestVLANAndBond has addresses on links that not every kernel has.
func TestVLANAndBond(t *testing.T) { //nolint:paralleltest // it is alone in a machine
	if !kernellab.Again(t, kernellab.Need{
		Modules:  []string{"veth", "bridge", "8021q", "bonding"},
		Programs: []string{"ip", "bridge", "setpriv", "arping", "ndisc6", "sh"},
	}) {
		return
	}
	t.Run("VLAN", func(t *testing.T) {
		l := newLab(t)
		for _, ns := range []string{"node", "client"} {
			l.ip(ns, "link add link eth0 name eth0.100 type vlan id 100")
			l.ip(ns, "link set eth0.100 up")
		}
		l.ip("client", "addr add 203.0.113.9/24 dev eth0.100")
		on := lb.L2Announcement{Links: []string{"eth0.100"}}
		l.apply(lb.L2{vip: on, vip6: on})
		l.answered("eth0.100", vip, nodeMAC)
		l.answered("eth0.100", vip6, nodeMAC)
		l.silent("eth0", vip)
		// ndisc6 cannot tell on which link an advertisement came, and the VLAN has unsolicited ones.
		for _, a := range []netip.Addr{vip, vip6} {
			if got := l.status(a).Links; !slices.Equal(got, on.Links) {
				t.Errorf("%s is answered for on %v", a, got)
			}
		}
	})
	t.Run("bond", func(t *testing.T) {
		const secondMAC = "02:00:00:00:03:01"
		l := newLab(t)
		l.ip("node", "link add eth2 address "+secondMAC+" type veth peer name to-node2 netns "+l.prefix+"sw")
		l.ip("sw", "link set to-node2 master sw0 up")
		// Its MAC is that of its active member.
		l.ip("node", "link add bond0 type bond mode active-backup fail_over_mac active miimon 20")
		for _, member := range []string{"eth0", "eth2"} {
			l.ip("node", "link set "+member+" down")
			l.ip("node", "link set "+member+" master bond0")
			l.ip("node", "link set "+member+" up")
		}
		l.ip("node", "link set bond0 up")
		l.until("the bond is answered on, and its members are not", func() (string, bool) {
			s := l.apply(lb.L2{vip: {}, vip6: {}})
			return fmt.Sprint(s.Links, s.Addrs), slices.Contains(s.Addrs[vip].Links, "bond0") && slices.Contains(s.Addrs[vip6].Links, "bond0") &&
				s.Links["eth0"] == links.Enslaved && s.Links["eth2"] == links.Enslaved
		})
		l.answered("eth0", vip, nodeMAC)
		l.answered("eth0", vip6, nodeMAC)
		l.corrects(secondMAC, func() { l.ip("sw", "link set to-node down") })
		l.answered("eth0", vip, secondMAC)
		l.answered("eth0", vip6, secondMAC)
		l.ip("sw", "link set to-node up")
		l.corrects(nodeMAC, func() { l.ip("sw", "link set to-node2 down") })
		l.answered("eth0", vip6, nodeMAC)
	})
}
