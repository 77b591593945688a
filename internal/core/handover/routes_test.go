package handover_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/handover"
	"github.com/barelb/barelb/internal/core/lb"
)

// routed is what one node's Routes is told; its transcript is what routers are.
type routed struct {
	routes *handover.Routes
	now    time.Time
	no     map[string]bool // what others do not announce, or this node cannot serve
	want   lb.BGP
	lines  []string
}

// plan makes each of texts a session: "r1: 192.0.2.1 192.0.2.2", with a * behind a route that
// goes with the whole node, and maybe "r1@192.168.1.9:".
func (r *routed) plan(texts ...string) {
	r.want = lb.BGP{}
	for _, text := range texts {
		name, routes, _ := strings.Cut(text, ":")
		name, addr, _ := strings.Cut(name, "@")
		if addr == "" {
			addr = "192.168.1." + strings.TrimPrefix(name, "r")
		}
		s := lb.Session{Peer: lb.Peer{Name: name, Addr: netip.MustParseAddr(addr), Port: 179}, Routes: map[netip.Prefix]lb.Attrs{}}
		for route := range strings.FieldsSeq(routes) {
			a := netip.MustParseAddr(strings.TrimSuffix(route, "*"))
			s.Routes[netip.PrefixFrom(a, a.BitLen())] = lb.Attrs{LocalPref: 7, GracefulShutdown: strings.HasSuffix(route, "*")}
		}
		r.want = append(r.want, s)
	}
}

func (r *routed) step(after time.Duration) {
	r.now = r.now.Add(after)
	told, next := r.routes.Step(r.now, r.want, func(p netip.Prefix) bool { return !r.no[p.Addr().String()] })
	line := r.now.Sub(start).String()
	for _, s := range told {
		line += " | " + s.Peer.Name
		for _, pfx := range slices.SortedFunc(maps.Keys(s.Routes), netip.Prefix.Compare) {
			a := s.Routes[pfx]
			line += " " + pfx.Addr().String()
			switch {
			case a.LocalPref != 7:
				line += " without its attributes"
			case a.Yield:
				line += " going"
			case a.GracefulShutdown:
				line += "*"
			}
		}
	}
	if !next.IsZero() {
		line += " | until " + next.Sub(start).String()
	}
	r.lines = append(r.lines, line)
}

// TestRoutesGoGracefully: a route that is somebody else's by choice stays for the drain time, as
// the last choice; and one that cannot be served goes at once.
func TestRoutesGoGracefully(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		do   func(r *routed)
		want []string
	}{
		"one of two": {func(r *routed) {
			r.plan("r1: 192.0.2.2")
			r.step(s)
			r.step(9 * s)
			r.step(s)
			r.step(s)
		}, []string{"1s | r1 192.0.2.1 going 192.0.2.2 | until 11s", "10s | r1 192.0.2.1 going 192.0.2.2 | until 11s", "11s | r1 192.0.2.2", "12s | r1 192.0.2.2"}},
		"one after the other": {func(r *routed) {
			r.plan("r1: 192.0.2.2")
			r.step(s)
			r.plan("r1:")
			r.step(5 * s)
			r.step(5 * s)
			r.step(5 * s)
		}, []string{"1s | r1 192.0.2.1 going 192.0.2.2 | until 11s", "6s | r1 192.0.2.1 going 192.0.2.2 going | until 11s", "11s | r1 192.0.2.2 going | until 16s", "16s | r1"}},
		"nobody else announces it": {func(r *routed) {
			r.no["192.0.2.1"] = true
			r.plan("r1: 192.0.2.2")
			r.step(s)
		}, []string{"1s | r1 192.0.2.2"}},
		"it cannot be served any more meanwhile": {func(r *routed) {
			r.plan("r1: 192.0.2.2")
			r.step(s)
			r.no["192.0.2.1"] = true
			r.step(s)
		}, []string{"1s | r1 192.0.2.1 going 192.0.2.2 | until 11s", "2s | r1 192.0.2.2"}},
		"it is wanted again": {func(r *routed) {
			r.plan("r1: 192.0.2.2")
			r.step(s)
			r.plan("r1: 192.0.2.1 192.0.2.2")
			r.step(s)
			r.plan("r1: 192.0.2.2")
			r.step(20 * s)
		}, []string{"1s | r1 192.0.2.1 going 192.0.2.2 | until 11s", "2s | r1 192.0.2.1 192.0.2.2", "22s | r1 192.0.2.1 going 192.0.2.2 | until 32s"}},
		"the peer is not selected any more": {func(r *routed) {
			r.plan("r0: 192.0.2.9")
			r.step(s)
			r.step(10 * s)
		}, []string{"1s | r0 192.0.2.9 | r1 192.0.2.1 going 192.0.2.2 going | until 11s", "11s | r0 192.0.2.9"}},
		"nor is any": {func(r *routed) {
			r.plan()
			r.step(s)
			r.step(10 * s)
			r.step(s)
		}, []string{"1s | r1 192.0.2.1 going 192.0.2.2 going | until 11s", "11s", "12s"}},
		"another peer is told": {func(r *routed) {
			r.no["192.0.2.1"], r.no["192.0.2.2"] = true, true
			r.plan("r1:", "r2: 192.0.2.1")
			r.step(s)
		}, []string{"1s | r1 192.0.2.1 going | r2 192.0.2.1 | until 11s"}},
		"the peer has another name": {func(r *routed) {
			r.plan("r3@192.168.1.1: 192.0.2.1 192.0.2.2")
			r.step(s)
		}, []string{"1s | r3 192.0.2.1 192.0.2.2"}},
		"the node has been leaving": {func(r *routed) {
			r.plan("r1: 192.0.2.1* 192.0.2.2*")
			r.step(s)
			r.plan("r1: 192.0.2.2*")
			r.step(s)
		}, []string{"1s | r1 192.0.2.1* 192.0.2.2*", "2s | r1 192.0.2.2*"}},
	} {
		r := &routed{routes: handover.NewRoutes(drain), now: start, no: map[string]bool{}}
		r.plan("r1: 192.0.2.1 192.0.2.2")
		r.step(0)
		c.do(r)
		if diff := cmp.Diff(append([]string{"0s | r1 192.0.2.1 192.0.2.2"}, c.want...), r.lines); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRoutesAreNotChangedInPlace: sessions share what they are told.
func TestRoutesAreNotChangedInPlace(t *testing.T) {
	r := &routed{routes: handover.NewRoutes(drain), now: start}
	r.plan("r1: 192.0.2.1", "r2: 192.0.2.1")
	r.step(0)
	r.plan("r1:", "r2: 192.0.2.1")
	before := fmt.Sprint(r.want)
	r.step(time.Second)
	if got := fmt.Sprint(r.want); got != before {
		t.Errorf("the plan is now %s", got)
	}
	if n := r.routes.Going(); n != 1 {
		t.Errorf("%d routes are going", n)
	}
}

// TestRoutesWithoutDrainTime go at once.
func TestRoutesWithoutDrainTime(t *testing.T) {
	r := &routed{routes: handover.NewRoutes(0), now: start}
	r.plan("r1: 192.0.2.1")
	r.step(0)
	r.plan("r1:")
	r.step(0)
	if diff := cmp.Diff([]string{"0s | r1 192.0.2.1", "0s | r1"}, r.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
