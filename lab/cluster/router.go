package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/barelb/barelb/lab/box"
)

const frrDir = "/usr/lib/frr"

func routerPrivate(kind string) []string {
	if kind == FRR {
		return []string{"/etc/frr", "/var/log/frr", "/var/lib/frr", "/var/tmp"}
	}
	return nil
}

// The routers accept a session from every address of the LAN, take every route, install all equal next hops in the
// kernel, and advertise nothing back.
var routerConfigs = map[string]*template.Template{ //nolint:gochecknoglobals // constants
	FRR: template.Must(template.New("").Parse(`frr defaults traditional
hostname router1
log stdout informational
router bgp {{.RouterAS}}
 bgp router-id {{.ID}}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp bestpath as-path multipath-relax
 neighbor nodes peer-group
 neighbor nodes remote-as {{.NodeAS}}
 neighbor nodes timers {{.Keepalive}} {{.Hold}}
{{- if .Password}}
 neighbor nodes password {{.Password}}
{{- end}}
{{- if .BFD}}
 neighbor nodes bfd
 neighbor nodes bfd profile lab
{{- end}}
 bgp listen limit 200
 bgp listen range {{.LAN4}} peer-group nodes
 bgp listen range {{.LAN6}} peer-group nodes
 address-family ipv4 unicast
  neighbor nodes activate
  neighbor nodes route-map nothing out
  maximum-paths 64
  maximum-paths ibgp 64
 exit-address-family
 address-family ipv6 unicast
  neighbor nodes activate
  neighbor nodes route-map nothing out
  maximum-paths 64
  maximum-paths ibgp 64
 exit-address-family
exit
route-map nothing deny 1
exit
{{.Extra}}
`)),
	BIRD: template.Must(template.New("").Parse(`log stderr all;
router id {{.ID}};
protocol device { scan time 1; }
# Each scan, every minute unless set, would undo what a case changes in the kernel by hand.
protocol kernel kernel4 { scan time 86400; merge paths yes limit 64; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel kernel6 { scan time 86400; merge paths yes limit 64; ipv6 { import none; export where source = RTS_BGP; }; }
{{- if .BFD}}
protocol bfd { interface "*" { min rx interval {{.BFD}} ms; min tx interval {{.BFD}} ms; multiplier 3; }; }
{{- end}}
template bgp nodes {
  local as {{.RouterAS}};
  hold time {{.Hold}};
  keepalive time {{.Keepalive}};
  error wait time 1, 2; # or a node that returns is refused for up to a minute
{{- if .Password}}
  password "{{.Password}}";
{{- end}}
{{- if .BFD}}
  bfd on;
{{- end}}
  direct;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
protocol bgp lan4 from nodes { neighbor range {{.LAN4}} as {{.NodeAS}}; dynamic name "node4_"; }
protocol bgp lan6 from nodes { neighbor range {{.LAN6}} as {{.NodeAS}}; dynamic name "node6_"; }
{{.Extra}}
`)),
}

// startRouter starts the routing daemons in router1 and waits until they take commands.
func (c *Cluster) startRouter(ctx context.Context) error {
	if c.cfg.Router == NoRouter {
		return nil
	}
	b := c.Box(Router1)
	id, _ := lanAddrs(routerHost)
	var text strings.Builder
	hold := int(c.cfg.BGP.HoldTime.Seconds())
	if err := routerConfigs[c.cfg.Router].Execute(&text, map[string]any{
		"RouterAS": c.cfg.BGP.RouterAS, "NodeAS": c.cfg.BGP.NodeAS, "Password": c.cfg.BGP.Password, "Extra": c.cfg.BGP.Extra,
		"BFD": c.cfg.BGP.BFD.Milliseconds(), "Hold": hold, "Keepalive": max(1, hold/3), "ID": id, "LAN4": LAN4, "LAN6": LAN6,
	}); err != nil {
		return fmt.Errorf("make router configuration: %w", err)
	}
	if c.cfg.Router == BIRD {
		return c.startBIRD(ctx, b, text.String())
	}
	return c.startFRR(ctx, b, text.String())
}

func (c *Cluster) startBIRD(ctx context.Context, b *box.Box, config string) error {
	path := filepath.Join(b.Dir(), "bird.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return fmt.Errorf("write router configuration: %w", err)
	}
	if err := os.MkdirAll(inside(b, "/run/bird"), 0o755); err != nil {
		return fmt.Errorf("make BIRD's directory: %w", err)
	}
	c.daemon.name, c.daemon.argv = "bird", []string{"/usr/sbin/bird", "-f", "-c", box.Inside + "/bird.conf", "-s", "/run/bird/bird.ctl"}
	if err := c.StartRouter(); err != nil {
		return err
	}
	return waitFor(ctx, "BIRD", func() error {
		_, err := c.Birdc(ctx, "show status")
		return err
	}, c.daemon.process)
}

