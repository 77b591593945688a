package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/barelb/barelb/internal/bgp"
	core "github.com/barelb/barelb/internal/core/liveness"
	"github.com/barelb/barelb/internal/kube"
	"github.com/barelb/barelb/internal/link"
	"github.com/barelb/barelb/internal/liveness"
	"github.com/barelb/barelb/internal/speaker"
	"github.com/barelb/barelb/internal/task"
)

// newMembers returns the company of speakers, or nil if it is not asked for. told gets what
// other speakers say that they are about.
func newMembers(
	f speakerFlags, cluster *kube.Cluster, reg prometheus.Registerer, watcher *link.Watcher, exclude []*regexp.Regexp,
	told func(context.Context, string, []byte) error, log *slog.Logger,
) (*liveness.Runner, error) {
	if !f.meets() {
		log.Warn("speakers do not watch each other: without --ml-bindaddr and --ml-labels nobody takes over from a node that fails")
		return nil, nil //nolint:nilnil // no membership is no error
	}
	if f.mlBindPort < 1 || f.mlBindPort > 65535 {
		return nil, fmt.Errorf("--ml-bindport, METALLB_ML_BIND_PORT: must be between 1 and 65535")
	}
	method, err := probeMethod(f.probe)
	if err != nil {
		return nil, err
	}
	var secret []byte
	if f.mlSecretPath != "" {
		b, err := os.ReadFile(filepath.Join(f.mlSecretPath, "secretkey"))
		if err != nil {
			return nil, fmt.Errorf("--ml-secret-key-path: %w (the controller makes the Secret when it starts with --ml-secret-name)", err)
		}
		if len(b) == 0 {
			return nil, errors.New("--ml-secret-key-path: the file secretkey is empty; a speaker without the key would not be heard by the others, and hear none of them")
		}
		secret = b // all of it, as MetalLB takes it
	}
	return liveness.New(liveness.Config{
		NodeName: f.nodeName, BindAddr: f.mlBindAddr, BindPort: f.mlBindPort, Secret: secret, WAN: f.wan,
		Log: log, Speakers: cluster.Speakers, Tuning: f.mlTuning, Links: watcher, Exclude: exclude,
		Interval: f.interval, Multiplier: f.multiplier, CaretakerTimeout: f.caretakerTimeout, Probe: method,
		Told: told, Registerer: reg, Local: watcher.Local, Healed: cluster.Retry,
	}), nil
}

// meets reports whether this speaker meets the others at all.
func (f *speakerFlags) meets() bool { return f.mlBindAddr != "" && f.mlLabels != "" }

// fresh returns what says whether this process may answer, or nil: always.
func fresh(members *liveness.Runner) func() bool {
	if members == nil {
		return nil
	}
	return members.Fresh
}

// startMembers starts what concerns the company of speakers.
func startMembers(ctx context.Context, tasks *task.Group, members *liveness.Runner, feed *kube.Feed, log *slog.Logger) {
	tasks.Go(ctx, "members", members.Run)
	members.Serve(stateOfCluster, feed.Export)
	tasks.Go(ctx, "state from others", func(ctx context.Context) error { return learn(ctx, members, feed, log) })
}

// depart waits until the process shall end, and tells the other speakers and the routers
// what that is.
func depart(ctx context.Context, cluster *kube.Cluster, s *speaker.Speaker, routers *bgp.Speaker) error {
	<-ctx.Done()
	ctx = context.WithoutCancel(ctx)
	if leaving, why := cluster.Departure(ctx); leaving {
		routers.Depart(bgp.Departure{Leaving: true, Linger: bgpLinger, Reason: why})
		s.Leave(ctx, why)
	} else {
		s.Restart(ctx)
	}
	return nil
}

const (
	// stateOfCluster is what speakers ask each other for when they start without the API
	// server.
	stateOfCluster = "state"
	// learnAfter is how long a speaker that starts waits for the API server.
	learnAfter = 3 * time.Second
	learnAgain = time.Second
)

// learn gets the state of the cluster from another speaker if the API server does not give
// it: what is announced here shall not wait for that.
func learn(ctx context.Context, members *liveness.Runner, feed *kube.Feed, log *slog.Logger) error {
	for wait := learnAfter; ; wait = learnAgain {
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			<-ctx.Done()
			return nil
		case <-time.After(wait):
		}
		for name, n := range members.View().Nodes {
			if !n.Member || n.Facts == nil || n.Facts.Phase != core.Serving {
				continue
			}
			b, err := members.Fetch(ctx, name, stateOfCluster)
			if err == nil {
				err = feed.Import(b)
			}
			if err == nil {
				log.Warn("the API server does not answer: this speaker begins with what another one knows", "node", name)
				break
			}
			log.Debug("state of the cluster not learned", "node", name, "err", err)
		}
	}
}
