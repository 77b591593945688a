package liveness_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/liveness"
)

// soon is more than what takes no time needs on a busy machine.
const soon = 5 * time.Second

func TestLeavingIsSeenAtOnceAndReturningSoon(t *testing.T) {
	f := newFleet(t, 7001, "node1", "node2", "node3")
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	node3 := start(t, f.config("node3"))
	for _, m := range []*member{node1, node2, node3} {
		m.sees(t, 2*soon, "node1", "node2", "node3")
	}
	began := time.Now()
	node3.leave()
	t.Logf("leaving took %s", time.Since(began))
	for _, m := range []*member{node1, node2} {
		t.Logf("%s saw it %s later", m.node, m.sees(t, soon, "node1", "node2"))
	}
	node3 = start(t, f.config("node3"))
	for _, m := range []*member{node3, node1, node2} {
		t.Logf("%s saw it back after %s", m.node, m.sees(t, soon, "node1", "node2", "node3"))
	}
}

func TestKilledMemberIsGone(t *testing.T) {
	f := newFleet(t, 7002, "node1", "node2", "node3")
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	kill := f.startProcess(t, "node3", "node1", "node2", "node3")
	for _, m := range []*member{node1, node2} {
		m.sees(t, 2*soon, "node1", "node2", "node3")
	}
	kill()
	began := time.Now()
	for _, m := range []*member{node1, node2} {
		m.sees(t, 20*time.Second, "node1", "node2")
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("it was called alive for %s", took)
	} else {
		t.Logf("all knew after %s", took)
	}
	f.startProcess(t, "node3", "node1", "node2", "node3")
	for _, m := range []*member{node1, node2} {
		t.Logf("%s saw it back after %s", m.node, m.sees(t, soon, "node1", "node2", "node3"))
	}
}

func TestWrongKeyDoesNotJoin(t *testing.T) {
	f := newFleet(t, 7003, "node1", "node2", "node3")
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	other := f
	other.Secret = "another secret"
	stranger := start(t, other.config("node3"))
	clear := f
	clear.Secret = ""
	clear.Nodes = map[string]netip.Addr{"node1": f.Nodes["node1"], "node4": netip.MustParseAddr("127.0.0.5")}
	open := start(t, clear.config("node4"))

	// Both reach nobody, and after a while take it that they are alone.
	stranger.sees(t, 3*soon, "node3")
	open.sees(t, 3*soon, "node4")
	for _, m := range []*member{node1, node2} {
		m.sees(t, soon, "node1", "node2")
	}
}

func TestMembersWithoutSecret(t *testing.T) {
	f := newFleet(t, 7004, "node1", "node2")
	f.Secret = ""
	node1, node2 := start(t, f.config("node1")), start(t, f.config("node2"))
	node1.sees(t, soon, "node1", "node2")
	node2.sees(t, soon, "node1", "node2")
}

func TestAloneIsKnownAtOnce(t *testing.T) {
	f := newFleet(t, 7005, "node1")
	m := start(t, f.config("node1"))
	if took := m.sees(t, soon, "node1"); took > 3*time.Second {
		t.Errorf("took %s, want no waiting for others where there are none", took)
	}
}

// A speaker that starts while the API server does not answer, or while those that
// it lists are down, claims nothing for some seconds, and then does.
func TestNobodyIsAliveUntilOthersCouldAnswer(t *testing.T) {
	f := newFleet(t, 7006, "node1", "node2")
	down := f.config("node1") // node2 does not run
	silent := f.config("node1")
	silent.BindPort++
	silent.Speakers = func(ctx context.Context) (map[string]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	failing := f.config("node1")
	failing.BindPort += 2
	failing.Speakers = func(context.Context) (map[string]netip.Addr, error) { return nil, errors.New("no answer") }
	began := time.Now()
	for _, m := range []*member{start(t, down), start(t, silent), start(t, failing)} {
		m.sees(t, 3*soon, "node1")
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("it claims to be alone after %s", took)
		}
	}
}

// One that cannot list the others is found by them.
func TestOthersFindUs(t *testing.T) {
	f := newFleet(t, 7010, "node1", "node2")
	blind := f.config("node1")
	blind.Speakers = func(context.Context) (map[string]netip.Addr, error) { return nil, errors.New("no answer") }
	node1, node2 := start(t, blind), start(t, f.config("node2"))
	node1.sees(t, soon, "node1", "node2")
	node2.sees(t, soon, "node1", "node2")
}

func TestPortInUse(t *testing.T) {
	f := newFleet(t, 7011, "node1")
	start(t, f.config("node1")).sees(t, soon, "node1")
	err := liveness.New(f.config("node1")).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "listen on 127.0.0.2 port 7011 for other speakers: ") {
		t.Errorf("got %v", err)
	}
}

// The expected keys are what MetalLB makes of the secrets.
func TestKey(t *testing.T) {
	const empty = "\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55"
	for name, c := range map[string]struct{ secret, want string }{
		"as MetalLB makes them": {"0123456789abcdefghijkl", "0123456789abcdefghijkl" + empty[:10]},
		"short":                 {"x", "x" + empty[:31]},
		"exact":                 {strings.Repeat("k", 32), strings.Repeat("k", 32)},
		"long":                  {strings.Repeat("k", 32) + "beyond", strings.Repeat("k", 32)},
		"with a newline":        {"abc\n", "abc\n" + empty[:28]},
	} {
		t.Run(name, func(t *testing.T) {
			if got := liveness.Key([]byte(c.secret)); !bytes.Equal(got, []byte(c.want)) {
				t.Errorf("got %x, want %x", got, c.want)
			}
		})
	}
}

// TestSecretTag: speakers that would not understand each other have different ones.
func TestSecretTag(t *testing.T) {
	tag := func(secret string) string {
		return liveness.New(liveness.Config{NodeName: "node1", Secret: []byte(secret), Log: slog.New(slog.DiscardHandler)}).SecretTag()
	}
	if got := tag(""); got != "none" {
		t.Errorf("without a secret it is %q", got)
	}
	one, again, other := tag(secret), tag(secret), tag("another secret")
	if one != again || one == other || len(one) != 4 {
		t.Errorf("%q, %q and of another secret %q", one, again, other)
	}
}
