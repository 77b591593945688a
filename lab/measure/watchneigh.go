package measure

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// NeighWatchOpts are the options of watch-neigh.
type NeighWatchOpts struct {
	Addr     netip.Addr    // default: every address
	Link     string        // default: every link
	Duration time.Duration // default: until told to stop
}

func (o *NeighWatchOpts) flags(fs *flag.FlagSet) {
	fs.TextVar(&o.Addr, "addr", o.Addr, "address whose entry is watched; default: all")
	fs.StringVar(&o.Link, "link", o.Link, "link whose entries are watched; default: all")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// NeighChange is a neighbour entry as it is from At on.
type NeighChange struct {
	At      time.Time  `json:"at"` // when the kernel's message was read
	Addr    netip.Addr `json:"addr"`
	Link    string     `json:"link"`
	MAC     string     `json:"mac,omitempty"`
	State   string     `json:"state"` // the kernel's word, or "deleted"
	Initial bool       `json:"initial,omitempty"`
}

// watchNeighCommand is `watch-neigh`.
func watchNeighCommand(ctx context.Context, args []string, std Stdio) error {
	var opts NeighWatchOpts
	if err := parse("watch-neigh", &opts, args, std.Err); err != nil {
		return err
	}
	n := &neighWatch{opts: opts, known: make(map[neighKey]NeighChange)}
	return watch{
		groups: unix.RTMGRP_NEIGH, duration: opts.Duration,
		initial: func() ([]any, error) { return n.look(true) },
		resync:  func() ([]any, error) { return n.look(false) },
		observe: n.observe,
	}.run(ctx, std)
}

// neighWatch knows the entries as they were last printed.
type neighWatch struct {
	opts  NeighWatchOpts
	known map[neighKey]NeighChange
}

type neighKey struct {
	addr netip.Addr
	link string
}

// stateDeleted is the state of an entry that is gone.
const stateDeleted = "deleted"

// look returns what of the whole table is new or gone.
func (n *neighWatch) look(initial bool) ([]any, error) {
	msgs, err := query(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, make([]byte, unix.SizeofNdMsg))
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	var changes []any
	seen := make(map[neighKey]struct{})
	links := make(linkNames)
	for _, m := range msgs {
		c, ok := parseNeigh(m, links)
		if !ok {
			continue
		}
		seen[neighKey{c.Addr, c.Link}] = struct{}{}
		c.Initial = initial
		changes = n.note(changes, c)
	}
	for key, c := range n.known {
		if _, ok := seen[key]; !ok {
			c.State, c.MAC = stateDeleted, ""
			changes = n.note(changes, c)
		}
	}
	return changes, nil
}

func (n *neighWatch) observe(msgs []message) ([]any, error) {
	var changes []any
	links := make(linkNames)
	for _, m := range msgs {
		if c, ok := parseNeigh(m, links); ok {
			changes = n.note(changes, c)
		}
	}
	return changes, nil
}

// note appends c to changes if it is watched and differs from what is known.
func (n *neighWatch) note(changes []any, c NeighChange) []any {
	if n.opts.Addr.IsValid() && c.Addr != n.opts.Addr || n.opts.Link != "" && c.Link != n.opts.Link {
		return changes
	}
	key := neighKey{c.Addr, c.Link}
	was, known := n.known[key]
	if known && was.MAC == c.MAC && was.State == c.State || !known && c.State == stateDeleted {
		return changes
	}
	if c.State == stateDeleted {
		delete(n.known, key)
	} else {
		n.known[key] = c
	}
	c.At = time.Now()
	return append(changes, c)
}

// parseNeigh reads RTM_NEWNEIGH and RTM_DELNEIGH (struct ndmsg) of IPv4 and IPv6;
// a bridge's own entries are none.
func parseNeigh(m message, links linkNames) (NeighChange, bool) {
	b := m.body
	if m.kind != unix.RTM_NEWNEIGH && m.kind != unix.RTM_DELNEIGH || len(b) < unix.SizeofNdMsg ||
		b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return NeighChange{}, false
	}
	c := NeighChange{
		Link:  links.name(int(int32(binary.NativeEndian.Uint32(b[4:])))),
		State: neighState(binary.NativeEndian.Uint16(b[8:])),
	}
	for kind, value := range attributes(b[unix.SizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			c.Addr = addrOf(value)
		case unix.NDA_LLADDR:
			c.MAC = net.HardwareAddr(value).String()
		}
	}
	if m.kind == unix.RTM_DELNEIGH {
		c.State, c.MAC = stateDeleted, ""
	}
	return c, c.Addr.IsValid()
}

func neighState(s uint16) string {
	switch s {
	case unix.NUD_INCOMPLETE:
		return "incomplete"
	case unix.NUD_REACHABLE:
		return "reachable"
	case unix.NUD_STALE:
		return "stale"
	case unix.NUD_DELAY:
		return "delay"
	case unix.NUD_PROBE:
		return "probe"
	case unix.NUD_FAILED:
		return "failed"
	case unix.NUD_NOARP:
		return "noarp"
	case unix.NUD_PERMANENT:
		return "permanent"
	case unix.NUD_NONE:
		return "none"
	}
	return fmt.Sprintf("0x%x", s)
}
