package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/box"
)

// Pod is a network endpoint behind a node of a Fast or Network cluster: a box with an address of the node's pod range.
type Pod struct {
	*box.Box
	Node   string
	V4, V6 netip.Addr
}

// AddPod makes the next pod behind a node (NodeName). Nothing runs in it yet.
func (c *Cluster) AddPod(ctx context.Context, node string) (*Pod, error) {
	if c.cfg.Mode == Real {
		return nil, errors.New("add pod: this cluster has kubelets, create a Pod")
	}
	var i int
	if _, err := fmt.Sscanf(node, "node%d", &i); err != nil || c.Box(node) == nil {
		return nil, fmt.Errorf("add pod: no node %q", node)
	}
	c.mu.Lock()
	c.pods[node]++
	host := c.pods[node] + 1
	c.mu.Unlock()
	v4, v6 := podAddrs(i, host)
	b, err := c.set.Add(ctx, box.Spec{Name: fmt.Sprintf("pod-%s-%d", node, host), Sysctls: quick(nil)})
	if err != nil {
		return nil, fmt.Errorf("add pod: %w", err)
	}
	if err := c.wirePod(c.Box(node), b, i, host); err != nil {
		return nil, errors.Join(fmt.Errorf("add pod: %w", err), c.set.Remove(b.Name()))
	}
	c.saveState()
	return &Pod{Box: b, Node: node, V4: v4, V6: v6}, nil
}

// RemovePod ends a pod and everything in it.
func (c *Cluster) RemovePod(p *Pod) error {
	if !strings.HasPrefix(p.Name(), "pod-") {
		return fmt.Errorf("remove pod: %s is none", p.Name())
	}
	return c.set.Remove(p.Name())
}

// wirePod lays the cable and routes one address over it, as a point-to-point CNI plugin does.
func (c *Cluster) wirePod(node, pod *box.Box, i, host int) error {
	port := fmt.Sprintf("pod%d", host)
	if err := plug(end{box: node, name: port}, end{box: pod, name: "eth0"}); err != nil {
		return err
	}
	v4, v6 := podAddrs(i, host)
	gw4, gw6 := podAddrs(i, 1)
	if err := within(node, func(h *netlink.Handle) error {
		if err := bringUp(h, port, single(gw4), single(gw6)); err != nil {
			return err
		}
		return errors.Join(onLink(h, port, v4), onLink(h, port, v6))
	}); err != nil {
		return err
	}
	return within(pod, func(h *netlink.Handle) error {
		if err := errors.Join(bringUp(h, "lo"), bringUp(h, "eth0", single(v4), single(v6))); err != nil {
			return err
		}
		if err := errors.Join(onLink(h, "eth0", gw4), onLink(h, "eth0", gw6)); err != nil {
			return err
		}
		return errors.Join(route(h, netip.Prefix{}, gw4), route(h, netip.Prefix{}, gw6))
	})
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// onLink adds a route to one neighbour at the other end of a cable.
func onLink(h *netlink.Handle, dev string, to netip.Addr) error {
	link, err := h.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find link %s: %w", dev, err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(single(to)), Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("add route to %s: %w", to, err)
	}
	return nil
}
