package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/barelb/barelb/lab/box"
)

// daemon is the program that speaks BGP on router1.
type daemon struct {
	name    string
	argv    []string
	process *box.Process
}

// StopRouter ends the program that speaks BGP on router1 as its service manager would,
// and waits for its end.
func (c *Cluster) StopRouter(ctx context.Context) error {
	if err := c.daemon.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.daemon.process.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", c.daemon.name, ctx.Err())
	}
}

// StartRouter starts it again, and returns at once.
func (c *Cluster) StartRouter() error {
	p, err := c.Box(Router1).Start(c.daemon.name, c.daemon.argv...)
	if err != nil {
		return err
	}
	c.daemon.process = p
	return nil
}

// RouterListens reports whether somebody listens on router1's port of BGP.
func (c *Cluster) RouterListens() (bool, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", c.Box(Router1).Pid()))
	if err != nil {
		return false, fmt.Errorf("list sockets of router1: %w", err)
	}
	return strings.Contains(string(text), ":00B3 00000000:0000 0A"), nil // 179, from anywhere, TCP_LISTEN
}

// Sessions returns how many BGP sessions router1 says are established.
func (c *Cluster) Sessions(ctx context.Context) (int, error) {
	if c.cfg.Router == BIRD {
		out, err := c.Birdc(ctx, "show protocols")
		return strings.Count(out, " Established "), err
	}
	var peers map[string]struct {
		State string `json:"bgpState"`
	}
	if err := c.vtyshJSON(ctx, "show bgp neighbors json", &peers); err != nil {
		return 0, err
	}
	n := 0
	for _, p := range peers {
		if p.State == "Established" {
			n++
		}
	}
	return n, nil
}

// BFDSessions returns how many BFD sessions router1 says are up.
func (c *Cluster) BFDSessions(ctx context.Context) (int, error) {
	if c.cfg.Router == BIRD {
		out, err := c.Birdc(ctx, "show bfd sessions")
		n := 0
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 && f[2] == "Up" {
				n++
			}
		}
		return n, err
	}
	var peers []struct{ Status string }
	if err := c.vtyshJSON(ctx, "show bfd peers json", &peers); err != nil {
		return 0, err
	}
	n := 0
	for _, p := range peers {
		if p.Status == "up" {
			n++
		}
	}
	return n, nil
}

func (c *Cluster) vtyshJSON(ctx context.Context, cmd string, into any) error {
	out, err := c.Vtysh(ctx, cmd)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("decode answer to %q: %w: %s", cmd, err, out)
	}
	return nil
}
