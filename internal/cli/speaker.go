package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/bgp"
	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/core/plan"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/kubeproxy"
	"github.com/barelb/barelb/internal/layer2"
	"github.com/barelb/barelb/internal/link"
	"github.com/barelb/barelb/internal/liveness"
	"github.com/barelb/barelb/internal/probe"
	"github.com/barelb/barelb/internal/speaker"
	"github.com/barelb/barelb/internal/task"
)

type speakerFlags struct {
	common
	nodeName, mlBindAddr, mlLabels, mlSecretPath string
	mlBindPort                                   int
	wan, ignoreExclude, probeAddresses, realtime bool
	host, excludeFile, mlTuning, graceful        string
	proxyURL                                     string

	profile, probe                    string
	interval, caretakerTimeout, drain time.Duration
	multiplier                        int
}

// check refuses what cannot be, and fills in what the profile says.
func (f *speakerFlags) check() error {
	interval, multiplier, err := liveness.Profile(f.profile)
	if err != nil {
		return fmt.Errorf("--l2-profile: %w", err)
	}
	f.interval = cmp.Or(f.interval, interval)
	f.multiplier = cmp.Or(f.multiplier, multiplier)
	switch {
	case f.nodeName == "":
		return errors.New("--node-name: say which node this is, as Kubernetes names it, or set METALLB_NODE_NAME")
	case f.interval < minProbeInterval || f.interval > maxProbeInterval:
		return fmt.Errorf("--l2-probe-interval: %s is not between %s and %s", f.interval, minProbeInterval, maxProbeInterval)
	case f.multiplier < 2 || f.multiplier > maxProbeMultiplier:
		return fmt.Errorf("--l2-probe-multiplier: %d is not between 2 and %d", f.multiplier, maxProbeMultiplier)
	case f.caretakerTimeout < time.Second:
		return fmt.Errorf("--caretaker-timeout: %s is less than a second", f.caretakerTimeout)
	case f.drain < 0 || f.drain > maxDrain:
		return fmt.Errorf("--drain-time: %s is not between 0 and %s", f.drain, maxDrain)
	}
	if f.graceful != gracefulPeer && f.graceful != gracefulOn {
		return fmt.Errorf("--graceful-restart: %q is neither %s nor %s", f.graceful, gracefulPeer, gracefulOn)
	}
	if _, err = probeMethod(f.probe); err != nil {
		return err
	}
	return checkProxyURL(f.proxyURL)
}

// Bounds of the flags: a shorter interval is below what a busy machine's clock can do.
const (
	minProbeInterval   = 10 * time.Millisecond
	maxProbeInterval   = 10 * time.Second
	maxProbeMultiplier = 50
	maxDrain           = 10 * time.Minute
	defaultDrain       = 10 * time.Second
)

// probeMethod returns the method of that name.
func probeMethod(name string) (core.Method, error) {
	switch name {
	case "arp":
		return core.ARP, nil
	case "icmp":
		return core.ICMP, nil
	case "off":
		return core.Off, nil
	}
	return 0, fmt.Errorf("--l2-probe: %q is none of arp, icmp and off", name)
}

