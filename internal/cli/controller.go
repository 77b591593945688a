package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/controller"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/task"
)

type controllerFlags struct {
	common
	secretName, deployment string
	poolEdits              string
	retention, lease       time.Duration
	hook                   webhookFlags
}

func controllerCommand(stderr io.Writer) *cobra.Command {
	var f controllerFlags
	cmd := &cobra.Command{
		Use: "controller", Short: "Give Services their addresses", Args: cobra.NoArgs,
		Long: `Gives Services of type LoadBalancer addresses from IPAddressPools. One per cluster
is at work; any number more may stand by, and one of them takes over within seconds
when it ends or dies. It may stop at any time: what was given is announced
nevertheless, and adopted by the next one.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(stderr, f.logLevel)
			if err != nil {
				return err
			}
			if err := f.fill(); err != nil {
				return err
			}
			return runController(cmd.Context(), f, log)
		},
	}
	f.add(cmd.Flags())
	fl := cmd.Flags()
	fl.StringVar(&f.localAddress, "local-metrics-address", "", "address of loopback to serve /metrics on in clear text to whoever asks, such as 127.0.0.1:9122 (default: none)")
	fl.StringVar(&f.secretName, "ml-secret-name", env("METALLB_ML_SECRET_NAME", ""), "name of the Secret to make for the speakers, if it is not there (METALLB_ML_SECRET_NAME; default: none)")
	fl.StringVar(&f.deployment, "deployment", env("METALLB_DEPLOYMENT", ""), "name of our own Deployment, the owner of that Secret (METALLB_DEPLOYMENT)")
	fl.StringVar(&f.poolEdits, "pool-edits", editsMove, "what becomes of Services when a pool is shrunk or deleted under them: move (they get other addresses, or none) or guard (they keep theirs until they go; a condition on the pool names them)")
	fl.DurationVar(&f.retention, "address-retention", 10*time.Minute, "how long the addresses of a deleted Service are kept for one of the same namespace and name; others get them before only if nothing else is free; 0 keeps none")
	fl.DurationVar(&f.lease, "lease-duration", 3*time.Second, "how long a controller at work that is not heard of stays the one at work")
	f.hook.add(fl)
	ignored(fl, []string{"webhook-http2"}, nil)
	return cmd
}

// The values of --pool-edits.
const (
	editsMove  = "move"
	editsGuard = "guard"
)

// check refuses values that make no sense.
func (f *controllerFlags) check() error {
	switch {
	case f.poolEdits != editsMove && f.poolEdits != editsGuard:
		return fmt.Errorf("--pool-edits: %q is neither move nor guard", f.poolEdits)
	case f.retention < 0:
		return fmt.Errorf("--address-retention: %s is less than nothing", f.retention)
	case f.lease < time.Second:
		return fmt.Errorf("--lease-duration: %s is less than a second, in which no API server can be relied on to answer", f.lease)
	}
	return f.hook.check()
}

// identity returns the name of this process among the candidates. In a Pod it is the
// Pod's, so that a container that was restarted is at work again at once.
func (f *controllerFlags) identity() string {
	if f.podName != "" {
		return f.podName
	}
	host, err := os.Hostname()
	if err != nil {
		host = "controller"
	}
	return host + "-" + strings.ToLower(rand.Text()[:8])
}

func runController(ctx context.Context, f controllerFlags, log *slog.Logger) error {
	if err := f.check(); err != nil {
		return err
	}
	cluster, err := kube.Connect(kube.Options{
		Namespace: f.namespace, Component: "metallb-controller", PodName: f.podName, LoadBalancerClass: f.lbClass,
		Claims: true, Announcements: f.statusObjects, Log: log,
	})
	if err != nil {
		return err
	}
	if f.hook.mode == webhookOnly {
		return runWebhook(ctx, cluster, f, log)
	}
	l := leader{
		cluster: cluster, feed: cluster.Feed(), log: log, follows: make(chan struct{}), leads: make(chan struct{}),
		metrics: kube.NewClientMetrics(cluster.Registry(), kube.MetalLB), usage: &controller.Usage{},
		opts: controller.Options{GuardPools: f.poolEdits == editsGuard, Retention: f.retention, Announcements: f.statusObjects},
	}
	if err := cluster.Registry().Register(l.usage); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	identity := f.identity()
	log.Info("starting controller", "version", version(), "namespace", f.namespace, "identity", identity)

	tasks := task.New(log)
	ready := make(chan struct{})
	if err := serve(ctx, tasks, cluster, f.common, "", ready, nil); err != nil {
		return err
	}
	if f.hook.mode == webhookEnabled {
		if _, err := startWebhook(ctx, tasks, cluster, f, log); err != nil {
			return err
		}
	}
	tasks.Go(ctx, "readiness", func(ctx context.Context) error { return l.tellReady(ctx, ready) })
	if f.secretName != "" {
		tasks.Go(ctx, "memberlist secret", func(ctx context.Context) error {
			keepTrying(ctx, log, "make the speakers' secret", func(ctx context.Context) error {
				return cluster.EnsureMemberlistSecret(ctx, f.secretName, f.deployment)
			})
			<-ctx.Done()
			return nil
		})
	}
	tasks.Go(ctx, "watch", cluster.Run)
	tasks.Go(ctx, "feed", l.feed.Run)
	tasks.Go(ctx, "lead", func(ctx context.Context) error {
		return cluster.Lead(ctx, kube.LeadOptions{Identity: identity, Duration: f.lease, Standby: l.standby}, l.term)
	})
	return tasks.Wait(ctx)
}

// leader is what a controller is made of each time that this process is at work.
type leader struct {
	cluster *kube.Cluster
	feed    *kube.Feed
	log     *slog.Logger
	metrics *kube.ClientMetrics
	usage   *controller.Usage
	opts    controller.Options

	follow, lead sync.Once
	follows      chan struct{} // closed once another was found to be at work
	leads        chan struct{} // closed once we have seen to all Services
}

// standby is called when another process is at work.
func (l *leader) standby(other string) {
	l.log.Info("standing by", "leader", other)
	l.follow.Do(func() { close(l.follows) })
}

// tellReady closes ready once we know everything, and are at work or stand by.
func (l *leader) tellReady(ctx context.Context, ready chan<- struct{}) error {
	select {
	case <-ctx.Done():
	case <-l.feed.Ready():
		select {
		case <-ctx.Done():
		case <-l.follows:
			close(ready)
		case <-l.leads:
			close(ready)
		}
	}
	<-ctx.Done()
	return nil
}

// term allocates until ctx ends.
func (l *leader) term(ctx context.Context, held func() bool) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.feed.Ready():
	}
	keepTrying(ctx, l.log, "read what was given before us", l.cluster.CatchUp)
	former, err := l.cluster.FormerHolders(ctx)
	if err != nil {
		l.log.Warn("former holders are not known", "err", err)
	}
	writer, state := l.cluster.Writer(l.feed, held), l.cluster.StateWriter()
	c := controller.New(controller.Deps{
		Log: l.log, Options: l.opts, Feed: l.feed, Status: writer, State: state, Metrics: l.metrics, Usage: l.usage,
		Former: former,
	})
	tasks := task.New(l.log)
	tasks.Go(ctx, "status of services", writer.Run)
	tasks.Go(ctx, "status of configuration", state.Run)
	tasks.Go(ctx, "allocate", c.Run)
	go func() {
		select {
		case <-ctx.Done():
		case <-c.Ready():
			l.lead.Do(func() { close(l.leads) })
		}
	}()
	return tasks.Wait(ctx)
}

// keepTrying calls fn until it succeeds or ctx ends, with growing pauses.
func keepTrying(ctx context.Context, log *slog.Logger, what string, fn func(context.Context) error) {
	const longest = 30 * time.Second
	for pause := time.Second; ; pause = min(2*pause, longest) {
		err := fn(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Warn(what, "err", err) //nolint:sloglint // the caller's constant
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
