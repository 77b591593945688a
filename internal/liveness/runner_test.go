package liveness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/liveness"
)

var vip = netip.MustParseAddr("192.0.2.250")

// eventually waits for ok, which says what there is instead.
func eventually(t *testing.T, what string, ok func() (any, bool)) {
	t.Helper()
	deadline := time.After(2 * soon)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		is, done := ok()
		if done {
			return
		}
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("waited in vain for: %s\nthere is: %v", what, is)
		}
	}
}

// claims keeps what a speaker drains.
type claims map[netip.Addr][]core.Claimant

func (c claims) has(t *testing.T, r *member, addr netip.Addr, want ...core.Claimant) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s knows that %s is claimed by %v", r.node, addr, want), func() (any, bool) {
		maps.Copy(c, r.DrainClaims())
		return c[addr], slices.Equal(c[addr], want)
	})
}

func TestManyClaimsReachThoseThereAndThoseToCome(t *testing.T) {
	f := newFleet(t, 7020, "node1", "node2", "node3")
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	node1.sees(t, soon, "node1", "node2")
	node2.sees(t, soon, "node1", "node2")
	var changes []core.Change
	addr := netip.MustParseAddr("10.0.0.0")
	for range 10_000 {
		addr = addr.Next()
		changes = append(changes, core.Change{Claim: core.Claim{Addr: addr, Term: 1}})
	}
	began := time.Now()
	node1.SetClaims(changes)
	t.Logf("saying so took %s", time.Since(began))
	all := func(r *member) {
		t.Helper()
		c := claims{}
		eventually(t, r.node+" knows all claims", func() (any, bool) {
			maps.Copy(c, r.DrainClaims())
			return len(c), len(c) == len(changes)
		})
	}
	all(node2)
	t.Logf("another knew all after %s", time.Since(began))
	node3 := start(t, f.config("node3"))
	node3.sees(t, soon, "node1", "node2", "node3")
	all(node3)
	began = time.Now()
	node2.SetClaims([]core.Change{{Claim: core.Claim{Addr: addr, Term: 2}}})
	claims{}.has(t, node1, addr, core.Claimant{Node: "node2", Term: 2})
	claims{}.has(t, node3, addr, core.Claimant{Node: "node1", Term: 1}, core.Claimant{Node: "node2", Term: 2})
	t.Logf("a change was known after %s", time.Since(began))
}

func TestTellAndFetch(t *testing.T) {
	f := newFleet(t, 7021, "node1", "node2")
	told := make(chan string, 1)
	cfg := f.config("node2")
	cfg.Told = func(_ context.Context, from string, msg []byte) error {
		if string(msg) == "nonsense" {
			return errors.New("not understood")
		}
		told <- from + ": " + string(msg)
		return nil
	}
	cfg.Registerer = prometheus.NewPedanticRegistry()
	node1, node2 := start(t, f.config("node1")), start(t, cfg)
	node1.sees(t, soon, "node1", "node2")
	node2.sees(t, soon, "node1", "node2")
	if err := node1.Tell(t.Context(), "node2", []byte("take over")); err != nil {
		t.Fatal(err)
	}
	if got := <-told; got != "node1: take over" { // before Tell returned
		t.Errorf("node2 was told %q", got)
	}
	if err := node1.Tell(t.Context(), "node2", []byte("nonsense")); err == nil || !strings.Contains(err.Error(), "tell speaker of node2: not understood") {
		t.Errorf("got %v", err)
	}
	if err := node2.Tell(t.Context(), "node1", nil); err == nil || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("got %v", err)
	}
	if err := node1.Tell(t.Context(), "node3", nil); err == nil {
		t.Error("a node that is not there was told")
	}

	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	node2.Serve("snapshot", func() ([]byte, error) { return big, nil })
	node2.Serve("nothing", func() ([]byte, error) { return nil, nil })
	node2.Serve("error", func() ([]byte, error) { return nil, errors.New("not yet") })
	began := time.Now()
	got, err := node1.Fetch(t.Context(), "node2", "snapshot")
	if err != nil || !bytes.Equal(got, big) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(big))
	}
	t.Logf("%d MiB took %s", len(got)>>20, time.Since(began))
	if got, err := node1.Fetch(t.Context(), "node2", "nothing"); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}
	for what, want := range map[string]string{"error": "not yet", "else": `"else" is not served`} {
		if _, err := node1.Fetch(t.Context(), "node2", what); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if _, err := cfg.Registerer.(*prometheus.Registry).Gather(); err != nil {
		t.Error(err)
	}
}

// metalLB is a member as MetalLB's speakers are: memberlist with the key and nothing else.
func metalLB(t *testing.T, f fleet, node string) *memberlist.Memberlist {
	t.Helper()
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort = node, f.Nodes[node].String(), f.Port, f.Port
	c.SecretKey = liveness.Key([]byte(f.Secret))
	c.Logger = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	list, err := memberlist.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Shutdown() })
	return list
}