func speakerCommand(stderr io.Writer) *cobra.Command {
	var f speakerFlags
	cmd := &cobra.Command{
		Use: "speaker", Short: "Announce addresses from this node", Args: cobra.NoArgs,
		Long: `Announces the addresses of Services from this node: by ARP and NDP where it is
the owner, and to its BGP peers. Run one on each node, in the host's network, with
the capability NET_RAW. It needs neither the controller nor the API server to keep
announcing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(stderr, f.logLevel)
			if err != nil {
				return err
			}
			if err := f.fill(); err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return err
			}
			return runSpeaker(cmd.Context(), f, log)
		},
	}
	port, err := strconv.Atoi(env("METALLB_ML_BIND_PORT", "7946"))
	if err != nil {
		port = 0 // refused below, by name
	}
	f.add(cmd.Flags())
	fl := cmd.Flags()
	fl.StringVar(&f.nodeName, "node-name", env("METALLB_NODE_NAME", ""), "name of this node (METALLB_NODE_NAME)")
	fl.StringVar(&f.mlBindAddr, "ml-bindaddr", env("METALLB_ML_BIND_ADDR", ""), "address of this node to meet other speakers on (METALLB_ML_BIND_ADDR; default: speakers do not watch each other)")
	fl.IntVar(&f.mlBindPort, "ml-bindport", port, "port to meet other speakers on, TCP and UDP (METALLB_ML_BIND_PORT)")
	fl.StringVar(&f.mlLabels, "ml-labels", env("METALLB_ML_LABELS", ""), "labels of the speakers' Pods, such as app=metallb,component=speaker (METALLB_ML_LABELS)")
	fl.StringVar(&f.mlSecretPath, "ml-secret-key-path", env("METALLB_ML_SECRET_KEY_PATH", ""), "directory of the file secretkey, which all speakers share (METALLB_ML_SECRET_KEY_PATH)")
	fl.BoolVar(&f.wan, "ml-wan-config", false, "slower timers, for nodes that are far apart")
	fl.BoolVar(&f.ignoreExclude, "ignore-exclude-lb", false, "announce from nodes labelled node.kubernetes.io/exclude-from-external-load-balancers too")
	fl.BoolVar(&f.probeAddresses, "probe-addresses", true, "ask the network, by ARP and NDP, who uses the addresses of pools that are given next; what a host outside the cluster uses is not given")
	fl.BoolVar(&f.localMetrics, "local-metrics", true, "serve /metrics, and at /known what is known of links and of other speakers, on the health port too, which only this node can reach, for kubectl barelb (by pods/portforward)")
	fl.StringVar(&f.excludeFile, "exclude-l2-config", "/etc/metallb/excludel2.yaml", "file that names the links to leave out, by regular expressions; it may be missing")
	fl.StringVar(&f.profile, "l2-profile", "default", "how fast a node that fails is noticed: default (probes each 100 ms) or fast (each 50 ms)")
	fl.DurationVar(&f.interval, "l2-probe-interval", 0, "time between two probes of a node, 10ms to 10s (default: of the profile)")
	fl.IntVar(&f.multiplier, "l2-probe-multiplier", 0, "how many probes in a row must be unanswered, 2 to 50 (default: 3)")
	fl.StringVar(&f.probe, "l2-probe", "arp", "how nodes are probed: arp (Neighbor Solicitations for IPv6), icmp for switches that police ARP, or off: memberlist alone")
	fl.DurationVar(&f.caretakerTimeout, "caretaker-timeout", time.Minute, "how long a speaker may be away on a node that lives until its addresses are others'")
	fl.DurationVar(&f.drain, "drain-time", defaultDrain, "how long a planned move of an address leaves those who use the former owner with it")
	fl.StringVar(&f.mlTuning, "ml-config", "/etc/metallb/memberlist/config.json", "file of memberlist's parameters; it may be missing")
	fl.StringVar(&f.host, "host", env("METALLB_HOST", ""), "address of this node, the first choice for a router ID (METALLB_HOST)")
	fl.StringVar(&f.graceful, "graceful-restart", gracefulPeer, "which routers are to keep the routes while a speaker restarts: \"peer\", those whose BGPPeer says enableGracefulRestart; or \"on\", all of them")
	fl.BoolVar(&f.realtime, "realtime", false, "run BFD in a process of its own with real-time priority, for intervals far below 300 ms on nodes whose cores are busy; it takes the capability SYS_NICE")
	fl.StringVar(&f.proxyURL, "kube-proxy-health-url", proxyAuto, "where this node's kube-proxy says whether it is healthy: while it is not, and other nodes are, this node announces nothing by BGP. An HTTP URL; \"auto\", "+kubeproxy.DefaultURL+" once a kube-proxy was seen there; or \"off\"")
	ignored(fl, []string{"frrk8s-secret-passthrough"}, []string{"frrk8s-namespace", "bgp-debounce-timeout"})
	return cmd
}

//nolint:funlen // it is the list of the parts
func runSpeaker(ctx context.Context, f speakerFlags, log *slog.Logger) error {
	exclude, err := readExcluded(f.excludeFile)
	if err != nil {
		return err
	}
	if err := awaitPorts(ctx, f.ports(), portsTime, log); err != nil || ctx.Err() != nil {
		return err
	}
	cluster, err := kube.Connect(kube.Options{
		Namespace: f.namespace, Component: "metallb-speaker", PodName: f.podName, NodeName: f.nodeName, IgnoreExcluded: f.ignoreExclude,
		LoadBalancerClass: f.lbClass, SpeakerLabels: f.mlLabels, Endpoints: true, Log: log,
	})
	if err != nil {
		return err
	}
	reg := cluster.Registry()
	links := link.New(log)
	var s *speaker.Speaker // set before anything that uses it runs
	members, err := newMembers(f, cluster, reg, links, exclude, func(ctx context.Context, from string, msg []byte) error { return s.Told(ctx, from, msg) }, log)
	if err != nil {
		return err
	}
	l2 := layer2.New(layer2.Config{
		Log: log, Links: links, Exclude: exclude, Registerer: reg, Fresh: fresh(members),
		OnClaim: func(c layer2.Claim) { s.Claimed(c.Addr, c.MAC, c.Link) },
	})
	routers, err := newRouters(bgp.Config{
		NodeName: f.nodeName, NodeAddrs: nodeAddrs(f.host, exclude, links), Log: log,
		GracefulRestart: f.graceful == gracefulOn, DrainTime: f.drain,
	}, f.bfdProcess(), reg)
	if err != nil {
		return err
	}
	if err := reg.Register(link.NewCollector(links, exclude)); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	sessions := cluster.SessionWriter()
	routers.tell = sessions.Set
	feed, state := cluster.Feed(), cluster.StateWriter()
	deps := speaker.Deps{
		Log: log, Options: plan.Options{Node: f.nodeName, IgnoreExcluded: f.ignoreExclude},
		Feed: feed, L2: l2, BGP: routers, State: state, Events: cluster,
		Metrics: kube.NewClientMetrics(reg, kube.MetalLB, kube.FRRK8s), Announced: speaker.NewAnnounced(reg, f.nodeName),
		Drain: f.drain, Reassert: func(a netip.Addr) { l2.Reassert(a) }, Neighbours: link.Neighbours,
	}
	if members != nil {
		deps.Members = members
	}
	proxy, err := newProxy(f.proxyURL, members != nil, reg, log)
	if err != nil {
		return err
	}
	if proxy != nil {
		deps.Proxy = proxy
	}
	status := statusTask(f, cluster, &deps)
	conflicts := cluster.ConflictWriter()
	prober := newProber(f, links, exclude, reg, log)
	deps.Wire = newWire(f.nodeName, prober, conflicts)
	s = speaker.New(deps)
	log.Info("starting speaker", "version", version(), "node", f.nodeName, "namespace", f.namespace)

	// Tasks stop in reverse: first the others are told whether this is a restart or a
	// farewell, and take care or take over; then planning ends, so that what is announced
	// stays as it is; routes are withdrawn and ARP falls silent; the API server is left last.
	tasks := task.New(log)
	if err := serve(ctx, tasks, cluster, f.common, "127.0.0.1", s.Ready(), f.local(s, members)); err != nil {
		return err
	}
	tasks.Go(ctx, "watch", cluster.Run)
	tasks.Go(ctx, "status of configuration", state.Run)
	tasks.Go(ctx, "status of announcements", status)
	tasks.Go(ctx, "status of bgp sessions", sessions.Run)
	tasks.Go(ctx, "links", links.Run)
	tasks.Go(ctx, "layer2", l2.Run)
	tasks.Go(ctx, "bfd", routers.bfd.Run) // it ends after BGP: its end means nothing to routers then
	tasks.Go(ctx, "bgp", routers.runBGP)
	if members != nil {
		startMembers(ctx, tasks, members, feed, log)
	}
	tasks.Go(ctx, "address conflicts", conflicts.Run)
	if prober != nil {
		tasks.Go(ctx, "probes", prober.Run)
	}
	tasks.Go(ctx, "wire", deps.Wire.Run)
	if proxy != nil {
		tasks.Go(ctx, "kube-proxy", proxy.Run)
	}
	tasks.Go(ctx, "feed", feed.Run)
	tasks.Go(ctx, "plan", s.Run)
	tasks.Go(ctx, "departure", func(ctx context.Context) error { return depart(ctx, cluster, s, routers.bgp) })
	return tasks.Wait(ctx)
}

// local returns what only this node can reach, by path; nil for nothing.
func (f *speakerFlags) local(s *speaker.Speaker, members *liveness.Runner) map[string]http.Handler {
	if !f.localMetrics {
		return nil
	}
	company := ""
	if members != nil {
		company = members.SecretTag()
	}
	return map[string]http.Handler{kube.KnownPath: serveKnown(s.Known, kubeproxy.DefaultURL, company)}
}

// statusTask returns the task that keeps this node's announcement status: it writes
// what the speaker says or, if that is not wanted, deletes what was written before.
func statusTask(f speakerFlags, cluster *kube.Cluster, deps *speaker.Deps) func(context.Context) error {
	if f.statusObjects {
		w := cluster.AnnouncementWriter()
		deps.Status, deps.Owned = w, cluster.Layer2Owned
		return w.Run
	}
	return func(ctx context.Context) error {
		keepTrying(ctx, deps.Log, "remove announcement status", cluster.RemoveAnnouncements)
		<-ctx.Done()
		return nil
	}
}

// newProber returns what asks who uses addresses, or nil if that is off.
func newProber(f speakerFlags, links *link.Watcher, exclude []*regexp.Regexp, reg prometheus.Registerer, log *slog.Logger) *probe.Prober {
	if !f.probeAddresses {
		return nil
	}
	return probe.New(probe.Config{Node: f.nodeName, Log: log, Links: links, Exclude: exclude, Registerer: reg})
}

// newWire wires it; without a prober it takes back what this node reported before.
func newWire(node string, p *probe.Prober, w *kube.ConflictWriter) *speaker.Wire {
	if p == nil {
		return speaker.NewWire(node, nil, w)
	}
	return speaker.NewWire(node, p, w)
}

// nodeAddrs returns a function that lists this node's addresses, best first: the
// one that it is known by, then those of its links by name, except links that
// belong to container networks.
func nodeAddrs(host string, exclude []*regexp.Regexp, watcher *link.Watcher) func() []netip.Addr {
	return func() []netip.Addr {
		var out []netip.Addr
		if a, err := netip.ParseAddr(host); err == nil {
			out = append(out, a.Unmap())
		}
		for _, l := range watcher.Snapshot() {
			if l.Loopback || slices.ContainsFunc(exclude, func(re *regexp.Regexp) bool { return re.MatchString(l.Name) }) {
				continue
			}
			for _, p := range l.Addrs {
				if a := p.Addr(); a.IsGlobalUnicast() {
					out = append(out, a)
				}
			}
		}
		return out
	}
}
