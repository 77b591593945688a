// Package failover measures how long clients are without an answer when the nodes that
// announce addresses, their links and their speakers fail, restart or step down. Its
// numbers are for comparing; nothing passes or fails by them.
package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/demo"
	"github.com/barelb/barelb/lab/system"
)

// options are what the flags say.
type options struct {
	trials, addresses int
	pause, long       time.Duration
	drain             time.Duration // of the speakers
	seed              uint64
	next              string // the command of speakers that take over in the case rolling
}

// scenario is one case, on a cluster of its own kind.
type scenario struct {
	name, about string
	nodes       int    // 0: --nodes
	flags       string // of the speakers, besides --speaker-flags
	run         func(*bench, context.Context) error
	way         way
}

// way is how the addresses of a case are announced.
type way int

const (
	layer2  way = iota
	bgp         // with graceful restart
	watched     // and BFD
)

func scenarios() []scenario {
	return []scenario{
		{"cut", "the owner's link is cut, and mended", 0, "", (*bench).cut, layer2},
		{"kill", "the owner's speaker is killed, and started", 0, "", (*bench).kill, layer2},
		{"restart", "the owner's speaker is restarted in its Pod", 0, "", (*bench).restart, layer2},
		{"upgrade", "the owner's speaker is replaced by that of another Pod", 0, "", (*bench).upgrade, layer2},
		{"rolling", "all speakers are replaced, one after the other, by --next-speaker, and the next time by the former", 0, "", (*bench).rolling, layer2},
		{"label", "the owner gets the exclude label, and loses it", 0, "", (*bench).label, layer2},
		{"selector", "the advertisement's node selectors leave the owner out, and do not", 0, "", (*bench).selector, layer2},
		{"drain", "the owner gets the annotation barelb.io/drain, and loses it", 0, "", (*bench).drain, layer2},
		{"pair", "two of three nodes are cut at once, the owner among them", 3, "", (*bench).pair, layer2},
		{"stop", "the owner's speaker is stopped (SIGSTOP) for 20 s", 0, "", (*bench).stop, layer2},
		{"stop-long", "the owner's speaker is stopped (SIGSTOP) for 90 s", 0, "", (*bench).stopLong, layer2},
		{"api", "the API server is stopped for --long, and the owner's link is cut meanwhile", 0, "", (*bench).api, layer2},
		{"port", "a firewall drops what speakers tell each other for --long", 0, "", (*bench).port, layer2},
		{"many", "the link of the owner of 1,000 addresses is cut", 0, "", (*bench).many, layer2},
		{"cut-fast", "cut, with --l2-profile=fast", 0, "--l2-profile=fast", (*bench).cut, layer2},
		{"two", "one of two nodes is cut", 2, "", (*bench).cut, layer2},
		{"partition", "five nodes fall into three and two, and are one again", 5, "", (*bench).partition, layer2},
		{"nine", "one to four of nine nodes are cut at once", 9, "", (*bench).nine, layer2},
		{"loss", "nine nodes lose every fifth frame for --long", 9, "", (*bench).loss, layer2},
		{"one-way", "of nine nodes each is deaf to two others for --long", 9, "", (*bench).oneWay, layer2},
		{"load", "every core is busy for --long, with nine nodes", 9, "", (*bench).load, layer2},
		{"arp", "answers for --addresses addresses at 1,000 requests a second", 0, "", (*bench).arp, layer2},
		{"bgp-cut", "a node's link is cut under BFD, and mended", 0, "", (*bench).cut, watched},
		{"bgp-restart", "a node's speaker is restarted in its Pod, without BFD", 0, "", (*bench).restart, bgp},
		{"bgp-restart-bfd", "the same under BFD", 0, "", (*bench).restart, watched},
		{"bgp-upgrade", "a node's speaker is replaced by that of another Pod, without BFD", 0, "", (*bench).upgrade, bgp},
		{"bgp-kill", "a node's speaker is killed, and started, without BFD", 0, "", (*bench).kill, bgp},
		{"bgp-kill-bfd", "the same under BFD", 0, "", (*bench).kill, watched},
		{"bgp-drain", "a node gets the annotation barelb.io/drain, and loses it", 0, "", (*bench).drain, bgp},
		{"bgp-hand", "the router's kernel loses one next hop by hand, and has it again: what any move costs", 0, "", (*bench).byHand, bgp},
		{"bgp-route", "a Service is created, and deleted: how long each stage takes up to the router's kernel", 0, "", (*bench).routes, bgp},
		{"bgp-back", "the router's daemon ends, and is started after --pause", 0, "", (*bench).routerBack, bgp},
	}
}

