package controller

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
	"github.com/barelb/barelb/internal/kube"
)

const (
	// mostNamed bounds how many Services a condition names.
	mostNamed = 20
	// mostFormer bounds how many Services that are gone are told to the one after us.
	mostFormer = 200
)

// takeConflicts stores which addresses others on the wire use, and reports whether
// others may now get what they could not get before.
func (c *Controller) takeConflicts(d kube.Delta) bool {
	if d.Conflicts != nil {
		c.onWire = d.Conflicts
	}
	c.heeded = c.heed()
	return c.book.SetOnWire(c.heeded)
}

// heed returns the addresses that are not given because of what is heard on the wire:
// so many of each pool that one host that answers for everything does not empty it.
func (c *Controller) heed() []lb.WireConflict {
	count := map[string]int{}
	return slices.DeleteFunc(slices.Clone(c.onWire), func(x lb.WireConflict) bool {
		if c.cfg == nil {
			return true
		}
		name := c.cfg.PoolOf(x.Addr)
		pool := c.cfg.PoolByName(name)
		if pool == nil || pool.IgnoreOnWire.Has(x.Addr) || count[name] == wire.MaxConflicts {
			return true
		}
		count[name]++
		return false
	})
}

// report publishes counters and problems.
func (c *Controller) report() {
	usage := c.book.Usage()
	c.Usage.last.Store(&use{pools: usage, holders: maps.Clone(c.holders), waiting: maps.Clone(c.waiting)})
	s := kube.State{Pools: map[string]kube.PoolState{}}
	if c.cfg != nil {
		if c.uses.Changed() {
			c.told = c.uses.Statuses(*c.objects)
		}
		s.Problems, s.Objects = c.cfg.Problems, c.told
		for name := range c.cfg.SetAside {
			s.Pools[name] = kube.PoolState{Keep: c.keep(name)}
		}
	}
	onWire, heldBack := c.onWireTexts(), c.heldBackTexts()
	for _, u := range usage {
		s.Pools[u.Pool] = kube.PoolState{
			Assigned4: u.Assigned4, Assigned6: u.Assigned6,
			Available4: available(u.Total4, u.Assigned4+u.OnWire4), Available6: available(u.Total6, u.Assigned6+u.OnWire6),
			OnWire: onWire[u.Pool], HeldBack: heldBack[u.Pool], Keep: c.keep(u.Pool),
		}
	}
	for _, f := range c.book.Former(mostFormer) {
		if pool := c.cfg.PoolOf(f.Addrs[0]); pool != "" {
			p := s.Pools[pool]
			p.Former = append(p.Former, f)
			s.Pools[pool] = p
		}
	}
	c.State.Set(s)
}

// keep reports whether a pool must stay, also if it is deleted.
func (c *Controller) keep(pool string) bool { return c.Options.GuardPools && c.holders[pool] > 0 }

// onWireTexts says of each pool which of its addresses others on the wire use.
func (c *Controller) onWireTexts() map[string]string {
	out := map[string]string{}
	for _, x := range c.heeded {
		pool := c.cfg.PoolOf(x.Addr)
		held := ""
		if keys := c.book.HoldersOf(x.Addr); len(keys) > 0 {
			held = fmt.Sprintf(", although %s holds it", keys[0])
		}
		out[pool] += fmt.Sprintf("%s is used by %s, which %s heard on %s%s\n", x.Addr, x.MAC, x.Node, x.Link, held)
	}
	for pool := range out {
		out[pool] += "Those that no Service holds are not given. To give one nevertheless, name it in the pool's annotation " +
			"barelb.io/ignore-addresses-in-use-on-wire (\"all\" names all)."
	}
	return out
}

// heldBackTexts says of each pool which Services keep what it would not give them.
func (c *Controller) heldBackTexts() map[string]string {
	lines := map[string][]string{}
	for _, g := range c.guarded {
		lines[g.pool] = append(lines[g.pool], g.text)
	}
	if c.Options.GuardPools && c.cfg != nil { // all that hold something from a pool that is to go
		for _, p := range c.cfg.Pools {
			if p.Terminating && c.holders[p.Name] > 0 {
				lines[p.Name] = nil
				for key, now := range c.given {
					if now.Pool == p.Name && len(now.Addrs) > 0 {
						lines[p.Name] = append(lines[p.Name], fmt.Sprintf("%s (%s)", key, ipam.List(now.Addrs)))
					}
				}
			}
		}
	}
	out := map[string]string{}
	for pool, all := range lines {
		slices.Sort(all)
		more := ""
		if n := len(all) - mostNamed; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
			all = all[:mostNamed]
		}
		out[pool] = "in the way, because --pool-edits=guard lets Services keep their addresses until they go: " + strings.Join(all, ", ") + more
	}
	return out
}

// available subtracts, except from a total that is only known to be huge.
func available(total, assigned int64) int64 {
	if total == math.MaxInt64 {
		return total
	}
	return max(0, total-assigned)
}
