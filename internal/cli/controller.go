package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/barelb/barelb/internal/controller"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/task"
)

type controllerFlags struct {
	common
	secretName, deployment string
}

func controllerCommand(stderr io.Writer) *cobra.Command {
	var f controllerFlags
	cmd := &cobra.Command{
		Use: "controller", Short: "Give Services their addresses", Args: cobra.NoArgs,
		Long: `Gives Services of type LoadBalancer addresses from IPAddressPools. Run one per
cluster. It may stop at any time: what was given is announced nevertheless, and
adopted when it comes back.`,
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
	cmd.Flags().StringVar(&f.secretName, "ml-secret-name", env("METALLB_ML_SECRET_NAME", ""), "name of the Secret to make for the speakers, if it is not there (METALLB_ML_SECRET_NAME; default: none)")
	cmd.Flags().StringVar(&f.deployment, "deployment", env("METALLB_DEPLOYMENT", ""), "name of our own Deployment, the owner of that Secret (METALLB_DEPLOYMENT)")
	ignored(cmd.Flags(), []string{"disable-cert-rotation", "webhook-http2"},
		[]string{"cert-dir", "cert-service-name", "webhook-secret", "webhook-mode"})
	return cmd
}

func runController(ctx context.Context, f controllerFlags, log *slog.Logger) error {
	cluster, err := kube.Connect(kube.Options{
		Namespace: f.namespace, Component: "metallb-controller", PodName: f.podName, LoadBalancerClass: f.lbClass, Log: log,
	})
	if err != nil {
		return err
	}
	feed, writer, state := cluster.Feed(), cluster.Writer(), cluster.StateWriter()
	c := controller.New(controller.Deps{
		Log: log, Feed: feed, Status: writer, State: state, Events: cluster, Metrics: kube.NewClientMetrics(cluster.Registry()),
	})
	if err := cluster.Registry().Register(c); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	log.Info("starting controller", "version", version(), "namespace", f.namespace)

	tasks := task.New(log)
	if err := serve(ctx, tasks, cluster, f.common, "", c.Ready()); err != nil {
		return err
	}
	if f.secretName != "" {
		tasks.Go(ctx, "memberlist secret", func(ctx context.Context) error {
			keepTrying(ctx, log, "make the speakers' secret", func(ctx context.Context) error {
				return cluster.EnsureMemberlistSecret(ctx, f.secretName, f.deployment)
			})
			<-ctx.Done()
			return nil
		})
	}
	tasks.Go(ctx, "status of services", writer.Run)
	tasks.Go(ctx, "status of configuration", state.Run)
	tasks.Go(ctx, "watch", cluster.Run)
	tasks.Go(ctx, "feed", feed.Run)
	tasks.Go(ctx, "allocate", c.Run)
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
