package e2e_test

import (
	"testing"

	"github.com/barelb/barelb/lab/system"
)

func TestLayer2IPv4(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2v4", []string{"192.168.1.200/32"}), object("L2Advertisement", "l2v4", "ipAddressPools: [l2v4]"))
	addr := l.serve(t, system.Service{Name: "l2v4"}, "l2v4")
	l.owner(t, addr)
	l.reachable(t, addr)

	l.remove(t, "L2Advertisement", "l2v4")
	l.awaitSilence(t, addr)
	l.apply(t, object("L2Advertisement", "l2v4", "ipAddressPools: [l2v4]"))
	l.owner(t, addr)

	// The pool has no other address: the next Service waits for it.
	next := system.Service{Name: "l2v4-next", Annotations: map[string]string{fromPool: "l2v4"}}
	l.create(t, next)
	l.awaitEvent(t, namespace, "Service", next.Name, "AllocationFailed", "PoolExhausted", "l2v4")
	l.delete(t, "l2v4")
	if got := l.addresses(t, next.Name, 1)[0]; got != addr {
		t.Fatalf("the waiting Service got %s, want %s", got, addr)
	}
	l.owner(t, addr)
	l.reachable(t, addr)
	l.delete(t, next.Name)
	l.awaitSilence(t, addr)
}

func TestLayer2IPv6(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2v6", []string{"fd00:1::2:0/126"}), object("L2Advertisement", "l2v6", "ipAddressPools: [l2v6]"))
	addr := l.serve(t, ipv6(system.Service{Name: "l2v6"}), "l2v6")
	l.owner(t, addr)
	l.reachable(t, addr)
	l.remove(t, "L2Advertisement", "l2v6")
	l.awaitSilence(t, addr)
	l.apply(t, object("L2Advertisement", "l2v6", "ipAddressPools: [l2v6]"))
	l.owner(t, addr)
	l.delete(t, "l2v6")
	l.awaitSilence(t, addr)
}

func TestLayer2DualStack(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2dual", []string{"192.168.1.204-192.168.1.207", "fd00:1::2:10-fd00:1::2:13"}), object("L2Advertisement", "l2dual", "ipAddressPools: [l2dual]"))
	for _, name := range []string{"l2dual-a", "l2dual-b", "l2dual-c"} { // or one owner of both would be luck
		addrs := l.serveAll(t, dualStack(system.Service{Name: name}), "l2dual", 2)
		if addrs[0].Is4() == addrs[1].Is4() {
			t.Fatalf("%s has %s, want one of each family", name, addrs)
		}
		if one, two := l.owner(t, addrs[0]), l.owner(t, addrs[1]); one != two {
			t.Errorf("%s answers for %s, but %s for %s", one, addrs[0], two, addrs[1])
		}
		if name == "l2dual-a" {
			l.reachable(t, addrs...)
		}
	}
}

// TestNoSuchInterface advertises on links that no node has: an Event on the Service says so.
func TestNoSuchInterface(t *testing.T) {
	l := frr(t)
	l.apply(t, pool("l2nolink", []string{"192.168.1.227/32"}), object("L2Advertisement", "l2nolink", "ipAddressPools: [l2nolink]", "interfaces: [foo]"))
	l.serve(t, system.Service{Name: "l2nolink"}, "l2nolink")
	l.awaitEvent(t, namespace, "Service", "l2nolink", "announceFailed", "foo", `protocol "layer2"`)
}
