package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

// address explains whether the Service has its addresses. It returns false if it has none.
func (c *chain) address() bool {
	d := c.w.book.Decide(&c.svc.Service)
	switch {
	case len(c.svc.Addrs) == 0 && d.Refused != nil:
		c.add(c.w.refusal("address", d.Refused, &c.svc.Service).with(c.w.poolLines()...))
		return false
	case len(c.svc.Addrs) == 0:
		c.add(c.notGiven(d))
		return false
	}
	if c.Pool == "" {
		c.add(broken("address", lb.AddressUnknown, "%s belongs to no IPAddressPool", ipam.List(c.svc.Addrs)).with(c.w.poolLines()...).
			remedy("add the address to an IPAddressPool; the controller gives the Service another one as soon as it runs"))
		return false
	}
	f := ok("address", "%s from IPAddressPool %s", ipam.List(c.svc.Addrs), c.Pool)
	switch {
	case d.Cleared != nil && slices.Equal(d.Addrs, c.svc.Addrs): // it gets the same one again
	case d.Cleared != nil:
		f.Level, f.Reason = Warning, d.Cleared.Reason
		f.What += fmt.Sprintf(", which it will not keep: %s", d.Cleared.Message)
		f.Remedy = "it changes when the controller gets to it; kubectl barelb what-if shows to what"
	case d.Guarded != nil:
		f.What += fmt.Sprintf(", kept although %s (--pool-edits=guard)", d.Guarded.Message)
	case d.Refused != nil:
		f.Level, f.Reason = Warning, d.Refused.Reason
		f.What += ", and not all that it asks for: " + d.Refused.Message
		f.Remedy = c.w.allocationRemedy(d.Refused.Reason, &c.svc.Service)
	}
	for _, a := range c.svc.Addrs {
		for _, other := range c.w.holders[a] {
			if other != c.svc.Key {
				f.Evidence = append(f.Evidence, fmt.Sprintf("%s is shared with Service %s", a, other))
			}
		}
	}
	if p := c.w.problems(config.KindIPAddressPool, c.Pool); len(p) > 0 {
		f.Level, f.Reason = Warning, SetAside
		f.Evidence = append(f.Evidence, p...)
	}
	c.add(f)
	return true
}

// notGiven says why a Service has no address although it should get one.
func (c *chain) notGiven(d ipam.Decision) Finding {
	should := fmt.Sprintf("the Service should get %s from IPAddressPool %s", ipam.List(d.Addrs), d.Pool)
	if g := c.w.c.gap(FromPods); g != nil {
		return broken("address", NotYetWritten, "%s, and has none", should).with("whether the controller runs is "+g.NotChecked()).
			remedy("see whether the controller runs: kubectl -n %s get pods", c.w.c.Namespace)
	}
	controllers, lines := c.w.controllers()
	if len(controllers) == 0 {
		return broken("controller", ControllerNotRunning, "%s, but no controller runs that gives it", should).with(lines...).
			remedy("kubectl -n %s get deployments,pods; kubectl -n %s describe pod of the controller", c.w.c.Namespace, c.w.c.Namespace)
	}
	f := broken("address", NotYetWritten, "%s, and the controller has not written it", should).
		with("controller running: " + list(controllers))
	if c.svc.Told != "" {
		f.Evidence = append(f.Evidence, "its condition AddressAllocated says: "+c.svc.Told)
	}
	return f.remedy("if it stays so for more than seconds, read the controller's log: kubectl -n %s logs %s", c.w.c.Namespace, controllers[0])
}

// controllers returns the controllers that run, and a line about each one that does not.
func (w *World) controllers() (running, lines []string) {
	for _, p := range w.c.Pods {
		switch {
		case p.Component != "controller":
		case p.Ready:
			running = append(running, p.Name)
		default:
			lines = append(lines, fmt.Sprintf("Pod %s is not ready: %s", p.Name, p.Why))
		}
	}
	if len(running)+len(lines) == 0 {
		lines = []string{"there is no Pod of a controller in namespace " + w.c.Namespace}
	}
	return running, lines
}

// refusal is the Finding about an address that is not given.
func (w *World) refusal(check string, why *ipam.Refusal, svc *lb.Service) Finding {
	f := broken(check, why.Reason, "%s", why.Message)
	f.Remedy = w.allocationRemedy(why.Reason, svc)
	if family := w.lacking(svc); why.Reason == lb.PoolExhausted && family != 0 {
		f.What += fmt.Sprintf("; no pool that may serve it has %s addresses", family)
		f.Remedy = fmt.Sprintf("add %s addresses to the pool, name a pool that has some by the annotation metallb.io/address-pool, or change spec.ipFamilies of the Service", family)
	} else if why.Reason == lb.PoolExhausted {
		for _, x := range w.heeded() {
			if pool := w.cfg.PoolOf(x.Addr); svc.RequestedPool == "" || svc.RequestedPool == pool {
				f.Evidence = append(f.Evidence, fmt.Sprintf("%s of IPAddressPool %s is used by MAC %s, heard by the speaker of %s on %s", x.Addr, pool, x.MAC, x.Node, x.Link))
			}
		}
	}
	var aside []string
	for _, p := range w.cfg.Problems {
		asked := svc.RequestedPool == "" && (why.Reason == lb.NoPool || why.Reason == lb.AddressNotInPool) || p.Name == svc.RequestedPool
		if p.Kind == config.KindIPAddressPool && !p.InForce && asked {
			aside = append(aside, p.Name)
		}
	}
	if aside = slices.Compact(aside); len(aside) > 0 {
		f.Reason = SetAside
		f.What += fmt.Sprintf("; IPAddressPool %s, which could be, %s set aside because of a mistake", list(aside), verb(len(aside), "is", "are"))
		f.Remedy = "correct the IPAddressPool, as the line above says: kubectl -n " + w.c.Namespace + " edit ipaddresspool " + aside[0]
	}
	return f
}