// has waits until a speaker of MetalLB's sees exactly the nodes.
func has(t *testing.T, list *memberlist.Memberlist, nodes ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("MetalLB's speaker sees %v", nodes), func() (any, bool) {
		var is []string
		for _, n := range list.Members() {
			is = append(is, n.Name)
		}
		slices.Sort(is)
		return is, slices.Equal(is, nodes)
	})
}

func TestLifeWithASpeakerOfMetalLB(t *testing.T) {
	f := newFleet(t, 7022, "node1", "node2", "node3")
	other := metalLB(t, f, "node3")
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	for _, m := range []*member{node1, node2} {
		m.sees(t, 2*soon, "node1", "node2", "node3")
	}
	has(t, other, "node1", "node2", "node3")
	if _, err := other.Join([]string{net.JoinHostPort(f.Nodes["node1"].String(), fmt.Sprint(f.Port))}); err != nil {
		t.Errorf("an exchange of its with ours: %v", err)
	}
	node1.SetClaims([]core.Change{{Claim: core.Claim{Addr: vip, Term: 1}}})
	claims{}.has(t, node2, vip, core.Claimant{Node: "node1", Term: 1})
	if n, ok := node1.View().Nodes["node3"]; !ok || n.Facts != nil || !n.Member {
		t.Errorf("node1 takes it for %+v", n)
	}
	// It must hear of it also if we shall come back.
	node2.SetPhase(core.Restarting)
	node2.leave()
	has(t, other, "node1", "node3")
	if err := other.Leave(time.Second); err != nil {
		t.Fatal(err)
	}
	node1.sees(t, soon, "node1")
}

func TestOneThatComesBackSaysNoFarewell(t *testing.T) {
	f := newFleet(t, 7023, "node1", "node2")
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	node1.SetPhase(core.Serving)
	node1.sees(t, soon, "node1", "node2")
	node2.sees(t, soon, "node1", "node2")
	node2.SetClaims([]core.Change{{Claim: core.Claim{Addr: vip, Term: 5}}})
	claims{}.has(t, node1, vip, core.Claimant{Node: "node2", Term: 5})
	node2.SetPhase(core.Restarting)
	node2.leave()
	eventually(t, "its speaker is known to restart", func() (any, bool) {
		n := node1.View().Nodes["node2"]
		return n, n.Member && n.SpeakerDown && !n.Gone && n.Facts != nil && n.Facts.Phase == core.Restarting
	})
	if !node1.Alive()["node2"] {
		t.Error("it said farewell")
	}
	again := start(t, f.config("node2"))
	again.SetPhase(core.Serving)
	again.sees(t, soon, "node1", "node2")
	eventually(t, "it learns what it claimed", func() (any, bool) { return again.Former(), again.Former()[vip] == 5 })
	eventually(t, "its speaker is known to be back", func() (any, bool) {
		n := node1.View().Nodes["node2"]
		return n, !n.SpeakerDown && n.Facts.Phase == core.Serving
	})
	claims{}.has(t, node1, vip)
}

// What does not speak, or speaks nonsense, keeps nobody from being served.
func TestNonsenseOnThePort(t *testing.T) {
	f := newFleet(t, 7024, "node1", "node2")
	node1 := start(t, f.config("node1"))
	at := netip.AddrPortFrom(f.Nodes["node1"], uint16(f.Port)).String()
	node1.sees(t, 2*soon, "node1")
	for _, nonsense := range []string{"", "\xba", "\xba\x01\x01", "\xba" + strings.Repeat("\xff", 200), "\x00\x01\x02", "GET / HTTP/1.1\r\n\r\n"} {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte(nonsense)); err != nil {
			t.Fatal(err)
		}
	}
	node2 := start(t, f.config("node2"))
	node2.sees(t, soon, "node1", "node2")
	eventually(t, "node2 is reached", func() (any, bool) {
		_, err := node2.Fetch(t.Context(), "node1", "x")
		return err, err != nil && strings.Contains(err.Error(), "not served")
	})
}

func TestTuning(t *testing.T) {
	f := newFleet(t, 7025, "node1")
	file := filepath.Join(t.TempDir(), "config.json")
	cfg := f.config("node1")
	cfg.Tuning = file
	start(t, cfg).sees(t, soon, "node1") // it may be missing
	for text, want := range map[string]string{
		`{"ProbeInterval": "a while"}`: "read parameters of memberlist from " + file,
		`{"UDPBufferSize": "big"}`:     "read parameters of memberlist from " + file,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		other := cfg
		other.BindPort++
		if err := liveness.New(other).Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", text, err)
		}
	}
	if err := os.WriteFile(file, []byte(`{"ProbeInterval": "2s", "GossipNodes": 4, "EnableCompression": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.BindPort += 2
	start(t, cfg).sees(t, soon, "node1")
}
