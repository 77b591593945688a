package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// Faults of the network that leave every host its carrier.

// The switches: the second one is there while the LAN is split.
const (
	bridge      = "lan0"
	otherBridge = "lan1"
)

// Split moves hosts to a switch of their own: they reach each other and nobody else, and nobody loses carrier.
func (c *Cluster) Split(hosts ...string) error {
	return within(c.Box(Lan), func(h *netlink.Handle) error {
		if _, err := h.LinkByName(otherBridge); err != nil {
			off := false
			if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: otherBridge}, MulticastSnooping: &off}); err != nil {
				return fmt.Errorf("add a second switch: %w", err)
			}
		}
		if err := bringUp(h, otherBridge); err != nil {
			return err
		}
		return move(h, otherBridge, hosts...)
	})
}

// Join moves every host back to the one switch. Without a Split it does nothing.
func (c *Cluster) Join() error {
	return within(c.Box(Lan), func(h *netlink.Handle) error {
		other, err := h.LinkByName(otherBridge)
		if err != nil {
			return nil //nolint:nilerr // there is none: the LAN is whole
		}
		links, err := h.LinkList()
		if err != nil {
			return fmt.Errorf("list ports: %w", err)
		}
		for _, l := range links {
			if l.Attrs().MasterIndex == other.Attrs().Index {
				if err := move(h, bridge, l.Attrs().Name); err != nil {
					return err
				}
			}
		}
		return h.LinkDel(other)
	})
}

// move connects ports to a switch.
func move(h *netlink.Handle, to string, ports ...string) error {
	sw, err := h.LinkByName(to)
	if err != nil {
		return fmt.Errorf("find switch %s: %w", to, err)
	}
	for _, name := range ports {
		port, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find port %s: %w", name, err)
		}
		if err := h.LinkSetMaster(port, sw); err != nil {
			return fmt.Errorf("move port %s to %s: %w", name, to, err)
		}
	}
	return nil
}

// AddCable connects a host to the LAN's switch a second time, by a link that has no addresses of its own and answers ARP for none of the
// host's. It returns the link's MAC. The port, for Cut and Restore, is Port(host, link).
func (c *Cluster) AddCable(ctx context.Context, host, link string) (net.HardwareAddr, error) {
	number, ok := c.lanHosts()[host]
	if !ok {
		return nil, fmt.Errorf("add cable: %s is not on the LAN", host)
	}
	mac := macOf(number)
	mac[4] = 1
	port := Port(host, link)
	if err := plug(end{box: c.Box(Lan), name: port}, end{box: c.Box(host), name: link, mac: mac}); err != nil {
		return nil, err
	}
	err := within(c.Box(Lan), func(h *netlink.Handle) error {
		if err := move(h, bridge, port); err != nil {
			return err
		}
		return bringUp(h, port)
	})
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"arp_ignore", "arp_announce"} { // or it speaks for the addresses of eth0
		if err := c.run(ctx, host, "", "sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/"+link+"/"+key); err != nil {
			return nil, err
		}
	}
	return mac, within(c.Box(host), func(h *netlink.Handle) error { return bringUp(h, link) })
}

// Port is the switch's side of a cable that AddCable laid.
func Port(host, link string) string { return host + "." + link }

// RemoveCable takes such a cable away, if it is there.
func (c *Cluster) RemoveCable(host, link string) error {
	return within(c.Box(Lan), func(h *netlink.Handle) error {
		port, err := h.LinkByName(Port(host, link))
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		return h.LinkDel(port)
	})
}

// filterTable is the name of the tables that Filter makes.
const filterTable = "lab_fault"

// DropInput has a host drop what comes to its own sockets and matches one of the rules (nftables' expressions, without a verdict).
// It replaces what was dropped before.
func (c *Cluster) DropInput(ctx context.Context, host string, rules ...string) error {
	return c.filter(ctx, host, "inet", "hook input priority -300", rules)
}

// DropIngress has a host drop frames that come in by any of its links named and match one of the rules, before anything else but packet sockets sees them.
// It replaces what was dropped before. On Lan the links are the switch's ports, and what comes in there is what a host sends.
func (c *Cluster) DropIngress(ctx context.Context, host string, links []string, rules ...string) error {
	return c.filter(ctx, host, "netdev", "hook ingress devices = { "+strings.Join(links, ", ")+" } priority 0", rules)
}

func (c *Cluster) filter(ctx context.Context, host, family, hook string, rules []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s\ndelete table %s %s\n", family, filterTable, family, filterTable)
	if len(rules) > 0 {
		fmt.Fprintf(&b, "table %s %s {\n chain in {\n  type filter %s; policy accept;\n", family, filterTable, hook)
		for _, r := range rules {
			fmt.Fprintf(&b, "  %s drop\n", r)
		}
		b.WriteString(" }\n}\n")
	}
	return c.run(ctx, host, b.String(), "nft", "-f", "-")
}

// StopDropping lets a host have everything again.
func (c *Cluster) StopDropping(ctx context.Context, host string) error {
	return errors.Join(c.DropInput(ctx, host), c.filter(ctx, host, "netdev", "", nil))
}

// run runs a command in a host.
func (c *Cluster) run(ctx context.Context, host, stdin, name string, args ...string) error {
	cmd := c.Box(host).Command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w: %s", name, host, err, out)
	}
	return nil
}

// SignalAPI sends a signal, such as STOP, CONT or KILL, to the API server.
func (c *Cluster) SignalAPI(ctx context.Context, signal string) error {
	const script = `for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = kube-apiserver ] && kill -$0 ${p#/proc/} && found=1; done; [ -n "$found" ]`
	return c.run(ctx, Control, "", "sh", "-c", script, signal)
}