// Command returns `lab failover`.
func Command() *cobra.Command {
	stage := demo.Stage{Fast: true}
	var o options
	var cases []string
	var flags string
	var about strings.Builder
	var names []string
	for _, s := range scenarios() {
		fmt.Fprintf(&about, "  %-15s %s\n", s.name, s.about)
		names = append(names, s.name)
	}
	cmd := &cobra.Command{
		Use: "failover", Short: "Measure outages of Layer 2 and BGP addresses, and print distributions as Markdown", Args: cobra.NoArgs,
		Long: `Start a cluster without kubelets and let nodes, links and speakers fail, under
probes every 5 ms from a client on the LAN and from one behind the router, by IPv4
and IPv6, with the endpoints on nodes that stay. How late the instruments themselves
were stands beside. BGP is with the router of --router and with graceful restart, and
the client is the one behind the router. The cases:

` + about.String(),
		Example: "  lab failover --trials 100 --speaker-flags \"--drain-time=2s\" --case cut,kill,restart\n" +
			"  lab failover --case cut --manifest crds-and-rbac.yaml --controller /path/controller --speaker /path/speaker",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !stage.Fast {
				return errors.New("failover needs --fast: it signals processes that it started")
			}
			for _, name := range cases {
				if !slices.Contains(names, name) {
					return fmt.Errorf("--case: no %q; there are %s", name, strings.Join(names, ", "))
				}
			}
			for o.seed == 0 {
				o.seed = rand.Uint64()
			}
			return runAll(cmd, stage, o, cases, flags)
		},
	}
	stage.Flags(cmd)
	f := cmd.Flags()
	f.IntVar(&o.trials, "trials", 20, "times to do each case")
	f.StringSliceVar(&cases, "case", names, "cases to measure")
	f.StringVar(&flags, "speaker-flags", "", "flags to add to the speaker's command")
	f.DurationVar(&o.pause, "pause", 2*time.Second, "how long a restarted speaker is away")
	f.StringVar(&o.next, "next-speaker", "", "`command` of the speakers of another version, for the case rolling (the same version)")
	f.DurationVar(&stage.BGP.BFD, "bfd", 50*time.Millisecond, "interval of BFD, three of which declare a node down; idle cores are needed for 50 ms")
	f.DurationVar(&o.long, "long", time.Minute, "how long a fault lasts during which nothing may move")
	f.IntVar(&o.addresses, "addresses", 10_000, "addresses of the case arp")
	f.Uint64Var(&o.seed, "seed", 0, "chooses nodes; 0: at random")
	return cmd
}

// runAll runs the cases, those of one kind of cluster on one, and prints what was
// measured. The cases after one that fails go on, on another cluster.
func runAll(cmd *cobra.Command, stage demo.Stage, o options, cases []string, flags string) error {
	out, say := cmd.OutOrStdout(), demo.Say()
	t := &tables{}
	defer t.render(out)
	fmt.Fprintf(out, "`%s`, seed %d\n", strings.Join(os.Args, " "), o.seed)
	todo := slices.DeleteFunc(scenarios(), func(s scenario) bool { return !slices.Contains(cases, s.name) })
	var failed []error
	for len(todo) > 0 {
		kind := todo[0]
		same := func(s scenario) bool {
			return s.nodes == kind.nodes && s.flags == kind.flags && (s.way == layer2) == (kind.way == layer2)
		}
		these := slices.DeleteFunc(slices.Clone(todo), func(s scenario) bool { return !same(s) })
		with := stage
		with.Speaker = strings.TrimSpace(stage.Speaker + " " + flags + " " + kind.flags)
		o := o
		o.drain = drainTime(with.Speaker)
		o.next = strings.TrimSpace(cmp.Or(o.next, stage.Speaker) + " " + flags + " " + kind.flags)
		if kind.nodes > 0 {
			with.Nodes = kind.nodes
		}
		done, err := runKind(cmd, with, o, these, t, say)
		if err != nil {
			say("%v", err)
			failed = append(failed, err)
		}
		if done == 0 || cmd.Context().Err() != nil {
			break
		}
		todo = slices.DeleteFunc(todo, func(s scenario) bool {
			return slices.ContainsFunc(these[:done], func(d scenario) bool { return d.name == s.name })
		})
	}
	return errors.Join(failed...)
}

// runKind runs cases on one cluster until one fails, and returns how many were tried.
func runKind(cmd *cobra.Command, stage demo.Stage, o options, these []scenario, t *tables, say func(string, ...any)) (done int, err error) { //nolint:nonamedreturns // Close adds to it
	c, sys, err := stage.Start(cmd, say)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	b := &bench{c: c, sys: sys, self: self, o: o, say: say, t: t, rng: rand.New(rand.NewPCG(o.seed, o.seed)), way: these[0].way}
	if err := b.prepare(cmd.Context()); err != nil {
		return 0, err
	}
	for i, s := range these {
		say("%s: %s", s.name, s.about)
		b.name = s.name
		if err := b.measure(cmd.Context(), s); err != nil {
			return i + 1, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return len(these), nil
}

// measure runs one case.
func (b *bench) measure(ctx context.Context, s scenario) error {
	if s.way != layer2 {
		b.way = s.way
		if err := b.speak(ctx); err != nil {
			return err
		}
	}
	return s.run(b, ctx)
}

// drainTime returns for how long a planned move leaves clients with the former owner, by
// the flags of a speaker's command.
func drainTime(command string) time.Duration {
	const byDefault = 10 * time.Second
	_, value, _ := strings.Cut(command, "--drain-time")
	value, _, _ = strings.Cut(strings.TrimLeft(value, "= "), " ")
	if d, err := time.ParseDuration(value); err == nil {
		return d
	}
	return byDefault
}

// trials yields the number of each trial, and says now and then how far it is.
func (b *bench) trials(yield func(int) bool) {
	const often = 10 * time.Second
	said := time.Now()
	for i := range b.o.trials {
		if time.Since(said) >= often {
			b.say("%s: %d of %d trials done", b.name, i, b.o.trials)
			said = time.Now()
		}
		if !yield(i) {
			return
		}
	}
}

// bench is a cluster on which cases are measured.
type bench struct {
	c    *cluster.Cluster
	sys  *system.System
	self string
	o    options
	say  func(string, ...any)
	t    *tables
	rng  *rand.Rand
	name string // of the case
	way  way

	macs map[string]string // node by MAC
	web  addresses         // an address of each family
	row  addresses         // IPv4 addresses in a row
}

// render prints everything as Markdown.
func (t *tables) render(out io.Writer) {
	for _, table := range []*table{&t.outages, &t.answers, &t.conns, &t.faults, &t.routes} {
		table.render(out)
	}
}
