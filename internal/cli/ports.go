package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	// portsTime bounds the wait for ports; it ends before a liveness probe ends the wait.
	portsTime = 30 * time.Second
	portsPoll = 50 * time.Millisecond
)

// ports are the addresses that a speaker listens on by TCP. It shares them with all of its node.
func (f *speakerFlags) ports() []string {
	var all []string
	if f.port != 0 {
		all = append(all, ":"+strconv.Itoa(f.port))
	}
	all = append(all, net.JoinHostPort("127.0.0.1", strconv.Itoa(f.healthPort)))
	if f.meets() {
		all = append(all, net.JoinHostPort(f.mlBindAddr, strconv.Itoa(f.mlBindPort)))
	}
	return all
}

// awaitPorts returns when nobody else listens on addrs, or an error when somebody still does
// after limit. A speaker that was deleted at once, by force or because its Pod has no grace
// period as in MetalLB's chart, is gone from the API server before it has ended: the next one
// starts beside it, and must neither announce nor fail meanwhile.
func awaitPorts(ctx context.Context, addrs []string, limit time.Duration, log *slog.Logger) error {
	late := time.After(limit)
	for told := false; ; told = true {
		i := slices.IndexFunc(addrs, func(addr string) bool { return taken(ctx, addr) })
		if i < 0 {
			return nil
		}
		if !told {
			log.WarnContext(ctx, "wait for a port that another process on this node has, such as a speaker that is ending", "addr", addrs[i], "for", limit.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-late:
			return fmt.Errorf("listen on %s: another process on this node has had it for %s: end it (`ss -ltnp` names it; MetalLB's speaker uses the same ports), or set another one by --port, --health-probe-port or --ml-bindport", addrs[i], limit)
		case <-time.After(portsPoll):
		}
	}
}

// taken reports whether somebody listens on addr. What else is wrong with it is found by who
// listens there.
func taken(ctx context.Context, addr string) bool {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err == nil {
		_ = l.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}
