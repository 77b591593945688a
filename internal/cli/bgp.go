package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/barelb/barelb/internal/bfd"
	"github.com/barelb/barelb/internal/bgp"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
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
	// tell is told how all sessions are, when that changes; nil tells nobody.
	tell func([]kube.SessionState)
}

// bfdCommand is the command of the process that bfdProcess starts.
const bfdCommand = "bfd-process"

// bfdProcess returns the command that keeps BFD sessions in a process of its own: this
// program, also if its file was replaced meanwhile. Without --realtime there is none.
func (f *speakerFlags) bfdProcess() []string {
	if !f.realtime {
		return nil
	}
	return []string{"/proc/self/exe", bfdCommand}
}

func bfdProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use: bfdCommand, Short: "Run BFD for a speaker with --realtime, which starts this", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error { return bfd.Serve() },
	}
}

// newRouters returns both. BFD runs in a process of its own if there is a command.
func newRouters(cfg bgp.Config, process []string, reg prometheus.Registerer) (*routers, error) {
	r := &routers{bgp: bgp.New(cfg), log: cfg.Log}
	r.bfd = bfd.New(bfd.Config{Log: cfg.Log, OnChange: r.bgp.BFD, Process: process})
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

// follow has BFD watch over routers that are found after their peer was applied, and
// tells of changes.
func (r *routers) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.bfd.Changed():
		case <-r.bgp.Changed():
			if err := r.bfd.Apply(ctx, r.bgp.Watched()); err != nil && ctx.Err() == nil {
				r.log.Error("apply bfd sessions", "err", err)
			}
		}
		if r.tell != nil {
			r.tell(sessionStates(r.bgp.Status(), r.bfd.Status()))
		}
	}
}

// sessionStates puts together what is known of each BGP session.
func sessionStates(sessions []bgp.SessionStatus, watches []bfd.SessionStatus) []kube.SessionState {
	states := map[netip.Addr]string{}
	for i := range watches {
		states[watches[i].Key.Peer.WithZone("")] = watches[i].State.String()
	}
	all := make([]kube.SessionState, len(sessions))
	for i := range sessions {
		s, n := &sessions[i], &sessions[i].Negotiated
		all[i] = kube.SessionState{
			Peer: s.Peer, VRF: s.VRF, BGP: s.State, Since: s.Since, Message: s.LastError, LocalAddr: n.LocalAddr, RouterASN: n.RouterASN,
			RouterID: n.RouterID, HoldTime: n.HoldTime, Keepalive: n.Keepalive, GracefulRestart: n.GracefulRestart,
			Wanted: s.Wanted, Advertised: s.Advertised,
		}
		if s.Addr.IsValid() {
			all[i].Router, all[i].BFD = s.Addr.String(), states[s.Addr.WithZone("")]
		}
		if n.IPv4 {
			all[i].Families = append(all[i].Families, lb.IPv4)
		}
		if n.IPv6 {
			all[i].Families = append(all[i].Families, lb.IPv6)
		}
	}
	return all
}
