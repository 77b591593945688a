package bgp_test

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/lb"
)

// daemon is a router besides FRR and BIRD, in our AS, with graceful restart and a password.
type daemon struct {
	name     string
	programs []string
	start    func(l *lab, router, node string) (show func() string, stop func())
	// What it prints of a route of attrs(), of one that is about to go, and of one whose speaker is away.
	whole, going, stale []string
}

func daemons() []daemon {
	return []daemon{
		{
			name: "OpenBGPD", programs: []string{"/usr/sbin/bgpd", "/usr/sbin/bgpctl"}, start: (*lab).startOpenBGPD,
			whole: []string{"localpref 250", "64512:100 NO_EXPORT", "64512:1:2"},
			going: []string{"localpref 0", "GRACEFUL_SHUTDOWN"},
			stale: []string{"stale"},
		},
		{
			name: "GoBGP", programs: []string{"/usr/bin/gobgpd", "/usr/bin/gobgp"}, start: (*lab).startGoBGP,
			whole: []string{"{LocalPref: 250}", "{Communities: 64512:100, no-export}", "{LargeCommunity: [ 64512:1:2]}"},
			going: []string{"{LocalPref: 0}", "planned-shut"},
			stale: []string{"S*>"},
		},
	}
}

// TestOtherRouters: routers that are neither FRR nor BIRD take routes and withdrawals, keep
// routes while a speaker restarts, get everything again when they restart themselves, and let
// go of a speaker that leaves.
func TestOtherRouters(t *testing.T) {
	t.Parallel()
	for _, d := range daemons() {
		for _, side := range sides {
			t.Run(d.name+", "+side.name, func(t *testing.T) {
				t.Parallel()
				for _, program := range d.programs {
					_, err := os.Stat(program)
					need(t, program, err == nil)
				}
				l := newLab(t)
				show, stop := d.start(l, side.router, side.node)
				p := peer(side.router, 64512, lb.IPv4, lb.IPv6)
				p.GracefulRestart, p.Password = true, secret
				want := lb.Session{Peer: p, Routes: routes(attrs(), vip4, vip6)}
				has := func(all ...string) { // each address, with all of these beside it
					t.Helper()
					eventually(t, 10*time.Second, func() string {
						out := show()
						for _, vip := range []string{vip4, vip6} {
							for _, w := range all {
								if !strings.Contains(about(out, vip), w) {
									return fmt.Sprintf("%s is not shown with %q:\n%s", vip, w, out)
								}
							}
						}
						return ""
					})
				}

				n := startNodeWith(t, l.node, `{"DrainTime": 5000000000}`)
				n.apply(want)
				n.up("r")
				has(d.whole...)

				since := n.status("r").Since
				n.apply(lb.Session{Peer: p, Routes: routes(attrs(), vip6)})
				eventually(t, 5*time.Second, func() string {
					if out := show(); about(out, vip4) != "" || about(out, vip6) == "" {
						return out
					}
					return ""
				})
				n.apply(want)
				has(d.whole...)
				if now := n.status("r").Since; !now.Equal(since) {
					t.Errorf("the session is new: since %s, before %s", now, since)
				}

				n.kill()
				has(d.stale...)
				n = startNodeWith(t, l.node, `{"DrainTime": 5000000000}`)
				n.apply(want)
				n.up("r")
				has(d.whole...)

				stop()
				n.complains("r", "")
				show, stop = d.start(l, side.router, side.node)
				n.up("r")
				has(d.whole...)

				n.command(order{Depart: &bgp.Departure{Leaving: true, Linger: 300 * time.Millisecond, Reason: "drained"}})
				n.stop()
				has(d.going...)
				<-n.exited
				eventually(t, 5*time.Second, func() string {
					if out := show(); about(out, vip4)+about(out, vip6) != "" {
						return out
					}
					return ""
				})
				stop()
			})
		}
	}
}

// about returns what a router prints of a prefix: the line with it, and those after it that
// are indented more.
func about(out, pfx string) string {
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		if !strings.Contains(line, pfx) {
			continue
		}
		all := line
		for _, next := range lines[i+1:] {
			if !strings.HasPrefix(next, "    ") {
				break
			}
			all += "\n" + next
		}
		return all
	}
	return ""
}

// startOpenBGPD starts OpenBGPD, which has no route in its kernel here: show prints its table.
func (l *lab) startOpenBGPD(router, node string) (show func() string, stop func()) {
	l.t.Helper()
	account, err := user.Lookup("_openbgpd") // its children lock themselves up in its home
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.MkdirAll(account.HomeDir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	dir := shortDir(l.t)
	conf, socket := filepath.Join(dir, "bgpd.conf"), filepath.Join(dir, "s")
	text := fmt.Sprintf(`AS 64512
router-id 10.9.0.2
fib-update no
listen on %s
socket %q
neighbor %s {
 remote-as 64512
 announce IPv4 unicast
 announce IPv6 unicast
 announce restart yes
 tcp md5sig password %q
}
allow from any
`, router, socket, node, secret)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	stop = l.start("/usr/sbin/bgpd", "-d", "-f", conf)
	return func() string {
		return said(l.router, "/usr/sbin/bgpctl", "-s", socket, "show", "rib", "detail")
	}, stop
}

// startGoBGP starts GoBGP, which has no route in its kernel either.
func (l *lab) startGoBGP(router, node string) (show func() string, stop func()) {
	l.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "[global.config]\nas = 64512\nrouter-id = \"10.9.0.2\"\nlocal-address-list = [%q]\n"+
		"[[neighbors]]\n[neighbors.config]\nneighbor-address = %q\npeer-as = 64512\nauth-password = %q\n"+
		"[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 120\n", router, node, secret)
	for _, family := range []string{"ipv4-unicast", "ipv6-unicast"} {
		fmt.Fprintf(&b, "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = %q\n"+
			"[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n", family)
	}
	conf := filepath.Join(shortDir(l.t), "gobgpd.toml")
	if err := os.WriteFile(conf, []byte(b.String()), 0o600); err != nil {
		l.t.Fatal(err)
	}
	stop = l.start("/usr/bin/gobgpd", "-f", conf, "--api-hosts", "127.0.0.1:50051")
	return func() string {
		const gobgp = "/usr/bin/gobgp"
		return said(l.router, gobgp, "global", "rib", "-a", "ipv4") + said(l.router, gobgp, "global", "rib", "-a", "ipv6")
	}, stop
}