func (c *Cluster) startFRR(ctx context.Context, b *box.Box, config string) error {
	uid, gid, err := frrUser()
	if err != nil {
		return err
	}
	bfd := ""
	if interval := c.cfg.BGP.BFD.Milliseconds(); interval > 0 {
		bfd = fmt.Sprintf("bfd\n profile lab\n  receive-interval %d\n  transmit-interval %d\n exit\nexit\n", interval, interval)
	}
	for path, text := range map[string]string{"vtysh.conf": "", "zebra.conf": "hostname router1\n", "mgmtd.conf": "", "bgpd.conf": config, "bfdd.conf": bfd} {
		file := filepath.Join(b.Dir(), "fs/etc/frr", path)
		if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
			return fmt.Errorf("write router configuration: %w", err)
		}
		if err := os.Chown(file, uid, gid); err != nil {
			return fmt.Errorf("write router configuration: %w", err)
		}
	}
	run := inside(b, "/run/frr")
	if err := errors.Join(os.Mkdir(run, 0o755), os.Chown(run, uid, gid)); err != nil {
		return fmt.Errorf("make FRR's directory: %w", err)
	}
	if err := os.Chmod(filepath.Join(b.Dir(), "fs/var/tmp"), 0o1777|os.ModeSticky); err != nil {
		return fmt.Errorf("make FRR's directory: %w", err)
	}
	var needs []*box.Process
	for _, d := range []string{"mgmtd", "zebra", "bgpd", "bfdd"} {
		if _, err := os.Stat(filepath.Join(frrDir, d)); err != nil {
			continue // mgmtd came with FRR 9
		}
		argv := []string{filepath.Join(frrDir, d), "-A", "127.0.0.1", "-f", "/etc/frr/" + d + ".conf"}
		if d == "bgpd" {
			c.daemon.name, c.daemon.argv = d, argv
			if err := c.StartRouter(); err != nil {
				return err
			}
			needs = append(needs, c.daemon.process)
			continue
		}
		p, err := b.Start(d, argv...)
		if err != nil {
			return err
		}
		needs = append(needs, p)
	}
	return waitFor(ctx, "FRR", func() error {
		out, err := c.Vtysh(ctx, "show bgp summary")
		if err == nil && strings.Contains(out, "not running") {
			return errors.New(out)
		}
		return err
	}, needs...)
}

func frrUser() (uid, gid int, err error) { //nolint:nonamedreturns // tells the two apart
	u, err := user.Lookup("frr")
	if err != nil {
		return 0, 0, fmt.Errorf("find FRR's user: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err1, err2)
}

// inside is where the machine finds a path of the box's own mounts.
func inside(b *box.Box, path string) string { return fmt.Sprintf("/proc/%d/root%s", b.Pid(), path) }

// Vtysh runs one command of FRR's shell on router1 and returns what it prints.
func (c *Cluster) Vtysh(ctx context.Context, cmd string) (string, error) {
	return c.ask(ctx, "vtysh", "-c", cmd)
}

// Birdc runs one command of BIRD's shell on router1 and returns what it prints.
func (c *Cluster) Birdc(ctx context.Context, cmd string) (string, error) {
	return c.ask(ctx, "birdc", append([]string{"-r"}, strings.Fields(cmd)...)...)
}

func (c *Cluster) ask(ctx context.Context, name string, args ...string) (string, error) {
	out, err := c.Box(Router1).Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask router1 %q: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// NextHop is one way out of a route of the kernel. It is comparable.
type NextHop struct {
	Via    netip.Addr // invalid for a route without a gateway
	Dev    string
	Weight int // 1 for all alike
}

// Routes returns the next hops that router1's kernel has for exactly this prefix, in the order of their addresses; none if it has no such route.
func (c *Cluster) Routes(ctx context.Context, prefix netip.Prefix) ([]NextHop, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []NextHop
	err := within(c.Box(Router1), func(h *netlink.Handle) error {
		family := unix.AF_INET6
		if prefix.Addr().Is4() {
			family = unix.AF_INET
		}
		routes, err := h.RouteListFiltered(family, &netlink.Route{Dst: ipNet(prefix.Masked())}, netlink.RT_FILTER_DST)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		names := map[int]string{}
		links, err := h.LinkList()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		for _, r := range routes {
			out = append(out, nextHops(r, names)...)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b NextHop) int { return a.Via.Compare(b.Via) })
	return out, err
}

func nextHops(r netlink.Route, names map[int]string) []NextHop {
	hop := func(gw []byte, index, weight int) NextHop {
		via, _ := netip.AddrFromSlice(gw)
		return NextHop{Via: via.Unmap(), Dev: names[index], Weight: weight}
	}
	if len(r.MultiPath) == 0 {
		return []NextHop{hop(r.Gw, r.LinkIndex, 1)}
	}
	var out []NextHop
	for _, m := range r.MultiPath {
		out = append(out, hop(m.Gw, m.LinkIndex, m.Hops+1))
	}
	return out
}
