package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/barelb/barelb/lab/box"
)

// quick makes interfaces usable at once, whatever the machine's own defaults are: no duplicate address detection, no router discovery.
func quick(more map[string]string) map[string]string {
	out := map[string]string{
		"net.ipv6.conf.all.disable_ipv6":     "0",
		"net.ipv6.conf.default.disable_ipv6": "0",
		"net.ipv6.conf.default.accept_dad":   "0",
		"net.ipv6.conf.default.accept_ra":    "0",
		// A neighbour that leaves one route to a host is not asked for a better one: a redirect would pin a client to one node.
		"net.ipv4.conf.all.accept_redirects":     "0",
		"net.ipv4.conf.default.accept_redirects": "0",
		"net.ipv6.conf.all.accept_redirects":     "0",
		"net.ipv6.conf.default.accept_redirects": "0",
		"net.ipv4.conf.all.send_redirects":       "0",
		"net.ipv4.conf.default.send_redirects":   "0",
		"net.ipv4.conf.all.rp_filter":            "0",
		"net.ipv4.conf.default.rp_filter":        "2", // loose, as distributions set it: answers may leave by another way
	}
	maps.Copy(out, more)
	return out
}

// forwarding is quick for a host that forwards: a router, a node.
func forwarding(more map[string]string) map[string]string {
	out := quick(map[string]string{
		"net.ipv4.ip_forward":              "1",
		"net.ipv6.conf.all.forwarding":     "1",
		"net.ipv6.conf.default.forwarding": "1",
	})
	maps.Copy(out, more)
	return out
}

// hashPolicy spreads flows over next hops by ports too, as routers do.
func hashPolicy() map[string]string {
	return map[string]string{"net.ipv4.fib_multipath_hash_policy": "1", "net.ipv6.fib_multipath_hash_policy": "1"}
}

func (c *Cluster) specs() []box.Spec {
	files := map[string]string{"/etc/hosts": c.hostsFile(), "/etc/resolv.conf": "nameserver 127.0.0.1\n"} // nobody there: names fail at once
	out := []box.Spec{
		{Name: Lan, Sysctls: quick(nil)},
		{
			Name: Router1, Sysctls: forwarding(hashPolicy()),
			Private: routerPrivate(c.cfg.Router),
		},
		{Name: Client, Sysctls: quick(nil)},
		{Name: Remote, Sysctls: quick(nil)},
	}
	if c.cfg.Mode != Network {
		out = append(out, box.Spec{Name: Control, Sysctls: quick(nil)})
	}
	for i := range c.cfg.Nodes {
		out = append(out, nodeSpec(NodeName(i+1), c.cfg.Mode))
	}
	for i := range out {
		out[i].Files = files
	}
	return out
}

// hostsFile names every host of the lab.
func (c *Cluster) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	add := func(name string, v4, v6 netip.Addr) { fmt.Fprintf(&b, "%s %s\n%s %s\n", v4, name, v6, name) }
	for name, host := range c.lanHosts() {
		v4, v6 := lanAddrs(host)
		add(name, v4, v6)
	}
	v4, v6 := remoteAddrs(2)
	add(Remote, v4, v6)
	return b.String()
}

// lanHosts maps the names of the hosts on the LAN to the last part of their addresses.
func (c *Cluster) lanHosts() map[string]int {
	out := map[string]int{Router1: routerHost, Client: clientHost}
	if c.cfg.Mode != Network {
		out[Control] = controlHost
	}
	for i := range c.cfg.Nodes {
		out[NodeName(i+1)] = nodeHost + i + 1
	}
	return out
}

// startBoxes starts all boxes and cables them.
func (c *Cluster) startBoxes(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, spec := range c.specs() {
		g.Go(func() error {
			_, err := c.set.Add(gctx, spec)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.cable()
}

func (c *Cluster) cable() error {
	lan := c.Box(Lan)
	if err := within(lan, func(h *netlink.Handle) error {
		off := false
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &off})
	}); err != nil {
		return err
	}
	for name, host := range c.lanHosts() {
		if err := plug(end{box: lan, name: name}, end{box: c.Box(name), name: "eth0", mac: macOf(host)}); err != nil {
			return err
		}
	}
	if err := plug(end{box: c.Box(Router1), name: "eth1"}, end{box: c.Box(Remote), name: "eth0"}); err != nil {
		return err
	}
	if err := within(lan, c.connectSwitch); err != nil {
		return err
	}
	for name, host := range c.lanHosts() {
		if err := within(c.Box(name), func(h *netlink.Handle) error { return c.configureHost(h, name, host) }); err != nil {
			return err
		}
	}
	return within(c.Box(Remote), func(h *netlink.Handle) error {
		v4, v6 := remoteAddrs(2)
		if err := bringUp(h, "lo"); err != nil {
			return err
		}
		if err := bringUp(h, "eth0", netip.PrefixFrom(v4, remote4.Bits()), netip.PrefixFrom(v6, remote6.Bits())); err != nil {
			return err
		}
		return c.defaultRoutes(h, remoteAddrs)
	})
}

func (c *Cluster) connectSwitch(h *netlink.Handle) error {
	for name := range c.lanHosts() {
		if err := move(h, bridge, name); err != nil {
			return err
		}
		if err := bringUp(h, name); err != nil {
			return err
		}
	}
	return bringUp(h, bridge)
}

func (c *Cluster) configureHost(h *netlink.Handle, name string, host int) error {
	v4, v6 := lanAddrs(host)
	if err := bringUp(h, "lo"); err != nil {
		return err
	}
	if err := bringUp(h, "eth0", netip.PrefixFrom(v4, LAN4.Bits()), netip.PrefixFrom(v6, LAN6.Bits())); err != nil {
		return err
	}
	if name == Router1 {
		r4, r6 := remoteAddrs(1)
		return bringUp(h, "eth1", netip.PrefixFrom(r4, remote4.Bits()), netip.PrefixFrom(r6, remote6.Bits()))
	}
	if err := c.defaultRoutes(h, lanAddrs); err != nil || name == Client {
		return err
	}
	for i := range c.cfg.Nodes { // the API server and the nodes reach pods on every other node
		if NodeName(i+1) == name {
			continue
		}
		n4, n6 := NodeAddrs(i + 1)
		p4, p6 := podPrefixes(i + 1)
		if err := route(h, p4, n4); err != nil {
			return err
		}
		if err := route(h, p6, n6); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) defaultRoutes(h *netlink.Handle, addrs func(int) (netip.Addr, netip.Addr)) error {
	v4, v6 := addrs(routerHost)
	if err := route(h, netip.Prefix{}, v4); err != nil {
		return err
	}
	return route(h, netip.Prefix{}, v6)
}

// Cut pulls a host's cable out of the switch: nothing goes in or out, and the host loses its carrier.
func (c *Cluster) Cut(host string) error { return c.port(host, (*netlink.Handle).LinkSetDown) }

// Restore puts the cable back.
func (c *Cluster) Restore(host string) error { return c.port(host, (*netlink.Handle).LinkSetUp) }

func (c *Cluster) port(host string, set func(*netlink.Handle, netlink.Link) error) error {
	return within(c.Box(Lan), func(h *netlink.Handle) error {
		port, err := h.LinkByName(host)
		if err != nil {
			return fmt.Errorf("find port of %s: %w", host, err)
		}
		if err := set(h, port); err != nil {
			return fmt.Errorf("change port of %s: %w", host, err)
		}
		return nil
	})
}
