package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
)

// patience bounds every wait for the network to come to rest.
const patience = time.Minute

const pause = 200 * time.Millisecond

// awaitOwner waits until exactly one node answers ARP for the address, twice in a
// row, and until it is want, unless that is "". It returns the node and the MACs.
func (d *Demo) awaitOwner(ctx context.Context, want string) (owner string, macs []string, err error) {
	last := ""
	err = d.await(ctx, "one owner of "+d.vip.String()+" "+want, func(ctx context.Context) (bool, string, error) {
		if macs, err = d.whoHas(ctx); err != nil {
			return false, "", err
		}
		seen := strings.Join(macs, ", ")
		if len(macs) == 1 {
			if owner, err = d.nodeOf(ctx, macs[0]); err != nil {
				return false, "", err
			}
		}
		done := len(macs) == 1 && seen == last && (want == "" || owner == want)
		last = seen
		return done, "answers from " + seen, nil
	})
	return owner, macs, err
}

// awaitNotOwner waits until another node than the one named is the only one to answer.
func (d *Demo) awaitNotOwner(ctx context.Context, node string) error {
	return d.await(ctx, "another owner than "+node, func(ctx context.Context) (bool, string, error) {
		macs, err := d.whoHas(ctx)
		if err != nil || len(macs) != 1 {
			return false, "answers from " + strings.Join(macs, ", "), err
		}
		owner, err := d.nodeOf(ctx, macs[0])
		return owner != node, owner + " answers", err
	})
}

// awaitUse waits until the router, and so the remote client, uses the victim for the
// address, or uses another node.
func (d *Demo) awaitUse(ctx context.Context, victim bool) error {
	return d.await(ctx, fmt.Sprintf("the router to use %s: %t", d.victim, victim), func(ctx context.Context) (bool, string, error) {
		out, err := d.c.Box(cluster.Router1).Command(ctx, "ip", "neigh", "show", d.vip.String(), "dev", "eth0").Output()
		if err != nil {
			return false, "", fmt.Errorf("list neighbours of the router: %w", err)
		}
		fields := strings.Fields(string(out))
		i := slices.Index(fields, "lladdr")
		if i < 0 || i+1 == len(fields) {
			return false, "no MAC", nil
		}
		node, err := d.nodeOf(ctx, fields[i+1])
		return (node == d.victim) == victim, "it uses " + node, err
	})
}

func (d *Demo) whoHas(ctx context.Context) ([]string, error) {
	r, err := measure.WhoHas(ctx, d.c.Box(cluster.Client), d.self, measure.WhoHasOpts{Addr: d.vip, Tries: 3, Interval: pause})
	return r.MACs(), err
}

// nodeOf returns the node whose link has a MAC.
func (d *Demo) nodeOf(ctx context.Context, mac string) (string, error) {
	for _, node := range d.c.Nodes() {
		out, err := d.c.Box(node).Command(ctx, "cat", "/sys/class/net/eth0/address").Output()
		if err != nil {
			return "", fmt.Errorf("read MAC of %s: %w", node, err)
		}
		if strings.TrimSpace(string(out)) == mac {
			return node, nil
		}
	}
	return "", fmt.Errorf("MAC %s is no node's", mac)
}

// awaitHops waits until the router's kernel has n next hops for the address.
func (d *Demo) awaitHops(ctx context.Context, n int) (hops []string, err error) {
	err = d.await(ctx, fmt.Sprintf("%d next hops of %s", n, d.vip), func(ctx context.Context) (bool, string, error) {
		list, err := d.c.Routes(ctx, netip.PrefixFrom(d.vip, d.vip.BitLen()))
		if err != nil {
			return false, "", err
		}
		hops = nil
		for _, h := range list {
			hops = append(hops, h.Via.String())
		}
		return len(hops) == n, "next hops " + strings.Join(hops, ", "), nil
	})
	return hops, err
}

// await polls done until it says so. It returns at the end of patience, saying
// what was seen last.
func (d *Demo) await(ctx context.Context, what string, done func(context.Context) (bool, string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, seen, err := done(ctx)
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %s", what, errors.Join(ctx.Err(), err), seen)
		case <-time.After(pause):
		}
	}
}
