package metallb_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/barelb/barelb/lab/metallb"
)

// The formula, computed by `printf 'node1#192.168.1.250' | sha256sum` and so on.
func TestOwner(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("192.168.1.250")
	nodes := []string{"node1", "node2", "node3"}
	var order []string
	for len(nodes) > 0 {
		first := metallb.Owner(addr, nodes)
		order = append(order, first)
		nodes = slices.DeleteFunc(nodes, func(n string) bool { return n == first })
	}
	if want := []string{"node1", "node2", "node3"}; !slices.Equal(order, want) {
		t.Errorf("rank is %q, want %q", order, want)
	}
	if got := metallb.Owner(addr, nil); got != "" {
		t.Errorf("the owner among nobody is %q", got)
	}
}
