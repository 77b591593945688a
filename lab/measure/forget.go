package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ForgetOpts are the options of forget-neigh. Zero values mean the defaults.
type ForgetOpts struct {
	Addr     netip.Addr
	Link     string        // default "eth0"
	Interval time.Duration // default 100 ms
	Duration time.Duration // default: until told to stop
}

func (o *ForgetOpts) setDefaults() {
	setDefault(&o.Link, "eth0")
	setDefault(&o.Interval, 100*time.Millisecond)
}

func (o *ForgetOpts) flags(fs *flag.FlagSet) {
	o.setDefaults()
	fs.TextVar(&o.Addr, "addr", o.Addr, "address whose neighbour entry is deleted")
	fs.StringVar(&o.Link, "link", o.Link, "link of the entry")
	fs.DurationVar(&o.Interval, "interval", o.Interval, "time between two deletions")
	fs.DurationVar(&o.Duration, "duration", o.Duration, "end after this time; 0: when told to stop")
}

// ForgetReport counts the entries that were deleted.
type ForgetReport struct {
	Deleted int `json:"deleted"`
}

// forgetCommand is `forget-neigh`: it makes the host's kernel ask for an address over
// and over, as a client does that has not talked to it before.
func forgetCommand(ctx context.Context, args []string, std Stdio) error {
	var opts ForgetOpts
	if err := parse("forget-neigh", &opts, args, std.Err); err != nil {
		return err
	}
	if !opts.Addr.IsValid() || opts.Interval <= 0 {
		return errors.New("parse arguments of forget-neigh: --addr and a positive --interval are needed")
	}
	link, err := net.InterfaceByName(opts.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", opts.Link, err)
	}
	out := newEmitter(std.Out)
	ctx, cancel := session{out: out}.follow(ctx, std.In, opts.Duration)
	defer cancel()
	if err := out.emit(event{Event: eventReady}); err != nil {
		return err
	}
	tick := time.NewTicker(opts.Interval)
	defer tick.Stop()
	var report ForgetReport
	for {
		switch err := deleteNeigh(link.Index, opts.Addr); {
		case err == nil:
			report.Deleted++
		case !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("delete neighbour entry of %s: %w", opts.Addr, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return out.emit(event{Event: eventReport, Data: report})
		}
	}
}

// deleteNeigh deletes a neighbour entry (RTM_DELNEIGH, struct ndmsg).
func deleteNeigh(link int, addr netip.Addr) error {
	body := make([]byte, unix.SizeofNdMsg)
	body[0] = family(addr)
	binary.NativeEndian.PutUint32(body[4:], uint32(link))
	_, err := query(unix.RTM_DELNEIGH, unix.NLM_F_ACK, attribute(body, unix.NDA_DST, addr.AsSlice()))
	return err
}
