package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/barelb/barelb/internal/bfd"
	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/lb"
)

// The values of --graceful-restart.
const (
	gracefulPeer = "peer"
	gracefulOn   = "on"
)

// bgpLinger is how long a speaker that leaves waits for its withdrawals to be acted upon.
const bgpLinger = time.Second

// routers is BGP and the BFD that watches over its sessions, as one announcer.
type routers struct {
	bgp *bgp.Speaker
	bfd *bfd.Runner
	log *slog.Logger
}

func newRouters(cfg bgp.Config, reg prometheus.Registerer) (*routers, error) {
	r := &routers{bgp: bgp.New(cfg), log: cfg.Log}
	r.bfd = bfd.New(bfd.Config{Log: cfg.Log, OnChange: r.bgp.BFD})
	if err := errors.Join(reg.Register(r.bgp), reg.Register(r.bfd)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return r, nil
}

// Apply makes want the desired state of both.
func (r *routers) Apply(ctx context.Context, want lb.BGP) error {
	err := r.bgp.Apply(ctx, want)
	return errors.Join(err, r.bfd.Apply(ctx, r.bgp.Watched()))
}

// runBGP runs the BGP sessions.
func (r *routers) runBGP(ctx context.Context) error {
	tasks, running := errgroup.WithContext(ctx)
	tasks.Go(func() error { return r.bgp.Run(running) })
	tasks.Go(func() error { r.follow(running); return nil })
	return tasks.Wait() //nolint:wrapcheck // the task's own
}

// follow has BFD watch over routers that are found after their peer was applied.
func (r *routers) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.bgp.Changed():
			if err := r.bfd.Apply(ctx, r.bgp.Watched()); err != nil && ctx.Err() == nil {
				r.log.Error("apply bfd sessions", "err", err)
			}
		}
	}
}
