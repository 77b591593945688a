package layer2

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/internal/core/ndp"
)

// membership is one multicast group on one link. A new epoch of the link makes it
// another one, that is joined anew: the kernel may have lost it.
type membership struct {
	link  int // index
	epoch uint64
	group netip.Addr
}

// groups holds memberships of solicited-node groups (RFC 4291 §2.7.1), so that
// network cards let the groups' frames pass and switches that snoop MLD forward
// them. It does so by sockets that receive nothing and need no capability; frames
// are read from the packet socket. Only one goroutine may use it.
type groups struct {
	fds    []int
	joined map[membership]int // on which socket
}

// memberships returns what t's IPv6 addresses need.
func (t *table) memberships() map[membership]struct{} {
	want := map[membership]struct{}{}
	for addr, e := range t.addrs {
		if !addr.Is6() {
			continue
		}
		for _, p := range t.ports {
			if e.on(p) {
				want[membership{p.index, p.epoch, ndp.Group(addr)}] = struct{}{}
			}
		}
	}
	return want
}

// apply leaves and joins until want is what is joined. What cannot be joined makes
// an error and is tried again by the next apply.
func (g *groups) apply(want map[membership]struct{}) error {
	for m, fd := range g.joined {
		if _, ok := want[m]; !ok {
			// The only failure is that the link is gone, and the membership with it.
			_ = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, m.mreq())
			delete(g.joined, m)
		}
	}
	var errs []error
	for m := range want {
		if _, ok := g.joined[m]; ok {
			continue
		}
		if err := g.join(m); err != nil {
			errs = append(errs, fmt.Errorf("join group %s on link %d: %w", m.group, m.link, err))
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// join joins m on the last socket, or on a new one if that is full: a socket holds
// as many memberships as net.core.optmem_max has room for (2,340 of 128 KiB).
func (g *groups) join(m membership) error {
	for range 2 {
		if n := len(g.fds); n > 0 {
			fd := g.fds[n-1]
			err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m.mreq())
			if err == nil || errors.Is(err, unix.EADDRINUSE) {
				if g.joined == nil {
					g.joined = map[membership]int{}
				}
				g.joined[m] = fd
				return nil
			}
			if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		g.fds = append(g.fds, fd)
	}
	return unix.ENOMEM
}

// close leaves all groups.
func (g *groups) close() {
	for _, fd := range g.fds {
		_ = unix.Close(fd)
	}
	g.fds, g.joined = nil, nil
}

func (m membership) mreq() *unix.IPv6Mreq {
	return &unix.IPv6Mreq{Multiaddr: m.group.As16(), Interface: uint32(m.link)}
}
