package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
)

// The peers that most tests use: the router of the lab, once for each family.
const (
	router4 = "192.168.1.1"
	router6 = "fd00:1::1"
)

// peer is a BGPPeer. more is added to its spec.
func peer(name, addr string, peerAS int, more ...string) string {
	return object("BGPPeer", name, append([]string{
		fmt.Sprintf("myASN: %d", nodeAS), fmt.Sprintf("peerASN: %d", peerAS), fmt.Sprintf("peerAddress: %q", addr),
	}, more...)...)
}

const established = "Established"

// session is one of the router's sessions with the nodes, as FRR knows it.
type session struct {
	State string `json:"bgpState"`
	Port  int    `json:"portForeign"` // of the node's end: another session has another one
}

// sessions returns FRR's sessions by the address of the node.
func (l *lab) sessions(ctx context.Context) (map[string]session, error) {
	out, err := l.c.Vtysh(ctx, "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	all := map[string]session{}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("decode sessions: %w", err)
	}
	for addr, s := range all {
		if s.State == established && s.Port == 0 {
			return nil, fmt.Errorf("decode sessions: that with %s has no port: FRR has changed its words", addr)
		}
	}
	return all, nil
}

// awaitSessions waits until exactly these nodes have sessions with the router over
// the given family (4 or 6), and returns all sessions of FRR.
func (l *lab) awaitSessions(t *testing.T, family int, nodes ...string) map[string]session {
	t.Helper()
	var all map[string]session
	eventually(t, fmt.Sprintf("IPv%d sessions of %q", family, nodes), func() error {
		var err error
		if all, err = l.sessions(t.Context()); err != nil {
			return err
		}
		up := []string{}
		for addr, s := range all {
			if a, err := netip.ParseAddr(addr); err == nil && a.Is4() == (family == 4) && s.State == established {
				up = append(up, l.nodeOf(a))
			}
		}
		if slices.Sort(up); !slices.Equal(up, nodes) {
			return fmt.Errorf("there are those of %q", up)
		}
		return nil
	})
	return all
}

// path is a path of FRR's table.
type path struct {
	Community      struct{ String string } `json:"community"`
	LargeCommunity struct{ String string } `json:"largeCommunity"`
	ASPath         struct{ String string } `json:"aspath"`
	ExtCommunity   struct{ String string } `json:"extendedCommunity"`
	MED            int                     `json:"metric"`
}

// paths returns FRR's paths to a prefix.
func (l *lab) paths(ctx context.Context, prefix netip.Prefix) ([]path, error) {
	family := "ipv4"
	if prefix.Addr().Is6() {
		family = "ipv6"
	}
	out, err := l.c.Vtysh(ctx, "show bgp "+family+" unicast "+prefix.String()+" json")
	if err != nil {
		return nil, err
	}
	var table struct {
		Paths []path `json:"paths"`
	}
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		return nil, fmt.Errorf("decode paths: %w", err)
	}
	return table.Paths, nil
}

// departing reports whether so many of FRR's paths to a prefix, and no others, say by the
// community of RFC 8326 that they will be withdrawn.
func (l *lab) departing(ctx context.Context, prefix netip.Prefix, want int) error {
	paths, err := l.paths(ctx, prefix)
	n := 0
	for _, p := range paths {
		if strings.Contains(p.Community.String, "graceful-shutdown") {
			n++
		}
	}
	if err == nil && n != want {
		err = fmt.Errorf("of %d paths %d say so", len(paths), n)
	}
	return err
}

// awaitCommunities waits until every path to a prefix, one from each node, carries
// exactly these communities, in FRR's words.
func (l *lab) awaitCommunities(t *testing.T, prefix netip.Prefix, standard, large string) {
	t.Helper()
	eventually(t, fmt.Sprintf("communities %q and %q on %s", standard, large, prefix), func() error {
		paths, err := l.paths(t.Context(), prefix)
		if err != nil {
			return err
		}
		if len(paths) != len(l.c.Nodes()) {
			return fmt.Errorf("there are %d paths", len(paths))
		}
		for _, p := range paths {
			if p.Community.String != standard || p.LargeCommunity.String != large {
				return fmt.Errorf("a path has %q and %q", p.Community.String, p.LargeCommunity.String)
			}
		}
		return nil
	})
}

// second is another router on the LAN: BIRD on the client, for sessions with a
// password and for what only one of two routers shall hear.
type second struct {
	b       *box.Box
	process *box.Process
}

const (
	secondAddr     = "192.168.1.50"
	secondAS       = 64502
	secondPassword = "open sesame"
	secondControl  = "/run/second.ctl"
)

const secondConfig = `log stderr all;
router id 192.168.1.50;
protocol device {}
template bgp nodes { local as %d; password "%s"; error wait time 1, 1; passive; ipv4 { import all; export none; }; }
protocol bgp lan from nodes { neighbor range 192.168.1.0/24 as %d; dynamic name "node"; }
`

// startSecond starts the second router for the time of a test.
func (l *lab) startSecond(t *testing.T) second {
	t.Helper()
	b := l.c.Box(cluster.Client)
	must(t, os.WriteFile(b.Dir()+"/second.conf", fmt.Appendf(nil, secondConfig, secondAS, secondPassword, nodeAS), 0o600))
	p, err := b.Start("second", "bird", "-f", "-c", box.Inside+"/second.conf", "-s", secondControl)
	must(t, err)
	t.Cleanup(func() { _ = p.Stop(patience) })
	s := second{b, p}
	eventually(t, "the second router", func() error {
		_, err := s.ask(t.Context(), "show", "status")
		return err
	})
	return s
}

func (s second) ask(ctx context.Context, words ...string) (string, error) {
	out, err := s.b.Command(ctx, "birdc", append([]string{"-r", "-s", secondControl}, words...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask second router: %w: %s", err, out)
	}
	return string(out), nil
}

// refused counts the TCP segments that the second router's kernel has thrown away for
// their signature (RFC 2385).
func (s second) refused() (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netstat", s.b.Pid()))
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 { // names above, numbers below
		names, numbers := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if at := slices.Index(names, "TCPMD5Failure"); at > 0 && at < len(numbers) {
			return strconv.Atoi(numbers[at])
		}
	}
	return 0, errors.New("read counters of TCP: no TCPMD5Failure")
}

// wantHops waits until the second router has heard of a prefix from exactly these nodes.
func (s second) wantHops(t *testing.T, l *lab, prefix netip.Prefix, nodes ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s from %q at the second router", prefix, nodes), func() error {
		out, err := s.ask(t.Context(), "show", "route", "for", prefix.String())
		if err != nil && !strings.Contains(err.Error(), "Network not found") {
			return err
		}
		got := birdHops(l, out)
		if !slices.Equal(got, nodes) {
			return fmt.Errorf("it has it from %q", got)
		}
		return nil
	})
}

// birdHops returns the nodes that BIRD's output names as next hops, in order.
func birdHops(l *lab, out string) []string {
	nodes := []string{}
	words := strings.Fields(out)
	for i, w := range words {
		if w != "via" || i+1 == len(words) {
			continue
		}
		if a, err := netip.ParseAddr(words[i+1]); err == nil {
			nodes = append(nodes, l.nodeOf(a))
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}
