package bgp_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/lb"
)

func TestApplySetsAsideOnlyWhatCannotBe(t *testing.T) {
	named := func(name, addr string) lb.Session {
		s := lb.Session{Peer: peer(addr, 64513, lb.IPv4)}
		s.Peer.Name = name
		return s
	}
	nameless := named("c", "10.0.0.3")
	nameless.Peer.Port = 0
	speaker := bgp.New(bgp.Config{})
	err := speaker.Apply(t.Context(), lb.BGP{named("b", "10.0.0.1"), named("a", "10.0.0.1"), nameless, named("d", "10.0.0.4")})
	for _, want := range []string{
		`apply peer b (10.0.0.1:179): peer "a" has the same address and port`,
		"apply peer c (10.0.0.3:0): peerPort: missing",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	got := map[string]string{}
	for _, s := range speaker.Status() {
		got[s.Peer] = s.State + " " + s.LastError
	}
	if diff := cmp.Diff(map[string]string{
		"a": "Idle ", "b": `Idle peer "a" has the same address and port`, "c": "Idle peerPort: missing", "d": "Idle ",
	}, got); diff != "" {
		t.Error(diff)
	}
	select {
	case <-speaker.Changed():
	default:
		t.Error("no change was signalled")
	}
	if err := speaker.Apply(t.Context(), lb.BGP{named("d", "10.0.0.4")}); err != nil {
		t.Error(err)
	}
	if got := speaker.Status(); len(got) != 1 || got[0].Peer != "d" || got[0].Addr != netip.MustParseAddr("10.0.0.4") {
		t.Errorf("status after pruning: %+v", got)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	speaker := bgp.New(bgp.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- speaker.Run(ctx) }()
	// Stopped before it would first connect.
	if err := speaker.Apply(ctx, lb.BGP{{Peer: peer("127.0.0.1", 64513, lb.IPv4)}}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := speaker.Run(t.Context()); !errors.Is(err, bgp.ErrStopped) {
		t.Errorf("second Run: %v", err)
	}
	if err := speaker.Apply(t.Context(), nil); !errors.Is(err, bgp.ErrStopped) {
		t.Errorf("Apply after Run: %v", err)
	}
}
