package measure

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/barelb/barelb/lab/measure/backend"
)

// ToolWord is the word of the lab's binary under which the commands are mounted:
// `lab tool probe --target 192.168.1.250:8080`.
const ToolWord = "tool"

// Command is one instrument. Run returns when it has printed its report: by
// itself, after --duration, when ctx ends (as on SIGINT or SIGTERM), or when
// stdin does.
type Command struct {
	Name    string
	Summary string
	Run     func(ctx context.Context, args []string, std Stdio) error
}

// Commands lists the instruments.
func Commands() []Command {
	return []Command{
		{"backend", "serve HTTP, UDP echo and TCP line echo, naming pod and node", backendCommand},
		{"probe", "UDP echo every few milliseconds: losses and outages", probeCommand},
		{"flows", "open new flows: which node and pod serves each", flowsCommand},
		{"entry", "count the flows that come in at this node", entryCommand},
		{"who-has", "ask the link for an address: everybody who answers", whoHasCommand},
		{"ask", "ask for addresses over and over: how long nobody answers", askCommand},
		{"tcp-hold", "hold connections open: how many break, and when", holdCommand},
		{"watch-neigh", "print changes of neighbour entries", watchNeighCommand},
		{"watch-route", "print changes of a route and its next hops", watchRouteCommand},
		{"watch-bgp", "print UPDATEs as the router receives them", watchBGPCommand},
		{"forget-neigh", "delete a neighbour entry over and over", forgetCommand},
		{"claim", "announce an address that is somebody else's", claimCommand},
		{"answer-arp", "answer ARP for somebody else", respondCommand},
	}
}

// Run runs the command that args name: everything after ToolWord.
func Run(ctx context.Context, args []string, std Stdio) error {
	if len(args) == 0 {
		for _, c := range Commands() {
			fmt.Fprintf(std.Err, "%-12s %s\n", c.Name, c.Summary)
		}
		return errors.New("choose tool: none named")
	}
	for _, c := range Commands() {
		if c.Name != args[0] {
			continue
		}
		if err := c.Run(ctx, args[1:], std); err != nil && !errors.Is(err, flag.ErrHelp) {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		return nil
	}
	return fmt.Errorf("choose tool: no %q", args[0])
}

// backendOpts are the server's options as flags.
type backendOpts struct{ backend.Options }

func (o *backendOpts) flags(fs *flag.FlagSet) { o.Flags(fs) }

// backendCommand is `backend`. It says when it listens and ends with stdin, as
// the others do; the image's own main does neither.
func backendCommand(ctx context.Context, args []string, std Stdio) error {
	opts := backendOpts{backend.Defaults()}
	if err := parse("backend", &opts, args, std.Err); err != nil {
		return err
	}
	out := newEmitter(std.Out)
	ctx, cancel := session{out: out}.follow(ctx, std.In, 0)
	defer cancel()
	return backend.Serve(ctx, opts.Options, func() error { return out.emit(event{Event: eventReady}) })
}