// lacking returns a family that a Service needs an address of, and that no pool which may serve it has a
// range of; 0 if there is none.
func (w *World) lacking(svc *lb.Service) lb.Family {
	for _, a := range svc.ClusterIPs {
		family, some := lb.FamilyOf(a), false
		for _, p := range w.cfg.Pools {
			if p.Name == svc.RequestedPool || svc.RequestedPool == "" && p.AutoAssign {
				some = some || slices.ContainsFunc(p.Ranges, func(r config.Range) bool { return lb.FamilyOf(r.First) == family })
			}
		}
		if !some {
			return family
		}
	}
	return 0
}

// allocationRemedy says what to do about a Service that is refused an address.
func (w *World) allocationRemedy(reason lb.Reason, svc *lb.Service) string {
	if reason == lb.NoPool && len(w.c.Objects.Pools) == 0 {
		return "create an IPAddressPool in namespace " + w.c.Namespace + ": kubectl barelb advise prints one"
	}
	const share = "ask for another address, or give all Services that shall share it the same annotation metallb.io/allow-shared-ip, different ports and, with externalTrafficPolicy Local, the same selector"
	return map[lb.Reason]string{
		lb.NoPool:             "create an IPAddressPool with autoAssign for it, widen the serviceAllocation of one, or name one by the annotation metallb.io/address-pool",
		lb.PoolExhausted:      "add addresses to the pool, or free some: kubectl barelb status lists who holds them",
		lb.PoolNotFound:       "correct the annotation metallb.io/address-pool, or create that IPAddressPool",
		lb.PoolNotAllowed:     "change serviceAllocation of the pool, or ask for another pool",
		lb.AddressNotInPool:   "ask for an address of a pool, or add the address to one",
		lb.AddressInUse:       share,
		lb.SharingKeyDiffers:  share,
		lb.PortConflict:       share,
		lb.BackendDiffers:     share,
		lb.AddressInUseOnWire: "find the host with that MAC and take the address from it, or take the address out of the pool",
		lb.FamilyMismatch:     "ask for an address of each family that the Service's clusterIPs have, or set spec.ipFamilyPolicy and spec.ipFamilies",
		lb.InvalidRequest:     "correct " + svc.RequestField + " of the Service",
		lb.NoClusterIP:        "a headless Service gets no address, and RequireDualStack needs a cluster with both families",
	}[reason]
}

// poolLines says of each pool how full it is, or why it is not in force.
func (w *World) poolLines() []string {
	var out []string
	for _, u := range w.book.Usage() {
		p := w.cfg.PoolByName(u.Pool)
		ranges := make([]string, len(p.Ranges))
		for i, r := range p.Ranges {
			ranges[i] = r.String()
		}
		line := fmt.Sprintf("IPAddressPool %s (%s): %s", u.Pool, strings.Join(ranges, ", "), UsageText(u))
		if !p.AutoAssign {
			line += ", autoAssign is off"
		}
		if p.Allocation != nil {
			line += ", reserved by serviceAllocation"
		}
		out = append(out, line)
	}
	for _, p := range w.cfg.Problems {
		if p.Kind == config.KindIPAddressPool {
			out = append(out, p.String())
		}
	}
	if len(out) == 0 {
		out = []string{"there is no IPAddressPool in namespace " + w.c.Namespace}
	}
	return out
}

// UsageText says how many addresses of a pool are held.
func UsageText(u ipam.Usage) string {
	var parts []string
	if u.Total4 > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d IPv4 in use", u.Assigned4, u.Total4))
	}
	if u.Total6 > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d IPv6 in use", u.Assigned6, u.Total6))
	}
	if n := u.OnWire4 + u.OnWire6; n > 0 {
		parts = append(parts, fmt.Sprintf("%d used by others on the wire", n))
	}
	return strings.Join(parts, ", ")
}

// problems returns what is wrong with one object, in lines.
func (w *World) problems(kind, name string) []string {
	var out []string
	for _, p := range w.cfg.Problems {
		if p.Kind == kind && p.Name == name {
			out = append(out, p.String())
		}
	}
	return out
}
