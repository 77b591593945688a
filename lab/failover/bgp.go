package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/demo"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// routeAddr is the address of the Service that comes and goes.
const routeAddr = "198.51.100.250"

// bgpManifest announces all pools by BGP, among them one of a single address.
const bgpManifest = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: route, namespace: metallb-system}
spec: {addresses: [` + routeAddr + `/32]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: all, namespace: metallb-system}
`

// sessions is how many the router has when all is well: two with each node.
func (b *bench) sessions() int { return 2 * len(b.c.Nodes()) }

// speak has every node connect to the router anew, once for each family, with graceful
// restart and with or without BFD.
func (b *bench) speak(ctx context.Context) error {
	if _, err := b.c.Kubectl(ctx, "-n", system.Namespace, "delete", "bgppeers", "--all"); err != nil {
		return err
	}
	if err := b.await(ctx, "end of all sessions", func(ctx context.Context) error {
		return exactly(0)(b.c.Sessions(ctx))
	}); err != nil {
		return err
	}
	cfg := b.c.Config().BGP
	more := demo.WithGracefulRestart
	if b.way == watched {
		more += demo.WithBFD
	}
	manifests := []string{demo.BFDProfile(cfg.BFD)}
	for name, addr := range map[string]string{"router1-v4": "192.168.1.1", "router1-v6": "'fd00:1::1'"} {
		manifests = append(manifests, demo.Peer(name, addr, cfg.NodeAS, cfg.RouterAS, cfg.HoldTime.String())+more)
	}
	for _, m := range manifests {
		if err := b.c.ApplyYAML(ctx, m); err != nil {
			return err
		}
	}
	return b.spoken(ctx)
}

// spoken waits until the router has all sessions, and its kernel every node as a next
// hop of both addresses.
func (b *bench) spoken(ctx context.Context) error {
	if err := b.await(ctx, "all sessions", func(ctx context.Context) error {
		err := exactly(b.sessions())(b.c.Sessions(ctx))
		if err == nil && b.way == watched {
			err = exactly(b.sessions())(b.c.BFDSessions(ctx))
		}
		return err
	}); err != nil {
		return err
	}
	return b.hops(ctx, len(b.c.Nodes()))
}

// exactly wants a number to be n.
func exactly(n int) func(int, error) error {
	return func(got int, err error) error {
		if err == nil && got != n {
			err = fmt.Errorf("there are %d, not %d", got, n)
		}
		return err
	}
}

// hops waits until the router's kernel has n next hops of each address.
func (b *bench) hops(ctx context.Context, n int) error {
	return b.await(ctx, fmt.Sprintf("%d next hops", n), func(ctx context.Context) error {
		for _, addr := range b.web.list {
			hops, err := b.c.Routes(ctx, host(addr))
			if err := exactly(n)(len(hops), err); err != nil {
				return fmt.Errorf("%s: %w", addr, err)
			}
		}
		return nil
	})
}

func host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func (b *bench) watchRoute(ctx context.Context, addr netip.Addr) (*measure.Watch[measure.RouteChange], error) {
	return measure.StartWatchRoute(ctx, b.c.Box(cluster.Router1), b.self, measure.RouteWatchOpts{Prefix: host(addr)})
}

// followRoute is follow with BGP: the way is that of the router's kernel.
func (b *bench) followRoute(ctx context.Context) (func(ctx context.Context, back bool) (time.Time, error), error) {
	w, err := b.watchRoute(ctx, b.web.list[0])
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, back bool) (time.Time, error) {
		want := len(b.c.Nodes())
		if !back {
			want--
		}
		limit, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		told, err := w.Await(limit, func(c measure.RouteChange) bool { return !c.Initial && c.Usable() == want })
		if err != nil {
			return time.Time{}, err
		}
		if err := b.hops(ctx, want); err != nil {
			return time.Time{}, err
		}
		_, err = w.Stop()
		return told.At, err
	}, nil
}

// byHand takes a next hop out of the router's kernel and puts it back, without a word
// to anybody: whatever connections break then, no announcement can save.
func (b *bench) byHand(ctx context.Context) error {
	return b.planned(ctx, "next hop out of the kernel by hand", b.replace(b.without(b.web.first)), b.replace(b.c.Nodes()))
}

// replace returns what has the router's kernel use nodes for both addresses.
func (b *bench) replace(nodes []string) func(context.Context) error {
	origin := map[string][]string{cluster.FRR: {"proto", "bgp", "metric", "20"}, cluster.BIRD: {"proto", "bird", "metric", "32"}}
	return func(ctx context.Context) error {
		for _, addr := range b.web.list {
			args := append([]string{"route", "replace", host(addr).String()}, origin[b.c.Config().Router]...)
			for i, n := range b.c.Nodes() {
				via, v6 := cluster.NodeAddrs(i + 1)
				if addr.Is6() {
					via = v6
				}
				if slices.Contains(nodes, n) {
					args = append(args, "nexthop", "via", via.String(), "dev", "eth0")
				}
			}
			if out, err := b.c.Box(cluster.Router1).Command(ctx, "ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("replace route of router1: %w: %s", err, out)
			}
		}
		return nil
	}
}

// routerBack ends the router's daemon and starts it after the pause, again and again.
func (b *bench) routerBack(ctx context.Context) error {
	var sessions, hops []time.Duration
	for range b.trials {
		if err := errors.Join(b.spoken(ctx), b.c.StopRouter(ctx), system.Rest(ctx, b.o.pause)); err != nil {
			return err
		}
		closed := time.Now() // when the port was last seen to be closed
		if err := b.c.StartRouter(); err != nil {
			return err
		}
		if err := b.await(ctx, "router's port", func(context.Context) error {
			now := time.Now()
			open, err := b.c.RouterListens()
			if err == nil && !open {
				closed, err = now, errors.New("nobody listens")
			}
			return err
		}); err != nil {
			return err
		}
		if err := b.await(ctx, "all sessions", func(ctx context.Context) error {
			return exactly(b.sessions())(b.c.Sessions(ctx))
		}); err != nil {
			return err
		}
		sessions = append(sessions, time.Since(closed))
		if err := b.hops(ctx, len(b.c.Nodes())); err != nil {
			return err
		}
		hops = append(hops, time.Since(closed))
	}
	b.t.route(b.name+": router's port open", fmt.Sprintf("all %d sessions established", b.sessions()), sessions)
	b.t.route(b.name+": router's port open", "all next hops in its kernel", hops)
	return nil
}
