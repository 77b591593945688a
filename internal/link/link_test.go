package link_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/link"
)

// inNamespace runs the test again, alone and in a network namespace of its own, so
// that every thread of the process is in it. It reports whether this is that run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const env = "BARELB_TEST_IN_NAMESPACE"
	if os.Getenv(env) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		skip(t, "needs root for a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "needs the command ip (iproute2)")
	}
	ns := fmt.Sprintf("barelb-link-%d", os.Getpid())
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in namespace: %v\n%s", err, out)
	}
	return false
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// until waits for a snapshot that satisfies ok, woken by Changed alone.
func until(t *testing.T, w *link.Watcher, what string, ok func(link.Snapshot) bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := w.Changed()
		snap := w.Snapshot()
		if ok(snap) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain for: %s\nlast snapshot: %+v", what, snap)
		}
	}
}

func TestWatcherFollowsTheKernel(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := link.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if w.Snapshot() != nil {
		t.Fatal("New has done IO")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()

	nobody := func(string) bool { return false }
	eth0 := func(want func(link.Link) bool) func(link.Snapshot) bool {
		return func(s link.Snapshot) bool { l, ok := s.Named("eth0"); return ok && want(l) }
	}
	epoch := func() uint64 { l, _ := w.Snapshot().Named("eth0"); return l.Epoch }

	until(t, w, "lo", func(s link.Snapshot) bool { l, ok := s.Named("lo"); return ok && l.Loopback })

	run(t, "ip", "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "peer")
	until(t, w, "a new link, down", eth0(func(l link.Link) bool {
		return !l.Up && l.Ethernet && l.Broadcast && !l.NoARP && l.Kind == "veth" && l.HardwareAddr == [6]byte{2, 0, 0, 0, 0, 1}
	}))
	run(t, "ip", "link", "set", "eth0", "up")
	run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	until(t, w, "an address; up, but without carrier", eth0(func(l link.Link) bool {
		return !l.Up && slices.Contains(l.Addrs, netip.MustParsePrefix("192.0.2.1/24"))
	}))
	run(t, "ip", "link", "set", "peer", "up")
	until(t, w, "carrier", eth0(func(l link.Link) bool { return l.Up }))
	until(t, w, "a link-local address past duplicate address detection", eth0(func(l link.Link) bool {
		return l.LinkLocal6 == netip.MustParseAddr("fe80::ff:fe00:1")
	}))
	until(t, w, "two links usable for IPv6", func(s link.Snapshot) bool { return len(s.Usable(lb.IPv6, nobody)) == 2 })

	gateways := func(want ...string) func(link.Snapshot) bool {
		return eth0(func(l link.Link) bool {
			return slices.EqualFunc(l.Gateways, want, func(a netip.Addr, b string) bool { return a.String() == b })
		})
	}
	run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.7")
	run(t, "ip", "route", "add", "default", "via", "192.0.2.254")
	until(t, w, "a gateway", gateways("192.0.2.254"))
	run(t, "ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")
	until(t, w, "a gateway of each family", gateways("192.0.2.254", "fe80::1"))
	run(t, "ip", "route", "del", "default")
	until(t, w, "no gateway for IPv4", gateways("fe80::1"))
	run(t, "ip", "route", "add", "default", "via", "192.0.2.253")

	before := epoch()
	run(t, "ip", "link", "set", "peer", "down")
	run(t, "ip", "link", "set", "peer", "up")
	until(t, w, "a new epoch after a flap", eth0(func(l link.Link) bool { return l.Up && l.Epoch > before }))

	run(t, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:02")
	until(t, w, "another hardware address", eth0(func(l link.Link) bool { return l.HardwareAddr[5] == 2 }))

	run(t, "ip", "link", "add", "br0", "type", "bridge")
	run(t, "ip", "link", "set", "eth0", "master", "br0")
	until(t, w, "a master", eth0(func(l link.Link) bool { return l.Master != 0 }))
	run(t, "ip", "link", "set", "eth0", "down")
	until(t, w, "the gateways go with the link", gateways())
	run(t, "ip", "link", "set", "eth0", "up")
	run(t, "ip", "link", "set", "eth0", "nomaster")
	until(t, w, "no master", eth0(func(l link.Link) bool { return l.Master == 0 }))
	run(t, "ip", "link", "set", "eth0", "arp", "off")
	until(t, w, "NOARP", eth0(func(l link.Link) bool { return l.NoARP }))

	// A storm of events.
	storm := filepath.Join(t.TempDir(), "storm")
	var lines strings.Builder
	for i := range 50 {
		fmt.Fprintf(&lines, "link add x%d type veth peer name y%d\n", i, i)
	}
	for i := range 49 {
		fmt.Fprintf(&lines, "link del x%d\n", i)
	}
	if err := os.WriteFile(storm, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "-batch", storm)
	run(t, "ip", "link", "del", "eth0")
	until(t, w, "the end of the storm", func(s link.Snapshot) bool {
		_, eth0 := s.Named("eth0")
		_, x49 := s.Named("x49")
		return !eth0 && x49 && len(s) == 4 // lo, br0, x49, y49
	})

	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestNeighbours(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	run(t, "ip", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
	run(t, "ip", "link", "set", "eth7", "up")
	for addr, mac := range map[string]string{"192.0.2.7": "02:00:00:00:00:07", "fe80::7": "02:00:00:00:00:07", "192.0.2.8": "02:00:00:00:00:08"} {
		run(t, "ip", "neigh", "add", addr, "lladdr", mac, "dev", "eth7")
	}
	got := link.Neighbours([6]byte{2, 0, 0, 0, 0, 7})
	slices.SortFunc(got, netip.Addr.Compare)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fe80::7")}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := link.Neighbours([6]byte{2, 0, 0, 0, 0, 9}); got != nil {
		t.Errorf("%v, want none", got)
	}
}

func TestContainersAreLocal(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	w := link.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = w.Run(ctx) }()
	container, stranger := [6]byte{2, 0, 0, 0, 0, 7}, [6]byte{2, 0, 0, 0, 0, 8}
	run(t, "ip", "link", "add", "br0", "type", "bridge")
	run(t, "ip", "link", "add", "pod0", "type", "veth", "peer", "name", "pod1")
	run(t, "ip", "link", "add", "up0", "type", "vxlan", "id", "7", "dstport", "4789", "local", "127.0.0.1") // no container's
	for _, port := range []string{"pod0", "up0"} {
		run(t, "ip", "link", "set", port, "master", "br0")
	}
	run(t, "bridge", "fdb", "add", "02:00:00:00:00:07", "dev", "pod0", "master", "static")
	run(t, "bridge", "fdb", "add", "02:00:00:00:00:08", "dev", "up0", "master", "static")
	until(t, w, "the ports", func(s link.Snapshot) bool {
		a, _ := s.Named("pod0")
		b, _ := s.Named("up0")
		return a.Master != 0 && b.Master != 0
	})
	br0, _ := w.Snapshot().Named("br0")
	pod0, _ := w.Snapshot().Named("pod0")
	for _, c := range []struct {
		link int
		mac  [6]byte
		want bool
	}{
		{br0.Index, container, true},
		{br0.Index, stranger, false},
		{br0.Index, [6]byte{2, 0, 0, 0, 0, 9}, false}, // nobody knows it
		{pod0.Index, container, false},                // no bridge
		{9999, container, false},
	} {
		if got := w.Local(c.link, c.mac); got != c.want {
			t.Errorf("%x on link %d: %t, want %t", c.mac, c.link, got, c.want)
		}
	}
}
